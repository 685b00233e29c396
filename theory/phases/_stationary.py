"""The stationary state of a random recurrent network: dynamic mean-field theory at long times."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Int

from theory.description import Affine, Part, check_layer, check_no_noise, directly
from theory.gaussian import frozen
from theory.numerics import (
    Array,
    Estimate,
    cast,
    check_length,
    check_order,
    check_positive,
    needs_float64,
    xp,
)
from theory.phases._attractor import attractor
from theory.phases._correlation import stable_correlation
from theory.phases._prediction import is_allowed, phase_of, settled


class StationaryState(eqx.Module):
    """z_{t+1} = W φ(z_t) + b + ξ_t at long times, with W and b fixed and ξ fresh at every step.

    The autocorrelation Γ(τ) = E z_t·z_{t+τ}/k is q at τ = 0 and c q at every other τ: the step
    from (t, s) to (t+1, s+1) does not involve other time lags, and all lags converge to the same
    fixed point. Without b, and if c = 0, the chaos is white in time.
    """

    length: Estimate
    """q = Γ(0)."""
    correlation: Estimate
    """c = Γ(τ)/Γ(0), τ ≥ 1: 1 if the state comes to rest, less if it is chaotic or driven by
    noise; the remainder is the part that b fixes."""
    separation: Estimate
    """1 − c, to full relative accuracy."""
    slope: Estimate
    """χ = σ_w² E φ'(z)²: the factor per step on the squared distance of two states under the
    same noise."""
    exponent: Estimate
    """The largest Lyapunov exponent, λ = ½ log χ."""
    phase: Int[Array, ""]
    """`Phase`, by the sign of λ."""


def stationary_state(
    body: Part,
    noise_variance: Any = 0.0,
    *,
    start: float = 1.0,
    tolerance: float = 1e-10,
    order: int = 64,
) -> StationaryState:
    """The stationary state of a recurrent network at infinite width.

    Parameters
    ----------
    body
        One step, such as `layer`: W and b of a `Recurrent`, drawn once.
    noise_variance
        Variance per real component of Gaussian noise that is fresh for every unit and step
        (the drives of inputs that are independent over time).
    start
        Length from which the fixed point is reached.
    tolerance, order
        As in `predict`.

    Notes
    -----
    At equal times W could be drawn again at every step: q, χ and their fixed points are those
    of a deep network whose bias has variance σ_b² + noise. Static bias and noise differ in c,
    and in that a state may come to rest under the first but not under the second. The
    transition to chaos is therefore that of deep networks: σ_w |φ'(0)| = 1 without bias and
    noise; noise shifts it to larger σ_w.

    Raises
    ------
    ValueError
        If `noise_variance` is not finite and at least 0; otherwise as `predict`.

    Accuracy
    --------
    As `predict`; λ and c have their own errors. c solves 1 − c = (s' + noise)/q, where the body
    maps the separation q (1 − c) to s': one equation, whose root is bracketed.

    References
    ----------
    Molgedey, Schuchhardt and Schuster 1992 (noise suppresses chaos); Cessac 1995;
    Sompolinsky, Crisanti and Sommers 1988 (continuous time).
    """
    needs_float64("stationary_state")
    check_layer(body, "body")
    check_no_noise("body", body)
    check_length("noise_variance", noise_variance)
    check_positive("start", start)
    check_positive("tolerance", tolerance)
    check_order(order)
    body = cast(body, xp.result_type(float))
    noise = xp.asarray(noise_variance, xp.result_type(float))
    return _stationary(body, noise, start, tolerance, order)


@directly
def _stationary(body, noise, start, tolerance, order) -> StationaryState:
    whole = _with_bias(body, noise)
    reached = attractor(whole, start=start, tolerance=tolerance, order=order)
    pair = stable_correlation(body, reached.point, noise=noise, tolerance=tolerance, order=order)
    allowed, chi = is_allowed(whole), reached.point.slope
    # Every χ within its error.
    log = lambda chi: xp.log(chi) / 2
    ends = log(chi.value + chi.error), log(xp.maximum(chi.value - chi.error, 0.0))
    spread = xp.maximum(ends[0] - log(chi.value), log(chi.value) - ends[1])
    state = StationaryState(
        reached.point.length,
        pair.correlation,
        pair.separation,
        chi,
        Estimate(log(chi.value), frozen(spread), chi.status),
        phase_of(reached, allowed, tolerance),
    )
    return settled(state, allowed)


def _with_bias(body: Part, added: Array) -> Part:
    """The body with additional bias variance in its last affine map."""
    is_affine = lambda node: isinstance(node, Affine)
    last = lambda part: [n for n in jax.tree.leaves(part, is_leaf=is_affine) if is_affine(n)][-1]
    return eqx.tree_at(lambda part: last(part).bias_variance, body, replace_fn=lambda b: b + added)
