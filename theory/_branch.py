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
_TURNS = np.concatenate([np.linspace(1, 0.1, 10)[1:], 0.1 * 0.5 ** np.arange(1, 13)]) * math.pi
"""Arguments of λ on the way from the negative axis to the positive one."""
_POLISH = 8
_HALVINGS = 60


class Branch(eqx.Module):
    """A solution at one λ."""

    omega: Complex[Array, " laws"]
    nu: Complex[Array, ""]


def log_range(law: SlopeLaw) -> tuple[Float[Array, " laws"], Float[Array, " laws"]]:
    """Logarithms of the smallest positive and of the largest value of D²."""
    smallest = jnp.min(jnp.where(law.square > 0, law.square, jnp.inf), axis=1)
    return jnp.log(smallest), jnp.log(jnp.max(law.square, axis=1))


class Look(eqx.Module):
    """What the laws say at given ω_l."""

    below: Complex[Array, " laws"]
    """A = E d/(d − w)."""
    rest: Complex[Array, " laws"]
    """B = E w/(w − d) = 1 − A, to full relative accuracy."""
    rate: Complex[Array, " laws"]
    """∂ log(A/B)/∂ω."""


def look(law: SlopeLaw, omega: Complex[Array, " laws"]) -> Look:
    """A, B and their logarithmic derivative for every law."""
    # Relative to |w|, so that nothing overflows; values far above |w| are all alike.
    ratio = jnp.minimum(law.square * jnp.exp(-omega.real)[:, None], 1e75)
    u, v = jnp.cos(omega.imag), jnp.sin(omega.imag)
    gap = ratio - u[:, None]
    one = law.probability / (gap * gap + (v * v)[:, None] + 1e-280)
    first = one * ratio
    second = first / (gap * gap + (v * v)[:, None] + 1e-280)
    total = lambda terms: jnp.sum(terms, axis=1)
    below = jax.lax.complex(total(first * gap), v * total(first))
    direction = jax.lax.complex(u, v)
    rest = direction * jax.lax.complex(-total(one * gap), -v * total(one))
    square = gap * gap - (v * v)[:, None]
    slope = direction * jax.lax.complex(total(second * square), 2 * v * total(second * gap))
    return Look(below, rest, slope / (below * rest))


def as_complex(x: Float[Array, "*shape"]) -> Complex[Array, "*shape"]:
    """The same number; real and complex arrays are not mixed by themselves."""
    return jax.lax.complex(x, jnp.zeros_like(x))


def _log(above: Array) -> Array:
    """log of a number of the closed upper half-plane, with argument in [0, π]."""
    return jax.lax.complex(
        jnp.log(jnp.abs(above)), jnp.arctan2(jnp.maximum(above.imag, 0.0), above.real)
    )


def nu_of(seen: Look) -> Complex[Array, " laws"]:
    """ν = log(A/B)."""
    return _log(seen.below) - jnp.conj(_log(jnp.conj(seen.rest)))


def softplus(nu: Complex[Array, ""]) -> Complex[Array, ""]:
    """log(1 + e^ν) = −log(1 − s)."""
    positive = nu.real > 0
    small = jnp.where(positive, -nu, nu)
    # Of 1 + e^ν the imaginary part is not negative, of 1 + e^-ν not positive.
    log = jnp.log1p(jnp.exp(small))
    return jnp.where(positive, nu + log, log)


def share(nu: Complex[Array, ""]) -> Complex[Array, ""]:
    """s = e^ν/(1 + e^ν)."""
    positive = nu.real > 0
    small = jnp.exp(jnp.where(positive, -nu, nu))
    return jnp.where(positive, 1 / (1 + small), small / (1 + small))


def log_lambda(factors: JacobianFactors, at: Branch) -> Complex[Array, ""]:
    """log λ of a solution."""
    count, g, log_variance = map(as_complex, _numbers(factors))
    total = (jnp.sum(count) - 1) * (at.nu - 1j * math.pi) + jnp.sum(count * at.omega)
    return total - g * softplus(at.nu) + log_variance


def log_rate(factors: JacobianFactors, nu: Array, rate: Array) -> Array:
    """∂ log λ/∂ν along solutions."""
    count, g, _ = map(as_complex, _numbers(factors))
    return jnp.sum(count) - 1 + jnp.sum(count / rate) - g * share(nu)


def _numbers(factors: JacobianFactors) -> tuple[Array, Array, Array]:
    return factors.count, factors.gaussian, factors.log_variance


def _step(factors: JacobianFactors, target: Array, at: Branch) -> Branch:
    """One step of Newton's method for all of ω and ν, kept in the half-plane."""
    seen = look(factors.law, at.omega)
    miss = at.nu - nu_of(seen)
    along = log_rate(factors, at.nu, seen.rate)
    count = as_complex(factors.count)
    wanted = target - log_lambda(factors, at) - jnp.sum(count * miss / seen.rate)
    change = wanted / along
    changes = (miss + change) / seen.rate
    largest = jnp.maximum(jnp.abs(change), jnp.max(jnp.abs(changes)))
    damping = as_complex(jnp.where(largest > 1, 1 / largest, 1.0))
    return Branch(_kept(at.omega + damping * changes), _kept(at.nu + damping * change))


def _kept(z: Array) -> Array:
    return jax.lax.complex(z.real, jnp.clip(z.imag, 0.0, math.pi))


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
    one = jax.tree.map(lambda table: table[chosen][None], law)

    def at(y):
        seen = look(one, _on_negative(y[None]))
        nu = (jnp.log(seen.below.real) - jnp.log(seen.rest.real))[0]
        known = y[None]
        if law.square.shape[0] > 1:
            known = jnp.where(jnp.arange(mass.size) == chosen, y, _negative_places(law, nu))
        branch = Branch(_on_negative(known), as_complex(nu))
        return Axis(log_lambda(factors, branch).real, branch)

    return jax.lax.map(at, start + fraction * (high[chosen] + 30 - start))


def _negative_places(law: SlopeLaw, nu: Float[Array, ""]) -> Float[Array, " laws"]:
    """log |w_l| on the negative axis at this real ν."""
    low, high = log_range(law)

    def too_far(y):
        seen = look(law, _on_negative(y))
        return jnp.log(seen.below.real) - jnp.log(seen.rest.real) < nu

    return bisect(too_far, low - 120, high + 120)


def negative_solution(factors: JacobianFactors, nu: Float[Array, ""]) -> Branch:
    """The solution on the negative axis with this real ν."""
    return Branch(_on_negative(_negative_places(factors.law, nu)), as_complex(nu))


def _on_negative(y: Float[Array, " laws"]) -> Complex[Array, " laws"]:
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


def solve(
    factors: JacobianFactors, axis: Axis, log_size: Float[Array, ""]
) -> tuple[Branch, Array, Bool[Array, ""]]:
    """The solution at λ > 0, the error of log λ, and whether it is the physical one.

    From the negative axis, where it is found by monotone interpolation and Newton's method,
    the solution is followed around the half circle of constant |λ|.
    """
    place = jnp.clip(jnp.searchsorted(axis.log_size, log_size), 1, _TABLE - 1)
    left, right = axis.log_size[place - 1], axis.log_size[place]
    fraction = as_complex(jnp.clip((log_size - left) / (right - left), 0.0, 1.0))
    at = jax.tree.map(
        lambda table: table[place - 1] + fraction * (table[place] - table[place - 1]), axis.branch
    )
    turn = lambda angle: jax.lax.complex(log_size, jnp.asarray(angle, log_size.dtype))

    def repeatedly(at, angle, steps):
        return jax.lax.fori_loop(0, steps, lambda _, at: _step(factors, turn(angle), at), at)

    at = repeatedly(at, math.pi, 4)
    at, _ = jax.lax.scan(
        lambda at, angle: (repeatedly(at, angle, 2), None), at, jnp.asarray(_TURNS, log_size.dtype)
    )
    at = repeatedly(at, 0.0, _POLISH)
    seen = look(factors.law, at.omega)
    miss = nu_of(seen) - at.nu
    reached = log_lambda(factors, at)
    rest = jnp.abs(reached - turn(0.0)) + jnp.sum(factors.count * jnp.abs(miss / seen.rate))
    size = jnp.sum(factors.count * (1 + jnp.abs(at.nu) + jnp.abs(at.omega)))
    size = size + jnp.abs(factors.log_variance) + factors.gaussian
    error = rest + 4 * epsilon(log_size) * size
    return at, error, rest < 1e-6
