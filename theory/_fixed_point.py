"""Fixed points of the length map and of the correlation map of one turn of a network.

Notation: q length, h(y) = log(q'/q) at y = log q, λ = dq'/dq, χ slope, x = 1 − c, and
r(x) = x'/x, the factor by which one turn multiplies 1 − c.
"""

import enum
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from theory._architecture import Part, interpret
from theory._mean_field import MeanField
from theory._moments import PreActivation, given_moments
from theory._roots import bracketed_root, polished_root
from theory._status import Estimate, Status, as_estimate, choose, replace_where

SHORTEST, LONGEST = 1e-30, 1e6
"""Lengths between which fixed points are looked for."""
_SURVEY = np.log(np.concatenate([np.geomspace(SHORTEST, 1e-12, 10)[:-1], np.geomspace(1e-12, LONGEST, 128)]))
_CORRELATION_SURVEY = np.log(np.geomspace(1e-15, 1.0, 31))
_COARSE = 12
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
    length_error: Float[Array, ""]
    separation: Float[Array, ""]
    separation_error: Float[Array, ""]
    slope: Float[Array, ""]
    slope_error: Float[Array, ""]


def one_turn(body: Part, q: Any, x: Any = None, *, order: int = 64) -> Turn:
    """One turn of `body`, from one length q and, if given, 1 − c = x."""
    q = jnp.asarray(q)
    q = q.astype(jnp.result_type(q, float))
    if x is None:
        covariance, separation = q.reshape(1, 1), jnp.zeros((1, 1), q.dtype)
    else:
        s = q * x
        covariance = jnp.array([[q, q - s], [q - s, q]])
        separation = jnp.array([[jnp.zeros_like(s), s], [s, jnp.zeros_like(s)]])
    moments = given_moments(covariance[..., None, None], separation[..., None, None])
    zero = jax.tree.map(jnp.zeros_like, moments)
    reading = MeanField(order, equal_lengths=True)
    after, _ = interpret(body, reading, PreActivation(moments, zero))
    if not isinstance(after, PreActivation):
        raise TypeError(
            "`body`: one turn must go from pre-activations to pre-activations; this one ends "
            f"in {type(after).__name__} moments"
        )
    value, error = after.value, after.error
    return Turn(
        value.covariance[0, 0, 0, 0],
        error.covariance[0, 0, 0, 0],
        value.separation[0, -1, 0, 0],
        error.separation[0, -1, 0, 0],
        value.tangent[0, 0, 0],
        error.tangent[0, 0, 0],
    )


def _log_growth(body: Part, y: Float[Array, ""], order: int) -> Float[Array, ""]:
    """h(y) = log(q'/q) at q = e^y."""
    return jnp.log(one_turn(body, jnp.exp(y), order=order).length) - y


def _with_derivative(fn, y):
    return jax.jvp(fn, (y,), (jnp.ones_like(y),))


class Survey(eqx.Module):
    """h on a grid of y = log q, with the extremum nearest to zero inserted."""

    y: Float[Array, " nodes"]
    growth: Float[Array, " nodes"]
    noise: Float[Array, " nodes"]
    """|h| below this is zero as far as can be told."""
    touching: Float[Array, ""]
    """The y of the inserted extremum; NaN where there is none."""


def survey(body: Part, *, order: int = 64) -> Survey:
    """h(y) on a grid from `SHORTEST` to `LONGEST`, fine enough to tell its roots apart."""
    y = jnp.asarray(_SURVEY, jnp.result_type(float))

    def look(y):
        turn = one_turn(body, jnp.exp(y), order=order)
        return jnp.log(turn.length) - y, turn.length_error / turn.length

    (h, noise), (dh, _) = jax.vmap(lambda y: _with_derivative(look, y))(y)
    # A pair of roots between two nodes shows as an extremum that heads for zero from both ends.
    heading = (h[:-1] * dh[:-1] < 0) & (h[1:] * dh[1:] > 0) & (h[:-1] * h[1:] > 0)
    step = y[1:] - y[:-1]
    depth = jnp.minimum(jnp.abs(h[:-1]), jnp.abs(h[1:])) - step * (
        jnp.abs(dh[:-1]) * jnp.abs(dh[1:]) / (jnp.abs(dh[:-1]) + jnp.abs(dh[1:]))
    )
    i = jnp.argmin(jnp.where(heading, depth, jnp.inf))
    found = heading[i]
    guess = y[i] + jnp.where(found, step[i] * dh[i] / (dh[i] - dh[i + 1]), 0.0)
    leaves, structure = eqx.partition(body, eqx.is_array)

    def derivative(y, leaves):
        fn = lambda y: _log_growth(eqx.combine(leaves, structure), y, order)
        return _with_derivative(fn, y)[1]

    top = polished_root(derivative, guess, y[i], y[i + 1], found, leaves)
    top = jax.lax.stop_gradient(top)
    h_top, noise_top = look(top)
    # An absent extremum repeats the first node, which adds nothing.
    top, h_top = jnp.where(found, top, y[0]), jnp.where(found, h_top, h[0])
    noise_top = jnp.where(found, noise_top, noise[0])
    nodes, growth = jnp.append(y, top), jnp.append(h, h_top)
    order_ = jnp.argsort(nodes)
    return Survey(
        nodes[order_],
        growth[order_],
        jnp.append(noise, noise_top)[order_],
        jnp.where(found, top, jnp.nan),
    )


def _bracketed_length(body: Part, seen: Survey, i: Int[Array, ""], present, order: int):
    """The root of h between nodes i and i + 1; any number where `present` is false."""
    leaves, structure = eqx.partition(body, eqx.is_array)

    def fn(y, leaves):
        return _log_growth(eqx.combine(leaves, structure), y, order)

    return bracketed_root(fn, seen.y, seen.growth, i, present, leaves)


class LengthPoint(eqx.Module):
    """A fixed point of the length map: q*, λ = dq'/dq and χ there."""

    length: Estimate
    multiplier: Estimate
    slope: Estimate


def _length_point(body, y, width, tolerance, order) -> LengthPoint:
    q = jnp.exp(y)

    def look(q):
        turn = one_turn(body, q, order=order)
        return turn.length, turn.slope, turn

    (after, slope, turn), (rate, slope_rate, _) = _with_derivative(look, q)
    # |δq| = (error of the map + residual)/|1 − λ|, and never more than the bracket.
    residual = turn.length_error + jnp.abs(jax.lax.stop_gradient(after - q))
    error = jnp.minimum(residual / jnp.abs(1 - rate), q * jnp.expm1(width))
    curvature = jnp.abs(jax.grad(lambda q: _with_derivative(look, q)[1][0])(q))
    rate_error = curvature * error + turn.length_error / q
    return LengthPoint(
        as_estimate(q, error, tolerance),
        as_estimate(rate, rate_error, tolerance),
        as_estimate(slope, turn.slope_error + jnp.abs(slope_rate) * error, tolerance),
    )


class FixedPoints(eqx.Module):
    """All fixed points of the length map, shortest first; unused places are ABSENT."""

    length: Estimate
    multiplier: Estimate
    slope: Estimate
    stability: Int[Array, " slots"]
    """`Stability` of each."""
    divergent: Array
    """True where lengths beyond the last fixed point grow without bound."""


def fixed_points(body: Part, *, tolerance: float = 1e-10, order: int = 64) -> FixedPoints:
    """All fixed points of the length map of one turn, with their stability.

    Parameters
    ----------
    body
        What is repeated: from pre-activations to pre-activations, k = 1.
    tolerance
        Relative error beyond which a value is INACCURATE.
    order
        Nodes per panel of the quadrature.

    Returns
    -------
    FixedPoints
        Places for the zero fixed point and up to four others between 1e-30 and 1e6.

    Accuracy
    --------
    The error of q* is that of the map over |1 − λ|, and at most the bracket in which h
    changes sign. Two roots closer than about 1e-4 relative are reported as one HALF_STABLE
    point when h touches zero to within its error between them.
    """
    seen = survey(body, order=order)
    up = seen.growth > 0
    zero_in_sight = jnp.abs(seen.growth) <= seen.noise
    flat = zero_in_sight[:-1] & zero_in_sight[1:]
    touch = zero_in_sight & (seen.y == seen.touching)
    crossing = (up[:-1] != up[1:]) & ~flat & ~touch[:-1] & ~touch[1:]
    crossing = crossing | (touch[1:] & ~flat)
    (where,) = jnp.nonzero(crossing, size=_SLOTS, fill_value=-1)
    present = where >= 0

    def at(i, present):
        y, width = _bracketed_length(body, seen, i, present & ~touch[i + 1], order)
        y = jnp.where(touch[i + 1], seen.y[i + 1], y)
        point = _length_point(body, y, width, tolerance, order)
        half = touch[i + 1]
        steady = jnp.abs(point.multiplier.value) < 1
        stability = jnp.where(half, Stability.HALF_STABLE, jnp.where(steady, 0, 1))
        return point, stability

    points, stability = jax.vmap(at)(where, present)
    zero, zero_present, zero_stability = _zero_point(body, seen, tolerance, order)
    everything = jax.tree.map(lambda a, b: jnp.append(a, b), zero, points)
    present = jnp.append(zero_present, present)
    stability = jnp.append(zero_stability, stability)
    # relu at σ_w² = 2: no isolated point at all, every length stays where it is.
    order_ = jnp.argsort(~present, stable=True)
    present, stability = present[order_], stability[order_]
    everything = jax.tree.map(lambda a: a[order_], everything)
    everything = replace_where(~present, Status.ABSENT, everything)
    return FixedPoints(
        everything.length,
        everything.multiplier,
        everything.slope,
        jnp.where(present, stability, Stability.ABSENT).astype(jnp.int8),
        up[-1] & ~zero_in_sight[-1],
    )


def _zero_point(body, seen: Survey, tolerance, order):
    """The fixed point q* = 0: present where the map sends 0 to 0."""
    fixed = one_turn(body, jnp.zeros(()), order=order).length == 0
    turn = one_turn(body, jnp.asarray(SHORTEST), order=order)
    rate = turn.length / SHORTEST
    point = LengthPoint(
        as_estimate(jnp.zeros_like(rate), jnp.zeros_like(rate), tolerance),
        as_estimate(rate, turn.length_error / SHORTEST, tolerance),
        as_estimate(turn.slope, turn.slope_error, tolerance),
    )
    # At λ = 1 the first growth that can be told from zero decides.
    told = jnp.abs(seen.growth) > seen.noise
    first = jnp.argmax(told)
    stability = jnp.where(
        told[first],
        jnp.where(seen.growth[first] < 0, Stability.STABLE, Stability.UNSTABLE),
        Stability.NEUTRAL,
    )
    return point, fixed, stability


class Attractor(eqx.Module):
    """Where the length of a typical input goes."""

    point: LengthPoint
    divergent: Array


def attractor(
    body: Part, *, start: float = 1.0, tolerance: float = 1e-10, order: int = 64
) -> Attractor:
    """The stable fixed point of the length map that is reached from length `start`.

    Where the length grows without bound, `divergent` is true, the length is INFINITE, and
    multiplier and slope are those at length 1e6, with the change since 1e5 as their error.
    """
    seen = survey(body, order=order)
    y0 = jnp.log(jnp.asarray(start, seen.y.dtype))
    zero_in_sight = jnp.abs(seen.growth) <= seen.noise
    up = (seen.growth > 0) & ~zero_in_sight
    # Attracting brackets: h from positive to negative. The direction at the start says which.
    falls = up[:-1] & ~up[1:]
    here = jnp.clip(jnp.searchsorted(seen.y, y0, side="right") - 1, 0, seen.y.size - 2)
    h0 = _log_growth(body, y0, order)
    stays = zero_in_sight[here] & zero_in_sight[here + 1]
    index = jnp.arange(falls.size)
    # In the start's own interval the sign at the start decides which way to go.
    above = falls & ((index > here) | ((index == here) & (h0 > 0)))
    below = falls & ((index < here) | ((index == here) & (h0 <= 0)))
    rising = h0 > 0
    i = jnp.where(rising, jnp.argmax(above), falls.size - 1 - jnp.argmax(below[::-1]))
    present = jnp.where(rising, jnp.any(above), jnp.any(below)) & ~stays
    divergent = rising & ~present & ~stays
    to_zero = ~rising & ~present & ~stays

    y, width = _bracketed_length(body, seen, i, present, order)
    y = jnp.where(present, y, jnp.where(divergent, jnp.log(LONGEST), y0))
    width = jnp.where(present, width, 0.0)
    point = _length_point(body, y, width, tolerance, order)
    zero, _, _ = _zero_point(body, seen, tolerance, order)
    point = choose(to_zero, zero, point)
    point = _at_infinity(body, point, divergent, tolerance, order)
    return Attractor(point, divergent)


def _at_infinity(body, point: LengthPoint, divergent, tolerance, order) -> LengthPoint:
    def rates(q):
        turn, tangent = _with_derivative(lambda q: one_turn(body, q, order=order), q)
        return tangent.length, turn.slope

    near = rates(jnp.asarray(LONGEST / 10))
    far = rates(jnp.asarray(LONGEST))

    def at(estimate, a, b):
        limit = as_estimate(b, jnp.abs(b - a) + 1e-14 * jnp.abs(b), tolerance)
        return choose(divergent, limit, estimate)

    return LengthPoint(
        replace_where(divergent, Status.INFINITE, point.length),
        at(point.multiplier, near[0], far[0]),
        at(point.slope, near[1], far[1]),
    )


def correlation_growth(body: Part, q: Any, x: Any, *, order: int = 64) -> Float[Array, ""]:
    """r(x) = x'/x: what one turn does to 1 − c at length q."""
    turn = one_turn(body, q, x, order=order)
    return (turn.separation / (q * x)) / (turn.length / q)


class CorrelationPoint(eqx.Module):
    """The stable fixed point of the correlation map at the length's fixed point.

    `separation` is 1 − c*, to full relative accuracy; `slope` is the map's slope at c*.
    """

    correlation: Estimate
    separation: Estimate
    slope: Estimate


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
    q_error = jnp.where(zero, 0.0, point.length.error)
    # The slope of the correlation map at c = 1 is that of the distance over that of the length.
    chi = jnp.where(zero, point.slope.value / point.multiplier.value, point.slope.value)
    chi_error = point.slope.error
    chaotic = chi > 1 + chi_error + tolerance

    nodes = jnp.asarray(_CORRELATION_SURVEY, q.dtype)
    coarse = jax.vmap(lambda y: correlation_growth(body, q, jnp.exp(y), order=_COARSE))(nodes)
    coarse = jax.lax.stop_gradient(jnp.log(coarse))
    i = jnp.clip(jnp.sum(coarse > 0) - 1, 0, nodes.size - 2)
    fraction = coarse[i] / jnp.where(coarse[i] == coarse[i + 1], 1.0, coarse[i] - coarse[i + 1])
    start = nodes[i] + (nodes[i + 1] - nodes[i]) * jnp.clip(fraction, 0.0, 1.0)
    leaves, structure = eqx.partition(body, eqx.is_array)

    def fn(y, args):
        leaves, q = args
        r = correlation_growth(eqx.combine(leaves, structure), q, jnp.exp(y), order=order)
        return jnp.log(r)

    y = polished_root(fn, start, nodes[0], nodes[-1], chaotic, (leaves, q))
    x = jnp.where(chaotic, jnp.exp(y), 0.5)

    def look(q, x):
        turn = one_turn(body, q, x, order=order)
        return jnp.log(turn.separation / (q * x)) - jnp.log(turn.length / q), turn

    def at(q, x):
        (r, turn), (dr, along) = jax.jvp(lambda x: look(q, x), (x,), (jnp.ones_like(x),))
        return r, dr, along.separation / q, turn

    (r, dr, slope, turn), (_, _, slope_along, _) = jax.jvp(
        lambda x: at(q, x), (x,), (jnp.ones_like(x),)
    )
    _, (r_q, _, slope_q, _) = jax.jvp(lambda q: at(q, x), (q,), (jnp.ones_like(q),))
    local = turn.separation_error / turn.separation + turn.length_error / turn.length
    r_error = local + jnp.abs(r_q) * q_error + jnp.abs(jax.lax.stop_gradient(r))
    x_error = r_error / jnp.abs(dr)
    slope_error = local * jnp.abs(slope) + jnp.abs(slope_along) * x_error
    slope_error = slope_error + jnp.abs(slope_q) * q_error

    # Without chaos c* = 1, unless no correlation moves at all.
    moves = jnp.abs(r) > 1e-12
    one = ~chaotic & (~zero | moves)
    absent = (~chaotic & zero & ~moves) | ~jnp.isfinite(point.length.value)
    x = jnp.where(one, 0.0, x)
    x_error = jnp.where(one, 0.0, x_error)
    slope = jnp.where(one, chi, slope)
    slope_error = jnp.where(one, chi_error, slope_error)
    found = CorrelationPoint(
        as_estimate(1 - x, x_error, tolerance, 1.0),
        as_estimate(x, x_error, tolerance),
        as_estimate(slope, slope_error, tolerance),
    )
    return replace_where(absent, Status.ABSENT, found)
