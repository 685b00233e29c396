"""Fixed points of the length map of one turn of a network: all of them, and the one reached.

Notation: q length, h(y) = log(q'/q) at y = log q, λ = dq'/dq, χ slope.
"""

import enum

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from theory._architecture import Part
from theory._fixed_point import LengthPoint
from theory._moment_integrals import frozen
from theory._precision import needs_float64
from theory._roots import root_between_nodes
from theory._status import Estimate, Status, as_estimate, choose, replace_where
from theory._survey import Survey, along_length, log_growth, survey

_SLOTS = 4


class Stability(enum.IntEnum):
    """What happens to a length close to a fixed point."""

    STABLE = 0
    UNSTABLE = 1
    HALF_STABLE = 2
    """Attracts from one side only: a double root."""
    NEUTRAL = 3
    """Every length nearby is a fixed point too (relu at σ_w² = 2)."""
    ABSENT = 4
    UNKNOWN = 5
    """The error of λ leaves it open."""


def _length_point(body, seen: Survey, y, width, tolerance, order) -> LengthPoint:
    q = jnp.exp(y)
    turn, local, along = along_length(body, q, order)
    rate = along.length
    # |δq| = (error of the map + residual)/|1 − λ|, and never more than the bracket.
    residual = local.length + jnp.abs(turn.length - q)
    error = jnp.minimum(residual / jnp.abs(1 - rate), q * jnp.expm1(width))
    error = jnp.where(local.length < 1e-6 * q, error, jnp.inf)
    rate_error = seen.change(seen.multiplier, y) * error / q + local.length / q
    slope_error = local.slope + seen.change(seen.slope, y) * error / q
    error, rate_error, slope_error = frozen((error, rate_error, slope_error))
    return LengthPoint(
        as_estimate(q, error, tolerance),
        as_estimate(rate, rate_error, tolerance),
        as_estimate(turn.slope, slope_error, tolerance),
    )


class FixedPoints(eqx.Module):
    """All fixed points of the length map, shortest first; unused places are ABSENT."""

    length: Estimate
    multiplier: Estimate
    slope: Estimate
    stability: Int[Array, " slots"]
    """`Stability` of each."""
    divergent: Bool[Array, ""]
    """Whether lengths beyond the last fixed point grow without bound."""


@eqx.filter_jit
def fixed_points(body: Part, *, tolerance: float = 1e-10, order: int = 64) -> FixedPoints:
    """All fixed points of the length map of one turn, with their stability.

    Parameters
    ----------
    body
        What is repeated: from pre-activations to pre-activations.
    tolerance
        Relative error beyond which a value is INACCURATE.
    order
        Nodes per panel of the quadrature.

    Returns
    -------
    FixedPoints
        Places for the zero fixed point and four others between 1e-30 and 1e6. Where every
        length is a fixed point, only the zero one is listed, as NEUTRAL.

    Accuracy
    --------
    The error of q* is that of the map over |1 − λ|, and at most the bracket in which h
    changes sign. Two roots are told apart down to where h between them is within its error
    of zero; then they are one HALF_STABLE point.
    """
    needs_float64("fixed_points")
    seen = survey(body, order=order)
    up = seen.growth > 0
    zero_in_sight = jnp.abs(seen.growth) <= seen.noise
    flat = zero_in_sight[:-1] & zero_in_sight[1:]
    touch = zero_in_sight & (seen.y == seen.touching)
    crossing = (up[:-1] != up[1:]) & ~touch[:-1] & ~touch[1:]
    crossing = (crossing | touch[1:]) & ~flat
    (where,) = jnp.nonzero(crossing, size=_SLOTS, fill_value=-1)

    def at(i):
        present, half = i >= 0, touch[i + 1]
        h = lambda y, body: log_growth(y, body, order)
        y, width = root_between_nodes(h, body, seen.y, seen.growth, seen.rate, i, present & ~half)
        y = jnp.where(half, seen.y[i + 1], y)
        point = _length_point(body, seen, y, width, tolerance, order)
        steady = jnp.abs(point.multiplier.value) < 1
        stability = jnp.where(steady, Stability.STABLE, Stability.UNSTABLE)
        stability = jnp.where(half, Stability.HALF_STABLE, stability)
        return point, present, stability

    points = jax.vmap(at)(where)
    joined = jax.tree.map(jnp.append, _zero_point(seen, tolerance), points)
    rank = jnp.argsort(~joined[1], stable=True)
    point, present, stability = jax.tree.map(lambda a: a[rank], joined)
    point = replace_where(~present, Status.ABSENT, point)
    return FixedPoints(
        point.length,
        point.multiplier,
        point.slope,
        jnp.where(present, stability, Stability.ABSENT).astype(jnp.int8),
        up[-1] & ~zero_in_sight[-1],
    )


def _zero_point(seen: Survey, tolerance: float) -> tuple[LengthPoint, Array, Array]:
    """The fixed point q* = 0, whether the map has it, and its stability."""
    rate = seen.multiplier[0]
    zero = jnp.zeros_like(rate)
    # The map is a power of the shortest lengths (1, or more where φ'(0) = 0, down to underflow)
    # or a constant (power 0).
    power = rate * jnp.exp(-seen.growth[0])
    point = LengthPoint(
        as_estimate(zero, zero, tolerance),
        as_estimate(jnp.where(power > 1.5, 0.0, rate), rate * seen.noise[0], tolerance),
        as_estimate(seen.slope[0], seen.slope_error[0], tolerance),
    )
    there = ~(power <= 0.5) & ~jnp.isnan(seen.growth[0])
    # At λ = 1 the first growth that can be told from zero decides.
    told = jnp.abs(seen.growth) > seen.noise
    first = jnp.argmax(told)
    falls = jnp.where(seen.growth[first] < 0, Stability.STABLE, Stability.UNSTABLE)
    return point, there, jnp.where(told[first], falls, Stability.NEUTRAL)


class Attractor(eqx.Module):
    """Where the length of a typical input goes."""

    point: LengthPoint
    divergent: Bool[Array, "*batch"]


def attractor(
    body: Part, *, start: float = 1.0, tolerance: float = 1e-10, order: int = 64
) -> Attractor:
    """The stable fixed point of the length map that is reached from length `start`.

    Where the length grows without bound, `divergent` is true, the length is INFINITE, and
    multiplier and slope are those at length 1e6, with the change since the node before as
    their error.
    """
    seen = survey(body, order=order)
    y0 = jnp.log(jnp.asarray(start, seen.y.dtype))
    h0 = log_growth(y0, frozen(body), order)
    zero_in_sight = jnp.abs(seen.growth) <= seen.noise
    up = (seen.growth > 0) & ~zero_in_sight
    # Attracting brackets: h from positive to negative. The direction at the start says which.
    falls = up[:-1] & ~up[1:]
    here = jnp.clip(jnp.searchsorted(seen.y, y0, side="right") - 1, 0, seen.y.size - 2)
    stays = zero_in_sight[here] & zero_in_sight[here + 1]
    rising = h0 > 0
    index = jnp.arange(falls.size, dtype=here.dtype)
    above = falls & ((index > here) | ((index == here) & rising))
    below = falls & ((index < here) | ((index == here) & ~rising))
    i = jnp.where(rising, jnp.argmax(above), falls.size - 1 - jnp.argmax(below[::-1]))
    present = jnp.where(rising, jnp.any(above), jnp.any(below)) & ~stays
    divergent = rising & ~present & ~stays
    to_zero = ~rising & ~present & ~stays

    h = lambda y, body: log_growth(y, body, order)
    y, width = root_between_nodes(h, body, seen.y, seen.growth, seen.rate, i, present)
    y = jnp.where(present, y, y0)
    width = jnp.where(present, width, 0.0)
    point = _length_point(body, seen, y, width, tolerance, order)
    point = choose(to_zero, _zero_point(seen, tolerance)[0], point)

    def limit(values):
        return as_estimate(values[-1], jnp.abs(values[-1] - values[-2]), tolerance)

    far = LengthPoint(point.length, limit(seen.multiplier), limit(seen.slope))
    point = choose(divergent, far, point)
    infinite = replace_where(divergent, Status.INFINITE, point.length)
    return Attractor(LengthPoint(infinite, point.multiplier, point.slope), divergent)
