"""The smallest and the largest singular value of a Jacobian at infinite width.

Notation: as in `_branch`. Outside the spectrum s, m = −s and all w_l are real.
"""

import math
from typing import Literal

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float

from theory.description import directly_if
from theory.gaussian import epsilon
from theory.numerics import (
    Array,
    Estimate,
    Status,
    as_estimate,
    check_positive,
    compiled,
    complex_of,
    each,
    needs_float64,
    replace_where,
    xp,
)
from theory.spectrum._branch import (
    Branch,
    Look,
    as_complex,
    bisect,
    has_skip,
    log_range,
    look,
    respond,
)
from theory.spectrum._factors import SAFETY, JacobianFactors, by_both, check_factors
from theory.spectrum._skip import log_square, real_partner, share, summed
from theory.spectrum._slopes import SlopeLaw


class Edge(eqx.Module):
    """End of the spectrum: log λ there, and how the density sets in."""

    log_lambda: Float[Array, ""]
    bend: Float[Array, ""]
    """∂² log λ/∂m² at the edge."""
    bend_error: Float[Array, ""]
    """Error of `bend`, which is a difference quotient."""
    rounding: Float[Array, ""]
    """Error of log λ, and the remainder of the search where the edge is its limit."""


class _Point(eqx.Module):
    """A point outside the spectrum."""

    slope: Float[Array, ""]
    """∂ log λ/∂s."""
    noise: Float[Array, ""]
    """Rounding error of the slope."""
    s: Float[Array, ""]
    total: Float[Array, ""]
    """log λ."""
    size: Float[Array, ""]
    """Size of the terms that add up to it, each of which is rounded."""


_NEAREST = -34.0
"""log of the smallest relative distance from the end of a law that rounding resolves."""

Side = Literal["upper", "lower"]


def has_gap(factors: JacobianFactors) -> Bool[Array, ""]:
    """Whether the spectrum is bounded away from zero, apart from an atom there.

    With mass at zero, this holds if a single layer produces it. Without, it holds unless a square
    matrix of independent entries, or a layer 1 + a where a has eigenvalues of modulus 1, brings
    eigenvalues arbitrarily close to zero.
    """
    mass = factors.law.mass_at_zero
    most = xp.max(mass)
    layers = xp.sum(xp.where(mass >= most - 1e-12, factors.count, 0.0))
    gap = factors.independent == 0
    if factors.law.branch is not None:
        small, large = _ring(factors.law)
        gap = gap & xp.all((factors.law.branch < 0) | small | large)
    return xp.where(most > 0, layers == 1, gap)


def _ring(law: SlopeLaw) -> tuple[Bool[Array, " laws"], Bool[Array, " laws"]]:
    """Whether all eigenvalues of a are inside the unit circle, and whether all are outside.

    They fill a ring of radii (E |a|^(−2))^(−1/2) and (E |a|²)^(1/2) (Haagerup and Larsen 2000,
    theorem 4.4).
    """
    outer = xp.sum(law.probability * law.square, axis=1)
    inner = xp.sum(law.probability / xp.where(law.square > 0, law.square, 1e-300), axis=1)
    return outer < 1, (law.branch == 0) & (inner < 1)


def edge(factors: JacobianFactors, side: Side) -> Edge:
    """The first critical point of λ on the real axis, coming from outside the spectrum.

    One law leads: w = d_max (1 + e^v) > d_max for the upper edge, and for the lower one
    w = d_min/(1 + e^v) < d_min, of the law with the most mass at zero. The others follow, so that
    all have the same s. If λ has no critical point before w reaches the end of the law, the
    spectrum ends in an atom there, which is the limit of the search.
    """
    law, c, g = factors.law, xp.sum(factors.count), factors.independent
    low, high = log_range(law)
    mass = law.mass_at_zero
    laws = xp.arange(mass.size)
    chosen = xp.argmax(mass)
    # Laws with less mass at zero than the leading one have w < 0.
    negative = (mass < mass[chosen] - 1e-12) & (side == "lower")

    def place(v):
        above = high + xp.logaddexp(0.0, v)
        if side == "upper":
            return complex_of(above, xp.zeros_like(v))
        y = xp.where(negative, v, low - xp.logaddexp(0.0, v))
        if law.branch is not None:
            y = xp.where((law.branch < 0) | _ring(law)[1], y, above)
        return complex_of(y, xp.where(negative, math.pi, 0.0))

    def see(law, omega):
        """Evaluate the layers, with log u for those with skip connections."""
        seen = look(law, omega)
        if law.branch is None:
            return seen, None
        more = 2 - xp.maximum(law.branch, 0.0)
        root = real_partner(more * xp.log(xp.abs(seen.rest.real)) - omega.real)
        inside = xp.full(root.shape, side == "lower") & ~_ring(law)[1]
        partner = as_complex(xp.where(inside, -root, root))
        skip = has_skip(law, omega)
        total = summed(seen.below, seen.rest, partner)
        below = xp.where(skip, total.below, seen.below)
        return Look(below, xp.where(skip, total.rest, seen.rest), seen.rate), partner

    def past_largest(law, omega, partner):
        """Where s of a layer 1 + a is past its maximum, beyond the edge of the layer."""
        if partner is None or side == "upper":
            return xp.zeros(omega.shape, bool)
        found = respond(law, Branch(omega, as_complex(xp.zeros_like(c)), partner))
        own = xp.where(_ring(law)[1], -found.omega.real, found.omega.real)
        return has_skip(law, omega) & ~(own > 0)

    def follow(v):
        """v of all laws from v of the leading one: s increases with w < 0 and with w > 0."""
        one = jax.tree.map(lambda table: table[chosen][None], law)
        ahead, _ = see(one, place(xp.full_like(low, v))[chosen][None])
        s, rest = ahead.below.real[0], ahead.rest.real[0]
        if mass.size > 1:

            def too_far(v):
                omega = place(v)
                seen, partner = see(law, omega)
                # Without mass at zero 1 − s is small and negative, otherwise s is of order one.
                precise = (side == "lower") & (mass[chosen] == 0)
                less = xp.where(precise, seen.rest.real > rest, seen.below.real < s)
                return less & ~past_largest(law, omega, partner) if side == "lower" else ~less

            end = xp.abs(low) + xp.abs(high) + 60
            found = bisect(too_far, xp.where(negative, -end, _NEAREST), end)
            v = xp.where(laws == chosen, v, found)
        else:
            v = v[None]
        return s, rest, v

    def rise(v):
        """Evaluate at v of the leading law."""
        s, rest, every = follow(v)
        omega = place(every)
        seen, partner = see(law, omega)
        # The quotient of numbers far from 1 has lost ν.
        far = xp.abs(s) > 2
        real = xp.where(far, -xp.log1p(-1 / xp.where(far, s, 2)), xp.log(xp.abs(s / rest)))
        nu = complex_of(real, xp.asarray(math.pi, s.dtype))
        rate = respond(law, Branch(omega, nu, partner)).place.real
        if law.branch is not None:
            # Each law has its own s here, since rounding keeps them apart; the rest cancels.
            rate = rate + xp.where(has_skip(law, rate), 2 * (s - seen.below.real), 0.0)
        slope = (c - 1 + xp.sum(factors.count * rate) - g * s) / (s * rest)
        # Laws with w < 0 have s < 1 − mass: where they cannot follow, λ is past its maximum.
        lost = xp.any(negative & (s >= 1 - mass))
        if law.branch is not None:
            lost = lost | xp.any(past_largest(law, omega, partner))
            # The others cannot come closer to the end of their law.
            stuck = ~negative & (every < _NEAREST + 1e-6) & (laws != chosen)
            lost = lost | xp.any(stuck)
            lost = lost | ((side == "lower") & (mass[chosen] == 0) & (rest >= 0))
        # The same holds where s = 1 and the factor 1 − s of independent entries is zero.
        lost = lost | ((side == "lower") & (g > 0) & (rest <= 0))
        slope = xp.where(lost, -1.0, slope)
        y = omega.real
        size, noise = xp.abs(y), xp.zeros_like(y)
        if partner is not None:
            skip = has_skip(law, y)
            square, one = log_square(partner).real, xp.abs(share(1j * math.pi - partner))
            log_rest = xp.log(xp.abs(rest))
            own = xp.abs(look(law, omega).below) + one
            y = xp.where(skip, 2 * log_rest - square, y)
            # Where slopes are within their noise, the position of the edge is uncertain by as many
            # roundings as there are steps in v, times the cancellation in s.
            steps = -_NEAREST * (1 + own / xp.minimum(xp.abs(s), xp.abs(rest)))
            size = xp.where(skip, 2 * xp.abs(log_rest) + xp.abs(square) + steps, size)
            noise = xp.where(skip, own, 0.0)
        terms = [
            (c - 1) * real,
            xp.sum(factors.count * y),
            g * xp.log(xp.abs(rest)),
            factors.log_variance,
        ]
        size = sum((xp.abs(term) for term in terms), c) + xp.sum(factors.count * size)
        size = size + (c - 1) * (xp.abs(xp.log(xp.abs(s))) + xp.abs(xp.log(xp.abs(rest))))
        noise = 32 * epsilon(s) * (c + g + xp.sum(factors.count * noise)) / xp.abs(s * rest)
        return _Point(slope, noise, s, sum(terms, xp.zeros_like(c)), size)

    zero = xp.zeros_like(c)
    # A slope that is lost in rounding counts as beyond the edge.
    v = -bisect(lambda v: ~(rise(-v).slope > 0), zero - 60.0, zero - _NEAREST)
    h = 1e-4
    # The last one is 4 times as far from the end of the law.
    around = xp.asarray([-2 * h, -h, 0.0, h, 2 * h, math.log(4)], v.dtype)
    points = each(rise, v + around)
    slope, shares, total = points.slope, points.s, points.total[2]
    s = shares[2]
    apart = shares[3] - shares[1]
    bend = (slope[3] - slope[1]) / apart
    # With twice the step the error is four times as large.
    bend_error = xp.abs(bend - (slope[4] - slope[0]) / (shares[4] - shares[0]))
    noise = points.noise[2] + 16 * epsilon(s) * (c + g) * xp.abs(bend * s)
    bend_error = bend_error + noise / xp.abs(apart)
    limit = v <= _NEAREST + 0.1
    if law.branch is not None:
        limit = limit | ~(xp.abs(slope[5]) > points.noise[5])
    bend = xp.where(limit, xp.nan, bend)
    rounding = 8 * epsilon(total) * points.size[2]
    if law.branch is not None:
        # The remainder shrinks with the distance, or with its root.
        rounding = rounding + xp.where(limit, xp.abs(points.total[5] - total), 0.0)
    return Edge(total, bend, bend_error, rounding)


class Edges(eqx.Module):
    """The ends of the spectrum, not counting zeros."""

    lower: Estimate
    """The smallest singular value; 0 if they come arbitrarily close to it."""
    upper: Estimate
    log_lower: Estimate
    log_upper: Estimate
    fluctuation: Estimate
    """a in log s_max ≈ log_upper + a N^(-2/3) ξ at width N, where ξ has the Tracy–Widom law of
    real symmetric matrices (mean −1.2065, deviation 1.2680); ABSENT if the density does not
    vanish like a square root at the edge."""


def _logs(one: Edge, other: Edge, tolerance: float) -> Estimate:
    error = SAFETY * xp.abs(one.log_lambda - other.log_lambda) + one.rounding
    return as_estimate(one.log_lambda / 2, error / 2, tolerance, xp.ones_like(error))


def _exponential(log: Estimate) -> Estimate:
    value = xp.exp(log.value)
    error = xp.where(xp.isfinite(log.value), value * xp.expm1(log.error), 0.0)
    infinite = replace_where(value == xp.inf, Status.INFINITE, Estimate(value, error, log.status))
    return infinite


def _no_smallest(factors: JacobianFactors) -> Bool[Array, " laws"]:
    """Whether slopes have no smallest value: they decay in the tails or pass through 0.

    The edge is then 0, or unknown.
    """
    law = factors.law
    there = law.square > 0
    smallest = xp.argmin(xp.where(there, law.square, xp.inf), axis=1)
    outermost = xp.argmin(xp.where(there, law.probability, xp.inf), axis=1)
    apart = xp.abs(log_range(law)[0] - log_range(factors.check)[0])
    return ((smallest == outermost) & (apart > 64 * epsilon(apart))) | (apart > 0.05)


def spectrum_edges(factors: JacobianFactors, *, tolerance: float = 1e-6) -> Edges:
    """The smallest and the largest singular value of J at infinite width.

    Parameters
    ----------
    factors
        From `jacobian_factors`.
    tolerance
        Absolute error of log s beyond which an edge is INACCURATE.

    Returns
    -------
    Edges
        As singular values and as their logarithms; only the latter are finite at any depth.

    Accuracy
    --------
    The upper edge is that of the law on its quadrature nodes. The lower edge of orthogonal
    weights depends on the rarest units: if φ' → 0 in the tails it is zero. The value is then the
    one where the tails are cut off; its error extends to 0, and that of the logarithm is
    infinite.

    The fluctuation is that of the edge of the spectrum, the leading term in 1/N at fixed depth.
    In linear networks with L ≪ N there is nothing else: at N = 256 the measured mean of
    log s_max − log_upper is −.0176 ± .0027 for L = 1 (predicted −.0165), −.045 ± .007 for L = 4
    (−.033) and −.119 ± .011 for L = 16 (−.077), and deviations agree within 20 %. The rest is
    of order L/N. With nonlinearities the length of the input fluctuates as well, which makes the
    deviation 2 to 3 times as large at L = 8.

    References
    ----------
    Tracy and Widom (1996), On orthogonal and symplectic matrix ensembles, for the law of ξ;
    its scale follows from the density at the edge.
    """
    needs_float64("spectrum_edges")
    check_factors(factors)
    check_positive("tolerance", tolerance)
    return _spectrum_edges(factors, tolerance)


@directly_if(lambda factors, _: factors.count.size == 1, compiled)
def _spectrum_edges(factors, tolerance) -> Edges:
    both = lambda side: by_both(lambda factors: edge(factors, side), factors)
    upper, lower = both("upper"), both("lower")
    log_upper, log_lower = _logs(*upper, tolerance), _logs(*lower, tolerance)
    bend = upper[0].bend
    off = upper[0].bend_error + SAFETY * xp.abs(bend - upper[1].bend)
    gap = has_gap(factors)
    log_lower = Estimate(
        xp.where(gap, log_lower.value, -xp.inf),
        xp.where(gap, log_lower.error, 0.0),
        xp.where(gap, log_lower.status, np.int8(Status.OK)),
    )
    lower_edge = _exponential(log_lower)
    falls = gap & xp.any(_no_smallest(factors))
    highest = _exponential(log_upper)
    reach = xp.minimum(xp.maximum(lower_edge.error, lower_edge.value), highest.value)
    reach = xp.where(falls, reach, lower_edge.error)
    lower_edge = Estimate(lower_edge.value, reach, lower_edge.status)
    log_lower = Estimate(
        log_lower.value, xp.where(falls, xp.inf, log_lower.error), log_lower.status
    )
    if factors.law.branch is not None:
        crossed = log_lower.value - log_lower.error > log_upper.value + log_upper.error
        log_lower = replace_where(crossed, Status.NOT_CONVERGED, log_lower)
        lower_edge = replace_where(crossed, Status.NOT_CONVERGED, lower_edge)
        # Above an atom at zero, layers 1 + a are on the other side of their spectrum.
        mixed = xp.max(factors.law.mass_at_zero) > 0
        log_lower = replace_where(mixed & gap, Status.NOT_CONVERGED, log_lower)
        lower_edge = replace_where(mixed & gap, Status.NOT_CONVERGED, lower_edge)
    # Eigenvalues at distance x below the edge: N/π √(2 x/bend), and √ξ/π for the Airy process.
    soft = bend > 0
    scale = xp.cbrt(xp.where(soft, bend, 1.0) / 2) / 2
    fluctuation = as_estimate(scale, scale * off / (3 * xp.where(soft, bend, 1.0)), tolerance)
    fluctuation = replace_where(~soft, Status.ABSENT, fluctuation)
    return Edges(lower_edge, highest, log_lower, log_upper, fluctuation)
