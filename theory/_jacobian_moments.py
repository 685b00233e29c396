"""Moments of a Jacobian's spectrum, its exponents at infinite depth, and its Goldstone gains.

Notation: as in `theory._branch`; μ_j = E D^{2j}.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from theory._architecture import Part, check_count
from theory._arrays import Array
from theory._branch import log_lambda, negative_solution
from theory._interpret import along_depth, interpret
from theory._jacobian import (
    SAFETY,
    JacobianFactors,
    begins_with_pointwise,
    by_both,
    mass_unresolved,
)
from theory._mean_field import MeanField, propagate
from theory._moment_integrals import epsilon
from theory._moments import Moments, PreActivation, signal_moments
from theory._precision import as_signals, cast, needs_float64, widest
from theory._status import Estimate, Status, as_estimate, replace_where
from theory._symmetry import generators, symmetry


def _times(a: Array, b: Array) -> Array:
    """The product of two power series."""
    return jnp.convolve(a, b, precision="highest")[: a.size]


def _power(a: Array, exponent: Any) -> Array:
    """A power of a series that begins with 1."""
    out: list[Any] = [jnp.ones_like(a[0])]
    for n in range(1, a.size):
        terms = [(exponent * j - (n - j)) * a[j] * out[n - j] for j in range(1, n + 1)]
        out.append(sum(terms[1:], terms[0]) / n)
    return jnp.stack(out)


def _moment_ratios(factors: JacobianFactors, order: int) -> tuple[Array, Array]:
    """log m_1 and m_k/m_1^k, k = 1 … order."""
    law = factors.law
    mean = jnp.sum(law.probability * law.square, axis=1)
    layers = law.mean
    ratio = law.square / mean[:, None]
    powers = jnp.stack([ratio**k for k in range(1, order + 1)], axis=1)
    moments = jnp.sum(law.probability[:, None] * powers, axis=2)
    one_more = jnp.zeros(order, mean.dtype).at[0].set(1.0).at[1:2].set(1.0)  # 1 + m

    def inverse(moments):
        """S of a law with mean 1: (1 + m)/m times the inverse of Σ_k μ_k z^k (Lagrange)."""
        chi = [_power(moments, -n)[n - 1] / n for n in range(1, order + 1)]
        return _times(jnp.stack(chi), one_more)

    def with_skip(series, branch, layer):
        """S of 1 + a times its mean, from that of D² times its mean; see `theory._skip`."""
        chi = layer - 1
        scale = chi ** jnp.arange(order, dtype=chi.dtype)
        # β (1 + β) = G² = p (1 + χ p) χ S_a(χ p), with p = m_a/χ.
        rest = _power(one_more * jnp.where(jnp.arange(order) == 1, chi, 1.0), 1 - branch)
        right = _times(series * scale, rest)
        ratio = jnp.zeros(order, chi.dtype)  # p/β as a series in β
        for k in range(1, order + 1):
            term = _power(one_more, float(k)) * _power(right, -float(k))[k - 1] / k
            ratio = ratio.at[k - 1 :].add(term[: order - k + 1])
        ratio = (chi * ratio).at[0].add(1.0) / layer  # m/β
        back = jnp.stack([_power(ratio, -float(k))[k - 1] / k for k in range(1, order + 1)])
        back = back / layer ** jnp.arange(order, dtype=chi.dtype)  # β/m as a series in m
        more = jnp.zeros(order, chi.dtype).at[1:].set(back[:-1] / layer).at[0].set(1.0)
        return _times(_times(back, more), _power(one_more, -1.0))

    each = jax.vmap(inverse)(moments)
    if law.branch is not None:
        branch = jnp.maximum(law.branch, 0.0)
        skipped = jax.vmap(with_skip)(each, branch, jnp.where(law.branch < 0, 2.0, layers))
        each = jnp.where(law.branch[:, None] < 0, each, skipped)
    # log S adds up: S = exp(−Σ …) as a power with the number of layers.
    each = jax.vmap(lambda series, count: _power(series, -count))(each, factors.count)
    total = _power(one_more, factors.gaussian)
    for series in each:
        total = _times(total, series)
    total = _times(total, one_more)  # z = m/((1 + m) · 1/S), so m/z = (1 + m)/S
    ratios = [_power(total, float(k))[k - 1] / k for k in range(1, order + 1)]
    return jnp.sum(factors.count * jnp.log(layers)) + factors.log_variance, jnp.stack(ratios)


class SpectrumMoments(eqx.Module):
    """Moments m_k = E λ^k of the eigenvalues λ = s² of JJᵀ."""

    log_mean: Estimate
    """log m_1: the logarithm of the mean squared singular value."""
    ratios: Estimate
    """m_k/m_1^k for k = 1, 2, …, exact at any depth."""

    @property
    def values(self) -> Estimate:
        """m_k = m_1^k (m_k/m_1^k) themselves, to a relative 1e-8; INFINITE where they overflow."""
        log, ratio = self.log_mean, self.ratios
        k = jnp.arange(1, ratio.value.shape[-1] + 1, dtype=ratio.value.dtype)
        each = lambda x: x[..., None] * k.reshape(*(1,) * x.ndim, -1)
        value = jnp.exp(each(log.value)) * ratio.value
        grown = jnp.expm1(each(log.error))
        error = value * (grown + (1 + grown) * ratio.error / ratio.value)
        found = as_estimate(value, error, 1e-8)
        # Absent where m_1 is.
        status = jnp.where(ratio.status > Status.INACCURATE, ratio.status, found.status)
        found = Estimate(value, error, status)
        return replace_where(value == jnp.inf, Status.INFINITE, found)


@eqx.filter_jit
def jacobian_moments(
    factors: JacobianFactors, *, order: int = 4, tolerance: float = 1e-8
) -> SpectrumMoments:
    """Moments of JJᵀ from the power series of the S-transforms.

    m_2/m_1² = 1 + Σ_l (μ_2/μ_1² − 1)_l + g, with μ_j = E D^{2j} and g Gaussian matrices.

    Parameters
    ----------
    factors
        Of `jacobian_factors`.
    order
        The highest moment.
    tolerance
        Relative error of ratios, and absolute error of log m_1, beyond which they are
        INACCURATE.
    """
    needs_float64("jacobian_moments")
    check_count("order", order)
    both = by_both(lambda factors: _moment_ratios(factors, order), factors)
    (log, ratios), (log_2, ratios_2) = both
    eps = epsilon(log)
    size = jnp.sum(factors.count) + jnp.abs(factors.log_variance)
    error = SAFETY * jnp.abs(log - log_2) + 4 * eps * (size + jnp.abs(log))
    places = jnp.arange(1, order + 1, dtype=log.dtype)
    spread = SAFETY * jnp.abs(ratios - ratios_2) + 32 * eps * places**2 * ratios
    return SpectrumMoments(
        as_estimate(log, error, tolerance, jnp.ones_like(log)),
        as_estimate(ratios, spread, tolerance),
    )


@eqx.filter_jit
def lyapunov_quantiles(
    factors: JacobianFactors, fractions: Float[Array, " fractions"], *, tolerance: float = 1e-8
) -> Estimate:
    """Exponents of infinitely many such networks in a row: quantiles of their bulk.

    ½ log(1/S(t − 1)), per repetition of the network: give the factors of one layer at its
    fixed point. The largest, t = 1, is ½ log χ.

    Parameters
    ----------
    factors
        Of `jacobian_factors`.
    fractions
        t, from 0 to 1; others are INVALID. −inf where t is within the mass at zero, and at 0
        with Gaussian weights.
    tolerance
        Absolute error beyond which a value is INACCURATE.

    References
    ----------
    Newman (1986), The distribution of Lyapunov exponents: exact results for random matrices,
    eq. 2.10.
    """

    needs_float64("lyapunov_quantiles")

    def values(factors):
        log_mean = jnp.sum(factors.count * jnp.log(factors.law.mean))
        mass = jnp.max(factors.law.mass_at_zero)

        inner = (fractions > mass) & (fractions < 1)
        safe = jnp.where(inner, fractions, (1 + mass) / 2)
        nu = jnp.log1p(-safe) - jnp.log(safe)
        log = log_lambda(factors, negative_solution(factors, nu)).real + nu
        log = jnp.where(fractions == 1, log_mean + factors.log_variance, log)
        return jnp.where(fractions <= mass, -jnp.inf, log) / 2

    one, other = by_both(values, factors)
    size = jnp.sum(factors.count) + jnp.abs(factors.log_variance)
    rounding = 32 * epsilon(one) * (size + jnp.abs(one))
    error = jnp.where(one == other, 0.0, SAFETY * jnp.abs(one - other))
    error = error + jnp.where(jnp.isfinite(one), rounding, 0.0)
    unresolved = jnp.isfinite(one) & (fractions <= mass_unresolved(factors))
    error = jnp.where(unresolved, jnp.inf, error)
    estimate = as_estimate(one, error, tolerance, jnp.ones_like(one))
    return replace_where(~((fractions >= 0) & (fractions <= 1)), Status.INVALID, estimate)


def goldstone_gains(network: Part, inputs: Float[Array, "1 width k"] | Moments) -> Estimate:
    """What the Jacobian does to the directions that the symmetry generates.

    |J A x|²/|A x|² = tr(AᵀA Σ_L)/tr(AᵀA Σ_0), for every generator A: exact also at finite
    width, since J A x = A f(x). These are finitely many directions, invisible in the density.

    Parameters
    ----------
    network
        The description, without bias.
    inputs
        One input, shape [1, width, components], or its moments; of a network that begins with
        a nonlinearity, the pre-activations.

    Returns
    -------
    Estimate
        Squared gains, shape [generators], in the order of `generators`; empty where no
        rotation commutes with the weights.

    Raises
    ------
    ValueError
        If a bias breaks the symmetry, so that the identity does not hold.
    """
    if symmetry(network).explicit:
        raise ValueError("`network`: a bias breaks the symmetry; its gains need bias_variance 0")
    inputs = inputs if isinstance(inputs, Moments) else as_signals("inputs", inputs)
    inputs = cast(inputs, widest(network, inputs))
    before = inputs if isinstance(inputs, Moments) else signal_moments(inputs)
    basis = jnp.asarray(generators(network), before.covariance.dtype)
    if begins_with_pointwise(network):
        state = PreActivation(before, jax.tree.map(jnp.zeros_like, before))
        after = along_depth(interpret(network, MeanField(), state)[1])
    else:
        after = propagate(network, inputs)
    measure = lambda m: jnp.einsum("aji,ajk,ki->a", basis, basis, m, precision="highest")
    start = measure(before.covariance[0, 0])
    value = measure(after.value.covariance[-1, 0, 0]) / start
    size = jnp.einsum("aji,ajk->aik", jnp.abs(basis), jnp.abs(basis), precision="highest")
    error = jnp.einsum("aik,ki->a", size, after.error.covariance[-1, 0, 0], precision="highest")
    return as_estimate(value, error / start, 1e-8)
