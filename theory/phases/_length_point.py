"""Fixed points of the length map of one layer of a network.

Notation: q length, h(y) = log(q'/q) at y = log q, λ = dq'/dq, χ slope.
"""

import enum
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Int

from theory.description import Part, check_layer, directly
from theory.gaussian import frozen
from theory.numerics import (
    Array,
    Estimate,
    Status,
    as_estimate,
    check_order,
    check_positive,
    choose,
    each,
    first_places,
    needs_float64,
    replace_where,
    root_between_nodes,
    xp,
)
from theory.phases._length_grid import (
    LengthGrid,
    along_length,
    error_of_rate,
    length_grid,
    log_growth,
)
from theory.phases._one_layer import LengthPoint

_SLOTS = 4
_TAIL = float(np.log(1e5))
"""The y beyond which the growth of lengths may vanish in rounding."""


class Stability(enum.IntEnum):
    """What happens to a length close to a fixed point."""

    STABLE = 0
    UNSTABLE = 1
    """Lengths leave it: λ > 1, or λ < −1, where they alternate around it ever further away."""
    HALF_STABLE = 2
    """Attracts from one side only: a double root."""
    NEUTRAL = 3
    """Every length nearby is a fixed point too (relu at σ_w² = 2)."""
    ABSENT = 4
    UNKNOWN = 5
    """The error of λ leaves it undecided."""


def root_at(body: Part, seen: LengthGrid, i: Array, present: Array, order: int) -> Array:
    """The y of the fixed point between the nodes i and i + 1, or of a node that touches zero."""
    h = lambda y, body: log_growth(y, body, order)
    half = seen.touches[i] | seen.touches[i + 1]
    nodes = (seen.y, seen.growth, seen.rate)
    flat = seen.in_sight[i] & seen.in_sight[i + 1]
    y, _ = root_between_nodes(h, body, *nodes, i, present & ~half & ~flat)
    return xp.where(half, seen.touching, y)


class Reach(eqx.Module):
    """Where a fixed point can be."""

    low: Array
    high: Array
    """The range of y that certainly contains it, however small its own error."""
    doubt_low: Array
    doubt_high: Array
    """The range of y that may contain it, whatever its own error."""


def bracket_of(seen: LengthGrid, i: Array, y: Array) -> Reach:
    """The nodes around i and i + 1 between which h certainly changes sign."""
    index, up = xp.arange(seen.y.size), seen.growth > 0
    left = seen.sure & (up == up[i]) & (index <= i)
    right = seen.sure & (up == up[i + 1]) & (index > i)
    low = xp.max(xp.where(left, seen.y, -xp.inf))
    return Reach(low, xp.min(xp.where(right, seen.y, xp.inf)), y, y)


def point_at(
    body: Part,
    seen: LengthGrid,
    y: Array,
    reach: Reach,
    *,
    zero: Array,
    half: Array,
    tolerance: Any,
    order: int,
) -> LengthPoint:
    """The fixed point at q* = e^y; where `zero`, it is q* = 0 and y is the first node."""
    q = xp.exp(y)
    layer, local, along = along_length(body, q, order)
    rate = along.length
    noise = local.length / q
    local_rate = error_of_rate(layer, local, q)

    # |δy| = (error of h + residual)/|dh/dy|, if the curvature of h allows only one root there.
    miss = noise + xp.abs(xp.log(layer.length / q)) + 2 * np.finfo(q.dtype).eps
    pull = xp.maximum(xp.abs(1 - rate) - local_rate, 0.0)
    bend, _ = seen.steepness(y)
    left = pull**2 - 2 * bend * miss
    first = xp.where(left > 0, 2 * miss / (pull + xp.sqrt(xp.maximum(left, 0.0))), xp.inf)
    first = xp.where(half, 4 * xp.sqrt(miss / bend), first)
    high = xp.maximum(xp.minimum(y + first, reach.high), reach.doubt_high)
    low = xp.minimum(xp.maximum(y - first, reach.low), reach.doubt_low)
    high, low = xp.where(zero, xp.maximum(reach.high, y), high), xp.where(zero, y, low)
    # The point's own error may be below the spacing of y, and must not vanish next to it.
    own = xp.minimum(first, xp.maximum(high - y, y - low) + np.finfo(q.dtype).eps * xp.abs(y))
    wide = xp.maximum(xp.expm1(high - y), -xp.expm1(low - y))
    exact = (reach.low == y) & (reach.high == y)
    error = q * xp.where(exact, wide, xp.maximum(wide, own))
    error = xp.where(zero, xp.exp(high), error)
    error = xp.where((high >= seen.y[-1]) | xp.isnan(miss), xp.inf, error)
    rate_spread, slope_spread = seen.spread(y, low, high)
    # The shortest length differs from 0 by less than the next one differs from it.
    first_step = lambda values: xp.nan_to_num(xp.abs(values[1] - values[0]))
    to_zero = lambda values: xp.where(zero, first_step(values), 0.0)
    rate_error = local_rate + rate_spread + to_zero(seen.multiplier)
    slope_error = local.slope + slope_spread + to_zero(seen.slope)

    # Near 0, q* is the map's value at 0, over 1 − λ: zero, but with derivatives.
    gap = xp.where(zero, 1 - frozen(rate), 1.0)
    gap = xp.where(gap == 0, np.finfo(q.dtype).tiny, gap)
    moved = xp.where(zero, (layer.length - frozen(layer.length)) / gap, 0.0)
    slope = layer.slope + seen.drift(seen.slope) * moved
    # The map is a power of the shortest lengths: 1, or more if φ'(0) = 0, down to underflow.
    power = zero & (_power(seen) > 1.5)
    rate = xp.where(power, 0.0, rate + seen.drift(seen.multiplier) * moved)
    rate_error = xp.where(power, 0.0, rate_error)
    error, rate_error, slope_error = frozen((error, rate_error, slope_error))
    return LengthPoint(
        as_estimate(xp.where(zero, moved + 0.0, q), error, tolerance, xp.where(zero, 1.0, q)),
        as_estimate(rate, rate_error, tolerance),
        as_estimate(slope, slope_error, tolerance),
    )


def _power(seen: LengthGrid) -> Array:
    """The power of q in the map at the shortest lengths; 0 if the map is constant there."""
    return seen.multiplier[0] * xp.exp(-seen.growth[0])


def zero_point(seen: LengthGrid) -> tuple[Array, Array, Reach]:
    """Whether q* = 0 is a fixed point, its stability, and the lengths that agree with it.

    These are the lengths that errors do not distinguish from 0.
    """
    there = ~(_power(seen) <= 0.5) & ~xp.isnan(seen.growth[0])
    # At λ = 1 the first growth that is significantly nonzero decides.
    first, told = xp.argmax(seen.sure), xp.any(seen.sure)
    falls = xp.where(seen.growth[first] < 0, Stability.STABLE, Stability.UNSTABLE)
    high = seen.y[xp.where(told, first, 0)]
    return there, xp.where(told, falls, Stability.NEUTRAL), Reach(seen.y[0], high, high, high)


class FixedPoints(eqx.Module):
    """All fixed points of the length map, shortest first; unused places are ABSENT."""

    length: Estimate
    multiplier: Estimate
    slope: Estimate
    stability: Int[Array, " slots"]
    """`Stability` of each."""
    divergent: Bool[Array, ""]
    """Whether lengths beyond the last fixed point grow without bound, within errors."""


def fixed_points(layer: Part, *, tolerance: Any = 1e-10, order: int = 64) -> FixedPoints:
    """All fixed points of the length map of one layer, with their stability.

    Parameters
    ----------
    layer
        The layer that is repeated, from pre-activations to pre-activations.
    tolerance
        Relative error beyond which a value is INACCURATE.
    order
        Nodes per panel of the quadrature, from 8 to 1024.

    Returns
    -------
    FixedPoints
        Places for the zero fixed point and four others between 1e-30 and 1e30. If every length
        is a fixed point, only the zero one is listed, as NEUTRAL.

    Raises
    ------
    ValueError
        If `tolerance` is not above 0, or `order` out of range; if `layer` is a whole network; if
        JAX has no float64.
    TypeError
        If the layer does not map pre-activations to pre-activations.

    Accuracy
    --------
    The error of q* is that of the map over |1 − λ|, and at most the bracket in which h certainly
    changes sign. Two roots are separated unless h between them is within its error of zero; then
    they are reported as one HALF_STABLE point.
    """
    needs_float64("fixed_points")
    check_layer(layer)
    check_positive("tolerance", tolerance)
    check_order(order)
    return _fixed_points(layer, tolerance, order)


@directly
def _fixed_points(body, tolerance, order) -> FixedPoints:
    seen = length_grid(body, order=order)
    end = runs_away(seen)
    up, touch, in_sight = seen.growth > 0, seen.touches, seen.in_sight
    flat = in_sight[:-1] & in_sight[1:]
    crossing = (up[:-1] != up[1:]) & ~touch[:-1] & ~touch[1:]
    crossing = (crossing | touch[1:]) & ~flat & ~xp.isnan(seen.growth[:-1] + seen.growth[1:])
    places = first_places(crossing, _SLOTS)
    zero_there, zero_stability, zero_reach = zero_point(seen)

    def at(i, zero):
        present, half = i >= 0, touch[i + 1] & ~zero
        y = xp.where(zero, seen.y[0], root_at(body, seen, i, present, order))
        reach = choose(zero, zero_reach, bracket_of(seen, i, y))
        kinds = {"zero": zero, "half": half, "tolerance": tolerance, "order": order}
        point = point_at(body, seen, y, reach, **kinds)
        rate, error = point.multiplier.value, point.multiplier.error
        steady = up[i] & (rate > -1)
        stability = xp.where(steady, Stability.STABLE, Stability.UNSTABLE)
        known = xp.isfinite(point.length.error) & xp.isfinite(error)
        known = known & ~(up[i] & (xp.abs(rate + 1) <= error))
        stability = xp.where(known, stability, Stability.UNKNOWN)
        stability = xp.where(half, Stability.HALF_STABLE, stability)
        return (
            point,
            xp.where(zero, zero_there, present),
            xp.where(zero, zero_stability, stability),
        )

    zeros = xp.arange(_SLOTS + 1) == 0
    found = each(at, xp.append(xp.full(1, -1, places.dtype), places), zeros)
    rank = xp.argsort(~found[1], stable=True)
    point, present, stability = jax.tree.map(lambda a: a[rank], found)
    point = replace_where(~present, Status.ABSENT, point)
    return FixedPoints(
        point.length,
        point.multiplier,
        point.slope,
        xp.where(present, stability, Stability.ABSENT).astype(xp.int8),
        end.divergent | end.fades,
    )


class FarEnd(eqx.Module):
    """What happens to the longest lengths."""

    divergent: Bool[Array, ""]
    """They certainly grow without bound."""
    last: Int[Array, ""]
    """The last usable node: beyond it the quadrature has no correct digit."""
    sure: Int[Array, ""]
    """The last node at which the growth is known to be positive; −1 if there is none."""
    fades: Bool[Array, ""]
    """Beyond that they neither grow nor shrink, within errors."""


def runs_away(seen: LengthGrid) -> FarEnd:
    """What happens to the longest lengths."""
    index = xp.arange(seen.y.size)
    blind = ~(seen.sure | (seen.noise < xp.inf)) & (seen.y > _TAIL)
    last = xp.where(xp.any(blind), xp.argmax(blind), index.size) - 1
    grows = seen.sure & (seen.growth > 0)
    sure = xp.max(xp.where(grows & (index <= last), index, -1))
    # Beyond, q' − q is too small relative to q to be seen; growth lasts if λ >= 1.
    tail = (seen.grid > seen.y[xp.maximum(sure, 0)]) & (seen.grid <= seen.y[last])
    rate = xp.min(xp.where(tail, seen.multiplier, 1.0))
    lasts = (seen.growth >= 0) & (rate >= 1) & (seen.y > _TAIL)
    beyond = (index > sure) & (index <= last)
    divergent = (sure >= 0) & xp.all(lasts | ~beyond)
    fades = (sure >= 0) & xp.all((seen.in_sight & (seen.y > _TAIL)) | ~beyond)
    return FarEnd(divergent, last, sure, fades)
