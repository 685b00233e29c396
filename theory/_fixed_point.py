"""One turn of a network at a fixed length, and the fixed point of its correlation map.

Notation: q length, λ = dq'/dq, χ slope, x = 1 − c, and r(x) = x'/x, the factor by which one turn
multiplies 1 − c.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from theory._architecture import Part, components
from theory._interpret import interpret
from theory._mean_field import MeanField
from theory._moment_integrals import frozen
from theory._moments import PreActivation, given_moments
from theory._roots import newton
from theory._status import Estimate, Status, as_estimate, replace_where
from theory._turn import check_turn

SHORTEST = 1e-30
"""The shortest length at which a turn is looked at; it stands for 0."""


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
    check_turn(body)
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

    def read(m, tangent):
        return Turn(
            m.covariance[0, 0, 0, 0],
            m.separation[0, -1, 0, 0],
            tangent[0, 0, 0, 0],
            tangent[0, -1, 0, 0],
        )

    doubt = after.value.whole_tangent_error(after.error)
    return read(after.value, after.value.whole_tangent), read(after.error, doubt)


class LengthPoint(eqx.Module):
    """A fixed point of the length map: q*, λ = dq'/dq and χ there."""

    length: Estimate
    multiplier: Estimate
    slope: Estimate


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
