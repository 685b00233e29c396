"""Gaussian numbers at twice the speed of `jax.random.normal`."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Float, Key


def normal(
    key: Key[Array, ""], shape: tuple[int, ...], dtype: Any = float
) -> Float[Array, "*shape"]:
    """Independent N(0, 1) numbers, decided by the key, the shape and the dtype.

    In float32 both words of every block of the cipher are used, where `jax.random.normal`
    discards one. Other dtypes, other kinds of key, and arrays of 2³¹ numbers or more use
    `jax.random.normal`.

    Accuracy
    --------
    23 bits for each number, as in `jax.random.normal`: symmetric, and never beyond 5.3.

    References
    ----------
    Salmon et al. 2011 (Threefry, a cipher in counter mode).
    """
    size = math.prod(shape)
    counted = jnp.dtype(dtype) == jnp.float32 and size < 2**31
    if not counted or str(jax.random.key_impl(key)) != "threefry2x32":
        return jax.random.normal(key, shape, dtype)
    bits = threefry_2x32(jax.random.key_data(key), jnp.arange(size, dtype=jnp.uint32))
    # Odd multiples of 2⁻²³, all between −1 and 1.
    odd = 2 * (bits >> 9).astype(jnp.int32) - (2**23 - 1)
    uniform = odd.astype(jnp.float32) * jnp.float32(2.0**-23)
    return (jnp.float32(math.sqrt(2)) * jax.lax.erf_inv(uniform)).reshape(shape)
