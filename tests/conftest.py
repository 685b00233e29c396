"""The JAX configuration of the tests; the library itself never sets any."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_enable_x64", True)
# An implicit promotion of dtypes or ranks is a mistake until shown otherwise.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="module")
def compiled_code_is_freed():
    """Each program holds several memory maps, of which Linux grants a process 65530."""
    yield
    jax.clear_caches()


_PRECISION = "jax_default_matmul_precision"
_AS_IT_WAS = getattr(jax.config, _PRECISION)


@pytest.fixture(autouse=True)
def precision_of_products_is_restored():
    """Commands set it for their process; addresses and provenance depend on it."""
    jax.config.update(_PRECISION, _AS_IT_WAS)
    yield
    jax.config.update(_PRECISION, _AS_IT_WAS)


@pytest.fixture
def standard_promotion():
    """JAX's ordinary dtype promotion, which optax's Adam needs."""
    with jax.numpy_dtype_promotion("standard"):
        yield
