"""Singular values of the input-output Jacobian at infinite width.

Notation: s_i the singular values of J, λ = s_i² the eigenvalues of JJᵀ, x = log λ. `_factors`
defines the factors, `_branch` the equation that is solved.
"""

import math
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float

from theory.description import Part, directly_if
from theory.gaussian import epsilon
from theory.numerics import (
    Array,
    Estimate,
    Status,
    as_estimate,
    as_row,
    check_count,
    check_positive,
    compiled,
    in_shape_of,
    needs_float64,
    put,
    replace_where,
    running_max,
    while_loop,
    xp,
)
from theory.spectrum._branch import (
    Axis,
    Branch,
    Solution,
    has_skip,
    log_of_rest,
    look,
    mean_angle,
    negative_axis,
    solve,
    solve_again,
    wide,
)
from theory.spectrum._edges import Edges, spectrum_edges
from theory.spectrum._factors import (
    SAFETY,
    JacobianFactors,
    check_factors,
    checked,
    jacobian_factors,
    mass_unresolved,
    work,
)
from theory.spectrum._jacobian_moments import SpectrumMoments, jacobian_moments
from theory.spectrum._skip import angle_of_sum, share, softplus
from theory.spectrum._slopes import SlopeLaw

_CLOSER = 40
"""Number of steps towards a quantile; the last ones are Newton steps."""
_FEW_POINTS, _FEW_QUANTILES = 100_000, 10_000
"""Number of points times nodes up to which no program is compiled."""


class Distribution(eqx.Module):
    """The distribution of log s at given places."""

    density: Estimate
    """Per unit of log s, over all singular values. Its integral is 1 − mass at zero, minus the
    atoms that orthogonal weights leave in shallow networks of piecewise linear φ."""
    cumulative: Estimate
    """The fraction of singular values up to s, including those that are zero."""


class _Points(eqx.Module):
    density: Float[Array, " points"]
    slope: Float[Array, " points"]
    """|∂density/∂ log λ|, for complex errors of log λ."""
    cumulative: Float[Array, " points"]
    error: Float[Array, " points"]
    """Error of x."""
    rounding: Float[Array, ""]
    """Rounding error of `cumulative`."""
    found: Bool[Array, " points"]


def _read(
    factors: JacobianFactors, axis: Axis, x: Float[Array, " points"], at: Solution
) -> _Points:
    s = share(at.branch.nu)
    # log s_i = x/2 has twice the density of x.
    density = 2 / math.pi * s.imag
    slope = 2 / math.pi * xp.abs(s * (1 - s) / at.rate)
    rounding = epsilon(x) * (16 + 12 * xp.sum(factors.count) + 12 * factors.independent)
    # Outside the table nothing can be distinguished from rounding.
    first, last = axis.log_size[0], axis.log_size[-1]
    inside = (x >= first) & (x <= last)
    beyond = xp.where(x < first, xp.max(factors.law.mass_at_zero), 1.0)
    return _Points(
        xp.where(inside, density, 0.0),
        xp.where(inside, slope, 0.0),
        xp.where(inside, 1 - _above(factors, at.branch), beyond),
        at.error,
        rounding,
        at.found | ~inside,
    )


def _look_at(
    factors: JacobianFactors, axis: Axis, x: Float[Array, " points"]
) -> tuple[_Points, Solution]:
    at = solve(factors, axis, xp.clip(x, axis.log_size[0], axis.log_size[-1]))
    return _read(factors, axis, x, at), at


def _look_twice(
    factors: JacobianFactors, axis: Axis, x: Float[Array, " points"]
) -> tuple[_Points, _Points]:
    """Evaluate both rules."""
    one, at = _look_at(factors, axis, x)
    other = checked(factors)
    inner = xp.clip(x, axis.log_size[0], axis.log_size[-1])
    return one, _read(other, axis, x, solve_again(other, at.branch, inner))


def _above(factors: JacobianFactors, at: Branch) -> Float[Array, " points"]:
    """The fraction of eigenvalues above λ: Im E log(1 − μ/λ)/π, μ the eigenvalues.

    ∂ E log(1 − μ/λ)/∂ log λ = M, whose integral along solutions is explicit:
    E log(1 − μ/λ) = (1 − c + g) softplus(ν) − g s + Σ c_l E log(1 − d/w_l).
    """
    law = factors.law
    angle = mean_angle(law, at.omega)
    if at.partner is not None:
        seen = look(law, at.omega)
        independent = wide(law.branch, angle)  # type: ignore
        rest = log_of_rest(seen, at.omega)
        whole = angle_of_sum(angle, seen.below, rest, at.partner, at.nu[None], independent)
        angle = xp.where(has_skip(law, angle), whole, angle)
    c, g = xp.sum(factors.count), factors.independent
    total = (1 - c + g) * softplus(at.nu).imag - g * share(at.nu).imag
    return (total + xp.sum(wide(factors.count, angle) * angle, axis=0)) / math.pi


def singular_value_distribution(
    factors: JacobianFactors, log_singular_values: Any, *, tolerance: float = 1e-6
) -> Distribution:
    """Density and cumulative distribution of the singular values of J.

    Convention: everything is in terms of log s, so that no depth overflows or underflows. The
    density of s itself is density/s.

    Parameters
    ----------
    factors
        From `jacobian_factors`.
    log_singular_values
        Natural logarithms of the singular values s, one or several.
    tolerance
        Absolute error beyond which a value is INACCURATE.

    Returns
    -------
    Distribution
        NOT_CONVERGED where the equation is not solved to rounding, INVALID at NaN.

    Accuracy
    --------
    The solution is followed from λ < 0, where everything is real and monotone, around the half
    circle to λ > 0. It is the physical one whenever it solves the equation in the half-plane,
    where there is only one. Errors are 5 times the difference from another quadrature rule, plus
    the effect of rounding log λ. If orthogonal weights leave an atom, or there is only a single
    smooth layer, the density is not smooth and its error is infinite.

    References
    ----------
    Pennington, Schoenholz and Ganguli (2018), The emergence of spectral universality in deep
    networks, eqs. 9-14.
    """
    needs_float64("singular_value_distribution")
    check_factors(factors)
    check_positive("tolerance", tolerance)
    row = as_row("log_singular_values", log_singular_values)
    return in_shape_of(log_singular_values, _distribution(factors, row, tolerance))


@directly_if(lambda factors, points, _: work(factors, points) <= _FEW_POINTS, compiled)
def _distribution(factors, log_singular_values, tolerance) -> Distribution:
    one, other = _look_twice(factors, negative_axis(factors), 2 * log_singular_values)
    density, cumulative = _point_errors(one, other)
    singular, x = _is_singular(factors), 2 * log_singular_values
    density = xp.where(singular, xp.inf, density)
    doubt = _between_sums(factors, x, one.cumulative)
    cumulative = xp.where(singular, cumulative + doubt, cumulative)
    unresolved = mass_unresolved(factors)
    below = xp.where(one.cumulative < unresolved, unresolved - one.cumulative, 0.0)
    cumulative = xp.where(xp.max(factors.law.mass_below) > 0, cumulative + below, cumulative)
    found = one.found & other.found
    distribution = Distribution(
        _status(found, one.density, density, tolerance),
        _status(found, one.cumulative, cumulative, tolerance),
    )
    return replace_where(xp.isnan(log_singular_values), Status.INVALID, distribution)


def _is_singular(factors: JacobianFactors) -> Array:
    """Whether it is the law of a single layer, which consists of the nodes of a quadrature."""
    singular = (factors.independent == 0) & (xp.sum(factors.count) <= 1)
    if factors.law.branch is not None:
        singular = singular & (xp.max(factors.law.branch) < 0)
    return singular


def _sums(factors: JacobianFactors, law: SlopeLaw) -> tuple[Array, Array]:
    """The nodes of a single layer as log λ, sorted, and the sums of their weights."""
    share, size = (law.probability * factors.count[:, None]).ravel(), xp.log(law.square).ravel()
    rank = xp.argsort(size)
    return size[rank] + factors.log_variance, xp.cumsum(share[rank])


def _are_atoms(here: Array, other: Array) -> Array:
    """Whether nodes are atoms, which both rules place at the same points."""
    return (here == other) | (xp.abs(here - other) <= 64 * epsilon(here) * (1 + xp.abs(here)))


def _between_sums(factors: JacobianFactors, x: Array, cumulative: Array) -> Array:
    """How far the cumulative of a single layer may be from its value at x = log λ.

    By the bound of `_between_nodes`; 0 between atoms.
    """

    def around(law):
        size, sums = _sums(factors, law)
        place, sums = xp.searchsorted(size, x), xp.append(xp.zeros(2, sums.dtype), sums)
        at = xp.stack([size[xp.clip(place + step, 0, size.size - 1)] for step in (-1, 0)])
        return sums[place], sums[xp.minimum(place + 2, sums.size - 1)], at

    (low, high, here), (low_too, high_too, here_too) = map(around, (factors.law, factors.check))
    least, most = xp.minimum(low, low_too), xp.maximum(high, high_too)
    far = xp.maximum(cumulative - least, most - cumulative)
    return xp.where(xp.all(_are_atoms(here, here_too), axis=0), 0.0, far)


def _between_nodes(factors: JacobianFactors, x: Array, fractions: Array) -> Array:
    """How far a quantile of a single layer may be from x = log λ.

    The sums over nodes on both sides of a node bound the law there (Chebyshev, Markov and
    Stieltjes); 0 at an atom.
    """

    def around(law):
        size, sums = _sums(factors, law)
        place = xp.searchsorted(sums, fractions)
        return (size[xp.clip(place + step, 0, size.size - 1)] for step in (-1, 0, 1))

    (low, here, high), (low_too, here_too, high_too) = map(around, (factors.law, factors.check))
    far = xp.maximum(x - xp.minimum(low, low_too), xp.maximum(high, high_too) - x)
    return xp.where(_are_atoms(here, here_too), 0.0, far)


def _point_errors(one: _Points, other: _Points) -> tuple[Array, Array]:
    """Errors of density and cumulative."""
    shift = one.slope * one.error
    # Near an edge the density is the root of the distance from it.
    shift = xp.minimum(shift, xp.sqrt(2 * one.density * shift))
    # The sum of the two oscillating differences does not vanish where one of them does.
    rules = xp.abs(one.density - other.density) + xp.abs(one.cumulative - other.cumulative)
    density = SAFETY * rules + 2 * shift + epsilon(rules)
    return density, SAFETY * rules + one.density * one.error + one.rounding


def _status(found: Array, value: Array, error: Array, tolerance: float) -> Estimate:
    estimate = as_estimate(value, error, tolerance, xp.ones_like(value))
    status = xp.where(found, estimate.status, np.int8(Status.NOT_CONVERGED))
    return Estimate(value, xp.where(found, error, xp.inf), status)


def singular_value_quantiles(
    factors: JacobianFactors, fractions: Any, *, tolerance: float = 1e-6
) -> Estimate:
    """log s of the quantiles: the values below which given fractions of singular values lie.

    Parameters
    ----------
    factors
        From `jacobian_factors`.
    fractions
        Strictly between 0 and 1, one or several; others are INVALID.
    tolerance
        Absolute error of log s beyond which a value is INACCURATE.

    Returns
    -------
    Estimate
        −inf if the fraction is within the mass at zero. The error is infinite if slopes are too
        small to represent (below 1e-144 in float64), since they may be much smaller.

    Accuracy
    --------
    The error is that of the cumulative distribution over the density. It grows towards the edges
    and is infinite in a gap, where the quantile jumps.
    """
    needs_float64("singular_value_quantiles")
    check_factors(factors)
    check_positive("tolerance", tolerance)
    row = as_row("fractions", fractions)
    return in_shape_of(fractions, _quantiles(factors, row, tolerance))


@directly_if(lambda factors, points, _: work(factors, points) <= _FEW_QUANTILES, compiled)
def _quantiles(factors, fractions, tolerance) -> Estimate:
    axis = negative_axis(factors)
    nodes = axis.log_size
    seen = _look_at(factors, axis, nodes)[0].cumulative
    seen = running_max(put(seen, -1, 1.0))
    mass = xp.max(factors.law.mass_at_zero)
    place = xp.clip(xp.searchsorted(seen, fractions), 1, nodes.size - 1)
    low, high = nodes[place - 1], nodes[place]

    def closer(state):
        low, high, x, before, there, count = state
        point, _ = _look_at(factors, axis, x)
        beyond = point.cumulative > fractions
        low, high = xp.where(beyond, low, x), xp.where(beyond, x, high)
        rate = xp.where(point.density > 0, point.density, 1e-300)
        left = fractions - point.cumulative
        new = x + 2 * left / rate
        # A Newton step if it stays in the bracket and halves the remainder.
        halves = (xp.abs(left) > before / 2) & (xp.abs(left) > 1e-9)
        # At the root, rounding takes it slightly out of the bracket.
        room = 1e-12 * (1 + xp.abs(x))
        inside = (new >= low - room) & (new <= high + room) & ~halves
        new = xp.where(inside, xp.clip(new, low, high), (low + high) / 2)
        new = xp.where(there, x, new)
        # The error after a short Newton step is its square.
        short = (xp.abs(new - x) <= 1e-9 * (1 + xp.abs(x))) & (xp.abs(left) <= 1e-9)
        return low, high, new, xp.abs(left), there | (inside & short), count + 1

    start = (low, high, (low + high) / 2, xp.full_like(low, xp.inf), xp.isnan(low), 0)
    unfinished = lambda state: ~xp.all(state[4]) & (state[5] < _CLOSER)
    _, _, x, *_ = while_loop(unfinished, closer, start)
    one, other = _look_twice(factors, axis, x)
    _, error = _point_errors(one, other)
    error = (error + xp.abs(one.cumulative - fractions)) / one.density
    # There is no density between the atoms of a law; the quantile lies between two of them.
    between = _between_nodes(factors, x, fractions)
    error = xp.where(_is_singular(factors), between + xp.minimum(error, between), error)
    error = xp.where(fractions <= mass_unresolved(factors), xp.inf, error)
    x, found = x / 2, one.found & other.found
    estimate = _status(found, x, error, tolerance)
    none, sure = fractions <= mass, fractions <= xp.max(factors.check.mass_at_zero)
    zero = xp.where(sure, np.int8(Status.OK), np.int8(Status.INACCURATE))
    estimate = Estimate(
        xp.where(none, -xp.inf, estimate.value),
        xp.where(none, xp.where(sure, 0.0, xp.inf), estimate.error),
        xp.where(none, zero, estimate.status),
    )
    return replace_where(~((fractions > 0) & (fractions < 1)), Status.INVALID, estimate)


class Spectrum(eqx.Module):
    """The spectrum of a network's Jacobian in a few numbers."""

    factors: JacobianFactors
    edges: Edges
    moments: SpectrumMoments
    mass_at_zero: Estimate
    """The fraction of singular values that are exactly zero: the largest fraction of dead units in
    any layer."""


def jacobian_spectrum(
    network: Part, length: Any, *, order: int = 128, moments: int = 4
) -> Spectrum:
    """Edges, moments and mass at zero of the singular values of J, with its factors.

    Parameters
    ----------
    network, length, order
        As in `jacobian_factors`, which defines depth.
    moments
        The highest moment of JJᵀ.

    Raises
    ------
    TypeError, ValueError
        As `jacobian_factors`.
    """
    check_count("moments", moments)
    factors = jacobian_factors(network, length, order=order)
    return spectrum_summary(factors, moments=moments)


def spectrum_summary(factors: JacobianFactors, *, moments: int = 4) -> Spectrum:
    """Compute the result of `jacobian_spectrum` from the factors.

    Parameters
    ----------
    factors
        From `jacobian_factors`; map over several with `jax.vmap`.
    moments
        The highest moment of JJᵀ.
    """
    needs_float64("spectrum_summary")
    check_factors(factors)
    check_count("moments", moments)
    return _summary(factors, moments)


@directly_if(lambda factors, _: factors.count.size == 1, compiled)
def _summary(factors, moments) -> Spectrum:
    mass, other = (xp.max(law.mass_at_zero) for law in (factors.law, factors.check))
    # If weights or slopes vanish, all singular values are zero.
    dead = (factors.log_variance == -xp.inf) | (mass >= 1 - epsilon(mass))
    mass, other = xp.where(dead, 1.0, mass), xp.where(dead, 1.0, other)
    error = SAFETY * xp.abs(mass - other) + epsilon(mass)
    edges, found = spectrum_edges(factors), jacobian_moments(factors, order=moments)
    edges, found = replace_where(dead, Status.ABSENT, (edges, found))
    return Spectrum(factors, edges, found, as_estimate(mass, error, 1e-8, xp.ones_like(mass)))
