"""Moments of a radial activation φ(z) = g(|z|) z/|z| of Gaussian units with k components.

Notation: r = √q ρ with ρ² ~ χ²_k, a = g'(r), b = g(r)/r, and n = z/|z|, which is uniform on
the sphere and independent of r. So every moment of one input is an integral over r alone.

Two inputs whose cross-covariance is q C: φ is expanded in the vector-valued Hermite
polynomials ψ_n(z) = L_n^{(k/2)}(ρ²/2) z/√(q w_n), w_n = (k/2+1)_n/n!, which the cross-covariance
maps among themselves:

    E φ(u)φ(v)ᵀ = Σ_n A_n(q_u) A_n(q_v) W_n(C)/w_n,
    Σ_n W_n(C) tⁿ = det(1 − t CᵀC)^{-1/2} C (1 − t CᵀC)^{-1}.

The coefficients A_n are again integrals over r. For k = 1 this is Mehler's formula.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jaxtyping import Array, Float

from theory._activations import Radial
from theory._expectation import closer_look, judged
from theory._jumps import found_jumps, is_new
from theory._moment_integrals import (
    BEYOND,
    Scalar,
    as_floats,
    epsilon,
    features,
    floored,
    frozen,
    grading,
)
from theory._quadrature import Resolution, graded_panel, plain_panel


class RadialMoments(eqx.Module):
    """Moments of one input, r² = q χ²_k."""

    mean: Scalar
    """E g(r): the order parameter at the fixed point."""
    square: Scalar
    """E g²/k: the length per component."""
    square_rate: Scalar
    """∂square/∂q = E r g g'/(k q)."""
    trace: Scalar
    """Gain of E t tᵀ proportional to 1: E (a² + (k − 1) b²)/k."""
    symmetric_traceless: Scalar
    """Gain of a symmetric traceless E t tᵀ: E g²/(k q) + 2 E (a − b)²/(k(k + 2))."""
    antisymmetric: Scalar
    """Gain of an antisymmetric cross-covariance: E b² + 2 E b(a − b)/k, which is E g²/(k q)."""
    anisotropy: Scalar
    """Gain of a small traceless part of the covariance itself: E r² g²/(k (k + 2) q²)."""


def _panels(
    activation: Radial, root: Scalar, k: int, how: Resolution, top: Any
) -> tuple[Float[Array, " nodes"], Float[Array, " nodes"]]:
    """Nodes and weights on 0 < ρ < top, smooth pieces each of their own panel."""
    width = grading(activation.scale, root, how)
    end = jnp.full_like(root, top)
    # Near the origin the features of g are resolved; beyond, g changes no faster than ρ.
    breaks = [jnp.ones_like(root), *features(activation.places, root)]
    edges = jnp.sort(jnp.stack([jnp.minimum(e, end) for e in breaks] + [end]))
    inner, weight = graded_panel(edges[0], width, how.order, how)
    outer, outer_weight = plain_panel(jnp.diff(edges), how.order, how)
    rho = jnp.concatenate([inner, (edges[:-1, None] + outer).ravel()])
    return rho, jnp.concatenate([weight, outer_weight.ravel()])


def _log_density(rho: Array, k: int) -> Array:
    """log of the density of ρ, ρ² ~ χ²_k.

    From the mode √(k − 1) on: written out, terms of size k log k would cancel at every node.
    """
    n = np.arange(k / 2 - 1, 0, -1, dtype=np.longdouble)  # Γ(k/2) is their product, or √π times
    constant = (1 - k / 2) * np.log(np.longdouble(2)) - np.sum(np.log(n))
    constant = constant - np.log(np.longdouble(np.pi)) / 2 * (k % 2)
    if k == 1:
        return float(constant) - rho * rho / 2
    mode = math.sqrt(k - 1)
    peak = float(constant + (k - 1) / 2 * (np.log(np.longdouble(k - 1)) - 1))
    u = (rho - mode) / mode
    near = jnp.abs(u) < 0.5
    log = jnp.where(near, jnp.log1p(jnp.where(near, u, 0.0)), jnp.log(rho / mode))
    return peak + (k - 1) * (log - u - u * u / 2)


def chi_nodes(
    activation: Radial, root: Scalar, k: int, how: Resolution
) -> tuple[Float[Array, " nodes"], Float[Array, " nodes"]]:
    """Nodes and weights for E f(ρ), ρ² ~ χ²_k, for f smooth where g(√q ρ) is."""
    # The cut counts standard deviations of one component, beyond the typical |z|.
    rho, weight = _panels(activation, root, k, how, how.cut + math.sqrt(k))
    return rho, weight * jnp.exp(_log_density(rho, k))


def _integrals(
    activation: Radial, q: Scalar, k: int, how: Resolution, *, bounds: bool = False
) -> Any:
    """The moments in the order of `RadialMoments`, shape [7]; with `bounds` also the sizes of
    their terms and of rounding errors/eps."""
    q = floored(q)
    root = jnp.sqrt(q)
    rho, weight = chi_nodes(activation, root, k, how)
    table = _terms(activation, root, rho, k)
    steps = _of_steps(activation, root, k)
    if not bounds:
        # Apart, so that what is not used is not computed.
        return jnp.stack([jnp.sum(weight * row) for row in table]) + steps
    # All at once: a sum for each would evaluate g again and again.
    table = jnp.stack(table)
    values = jnp.matmul(table, weight, precision="highest") + steps
    sizes = jnp.matmul(jnp.abs(table), weight, precision="highest")
    # Far beyond saturation the rate lives on the rare short units alone, and is tiny: it is
    # known relative to what the length itself responds with.
    sizes = sizes.at[2].max(sizes[5])
    return values, sizes, sizes


def _beyond(activation: Radial, q: Scalar, k: int) -> Float[Array, " 7"]:
    """What the moments may hold where no rule has nodes: there is nothing else where g is 0 up
    to there."""
    root = jnp.sqrt(floored(q))
    rho = jnp.asarray(BEYOND + math.sqrt(k), root.dtype)
    terms = jnp.abs(jnp.stack(_terms(activation, root, rho, k)))
    most = jnp.maximum(terms[:, :-1], terms[:, 1:])
    # Overflow and NaN so far out say nothing.
    most = jnp.where(jnp.isfinite(most), most, 0.0)
    return jnp.sum(most * (0.5 * jnp.exp(_log_density(rho[:-1], k)))[None], axis=1)


def _terms(activation: Radial, root: Scalar, rho: Array, k: int) -> list[Float[Array, " nodes"]]:
    """What the moments average over ρ, in the order of `RadialMoments`."""
    r = root * rho
    a, b = activation.gains(r)
    g, difference = b * r, a - b
    # On average b² + 2 b (a − b)/k, whose terms may cancel.
    turning = b * b * rho * rho / k
    return [
        g,  # mean
        g * g / k,  # square
        g * a * rho / (k * root),  # square_rate
        (a * a + (k - 1) * b * b) / k,  # trace
        turning + 2 * difference**2 / (k * (k + 2)),  # symmetric_traceless
        turning,  # antisymmetric
        g * g * rho * rho / (k * (k + 2) * root**2),  # anisotropy
    ]


def _of_steps(activation: Radial, root: Scalar, k: int) -> Float[Array, " 7"] | float:
    """What jumps of g add to the moments in which g' stands once, in their order."""
    if not activation.jumps:
        return 0.0
    at = jnp.asarray(activation.jumps, root.dtype)
    step, middle = activation.steps(root.dtype)
    mass = step * jnp.exp(_log_density(at / root, k)) / root
    rate, none = jnp.sum(middle * at * mass) / (k * root**2), jnp.zeros_like(root)
    return jnp.stack([none, none, rate, none, none, none, none])


def reaches_jump(activation: Radial, q: Scalar, k: int) -> Array:
    """Whether Gaussian units of length q reach a jump of g."""
    if not activation.jumps:
        return jnp.zeros((), bool)
    root = jnp.sqrt(floored(q))
    density = jnp.exp(_log_density(jnp.asarray(activation.jumps, root.dtype) / root, k))
    return jnp.any((density > 0) & (activation.steps(root.dtype)[0] != 0))


def _reaches_hidden_jump(activation: Radial, q: Scalar, k: int, size: Array) -> Array:
    """Whether |z| meets a jump of g that is not declared, wherever it is; `size` is E g²/k."""
    place, step = found_jumps(activation.profile, q.dtype)
    root = jnp.sqrt(floored(q))
    positive = place > 1e-9  # g need not be defined below, and is 0 at 0
    density = jnp.exp(_log_density(jnp.where(positive, place, 1.0) / root, k))
    return jnp.any(positive & (density > epsilon(q)) & is_new(place, step, activation.jumps, size))


def _extent(terms: int, k: int) -> float:
    """Beyond this ρ the polynomials up to degree `terms`, with their weight, are below eps."""
    turning = math.sqrt(8 * terms + 2 * k + 4)
    return turning + 6 * turning ** (-1 / 3) + 6


def series(
    activation: Radial, q: Float[Array, ""], k: int, *, terms: int
) -> Float[Array, " terms"]:
    """The coefficients A_n of φ, n < terms.

    Σ_n A_n² = E g²/k and Σ_n (2n + 1) A_n² = q E tr(φ'φ'ᵀ)/k, so what is left of either sum
    bounds what the series leaves out.
    """
    (q,) = as_floats(q)
    q = floored(q)
    root = jnp.sqrt(q)
    how = Resolution(max(2 * terms, 64))
    rho, weight = _panels(activation, root, k, how, _extent(terms, k))
    _, b = activation.gains(root * rho)
    # A_n = E b(r) √q ρ² L_n/(k √w_n) = Σ weight · source · p_n, with p_n the orthonormal
    # polynomials in y = ρ²/2 for y^{k/2} e^{-y}, times the root of that weight.
    half = jnp.exp(0.5 * (_log_density(rho, k) + 2 * jnp.log(rho) - math.log(k)))
    source = weight * b * half * root
    y, alpha = rho * rho / 2, k / 2

    def climb(carry, n):
        before, now = carry
        # √((n+1)(n+1+α)) p_{n+1} = (2n + 1 + α − y) p_n − √(n(n+α)) p_{n−1}
        after = (2 * n + 1 + alpha - y) * now - jnp.sqrt(n * (n + alpha)) * before
        return (now, after / jnp.sqrt((n + 1) * (n + 1 + alpha))), jnp.sum(source * now)

    steps = jnp.arange(terms, dtype=q.dtype)
    _, coefficients = jax.lax.scan(climb, (jnp.zeros_like(half), half), steps)
    return coefficients


class CrossMoments(eqx.Module):
    """What a radial activation does to a cross-covariance √(q_a q_b) C, C = 1 − δ."""

    product: Float[Array, "k k"]
    """E φ(u)φ(v)ᵀ."""
    lost: Float[Array, "k k"]
    """Σ_n A_n A_n' (1 − W_n/w_n): what the product lacks of that of coinciding inputs."""


def cross_moments(
    one: Float[Array, " terms"],
    other: Float[Array, " terms"],
    delta: Float[Array, "k k"],
    components: int | None = None,
) -> CrossMoments:
    """The series for two inputs with coefficients A_n, A_n' and C = 1 − δ.

    All is computed from δ, so that small differences keep their relative accuracy. With more
    `components`, δ is one of equal blocks along the diagonal, and so are the results.
    """
    terms, k = one.size, components or delta.shape[0]
    eye = jnp.eye(delta.shape[0], dtype=delta.dtype)
    blocks = k / delta.shape[0]
    c = eye - delta
    m = c.T @ c
    shift = delta + delta.T - delta.T @ delta  # 1 − CᵀC

    # d_m = tr(1 − (CᵀC)^m), m = 1 … terms
    def power(gap, _):
        gap = gap + (eye - gap) @ shift
        return gap, blocks * jnp.trace(gap)

    _, gaps = jax.lax.scan(power, jnp.zeros_like(c), None, length=terms)

    # det(1 − t CᵀC)^{-1/2} = Σ γ_n (1 − h_n) tⁿ, with γ_n = (k/2)_n/n!. From the power sums:
    # 2n γ_n h_n = Σ_m (d_m γ_{n−m} (1 − h_{n−m}) + k γ_{n−m} h_{n−m}).
    n = np.arange(terms)
    gamma = np.exp(np.cumsum(np.log(np.append(1.0, (k / 2 + n[:-1]) / (n[:-1] + 1)))))
    gamma = jnp.asarray(gamma, delta.dtype)

    def deficit(h, n):
        back = n - 1 - jnp.arange(terms)  # γ_{n−m} stands at m − 1
        known = back >= 0
        weight = jnp.where(known, gamma[back], 0.0)
        lost = jnp.where(known, h[back], 0.0)
        total = jnp.sum(weight * (gaps * (1 - lost) + k * lost))
        count = jnp.maximum(n, 1).astype(total.dtype)
        value = jnp.where(n > 0, total / (2 * count * gamma[n]), 0.0)
        return h.at[n].set(value), value

    _, h = jax.lax.scan(deficit, jnp.zeros(terms, delta.dtype), jnp.arange(terms))

    # V_n = W_n/w_n and 1 − V_n, from W_n = W_{n−1} CᵀC + g_n C.
    def climb(carry, step):
        value, lack, total = carry
        coefficient, gamma_n, h_n = step
        before = total
        total = total + gamma_n
        value_n = (before * value @ m + gamma_n * (1 - h_n) * c) / total
        lack_n = before * (lack + value @ shift) + gamma_n * (delta + h_n * c)
        lack_n = lack_n / total
        return (value_n, lack_n, total), (coefficient * value_n, coefficient * lack_n)

    start = (jnp.zeros_like(c), eye, jnp.zeros((), delta.dtype))
    _, (products, lost) = jax.lax.scan(climb, start, (one * other, gamma, h))
    return CrossMoments(jnp.sum(products, axis=0), jnp.sum(lost, axis=0))


def radial_moments(
    activation: Radial, q: Any, k: int, *, order: int = 64
) -> tuple[RadialMoments, RadialMoments]:
    """Moments of one input of length q, and their absolute errors.

    Accuracy
    --------
    As `single_moments`: errors compare rules that share no node, and cover rounding.
    """
    (q,) = as_floats(q)
    q = jnp.where(q >= 0, q, jnp.nan)
    values = _integrals(activation, q, k, Resolution(order))
    fixed, at = frozen(activation), stop_gradient(q)
    known = activation.features_known
    closer = None if known else _integrals(fixed, at, k, closer_look(order))
    study = lambda how: _integrals(fixed, at, k, how, bounds=True)
    errors = judged(study, stop_gradient(values), order, closer)
    errors = errors + _beyond(fixed, at, k)
    m, e = RadialMoments(*values), RadialMoments(*errors)
    if not known:
        strange = _reaches_hidden_jump(fixed, at, k, stop_gradient(m.square))
        gains = lambda e: (e.trace, e.symmetric_traceless)
        e = eqx.tree_at(gains, e, tuple(jnp.where(strange, jnp.inf, g) for g in gains(e)))
    if activation.jumps:
        there = reaches_jump(fixed, at, k)
        gains = lambda m: (m.trace, m.symmetric_traceless)
        m = eqx.tree_at(gains, m, tuple(jnp.where(there, jnp.inf, g) for g in gains(m)))
    # q = 0 is taken a little above, and what that changes is twice what the rate says.
    moved = 2 * jnp.abs(stop_gradient(m.square_rate)) * (floored(at) - at)
    e = eqx.tree_at(
        lambda e: (e.mean, e.square), e, (e.mean + jnp.sqrt(k * moved), e.square + moved)
    )
    return m, e
