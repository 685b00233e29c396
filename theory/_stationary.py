"""The stationary state of a random recurrent network: dynamic mean field after long times."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from theory._architecture import Affine, Part, check_variance, components
from theory._interpret import interpret
from theory._mean_field import MeanField
from theory._moments import PreActivation, given_moments, per_component
from theory._phase import predict
from theory._precision import cast, needs_float64
from theory._status import Estimate, Status, as_estimate, replace_where

_STEPS = 20000


class StationaryState(eqx.Module):
    """z_{t+1} = W φ(z_t) + b + ξ_t after long times, with W and b fixed and ξ fresh.

    The autocorrelation Γ(τ) = E z_t·z_{t+τ}/k is q at τ = 0 and c q at every other τ: the step
    from (t, s) to (t+1, s+1) does not know of other time differences, and all of them go to
    the same fixed point. Without b and where c = 0 the chaos is white in time.
    """

    length: Estimate
    """q = Γ(0)."""
    correlation: Estimate
    """c = Γ(τ)/Γ(0), τ ≥ 1: 1 where the state comes to rest, less where it is chaotic or noise
    moves it; what is left is the part that b fixes."""
    slope: Estimate
    """χ = σ_w² E φ'(z)²: the factor per step of the squared distance of two states under the
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
        One step, as `layer` makes it: W and b of a `Recurrent`, drawn once.
    noise_variance
        Variance per real component of Gaussian noise that is fresh for every unit and step
        (the drives of inputs that are independent over time).
    start
        Length from which the fixed point is reached.
    tolerance, order
        As in `predict`.

    Notes
    -----
    At equal times W might be drawn again at every step: q, χ and their fixed points are those
    of a deep network whose bias has the variance σ_b² + noise. What tells the static bias from
    the noise is c, and that a state may come to rest under the one and not under the other. So
    the transition to chaos is that of deep networks: σ_w |φ'(0)| = 1 without bias and noise,
    and noise moves it to larger σ_w.

    Raises
    ------
    ValueError
        If `noise_variance` is not finite and at least 0.

    Accuracy
    --------
    As `predict`; λ and c carry their own errors.

    References
    ----------
    Molgedey, Schuchhardt and Schuster 1992 (noise suppresses chaos); Cessac 1995;
    Sompolinsky, Crisanti and Sommers 1988 (continuous time).
    """
    needs_float64("stationary_state")
    check_variance("noise_variance", noise_variance)
    body = cast(body, jnp.result_type(float))
    noise = jnp.asarray(noise_variance, jnp.result_type(float))
    found = predict(_with_bias(body, noise), start=start, tolerance=tolerance, order=order)
    chi = found.slope
    log = jnp.log(chi.value) / 2
    exponent = Estimate(log, chi.error / (2 * chi.value), chi.status)
    moved = _correlation(body, found.length, tolerance, order)
    correlation = jax.tree.map(lambda x, y: jnp.where(noise > 0, x, y), moved, found.correlation)
    return StationaryState(found.length, correlation, chi, exponent, found.phase)


def _with_bias(body: Part, added: Array) -> Part:
    """The body with more variance in the bias of its last affine map."""
    is_affine = lambda node: isinstance(node, Affine)
    last = lambda part: [n for n in jax.tree.leaves(part, is_leaf=is_affine) if is_affine(n)][-1]
    return eqx.tree_at(lambda part: last(part).bias_variance, body, replace_fn=lambda b: b + added)


def _correlation(body: Part, length: Estimate, tolerance: float, order: int) -> Estimate:
    """The fixed point of the covariance of two times, reached from 0, at a given length."""
    q, k = length.value, components(body)
    unit = jnp.eye(k, dtype=q.dtype)

    def advance(c):
        pair = (q * jnp.array([[1, c], [c, 1]]))[..., None, None] * unit[None, None]
        moments = given_moments(pair)
        zero = jax.tree.map(jnp.zeros_like, moments)
        after, _ = interpret(body, MeanField(order, errors=False), PreActivation(moments, zero))
        return per_component(after.value.covariance[0, 1]) / q

    def turn(state):
        c, step, _, count = state
        new = advance(c)
        rate = jnp.abs(new - c) / jnp.where(step > 0, step, 1)
        return new, jnp.abs(new - c), jnp.where(step > 0, rate, 0.5), count + 1

    def going(state):
        _, step, rate, count = state
        left = step * rate / jnp.maximum(1 - rate, 1e-3)
        return (count < 2) | ((left > tolerance / 10) & (count < _STEPS))

    zero = jnp.zeros_like(q)
    c, step, rate, _ = jax.lax.while_loop(going, turn, (zero, zero, zero + 0.5, 0))
    left = step * rate / jnp.maximum(1 - rate, 1e-3)
    own = length.error / jnp.where(q > 0, q, 1)
    estimate = as_estimate(c, left + 2 * own + 16 * jnp.finfo(q.dtype).eps, tolerance)
    return replace_where(~(q > 0), Status.ABSENT, estimate)
