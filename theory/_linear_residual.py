"""Linear residual networks while they are trained, and when what they learn shows in the weights.

Layers h ↦ h + W_l h, whitened inputs and the loss ½‖∏(1 + W_l) − M‖² with a symmetric target M.
Started at W = 0, gradient flow keeps all layers equal and commuting with M: every eigenvalue μ of
M is learnt on its own. The product gain y = (1 + w)^L of its direction obeys

    dy/dt = L y^{2 − 2/L} (μ − y),     y(0) = 1.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from theory._architecture import check_count
from theory._status import Estimate, Status, as_estimate

_HALVINGS = 200
_NODES = (64, 56)


def linear_residual_gain(target: float, depth: int, time: Any, *, rate: float = 1.0) -> Estimate:
    """The gain y of a linear residual network in one direction, during gradient flow.

    Every layer has the eigenvalue w = y^{1/L} − 1 there, and Frobenius cosines of gradients and
    of weights are 1 at all times.

    Parameters
    ----------
    target
        The eigenvalue μ > 0 of the target.
    depth
        Layers L.
    time
        Times t ≥ 0, one or several; for gradient descent, steps times learning rate.
    rate
        Multiplies the loss, and so the time.

    Returns
    -------
    Estimate
        y at every time, between 1 and μ.

    Raises
    ------
    ValueError
        If the target is not positive, the depth not a whole number, or a time is negative.

    Notes
    -----
    With y = μ − (μ − 1) e^{−s} the flow is dt/ds = y^{2/L − 2}/L, which has no singularity: t(s)
    is an integral of a smooth function, and is inverted by bisection.

    References
    ----------
    Saxe, McClelland and Ganguli 2014, arXiv 1312.6120, for chains without skip connections;
    Hardt and Ma 2017, arXiv 1611.04231, for the residual ones. The form of the solution is
    derived here.
    """
    check_count("depth", depth)
    times = np.atleast_1d(np.asarray(time, float))
    if not (math.isfinite(target) and target > 0):
        raise ValueError(f"`target`: must be finite and above 0; got {target}")
    if not np.all(np.isfinite(times) & (times >= 0)):
        raise ValueError("`time`: must be finite and at least 0; got another")
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"`rate`: must be finite and above 0; got {rate}")
    values = [_gain(target, depth, times * rate, nodes) for nodes in _NODES]
    error = 5 * np.abs(values[0] - values[1]) + 64 * np.finfo(float).eps * values[0]
    return as_estimate(jnp.asarray(values[0]), jnp.asarray(error), 1e-8)


def _gain(target: float, depth: int, times: np.ndarray, count: int) -> np.ndarray:
    node, weight = np.polynomial.legendre.leggauss(count)
    power = 2 / depth - 2

    def elapsed(x):
        """t where e^{−s} = x: the limit of late times and the integral of what differs from it."""
        place = x[:, None] + (1 - x[:, None]) * (node + 1) / 2
        y = target - (target - 1) * place
        rest = (y**power - target**power) / place @ weight * (1 - x) / 2
        return (rest - target**power * np.log(x)) / depth

    low, high = np.full(times.shape, -700.0), np.zeros(times.shape)  # log x
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        late = elapsed(np.exp(middle)) > times
        low, high = np.where(late, middle, low), np.where(late, high, middle)
    return target - (target - 1) * np.exp((low + high) / 2)


def spike_overlap(strength: Any, aspect: float = 1.0) -> tuple[Estimate, Estimate]:
    """⟨u_1, u⟩² and ⟨v_1, v⟩² of the leading singular vectors of noise + s u vᵀ, at infinite size.

    The noise has m × n independent entries of variance σ²/n, `strength` is s/σ, and `aspect`
    c = m/n. Below c^{1/4} the leading vectors know nothing of u and v, and both are 0; above,

        ⟨u_1, u⟩² = 1 − c (1 + θ²)/(θ² (θ² + c)),     ⟨v_1, v⟩² = 1 − (c + θ²)/(θ² (θ² + 1)),

    which for square matrices are both 1 − 1/θ². So layers with one update in common and noise of
    their own have |⟨v_1, v_1'⟩| = √(⟨v_1, v⟩² ⟨v_1', v⟩²): continuity sets in where the update
    reaches half of the edge 2σ of the noise, and not before.

    Raises
    ------
    ValueError
        If the aspect is not positive or a strength is negative.

    References
    ----------
    Benaych-Georges and Nadakuditi 2012, arXiv 1103.2221, section 3.1.
    """
    theta = np.asarray(strength, float)
    if not (math.isfinite(aspect) and aspect > 0):
        raise ValueError(f"`aspect`: must be finite and above 0; got {aspect}")
    if not np.all(theta >= 0):
        raise ValueError("`strength`: must be at least 0; got another")
    square = np.maximum(theta**2, math.sqrt(aspect))
    above = theta**2 > math.sqrt(aspect)
    found = []
    for lost in (
        aspect * (1 + square) / (square * (square + aspect)),
        (aspect + square) / (square * (square + 1)),
    ):
        value = jnp.asarray(np.where(above, 1 - lost, 0.0))
        error = jnp.full_like(value, 8 * np.finfo(float).eps)
        found.append(Estimate(value, error, jnp.full(value.shape, Status.OK, jnp.int8)))
    return found[0], found[1]
