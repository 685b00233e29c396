"""Networks over a grid of parameters, stored and resumed; plans for such runs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
