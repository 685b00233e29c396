"""Singular values of the input-output Jacobian at infinite width.

Notation: s_i the singular values of J, λ = s_i² the eigenvalues of JJᵀ, x = log λ. See
`theory._jacobian` for the factors and `theory._branch` for the equation that is solved.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from theory._architecture import Part
from theory._branch import (
    Axis,
    Branch,
    log_rate,
    look,
    negative_axis,
    share,
    softplus,
    solve,
)
from theory._edges import Edges, edge, spectrum_edges
from theory._jacobian import SAFETY, JacobianFactors, checked, jacobian_factors
from theory._jacobian_moments import SpectrumMoments, jacobian_moments
from theory._moment_integrals import epsilon
from theory._status import Estimate, Status, as_estimate, replace_where


class Distribution(eqx.Module):
    """The law of log s at given places."""

    density: Estimate
    """Per unit of log s, of all singular values: its integral is 1 − mass at zero, less the
    atoms that orthogonal weights leave in shallow networks of piecewise linear φ."""
    cumulative: Estimate
    """The fraction of singular values up to s, those that are zero included."""


class _Point(eqx.Module):
    density: Float[Array, ""]
    slope: Float[Array, ""]
    """∂density/∂x."""
    cumulative: Float[Array, ""]
    error: Float[Array, ""]
    """Of x."""
    rounding: Float[Array, ""]
    """Of cumulative."""
    found: Array


def _point(factors: JacobianFactors, axis: Axis, x: Float[Array, ""]) -> _Point:
    first, last = axis.log_size[0], axis.log_size[-1]
    at, error, found = solve(factors, axis, jnp.clip(x, first, last))
    s = share(at.nu)
    seen = look(factors.law, at.omega)
    rate = s * (1 - s) / log_rate(factors, at.nu, seen.rate)
    # log s = x/2 has twice the density of x.
    density, slope = 2 / math.pi * s.imag, 2 / math.pi * rate.imag
    rounding = epsilon(x) * (8 + 4 * jnp.sum(factors.count) + 4 * factors.gaussian)
    # Outside of the table there is nothing that could be told from rounding.
    inside = (x >= first) & (x <= last)
    beyond = jnp.where(x < first, jnp.max(factors.law.mass_at_zero), 1.0)
    return _Point(
        jnp.where(inside, density, 0.0),
        jnp.where(inside, slope, 0.0),
        jnp.where(inside, 1 - _above(factors, at), beyond),
        error,
        rounding,
        found | ~inside,
    )


def _above(factors: JacobianFactors, at: Branch) -> Float[Array, ""]:
    """The fraction of eigenvalues above λ: Im E log(1 − μ/λ)/π, μ the eigenvalues.

    ∂ E log(1 − μ/λ)/∂ log λ = M, whose integral over solutions is explicit:
    E log(1 − μ/λ) = (1 − c + g) softplus(ν) − g s + Σ c_l E log(1 − d/w_l).
    """
    u, v = jnp.cos(at.omega.imag), jnp.sin(at.omega.imag)
    law = factors.law
    ratio = jnp.minimum(law.square * jnp.exp(-at.omega.real)[:, None], 1e75)
    turned = jnp.arctan2(v[:, None], u[:, None] - ratio)
    angle = jnp.sum(law.probability * turned, axis=1) - at.omega.imag
    c, g = jnp.sum(factors.count), factors.gaussian
    total = (1 - c + g) * softplus(at.nu).imag - g * share(at.nu).imag
    return (total + jnp.sum(factors.count * angle)) / math.pi


@eqx.filter_jit
def singular_value_distribution(
    factors: JacobianFactors,
    log_singular_values: Float[Array, " points"],
    *,
    tolerance: float = 1e-6,
) -> Distribution:
    """Density and cumulative distribution of the singular values of J.

    Convention: everything is in x = log s, so that no depth over- or underflows; the density
    of s itself is density/s.

    Parameters
    ----------
    factors
        Of `jacobian_factors`.
    log_singular_values
        Natural logarithms of the singular values s to look at.
    tolerance
        Absolute error beyond which a value is INACCURATE.

    Returns
    -------
    Distribution
        NOT_CONVERGED where the equation is not solved to rounding.

    Accuracy
    --------
    The solution is followed from λ < 0, where all is real and monotone, around the half circle
    to λ > 0, and is the physical one wherever it solves the equation in the half-plane, where
    there is only one. Errors are 5 times the difference from another quadrature rule, and what
    rounding of log λ changes. Where orthogonal weights leave an atom, or the law of a single
    smooth layer, the density is not that of a smooth law and its error is infinite.

    References
    ----------
    Pennington, Schoenholz and Ganguli (2018), The emergence of spectral universality in deep
    networks, eqs. 9-14.
    """

    def both(factors):
        axis = negative_axis(factors)
        return jax.vmap(lambda x: _point(factors, axis, x))(2 * log_singular_values)

    one, other = both(factors), both(checked(factors))
    density, cumulative = _point_errors(one, other)
    singular = (factors.gaussian == 0) & (jnp.sum(factors.count) <= 1)
    density = jnp.where(singular, jnp.inf, density)
    found = one.found & other.found
    return Distribution(
        _status(found, one.density, density, tolerance),
        _status(found, one.cumulative, cumulative, tolerance),
    )


def _point_errors(one: _Point, other: _Point) -> tuple[Array, Array]:
    """Of density and cumulative."""
    shift = jnp.abs(one.slope) * one.error
    # Near an edge the density is the root of the distance from it.
    shift = jnp.minimum(shift, jnp.sqrt(2 * one.density * shift))
    density = SAFETY * jnp.abs(one.density - other.density) + 2 * shift
    cumulative = SAFETY * jnp.abs(one.cumulative - other.cumulative) + one.density * one.error
    eps = epsilon(one.density)
    return density + eps, cumulative + one.rounding


def _status(found: Array, value: Array, error: Array, tolerance: float) -> Estimate:
    estimate = as_estimate(value, error, tolerance, jnp.ones_like(value))
    status = jnp.where(found, estimate.status, jnp.int8(Status.NOT_CONVERGED))
    return Estimate(value, jnp.where(found, error, jnp.inf), status)


@eqx.filter_jit
def singular_value_quantiles(
    factors: JacobianFactors, fractions: Float[Array, " fractions"], *, tolerance: float = 1e-6
) -> Estimate:
    """log s of the singular values below which given fractions of all lie.

    Parameters
    ----------
    factors
        Of `jacobian_factors`.
    fractions
        Strictly between 0 and 1; others are INVALID.
    tolerance
        Absolute error of log s beyond which a value is INACCURATE.

    Returns
    -------
    Estimate
        −inf where the fraction is within the mass at zero.

    Accuracy
    --------
    The error is that of the cumulative distribution over the density, so that it grows towards
    the edges and is infinite in a gap, where the quantile jumps.
    """
    axis, other_axis = negative_axis(factors), negative_axis(checked(factors))
    top = edge(factors, "upper").log_lambda
    nodes = jnp.append(jnp.minimum(axis.log_size, top), top)
    seen = jax.vmap(lambda x: _point(factors, axis, x).cumulative)(nodes)
    seen = jax.lax.cummax(seen.at[-1].set(1.0))
    mass = jnp.max(factors.law.mass_at_zero)

    def at(t):
        place = jnp.clip(jnp.searchsorted(seen, t), 1, nodes.size - 1)
        low, high = nodes[place - 1], nodes[place]

        def closer(_, state):
            low, high, x = state
            point = _point(factors, axis, x)
            beyond = point.cumulative > t
            low, high = jnp.where(beyond, low, x), jnp.where(beyond, x, high)
            step = 2 * (t - point.cumulative) / jnp.where(point.density > 0, point.density, 1e-300)
            inside = (x + step > low) & (x + step < high)
            return low, high, jnp.where(inside, x + step, (low + high) / 2)

        _, _, x = jax.lax.fori_loop(0, 30, closer, (low, high, (low + high) / 2))
        one, other = _point(factors, axis, x), _point(checked(factors), other_axis, x)
        _, error = _point_errors(one, other)
        error = (error + jnp.abs(one.cumulative - t)) / one.density
        return x / 2, error, one.found & other.found

    x, error, found = jax.vmap(at)(fractions)
    estimate = _status(found, x, error, tolerance)
    none = fractions <= mass
    estimate = Estimate(
        jnp.where(none, -jnp.inf, estimate.value),
        jnp.where(none, 0.0, estimate.error),
        jnp.where(none, jnp.int8(Status.OK), estimate.status),
    )
    return replace_where((fractions <= 0) | (fractions >= 1), Status.INVALID, estimate)


class Spectrum(eqx.Module):
    """What is known of the spectrum of a network's Jacobian in a few numbers."""

    factors: JacobianFactors
    edges: Edges
    moments: SpectrumMoments
    mass_at_zero: Estimate
    """The fraction of singular values that are exactly zero: the largest of any layer's
    fraction of dead units."""


def jacobian_spectrum(
    network: Part, length: Any, *, order: int = 128, moments: int = 4
) -> Spectrum:
    """Edges, moments and mass at zero of the singular values of J, with its factors.

    Parameters
    ----------
    network, length, order
        As for `jacobian_factors`, which says what is counted as depth.
    moments
        The highest moment of JJᵀ.

    Raises
    ------
    TypeError, ValueError
        As for `jacobian_factors`.
    """
    factors = jacobian_factors(network, length, order=order)
    return spectrum_summary(factors, moments=moments)


@eqx.filter_jit
def spectrum_summary(factors: JacobianFactors, *, moments: int = 4) -> Spectrum:
    """The same from the factors; map over them with `jax.vmap`."""
    mass, other = (jnp.max(law.mass_at_zero) for law in (factors.law, factors.check))
    error = SAFETY * jnp.abs(mass - other) + epsilon(mass)
    return Spectrum(
        factors,
        spectrum_edges(factors),
        jacobian_moments(factors, order=moments),
        as_estimate(mass, error, 1e-8, jnp.ones_like(mass)),
    )
