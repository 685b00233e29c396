"""The exponent of a generic perturbation at finite width, to first order in 1/width."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from theory._activations import Activation, Componentwise, Radial
from theory._architecture import Algebra, WeightLaw
from theory._quadrature import Resolution
from theory._radial_moments import chi_nodes

# Notation: z ∈ R^k a unit, n = z/|z|, q its variance per component, t a tangent of unit variance
# per component; a = g', b = g/r, so that Dt = a n (n·t) + b (t − n (n·t)). Given the Gram matrix
# of φ(z) and Dt over all units, the next z and t are independent and Gaussian: a Markov chain of
# q and of the correlation ρ of t with z, whose fluctuations are of order 1/√width.


_LOW, _HIGH, _HALVINGS = -20.0, 20.0, 60
"""Of log q."""


class GenericExponent(NamedTuple):
    """λ(width) = limit + coefficient/width + O(1/width²)."""

    limit: Float[Array, ""]
    """½ log χ."""
    coefficient: Float[Array, ""]


def generic_exponent(
    activation: Activation,
    weight_variance: Float[Array, ""] | float,
    *,
    components: int = 1,
    algebra: Algebra = "real",
    order: int = 128,
) -> GenericExponent:
    """The largest Lyapunov exponent besides those that the symmetry keeps at zero.

    For one trajectory of a network of finite width without bias, with Gaussian weights:

    λ = ½ log χ + [(log χ)_q ⟨δq⟩ + ½ (log χ)_qq ⟨δq²⟩ + (ν/χ) ⟨ρ²⟩ − V_M/(2χ²) − V_A/(q χ)]/2,

    where V_M/width is the variance of the growth in one layer, V_A/width what is lost to the
    Goldstone directions, ν = ∂growth/∂ρ², and ⟨·⟩ are stationary moments of order 1/width.

    Parameters
    ----------
    activation
        Radial, or odd with one component; g(r)/r must fall with r, as that of tanh does.
    weight_variance
        σ_w², above the onset.
    components, algebra
        Of a unit and of the weights, as in `theory.layer`. A unit must be one number over the
        algebra: O(1), U(1) or Sp(1). The covariance of several is a matrix, which fluctuates too.

    Accuracy
    --------
    First order in 1/width. The expansion fails at the onset, where the relaxation of the length
    slows down: width · (σ_w² − 1) must be large.

    Raises
    ------
    ValueError
        If a unit is not one number over the algebra.

    References
    ----------
    Derived here; checked against simulation. For products of Gaussian matrices alone
    it is −1/(2 k width), the expansion of Newman 1986, eq. 2.
    """
    law = WeightLaw(1.0, "gaussian", components, algebra)
    if len(law.table) != components:
        raise ValueError(
            "`components`: a unit must be one real, complex or quaternionic number; got "
            f"{components} with {algebra} weights"
        )
    if isinstance(activation, Componentwise):
        if activation.parity != "odd":
            raise ValueError(f"`activation`: must be odd or radial; got {activation.name}")
        kinks = tuple(kink for kink in activation.kinks if kink > 0)
        activation = Radial(activation.fn, kinks, activation.scale, activation.name)
    variance = jnp.asarray(weight_variance, jnp.result_type(float))
    return _expanded(activation, variance, components, order)


@eqx.filter_jit
def _expanded(activation, variance, k, order) -> GenericExponent:
    def growth(log_q):
        q = jnp.exp(log_q)
        rho, weight = chi_nodes(activation, jnp.sqrt(q), k, Resolution(order))
        g = activation.gains(jnp.sqrt(q) * rho)[1] * rho
        return variance * jnp.sum(weight * g**2) / k

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        above = growth(middle) > 1
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    ends = (jnp.full_like(variance, _LOW), jnp.full_like(variance, _HIGH))
    q = jnp.exp(jax.lax.fori_loop(0, _HALVINGS, halve, ends)[0])
    rho, weight = chi_nodes(activation, jnp.sqrt(q), k, Resolution(order))
    mean = lambda x: jnp.sum(weight * x)

    def parts(q):
        r = jnp.sqrt(q) * rho
        a, b = activation.gains(r)
        return r, a, b, b * r

    def length_map(q):
        return variance * mean(parts(q)[3] ** 2) / k

    def slope(q):
        _, a, b, _ = parts(q)
        return variance * mean(a**2 + (k - 1) * b**2) / k

    _, a, b, g = parts(q)
    chi = slope(q)
    rate = jax.grad(length_map)(q)
    scale = (variance / k) ** 2
    noise_q = scale * (mean(g**4) - mean(g**2) ** 2)
    noise_growth = mean(3 * a**4 + (k**2 - 1) * b**4 + 2 * (k - 1) * a**2 * b**2)
    noise_growth = scale * noise_growth - chi**2
    noise_along = scale * mean(a**2 * g**2) / (q * chi)
    lost = (k - 1) * scale * mean(b**2 * g**2) / (q * chi)

    square_q = noise_q / (1 - rate**2)
    mean_q = jax.grad(jax.grad(length_map))(q) * square_q / (2 * (1 - rate))
    square_along = noise_along / (1 - rate**2 / chi)
    log_slope = lambda q: jnp.log(slope(q))
    tilt = variance * mean(a**2 * rho**2) / k - chi
    total = (
        jax.grad(log_slope)(q) * mean_q
        + jax.grad(jax.grad(log_slope))(q) * square_q / 2
        + tilt / chi * square_along
        - noise_growth / (2 * chi**2)
        - lost
    )
    return GenericExponent(jnp.log(chi) / 2, total / 2)
