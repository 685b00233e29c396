"""Fixed points of the length map and of the correlation map of one turn of a network.

Notation: q length, h(y) = log(q'/q) at y = log q, λ = dq'/dq, χ slope, x = 1 − c, and
r(x) = x'/x, the factor by which one turn multiplies 1 − c.
"""

import enum

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from theory._architecture import Part, components
from theory._interpret import interpret
from theory._mean_field import MeanField
from theory._moment_integrals import frozen
from theory._moments import PreActivation, given_moments
from theory._roots import bracketed_root, newton, root_between_nodes
from theory._status import Estimate, Status, as_estimate, choose, replace_where

SHORTEST, LONGEST = 1e-30, 1e6
"""Lengths between which fixed points are looked for."""
_SURVEY = np.log(
    np.append(np.geomspace(SHORTEST, 1e-12, 10)[:-1], np.geomspace(1e-12, LONGEST, 128))
)
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


class Turn(eqx.Module):
    """What one turn of the body does to two inputs of one length q at 1 − c = x."""

    length: Float[Array, ""]
    separation: Float[Array, ""]
    slope: Float[Array, ""]
    """The factor on the squared distance of two nearby inputs."""
    pair_slope: Float[Array, ""]
    """The slope of the map of the covariance of the two inputs."""


@eqx.filter_jit
def one_turn(
    body: Part, q: Array, x: Array | None = None, *, order: int = 64, errors: bool = False
) -> tuple[Turn, Turn]:
    """One turn of `body` from length q and, if given, 1 − c = x: values and errors.

    Without `errors` those are zero, and their cost is saved. Compiled as a unit, so that its
    many uses in one solver are traced once.
    """
    if x is None:
        covariance, separation = q.reshape(1, 1), jnp.zeros((1, 1), q.dtype)
    else:
        s = q * x
        covariance = jnp.array([[q, q - s], [q - s, q]])
        separation = jnp.array([[jnp.zeros_like(s), s], [s, jnp.zeros_like(s)]])
    # Isotropic units: one component stands for all k of them.
    moments = given_moments(covariance[..., None, None], separation[..., None, None])
    zero = jax.tree.map(jnp.zeros_like, moments)
    reading = MeanField(order, equal_lengths=True, errors=errors, components=components(body))
    after, _ = interpret(body, reading, PreActivation(moments, zero))
    if not isinstance(after, PreActivation):
        raise TypeError(
            "`body`: one turn must go from pre-activations to pre-activations; this one ends "
            f"in {type(after).__name__} moments"
        )

    def read(m):
        return Turn(
            m.covariance[0, 0, 0, 0],
            m.separation[0, -1, 0, 0],
            m.tangent[0, 0, 0, 0],
            m.tangent[0, -1, 0, 0],
        )

    return read(after.value), read(after.error)


def _along_length(body: Part, q: Float[Array, ""], order: int) -> tuple[Turn, Turn, Turn]:
    """One turn from length q: values, errors, and derivatives with respect to q."""
    turn = lambda q: one_turn(body, q, order=order, errors=True)
    value, rate, error = jax.jvp(turn, (q,), (jnp.ones_like(q),), has_aux=True)
    return value, error, rate


def _log_growth(y: Float[Array, ""], body: Part, order: int) -> Float[Array, ""]:
    """h(y) = log(q'/q) at q = e^y."""
    return jnp.log(one_turn(body, jnp.exp(y), order=order)[0].length) - y


class Survey(eqx.Module):
    """The length map on a grid of y = log q, with the extremum of h nearest to zero put in."""

    y: Float[Array, " nodes"]
    growth: Float[Array, " nodes"]
    """h."""
    rate: Float[Array, " nodes"]
    """dh/dy."""
    noise: Float[Array, " nodes"]
    """|h| below this is zero as far as can be told."""
    touching: Float[Array, ""]
    """The y of the extremum that was put in; NaN where there is none."""
    grid: Float[Array, " grid"]
    """The nodes before that, and there:"""
    multiplier: Float[Array, " grid"]
    slope: Float[Array, " grid"]
    slope_error: Float[Array, " grid"]

    def change(self, values: Float[Array, " grid"], y: Float[Array, ""]) -> Float[Array, ""]:
        """|d values/dy| around y, by differences: good enough to carry an error on."""
        i = jnp.clip(jnp.searchsorted(self.grid, y), 1, self.grid.size - 1)
        return jnp.abs((values[i] - values[i - 1]) / (self.grid[i] - self.grid[i - 1]))


def survey(body: Part, *, order: int = 64) -> Survey:
    """h(y) on a grid from `SHORTEST` to `LONGEST`, fine enough to tell its roots apart."""
    body = frozen(body)
    y = jnp.asarray(_SURVEY, jnp.result_type(float))
    turn, error, rate = jax.vmap(lambda q: _along_length(body, q, order))(jnp.exp(y))
    h, noise = jnp.log(turn.length) - y, error.length / turn.length
    dh = rate.length * jnp.exp(-h) - 1
    # Where the quadrature fails the sign of h is still the best guess; the error will say so.
    noise = jnp.where(noise < 1e-6, noise, 0.0)
    # A pair of roots between two nodes shows as an extremum that heads for zero from both ends.
    heading = (h[:-1] * dh[:-1] < 0) & (h[1:] * dh[1:] > 0) & (h[:-1] * h[1:] > 0)
    step = y[1:] - y[:-1]
    fall = jnp.abs(dh[:-1]) * jnp.abs(dh[1:]) / (jnp.abs(dh[:-1]) + jnp.abs(dh[1:]))
    nearest = jnp.minimum(jnp.abs(h[:-1]), jnp.abs(h[1:]))
    left = nearest - step * fall
    # Unless the tangents go no eighth of the way to zero: those of a constant are rounding.
    heading = heading & (left < 7 / 8 * nearest)
    i = jnp.argmin(jnp.where(heading, left, jnp.inf))
    found = heading[i]
    guess = y[i] + jnp.where(found, step[i] * dh[i] / (dh[i] - dh[i + 1]), 0.0)

    def derivative(y, body):
        return jax.jvp(lambda y: _log_growth(y, body, order), (y,), (jnp.ones_like(y),))[1]

    top = bracketed_root(derivative, body, guess, y[i], y[i + 1], found)
    # Without an extremum the first node stands twice, which adds nothing.
    top = jnp.where(found, top, y[0])
    h_top = jnp.where(found, _log_growth(top, body, order), h[0])
    noise_top = jnp.where(found, jnp.maximum(noise[i], noise[i + 1]), noise[0])
    place = jnp.where(found, i, 0) + 1

    def insert(values, new):  # no sort: one for each point of a diagram takes half the time
        before, behind = jnp.append(values, values[-1:]), jnp.append(values[:1], values)
        index = jnp.arange(before.size)
        return jnp.where(index < place, before, jnp.where(index > place, behind, new))

    return Survey(
        insert(y, top),
        insert(h, h_top),
        insert(dh, jnp.where(found, 0.0, dh[0])),
        insert(noise, noise_top),
        jnp.where(found, top, jnp.nan),
        y,
        rate.length,
        turn.slope,
        error.slope,
    )


class LengthPoint(eqx.Module):
    """A fixed point of the length map: q*, λ = dq'/dq and χ there."""

    length: Estimate
    multiplier: Estimate
    slope: Estimate


def _length_point(body, seen: Survey, y, width, tolerance, order) -> LengthPoint:
    q = jnp.exp(y)
    turn, local, along = _along_length(body, q, order)
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
        h = lambda y, body: _log_growth(y, body, order)
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
    h0 = _log_growth(y0, frozen(body), order)
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

    h = lambda y, body: _log_growth(y, body, order)
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


class CorrelationPoint(eqx.Module):
    """The stable fixed point of the correlation map at the length's fixed point.

    `separation` is 1 − c*, to full relative accuracy; `slope` is the map's slope at c*.
    """

    correlation: Estimate
    separation: Estimate
    slope: Estimate


class _Solved(eqx.Module):
    """The root y = log x of log r(x), what was seen there, and how it moves with log q."""

    y: Float[Array, ""]
    turn: Turn
    error: Turn
    moved_x: Float[Array, ""]
    moved_slope: Float[Array, ""]


def _log_ratio(y: Float[Array, ""], turn: Turn) -> Float[Array, ""]:
    """log r at x = e^y."""
    return jnp.log(turn.separation / turn.length) - y


def _ratio_error(turn: Turn, error: Turn) -> Float[Array, ""]:
    return error.separation / turn.separation + error.length / turn.length


@eqx.filter_custom_jvp
def _solve_correlation(parameters, *, order) -> _Solved:
    """Where r(x) = 1 for (body, q, chaotic); without chaos nothing is solved for.

    `y` and `turn` are differentiable in body and q, by the implicit function theorem.
    """
    body, q, chaotic = parameters

    def look(y, q, order, errors):
        turn, error = one_turn(body, q, jnp.exp(y), order=order, errors=errors)
        value = _log_ratio(y, turn)
        # By Price's theorem ∂s'/∂s is the pair slope.
        slope = turn.pair_slope * q * jnp.exp(y) / turn.separation - 1
        # What is within its error of a root is one; where there is none, one step ends it.
        done = ~chaotic | (jnp.abs(value) <= _ratio_error(turn, error) / 4)
        kept = (y, turn, error) if errors else turn.pair_slope
        return jnp.where(done, 0.0, value), jnp.where(chaotic, slope, 1.0), kept

    # The root may be at x = 1 itself (odd φ without bias), which must not be an end.
    lower, upper = (jnp.asarray(np.log(end), q.dtype) for end in (1e-15, 1.5))

    # Most steps are taken at a lower order and without errors, at a tenth of the cost; and once
    # more a little beside q, which shows how the root moves.
    def coarse(start, q):
        look_again = lambda y: look(y, q, 3 * order // 4, False)
        y, slope = newton(look_again, start, lower, upper, 1e-6)
        return y, (jnp.exp(y), slope)

    step = 1e-4
    both = jnp.stack([q * (1 + step), q])
    y, (x, slope) = jax.lax.scan(coarse, jnp.full_like(q, -1.0), both)
    _, (y, turn, error) = newton(lambda y: look(y, q, order, True), y, lower, upper, 1e-13)
    moved_x, moved_slope = (jnp.abs(values[1] - values[0]) / step for values in (x, slope))
    return _Solved(y, turn, error, moved_x, moved_slope)


@_solve_correlation.def_jvp
def _correlation_moves(primals, tangents, *, order):
    (parameters,), (change,) = primals, tangents
    found = _solve_correlation(parameters, order=order)

    def turn(y, parameters):
        body, q, _ = parameters
        return one_turn(body, q, jnp.exp(y), order=order)[0]

    along = lambda y, p: _log_ratio(y, turn(y, p))
    _, slope = jax.jvp(lambda y: along(y, parameters), (found.y,), (jnp.ones_like(found.y),))
    _, moved = eqx.filter_jvp(lambda p: along(found.y, p), (parameters,), (change,))
    dy = jnp.where(parameters[2], -moved / slope, 0.0)
    _, dturn = eqx.filter_jvp(turn, (found.y, parameters), (dy, change))
    still = jax.tree.map(jnp.zeros_like, found)
    return found, eqx.tree_at(lambda s: (s.y, s.turn), still, (dy, dturn))


def stable_correlation(
    body: Part, point: LengthPoint, *, tolerance: float = 1e-10, order: int = 64
) -> CorrelationPoint:
    """c* of two typical inputs, from the fixed point of their length.

    For χ > 1 it is the one root of r(x) = 1 with 0 < x <= 1 (r falls from χ at x = 0 to at
    most 1 at x = 1, since E φ(u)φ(v) is a power series in c with coefficients >= 0);
    otherwise c* = 1. At q* = 0 the map is that of infinitesimal lengths: where it leaves
    every c alone, c* is ABSENT.

    References
    ----------
    Poole et al. 2016, eq. 5; Schoenholz et al. 2017, eqs. 7-9.
    """
    zero = point.length.value == 0
    q = jnp.where(zero, SHORTEST, point.length.value)
    q = jnp.where(jnp.isfinite(q) & (q > 0), q, 1.0)
    # The slope of the correlation map at c = 1 is that of the distance over that of the length.
    chi = jnp.where(zero, point.slope.value / point.multiplier.value, point.slope.value)
    chi_error = point.slope.error
    chaotic = chi > 1 + chi_error + tolerance

    found = _solve_correlation((body, q, chaotic), order=order)
    x, turn = jnp.exp(found.y), found.turn
    slope = turn.pair_slope
    # Errors. By Price's theorem the pair slope is ∂s'/∂s, which gives d log r/dx.
    log_r = _log_ratio(found.y, turn)
    steepness = slope * q / turn.separation - 1 / x
    r_error = _ratio_error(turn, found.error) + jnp.abs(log_r)
    q_error = jnp.where(zero, 0.0, point.length.error) / q
    x_error = r_error / jnp.abs(steepness) + found.moved_x * q_error
    # The slope is convex in c, so that the chord to c = 1 bounds how fast it changes.
    slope_error = found.error.pair_slope + jnp.abs(chi - slope) / x * x_error
    slope_error = slope_error + found.moved_slope * q_error
    x_error, slope_error = frozen((x_error, slope_error))

    # Without chaos c* = 1, unless no correlation moves at all.
    moves = jnp.abs(log_r) > 1e-12
    one = ~chaotic & (~zero | moves)
    absent = (~chaotic & zero & ~moves) | ~jnp.isfinite(point.length.value)
    x, x_error = (jnp.where(one, 0.0, v) for v in (x, x_error))
    slope = jnp.where(one, chi, slope)
    slope_error = jnp.where(one, chi_error, slope_error)
    found = CorrelationPoint(
        as_estimate(1 - x, x_error, tolerance, 1.0),
        as_estimate(x, x_error, tolerance),
        as_estimate(slope, slope_error, tolerance),
    )
    return replace_where(absent, Status.ABSENT, found)
