"""Finite random networks drawn from a description, and their comparison with theory.

`sample_ensemble` draws networks of one width, `compare` compares several widths with
`theory.propagate`, and `sample_jacobians` measures singular values.
"""

from importlib.metadata import version

import lazy_loader

# Names are listed in __init__.pyi and imported on first use: the command line shows help and
# reports mistakes without loading JAX.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("sigprop")
del version
