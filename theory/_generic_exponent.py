"""The exponent of a generic perturbation at finite width, to first order in 1/width."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from theory._activations import Activation, Componentwise, Radial
from theory._architecture import Algebra, WeightLaw
from theory._precision import cast, needs_float64
from theory._quadrature import Resolution
from theory._radial_moments import chi_nodes, radial_moments

# Notation: z ∈ R^k a unit, n = z/|z|, t a tangent; a = g', b = g/r, so that Dt = a n (n·t) +
# b (t − n (n·t)). Weights of an algebra of dimension d (1, 2, 4) commute with matrices of k/d
# numbers: the covariances Q of z, T of t and C of t with z are such matrices, and given the sums of
# φφᵀ, Dt φᵀ and Dt(Dt)ᵀ over the units of a layer, the next z and t are Gaussian with them: a
# Markov chain. In the limit Q = q, T = 1, C = 0. Of first order in 1/√width fluctuate, and matter,
#     Q = q (1 + e + E),   T = 1 + S,   C = √q (c + H),
# with numbers e and c and Hermitian traceless E, S and H. The anti-Hermitian part of C is along
# the orbit of the symmetry, and is taken out of t in every layer. For dense weights between all
# components Q, T and C are multiples of 1, as for d = k, but no direction is the symmetry's.


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

    λ = ½ log χ + ½ [⟨second-order change of log growth⟩ − V_M/(2χ²) − V_A/(q χ)],

    where V_M/width is the variance of the growth in one layer and V_A/width, per component, what
    is lost to the Goldstone directions. The average is over stationary fluctuations, of order
    1/width: of the covariance of a unit's state, of its correlation with the tangent, and of the
    product of the anisotropies of state and tangent.

    Parameters
    ----------
    activation
        Radial, or odd with one component; g(r)/r must fall with r, as that of tanh does.
    weight_variance
        σ_w², above the onset; NaN below it.
    components, algebra
        Of a unit and of the weights, as in `theory.layer`. The width counts units.

    Accuracy
    --------
    First order in 1/width: width · (σ_w² − 1) must be large. For radial tanh at σ_w = 1.6,
    width · (λ − limit) at width 64 exceeds the coefficient by 1 % for U(1), 10 % for U(2), 19 % for
    O(2) and 27 % for O(4) (simulated, ± 1 %): several numbers in a unit become equally long
    slowly, and so do those of the tangent.

    At the onset the coefficient is 1/d − 1/2 − 1/k for every smooth activation, with d = 1, 2, 4
    for real, complex and quaternionic weights, and −1/(2k) for dense ones. If g'''(0) < 0,
    ½ log χ = (σ_w² g'(0)² − 1)²/(2 (k + 2)) there, so that a unit of one number has negative
    exponents up to σ_w² g'(0)² − 1 = √((k + 2)/width); O(k) with k > 2 has none to this order.

    Raises
    ------
    ValueError
        If the activation is neither radial nor odd with one component, or the algebra does not act
        on so many components.

    References
    ----------
    Derived here; checked against simulation of the exact law of a layer given the last.
    """
    needs_float64("generic_exponent")
    activation = cast(activation, jnp.result_type(float))
    law = WeightLaw(1.0, "gaussian", components, algebra)
    if isinstance(activation, Componentwise):
        if activation.parity != "odd" or components > 1:
            raise ValueError(
                "`activation`: must be radial, or odd with one component; got "
                f"{activation.name} with {components}"
            )
        kinks = tuple(kink for kink in activation.kinks if kink > 0)
        activation = Radial(activation.fn, kinks, activation.scale, activation.name)
    variance = jnp.asarray(weight_variance, jnp.result_type(float))
    dense = algebra == "dense"
    d = components if dense else len(law.table)
    return _expanded(activation, variance, components, d, not dense, order)


@eqx.filter_jit
def _expanded(activation, variance, k, d, symmetric, order) -> GenericExponent:
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
    quartic = k * (k + 2)

    # Numbers: the length e, and the correlation c of the tangent with the state.
    square_q = scale * (mean(g**4) - mean(g**2) ** 2) / (1 - rate**2)
    square_c = scale * mean(a**2 * g**2) / (q * chi) / (1 - rate**2 / chi)

    # Matrices: traces of E², E S and H². The projection of n nᵀ has the square 1/d; of t nᵀ, t at
    # right angles to all multiples of n, half is Hermitian.
    rank_one = 1 / d - 1 / k
    turning = (k - d) / (2 * d)
    gains, _ = radial_moments(activation, q, k, order=order)
    isotropy = variance * gains.anisotropy  # of E on itself; of H: over √χ
    tangent = variance * gains.symmetric_traceless / chi  # of S
    pushed = variance * mean((a**2 - b**2) * rho**2) / (quartic * chi)  # of S by E
    square_e = (variance / q) ** 2 * rank_one * mean(g**4) / (1 - isotropy**2)
    both = variance**2 / (q * chi) * rank_one * mean(g**2 * (a**2 - b**2))
    product = (isotropy * pushed * square_e + both) / (1 - isotropy * tangent)
    square_h = rank_one * mean(a**2 * g**2) + turning * mean(b**2 * g**2)
    square_h = variance**2 / (q * chi) * square_h / (1 - isotropy**2 / chi)

    # What they do to a mean over the units, to second order: E by a Hermite polynomial.
    by_square_e = (rho**4 / quartic - 2 * rho**2 / k + 1) / (4 * k)
    trace = a**2 + (k - 1) * b**2
    mean_q = jax.grad(jax.grad(length_map))(q) * square_q / 2
    mean_q = (mean_q + variance * mean(g**2 * by_square_e) * square_e) / (1 - rate)
    tilt_c = variance * mean(a**2 * rho**2 - trace) / k
    tilt_h = b**2 * rho**2 + 2 * (a**2 - b**2) * rho**2 / (k + 2) - trace
    tilt_h = variance * mean(tilt_h) / k**2

    noise_growth = mean(3 * a**4 + (k**2 - 1) * b**4 + 2 * (k - 1) * a**2 * b**2)
    noise_growth = scale * noise_growth - chi**2
    lost = ((d - 1) / d + turning) * variance**2 * mean(b**2 * g**2) / (q * chi * k)
    log_slope = lambda q: jnp.log(slope(q))
    total = (
        jax.grad(log_slope)(q) * mean_q
        + jax.grad(jax.grad(log_slope))(q) * square_q / 2
        + variance * mean(trace * by_square_e) / chi * square_e
        + pushed / k * product
        + tilt_c / chi * square_c
        + tilt_h / chi * square_h
        - noise_growth / (2 * chi**2)
        - (lost if symmetric else 0.0)
    )
    alive = growth(_LOW) > 1
    found = GenericExponent(jnp.log(chi) / 2, total / 2)
    return jax.tree.map(lambda x: jnp.where(alive, x, jnp.nan), found)
