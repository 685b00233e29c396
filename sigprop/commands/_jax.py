"""The configuration of JAX in this program."""

import os
from pathlib import Path
from typing import Any

from sigprop.commands import _output as out

PRECISION = "highest"
"""Of every matrix product."""


def set_up() -> None:
    """The configuration of JAX in this program: float64, matrix products in full, and programs
    that were compiled before read from the user's cache folder.
    """
    out.note("loading JAX; what is not in the cache of compiled programs is compiled first")
    import jax

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", PRECISION)
    folder = os.environ.get(CACHE, "")
    known: Any = jax.config
    if folder == "off" or known.jax_compilation_cache_dir is not None:
        return
    import platformdirs

    folder = folder or platformdirs.user_cache_dir("sigprop", appauthor=False)
    jax.config.update("jax_compilation_cache_dir", str(Path(folder) / "programs"))
    jax.config.update("jax_compilation_cache_max_size", _CACHE_SIZE)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


CACHE = "SIGPROP_CACHE"
"""The environment variable with another folder for compiled programs, or "off"."""
_CACHE_SIZE = 2**29
"""Bytes; what was not used for longest then goes."""
