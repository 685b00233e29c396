"""The exponent of a generic perturbation at finite width: to first order in 1/width, or exact."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from theory.description import (
    Activation,
    AlgebraName,
    Componentwise,
    Radial,
    WeightLaw,
    check_activation,
)
from theory.gaussian import Resolution, chi_nodes, epsilon
from theory.numerics import (
    Array,
    Estimate,
    Status,
    as_estimate,
    as_number,
    cast,
    check_order,
    hasty_jit,
    needs_float64,
    replace_where,
)
from theory.spectrum import SAFETY, constant_slopes

# Notation: z ∈ R^k a unit, n = z/|z|, t a tangent; a = g', b = g/r, so that Dt = a n (n·t) +
# b (t − n (n·t)). Weights of an algebra of dimension d (1, 2, 4) commute with matrices of k/d
# numbers. The covariances Q of z, T of t and C of t with z are such matrices. Given the sums of
# φφᵀ, Dt φᵀ and Dt(Dt)ᵀ over the units of a layer, the next z and t are Gaussian with these
# covariances: a Markov chain. In the limit Q = q, T = 1, C = 0. The fluctuations that matter at
# first order in 1/√width are
#     Q = q (1 + e + E),   T = 1 + S,   C = √q (c + H),
# with numbers e and c and Hermitian traceless E, S and H. The anti-Hermitian part of C lies along
# the orbit of the symmetry and is removed from t in every layer. For dense weights between all
# components Q, T and C are multiples of 1, as for d = k, but no direction belongs to a symmetry.


_HALVINGS = 64
_LENGTHS = 600
"""Range in which fixed points of the length are searched."""
_TOLERANCE = 1e-8
"""For the status."""
_CAUTION = 2.0
"""The first-order error is this many times the second order, as estimated from the variances."""


class GenericExponent(eqx.Module):
    """λ(width) = limit + coefficient/width + O(1/width²)."""

    limit: Estimate
    """½ log χ."""
    coefficient: Estimate
    """Its error is numerical; `at` adds the omitted orders."""
    spread: Float[Array, ""]
    """width · (relative variances of the covariances of state and tangent, including those of
    their anisotropies), which must be small compared to the width; 0 where λ is exact."""
    size: Float[Array, ""]
    """Sum of the absolute values of the terms of the coefficient."""
    slopes: Float[Array, " 2"] | None
    """σ_w φ'(±1) if φ is linear on both sides of 0, otherwise None."""

    def at(self, width: Any) -> Estimate:
        """λ in a network with this many units per layer.

        For piecewise linear φ (relu, leaky relu) the law is exact and the status OK, conditional
        on at least one live unit in the layer. Otherwise it is an expansion, and INACCURATE.

        Accuracy
        --------
        The error is 2 · size · spread/width², twice the largest next-order term in simulations
        of the exact chain (O(1), O(2), O(4), U(1), U(2), at σ_w from 1.2 to 2.5 and 16 to 64
        units). It is an estimate, not a bound, and infinite where the spread exceeds the width.
        """
        n = jnp.asarray(width, self.size.dtype)
        slopes = self.slopes
        if slopes is not None:
            each = jax.vmap(lambda n: _of_homogeneous(slopes, n))
            value = each(n.ravel()).reshape(n.shape)
            return as_estimate(value, 64 * epsilon(value) * (1 + jnp.abs(value)), _TOLERANCE, 1.0)
        value = self.limit.value + self.coefficient.value / n
        small = self.spread / n
        left_out = jnp.where(small < 1, _CAUTION * self.size * small / n, jnp.inf)
        error = left_out + self.limit.error + self.coefficient.error / n
        found = as_estimate(value, error, _TOLERANCE, 1.0)
        return replace_where(jnp.isnan(value), Status.ABSENT, found)


def generic_exponent(
    activation: Activation,
    weight_variance: Float[Array, ""] | float,
    *,
    components: int = 1,
    algebra: AlgebraName = "real",
    order: int = 128,
) -> GenericExponent:
    """The largest Lyapunov exponent, apart from those that the symmetry keeps at zero.

    It applies to one trajectory of a network of finite width, without bias and with Gaussian
    weights:

    λ = ½ log χ + ½ [⟨second-order change of log growth⟩ − V_M/(2χ²) − V_A/(q χ)],

    where V_M/width is the variance of the growth in one layer, and V_A/width the loss to the
    Goldstone directions per component. The average is over stationary fluctuations of order
    1/width: of the covariance of a unit's state, of its correlation with the tangent, and of the
    product of the anisotropies of state and tangent.

    Parameters
    ----------
    activation
        Radial, or odd with one component; g(r)/r must then decrease with r, as for tanh.
        Alternatively linear on both sides of 0, with one component.
    weight_variance
        σ_w², above the onset. Results are ABSENT below it, where there is no stable length, and
        where there is more than one fixed point because g(r)/r does not decrease.
    components, algebra
        Of a unit and of the weights, as in `theory.layer`. The width counts units.
    order
        Nodes per panel of the quadrature.

    Accuracy
    --------
    First order in 1/width: width · (σ_w² − 1) must be large, and `spread` small compared to the
    width; the error of `GenericExponent.at` shows it. For radial tanh at σ_w = 1.6,
    width · (λ − limit) at width 64 exceeds the coefficient by 1 % for U(1), 10 % for U(2), 19 %
    for O(2) and 27 % for O(4) (simulated, ± 1 %): if a unit has several numbers, they become
    equally long only slowly, and so do those of the tangent.
    slowly, and so do those of the tangent.

    At the onset the coefficient is 1/d − 1/2 − 1/k for every smooth activation, with d = 1, 2, 4
    for real, complex and quaternionic weights, and −1/(2k) for dense ones. If g'''(0) < 0,
    ½ log χ = (σ_w² g'(0)² − 1)²/(2 (k + 2)) there. A unit of one number then has negative
    exponents up to σ_w² g'(0)² − 1 = √((k + 2)/width); O(k) with k > 2 has none to this order.

    Raises
    ------
    ValueError
        If the activation is neither radial nor odd with one component, or the algebra does not
        allow this number of components.

    References
    ----------
    Derived here; checked against simulation of the exact law of a layer given the previous one.
    For piecewise linear φ the growth factors of layers are independent, since the squares of a
    symmetric tangent are independent of the signs: see also Hanin and Nica 2018
    (arXiv 1812.05994).
    """
    needs_float64("generic_exponent")
    check_activation(activation)
    check_order(order)
    activation = cast(activation, jnp.result_type(float))
    weight_variance = as_number("weight_variance", weight_variance, "at least 0")
    law = WeightLaw(1.0, components=components, algebra=algebra)
    variance = jnp.asarray(weight_variance, jnp.result_type(float))
    if isinstance(activation, Componentwise) and components == 1 and _is_homogeneous(activation):
        _, slopes = activation.with_slope(jnp.array([-1.0, 1.0], variance.dtype))
        return _homogeneous(slopes, variance)
    if isinstance(activation, Componentwise):
        if activation.parity != "odd" or components > 1:
            raise ValueError(
                "`activation`: must be radial, or odd with one component, or linear on both "
                "sides of 0 with one; got "
                f"{activation.name} with {components}"
            )
        kinks = tuple(kink for kink in activation.kinks if kink > 0)
        known, scale = activation.features_known, activation.scale
        activation = Radial(activation.fn, kinks, scale, activation.name, features_known=known)
    dense = algebra == "dense"
    d = components if dense else len(law.table)
    return _expanded(activation, variance, components, d, not dense, order)


def _is_homogeneous(activation: Componentwise) -> bool:
    straight = not any(activation.kinks) and constant_slopes(activation)
    with jax.ensure_compile_time_eval():
        return straight and bool(activation.fn(jnp.zeros(())) == 0)


def _homogeneous(slopes: Array, variance: Array) -> GenericExponent:
    """Growth of any tangent: the mean over units of squares m_j² x_j², m_j of random sign."""
    mean, square = jnp.mean(slopes**2), jnp.mean(slopes**4)
    limit = jnp.log(variance * mean) / 2
    coefficient = (1 - 3 * square / mean**2) / 4
    exact = lambda x: as_estimate(x, 8 * epsilon(x) * (1 + jnp.abs(x)), 1e-8, jnp.ones_like(x))
    found = GenericExponent(
        exact(limit),
        exact(coefficient),
        jnp.zeros_like(limit),
        jnp.abs(coefficient),
        jnp.sqrt(variance) * jnp.abs(slopes),
    )
    return replace_where(~(limit > -jnp.inf), Status.ABSENT, found)


_STEP, _FROM, _TO = 0.25, -60.0, 160.0
"""Range of log s."""


def _of_homogeneous(slopes: Array, width: Array) -> Array:
    """½ E log mean_j m_j² x_j² = ½ ∫ (e^{−s} − E e^{−s mean}) ds/s, given that it is not 0.

    The trapezoidal rule in log s is exact to rounding: the integrand is analytic for
    |Im log s| < π/2.
    """
    most = jnp.max(slopes)
    ratio = jnp.min(slopes) / most
    log_s = jnp.asarray(np.arange(_FROM, _TO, _STEP), slopes.dtype)
    n, s = width, 2 * jnp.exp(log_s) / width
    alive = -0.5 * jnp.log1p(s), -0.5 * jnp.log1p(s * ratio**2)
    log_each = jnp.log1p((jnp.expm1(alive[0]) + jnp.expm1(alive[1])) / 2)
    # Without a second slope all units of a layer are dead with probability 2^{−n}.
    none = jnp.where(ratio > 0, 0.0, jnp.exp(-n * math.log(2.0)))
    lost = -jnp.expm1(n * log_each) / (1 - none)
    left = jnp.exp(n * log_each)
    # With few units, dead layers make up nearly all of it.
    grown = jnp.expm1(jnp.minimum(n, 500.0) * jnp.log1p(jnp.exp(alive[0])))
    late = jnp.where((log_each < -0.5) & (n < 500), none * grown, left - none) / (1 - none)
    left = jnp.where(ratio > 0, left, late)
    # At small s both are close to 1, at large s to 0.
    terms = jnp.where(log_s < 0, lost + jnp.expm1(-jnp.exp(log_s)), jnp.exp(-jnp.exp(log_s)) - left)
    return jnp.log(most) + _STEP * jnp.sum(terms) / 2


@hasty_jit
def _expanded(activation, variance, k, d, symmetric, order) -> GenericExponent:
    """Evaluate two rules; the error is their difference and rounding."""
    stretch, cut = jnp.asarray(((3.0, 2.6), (9.0, 8.5)), variance.dtype)
    by = lambda *how: _terms(activation, variance, k, d, symmetric, Resolution(order, *how))
    both = jax.vmap(by)(stretch, cut)  # compiled once
    (limit, parts, spread, gap), other = (tuple(x[i] for x in both) for i in range(2))
    size = jnp.sum(jnp.abs(parts))
    eps = epsilon(limit)
    # Close to the onset small differences are accurate to eps relative to 1.
    rounding = 64 * eps * (1 + 1 / jnp.maximum(gap, eps))
    rule = lambda a, b: SAFETY * jnp.abs(a - b)
    limit_error = rule(limit, other[0]) + 64 * eps
    total = jnp.sum(parts)
    error = rule(total, jnp.sum(other[1])) + rounding * size
    found = GenericExponent(
        as_estimate(limit, limit_error, 1e-8, jnp.ones_like(limit)),
        as_estimate(total, error, 1e-6, size),
        spread,
        size,
        None,
    )
    return replace_where(~(gap > 0) | ~jnp.isfinite(total), Status.ABSENT, found)


def _terms(activation, variance, k, d, symmetric, how: Resolution):
    """½ log χ, the terms of the coefficient, the spread, and the distance from the onset.

    That distance is one of lengths, and NaN if there is no stable length.
    """

    def growth(log_q):
        q = jnp.exp(log_q)
        rho, weight = chi_nodes(activation, jnp.sqrt(q), k, how)
        g = activation.gains(jnp.sqrt(q) * rho)[1] * rho
        return variance * jnp.sum(weight * g**2) / k

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        above = growth(middle) > 1
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    far = 0.4 * jnp.log(jnp.finfo(variance.dtype).max).astype(variance.dtype)
    ends = (-far, far)
    q = jnp.exp(jax.lax.fori_loop(0, _HALVINGS, halve, ends)[0])
    rho, weight = chi_nodes(activation, jnp.sqrt(q), k, how)
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

    # Matrices: traces of E², E S and H². The projection of n nᵀ has the square 1/d. Of t nᵀ, with t
    # perpendicular to all multiples of n, half is Hermitian.
    rank_one = 1 / d - 1 / k
    rotating = (k - d) / (2 * d)
    isotropy = variance * mean(g**2 * rho**2) / (quartic * q)  # of E on itself; of H: over √χ
    sheared = b**2 + 2 * b * (a - b) / k + 2 * (a - b) ** 2 / quartic
    tangent = variance * mean(sheared) / chi  # of S
    pushed = variance * mean((a**2 - b**2) * rho**2) / (quartic * chi)  # of S by E
    square_e = (variance / q) ** 2 * rank_one * mean(g**4) / (1 - isotropy**2)
    both = variance**2 / (q * chi) * rank_one * mean(g**2 * (a**2 - b**2))
    product = (isotropy * pushed * square_e + both) / (1 - isotropy * tangent)
    square_h = rank_one * mean(a**2 * g**2) + rotating * mean(b**2 * g**2)
    square_h = variance**2 / (q * chi) * square_h / (1 - isotropy**2 / chi)

    # Their effect on a mean over the units, to second order: E through a Hermite polynomial.
    by_square_e = (rho**4 / quartic - 2 * rho**2 / k + 1) / (4 * k)
    trace = a**2 + (k - 1) * b**2
    mean_q = jax.grad(jax.grad(length_map))(q) * square_q / 2
    mean_q = (mean_q + variance * mean(g**2 * by_square_e) * square_e) / (1 - rate)
    tilt_c = variance * mean(a**2 * rho**2 - trace) / k
    tilt_h = b**2 * rho**2 + 2 * (a**2 - b**2) * rho**2 / (k + 2) - trace
    tilt_h = variance * mean(tilt_h) / k**2

    noise_growth = mean(3 * a**4 + (k**2 - 1) * b**4 + 2 * (k - 1) * a**2 * b**2)
    noise_growth = scale * noise_growth - chi**2
    lost = ((d - 1) / d + rotating) * variance**2 * mean(b**2 * g**2) / (q * chi * k)
    log_slope = lambda q: jnp.log(slope(q))
    found = [
        jax.grad(log_slope)(q) * mean_q,
        jax.grad(jax.grad(log_slope))(q) * square_q / 2,
        variance * mean(trace * by_square_e) / chi * square_e,
        pushed / k * product,
        tilt_c / chi * square_c,
        tilt_h / chi * square_h,
        -noise_growth / (2 * chi**2),
        -(lost if symmetric else jnp.zeros_like(lost)),
    ]
    spread = 1 + square_q / q**2 + square_c + (square_e + square_h) / k
    away = jnp.minimum(jnp.abs(1 - rate), jnp.abs(1 - isotropy))
    # If g(r)/r does not decrease there may be several fixed points, and this is any one of them.
    steps = jax.vmap(growth)(jnp.linspace(-far, far, _LENGTHS)) > 1
    one = steps[0] & (jnp.sum(steps[:-1] != steps[1:]) == 1)
    there = one & (growth(far) < 1) & (jnp.abs(rate) < 1)
    return jnp.log(chi) / 2, jnp.stack(found) / 2, spread, jnp.where(there, away, jnp.nan)
