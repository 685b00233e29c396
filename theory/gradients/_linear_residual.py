"""Linear residual networks during training, and when what they learn becomes visible in weights.

Layers are h ↦ h + W_l h, inputs are whitened, and the loss is ½‖∏(1 + W_l) − M‖² with a symmetric
target M. Starting from W = 0, gradient flow keeps all layers equal and commuting with M, so every
eigenvalue μ of M is learnt separately. The product gain y = (1 + w)^L of its direction obeys

    dy/dt = L y^{2 − 2/L} (μ − y),     y(0) = 1.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from theory.numerics import (
    Estimate,
    Status,
    as_estimate,
    as_real,
    check_count,
    check_positive,
    check_variance,
)

_HALVINGS = 56
_NODES = 16
_LATE = 40.0
"""Value of s beyond which e^{−s} is below rounding."""


def linear_residual_gain(target: float, depth: int, time: Any, *, rate: float = 1.0) -> Estimate:
    """The gain y of a linear residual network in one direction, during gradient flow.

    Every layer has the eigenvalue w = y^{1/L} − 1 there. The Frobenius cosines of gradients and
    of weights are 1 at all times.

    Parameters
    ----------
    target
        The eigenvalue μ > 0 of the target.
    depth
        Number of layers L.
    time
        Times t ≥ 0, one or several; for gradient descent, steps times learning rate.
    rate
        Factor on the loss, and therefore on the time.

    Returns
    -------
    Estimate
        y at every time, between 1 and μ.

    Raises
    ------
    ValueError
        If the target is not positive, the depth not a whole number, or a time is negative.

    Accuracy
    --------
    The error is the change of y due to rounding of the elapsed time. If μ is large and L above
    2, y explodes within a short time, and its relative error is of order μ eps.

    Notes
    -----
    With y = μ − (μ − 1) e^{−s} the flow is dt/ds = y^{2/L − 2}/L. So t(s) is the integral of a
    positive function, which is inverted by bisection.

    References
    ----------
    Saxe, McClelland and Ganguli 2014, arXiv 1312.6120, for chains without skip connections;
    Hardt and Ma 2017, arXiv 1611.04231, for residual ones. The form of the solution is derived
    here.
    """
    check_count("depth", depth)
    check_positive("target", target)
    check_variance("time", time)
    check_positive("rate", rate)
    times = np.atleast_1d(np.asarray(time, float))
    with np.errstate(over="ignore", under="ignore"):
        value, error = _gain(float(target), depth, times * rate)
    eps = float(jnp.finfo(jnp.result_type(float)).eps)
    return as_estimate(jnp.asarray(value), jnp.asarray(error + 4 * eps * value), 1e-8)


def _gain(target: float, depth: int, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """y at every time, and its error."""
    node, weight = np.polynomial.legendre.leggauss(_NODES)
    node, weight = (node + 1) / 2, weight / 2

    def gain(s):
        """A sum of positive terms, both below 1 and above."""
        if target < 1:
            return target + (1 - target) * np.exp(-s)
        return 1 - (target - 1) * np.expm1(-s)

    def elapsed(start, length):
        """Time on the panel: y^{2/L − 2} has its branch points at least a length away."""
        y = gain(start[:, None] + length[:, None] * node)
        return y ** (2 / depth - 2) @ weight * length / depth

    edges = _edges(target)
    panels = np.diff(edges)
    total = np.concatenate([[0.0], np.cumsum(elapsed(edges[:-1], panels))])
    off = (32 + panels.size) * np.finfo(float).eps
    # Elapsed times have the relative error `off`; y lies between its values at these ends.
    around = times * np.array([1.0, 1 - off, 1 + off])[:, None]
    sought = around.ravel()
    place = np.clip(np.searchsorted(total, sought, side="right") - 1, 0, panels.size - 1)
    start, left = edges[place], sought - total[place]
    low, high = np.zeros(sought.shape), panels[place]
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        late = elapsed(start, middle) > left
        low, high = np.where(late, low, middle), np.where(late, middle, high)
    y = gain(start + (low + high) / 2).reshape(around.shape)
    y = np.where(times > 0, y, 1.0)
    return y[0], np.max(np.abs(y[1:] - y[0]), axis=0)


def _edges(target: float) -> np.ndarray:
    """Ends of panels of s, none longer than 1 or than the distance to where y = 0."""
    end = _LATE + max(-math.log(target), 0.0)
    away = math.log1p(1 / (target - 1)) if target > 1 else 1.0
    edges = [0.0]
    while edges[-1] < end:
        edges.append(edges[-1] + min(edges[-1] + away, 1.0))
    return np.array(edges)


def spike_overlap(strength: Any, aspect: float = 1.0) -> tuple[Estimate, Estimate]:
    """⟨u_1, u⟩² and ⟨v_1, v⟩² of the leading singular vectors of noise + s u vᵀ, at infinite size.

    The noise is an m × n matrix of independent entries with variance σ²/n. For s/σ = θ below
    c^{1/4}, c = m/n, the leading vectors are independent of u and v, and both overlaps are 0.
    Above,

        ⟨u_1, u⟩² = (1 − c/θ⁴)/(1 + c/θ²),     ⟨v_1, v⟩² = (1 − c/θ⁴)/(1 + 1/θ²),

    both equal to 1 − 1/θ² for square matrices. Layers that share one update and have independent
    noise therefore have |⟨v_1, v_1'⟩| = √(⟨v_1, v⟩² ⟨v_1', v⟩²): continuity sets in when the
    update exceeds half the edge 2σ of the noise, and not before.

    Parameters
    ----------
    strength
        θ = s/σ, at least 0, one or several.
    aspect
        The aspect ratio c = m/n.

    Raises
    ------
    ValueError
        If the aspect is not positive or a strength is negative.

    References
    ----------
    Benaych-Georges and Nadakuditi 2012, arXiv 1103.2221, section 3.1.
    """
    check_positive("aspect", aspect)
    theta = np.asarray(as_real("strength", strength), float)
    if not np.all(theta >= 0):
        raise ValueError(f"`strength`: must be at least 0; got {theta[~(theta >= 0)].ravel()[0]}")
    root = math.sqrt(math.sqrt(aspect))
    # Nothing is squared, so nothing overflows.
    ratio = np.minimum(root / np.maximum(theta, root), 1.0)
    share = (1 - ratio**2) * (1 + ratio**2)
    safe = np.maximum(theta, root)
    left = share / (1 + (math.sqrt(aspect) / safe) ** 2)
    right = share / (1 + (1 / safe) ** 2)
    return _overlap(left), _overlap(right)


def _overlap(value: Any) -> Estimate:
    found = jnp.asarray(value)
    error = jnp.full_like(found, 8 * jnp.finfo(found.dtype).eps)
    return Estimate(found, error, jnp.full(found.shape, Status.OK, jnp.int8))
