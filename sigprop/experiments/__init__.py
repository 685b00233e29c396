"""Training studies: descriptions as trainable networks, trained in ensembles that resume.

This is the only part of sigprop that needs optax, flax and orbax: `pip install sigprop[train]`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
