"""Moments of the spectrum of a Jacobian, its Lyapunov exponents, and its Goldstone gains.

Notation: as in `_branch`; μ_j = E D^{2j}.
"""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from theory.description import Part, along_depth, check_part, directly_if, interpret
from theory.gaussian import epsilon
from theory.mean_field import MeanField, Moments, PreActivation, propagate, signal_moments
from theory.numerics import (
    Array,
    Estimate,
    Status,
    as_estimate,
    as_row,
    as_signals,
    cast,
    check_count,
    check_positive,
    compiled,
    each,
    in_shape_of,
    needs_float64,
    replace_where,
    widest,
    xp,
)
from theory.phases import generators, symmetry
from theory.spectrum._branch import log_lambda, negative_solution
from theory.spectrum._factors import (
    SAFETY,
    JacobianFactors,
    begins_with_pointwise,
    by_both,
    check_factors,
    mass_unresolved,
    work,
)

_FEW = 100
"""Number of laws up to which no program is compiled, at a thousand nodes and points each."""


def _times(a: Array, b: Array) -> Array:
    """The product of two power series."""
    return xp.convolve(a, b, precision="highest")[: a.size]


def _shifted(a: Array, places: int) -> Array:
    """A power series times a power of its variable."""
    return xp.concatenate([xp.zeros_like(a[:places]), a[: a.size - places]])


def _power(a: Array, exponent: Any) -> Array:
    """A power of a series that begins with 1."""
    out: list[Any] = [xp.ones_like(a[0])]
    for n in range(1, a.size):
        terms = [(exponent * j - (n - j)) * a[j] * out[n - j] for j in range(1, n + 1)]
        out.append(sum(terms[1:], terms[0]) / n)
    return xp.stack(out)


def _moment_ratios(factors: JacobianFactors, order: int) -> tuple[Array, Array]:
    """log m_1 and m_k/m_1^k, k = 1 … order."""
    law = factors.law
    mean = xp.sum(law.probability * law.square, axis=1)
    layers = law.mean
    ratio = law.square / mean[:, None]
    powers = xp.stack([ratio**k for k in range(1, order + 1)], axis=1)
    moments = xp.sum(law.probability[:, None] * powers, axis=2)
    one = xp.asarray(np.arange(order) == 0, mean.dtype)
    one_more = one + _shifted(one, 1)  # 1 + m

    def inverse(moments):
        """S of a law with mean 1: (1 + m)/m times the inverse of Σ_k μ_k z^k (Lagrange)."""
        chi = [_power(moments, -n)[n - 1] / n for n in range(1, order + 1)]
        return _times(xp.stack(chi), one_more)

    def with_skip(series, branch, layer):
        """S of 1 + a times its mean, from S of D² times its mean; see `_skip`."""
        chi = layer - 1
        scale = chi ** xp.arange(order, dtype=chi.dtype)
        # β (1 + β) = G² = p (1 + χ p) χ S_a(χ p), with p = m_a/χ.
        rest = _power(one_more * xp.where(xp.arange(order) == 1, chi, 1.0), 1 - branch)
        right = _times(series * scale, rest)
        ratio = xp.zeros(order, chi.dtype)  # p/β as a series in β
        for k in range(1, order + 1):
            term = _power(one_more, float(k)) * _power(right, -float(k))[k - 1] / k
            ratio = ratio + _shifted(term, k - 1)
        ratio = (one + chi * ratio) / layer  # m/β
        back = xp.stack([_power(ratio, -float(k))[k - 1] / k for k in range(1, order + 1)])
        back = back / layer ** xp.arange(order, dtype=chi.dtype)  # β/m as a series in m
        more = one + _shifted(back / layer, 1)
        return _times(_times(back, more), _power(one_more, -1.0))

    series = each(inverse, moments)
    if law.branch is not None:
        branch = xp.maximum(law.branch, 0.0)
        skipped = each(with_skip, series, branch, xp.where(law.branch < 0, 2.0, layers))
        series = xp.where(law.branch[:, None] < 0, series, skipped)
    # log S adds up: S = exp(−Σ …), as a power with the number of layers.
    series = each(lambda one, count: _power(one, -count), series, factors.count)
    total = _power(one_more, factors.independent)
    for of_layer in series:
        total = _times(total, of_layer)
    total = _times(total, one_more)  # z = m/((1 + m) · 1/S), so m/z = (1 + m)/S
    ratios = [_power(total, float(k))[k - 1] / k for k in range(1, order + 1)]
    return xp.sum(factors.count * xp.log(layers)) + factors.log_variance, xp.stack(ratios)


class SpectrumMoments(eqx.Module):
    """Moments m_k = E λ^k of the eigenvalues λ = s² of JJᵀ."""

    log_mean: Estimate
    """log m_1: the logarithm of the mean squared singular value."""
    ratios: Estimate
    """m_k/m_1^k for k = 1, 2, …, exact at any depth."""

    @property
    def values(self) -> Estimate:
        """m_k = m_1^k (m_k/m_1^k), to a relative 1e-8; INFINITE if they overflow."""
        log, ratio = self.log_mean, self.ratios
        k = xp.arange(1, ratio.value.shape[-1] + 1, dtype=ratio.value.dtype)
        each = lambda x: x[..., None] * k.reshape(*(1,) * x.ndim, -1)
        value = xp.exp(each(log.value)) * ratio.value
        grown = xp.expm1(each(log.error))
        error = value * (grown + (1 + grown) * ratio.error / ratio.value)
        found = as_estimate(value, error, 1e-8)
        # Absent if m_1 is.
        status = xp.where(ratio.status > Status.INACCURATE, ratio.status, found.status)
        found = Estimate(value, error, status)
        return replace_where(value == xp.inf, Status.INFINITE, found)


def jacobian_moments(
    factors: JacobianFactors, *, order: int = 4, tolerance: float = 1e-8
) -> SpectrumMoments:
    """Compute moments of JJᵀ from the power series of the S-transforms.

    m_2/m_1² = 1 + Σ_l (μ_2/μ_1² − 1)_l + g, with μ_j = E D^{2j} and g matrices with independent
    entries.

    Parameters
    ----------
    factors
        From `jacobian_factors`.
    order
        The highest moment.
    tolerance
        Relative error of ratios, and absolute error of log m_1, beyond which they are
        INACCURATE.
    """
    needs_float64("jacobian_moments")
    check_factors(factors)
    check_count("order", order)
    check_positive("tolerance", tolerance)
    return _jacobian_moments(factors, order, tolerance)


@directly_if(lambda factors, *_: factors.count.size <= _FEW, compiled)
def _jacobian_moments(factors, order, tolerance) -> SpectrumMoments:
    both = by_both(lambda factors: _moment_ratios(factors, order), factors)
    (log, ratios), (log_2, ratios_2) = both
    eps = epsilon(log)
    size = xp.sum(factors.count) + xp.abs(factors.log_variance)
    error = SAFETY * xp.abs(log - log_2) + 4 * eps * (size + xp.abs(log))
    places = xp.arange(1, order + 1, dtype=log.dtype)
    spread = SAFETY * xp.abs(ratios - ratios_2) + 32 * eps * places**2 * ratios
    return SpectrumMoments(
        as_estimate(log, error, tolerance, xp.ones_like(log)),
        as_estimate(ratios, spread, tolerance),
    )


def lyapunov_quantiles(
    factors: JacobianFactors, fractions: Any, *, tolerance: float = 1e-8
) -> Estimate:
    """Lyapunov exponents of infinitely many such networks in a row: quantiles of their bulk.

    The exponents are ½ log(1/S(t − 1)) per repetition of the network: pass the factors of one
    layer at its fixed point. The largest, at t = 1, is ½ log χ.

    Parameters
    ----------
    factors
        From `jacobian_factors`.
    fractions
        t, from 0 to 1, one or several; others are INVALID. The exponent is −inf if t is within
        the mass at zero, and at 0 with Gaussian weights.
    tolerance
        Absolute error beyond which a value is INACCURATE.

    References
    ----------
    Newman (1986), The distribution of Lyapunov exponents: exact results for random matrices,
    eq. 2.10.
    """
    needs_float64("lyapunov_quantiles")
    check_factors(factors)
    check_positive("tolerance", tolerance)
    row = as_row("fractions", fractions)
    return in_shape_of(fractions, _lyapunov_quantiles(factors, row, tolerance))


@directly_if(lambda factors, points, _: work(factors, points) <= _FEW * 1000, compiled)
def _lyapunov_quantiles(factors, fractions, tolerance) -> Estimate:
    def values(factors):
        log_mean = xp.sum(factors.count * xp.log(factors.law.mean))
        mass = xp.max(factors.law.mass_at_zero)

        inner = (fractions > mass) & (fractions < 1)
        safe = xp.where(inner, fractions, (1 + mass) / 2)
        nu = xp.log1p(-safe) - xp.log(safe)
        log = log_lambda(factors, negative_solution(factors, nu)).real + nu
        log = xp.where(fractions == 1, log_mean + factors.log_variance, log)
        return xp.where(fractions <= mass, -xp.inf, log) / 2

    one, other = by_both(values, factors)
    size = xp.sum(factors.count) + xp.abs(factors.log_variance)
    rounding = 32 * epsilon(one) * (size + xp.abs(one))
    error = xp.where(one == other, 0.0, SAFETY * xp.abs(one - other))
    error = error + xp.where(xp.isfinite(one), rounding, 0.0)
    unresolved = xp.isfinite(one) & (fractions <= mass_unresolved(factors))
    error = xp.where(unresolved, xp.inf, error)
    estimate = as_estimate(one, error, tolerance, xp.ones_like(one))
    return replace_where(~((fractions >= 0) & (fractions <= 1)), Status.INVALID, estimate)


def goldstone_gains(network: Part, inputs: Float[Array, "1 width k"] | Moments) -> Estimate:
    """Squared gains of the Jacobian along the directions that the symmetry generates.

    |J A x|²/|A x|² = tr(AᵀA Σ_L)/tr(AᵀA Σ_0) for every generator A. This is exact at finite width
    too, since J A x = A f(x). The number of these directions is finite, so they are invisible in
    the density.

    Parameters
    ----------
    network
        The description, without bias.
    inputs
        One input, shape [1, width, components], or its moments; pre-activations if the network
        begins with a nonlinearity.

    Returns
    -------
    Estimate
        Squared gains, shape [generators], in the order of `generators`; empty if no rotation
        commutes with the weights.

    Raises
    ------
    ValueError
        If a bias breaks the symmetry, so that the identity does not hold.
    """
    check_part("network", network)
    if symmetry(network).explicit:
        raise ValueError("`network`: a bias breaks the symmetry; its gains need bias_variance 0")
    inputs = inputs if isinstance(inputs, Moments) else as_signals("inputs", inputs)
    inputs = cast(inputs, widest(network, inputs))
    before = inputs if isinstance(inputs, Moments) else signal_moments(inputs)
    basis = xp.asarray(generators(network), before.covariance.dtype)
    if begins_with_pointwise(network):
        state = PreActivation(before, jax.tree.map(xp.zeros_like, before))
        after = along_depth(interpret(network, MeanField(), state)[1])
    else:
        after = propagate(network, inputs)
    measure = lambda m: xp.einsum("aji,ajk,ki->a", basis, basis, m, precision="highest")
    start = measure(before.covariance[0, 0])
    value = measure(after.value.covariance[-1, 0, 0]) / start
    size = xp.einsum("aji,ajk->aik", xp.abs(basis), xp.abs(basis), precision="highest")
    error = xp.einsum("aik,ki->a", size, after.error.covariance[-1, 0, 0], precision="highest")
    return as_estimate(value, error / start, 1e-8)
