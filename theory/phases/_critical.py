"""The critical line χ = 1 of an activation, and single points of it.

Notation: q length, y = log q, σ_w² and σ_b² the variances, λ = dq'/dq, d… an error.
"""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from theory.description import Activation, Radial, check_activation, directly
from theory.gaussian import epsilon, frozen, radial_moments, single_moments
from theory.numerics import (
    Array,
    Estimate,
    Status,
    as_estimate,
    as_number,
    as_real,
    cast,
    check_count,
    check_order,
    check_positive,
    cubic,
    each,
    first_places,
    nearest_extremum,
    needs_float64,
    replace_where,
    root_between_nodes,
    running_max,
    traced,
    xp,
)
from theory.phases._length_point import Stability

_FINE = np.geomspace(1e-10, 1e6, 193)
_LINE = np.log(
    np.concatenate([np.geomspace(1e-30, _FINE[0], 41)[:-1], _FINE, np.geomspace(1e6, 1e12, 13)[1:]])
)
"""Grid of the search. Outside the finer part the line is close to a power of q."""
_SLOTS = 3
_KIND = lambda found: found.stability
_FAR = 700.0
"""log of the longest length that a number can represent."""


class CriticalLine(eqx.Module):
    """Points with χ = 1, one per length."""

    length: Float[Array, "*points"]
    weight_variance: Estimate
    bias_variance: Estimate
    multiplier: Estimate
    """λ = dq'/dq there. Above 1 the point repels lengths; at 1 it is half-stable."""
    stability: Int[Array, "*points"]
    """`Stability` of the length; deep networks reach stable points only."""


class CriticalPoints(eqx.Module):
    """Critical points of one activation, shortest length first.

    Unused places are ABSENT, or NOT_CONVERGED if the search may have missed points.
    """

    length: Estimate
    weight_variance: Estimate
    bias_variance: Estimate
    multiplier: Estimate
    """λ = dq'/dq there."""
    stability: Int[Array, "*places"]
    """`Stability` of the length; deep networks reach stable points only."""


class _Point(eqx.Module):
    """A point of the line, or its errors."""

    weight: Float[Array, "*points"]
    bias: Float[Array, "*points"]
    multiplier: Float[Array, "*points"]


def _moments(activation: Activation, k: int, q: Array, order: int):
    """E φ², E φ'² and ∂E φ²/∂q per component, and their errors."""
    activation = cast(activation, q.dtype)
    if isinstance(activation, Radial):
        value, error = radial_moments(activation, q, k, order=order)
        return tuple((m.square, m.trace, m.square_rate) for m in (value, error))
    value, error = single_moments(activation, q, order=order)
    return tuple((m.square, m.derivative_square, m.square_rate) for m in (value, error))


def _on_line(activation: Activation, k: int, q: Array, order: int) -> tuple[_Point, _Point]:
    """The point of length q, and its errors."""
    (square, slope, rate), (dsquare, dslope, drate) = _moments(activation, k, q, order)
    eps = 4 * epsilon(q)
    # Where φ jumps the slope is infinite, and nothing is critical.
    weight = xp.where(xp.isinf(slope), xp.nan, 1 / slope)
    dweight = weight * (dslope / slope + eps)
    bias = q - weight * square
    dbias = dweight * square + weight * dsquare + eps * q
    # At length 0 only the floor of the integrals remains: φ(0) is either 0 or not.
    nothing = (q == 0) & (xp.abs(bias) <= dbias)
    bias, dbias = (xp.where(nothing, 0.0, b) for b in (bias, dbias))
    dmultiplier = weight * drate + dweight * xp.abs(rate)
    return _Point(weight, bias, weight * rate), frozen(_Point(dweight, dbias, dmultiplier))


_STEP = 1e-4
"""Step in y for derivatives that guide the search but enter no value."""
_SIDES, _FAR_OFF = (0.999, 1.001), (1e-4, 1.0, 1e4)


_SHORT = 1e-8
"""The length that decides what λ = 1 means at 0."""


def _around(q: Float[Array, "*b"]) -> Float[Array, "5 *b"]:
    """Lengths that decide what λ = 1 means at q: close to it, and far away."""
    beside = (xp.where(q == 0, _SHORT, s * q) for s in _SIDES)
    return xp.stack([*beside, *(xp.full_like(q, y) for y in _FAR_OFF)])


def _stability(q: Array, here: _Point, error: _Point, around: _Point) -> Int[Array, "*b"]:
    """The `Stability` of a point of the line, from points at the lengths `_around` it."""
    others, size, doubt = _around(q), xp.abs(here.multiplier), error.multiplier
    square = lambda q, point: (q - point.bias) / point.weight
    # q' − q at other lengths, for the variances of this one.
    moved = others - q[None]
    growth = here.weight[None] * (square(others, around) - square(q, here)[None]) - moved
    bias_noise = error.bias / xp.where(q == 0, 1.0, q)
    noise = (bias_noise + error.weight / here.weight)[None] * (others + q[None])
    told = xp.abs(growth) > noise + doubt[None] * xp.abs(moved)
    below, above, *_ = xp.where(told, xp.sign(growth), 0)
    below = xp.where(q == 0, -above, below)  # there is nothing below
    cases = [
        (size + doubt < 1, Stability.STABLE),
        (size - doubt > 1, Stability.UNSTABLE),
        (xp.abs(here.multiplier - 1) > doubt, Stability.UNKNOWN),
        (below * above > 0, Stability.HALF_STABLE),
        ((below > 0) & (above < 0), Stability.STABLE),
        ((below < 0) & (above > 0), Stability.UNSTABLE),
        (xp.all(xp.abs(growth) <= noise, axis=0) & (noise[-1] < others[-1]), Stability.NEUTRAL),
    ]
    kinds = [xp.full_like(q, kind) for _, kind in cases]
    unknown = xp.full_like(q, Stability.UNKNOWN)
    return xp.select([case for case, _ in cases], kinds, unknown).astype(np.int8)


def _check(activation: Any, components: Any, tolerance: Any, order: Any) -> None:
    check_activation(activation)
    check_count("components", components)
    check_positive("tolerance", tolerance)
    check_order(order)


def critical_line(
    activation: Activation,
    lengths: Any,
    *,
    components: int = 1,
    tolerance: float = 1e-10,
    order: int = 64,
) -> CriticalLine:
    """The critical line χ = 1 of z ↦ W φ(z) + b, parametrised by the length q* on it.

    On the line σ_w² = 1/E φ'(√q z)² and σ_b² = q − σ_w² E φ(√q z)², so no fixed point has to be
    solved for. For radial φ on units of k `components`, 1/σ_w² = E tr(φ'φ'ᵀ)/k instead.

    A deep network is critical only where the point attracts lengths; see `stability`. Gelu and
    silu have χ = 1 at short lengths too, but only at fixed points that repel.

    Parameters
    ----------
    activation
        φ.
    lengths
        Lengths q* of the points, one or several. Points are ABSENT where σ_b² would be negative
        or the length reaches a jump of φ, and INVALID where the length is negative.
    components
        Number k of real components of a unit, for radial φ.
    tolerance
        Relative error beyond which a value is INACCURATE.
    order
        Nodes per panel of the quadrature, from 8 to 1024.

    Raises
    ------
    TypeError
        If `activation` is not an activation.
    ValueError
        If `components` is below 1, `tolerance` not above 0, or `order` out of range.

    References
    ----------
    The parametric form follows from Schoenholz et al. 2017, eqs. 3 and 5.
    """
    needs_float64("critical_line")
    _check(activation, components, tolerance, order)
    lengths = as_real("lengths", lengths)
    q = jnp.atleast_1d(jnp.asarray(lengths, jnp.result_type(float)))
    return _line(activation, q, components, tolerance, order)


def _line_at(activation, q, components, tolerance, order) -> CriticalLine:
    value, error = _on_line(activation, components, q, order)
    around, _ = _on_line(activation, components, _around(q), order)
    line = CriticalLine(
        q,
        as_estimate(value.weight, error.weight, tolerance),
        # A difference of lengths; its error is relative to the length.
        as_estimate(value.bias, error.bias, tolerance, q),
        as_estimate(value.multiplier, error.multiplier, tolerance),
        _stability(q, value, error, around),
    )
    there = xp.isfinite(value.weight) & xp.isfinite(value.bias)
    line = replace_where(~there, Status.NOT_CONVERGED, line)
    # Where φ jumps no weight variance makes its infinite slope critical.
    jumps = xp.isinf(_moments(activation, components, q, order)[0][1])
    negative = (value.bias < -error.bias) | jumps
    line = replace_where(negative, Status.ABSENT, line)
    valid = (q >= 0) & xp.isfinite(q)
    line = replace_where(~valid, Status.INVALID, line)
    none = xp.where(negative, Stability.ABSENT, Stability.UNKNOWN).astype(np.int8)
    usable = there & valid & ~negative
    return eqx.tree_at(_KIND, line, xp.where(usable, line.stability, none))


_line = directly(_line_at)


def critical_points(
    activation: Activation,
    bias_variance: Any,
    *,
    components: int = 1,
    tolerance: float = 1e-10,
    order: int = 64,
) -> CriticalPoints:
    """The points of the critical line with a given bias variance, shortest length first.

    Parameters
    ----------
    activation
        φ.
    bias_variance
        σ_b², at least 0.
    components
        Number k of real components of a unit, for radial φ.
    tolerance
        Relative error beyond which a value is INACCURATE.
    order
        Nodes per panel of the quadrature.

    Returns
    -------
    CriticalPoints
        The first three with lengths up to 1e12, including 0 if σ_b² and φ(0) are 0; `stability`
        says which of them a deep network can reach. Places are NOT_CONVERGED if σ_b² on the
        line still approaches the given value at the longest length, or agrees with it within
        errors there; INVALID if σ_b² is below 0.

    Raises
    ------
    TypeError, ValueError
        As `critical_line`.

    Accuracy
    --------
    The sign of σ_b²(q) − σ_b² provably changes within the error of q. If it is lost in rounding,
    the error covers the whole range of lengths where that is so.
    """
    needs_float64("critical_points")
    _check(activation, components, tolerance, order)
    bias_variance = as_number("bias_variance", bias_variance, "at least 0")
    target = xp.asarray(bias_variance, xp.result_type(float))
    return _search(activation, target, "bias", components, tolerance, order)


def half_stable_points(
    activation: Activation, *, components: int = 1, tolerance: float = 1e-10, order: int = 64
) -> CriticalPoints:
    """Points where χ = 1 and dq'/dq = 1 at once, with σ_b² >= 0, shortest length first.

    There the critical line touches the boundary of the region where the fixed point exists, and
    the length attracts from one side only. The search covers lengths from 1e-30 to 1e12.

    Parameters
    ----------
    activation, components, tolerance, order
        As in `critical_points`.

    References
    ----------
    Roberts, Yaida and Hanin 2022, section 5.3, for GELU and SWISH.
    """
    needs_float64("half_stable_points")
    _check(activation, components, tolerance, order)
    one = xp.ones((), xp.result_type(float))
    return _search(activation, one, "multiplier", components, tolerance, order)


class _Table(eqx.Module):
    """The line on a grid: the function whose root is sought, its derivative, error and points."""

    y: Float[Array, " nodes"]
    miss: Float[Array, " nodes"]
    rate: Float[Array, " nodes"]
    doubt: Float[Array, " nodes"]
    point: _Point
    error: _Point
    rise: Float[Array, " nodes"]
    """∂σ_b²/∂y."""


@directly
def _search(
    activation, target, kind: Literal["bias", "multiplier"], components, tolerance, order
) -> CriticalPoints:
    """The points of the critical line where σ_b² or λ is `target`."""

    def look(y, parameters):
        activation, target = parameters
        q = xp.exp(y)
        value, error = _on_line(activation, components, q, order)
        if kind == "bias":
            return ((value.bias - target) / q, value), (error.bias / q, error)
        return (value.multiplier - target, value), (error.multiplier, error)

    def along(y, parameters):
        at = lambda y: look(y, parameters)
        if traced(y, parameters):
            return jax.jvp(at, (y,), (jnp.ones_like(y),), has_aux=True)
        (here, errors), (below, _), (above, _) = at(y), at(y - _STEP), at(y + _STEP)

        def rate(a, b, doubt):  # zero if rounding alone could produce it
            return np.where(np.abs(b - a) > 2 * doubt, b - a, 0.0) / (2 * _STEP)

        return here, jax.tree.map(rate, below, above, errors), errors

    both = (activation, target)
    still = frozen(both)
    table = _table(lambda y: along(y, still), np.asarray(_LINE, target.dtype) + 0 * target)
    crossing, before, lost = _crossings(table)
    places = first_places(crossing, _SLOTS)

    def at(place):
        present = place >= 0
        ends = xp.stack([before[place], place])
        lower, upper = table.y[ends]
        index = xp.arange(table.y.size)
        between = lambda values: xp.where((index >= ends[0]) & (index <= ends[1]), values, 0)
        miss = lambda y, parameters: look(y, parameters)[0][0]
        bracket = (table.y[ends], table.miss[ends], table.rate[ends])
        y, _ = root_between_nodes(miss, both, *bracket, xp.zeros_like(place), present)
        (rest, point), (rate, _), _ = along(y, both)
        q = xp.exp(y)
        # The root is where the sign provably changes; otherwise anywhere in the bracket.
        doubt = xp.max(between(table.doubt))
        step = 2 * (xp.abs(rest) + doubt) / xp.abs(rate)
        step = xp.where(xp.isfinite(step), step, upper - lower)
        sides = xp.stack([xp.maximum(y - step, lower), xp.minimum(y + step, upper)])
        more = frozen(xp.append(sides, xp.log(_around(q))))
        (rests, points), _ = look(more, still)
        seen = (rests[0] * rests[1] < 0) & xp.all(xp.abs(rests[:2]) >= doubt)

        def spread(narrow, wide, value):
            wide = xp.max(between(xp.abs(wide - value)))
            return frozen(xp.where(seen, xp.max(xp.abs(narrow[:2] - value)), wide))

        q_error = spread(xp.exp(more), xp.exp(table.y), q) + 4 * epsilon(q) * frozen(q)
        shares = _shares(table.error, table.point, xp.exp(table.y))
        shares = jax.tree.map(lambda e: xp.max(between(e)), shares)
        own = frozen(_Point(point.weight * shares.weight, q * shares.bias, shares.multiplier))
        error = jax.tree.map(xp.add, own, jax.tree.map(spread, points, table.point, point))
        found = CriticalPoints(
            as_estimate(q, q_error, tolerance),
            as_estimate(point.weight, error.weight, tolerance),
            as_estimate(point.bias, error.bias, tolerance, q),
            as_estimate(point.multiplier, error.multiplier, tolerance),
            _stability(*frozen((q, point, error)), jax.tree.map(lambda a: a[2:], points)),
        )
        good = xp.isfinite(q) & xp.isfinite(point.weight)
        found = replace_where(~good, Status.NOT_CONVERGED, found)
        return found, present & ~(point.bias < -error.bias)

    found, present = each(at, places)
    rank = xp.argsort(~present, stable=True)
    found, present = jax.tree.map(lambda a: a[rank], (found, present))
    valid = xp.isfinite(target) & (target >= 0)
    if kind == "bias":
        lost = lost | _escapes(table, target)
        # Without bias the first point has length 0.
        line = _line_at(activation, xp.zeros_like(target)[None], components, tolerance, order)
        line = jax.tree.map(lambda a: a[0], line)
        one = as_estimate(line.length, xp.zeros_like(target), tolerance, 1.0)
        parts = (line.weight_variance, line.bias_variance, line.multiplier, line.stability)
        there = (target == 0) & (line.bias_variance.value == 0)
        join = lambda one, all_: xp.where(there, xp.append(one[None], all_[:-1]), all_)
        found = jax.tree.map(join, CriticalPoints(one, *parts), found)
        present = join(there, present)
    found = replace_where(~present & ~lost, Status.ABSENT, found)
    found = replace_where(~present & lost, Status.NOT_CONVERGED, found)
    found = replace_where(~valid, Status.INVALID, found)
    none = xp.where(lost | ~valid, Stability.UNKNOWN, Stability.ABSENT).astype(np.int8)
    stability = xp.where(present & valid, found.stability, none)
    return eqx.tree_at(_KIND, found, stability)


def _shares(error: _Point, point: _Point, q: Array) -> _Point:
    """Errors relative to the quantity that they scale with."""
    return _Point(error.weight / point.weight, error.bias / q, error.multiplier)


def _table(look: Callable, nodes: Float[Array, " grid"]) -> _Table:
    """The line at the nodes, refined where two roots may lie between two nodes."""

    def passes(y, _):
        (miss, point), (rate, moved), (doubt, error) = look(y)
        seen = _Table(y, miss, rate, doubt, point, error, moved.bias)
        i, found = nearest_extremum(y, miss, rate)
        closer = y[i] + (y[i + 1] - y[i]) * xp.linspace(0.0, 1.0, y.size, dtype=y.dtype)
        return xp.where(found, closer, y), seen

    if traced(nodes):  # one loop, so that `look` is compiled once
        _, seen = jax.lax.scan(passes, nodes, length=2)
    else:
        closer, first = passes(nodes, None)
        seen = jax.tree.map(lambda *rows: np.stack(rows), first, passes(closer, None)[1])
    seen = jax.tree.map(lambda a: a.reshape(-1), seen)
    rank = xp.argsort(seen.y, stable=True)
    seen = jax.tree.map(lambda a: a[rank], seen)
    i, found = nearest_extremum(seen.y, seen.miss, seen.rate)
    width, slopes = seen.y[i + 1] - seen.y[i], (seen.rate[i], seen.rate[i + 1])
    share = slopes[0] / xp.where(found, slopes[0] - slopes[1], 1.0)
    row = jax.tree.map(lambda a: a[i], seen)
    top = cubic(seen.miss[i], seen.miss[i + 1], *(d * width for d in slopes))(share)[0]
    extreme = (row.y + share * width, top, xp.zeros_like(top))
    fields = lambda t: (t.y, t.miss, t.rate)
    # Without a turning point one node appears twice, which changes nothing.
    extreme = tuple(
        xp.where(found, new, old) for new, old in zip(extreme, fields(row), strict=True)
    )
    row = eqx.tree_at(fields, row, extreme)
    place = xp.arange(seen.y.size + 1)

    def insert(values, new):
        before, behind = xp.append(values, values[-1:]), xp.append(values[:1], values)
        return xp.where(place <= i, before, xp.where(place > i + 1, behind, new))

    return jax.tree.map(insert, seen, row)


def _crossings(table: _Table) -> tuple[Bool[Array, " nodes"], Int[Array, " nodes"], Array]:
    """Nodes with a known sign that differs from the last known one, and the nodes of the latter.

    The third result says whether roots may hide where no sign is known.
    """
    told = xp.abs(table.miss) > table.doubt
    last = running_max(xp.where(told, xp.arange(told.size), -1))
    before = xp.append(xp.full_like(last[:1], -1), last[:-1])
    changes = xp.sign(table.miss) != xp.sign(table.miss[before])
    known = told & (before >= 0)
    allowed = table.point.bias >= -table.error.bias
    # A root at a node, or a range hidden by rounding, lies between two known signs that differ. A
    # range between two equal signs may contain a pair of roots, or none.
    gap = before < xp.arange(told.size) - 1
    lost = xp.any(known & ~changes & gap) | xp.any(xp.isnan(table.miss))
    return known & changes & (allowed | allowed[before]), before, lost


def _escapes(table: _Table, target: Array) -> Bool[Array, ""]:
    """Whether σ_b² may equal `target` at lengths beyond the table.

    Below the table it cannot, since σ_b² <= q. Above, σ_b² continues as a power of q.
    """
    bias, error, rise = table.point.bias[-1], table.error.bias[-1], table.rise[-1]
    towards = (target - bias) * rise > 0
    shown = xp.abs(rise) > 16 * error
    log = xp.where(bias > 0, xp.abs(xp.log(target / xp.where(bias > 0, bias, 1))), 1.0)
    reach = log * xp.abs(bias / xp.where(rise == 0, 1, rise)) < _FAR
    hidden = ~(xp.abs(table.miss[-1]) > table.doubt[-1])
    # If σ_b² = 0 at every length, as for relu, it takes no other value.
    level = xp.all(xp.abs(table.point.bias) <= table.error.bias) & (target > 0)
    short = (target < xp.exp(table.y[0])) & (target > 0)
    return ((towards & shown & reach) | hidden | short) & ~level
