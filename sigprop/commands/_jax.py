"""The configuration of JAX in this program."""

import os
from pathlib import Path
from typing import Any

PRECISION = "highest"
"""Precision of every matrix product."""


def set_up() -> None:
    """Configure JAX for this program.

    It uses float64, full precision in matrix products, and a cache of compiled programs in the
    user's cache folder.
    """
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
"""Size of the cache in bytes; the least recently used programs are removed first."""
