"""Whether the numbers of a finite network keep their digits.

Most processors treat numbers below the smallest normal one as zero, and a mean over terms close to
it has lost digits. Squares do not bring signals that low, since they are computed after division
by powers of two; many layers that shrink signals do, or a single steep one.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from theory import Moments, Status, distance, length
from theory.description import Radial
from theory.numerics import INTEGERS, exponent, largest_exponent, times_power


def in_range(x: Float[Array, "n *shape"]) -> tuple[Array, Float[Array, " n"]]:
    """Signals divided by a power of two, and the log of its square.

    The power is 1 unless squares might overflow or underflow.
    """
    if x.size == 0:
        return x, jnp.zeros(len(x), x.dtype)
    power = largest_exponent(x, tuple(range(1, x.ndim)))
    power = jnp.where(jnp.abs(power) < jnp.finfo(x.dtype).maxexp // 8, 0, power)
    log = 2 * math.log(2) * power.reshape(len(x)).astype(x.dtype)
    return times_power(x, -power), jnp.where(jnp.any(x != 0, axis=tuple(range(1, x.ndim))), log, 0)


def fallen(before: Array, after: Array, exactly: Any = False) -> Bool[Array, " n"]:
    """Where nonzero signals have come so close to the smallest normal number that terms underflow.

    Zeros count unless they are declared exact.
    """
    if before.size == 0:
        return jnp.zeros(len(before), bool)
    info, axes = jnp.finfo(after.dtype), tuple(range(1, after.ndim))
    largest = jnp.max(jnp.abs(after), axis=axes)
    low = largest < float(info.tiny) * after[0].size / float(info.eps)
    was = jnp.any(before != 0, axis=axes)
    return was & low & ~((largest == 0) & exactly)


def vanishes(activation: Any, values: Float[Array, "n width k"]) -> Bool[Array, " n"]:
    """Whether φ is zero at signals even if they are stretched as far as its kinks allow.

    Zeros of φ then belong to a plateau, and are not powers that underflow.
    """
    some = values[:, :64]
    near = [jnp.abs(jnp.asarray(x, values.dtype)) for x in places(activation)]
    near = [jnp.where(x > 0, x, 1) for x in near] or [jnp.ones((), values.dtype)]
    room = jnp.min(jnp.stack(near)) / (2 * math.sqrt(values.shape[2]))
    outwards = jnp.maximum(exponent(room) - largest_exponent(some, (1, 2)), 0)
    return jnp.all(activation(times_power(some, outwards)) == 0, axis=(1, 2))


def underflown_slopes(activation: Any, values: Float[Array, "n width k"]) -> Bool[Array, " n"]:
    """Whether a slope of φ is zero because it underflows.

    On a plateau the slope is zero from the kink on; elsewhere it is nonzero just beyond the kink.
    """
    if isinstance(activation, Radial):
        fn, z = activation.profile, jnp.linalg.norm(values, axis=-1)
    else:
        fn, z = activation.fn, values
    size, nearest = jnp.abs(z), jnp.zeros_like(z)
    for kink in places(activation):
        place = jnp.abs(jnp.asarray(kink, z.dtype))
        nearest = jnp.where(place <= size, jnp.maximum(nearest, place), nearest)
    inner = jnp.sign(z) * (nearest + jnp.minimum(size - nearest, activation.scale) / 2)
    slope = lambda z: jax.jvp(fn, (z,), (jnp.ones_like(z),))[1]
    gone = (slope(z) == 0) & (slope(inner) != 0) & (size > nearest)
    return jnp.any(gone, axis=tuple(range(1, gone.ndim)))


def places(activation: Any) -> tuple[Any, ...]:
    """Where an activation or a derivative of it jumps."""
    return getattr(activation, "places", activation.kinks)


def layer_status(
    values: Array, moments: Moments, lost: Bool[Array, " n"]
) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """The status of the moments of a layer: of the signals, and of the tangents."""
    info = jnp.finfo(values.dtype)
    tiny, eps = float(info.tiny), float(info.eps)
    own = jnp.sqrt(length(moments))
    there = jnp.any(values != 0, axis=(1, 2))
    rows, columns = np.triu_indices(len(there), 1)
    apart = jnp.any(values[rows] != values[columns], axis=(1, 2))
    unlike = jnp.zeros((len(there),) * 2, bool).at[rows, columns].set(apart)

    def flushed(matrix: Array, size: Array, of: Array) -> Array:
        below = jnp.any(jnp.abs(matrix) < tiny, axis=(-2, -1))
        return jnp.any(of & below & (eps * size < tiny))

    gone = flushed(moments.covariance, own[:, None] * own[None], there[:, None] & there[None])
    gone |= flushed(moments.separation, distance(moments), unlike)
    signals = (moments.covariance, moments.separation)
    return (
        _status(gone | jnp.any(lost), *signals),
        _status(jnp.any(lost), moments.tangent, moments.log_gain),
    )


def _status(gone: Array, *numbers: Array) -> Int[Array, ""]:
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in numbers]))
    known = jnp.where(gone, jnp.int8(Status.INACCURATE), jnp.int8(Status.OK))
    return jnp.where(finite, known, jnp.int8(Status.INVALID))


def subnormal(inputs: Float[Array, "n width k"]) -> Bool[Array, " n"]:
    """Inputs below the smallest normal number, which processors treat as zero."""
    small = jnp.abs(inputs) < float(jnp.finfo(inputs.dtype).tiny)
    zero = jax.lax.bitcast_convert_type(inputs, INTEGERS[inputs.dtype.itemsize]) << 1 == 0
    return jnp.all(small, axis=(1, 2)) & ~jnp.all(zero, axis=(1, 2))


def gradient_growths(logs: Float[Array, "layers n"], lost: Bool[Array, ""]) -> tuple[Array, Array]:
    """The growth of gradients from its logs, and its status; NaN after a gradient of zero."""
    dead = jax.lax.cummax(jnp.isneginf(logs).astype(jnp.int8), axis=0, reverse=True)[1:] > 0
    growth = jnp.where(dead, jnp.nan, jnp.exp(logs[:-1]))
    small = jnp.any(growth < float(jnp.finfo(logs.dtype).tiny), axis=1)
    found = jnp.where(lost | small, jnp.int8(Status.INACCURATE), jnp.int8(Status.OK))
    finite = jnp.all(jnp.isfinite(growth), axis=1)
    return growth, jnp.where(finite, found, jnp.int8(Status.INVALID))
