"""Phases of random networks: one point, the critical line, whole diagrams."""

import enum
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from theory._activations import Activation, Radial
from theory._architecture import Affine, Normalise, Part, Pointwise, check_count, check_positive
from theory._expectation import single_moments
from theory._fixed_point import stable_correlation
from theory._interpret import Reading, interpret
from theory._length_point import Attractor, attractor
from theory._moment_integrals import Tree, frozen
from theory._precision import cast, needs_float64
from theory._radial_moments import radial_moments
from theory._roots import root_between_nodes
from theory._status import Estimate, Status, as_estimate, replace_where
from theory._turn import check_turn


class Phase(enum.IntEnum):
    """How a deep network treats two nearby inputs."""

    ORDERED = 0
    """χ < 1: they merge."""
    CRITICAL = 1
    """χ = 1 to within its error and the tolerance."""
    CHAOTIC = 2
    """χ > 1: they part."""
    DIVERGENT = 3
    """The length itself grows without bound."""
    UNKNOWN = 4
    """The parameters are not allowed, or no fixed point was found."""


class Prediction(eqx.Module):
    """What mean-field theory says of a network of infinite depth.

    Every field but `phase` is an `Estimate`; `phase` holds a `Phase`.
    """

    length: Estimate
    """q*, the stable fixed point of the length reached from a typical input."""
    slope: Estimate
    """χ: the factor per layer of the squared distance of two nearby inputs, at q*."""
    correlation: Estimate
    """c*, the stable fixed point of the correlation."""
    separation: Estimate
    """1 − c*, to full relative accuracy."""
    multiplier: Estimate
    """λ = dq'/dq at q*."""
    correlation_slope: Estimate
    """Slope of the correlation map at c*."""
    depth_scale_length: Estimate
    """ξ_q = −1/log|λ|."""
    depth_scale_correlation: Estimate
    """ξ_c = −1/log(slope of the correlation map at c*)."""
    phase: Int[Array, ""]


class _Allowed(Reading[Any]):
    """Whether every variance is finite and >= 0, and every parameter of φ finite."""

    def affine(self, node: Affine, state):
        variances = (node.weights.variance, node.bias_variance)
        for v in variances:
            state = state & jnp.all(jnp.isfinite(v) & (v >= 0))
        return state, None

    def pointwise(self, node: Pointwise, state):
        for leaf in jax.tree.leaves(eqx.filter(node.activation, eqx.is_inexact_array)):
            state = state & jnp.all(jnp.isfinite(leaf))
        return state, None

    def normalise(self, node: Normalise, state):
        return state, None

    def add(self, skip, branch):
        return branch, None

    def through_time(self, turn, state, steps):
        return turn(self, state, state)[0], None


def depth_scale(multiplier: Estimate, marginal: Any, tolerance: float) -> Estimate:
    """−1/log|m|, infinite where m is 1."""
    m = jnp.abs(multiplier.value)
    inside = jnp.where(marginal, 0.5, m)
    log = jnp.log(inside)
    scale = -1 / log
    # m = 0: forgotten in one layer.
    scale = jnp.where(inside == 0, 0.0, scale)
    error = jnp.where(inside == 0, 0.0, multiplier.error / (jnp.maximum(inside, 1e-300) * log**2))
    estimate = as_estimate(scale, error, tolerance)
    estimate = replace_where(marginal, Status.INFINITE, estimate)
    # m > 1: what has no fixed point to approach has no depth scale.
    return replace_where(~(m < 1 + tolerance) & ~marginal, Status.ABSENT, estimate)


def is_allowed(body: Part) -> Bool[Array, ""]:
    """Whether every variance is finite and >= 0, and every parameter of φ finite."""
    return interpret(body, _Allowed(), jnp.asarray(True))[0]


def phase_of(reached: Attractor, allowed: Array, tolerance: float) -> Int[Array, ""]:
    """The `Phase` at the fixed point that was reached."""
    chi = reached.point.slope
    phase = jnp.where(chi.value < 1, Phase.ORDERED, Phase.CHAOTIC)
    critical = jnp.abs(chi.value - 1) <= tolerance + chi.error
    phase = jnp.where(critical, Phase.CRITICAL, phase)
    phase = jnp.where(reached.divergent, Phase.DIVERGENT, phase)
    known = allowed & jnp.isfinite(chi.value)
    return jnp.where(known, phase, Phase.UNKNOWN).astype(jnp.int8)


def _scale_of(multiplier: Estimate, tolerance: float) -> Estimate:
    marginal = jnp.abs(jnp.abs(multiplier.value) - 1) <= tolerance + multiplier.error
    return depth_scale(multiplier, marginal, tolerance)


def at_length(reached: Attractor, tolerance: float) -> dict[str, Estimate]:
    """The fields of a `Prediction` that follow from the length alone."""
    point = reached.point
    scale = replace_where(reached.divergent, Status.ABSENT, _scale_of(point.multiplier, tolerance))
    return {
        "length": point.length,
        "slope": point.slope,
        "multiplier": point.multiplier,
        "depth_scale_length": scale,
    }


def settled(found: Tree, allowed: Array) -> Tree:
    """Nothing is silently NaN: a value that is not a number has a status that says so."""
    lost = lambda e: jnp.isnan(e.value) & (e.status <= Status.INACCURATE)
    found = replace_where(lost, Status.NOT_CONVERGED, found)
    return replace_where(~allowed, Status.INVALID, found)


def complete(body: Part, reached: Attractor, tolerance: float, order: int) -> Prediction:
    pair = stable_correlation(body, reached.point, tolerance=tolerance, order=order)
    allowed = is_allowed(body)
    prediction = Prediction(
        **at_length(reached, tolerance),
        correlation=pair.correlation,
        separation=pair.separation,
        correlation_slope=pair.slope,
        depth_scale_correlation=_scale_of(pair.slope, tolerance),
        phase=phase_of(reached, allowed, tolerance),
    )
    return settled(prediction, allowed)


def predict(
    body: Part, *, start: float = 1.0, tolerance: float = 1e-10, order: int = 64
) -> Prediction:
    """Mean-field prediction for infinitely many turns of `body`.

    Parameters
    ----------
    body
        One turn, as made by `layer`. A `Repeat` is one turn of all its layers: χ is that of all
        of them, and depth scales count such turns.
    start
        Length of the typical input from which the fixed point is reached.
    tolerance
        Relative error beyond which a value is INACCURATE, and the width of "critical".
    order
        Nodes per panel of the quadrature.

    Returns
    -------
    Prediction
        Scalars; `jax.vmap` and `jax.grad` apply (fixed points by implicit differentiation).

    Raises
    ------
    ValueError
        If `start` or `tolerance` is not above 0, or `order` below 8; if `body` is a whole
        network; if JAX is without float64.
    TypeError
        If one turn does not lead from pre-activations to pre-activations.

    Accuracy
    --------
    Errors hold quadrature, rounding and their propagation to first order. Near criticality
    those of c* and of ξ grow like 1/|1 − slope|, and say so.

    References
    ----------
    Poole et al. 2016 (fixed points); Schoenholz et al. 2017 (depth scales).
    """
    needs_float64("predict")
    check_turn(body)
    check_positive("start", start)
    check_positive("tolerance", tolerance)
    check_count("order", order, 8)
    return _predict(body, start, tolerance, order)


@eqx.filter_jit
def _predict(body, start, tolerance, order) -> Prediction:
    reached = attractor(body, start=start, tolerance=tolerance, order=order)
    return complete(body, reached, tolerance, order)


class CriticalLine(eqx.Module):
    """Points with χ = 1, one per length."""

    length: Float[Array, "*points"]
    weight_variance: Estimate
    bias_variance: Estimate
    multiplier: Estimate
    """λ = dq'/dq there: where it is above 1 the point repels lengths; 1: half-stable."""


def _critical_at(activation: Activation, k: int, q: Array, order: int):
    """σ_w², σ_b² and dq'/dq on the critical line at length q, each with its error."""
    activation = cast(activation, q.dtype)
    if isinstance(activation, Radial):
        value, error = radial_moments(activation, q, k, order=order)
        slope, slope_error = value.trace, error.trace
    else:
        value, error = single_moments(activation, q, order=order)
        slope, slope_error = value.derivative_square, error.derivative_square
    eps = 4 * jnp.finfo(q.dtype).eps
    weight = 1 / slope
    weight_error = weight * (slope_error / slope + eps)
    bias = q - weight * value.square
    bias_error = weight_error * value.square + weight * error.square + eps * q
    rate = weight * value.square_rate
    rate_error = weight * error.square_rate + weight_error * jnp.abs(value.square_rate)
    return weight, weight_error, bias, bias_error, rate, rate_error


def critical_line(
    activation: Activation,
    lengths: Any,
    *,
    components: int = 1,
    tolerance: float = 1e-10,
    order: int = 64,
) -> CriticalLine:
    """The line χ = 1 of z ↦ W φ(z) + b, parametrised by the length q* on it.

    For radial φ on units of k `components`, 1/σ_w² = E tr(φ'φ'ᵀ)/k instead.

    σ_w² = 1/E φ'(√q z)², σ_b² = q − σ_w² E φ(√q z)²: there is no fixed point to solve, so
    criticality costs nothing. Lengths at which σ_b² would be negative are ABSENT.

    References
    ----------
    The parametric form follows from Schoenholz et al. 2017, eqs. 3 and 5.
    """
    needs_float64("critical_line")
    q = jnp.atleast_1d(jnp.asarray(lengths, jnp.result_type(float)))

    def at(q):
        w, dw, b, db, rate, drate = _critical_at(activation, components, q, order)
        # σ_b² is a difference of lengths; its error is judged against the length.
        line = CriticalLine(
            q,
            as_estimate(w, dw, tolerance),
            as_estimate(b, db, tolerance, q),
            as_estimate(rate, drate, tolerance),
        )
        return replace_where(b < -db, Status.ABSENT, line)

    return eqx.filter_jit(jax.vmap(at))(q)


class CriticalPoints(eqx.Module):
    """Critical points of one activation; unused places are ABSENT."""

    length: Estimate
    weight_variance: Estimate
    bias_variance: Estimate
    multiplier: Estimate


_LINE = np.log(np.geomspace(1e-10, 1e6, 193))


def critical_points(
    activation: Activation,
    bias_variance: Any,
    *,
    components: int = 1,
    tolerance: float = 1e-10,
    order: int = 64,
) -> CriticalPoints:
    """All points of the critical line with a given bias variance > 0, shortest length first."""
    needs_float64("critical_points")
    target = jnp.asarray(bias_variance, jnp.result_type(float))

    return _on_the_line(_excess_bias, activation, components, target, tolerance, order)


def half_stable_points(
    activation: Activation, *, components: int = 1, tolerance: float = 1e-10, order: int = 64
) -> CriticalPoints:
    """Points where χ = 1 and dq'/dq = 1 at once, with σ_b² >= 0, shortest length first.

    There the critical line touches the edge of where the fixed point exists: the length
    attracts from one side only. Roberts, Yaida and Hanin 2022, section 5.3, for GELU and
    SWISH.
    """
    needs_float64("half_stable_points")
    return _on_the_line(_excess_multiplier, activation, components, jnp.ones(()), tolerance, order)


def _excess_bias(line, q, target):
    return (line[2] - target) / q


def _excess_multiplier(line, q, target):
    return line[4] - target


@eqx.filter_jit
def _on_the_line(
    miss: Callable, activation, components, target, tolerance, order
) -> CriticalPoints:
    """The points of the critical line where miss(line, q, target) = 0."""
    slots = 3
    nodes = jnp.asarray(_LINE, jnp.result_type(float))

    def look(y, parameters):
        activation, target = parameters
        line = _critical_at(activation, components, jnp.exp(y), order)
        return miss(line, jnp.exp(y), target), line

    both = (activation, target)
    along = lambda y: jax.jvp(lambda y: look(y, frozen(both))[0], (y,), (jnp.ones_like(y),))
    values, slopes = jax.vmap(along)(nodes)
    # Rounding can cross zero where the function is zero along the line (small lengths).
    noise = 1e-11
    crossing = (values[:-1] > 0) != (values[1:] > 0)
    crossing &= (jnp.abs(values[:-1]) > noise) & (jnp.abs(values[1:]) > noise)
    (places,) = jnp.nonzero(crossing, size=slots, fill_value=-1)

    def at(place):
        present = place >= 0
        fn = lambda y, parameters: look(y, parameters)[0]
        y, _ = root_between_nodes(fn, both, nodes, values, slopes, place, present)
        (rest, line), (rate, moved) = jax.jvp(lambda y: look(y, both), (y,), (jnp.ones_like(y),))
        w, dw, b, db, multiplier, dm = line
        y_error = (jnp.abs(rest) + (db + dw) / jnp.exp(y) + dm) / jnp.abs(rate)
        q = jnp.exp(y)
        points = CriticalPoints(
            as_estimate(q, q * y_error, tolerance),
            as_estimate(w, dw + jnp.abs(moved[0]) * y_error, tolerance),
            as_estimate(b, db + jnp.abs(moved[2]) * y_error, tolerance, q),
            as_estimate(multiplier, dm + jnp.abs(moved[4]) * y_error, tolerance),
        )
        return replace_where(~present | (b < -db), Status.ABSENT, points)

    return jax.vmap(at)(places)
