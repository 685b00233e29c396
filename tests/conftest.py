"""The JAX configuration of the tests; the library itself never sets any."""

import gc
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Matrices here are small: a second thread of BLAS waits more than it works.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Most programs of a test run once: these options compile them in two thirds of the time. Other
# versions of XLA end the process at an option that they do not know, as that of jaxlib 0.12 does.
if version("jaxlib").startswith("0.10."):
    os.environ.setdefault(
        "XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=2"
    )

import jax
import pytest

jax.config.update("jax_enable_x64", True)
# Tracing makes many objects that live: with the default the collector walks all of them often.
gc.set_threshold(100_000, 20, 50)
# A program is compiled once for all modules, workers and commands of a run.
_CACHE = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _CACHE = tempfile.mkdtemp(prefix="sigprop-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
    jax.config.update("jax_compilation_cache_dir", _CACHE)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
# An implicit promotion of dtypes or ranks is a mistake until shown otherwise.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_sessionfinish():
    """Workers find the folder of the process that began the run, which removes it."""
    if _CACHE is not None:
        shutil.rmtree(_CACHE, ignore_errors=True)


_MAPS = Path("/proc/self/maps")


@pytest.fixture(autouse=True, scope="module")
def compiled_code_is_freed():
    """Each program holds several memory maps, of which Linux grants a process 65530.

    Until they are many, programs stay: later modules run a fifth of them again.
    """
    yield
    if _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > 15_000:
        jax.clear_caches()


_PRECISION = "jax_default_matmul_precision"
_AS_IT_WAS = getattr(jax.config, _PRECISION)


@pytest.fixture(autouse=True)
def precision_of_products_is_restored():
    """Commands set it for their process; addresses and provenance depend on it."""
    jax.config.update(_PRECISION, _AS_IT_WAS)
    yield
    jax.config.update(_PRECISION, _AS_IT_WAS)


@pytest.fixture(autouse=True)
def commands_are_patient(monkeypatch):
    """What they print does not depend on how busy the machine is."""
    monkeypatch.setattr("sigprop.commands._output._PATIENCE", 3600.0)


@pytest.fixture
def standard_promotion():
    """JAX's ordinary dtype promotion, which optax's Adam needs."""
    with jax.numpy_dtype_promotion("standard"):
        yield
