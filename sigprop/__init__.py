"""Finite random networks drawn from a description, and their comparison with theory.

`sample_ensemble` draws networks of one width, `compare` holds several widths against
`theory.propagate`, `sample_jacobians` measures singular values.
"""

from importlib.metadata import version

import lazy_loader

# Names are listed in __init__.pyi and imported when they are used: the command line answers
# help and mistakes without JAX.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("sigprop")
del version
