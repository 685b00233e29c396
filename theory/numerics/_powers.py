"""Powers of two, which scale numbers without rounding.

Squares and products of numbers far from 1 overflow or underflow long before the numbers do. Once
the largest is near 1, nothing that matters is lost.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from theory.numerics._arrays import Array, traced, xp

INTEGERS: dict[int, Any] = {2: jnp.int16, 4: jnp.int32, 8: jnp.int64}


def exponent(x: Float[Array, "*shape"]) -> Int[Array, "*shape"]:
    """⌊log₂|x|⌋, clipped to the range of normal numbers; the lowest for 0. No derivative."""
    info = jnp.finfo(x.dtype)
    if not traced(x):
        found = np.frexp(np.where(np.isfinite(x), x, np.inf))[1] - 1
        found = np.where(np.isfinite(x), found, info.maxexp - 1)
        return xp.where(x == 0, 2 - info.maxexp, np.clip(found, 2 - info.maxexp, info.maxexp - 1))
    kind = INTEGERS[x.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(jnp.abs(x)), kind)
    found = jax.lax.shift_right_logical(bits, jnp.full_like(bits, info.nmant))
    return jnp.clip(found.astype(jnp.int32), 1, 2 * info.maxexp - 2) - (info.maxexp - 1)


def largest_exponent(x: Float[Array, "..."], axis: Any) -> Int[Array, "..."]:
    """`exponent` of the largest |x| along axes, which are kept with length 1."""
    return exponent(xp.max(xp.abs(x), axis=axis, keepdims=True))


def times_power(x: Float[Array, "*shape"], power: Int[Array, "..."]) -> Float[Array, "*shape"]:
    """x 2ᵖ in two steps, neither of which overflows unless the result does.

    |p| is at most twice the largest `exponent`.
    """
    if not traced(x, power):
        return xp.ldexp(x, power)
    half = power // 2
    return x * _power(half, x.dtype) * _power(power - half, x.dtype)


def norm(x: Float[Array, "..."], axis: Any) -> Float[Array, "..."]:
    """√Σ x² along axes, correct whenever the result is a normal number."""
    power = largest_exponent(x, axis)
    unit = times_power(x, -power)
    root = xp.sqrt(xp.sum(unit * unit, axis=axis, keepdims=True))
    return xp.squeeze(times_power(root, power), axis)


def _power(p: Array, dtype: Any) -> Array:
    info = jnp.finfo(dtype)
    kind = INTEGERS[jnp.dtype(dtype).itemsize]
    biased = (p + (info.maxexp - 1)).astype(kind)
    bits = jax.lax.shift_left(biased, jnp.full_like(biased, info.nmant))
    return jax.lax.bitcast_convert_type(bits, dtype)
