"""Checks of arguments that only finite networks have; see `theory.numerics._arguments`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theory.numerics import check_count, check_flag, shown


def check_key(name: str, key: Any) -> None:
    """Raise a `TypeError` that names the argument unless it is a key of `jax.random`."""
    if isinstance(key, jax.Array | np.ndarray):
        words = key.dtype == jnp.uint32 and key.ndim > 0
        if words or jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            return
    raise TypeError(f"`{name}`: must be a key, such as jax.random.key(0); got {shown(key)}")


def check_seed(seed: Any) -> None:
    """Raise a `ValueError` unless it can be a seed."""
    check_count("seed", seed, 0, 2**32 - 1)


def check_precision(precision: Any) -> None:
    """Raise a `ValueError` unless it is a precision of matrix products in JAX."""
    try:
        known = _is_precision(precision)
    except TypeError:  # unhashable, so not a precision
        known = False
    if not known:
        raise ValueError(
            "`precision`: must be one of matrix products in JAX, such as highest, high or "
            f"default; got {shown(precision)}"
        )


@functools.cache
def _is_precision(precision: Any) -> bool:
    one = jax.ShapeDtypeStruct((1, 1), jnp.float32)
    try:
        jax.eval_shape(lambda a: jnp.matmul(a, a, precision=precision), one)
    except (TypeError, ValueError):
        return False
    return True


def check_explicit(explicit_weights: Any) -> None:
    """Raise a `ValueError` unless it is True, False or None."""
    if explicit_weights is not None:
        check_flag("explicit_weights", explicit_weights)
