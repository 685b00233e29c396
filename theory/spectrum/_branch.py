"""The physical branch of the equation for the moment function of a free product.

Notation: s = −M(λ), ν = log(s/(1 − s)), and w_l the point where the law of D_l² takes the same
value, s = E d/(d − w_l), with ω_l = log w_l. S-transforms multiply, so

    log λ = (c − 1)(ν − iπ) + Σ_l c_l ω_l + g log(1 − s) + log σ²,

where c = Σ c_l is the number of nonlinearities, g that of weight matrices with independent
entries, and log σ² the sum of log variances. For arg λ in (0, π) all ω_l and ν have imaginary
parts in (0, π), and no other solution does: the w_l are the subordination functions of the free
product, fixed points of analytic maps of the half-plane into itself. For λ < 0 everything is real
and monotone. For a layer with a skip connection (see `_skip`), w_l is replaced by λ_l of the
layer, which depends on the two subordination functions of a free sum.

References: Voiculescu (1987); Belinschi and Bercovici (2007), A new approach to subordination
results in free probability, theorems 3.2 and 3.3.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Complex, Float

from theory.gaussian import epsilon
from theory.numerics import Array, complex_of, repeated, running_max, scan, traced, xp
from theory.spectrum._factors import JacobianFactors
from theory.spectrum._skip import log_lambda_of_sum, log_square, share, softplus, summed
from theory.spectrum._slopes import SlopeLaw

_TABLE = 256
"""Number of points on the negative axis."""
_DOWN = np.repeat([0.75, 0.5, 0.3, 0.15, 0.05, 0.015, 0.005, 0.0015], 2)
_ANGLES = math.pi * np.concatenate([np.ones(4), _DOWN, np.zeros(8)])
"""Arguments of λ on the path from the negative axis to the positive one."""
_AGAIN = _ANGLES[-15:]
"""The same for a law that differs little."""
_HALVINGS = 60
_CHUNK = 8
_FAR = 1e75


class Branch(eqx.Module):
    """Solutions at one or several λ."""

    omega: Complex[Array, "laws *points"]
    nu: Complex[Array, "*points"]
    partner: Complex[Array, "laws *points"] | None
    """log u of the layers with a skip connection; None if there are none."""


class Look(eqx.Module):
    """The laws evaluated at given ω_l."""

    below: Complex[Array, "laws *points"]
    """A = E d/(d − w)."""
    rest: Complex[Array, "laws *points"]
    """B = E w/(w − d) = 1 − A, to full relative accuracy."""
    rate: Complex[Array, "laws *points"]
    """∂ log(A/B)/∂ω."""


def wide(x: Float[Array, " laws"], points: Array) -> Float[Array, "laws *ones"]:
    """Reshape numbers, one per law, to broadcast with an array [laws, *points]."""
    return x.reshape(-1, *(1,) * (points.ndim - 1))


def log_range(law: SlopeLaw) -> tuple[Float[Array, " laws"], Float[Array, " laws"]]:
    """Logarithms of the smallest positive and of the largest value of D²."""
    smallest = xp.min(xp.where(law.square > 0, law.square, xp.inf), axis=1)
    return xp.log(smallest), xp.log(xp.max(law.square, axis=1))


def _over_nodes(law: SlopeLaw, omega: Array, terms: Callable, count: int) -> list[Array]:
    """Sums over nodes of `terms(d/|w|, probability)`, all in one pass.

    Points are contiguous and nodes are processed in chunks, which vectorises well on a CPU.
    """
    scale = xp.exp(-omega.real)
    if not traced(law, omega):
        table = lambda values: values.T.reshape(*values.T.shape, *(1,) * (omega.ndim - 1))
        ratio = np.minimum(table(law.square) * scale, _FAR)
        probability = table(law.probability)
        return [np.sum(term, axis=0) for term in terms(ratio, probability)]
    nodes = law.square.shape[1]
    chunk = min(_CHUNK, nodes)
    padded = law.padded(-(-nodes // chunk) * chunk)

    def chunks(table):
        table = table.T.reshape(-1, chunk, table.shape[0])
        return table.reshape(*table.shape, *(1,) * (omega.ndim - 1))

    def add(sums, some):
        for square, probability in zip(*some, strict=True):
            # Relative to |w|, so that nothing overflows; values far above |w| are all alike.
            ratio = xp.minimum(square * scale, _FAR)
            sums = [
                total + term for total, term in zip(sums, terms(ratio, probability), strict=True)
            ]
        return sums, None

    start = [xp.zeros_like(scale)] * count
    tables = chunks(padded.square), chunks(padded.probability)
    if nodes <= chunk:
        return add(start, jax.tree.map(lambda table: table[0], tables))[0]
    return jax.lax.scan(add, start, tables)[0]


def look(law: SlopeLaw, omega: Complex[Array, "laws *points"]) -> Look:
    """A, B and their logarithmic derivative for every law."""
    u, v = xp.cos(omega.imag), xp.sin(omega.imag)
    v2 = v * v

    def terms(ratio, probability):
        gap = ratio - u
        square = gap * gap
        inverse = 1 / (square + v2 + 1e-280)
        one = probability * inverse
        first = one * ratio
        second = first * inverse
        return first, first * gap, one, one * gap, second * (square - v2), second * gap

    first, below, one, rest, real, imag = _over_nodes(law, omega, terms, 6)
    direction = complex_of(u, v)
    below = complex_of(below, v * first)
    rest = direction * complex_of(-rest, -v * one)
    return Look(below, rest, direction * complex_of(real, 2 * v * imag) / (below * rest))


def mean_angle(
    law: SlopeLaw, omega: Complex[Array, "laws *points"]
) -> Float[Array, "laws *points"]:
    """E arg(1 − d/w) for every law."""
    u, v = xp.cos(omega.imag), xp.sin(omega.imag)
    terms = lambda ratio, probability: [probability * xp.arctan2(v, u - ratio)]
    winding = xp.where(omega.imag > math.pi, 2 * math.pi, 0.0)
    return _over_nodes(law, omega, terms, 1)[0] + winding - omega.imag


def as_complex(x: Float[Array, "*shape"]) -> Complex[Array, "*shape"]:
    """Convert real to complex; real and complex arrays are not mixed implicitly."""
    return complex_of(x, xp.zeros_like(x))


def _log(above: Array) -> Array:
    """log of a number in the closed upper half-plane, with argument in [0, π]."""
    return complex_of(xp.log(xp.abs(above)), xp.arctan2(xp.maximum(above.imag, 0.0), above.real))


def log_of_rest(seen: Look, omega: Complex[Array, "laws *points"]) -> Array:
    """log(1 − s), valid also if w is in the lower half-plane and has an argument above π."""
    above = omega.imag > math.pi
    return xp.where(above, _log(seen.rest), xp.conj(_log(xp.conj(seen.rest))))


def nu_of(seen: Look) -> Complex[Array, "laws *points"]:
    """ν = log(A/B)."""
    return _log(seen.below) - xp.conj(_log(xp.conj(seen.rest)))


def _counted(factors: JacobianFactors, each: Complex[Array, "laws *points"]) -> Array:
    """Σ_l c_l `each`_l."""
    return xp.sum(as_complex(wide(factors.count, each)) * each, axis=0)


def _numbers(factors: JacobianFactors) -> tuple[Array, Array, Array]:
    """c, g and log σ²."""
    numbers = (xp.sum(factors.count), factors.independent, factors.log_variance)
    return tuple(map(as_complex, numbers))  # type: ignore


def has_skip(law: SlopeLaw, points: Array) -> Bool[Array, "laws *ones"]:
    """Which laws are those of layers with a skip connection; `law.branch` is not None."""
    assert law.branch is not None
    return wide(law.branch, points) >= 0


def log_lambda(factors: JacobianFactors, at: Branch) -> Complex[Array, "*points"]:
    """log λ of solutions."""
    c, g, log_variance = _numbers(factors)
    rotated = (c - 1) * (at.nu - 1j * math.pi)
    places = at.omega
    if at.partner is not None:
        layers = log_lambda_of_sum(at.partner, at.nu[None])
        places = xp.where(has_skip(factors.law, places), layers, places)
    return rotated + _counted(factors, places) - g * softplus(at.nu) + log_variance


class Response(NamedTuple):
    """How the places of the laws change with ν: along solutions, and in a Newton step."""

    place: Complex[Array, "laws *points"]
    """∂ log λ_l/∂ν; λ_l is w_l, or λ of the layer if it has a skip connection."""
    omega: Complex[Array, "laws *points"]
    partner: Complex[Array, "laws *points"] | None
    miss_place: Complex[Array, "laws *points"]
    """The changes of the same quantities in a Newton step at fixed ν."""
    miss_omega: Complex[Array, "laws *points"]
    miss_partner: Complex[Array, "laws *points"] | None


def respond(law: SlopeLaw, at: Branch) -> Response:
    """A Newton step for the places of all laws, as a function of the change of ν."""
    seen = look(law, at.omega)
    nu = at.nu[None]
    omega, miss = 1 / seen.rate, (nu - nu_of(seen)) / seen.rate
    if at.partner is None:
        return Response(omega, omega, None, miss, miss, None)
    skip = has_skip(law, omega)
    below, rest, one, other = summed(seen.below, seen.rest, at.partner)
    more = as_complex(2 - wide(xp.maximum(law.branch, 0.0), omega))
    log_rest = log_of_rest(seen, at.omega)
    # Two equations: both expressions for G² agree, and so does ν.
    first = more * log_rest - at.omega - log_square(at.partner)
    second = _log(below) - xp.conj(_log(xp.conj(rest))) - nu
    a, b = -more * seen.below * seen.rate - 1, 1 - 2 * one
    change = below * rest
    c, d = seen.below * seen.rest * seen.rate / change, -one * other / change
    det = a * d - b * c
    own, partner = -b / det, a / det
    own_miss, partner_miss = (b * second - d * first) / det, (c * first - a * second) / det
    # log λ_l = −2 softplus(ν) − log G², whose derivative with respect to log u is −b.
    place, place_miss = b * partner - 2 * share(nu), b * partner_miss
    pick = lambda yes, no: xp.where(skip, yes, no)
    return Response(
        pick(place, omega),
        pick(own, omega),
        pick(partner, 0.0),
        pick(place_miss, miss),
        pick(own_miss, miss),
        pick(partner_miss, 0.0),
    )


def log_rate(
    factors: JacobianFactors, nu: Complex[Array, "*points"], found: Response
) -> Complex[Array, "*points"]:
    """∂ log λ/∂ν along solutions."""
    c, g, _ = _numbers(factors)
    return c - 1 + _counted(factors, found.place) - g * share(nu)


def _step(factors: JacobianFactors, target: Array, at: Branch) -> Branch:
    """One Newton step for all places and ν, kept in the half-plane."""
    found = respond(factors.law, at)
    wanted = target - log_lambda(factors, at) - _counted(factors, found.miss_place)
    change = wanted / log_rate(factors, at.nu, found)
    omega = found.miss_omega + change[None] * found.omega
    partner = None
    largest = xp.maximum(xp.abs(change), xp.max(xp.abs(omega), axis=0))
    if at.partner is not None:
        partner = found.miss_partner + change[None] * found.partner  # type: ignore
        largest = xp.maximum(largest, xp.max(xp.abs(partner), axis=0))
    damping = as_complex(xp.where(largest > 1, 1 / largest, 1.0))
    highest: Any = math.pi
    if at.partner is not None:
        partner = _kept(at.partner + damping[None] * partner, 2 * math.pi)  # type: ignore
        # Squares of subordination functions of a sum; the functions are in the half-plane.
        highest = xp.where(has_skip(factors.law, omega), 2 * math.pi, math.pi)
    return Branch(
        _kept(at.omega + damping[None] * omega, highest),
        _kept(at.nu + damping * change, math.pi),
        partner,
    )


def _kept(z: Array, highest: Any) -> Array:
    return complex_of(z.real, xp.clip(z.imag, 0.0, highest))


def _at_angles(factors: JacobianFactors, at: Branch, log_size: Array, angles: np.ndarray) -> Branch:
    """Solutions after one Newton step at each of these arguments of λ."""

    def step(at, angle):
        target = complex_of(log_size, angle)
        return _step(factors, target, at), None

    at, _ = scan(step, at, np.asarray(angles, log_size.dtype))
    return at


class Axis(eqx.Module):
    """Solutions on the negative axis, by increasing |λ|."""

    log_size: Float[Array, " points"]
    """log |λ|."""
    branch: Branch


def negative_axis(factors: JacobianFactors) -> Axis:
    """Solutions at λ < 0, from far inside to far outside the spectrum."""
    law = factors.law
    mass = law.mass_at_zero
    # The law with the most mass at zero limits the range of s.
    chosen = xp.argmax(mass)
    low, high = log_range(law)
    # At smaller |w|, laws with equal mass at zero are indistinguishable, and layers with a skip
    # connection lose the differences whose sum is s.
    near = 40.0 if law.branch is None else 20.0
    start = low[chosen] - xp.where(mass[chosen] > 0, 25.0, near)
    fraction = xp.linspace(0, 1, _TABLE, dtype=low.dtype)
    y = (start + fraction * (high[chosen] + 30 - start))[None]
    nu = _real_nu(jax.tree.map(lambda table: table[chosen][None], law), y)[0]
    if law.branch is not None:
        # If s is not monotone in w, tabulate in ν.
        nu = xp.where(law.branch[chosen] < 0, nu, near - fraction * (near + 40))
        branch = negative_solution(factors, nu)
    else:
        if mass.size > 1:
            y = xp.where((xp.arange(mass.size) == chosen)[:, None], y, _negative_places(law, nu))
        branch = Branch(_on_negative(y), as_complex(nu), None)
    # Make values that rounding cannot distinguish increase.
    return Axis(running_max(log_lambda(factors, branch).real), branch)


def negative_solution(factors: JacobianFactors, nu: Float[Array, "*points"]) -> Branch:
    """The solutions on the negative axis with these real ν."""
    law = factors.law
    omega = _on_negative(_negative_places(law, nu))
    if law.branch is None:
        return Branch(omega, as_complex(nu), None)
    one, _ = _negative_parts(law, omega, nu)
    safe = xp.where(has_skip(law, one), xp.clip(one, 1e-300, 1 - 1e-16), 0.5)
    return Branch(omega, as_complex(nu), _on_negative(xp.log1p(-safe) - xp.log(safe)))


def _negative_parts(law: SlopeLaw, omega: Array, nu: Array) -> tuple[Array, Array]:
    """−β = s − s_a and 1 + β, where s_a belongs to the law at ω < 0."""
    s, rest = share(as_complex(nu)).real, share(as_complex(-nu)).real
    below = look(law, omega).below.real
    return s[None] - below, rest[None] + below


def _negative_places(law: SlopeLaw, nu: Float[Array, "*points"]) -> Float[Array, "laws *points"]:
    """log |w_l| on the negative axis.

    With a skip connection it solves β (1 + β) = G² for m_a = m − β. Divided by S_a, which
    increases with s_a, one side decreases and the other increases.
    """
    start = xp.zeros((law.square.shape[0], *nu.shape), nu.dtype)
    low, high = (wide(end, start) + start for end in log_range(law))

    def too_far(y):
        plain = _real_nu(law, y) < nu[None]
        if law.branch is None:
            return plain
        omega = _on_negative(y)
        one, other = _negative_parts(law, omega, nu)
        rest = look(law, omega).rest.real
        more = 2 - wide(xp.maximum(law.branch, 0.0), y)
        above = (one > 0) & (one * other > xp.exp(more * xp.log(rest) - y))
        return xp.where(has_skip(law, y), above, plain)

    return bisect(too_far, xp.minimum(low, 0) - 120, xp.maximum(high, 0) + 120)


def _real_nu(law: SlopeLaw, y: Float[Array, "laws *points"]) -> Float[Array, "laws *points"]:
    seen = look(law, _on_negative(y))
    return xp.log(seen.below.real) - xp.log(seen.rest.real)


def _on_negative(y: Float[Array, "laws *points"]) -> Complex[Array, "laws *points"]:
    return complex_of(y, xp.full_like(y, math.pi))


def bisect(too_far: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """The place where `too_far` turns from false to true, for every entry."""

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        beyond = too_far(middle)
        return xp.where(beyond, low, middle), xp.where(beyond, middle, high)

    low, high = repeated(_HALVINGS, halve, (low, high))
    return (low + high) / 2


class Solution(eqx.Module):
    """Solutions at λ > 0 and their errors."""

    branch: Branch
    rate: Complex[Array, " points"]
    """∂ log λ/∂ν."""
    error: Float[Array, " points"]
    """Error of log λ."""
    found: Bool[Array, " points"]


def solve(factors: JacobianFactors, axis: Axis, log_size: Float[Array, " points"]) -> Solution:
    """The solutions at λ > 0.

    They are found on the negative axis, by monotone interpolation and Newton's method, and
    followed from there around the half circle of constant |λ|.
    """
    place = xp.clip(xp.searchsorted(axis.log_size, log_size), 1, _TABLE - 1)
    left, right = axis.log_size[place - 1], axis.log_size[place]
    fraction = (log_size - left) / xp.where(right > left, right - left, 1.0)
    fraction = as_complex(xp.clip(fraction, 0.0, 1.0))

    def between(table):
        part = fraction if table.ndim == 1 else fraction[None]
        return table[..., place - 1] + part * (table[..., place] - table[..., place - 1])

    at = jax.tree.map(between, axis.branch)
    return _judged(factors, _at_angles(factors, at, log_size, _ANGLES), log_size)


def solve_again(
    factors: JacobianFactors, near: Branch, log_size: Float[Array, " points"]
) -> Solution:
    """The solutions for laws that differ little, from the solutions `near`."""
    return _judged(factors, _at_angles(factors, near, log_size, _AGAIN), log_size)


def _judged(factors: JacobianFactors, at: Branch, log_size: Array) -> Solution:
    found = respond(factors.law, at)
    miss = xp.abs(found.miss_place)
    size = 1 + xp.abs(at.nu)[None] + xp.abs(at.omega)
    if at.partner is not None:
        miss = miss + xp.where(has_skip(factors.law, miss), xp.abs(found.miss_omega), 0.0)
        size = size + xp.abs(at.partner)
    weight = wide(factors.count, miss)
    rest = xp.abs(log_lambda(factors, at) - as_complex(log_size))
    rest = rest + xp.sum(weight * miss, axis=0)
    size = xp.sum(weight * size, axis=0)
    size = size + xp.abs(factors.log_variance) + factors.independent
    error = rest + 4 * epsilon(log_size) * size
    good = rest < 1e-6
    if at.partner is not None:
        places = log_lambda_of_sum(at.partner, at.nu[None]).imag
        inside = (places > -1e-6) & (places < math.pi + 1e-6)
        good = good & xp.all(inside | ~has_skip(factors.law, places), axis=0)
    return Solution(at, log_rate(factors, at.nu, found), error, good)
