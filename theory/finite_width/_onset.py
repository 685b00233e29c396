"""The onset of the broken phase at finite width.

Notation: t = σ_w² g'(0)² − 1; N = width · k, the real numbers in the state of a layer; α is the
curvature of the length map, (1 + t)(q − α q² + …).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from theory.description import Activation, AlgebraName, Radial, WeightLaw, check_activation
from theory.numerics import Array, as_real, check_count


class OnsetLaw(NamedTuple):
    """The length q of a deep network close to the onset: a Gamma variable."""

    shape: Float[Array, "*points"]
    """N t − 1. If it is 0 or below, the network forgets its input and q = 0."""
    scale: Float[Array, "*points"]
    """1/(α N)."""
    mean: Float[Array, "*points"]
    """(t − 1/N)/α: finite width shifts the onset up by 1/N, and it stays sharp."""
    deviation: Float[Array, "*points"]
    """Standard deviation of q over networks or layers: mean/√shape."""


def onset_curvature(activation: Activation, components: int = 1) -> Float[Array, ""]:
    """The coefficient α in E g(r)²/k = g'(0)² (q − α q² + O(q³)).

    It is −g'''(0)(k + 2)/(3 g'(0)). Mean-field theory then gives q* = t/α + O(t²) above the
    onset.

    Parameters
    ----------
    activation
        Radial, or odd with one component.
    components
        Number k of real components of a unit.

    Raises
    ------
    ValueError
        Unless g starts as a smooth odd function with g'(0) > 0 and g'''(0) < 0.
    """
    check_activation(activation)
    check_count("components", components)
    first, third = _beginning(activation)
    return -third * (components + 2) / (3 * first)


def onset_law(
    activation: Activation,
    weight_variance: Float[Array | np.ndarray, "*points"] | float,
    *,
    width: int,
    components: int = 1,
    algebra: AlgebraName = "real",
) -> OnsetLaw:
    """The distribution of the length in a deep network of finite width, close to the onset.

    Without bias, q' = (1 + t)(q − α q²) χ²_N/N: a random factor of variance 2/N per layer. For
    small t and large N this becomes dq = q (t − α q) dl + q √(2/N) dW, with stationary density
    ∝ q^(N t − 2) exp(−α N q).

    Parameters
    ----------
    activation
        Radial, or odd with one component.
    weight_variance
        σ_w².
    width
        Units per layer.
    components, algebra
        Of a unit and of the weights, as in `theory.layer`. A unit must be one number over the
        algebra: O(1), U(1) or Sp(1). The covariance of several numbers is a matrix whose ranks
        appear one after the other; N q is then still a function of N t, but a different one.

    Accuracy
    --------
    Leading order in t at fixed N t, at depths much larger than N.

    Raises
    ------
    ValueError
        If a unit is not one number over the algebra, or g'''(0) is not negative.

    References
    ----------
    Derived here. The diffusion is logistic growth with multiplicative noise (Horsthemke and
    Lefever 1984, chapter 6). Checked against simulation.
    """
    check_activation(activation)
    check_count("width", width)
    weight_variance = as_real("weight_variance", weight_variance)
    law = WeightLaw(1.0, components=components, algebra=algebra)
    if len(law.table) != components:
        raise ValueError(
            "`components`: a unit must be one real, complex or quaternionic number; got "
            f"{components} with {algebra} weights"
        )
    alpha = onset_curvature(activation, components)
    slope, _ = _beginning(activation)
    size = width * components
    shape = size * (jnp.asarray(weight_variance, alpha.dtype) * slope**2 - 1) - 1
    scale = jnp.broadcast_to(1 / (alpha * size), shape.shape)
    above = jnp.maximum(shape, 0.0)
    return OnsetLaw(shape, scale, above * scale, jnp.sqrt(above) * scale)


def _beginning(activation: Activation) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """g'(0) and g'''(0)."""
    profile = activation.profile if isinstance(activation, Radial) else activation
    zero = jnp.zeros((), jnp.result_type(float))
    slope = jax.grad(lambda r: profile(r))
    bend = jax.grad(slope)
    first, second, third = slope(zero), bend(zero), jax.grad(bend)(zero)
    if not (profile(zero) == 0 and first > 0 and second == 0 and third < 0):
        raise ValueError(
            "`activation`: must begin as a smooth odd function that bends down (g'(0) > 0, "
            f"g''(0) = 0, g'''(0) < 0); got {activation.name}"
        )
    return first, third
