"""Singular values and exponents of finite networks, and the modes that symmetry protects."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
