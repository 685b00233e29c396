"""The smallest and the largest singular value of a Jacobian at infinite width.

Notation: as in `theory._branch`. Outside of the spectrum s, m = −s and all w_l are real.
"""

import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from theory._arrays import Array
from theory._branch import (
    Branch,
    Look,
    as_complex,
    bisect,
    has_skip,
    log_range,
    look,
    respond,
)
from theory._jacobian import SAFETY, JacobianFactors, SlopeLaw, by_both
from theory._moment_integrals import epsilon
from theory._precision import needs_float64
from theory._skip import log_square, real_partner, share, summed
from theory._status import Estimate, Status, as_estimate, replace_where


class Edge(eqx.Module):
    """Where the spectrum ends: log λ there and how the density begins."""

    log_lambda: Float[Array, ""]
    bend: Float[Array, ""]
    """∂² log λ/∂m² at the edge."""
    bend_error: Float[Array, ""]
    """Of the difference quotient that it is."""
    rounding: Float[Array, ""]
    """Of log λ, and what is left of the search where the edge is its limit."""


class _Point(eqx.Module):
    """Outside of the spectrum."""

    slope: Float[Array, ""]
    """∂ log λ/∂s."""
    noise: Float[Array, ""]
    """Rounding of the slope."""
    s: Float[Array, ""]
    total: Float[Array, ""]
    """log λ."""
    size: Float[Array, ""]
    """Of all that adds up to it, and is rounded."""


_NEAREST = -34.0
"""log of the relative distance from the end of a law, which rounding still resolves."""

Side = Literal["upper", "lower"]


def has_gap(factors: JacobianFactors) -> Bool[Array, ""]:
    """Whether the spectrum keeps away from zero, but for an atom there.

    With mass at zero: if a single layer makes it. Without: if no square Gaussian matrix
    brings eigenvalues arbitrarily close to zero, and no layer 1 + a, whose a has eigenvalues
    of size 1.
    """
    mass = factors.law.mass_at_zero
    most = jnp.max(mass)
    layers = jnp.sum(jnp.where(mass >= most - 1e-12, factors.count, 0.0))
    gap = factors.gaussian == 0
    if factors.law.branch is not None:
        small, large = _ring(factors.law)
        gap = gap & jnp.all((factors.law.branch < 0) | small | large)
    return jnp.where(most > 0, layers == 1, gap)


def _ring(law: SlopeLaw) -> tuple[Bool[Array, " laws"], Bool[Array, " laws"]]:
    """Whether all eigenvalues of a are inside the unit circle, or all outside: they fill a ring
    of radii (E |a|^(−2))^(−1/2) and (E |a|²)^(1/2) (Haagerup and Larsen 2000, theorem 4.4)."""
    outer = jnp.sum(law.probability * law.square, axis=1)
    inner = jnp.sum(law.probability / jnp.where(law.square > 0, law.square, 1e-300), axis=1)
    return outer < 1, (law.branch == 0) & (inner < 1)


def edge(factors: JacobianFactors, side: Side) -> Edge:
    """The first critical point of λ on the real axis, from outside of the spectrum.

    One law goes ahead: w = d_max (1 + e^v) > d_max for the upper edge, and for the lower one
    w = d_min/(1 + e^v) < d_min of the law with the most mass at zero. The others follow, so
    that all have the same s. Where λ has no critical point before w reaches the end of the
    law, the spectrum ends in an atom there, which is the limit of the search.
    """
    law, c, g = factors.law, jnp.sum(factors.count), factors.gaussian
    low, high = log_range(law)
    mass = law.mass_at_zero
    laws = jnp.arange(mass.size)
    chosen = jnp.argmax(mass)
    # With less mass at zero than the law ahead, w < 0.
    negative = (mass < mass[chosen] - 1e-12) & (side == "lower")

    def place(v):
        above = high + jnp.logaddexp(0.0, v)
        if side == "upper":
            return jax.lax.complex(above, jnp.zeros_like(v))
        y = jnp.where(negative, v, low - jnp.logaddexp(0.0, v))
        if law.branch is not None:
            y = jnp.where((law.branch < 0) | _ring(law)[1], y, above)
        return jax.lax.complex(y, jnp.where(negative, math.pi, 0.0))

    def see(law, omega):
        """Of the layers, with log u where they have skip connections."""
        seen = look(law, omega)
        if law.branch is None:
            return seen, None
        more = 2 - jnp.maximum(law.branch, 0.0)
        root = real_partner(more * jnp.log(jnp.abs(seen.rest.real)) - omega.real)
        inside = jnp.full(root.shape, side == "lower") & ~_ring(law)[1]
        partner = as_complex(jnp.where(inside, -root, root))
        skip = has_skip(law, omega)
        total = summed(seen.below, seen.rest, partner)
        below = jnp.where(skip, total.below, seen.below)
        return Look(below, jnp.where(skip, total.rest, seen.rest), seen.rate), partner

    def turned(law, omega, partner):
        """Where s of a layer 1 + a has passed its largest value, beyond the layer's edge."""
        if partner is None or side == "upper":
            return jnp.zeros(omega.shape, bool)
        found = respond(law, Branch(omega, as_complex(jnp.zeros_like(c)), partner))
        own = jnp.where(_ring(law)[1], -found.omega.real, found.omega.real)
        return has_skip(law, omega) & ~(own > 0)

    def follow(v):
        """v of all laws from that of the law ahead: s rises with w < 0 and with w > 0."""
        one = jax.tree.map(lambda table: table[chosen][None], law)
        ahead, _ = see(one, place(jnp.full_like(low, v))[chosen][None])
        s, rest = ahead.below.real[0], ahead.rest.real[0]
        if mass.size > 1:

            def too_far(v):
                omega = place(v)
                seen, partner = see(law, omega)
                # Without mass at zero 1 − s is small and negative, otherwise s is of order one.
                precise = (side == "lower") & (mass[chosen] == 0)
                less = jnp.where(precise, seen.rest.real > rest, seen.below.real < s)
                return less & ~turned(law, omega, partner) if side == "lower" else ~less

            end = jnp.abs(low) + jnp.abs(high) + 60
            found = bisect(too_far, jnp.where(negative, -end, _NEAREST), end)
            v = jnp.where(laws == chosen, v, found)
        else:
            v = v[None]
        return s, rest, v

    def rise(v):
        """At v of the law ahead."""
        s, rest, every = follow(v)
        omega = place(every)
        seen, partner = see(law, omega)
        # Of numbers far from 1 the quotient has lost what ν is.
        far = jnp.abs(s) > 2
        real = jnp.where(far, -jnp.log1p(-1 / jnp.where(far, s, 2)), jnp.log(jnp.abs(s / rest)))
        nu = jax.lax.complex(real, jnp.asarray(math.pi, s.dtype))
        rate = respond(law, Branch(omega, nu, partner)).place.real
        if law.branch is not None:
            # What cancels there is of each law's own s, which rounding keeps apart.
            rate = rate + jnp.where(has_skip(law, rate), 2 * (s - seen.below.real), 0.0)
        slope = (c - 1 + jnp.sum(factors.count * rate) - g * s) / (s * rest)
        # Laws with w < 0 have s < 1 − mass: where they cannot follow, λ has long had its maximum.
        lost = jnp.any(negative & (s >= 1 - mass))
        if law.branch is not None:
            lost = lost | jnp.any(turned(law, omega, partner))
            # The others cannot come closer to the end of their law.
            stuck = ~negative & (every < _NEAREST + 1e-6) & (laws != chosen)
            lost = lost | jnp.any(stuck)
            lost = lost | ((side == "lower") & (mass[chosen] == 0) & (rest >= 0))
        # So it has where s = 1 and the factor 1 − s of a Gaussian matrix is zero.
        lost = lost | ((side == "lower") & (g > 0) & (rest <= 0))
        slope = jnp.where(lost, -1.0, slope)
        y = omega.real
        size, noise = jnp.abs(y), jnp.zeros_like(y)
        if partner is not None:
            skip = has_skip(law, y)
            square, one = log_square(partner).real, jnp.abs(share(1j * math.pi - partner))
            log_rest = jnp.log(jnp.abs(rest))
            own = jnp.abs(look(law, omega).below) + one
            y = jnp.where(skip, 2 * log_rest - square, y)
            # Signs of slopes within their noise leave the edge open by as many roundings as
            # there are steps in v, times what cancels in s.
            steps = -_NEAREST * (1 + own / jnp.minimum(jnp.abs(s), jnp.abs(rest)))
            size = jnp.where(skip, 2 * jnp.abs(log_rest) + jnp.abs(square) + steps, size)
            noise = jnp.where(skip, own, 0.0)
        terms = [
            (c - 1) * real,
            jnp.sum(factors.count * y),
            g * jnp.log(jnp.abs(rest)),
            factors.log_variance,
        ]
        size = sum((jnp.abs(term) for term in terms), c) + jnp.sum(factors.count * size)
        size = size + (c - 1) * (jnp.abs(jnp.log(jnp.abs(s))) + jnp.abs(jnp.log(jnp.abs(rest))))
        noise = 16 * epsilon(s) * (c + g + jnp.sum(factors.count * noise)) / jnp.abs(s * rest)
        return _Point(slope, noise, s, sum(terms, jnp.zeros_like(c)), size)

    zero = jnp.zeros_like(c)
    # A slope that rounding has lost is beyond the edge, too.
    v = -bisect(lambda v: ~(rise(-v).slope > 0), zero - 60.0, zero - _NEAREST)
    h = 1e-4
    # The last one is 4 times as far from the end of the law.
    around = jnp.asarray([-2 * h, -h, 0.0, h, 2 * h, math.log(4)], v.dtype)
    points = jax.vmap(rise)(v + around)
    slope, shares, total = points.slope, points.s, points.total[2]
    s = shares[2]
    apart = shares[3] - shares[1]
    bend = (slope[3] - slope[1]) / apart
    # With twice the step the error is four times as large.
    bend_error = jnp.abs(bend - (slope[4] - slope[0]) / (shares[4] - shares[0]))
    noise = points.noise[2] + 16 * epsilon(s) * (c + g) * jnp.abs(bend * s)
    bend_error = bend_error + noise / jnp.abs(apart)
    limit = v <= _NEAREST + 0.1
    if law.branch is not None:
        limit = limit | ~(jnp.abs(slope[5]) > points.noise[5])
    bend = jnp.where(limit, jnp.nan, bend)
    rounding = 8 * epsilon(total) * points.size[2]
    if law.branch is not None:
        # What is left shrinks with the distance, or with its root.
        rounding = rounding + jnp.where(limit, jnp.abs(points.total[5] - total), 0.0)
    return Edge(total, bend, bend_error, rounding)


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


def _no_smallest(factors: JacobianFactors) -> Bool[Array, " laws"]:
    """Whether slopes have no smallest one, but fall on in the tails or pass 0: the edge is then
    0, or unknown."""
    law = factors.law
    there = law.square > 0
    smallest = jnp.argmin(jnp.where(there, law.square, jnp.inf), axis=1)
    outermost = jnp.argmin(jnp.where(there, law.probability, jnp.inf), axis=1)
    apart = jnp.abs(log_range(law)[0] - log_range(factors.check)[0])
    return ((smallest == outermost) & (apart > 64 * epsilon(apart))) | (apart > 0.05)


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
    reported is where the tails are cut, with an error that reaches 0, infinite for the logarithm.

    The fluctuation is that of the spectrum's own edge, the leading term in 1/N at fixed depth.
    It is all there is in linear networks with L ≪ N: at N = 256 the measured mean of
    log s_max − log_upper is −.0176 ± .0027 for L = 1 (predicted −.0165), −.045 ± .007 for L = 4
    (−.033) and −.119 ± .011 for L = 16 (−.077), and deviations agree within 20 %. The rest is
    of order L/N. With nonlinearities the length of the one input fluctuates too, which makes
    the deviation 2 to 3 times as large at L = 8.

    References
    ----------
    Tracy and Widom (1996), On orthogonal and symplectic matrix ensembles, for the law of ξ;
    its scale follows from the density at the edge.
    """
    needs_float64("spectrum_edges")
    both = lambda side: by_both(lambda factors: edge(factors, side), factors)
    upper, lower = both("upper"), both("lower")
    log_upper, log_lower = _logs(*upper, tolerance), _logs(*lower, tolerance)
    bend = upper[0].bend
    off = upper[0].bend_error + SAFETY * jnp.abs(bend - upper[1].bend)
    gap = has_gap(factors)
    log_lower = Estimate(
        jnp.where(gap, log_lower.value, -jnp.inf),
        jnp.where(gap, log_lower.error, 0.0),
        jnp.where(gap, log_lower.status, jnp.int8(Status.OK)),
    )
    lower_edge = _exponential(log_lower)
    falls = gap & jnp.any(_no_smallest(factors))
    highest = _exponential(log_upper)
    reach = jnp.minimum(jnp.maximum(lower_edge.error, lower_edge.value), highest.value)
    reach = jnp.where(falls, reach, lower_edge.error)
    lower_edge = Estimate(lower_edge.value, reach, lower_edge.status)
    log_lower = Estimate(
        log_lower.value, jnp.where(falls, jnp.inf, log_lower.error), log_lower.status
    )
    if factors.law.branch is not None:
        crossed = log_lower.value - log_lower.error > log_upper.value + log_upper.error
        log_lower = replace_where(crossed, Status.NOT_CONVERGED, log_lower)
        lower_edge = replace_where(crossed, Status.NOT_CONVERGED, lower_edge)
        # Above an atom at zero, layers 1 + a are on another side of their spectrum.
        mixed = jnp.max(factors.law.mass_at_zero) > 0
        log_lower = replace_where(mixed & gap, Status.NOT_CONVERGED, log_lower)
        lower_edge = replace_where(mixed & gap, Status.NOT_CONVERGED, lower_edge)
    # Eigenvalues at x below the edge: N/π √(2 x/bend), that of Airy's process √ξ/π.
    soft = bend > 0
    scale = jnp.cbrt(jnp.where(soft, bend, 1.0) / 2) / 2
    fluctuation = as_estimate(scale, scale * off / (3 * jnp.where(soft, bend, 1.0)), tolerance)
    fluctuation = replace_where(~soft, Status.ABSENT, fluctuation)
    return Edges(lower_edge, highest, log_lower, log_upper, fluctuation)
