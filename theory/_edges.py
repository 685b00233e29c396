"""The smallest and the largest singular value of a Jacobian at infinite width.

Notation: as in `theory._branch`. Outside of the spectrum s, m = −s and all w_l are real.
"""

import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from theory._branch import bisect, log_range, look
from theory._jacobian import SAFETY, JacobianFactors, checked
from theory._moment_integrals import epsilon
from theory._status import Estimate, Status, as_estimate, replace_where


class Edge(eqx.Module):
    """Where the spectrum ends: log λ there and how the density begins."""

    log_lambda: Float[Array, ""]
    bend: Float[Array, ""]
    """∂² log λ/∂m² at the edge."""
    rounding: Float[Array, ""]


Side = Literal["upper", "lower"]


def _real_solution(factors: JacobianFactors, s: Array, rest: Array, side: Side) -> tuple:
    """log|w_l| and the rates ∂ν/∂ω_l where every law has A = s, 1 − s = `rest`."""
    law = factors.law
    low, high = log_range(law)
    mass = law.mass_at_zero
    most = jnp.max(mass)
    if side == "upper":
        # w = d_max (1 + e^v), A = s < 0
        place = lambda v: (high + jnp.logaddexp(0.0, v), jnp.zeros_like(v))
        too_far = lambda seen: seen.below.real > s
        ends = (jnp.full_like(low, -60.0), jnp.full_like(low, 60.0))
    else:
        # Laws with the most mass at zero have 0 < w = d_min/(1 + e^-v), others w = −e^v.
        first = mass >= most - 1e-12
        place = lambda v: (
            jnp.where(first, low - jnp.logaddexp(0.0, -v), v),
            jnp.where(first, 0.0, math.pi),
        )

        def too_far(seen):
            above = jnp.where(most > 0, seen.below.real > s, seen.rest.real < rest)
            return jnp.where(first, above, seen.below.real < s)

        ends = (jnp.minimum(low - 60.0, -60.0), jnp.maximum(high + 60.0, 60.0))
    found = lambda v: look(law, jax.lax.complex(*place(v)))
    v = bisect(lambda v: too_far(found(v)), *ends)
    return place(v)[0], found(v).rate.real


def has_gap(factors: JacobianFactors) -> Bool[Array, ""]:
    """Whether the spectrum keeps away from zero, but for an atom there.

    With mass at zero: if a single layer makes it. Without: if no square Gaussian matrix
    brings eigenvalues arbitrarily close to zero.
    """
    mass = factors.law.mass_at_zero
    most = jnp.max(mass)
    layers = jnp.sum(jnp.where(mass >= most - 1e-12, factors.count, 0.0))
    return jnp.where(most > 0, layers == 1, factors.gaussian == 0)


def edge(factors: JacobianFactors, side: Side) -> Edge:
    """The first critical point of λ(m) on the real axis, from outside of the spectrum.

    Where λ has none before w_l reaches the end of the law of D_l², the spectrum ends in an atom
    there, which is the limit of the search.
    """
    c, g = jnp.sum(factors.count), factors.gaussian
    zero = jnp.zeros_like(c)
    mass = factors.law.mass_at_zero
    most = jnp.max(mass)
    # Between −m = 1 − most and where the other laws end, if there are any.
    others = jnp.min(jnp.where(mass >= most - 1e-12, jnp.inf, 1 - mass)) - (1 - most)

    def shares(t):
        """s and 1 − s."""
        if side == "upper":
            return -jnp.exp(t), 1 + jnp.exp(t)
        step = jnp.where(jnp.isfinite(others), 1 / (jnp.exp(-t) + 1 / others), jnp.exp(t))
        return 1 - most + step, most - step

    def rise(t):
        """∂ log λ/∂s and what it is made of."""
        s, rest = shares(t)
        y, rate = _real_solution(factors, s, rest, side)
        return (c - 1 + jnp.sum(factors.count / rate) - g * s) / (s * rest), y

    # m = e^t from nothing to as good as infinity, where w_l is at the end of its law.
    t = bisect(lambda t: rise(t)[0] < 0, zero - 25.0, zero + 36.0)
    s, rest = shares(t)
    _, y = rise(t)
    terms = jnp.stack(
        [
            (c - 1) * (jnp.log(jnp.abs(s)) - jnp.log(jnp.abs(rest))),
            jnp.sum(factors.count * y),
            g * jnp.log(jnp.abs(rest)),
            factors.log_variance,
        ]
    )
    h = 1e-4
    bend = (rise(t + h)[0] - rise(t - h)[0]) / (shares(t + h)[0] - shares(t - h)[0])
    total = jnp.sum(terms)
    size = jnp.sum(jnp.abs(terms)) + c
    return Edge(total, bend, 8 * epsilon(total) * size)


class Edges(eqx.Module):
    """The ends of the spectrum, zeros left out."""

    lower: Estimate
    """The smallest singular value; 0 where they come arbitrarily close to it."""
    upper: Estimate
    log_lower: Estimate
    log_upper: Estimate
    fluctuation: Estimate
    """a of log s_max ≈ log_upper + a N^(-2/3) ξ at width N, with ξ of the Tracy-Widom law of
    real symmetric matrices (mean −1.2065, deviation 1.2680); ABSENT where the spectrum does
    not end like a square root."""


def _logs(one: Edge, other: Edge, tolerance: float) -> Estimate:
    error = SAFETY * jnp.abs(one.log_lambda - other.log_lambda) + one.rounding
    return as_estimate(one.log_lambda / 2, error / 2, tolerance, jnp.ones_like(error))


def _exponential(log: Estimate) -> Estimate:
    value = jnp.exp(log.value)
    error = jnp.where(jnp.isfinite(log.value), value * jnp.expm1(log.error), 0.0)
    infinite = replace_where(value == jnp.inf, Status.INFINITE, Estimate(value, error, log.status))
    return infinite


@eqx.filter_jit
def spectrum_edges(factors: JacobianFactors, *, tolerance: float = 1e-6) -> Edges:
    """The smallest and the largest singular value of J at infinite width.

    Parameters
    ----------
    factors
        Of `jacobian_factors`.
    tolerance
        Absolute error of log s beyond which an edge is INACCURATE.

    Returns
    -------
    Edges
        As singular values and as their logarithms, which alone are finite at any depth.

    Accuracy
    --------
    The upper edge is that of the law on its quadrature nodes. The lower edge of orthogonal
    weights depends on the rarest units: where φ' → 0 in the tails it is zero, and what is
    reported is where the tails are cut, with an error as large.

    References
    ----------
    Tracy and Widom (1996), On orthogonal and symplectic matrix ensembles, for the law of ξ;
    its scale follows from the density at the edge.
    """
    other = checked(factors)
    upper = edge(factors, "upper")
    log_upper = _logs(upper, edge(other, "upper"), tolerance)
    log_lower = _logs(edge(factors, "lower"), edge(other, "lower"), tolerance)
    gap = has_gap(factors)
    log_lower = Estimate(
        jnp.where(gap, log_lower.value, -jnp.inf),
        jnp.where(gap, log_lower.error, 0.0),
        jnp.where(gap, log_lower.status, jnp.int8(Status.OK)),
    )
    # Eigenvalues at x below the edge: N/π √(2 x/bend), that of Airy's process √ξ/π.
    soft = upper.bend > 0
    scale = jnp.cbrt(jnp.where(soft, upper.bend, 1.0) / 2) / 2
    fluctuation = replace_where(~soft, Status.ABSENT, as_estimate(scale, 1e-5 * scale, tolerance))
    return Edges(
        _exponential(log_lower), _exponential(log_upper), log_lower, log_upper, fluctuation
    )
