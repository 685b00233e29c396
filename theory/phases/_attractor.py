"""Where the length of a typical input goes: to a fixed point, without bound, or into a cycle.

Notation: q length, h(y) = log(q'/q) at y = log q, λ = dq'/dq, χ slope.
"""

import enum
from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Int

from theory.description import Part
from theory.gaussian import frozen
from theory.numerics import (
    Array,
    Estimate,
    Status,
    as_estimate,
    choose,
    replace_where,
    while_loop,
    xp,
)
from theory.phases._length_grid import LengthGrid, length_grid, log_growth
from theory.phases._length_point import Reach, bracket_of, point_at, root_at, runs_away, zero_point
from theory.phases._one_layer import LengthPoint

_STEPS = 2000
"""Layers after which a length that has not converged is abandoned."""
_SAME = 1e-9
"""Lengths this close in y count as equal."""


class Fate(enum.IntEnum):
    """What becomes of the length of a typical input."""

    POINT = 0
    """It converges to a fixed point."""
    DIVERGENT = 1
    UNSETTLED = 2
    """It stays finite without converging: a cycle, or irregular motion."""
    UNKNOWN = 3


class Attractor(eqx.Module):
    """Where the length of a typical input goes."""

    point: LengthPoint
    fate: Int[Array, "*batch"]
    """`Fate`."""


class _Path(NamedTuple):
    """From the starting length to where a monotonic map takes it."""

    rising: Array
    here: Array
    """The node below the start."""
    place: Array
    """The fixed point is between this node and the next."""
    found: Array
    stays: Array
    """Every length nearby is a fixed point, within the errors."""
    exact: Array
    """The same without any rounding."""


def _path(seen: LengthGrid, y0: Array, h0: Array) -> _Path:
    """The direction at the start decides which fixed point is reached."""
    size, touch = seen.y.size, seen.touches
    here = xp.clip(xp.sum(seen.y <= y0) - 1, 0, size - 2)
    in_sight = seen.in_sight
    falls, index = stable_places(seen), xp.arange(size - 1)
    # Coming from above, a length also stops where h touches zero from below.
    drops = falls | (touch[:-1] & (seen.growth[1:] < 0))

    around = xp.clip(here + xp.arange(-1, 3), 0, size - 1)
    signs = xp.append(xp.sign(seen.growth[around]), xp.sign(h0))
    flat = in_sight[here] & in_sight[here + 1]
    one_sign = xp.all(signs == signs[-1]) & (signs[-1] != 0)
    stays = flat & ~one_sign & (xp.abs(h0) <= seen.noise[here] + seen.noise[here + 1])

    rising = h0 > 0
    above = falls & ((index > here) | ((index == here) & rising))
    below = drops & ((index < here) | ((index == here) & ~rising))
    place = xp.where(rising, xp.argmax(above), size - 2 - xp.argmax(below[::-1]))
    found = xp.where(rising, xp.any(above), xp.any(below)) & ~stays
    # A sign that is rounding error at the shortest lengths is no fixed point.
    first = xp.argmax(seen.sure)
    found = found & (rising | (place >= first))
    return _Path(rising, here, place, found, stays, xp.all(signs == 0))


def stable_places(seen: LengthGrid) -> Array:
    """Where h goes from positive to negative between a node and the next."""
    up = (seen.growth > 0) & ~seen.touches
    # Growth that vanishes into rounding error does not count as a fall.
    index = xp.arange(seen.y.size)
    fades = index > xp.max(xp.where(seen.growth >= 0, -1, index))
    return up[:-1] & ~up[1:] & ~xp.isnan(seen.growth[1:]) & (~fades | seen.touches)[1:]


def _turns_back(seen: LengthGrid, path: _Path) -> Array:
    """Whether the map decreases somewhere on the way, so that lengths jump over fixed points."""
    slope = 1 + seen.rate
    falls = (slope < -1e-6 - 10 * seen.noise) & xp.isfinite(slope)
    index, size = xp.arange(seen.y.size), seen.y.size
    last = xp.where(path.found, path.place + 1, size)
    first = xp.where(path.found, path.place, 0)
    way_up = (index >= path.here) & (index <= last)
    way_down = (index <= path.here + 1) & (index >= first)
    return xp.any(falls & xp.where(path.rising, way_up, way_down)) & ~path.stays


class Travel(NamedTuple):
    """The result of following the length layer by layer."""

    y: Array
    period: Array
    """Layers after which it repeated; 0 if it did not."""
    low: Array
    high: Array
    """The shortest and longest lengths on the way."""
    out: Array
    """It left the grid and cannot return."""


def follow(
    body: Part, seen: LengthGrid, y0: Array, needed: Array, order: int, steps: int = _STEPS
) -> Travel:
    """Iterate y ↦ y + h(y) from y0 until it repeats; does nothing where not `needed`."""
    body = frozen(body)
    bottom, top = seen.y[0], seen.y[-1]
    rates = [xp.where(xp.isfinite(r), r, 0.0) for r in (seen.rate[0], seen.rate[-1])]

    def step(y):
        inside = xp.clip(y, bottom, top)
        rate = xp.where(y < bottom, rates[0], rates[1])
        new = y + log_growth(inside, body, order) + (y - inside) * rate
        return xp.clip(new, 4 * bottom, 4 * top)

    def gone(y):
        return ((y < bottom) & (seen.growth[0] < 0)) | ((y > top) & (seen.growth[-1] > 0))

    # Brent's cycle detection: compare with a length that is renewed at powers of two.
    def going(state):
        y, _, count, _, period, _, _ = state
        return needed & (count <= steps) & (period == 0) & ~gone(y) & xp.isfinite(y)

    def advance(state):
        y, kept, count, since, _, low, high = state
        y = step(y)
        since = since + 1
        period = xp.where(xp.abs(y - kept) <= _SAME, since, 0)
        renew = (count & (count - 1)) == 0
        kept, since = xp.where(renew, y, kept), xp.where(renew, 0, since)
        low, high = xp.minimum(low, y), xp.maximum(high, y)
        return y, kept, count + 1, since, period, low, high

    start = (y0, y0, xp.asarray(1), xp.asarray(0), xp.asarray(0), y0, y0)
    y, _, _, _, period, low, high = while_loop(going, advance, start)
    return Travel(y, period, low, high, gone(y))


def _reach(seen: LengthGrid, path: _Path, y0: Array, h0: Array, y: Array) -> Reach:
    """Where the attractor can be if the map is monotonic."""
    index, sure, up = xp.arange(seen.y.size), seen.sure, seen.growth > 0
    own = bracket_of(seen, path.place, y)
    # A length that falls to zero may be anywhere below the first growth known to be negative.
    down = sure & ~up
    first_down = xp.min(xp.where(down, seen.y, xp.inf))
    own = choose(path.found, own, Reach(seen.y[0], first_down, y, y))
    # A node on the way, outside this range, where the sign of h is unknown may hide another one.
    node_below, node_above = xp.append(seen.y[:1], seen.y[:-1]), xp.append(seen.y[1:], xp.inf)
    on_way_up = ~sure & (index > path.here) & (seen.y < own.low)
    on_way_down = ~sure & (index <= path.here) & (seen.y > own.high)
    low = xp.min(xp.where(on_way_up & path.rising, node_below, y))
    high = xp.max(xp.where(on_way_down & ~path.rising, node_above, y))
    # Even the direction at the start may be unknown.
    lost = ~(xp.abs(h0) > xp.minimum(seen.noise[path.here], seen.noise[path.here + 1]))
    lost = lost & (xp.abs(h0) < 3.0) & ~((y0 >= own.low) & (y0 <= own.high))
    touching = seen.touches[path.place] | seen.touches[path.place + 1]
    lost = lost | (touching & path.found) | (path.stays & ~path.exact)
    return Reach(own.low, own.high, xp.where(lost, -xp.inf, low), xp.where(lost, xp.inf, high))


def _limit(seen: LengthGrid, values: Array, errors: Array, last: Array, at: Estimate, tolerance):
    """The limit of `values` as q → ∞, from the last usable nodes."""
    n = xp.maximum(xp.sum(seen.grid < seen.y[last]), 2)
    g, v, e = (xp.stack([a[n - i] for i in range(3)]) for a in (seen.grid, values, errors))
    steps, changes = g[:-1] - g[1:], v[:-1] - v[1:]
    new, old = (changes[i] / steps[i] for i in range(2))
    still = xp.all(xp.abs(changes) <= e[:-1] + e[1:] + 1e-15 * xp.abs(v[0]))
    # A term e^(−αy) still has its rate divided by α to go.
    alpha = xp.log(xp.where(new * old > 0, old / new, 1.0)) * 2 / xp.sum(steps)
    left = xp.where(alpha > 0, 4 * xp.abs(new) / xp.where(alpha > 0, alpha, 1.0), xp.inf)
    left = xp.where(still, 2 * xp.max(e), left)
    grows = (v[0] > 10) & xp.all(changes / steps > 0.05 * v[:-1])
    limit = as_estimate(at.value, frozen(e[0] + left), tolerance)
    return replace_where(grows | xp.isinf(at.value), Status.INFINITE, limit)


def attractor(
    body: Part, *, start: Any = 1.0, tolerance: Any = 1e-10, order: int = 64
) -> Attractor:
    """Follow the length from `start`, layer after layer, to its limit.

    If the map increases on the way, the length moves to the next fixed point in the direction of
    the first layer. If the map decreases somewhere, the length can jump over fixed points; it is
    then iterated until it repeats or 2000 layers have passed.

    If the length grows without bound it is INFINITE, and multiplier and slope are their limits;
    their error includes the remaining change with length, taken as a power law. If it converges
    to no fixed point, all are NOT_CONVERGED.
    """
    seen = length_grid(body, order=order)
    y0 = xp.log(xp.full_like(seen.y[0], start))
    h0 = log_growth(y0, frozen(body), order)
    path = _path(seen, y0, h0)
    follows = _turns_back(seen, path)
    travel = follow(body, seen, y0, follows, order)
    falls = stable_places(seen)
    beside = xp.maximum(xp.maximum(seen.y[:-1] - travel.y, travel.y - seen.y[1:]), 0.0)
    nearest = xp.argmin(xp.where(falls, beside, xp.inf))
    landed = xp.any(falls) & ~travel.out
    place = xp.where(follows, nearest, path.place)
    found = xp.where(follows, landed, path.found)

    end = runs_away(seen)
    fading = path.rising & ~follows & ~path.stays & end.fades & ~end.divergent
    fading = fading & (~found | (place >= end.sure))
    found = found & ~fading
    path = path._replace(place=place, found=found)
    open_end = xp.where(follows, travel.out, ~found & ~path.stays)
    rising = xp.where(follows, travel.y > y0, path.rising)
    divergent, to_zero = open_end & rising, open_end & ~rising
    y = root_at(body, seen, place, found, order)
    y_end = xp.where(to_zero, seen.y[0], xp.where(divergent, seen.y[end.last], y0))
    y = xp.where(found, y, y_end)

    # An iterated length is as accurate as the map along its way.
    passed = (seen.y >= travel.low) & (seen.y <= travel.high)
    vague = xp.any(passed & (seen.noise > 0.05))
    own = choose(found, bracket_of(seen, place, y), zero_point(seen)[2])
    far = xp.where(vague, xp.inf, 0.0)
    own = Reach(own.low, own.high, y - far, y + far)
    reach = choose(follows, own, _reach(seen, path, y0, h0, y))
    # Up to the last growth that is known to be positive, all must be.
    index = xp.arange(seen.y.size)
    doubts = ~seen.sure & (index > path.here) & (index <= end.sure)
    doubts = xp.any(doubts) | ~(xp.abs(h0) > seen.noise[path.here])
    lost = divergent & (doubts | ~(end.divergent | fading))
    reach = choose((path.stays & path.exact) | (divergent & ~lost), Reach(y, y, y, y), reach)
    kinds = {"zero": to_zero, "half": xp.zeros_like(found), "tolerance": tolerance}
    point = point_at(body, seen, y, reach, order=order, **kinds)

    # An iterated length must have come close enough to the point for it to attract.
    rate, rate_error = (frozen(v) for v in (point.multiplier.value, point.multiplier.error))
    contracts = 1 - xp.abs(rate) - rate_error
    away = xp.abs(travel.y - y)
    near = away * (1 + seen.steepness(y)[0]) < contracts / 2
    alone = (xp.sum(falls) == 1) & ~(seen.growth[0] < 0) & ~(seen.growth[-1] > 0)
    repels, cycles = rate + rate_error < -1, travel.period > 1
    ends_nowhere = (repels & (cycles | (alone & (travel.period == 0)))) | (cycles & (away > 1e-3))
    unsettled = follows & found & ~near & ~vague & ends_nowhere
    on_the_way = follows & ~travel.out & ~unsettled & ~(found & near)
    # If iteration stopped on the way, neither the place nor the limit is known.
    rate, slope = (_unbounded(e, on_the_way) for e in (point.multiplier, point.slope))
    point, lost = LengthPoint(point.length, rate, slope), lost | on_the_way
    fate = xp.where(divergent, Fate.DIVERGENT, Fate.POINT)
    fate = xp.where(unsettled, Fate.UNSETTLED, fate)
    fate = xp.where(lost, Fate.UNKNOWN, fate).astype(xp.int8)
    return _judged(seen, point, fate, fading, end.last, tolerance)


def _unbounded(estimate: Estimate, where: Array) -> Estimate:
    """Set the error to infinity there."""
    error = xp.where(where, xp.inf, estimate.error)
    status = xp.where(where, xp.int8(Status.INACCURATE), estimate.status)
    return Estimate(estimate.value, error, status)


def _judged(seen, point, fate, fading, last, tolerance) -> Attractor:
    """Add the limits of divergent lengths, and statuses."""
    limit = lambda values, errors, at: _limit(seen, values, errors, last, at, tolerance)
    rate = limit(seen.multiplier, seen.multiplier_error, point.multiplier)
    slope = limit(seen.slope, seen.slope_error, point.slope)
    divergent = fate == Fate.DIVERGENT
    length = replace_where(divergent, Status.INFINITE, point.length)
    # A length that grows until its growth is lost in rounding may still have a limit.
    length = _unbounded(length, divergent & fading)
    length = replace_where(fate == Fate.UNKNOWN, Status.NOT_CONVERGED, length)
    rate, slope = choose(divergent, (rate, slope), (point.multiplier, point.slope))
    point = LengthPoint(length, rate, slope)
    return Attractor(replace_where(fate == Fate.UNSETTLED, Status.NOT_CONVERGED, point), fate)
