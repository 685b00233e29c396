"""Predictions for infinitely deep networks: phase, fixed points and depth scales."""

import enum
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Int

from theory.description import (
    Affine,
    Noise,
    Part,
    Pointwise,
    Survey,
    check_layer,
    directly,
    interpret,
)
from theory.gaussian import Tree, frozen
from theory.numerics import (
    Array,
    Estimate,
    Status,
    as_estimate,
    check_order,
    check_positive,
    choose,
    needs_float64,
    replace_where,
    xp,
)
from theory.phases._attractor import Attractor, Fate, attractor
from theory.phases._correlation import CorrelationPoint, stable_correlation


class Phase(enum.IntEnum):
    """How a deep network treats two nearby inputs."""

    ORDERED = 0
    """χ < 1: they merge."""
    CRITICAL = 1
    """χ = 1 within the tolerance, or within an error that is small."""
    CHAOTIC = 2
    """χ > 1: they diverge."""
    DIVERGENT = 3
    """The length itself grows without bound."""
    UNKNOWN = 4
    """The parameters are out of range, or errors leave it undecided."""
    UNSETTLED = 5
    """The length stays finite without converging to a fixed point: see `length_cycle`."""


class Prediction(eqx.Module):
    """Mean-field prediction for a network of infinite width and depth.

    Every field is an `Estimate`, except `phase`, which is a `Phase`.
    """

    length: Estimate
    """q*, the stable fixed point of the length that a typical input reaches."""
    slope: Estimate
    """χ: the factor per layer on the squared distance of two nearby inputs, at q*."""
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


class _Allowed(Survey[Any]):
    """Whether every variance is finite and >= 0, and every parameter of φ finite."""

    def affine(self, node: Affine, state):
        variances = (node.weights.variance, node.bias_variance)
        for v in variances:
            state = state & xp.all(xp.isfinite(v) & (v >= 0))
        return state, None

    def pointwise(self, node: Pointwise, state):
        for leaf in jax.tree.leaves(eqx.filter(node.activation, eqx.is_inexact_array)):
            state = state & xp.all(xp.isfinite(leaf))
        return state, None

    def noise(self, node: Noise, state):
        v = node.variance
        return state & xp.all(xp.isfinite(v) & (v >= 0)), None


_BLUR = 1e-6
"""An error of χ beyond this says nothing about criticality."""


def depth_scale(multiplier: Estimate, tolerance: Any) -> Estimate:
    """ξ = −1/log|m|, with an error that covers every m within its error.

    INFINITE if m agrees with 1 and its error is within the tolerance. If its error is larger, ξ
    has no upper bound, and its error is infinite.
    """
    m, error = xp.abs(multiplier.value), frozen(multiplier.error)
    error = error + np.finfo(m.dtype).eps * frozen(m)
    told = xp.abs(m - 1) > error
    marginal = ~told & (error <= tolerance)
    # m = 0: forgotten after one layer.
    scale = lambda m: xp.where(m > 0, -1 / xp.log(xp.where(m > 0, m, 0.5)), 0.0)
    at = xp.where(m < 1, m, 0.5)
    value, low, high = (scale(v) for v in (at, xp.maximum(at - error, 0), at + error))
    spread = xp.where(told, xp.maximum(high - value, value - low), xp.inf)
    value = xp.where((m < 1) | marginal, value, xp.nan)
    estimate = as_estimate(value, frozen(spread), tolerance)
    estimate = replace_where(marginal, Status.INFINITE, estimate)
    # m > 1: there is no fixed point to approach, hence no depth scale.
    nowhere = (told & (m > 1)) | (multiplier.status == Status.ABSENT)
    return replace_where(nowhere, Status.ABSENT, estimate)


def _depth_of(pair: CorrelationPoint, tolerance: Any) -> Estimate:
    """ξ_c, from the slope or from its logarithm, whichever is more accurate."""
    scale = depth_scale(pair.slope, tolerance)
    if pair.log_slope is None:
        return scale
    log, error = pair.log_slope.value, frozen(pair.log_slope.error)
    below = log + error < 0
    at = xp.where(below, log, -1.0)
    spread = xp.where(below, error / (at * (at + error)), xp.inf)
    other = as_estimate(-1 / at, frozen(spread), tolerance)
    return choose(spread < scale.error, other, scale)


def is_allowed(body: Part) -> Bool[Array, ""]:
    """Whether every variance is finite and >= 0, and every parameter of φ finite."""
    return interpret(body, _Allowed(), xp.asarray(True))[0]


def phase_of(reached: Attractor, allowed: Array, tolerance: Any) -> Int[Array, ""]:
    """The `Phase` at the fixed point that is reached."""
    chi = reached.point.slope
    off = xp.abs(chi.value - 1)
    phase = xp.where(chi.value < 1, Phase.ORDERED, Phase.CHAOTIC)
    phase = xp.where(off <= chi.error, Phase.UNKNOWN, phase)
    close = xp.maximum(xp.minimum(chi.error, _BLUR), tolerance)
    phase = xp.where((off <= close) & (chi.error <= _BLUR), Phase.CRITICAL, phase)
    # An infinite slope, of a φ that jumps, is a valid slope.
    known = (chi.value >= 0) & (reached.fate != Fate.UNKNOWN)
    known = known & (xp.isfinite(chi.error) | xp.isposinf(chi.value))
    phase = xp.where(known, phase, Phase.UNKNOWN)
    phase = xp.where(reached.fate == Fate.DIVERGENT, Phase.DIVERGENT, phase)
    phase = xp.where(reached.fate == Fate.UNSETTLED, Phase.UNSETTLED, phase)
    return xp.where(allowed, phase, Phase.UNKNOWN).astype(xp.int8)


def at_length(reached: Attractor, tolerance: Any) -> dict[str, Estimate]:
    """The fields of a `Prediction` that follow from the length alone."""
    point = reached.point
    scale = depth_scale(point.multiplier, tolerance)
    return {
        "length": point.length,
        "slope": point.slope,
        "multiplier": point.multiplier,
        "depth_scale_length": replace_where(reached.fate != Fate.POINT, Status.ABSENT, scale),
    }


def settled(found: Tree, allowed: Array) -> Tree:
    """Give every NaN value a status that explains it."""
    lost = lambda e: xp.isnan(e.value) & (e.status <= Status.INACCURATE)
    found = replace_where(lost, Status.NOT_CONVERGED, found)
    return replace_where(~allowed, Status.INVALID, found)


def complete(body: Part, reached: Attractor, tolerance: Any, order: int) -> Prediction:
    pair = stable_correlation(body, reached.point, tolerance=tolerance, order=order)
    allowed = is_allowed(body)
    prediction = Prediction(
        **at_length(reached, tolerance),
        correlation=pair.correlation,
        separation=pair.separation,
        correlation_slope=pair.slope,
        depth_scale_correlation=_depth_of(pair, tolerance),
        phase=phase_of(reached, allowed, tolerance),
    )
    return settled(prediction, allowed)


def predict(
    layer: Part, *, start: float = 1.0, tolerance: float = 1e-10, order: int = 64
) -> Prediction:
    """Mean-field prediction for infinitely many layers.

    Parameters
    ----------
    layer
        One layer, such as `theory.layer`. A `Repeat` counts as one layer: χ is the product over
        its layers, and depth scales count repeats.
    start
        Length of the typical input from which the fixed point is reached.
    tolerance
        Relative error beyond which a value is INACCURATE, and the width of "critical".
    order
        Nodes per panel of the quadrature.

    Returns
    -------
    Prediction
        Scalars. Works under `jax.vmap` and `jax.grad` (fixed points by implicit
        differentiation).

    Raises
    ------
    ValueError
        If `start` or `tolerance` is not above 0, or `order` below 8; if `layer` is a whole
        network; if JAX has no float64.
    TypeError
        If the layer does not map pre-activations to pre-activations.

    Accuracy
    --------
    Errors cover quadrature, rounding and their propagation to first order. Near criticality the
    errors of c* and of ξ grow like 1/|1 − slope|.

    References
    ----------
    Poole et al. 2016 (fixed points); Schoenholz et al. 2017 (depth scales).
    """
    needs_float64("predict")
    check_layer(layer)
    check_positive("start", start)
    check_positive("tolerance", tolerance)
    check_order(order)
    return _predict(layer, start, tolerance, order)


@directly
def _predict(body, start, tolerance, order) -> Prediction:
    reached = attractor(body, start=start, tolerance=tolerance, order=order)
    return complete(body, reached, tolerance, order)
