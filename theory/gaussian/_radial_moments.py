"""Moments of a radial activation φ(z) = g(|z|) z/|z| of Gaussian units with k components.

Notation: r = √q ρ with ρ² ~ χ²_k, a = g'(r), b = g(r)/r, and n = z/|z|, which is uniform on
the sphere and independent of r. Every moment of one input is therefore an integral over r alone.

For two inputs with cross-covariance q C, φ is expanded in the vector-valued Hermite polynomials
ψ_n(z) = L_n^{(k/2)}(ρ²/2) z/√(q w_n), w_n = (k/2+1)_n/n!. The cross-covariance maps these to each
other:

    E φ(u)φ(v)ᵀ = Σ_n A_n(q_u) A_n(q_v) W_n(C)/w_n,
    Σ_n W_n(C) tⁿ = det(1 − t CᵀC)^{-1/2} C (1 − t CᵀC)^{-1}.

The coefficients A_n are again integrals over r. For k = 1 this is Mehler's formula.
"""

import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Inexact

from theory.description import Radial, found_jumps, is_new
from theory.gaussian._errors import closer_look, judged
from theory.gaussian._growth import grows_too_fast
from theory.gaussian._moment_integrals import (
    BEYOND,
    Points,
    as_floats,
    behind,
    epsilon,
    features,
    floored,
    frozen,
    grading,
)
from theory.gaussian._quadrature import Resolution, graded_panel, plain_panel
from theory.numerics import Array, put, scan, stop_gradient, traced, xp


class RadialMoments(eqx.Module):
    """Moments of one input, r² = q χ²_k."""

    mean: Points
    """E g(r): the order parameter at the fixed point."""
    square: Points
    """E g²/k: the length per component."""
    square_rate: Points
    """∂square/∂q = E r g g'/(k q)."""
    trace: Points
    """Gain of E t tᵀ proportional to 1: E (a² + (k − 1) b²)/k."""
    symmetric_traceless: Points
    """Gain of a symmetric traceless E t tᵀ: E g²/(k q) + 2 E (a − b)²/(k(k + 2))."""
    antisymmetric: Points
    """Gain of an antisymmetric cross-covariance: E b² + 2 E b(a − b)/k, which is E g²/(k q)."""
    anisotropy: Points
    """Gain of a small traceless part of the covariance itself: E r² g²/(k (k + 2) q²)."""


def _panels(
    activation: Radial, root: Points, k: int, how: Resolution, top: Any
) -> tuple[Float[Array, "*points nodes"], Float[Array, "*points nodes"]]:
    """Nodes and weights on 0 < ρ < top, with a panel for each smooth piece."""
    width = grading(activation.scale, root, how)
    end = xp.full_like(root, top)
    # Near the origin the features of g are resolved; beyond, g changes no faster than ρ.
    breaks = [xp.ones_like(root), *features(activation.places, root)]
    edges = xp.sort(xp.stack([xp.minimum(e, end) for e in breaks] + [end]), axis=0)
    inner, weight = graded_panel(edges[0], width, how.order, how)
    outer, outer_weight = plain_panel(xp.diff(edges, axis=0), how.order, how)
    rho = xp.concatenate([inner, *(edges[:-1, ..., None] + outer)], axis=-1)
    return rho, xp.concatenate([weight, *outer_weight], axis=-1)


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
    near = xp.abs(u) < 0.5
    log = xp.where(near, xp.log1p(xp.where(near, u, 0.0)), xp.log(rho / mode))
    return peak + (k - 1) * (log - u - u * u / 2)


def chi_nodes(
    activation: Radial, root: Points, k: int, how: Resolution
) -> tuple[Float[Array, "*points nodes"], Float[Array, "*points nodes"]]:
    """Nodes and weights for E f(ρ), ρ² ~ χ²_k, for f as smooth as g(√q ρ)."""
    # The cut counts standard deviations of one component, beyond the typical |z|.
    rho, weight = _panels(activation, root, k, how, how.cut + math.sqrt(k))
    return rho, weight * xp.exp(_log_density(rho, k))


def _integrals(
    activation: Radial, q: Points, k: int, how: Resolution, *, bounds: bool = False
) -> Any:
    """The moments; with `bounds` also the sizes of their terms and of rounding errors/eps."""
    q = floored(q)
    root = xp.sqrt(q)
    rho, weight = chi_nodes(activation, root, k, how)
    table = _terms(activation, root[..., None], rho, k)
    steps = _of_steps(activation, root, k)
    if not bounds:
        # Separate, so that unused ones are not computed.
        return _with_steps([xp.sum(weight * row, axis=-1) for row in table], steps)
    # All together: a separate sum for each would evaluate g again and again.
    table = xp.stack(table)
    total = lambda table: xp.einsum("t...n,...n->t...", table, weight, precision="highest")
    values, sizes = _with_steps(total(table), steps), RadialMoments(*total(xp.abs(table)))
    # Deep in saturation only the rare short units contribute to the rate, which is tiny: its error
    # is relative to the response of the length itself.
    rate = xp.maximum(sizes.square_rate, sizes.antisymmetric)
    sizes = eqx.tree_at(lambda m: m.square_rate, sizes, rate)
    return values, sizes, sizes


def _with_steps(rows: Any, rate: Array | float) -> RadialMoments:
    m = RadialMoments(*rows)
    return eqx.tree_at(lambda m: m.square_rate, m, m.square_rate + rate)


def _beyond(activation: Radial, q: Points, k: int) -> RadialMoments:
    """A bound on the moments beyond the last node of any rule, for g that is 0 up to there."""
    root = xp.sqrt(floored(q))[..., None]
    far = xp.asarray(BEYOND + math.sqrt(k), root.dtype)
    rho = behind(q, far)
    terms = xp.abs(xp.stack(xp.broadcast_arrays(*_terms(activation, root, rho, k))))
    most = xp.maximum(terms[..., :-1], terms[..., 1:])
    # Overflow and NaN this far out say nothing.
    most = xp.where(xp.isfinite(most), most, 0.0)
    mass = behind(most[..., 0], 0.5 * xp.exp(_log_density(far[:-1], k)))
    left_out = xp.sum(most * mass, axis=-1)
    return RadialMoments(*xp.where(grows_too_fast(activation.profile, q), xp.inf, left_out))


def _terms(
    activation: Radial, root: Array, rho: Array, k: int
) -> list[Float[Array, "*points nodes"]]:
    """The integrands over ρ of the moments, in the order of `RadialMoments`."""
    r = root * rho
    a, b = activation.gains(r)
    g, difference = b * r, a - b
    # On average b² + 2 b (a − b)/k, whose terms may cancel.
    rotation = b * b * rho * rho / k
    return [
        g,  # mean
        g * g / k,  # square
        g * a * rho / (k * root),  # square_rate
        (a * a + (k - 1) * b * b) / k,  # trace
        rotation + 2 * difference**2 / (k * (k + 2)),  # symmetric_traceless
        rotation,  # antisymmetric
        g * g * rho * rho / (k * (k + 2) * root**2),  # anisotropy
    ]


def _of_steps(activation: Radial, root: Points, k: int) -> Points | float:
    """The contribution of jumps of g to ∂square/∂q, the only moment linear in g'."""
    if not activation.jumps:
        return 0.0
    at = behind(root, xp.asarray(activation.jumps, root.dtype))
    step, middle = (behind(root, x) for x in activation.steps(root.dtype))
    mass = step * xp.exp(_log_density(at / root[..., None], k)) / root[..., None]
    return xp.sum(middle * at * mass, axis=-1) / (k * root**2)


def reaches_jump(activation: Radial, q: Points, k: int) -> Array:
    """Whether Gaussian units of length q extend to a jump of g."""
    if not activation.jumps:
        return xp.zeros((), bool)
    at = behind(q, xp.asarray(activation.jumps, q.dtype))
    density = xp.exp(_log_density(at / xp.sqrt(floored(q))[..., None], k))
    return xp.any((density > 0) & behind(q, activation.steps(q.dtype)[0] != 0), axis=-1)


def _reaches_hidden_jump(activation: Radial, q: Points, k: int, size: Points) -> Array:
    """Whether |z| meets an undeclared jump of g anywhere; `size` is E g²/k."""
    place, step = found_jumps(activation.profile, q.dtype)
    place, step = behind(q, place), behind(q, step)
    root = xp.sqrt(floored(q))[..., None]
    positive = place > 1e-9  # g need not be defined below, and is 0 at 0
    density = xp.exp(_log_density(xp.where(positive, place, 1.0) / root, k))
    new = is_new(place, step, activation.jumps, size[..., None])
    return xp.any(positive & (density > epsilon(q)) & new, axis=-1)


def _extent(terms: int, k: int) -> float:
    """Beyond this ρ, the polynomials up to degree `terms`, times their weight, are below eps."""
    turning = math.sqrt(8 * terms + 2 * k + 4)
    return turning + 6 * turning ** (-1 / 3) + 6


def series(
    activation: Radial, q: Float[Array, ""], k: int, *, terms: int
) -> Float[Array, " terms"]:
    """The coefficients A_n of φ, n < terms.

    Σ_n A_n² = E g²/k and Σ_n (2n + 1) A_n² = q E tr(φ'φ'ᵀ)/k, so the remainder of either sum
    bounds what the series leaves out.
    """
    (q,) = as_floats(q)
    q = floored(q)
    root = xp.sqrt(q)
    how = Resolution(max(2 * terms, 64))
    rho, weight = _panels(activation, root, k, how, _extent(terms, k))
    _, b = activation.gains(root * rho)
    # A_n = E b(r) √q ρ² L_n/(k √w_n) = Σ weight · source · p_n, with p_n the orthonormal
    # polynomials in y = ρ²/2 for y^{k/2} e^{-y}, times the root of that weight.
    half = xp.exp(0.5 * (_log_density(rho, k) + 2 * xp.log(rho) - math.log(k)))
    source = weight * b * half * root
    y, alpha = rho * rho / 2, k / 2

    def climb(carry, n):
        before, now = carry
        # √((n+1)(n+1+α)) p_{n+1} = (2n + 1 + α − y) p_n − √(n(n+α)) p_{n−1}
        after = (2 * n + 1 + alpha - y) * now - xp.sqrt(n * (n + alpha)) * before
        return (now, after / xp.sqrt((n + 1) * (n + 1 + alpha))), xp.sum(source * now)

    steps = xp.arange(terms, dtype=q.dtype)
    _, coefficients = scan(climb, (xp.zeros_like(half), half), steps)
    return coefficients


class CrossMoments(eqx.Module):
    """What a radial activation does to a cross-covariance √(q_a q_b) C, C = 1 − δ."""

    product: Inexact[Array, "k k"]
    """E φ(u)φ(v)ᵀ."""
    lost: Inexact[Array, "k k"]
    """Σ_n A_n A_n' (1 − W_n/w_n): the product of coinciding inputs minus this product."""


def cross_moments(
    one: Float[Array, " terms"],
    other: Float[Array, " terms"],
    delta: Inexact[Array, "k k"],
    components: int | None = None,
) -> CrossMoments:
    """The series for two inputs with coefficients A_n, A_n' and C = 1 − δ.

    Everything is computed from δ, so that small differences keep their relative accuracy. If
    `components` is larger than k, δ is one of equal blocks along the diagonal, and so are the
    results.
    """
    terms, k = one.size, components or delta.shape[0]
    eye = xp.eye(delta.shape[0], dtype=delta.dtype)
    blocks = k / delta.shape[0]
    c = eye - delta
    times = functools.partial(xp.matmul, precision="highest")
    m = times(c.T, c)
    shift = delta + delta.T - times(delta.T, delta)  # 1 − CᵀC

    # d_m = tr(1 − (CᵀC)^m), m = 1 … terms
    def power(gap, _):
        gap = gap + times(eye - gap, shift)
        return gap, blocks * xp.trace(gap)

    _, gaps = scan(power, xp.zeros_like(c), None, terms)

    # det(1 − t CᵀC)^{-1/2} = Σ γ_n (1 − h_n) tⁿ, with γ_n = (k/2)_n/n!. From the power sums:
    # 2n γ_n h_n = Σ_m (d_m γ_{n−m} (1 − h_{n−m}) + k γ_{n−m} h_{n−m}).
    n = np.arange(terms)
    gamma = np.exp(np.cumsum(np.log(np.append(1.0, (k / 2 + n[:-1]) / (n[:-1] + 1)))))
    real = delta.real.dtype
    gamma = (jnp if traced(delta) else np).asarray(gamma, real)

    def deficit(h, n):
        back = n - 1 - xp.arange(terms)  # γ_{n−m} is at index m − 1
        known = back >= 0
        weight = xp.where(known, gamma[back], 0.0)
        lost = xp.where(known, h[back], 0.0)
        total = xp.sum(weight * (gaps * (1 - lost) + k * lost))
        count = xp.maximum(n, 1).astype(total.dtype)
        value = xp.where(n > 0, total / (2 * count * gamma[n]), 0.0)
        return put(h, n, value), value

    _, h = scan(deficit, np.zeros(terms, delta.dtype), np.arange(terms))

    # V_n = W_n/w_n and 1 − V_n, from W_n = W_{n−1} CᵀC + g_n C.
    def climb(carry, step):
        value, lack, total = carry
        coefficient, gamma_n, h_n = step
        before = total
        total = total + gamma_n
        value_n = (times(before * value, m) + gamma_n * (1 - h_n) * c) / total
        lack_n = before * (lack + times(value, shift)) + gamma_n * (delta + h_n * c)
        lack_n = lack_n / total
        return (value_n, lack_n, total), (coefficient * value_n, coefficient * lack_n)

    start = (xp.zeros_like(c), eye, np.zeros((), real))
    _, (products, lost) = scan(climb, start, (one * other, gamma, h))
    return CrossMoments(xp.sum(products, axis=0), xp.sum(lost, axis=0))


def radial_moments(
    activation: Radial, q: Any, k: int, *, order: int = 64, with_errors: bool = True
) -> tuple[RadialMoments, RadialMoments]:
    """Moments of one input of length q, of any shape, and their absolute errors.

    Without `with_errors` the errors are zero.

    Accuracy
    --------
    As for `single_moments`: errors compare rules that share no node, and cover rounding.
    """
    (q,) = as_floats(q)
    q = xp.where(q >= 0, q, xp.nan)
    m = _integrals(activation, q, k, Resolution(order))
    fixed, at = frozen(activation), stop_gradient(q)
    none = jax.tree.map(xp.zeros_like, m)
    e = _errors(fixed, at, k, order, frozen(m)) if with_errors else none
    if activation.jumps:
        there = reaches_jump(fixed, at, k)
        m = eqx.tree_at(_GAINS, m, tuple(xp.where(there, xp.inf, g) for g in _GAINS(m)))
    # q = 0 is evaluated slightly above; the effect is bounded by twice the rate.
    moved = 2 * xp.abs(stop_gradient(m.square_rate)) * (floored(at) - at)
    e = eqx.tree_at(
        lambda e: (e.mean, e.square), e, (e.mean + xp.sqrt(k * moved), e.square + moved)
    )
    return m, e


def _errors(activation: Radial, q: Points, k: int, order: int, m: RadialMoments) -> RadialMoments:
    known = activation.features_known
    closer = None if known else _integrals(activation, q, k, closer_look(order))
    study = lambda how: _integrals(activation, q, k, how, bounds=True)
    e = jax.tree.map(xp.add, judged(study, m, order, closer), _beyond(activation, q, k))
    if known:
        return e
    strange = _reaches_hidden_jump(activation, q, k, m.square)
    return eqx.tree_at(_GAINS, e, tuple(xp.where(strange, xp.inf, g) for g in _GAINS(e)))


def length_rate(activation: Radial, q: Points, k: int, *, order: int) -> Points:
    """∂(E g²/k)/∂q."""
    return _integrals(activation, q, k, Resolution(order)).square_rate


_GAINS = lambda m: (m.trace, m.symmetric_traceless)
