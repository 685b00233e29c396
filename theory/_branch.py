"""The physical branch of the equation for the moment function of a free product.

Notation: s = −M(λ), ν = log(s/(1 − s)), and w_l the point where the law of D_l² takes the same
value, s = E d/(d − w_l), with ω_l = log w_l. The S-transforms multiply, so

    log λ = (c − 1)(ν − iπ) + Σ_l c_l ω_l + g log(1 − s) + log σ²,

where c = Σ c_l counts the nonlinearities, g the Gaussian weight matrices, and log σ² sums the
log variances. For arg λ in (0, π) all of ω_l and ν have imaginary parts in (0, π), and no other
solution has: the w_l are the subordination functions of the free product, fixed points of
analytic maps of the half-plane into itself. On λ < 0 all is real and monotone.

References: Voiculescu (1987); Belinschi and Bercovici (2007), A new approach to subordination
results in free probability, theorems 3.2 and 3.3.
"""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float

from theory._jacobian import JacobianFactors, SlopeLaw
from theory._moment_integrals import epsilon

_TABLE = 256
"""Points on the negative axis."""
_DOWN = np.repeat([0.75, 0.5, 0.3, 0.15, 0.05, 0.015, 0.005, 0.0015], 2)
_TURNS = math.pi * np.concatenate([np.ones(4), _DOWN, np.zeros(8)])
"""Arguments of λ on the way from the negative axis to the positive one."""
_AGAIN = _TURNS[-15:]
"""Those for a law that differs little."""
_HALVINGS = 60
_CHUNK = 8
_FAR = 1e75


class Branch(eqx.Module):
    """Solutions at one λ or several."""

    omega: Complex[Array, "laws *points"]
    nu: Complex[Array, "*points"]


class Look(eqx.Module):
    """What the laws say at given ω_l."""

    below: Complex[Array, "laws *points"]
    """A = E d/(d − w)."""
    rest: Complex[Array, "laws *points"]
    """B = E w/(w − d) = 1 − A, to full relative accuracy."""
    rate: Complex[Array, "laws *points"]
    """∂ log(A/B)/∂ω."""


def wide(x: Float[Array, " laws"], points: Array) -> Float[Array, "laws *ones"]:
    """Numbers of the laws, to go with an array [laws, *points]."""
    return x.reshape(-1, *(1,) * (points.ndim - 1))


def log_range(law: SlopeLaw) -> tuple[Float[Array, " laws"], Float[Array, " laws"]]:
    """Logarithms of the smallest positive and of the largest value of D²."""
    smallest = jnp.min(jnp.where(law.square > 0, law.square, jnp.inf), axis=1)
    return jnp.log(smallest), jnp.log(jnp.max(law.square, axis=1))


def _over_nodes(law: SlopeLaw, omega: Array, terms: Callable, count: int) -> list[Array]:
    """Sums over nodes of `terms(d/|w|, probability)`, all in one pass.

    Points are contiguous and nodes are taken some at a time, which is what a CPU vectorises.
    """
    scale = jnp.exp(-omega.real)
    nodes = law.square.shape[1]
    chunk = min(_CHUNK, nodes)
    padded = law.padded(-(-nodes // chunk) * chunk)

    def chunks(table):
        table = table.T.reshape(-1, chunk, table.shape[0])
        return table.reshape(*table.shape, *(1,) * (omega.ndim - 1))

    def add(sums, some):
        for square, probability in zip(*some, strict=True):
            # Relative to |w|, so that nothing overflows; values far above |w| are all alike.
            ratio = jnp.minimum(square * scale, _FAR)
            sums = [
                total + term for total, term in zip(sums, terms(ratio, probability), strict=True)
            ]
        return sums, None

    start = [jnp.zeros_like(scale)] * count
    tables = chunks(padded.square), chunks(padded.probability)
    if nodes <= chunk:
        return add(start, jax.tree.map(lambda table: table[0], tables))[0]
    return jax.lax.scan(add, start, tables)[0]


def look(law: SlopeLaw, omega: Complex[Array, "laws *points"]) -> Look:
    """A, B and their logarithmic derivative for every law."""
    u, v = jnp.cos(omega.imag), jnp.sin(omega.imag)
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
    direction = jax.lax.complex(u, v)
    below = jax.lax.complex(below, v * first)
    rest = direction * jax.lax.complex(-rest, -v * one)
    return Look(below, rest, direction * jax.lax.complex(real, 2 * v * imag) / (below * rest))


def mean_angle(
    law: SlopeLaw, omega: Complex[Array, "laws *points"]
) -> Float[Array, "laws *points"]:
    """E arg(1 − d/w) for every law."""
    u, v = jnp.cos(omega.imag), jnp.sin(omega.imag)
    terms = lambda ratio, probability: [probability * jnp.arctan2(v, u - ratio)]
    return _over_nodes(law, omega, terms, 1)[0] - omega.imag


def as_complex(x: Float[Array, "*shape"]) -> Complex[Array, "*shape"]:
    """The same number; real and complex arrays are not mixed by themselves."""
    return jax.lax.complex(x, jnp.zeros_like(x))


def _log(above: Array) -> Array:
    """log of a number of the closed upper half-plane, with argument in [0, π]."""
    return jax.lax.complex(
        jnp.log(jnp.abs(above)), jnp.arctan2(jnp.maximum(above.imag, 0.0), above.real)
    )


def nu_of(seen: Look) -> Complex[Array, "laws *points"]:
    """ν = log(A/B)."""
    return _log(seen.below) - jnp.conj(_log(jnp.conj(seen.rest)))


def softplus(nu: Complex[Array, "*points"]) -> Complex[Array, "*points"]:
    """log(1 + e^ν) = −log(1 − s)."""
    positive = nu.real > 0
    log = jnp.log1p(jnp.exp(jnp.where(positive, -nu, nu)))
    return jnp.where(positive, nu + log, log)


def share(nu: Complex[Array, "*points"]) -> Complex[Array, "*points"]:
    """s = e^ν/(1 + e^ν)."""
    positive = nu.real > 0
    small = jnp.exp(jnp.where(positive, -nu, nu))
    return jnp.where(positive, 1 / (1 + small), small / (1 + small))


def _counted(factors: JacobianFactors, each: Complex[Array, "laws *points"]) -> Array:
    """Σ_l c_l of something."""
    return jnp.sum(as_complex(wide(factors.count, each)) * each, axis=0)


def _numbers(factors: JacobianFactors) -> tuple[Array, Array, Array]:
    """c, g and log σ²."""
    numbers = (jnp.sum(factors.count), factors.gaussian, factors.log_variance)
    return tuple(map(as_complex, numbers))  # type: ignore


def log_lambda(factors: JacobianFactors, at: Branch) -> Complex[Array, "*points"]:
    """log λ of solutions."""
    c, g, log_variance = _numbers(factors)
    turned = (c - 1) * (at.nu - 1j * math.pi)
    return turned + _counted(factors, at.omega) - g * softplus(at.nu) + log_variance


def log_rate(
    factors: JacobianFactors, nu: Complex[Array, "*points"], rate: Complex[Array, "laws *points"]
) -> Complex[Array, "*points"]:
    """∂ log λ/∂ν along solutions."""
    c, g, _ = _numbers(factors)
    return c - 1 + _counted(factors, 1 / rate) - g * share(nu)


def _step(factors: JacobianFactors, target: Array, at: Branch) -> Branch:
    """One step of Newton's method for all of ω and ν, kept in the half-plane."""
    seen = look(factors.law, at.omega)
    miss = at.nu[None] - nu_of(seen)
    wanted = target - log_lambda(factors, at) - _counted(factors, miss / seen.rate)
    change = wanted / log_rate(factors, at.nu, seen.rate)
    changes = (miss + change[None]) / seen.rate
    largest = jnp.maximum(jnp.abs(change), jnp.max(jnp.abs(changes), axis=0))
    damping = as_complex(jnp.where(largest > 1, 1 / largest, 1.0))
    return Branch(_kept(at.omega + damping[None] * changes), _kept(at.nu + damping * change))


def _kept(z: Array) -> Array:
    return jax.lax.complex(z.real, jnp.clip(z.imag, 0.0, math.pi))


def _turned(factors: JacobianFactors, at: Branch, log_size: Array, angles: np.ndarray) -> Branch:
    """Solutions after a step of Newton's method at each of these arguments of λ."""

    def step(at, angle):
        target = jax.lax.complex(log_size, jnp.broadcast_to(angle, log_size.shape))
        return _step(factors, target, at), None

    return jax.lax.scan(step, at, jnp.asarray(angles, log_size.dtype))[0]


class Axis(eqx.Module):
    """Solutions on the negative axis, |λ| increasing."""

    log_size: Float[Array, " points"]
    """log |λ|."""
    branch: Branch


def negative_axis(factors: JacobianFactors) -> Axis:
    """Solutions at λ < 0, from far inside to far outside of the spectrum."""
    law = factors.law
    mass = law.mass_at_zero
    # The law with the most mass at zero decides how far s goes.
    chosen = jnp.argmax(mass)
    low, high = log_range(law)
    # With mass at zero, laws of the same mass cannot be told apart at smaller |w|.
    start = low[chosen] - jnp.where(mass[chosen] > 0, 25.0, 40.0)
    fraction = jnp.linspace(0, 1, _TABLE, dtype=low.dtype)
    y = (start + fraction * (high[chosen] + 30 - start))[None]
    nu = _real_nu(jax.tree.map(lambda table: table[chosen][None], law), y)[0]
    if mass.size > 1:
        y = jnp.where((jnp.arange(mass.size) == chosen)[:, None], y, _negative_places(law, nu))
    branch = Branch(_on_negative(y), as_complex(nu))
    # What rounding does not tell apart is made to increase.
    return Axis(jax.lax.cummax(log_lambda(factors, branch).real), branch)


def negative_solution(factors: JacobianFactors, nu: Float[Array, "*points"]) -> Branch:
    """The solutions on the negative axis with these real ν."""
    return Branch(_on_negative(_negative_places(factors.law, nu)), as_complex(nu))


def _negative_places(law: SlopeLaw, nu: Float[Array, "*points"]) -> Float[Array, "laws *points"]:
    """log |w_l| on the negative axis."""
    start = jnp.zeros((law.square.shape[0], *nu.shape), nu.dtype)
    low, high = (wide(end, start) + start for end in log_range(law))
    return bisect(lambda y: _real_nu(law, y) < nu[None], low - 120, high + 120)


def _real_nu(law: SlopeLaw, y: Float[Array, "laws *points"]) -> Float[Array, "laws *points"]:
    seen = look(law, _on_negative(y))
    return jnp.log(seen.below.real) - jnp.log(seen.rest.real)


def _on_negative(y: Float[Array, "laws *points"]) -> Complex[Array, "laws *points"]:
    return jax.lax.complex(y, jnp.full_like(y, math.pi))


def bisect(too_far: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Where `too_far` turns from false to true, for every entry."""

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        beyond = too_far(middle)
        return jnp.where(beyond, low, middle), jnp.where(beyond, middle, high)

    low, high = jax.lax.fori_loop(0, _HALVINGS, halve, (low, high))
    return (low + high) / 2


class Solution(eqx.Module):
    """Solutions at λ > 0 and what is known of them."""

    branch: Branch
    rate: Complex[Array, " points"]
    """∂ log λ/∂ν."""
    error: Float[Array, " points"]
    """Of log λ."""
    found: Bool[Array, " points"]


def solve(factors: JacobianFactors, axis: Axis, log_size: Float[Array, " points"]) -> Solution:
    """The solutions at λ > 0.

    From the negative axis, where they are found by monotone interpolation and Newton's method,
    they are followed around the half circle of constant |λ|.
    """
    place = jnp.clip(jnp.searchsorted(axis.log_size, log_size), 1, _TABLE - 1)
    left, right = axis.log_size[place - 1], axis.log_size[place]
    fraction = (log_size - left) / jnp.where(right > left, right - left, 1.0)
    fraction = as_complex(jnp.clip(fraction, 0.0, 1.0))

    def between(table):
        part = fraction if table.ndim == 1 else fraction[None]
        return table[..., place - 1] + part * (table[..., place] - table[..., place - 1])

    at = jax.tree.map(between, axis.branch)
    return _judged(factors, _turned(factors, at, log_size, _TURNS), log_size)


def solve_again(
    factors: JacobianFactors, near: Branch, log_size: Float[Array, " points"]
) -> Solution:
    """The same for laws that differ little, from the solutions `near`."""
    return _judged(factors, _turned(factors, near, log_size, _AGAIN), log_size)


def _judged(factors: JacobianFactors, at: Branch, log_size: Array) -> Solution:
    seen = look(factors.law, at.omega)
    miss = jnp.abs((nu_of(seen) - at.nu[None]) / seen.rate)
    weight = wide(factors.count, miss)
    rest = jnp.abs(log_lambda(factors, at) - as_complex(log_size))
    rest = rest + jnp.sum(weight * miss, axis=0)
    size = jnp.sum(weight * (1 + jnp.abs(at.nu)[None] + jnp.abs(at.omega)), axis=0)
    size = size + jnp.abs(factors.log_variance) + factors.gaussian
    error = rest + 4 * epsilon(log_size) * size
    rate = log_rate(factors, at.nu, seen.rate)
    return Solution(at, rate, error, rest < 1e-6)
