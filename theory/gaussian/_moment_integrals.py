"""The moments of φ(u) and φ(v) for Gaussian u and v, as differentiable functions.

Notation: u = √q_a s and v = √q_b t, with standard normal s, t of correlation c = 1 − x.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from theory.description import ClosedForm, Componentwise
from theory.gaussian._growth import grows_too_fast
from theory.gaussian._quadrature import Resolution, half_line, quarter_plane
from theory.numerics import Array, elementwise, stop_gradient, traced, xp

Scalar = Float[Array, ""]
Points = Float[Array, "*points"]
Tree = TypeVar("Tree")

_FAR = 40.0
"""Features further out than this many standard deviations are treated alike."""


class SingleMoments(eqx.Module):
    """Moments of φ(u), u ~ N(0, q)."""

    mean: Points
    """E φ(u)."""
    square: Points
    """E φ(u)²."""
    derivative_square: Points
    """E φ'(u)²."""
    square_rate: Points
    """∂square/∂q = E φ(u)φ'(u)u / q."""


class PairErrors(eqx.Module):
    """For the first three `PairMoments`: absolute errors, or what errors are relative to."""

    product: Scalar
    distance: Scalar
    slope: Scalar


class PairMoments(eqx.Module):
    """Moments of φ(u) and φ(v), centred Gaussian with lengths q_a, q_b and correlation 1 − x."""

    product: Scalar
    """E φ(u)φ(v)."""
    distance: Scalar
    """E (φ(u) − φ(v))²/2."""
    slope: Scalar
    """E φ'(u)φ'(v)."""
    product_rate_a: Scalar
    """∂product/∂q_a at fixed x = E φ'(u)u φ(v) / 2q_a."""
    product_rate_b: Scalar
    """∂product/∂q_b at fixed x."""
    distance_rate_a: Scalar
    """∂distance/∂q_a at fixed x = E φ'(u)u (φ(u) − φ(v)) / 2q_a."""
    distance_rate_b: Scalar
    """∂distance/∂q_b at fixed x."""


def as_floats(*values: Any) -> list[Array]:
    """Convert to arrays of one floating-point type; Python numbers adapt to the others."""
    if traced(values):
        dtype = jnp.result_type(*values, float)
        return [jnp.asarray(value, dtype) for value in values]
    known = [value for value in values if isinstance(value, np.ndarray | np.generic)]
    dtype = np.result_type(*known, 1.0) if known else jnp.result_type(float)
    return [xp.asarray(value, dtype)[()] for value in values]


def frozen(tree: Tree) -> Tree:
    """Make a tree constant under differentiation."""
    return jax.tree.map(lambda y: stop_gradient(y) if eqx.is_array(y) else y, tree)


def behind(points: Array, table: Array) -> Array:
    """Prepend to a table as many axes of length 1 as the points have."""
    return table.reshape((1,) * np.ndim(points) + np.shape(table))


def epsilon(x: Array) -> float:
    """The relative rounding error of x."""
    return float(np.finfo(x.dtype).eps)


def least(x: Array) -> float:
    """The smallest length, and 1 − |c|, that is distinguished from zero."""
    return float(np.finfo(x.dtype).tiny) ** (1 / 3)


def floored(q: Points) -> Points:
    """q > 0, with derivative 1 at 0: tiny, yet no second derivative overflows."""
    return q + stop_gradient(xp.maximum(least(q) - q, 0))


def features(kinks: Sequence[float | Scalar], *roots: Points) -> list[Points]:
    """Distances of the kinks from the origin, in standard deviations."""
    known = {abs(float(k)) for k in kinks if not eqx.is_array(k)} - {0.0}
    traced = [xp.abs(k) for k in kinks if eqx.is_array(k)]
    distances = [*sorted(known), *traced]
    in_type = lambda k, root: k.astype(root.dtype) if eqx.is_array(k) else k
    return [xp.minimum(in_type(k, root) / root, _FAR) for root in roots for k in distances]


def grading(scale: float, root: Points, how: Resolution) -> Points:
    """Width of the features, in standard deviations.

    Not differentiated: between features the integral does not depend on the position of nodes.
    """
    return stop_gradient(how.stretch * scale / root)


def sums(*terms: Float[Array, "..."], axis: int | None = None) -> tuple[Array, ...]:
    """Sum several arrays of one shape, over all entries or along an axis, in one reduction.

    Common subexpressions are computed once, and compiled once. For a few terms, separate sums are
    twice as fast, since XLA vectorises only those.
    """
    if traced(terms):
        return _sums(axis, *terms)
    return tuple(np.sum(term, axis=axis) for term in terms)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _sums(axis: int | None, *terms: Float[Array, "..."]) -> tuple[Array, ...]:
    zero = jnp.zeros((), terms[0].dtype)
    add = lambda some, more: tuple(a + b for a, b in zip(some, more, strict=True))
    axes = tuple(range(terms[0].ndim)) if axis is None else (axis % terms[0].ndim,)
    return tuple(jax.lax.reduce(terms, (zero,) * len(terms), add, axes))


@_sums.defjvp
def _sums_of_changes(axis, terms, changes):
    return _sums(axis, *terms), tuple(jnp.sum(change, axis=axis) for change in changes)


def _sampled(
    activation: Componentwise, q: Float[Array, "*b"], how: Resolution
) -> tuple[Array, ...]:
    """√q, nodes z and weights for E f(√q z), and φ and φ' there; nodes on the last axis."""
    root = xp.sqrt(q)
    width = grading(activation.scale, root, how)
    z, weight = half_line(features(activation.kinks, root), width, how)
    if activation.parity is None:
        z = xp.concatenate([z, -z], axis=-1)
        weight = xp.concatenate([weight, weight], axis=-1) / 2
    root = root[..., None]
    return root, z, weight, *activation.with_slope(root * z)


def single_quadrature(
    activation: Componentwise, q: Points, how: Resolution, *, bounds: bool = False
) -> Any:
    """The moments; with `bounds` also the sizes of their terms and of rounding errors/eps."""
    q = floored(q)
    root, z, weight, f, df = _sampled(activation, q, how)
    mean = xp.zeros_like(f) if activation.parity == "odd" else f
    terms = (mean, f * f, df * df, f * df * z / root)
    terms = [weight * y for y in terms]
    if not bounds:
        apart = (xp.sum(y, axis=-1) for y in terms)
        return _with_step_rate(activation, q, SingleMoments(*apart))
    both = sums(*terms, *map(xp.abs, terms), axis=-1)
    sizes = SingleMoments(*both[4:])
    return _with_step_rate(activation, q, SingleMoments(*both[:4])), sizes, sizes


BEYOND = np.arange(9.0, 38.0, 0.5)
"""Standard deviations from the end of the rules to where the density is 0 in practice."""


def beyond_cut(activation: Componentwise, q: Points) -> SingleMoments:
    """A bound on the moments beyond the last node of any rule, for φ that is 0 up to there.

    Infinite if φ grows too fast for any of them to exist.
    """
    q = floored(q)
    root, far = xp.sqrt(q)[..., None, None], np.asarray(BEYOND, q.dtype)
    z = behind(q, xp.stack([far, -far]))
    f, df = activation.with_slope(root * z)
    terms = xp.abs(xp.stack([f, f * f, df * df, f * df * z / root]))
    most = xp.maximum(terms[..., :-1], terms[..., 1:])
    # Overflow and NaN this far out say nothing.
    most = xp.where(xp.isfinite(most), most, 0.0)
    mass = 0.5 * xp.exp(-0.5 * far[:-1] ** 2) / math.sqrt(2 * math.pi)
    mass = behind(most[..., 0], mass)
    left_out = xp.sum(most * mass, axis=(-2, -1))
    return SingleMoments(*xp.where(grows_too_fast(activation.fn, q), xp.inf, left_out))


def half_moments(activation: Componentwise, q: Scalar, how: Resolution) -> Float[Array, "2 h 4"]:
    """E φ, φ', φ² and φ'² over u > 0 and, unless parity gives it, over u < 0.

    The second half of the result is the sizes of their terms.
    """
    _, _, weight, f, df = _sampled(activation, floored(q), how)
    terms = xp.stack([f, df, f * f, df * df])
    halves = (terms * weight[None]).reshape(4, 1 if activation.parity else 2, -1)
    return xp.stack([xp.sum(y, axis=-1).T for y in (halves, xp.abs(halves))])


def stein_defects(
    activation: Componentwise, q: Points, how: Resolution
) -> Float[Array, "2 2 *points"]:
    """E φ' − E zφ/√q and E (zφ)'/√q − E z²φ/√q, z = u/√q, and the sizes of their terms.

    Both vanish (Stein's identity) unless φ jumps inside a panel, or its derivative is wrong.
    """
    q = floored(q)
    root, z, weight, f, df = _sampled(activation, q, how)
    # Combine both signs of z: the part of φ with the other symmetry drops out.
    none = xp.zeros_like(f)
    odd = none if activation.parity == "even" else weight * df
    odd_other = none if activation.parity == "even" else weight * z * f / root
    even = none if activation.parity == "odd" else weight * (f / root + z * df)
    even_other = none if activation.parity == "odd" else weight * z * z * f / root
    terms = (odd, odd_other, even, even_other)
    total, size = (xp.stack(sums(*y, axis=-1)) for y in (terms, tuple(map(xp.abs, terms))))
    defects = xp.stack([total[0] - total[1], total[2] - total[3]])
    if activation.jumps:
        k, (step, _) = xp.asarray(activation.jumps, q.dtype), activation.steps(q.dtype)
        known = behind(q, step) * density_at(k, q)
        moved = known * behind(q, k) / root
        both = xp.stack([xp.sum(known, axis=-1), xp.sum(moved, axis=-1)])
        defects = defects + both
    return xp.stack([defects, xp.stack([size[0] + size[1], size[2] + size[3]])])


def _with_step_rate(activation: Componentwise, q: Points, m: SingleMoments) -> SingleMoments:
    """Add the contribution of jumps of φ to ∂square/∂q: Σ Δ φ̄ k p(k)/q."""
    if not activation.jumps:
        return m
    k = xp.asarray(activation.jumps, q.dtype)
    step, middle = activation.steps(q.dtype)
    rate = xp.sum(behind(q, step * middle * k) * density_at(k, q), axis=-1) / q
    return eqx.tree_at(lambda m: m.square_rate, m, m.square_rate + rate)


def density_at(k: Float[Array, " places"], q: Float[Array, "*b"]) -> Float[Array, "*b places"]:
    """The density of N(0, q) at k."""
    k, q = behind(q, k), q[..., None]
    return xp.exp(-k * k / (2 * q)) / xp.sqrt(2 * xp.pi * q)


def jumping(activation: Componentwise, q: Points) -> Bool[Array, "*points"]:
    """Whether N(0, q) extends to a jump of φ."""
    if not activation.jumps:
        return xp.zeros((), bool)
    reached = density_at(xp.asarray(activation.jumps, q.dtype), floored(q)) > 0
    return xp.any(reached & behind(q, activation.steps(q.dtype)[0] != 0), axis=-1)


def _jumped(activation: Componentwise, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The sum of the jumps below z."""
    steps = activation.steps(z.dtype)[0]
    total = xp.zeros_like(z)
    for i, k in enumerate(activation.jumps):
        total = total + xp.where(z > k, steps[i], 0.0)
    return total


def single_closed(activation: Componentwise, q: Points) -> SingleMoments:
    """The moments from the closed form of φ."""
    form, q = activation.closed_form, floored(q)
    assert form is not None
    return SingleMoments(*elementwise(_single_along, form, q))


def _single_along(form: ClosedForm, q: Array) -> tuple[Array, ...]:
    (mean, square, slope), (_, rate, _) = jax.jvp(form.single, (q,), (jnp.ones_like(q),))
    return mean, square, slope, rate


def pair_closed(activation: Componentwise, q_a: Scalar, q_b: Scalar, x: Scalar) -> PairMoments:
    """The moments from the closed form of φ."""
    form, q_a, q_b = activation.closed_form, floored(q_a), floored(q_b)
    assert form is not None
    return PairMoments(*elementwise(_pair_along, form, q_a, q_b, x))


def _pair_along(form: ClosedForm, q_a: Array, q_b: Array, x: Array) -> tuple[Array, ...]:
    one = jnp.ones_like(x)
    values, by_a = jax.jvp(lambda q: form.pair(q, q_b, x), (q_a,), (one,))
    _, by_b = jax.jvp(lambda q: form.pair(q_a, q, x), (q_b,), (one,))
    return *values, by_a[0], by_b[0], by_a[1], by_b[1]


def _pair_plain(
    activation: Componentwise,
    q_a: Scalar,
    q_b: Scalar,
    x: Scalar,
    how: Resolution | None,
    equal: bool,
) -> PairMoments:
    if how is None:
        return pair_closed(activation, q_a, q_b, x)
    plain = pair_quadrature(activation, q_a, q_b, x, how, equal)
    if not activation.jumps:
        return plain
    return _across_jumps(activation, q_a, q_b, x, how, equal, plain)


def _across_jumps(activation, q_a, q_b, x, how, equal, plain: PairMoments) -> PairMoments:
    """Add the contribution of jumps to the slope and the rates.

    These are derivatives of the product and of the distance. Panels end where u or v meets a
    jump, and move with x and the lengths, so derivatives of the rule contain all of it.
    """

    def both(q_a, q_b, x):
        m = pair_quadrature(activation, q_a, q_b, x, how, equal)
        return m.product, m.distance

    def along(i):
        at = (q_a, q_b, x)
        return jax.jvp(both, at, tuple(xp.full_like(x, i == j) for j in range(3)))[1]

    # Separate, so that unused ones are not computed.
    (product_a, distance_a), (product_b, distance_b), (_, distance) = map(along, range(3))
    slope = distance / xp.sqrt(floored(q_a) * floored(q_b))
    rates = (product_a, product_b, distance_a, distance_b)
    with_jumps = PairMoments(plain.product, plain.distance, slope, *rates)
    there = jumping(activation, q_a) | jumping(activation, q_b)
    return jax.tree.map(lambda a, b: xp.where(there, a, b), with_jumps, plain)


def pair_values(
    activation: Componentwise,
    q_a: Scalar,
    q_b: Scalar,
    x: Scalar,
    *,
    how: Resolution | None,
    equal: bool,
) -> PairMoments:
    """The moments, by quadrature or (`how` None) in closed form, with their derivatives.

    The derivatives of product and distance follow from the other moments by Price's theorem;
    differentiating the quadrature would divide rounding errors by √x.
    """
    known = _pair_differentiable if traced(q_a, q_b, x) else _pair_plain
    return known(activation, q_a, q_b, x, how=how, equal=equal)


@eqx.filter_custom_jvp
def _pair_differentiable(
    activation: Componentwise,
    q_a: Scalar,
    q_b: Scalar,
    x: Scalar,
    *,
    how: Resolution | None,
    equal: bool,
) -> PairMoments:
    return _pair_plain(activation, q_a, q_b, x, how, equal)


@_pair_differentiable.def_jvp
def _pair_derivatives(primals, tangents, *, how, equal):
    activation, q_a, q_b, x = primals
    values = _pair_differentiable(activation, q_a, q_b, x, how=how, equal=equal)

    def moved(at, tangents):
        def plain(activation, q_a, q_b, x):
            return _pair_plain(activation, q_a, q_b, x, how, equal)

        return eqx.filter_jvp(plain, (activation, q_a, q_b, at), tangents)[1]

    # Slope and rates: differences that vanish with x are divided by x, which must not be 0.
    at = x if tangents[3] is None else xp.clip(x, epsilon(x), 2 - 4 * epsilon(x))
    out = moved(at, tangents)
    dq_a, dq_b, dx = (xp.zeros_like(x) if t is None else t for t in tangents[1:])
    by_x = xp.sqrt(floored(q_a) * floored(q_b)) * values.slope * dx
    product = values.product_rate_a * dq_a + values.product_rate_b * dq_b - by_x
    distance = values.distance_rate_a * dq_a + values.distance_rate_b * dq_b + by_x
    if jax.tree.leaves(tangents[0]):
        by_parameters = moved(x, (tangents[0], None, None, None))
        product += by_parameters.product
        distance += by_parameters.distance
    return values, eqx.tree_at(lambda m: (m.product, m.distance), out, (product, distance))


def pair_quadrature(
    activation: Componentwise,
    q_a: Scalar,
    q_b: Scalar,
    x: Scalar,
    how: Resolution,
    equal: bool,
    *,
    bounds: bool = False,
) -> Any:
    """The moments; with `bounds` the first three, the sizes of their terms, and rounding/eps.

    Rounding is that of the terms.
    """
    if equal:
        q_a = q_b = (q_a + q_b) / 2
    q_a, q_b = floored(q_a), floored(q_b)
    root_a, root_b = xp.sqrt(q_a), xp.sqrt(q_b)
    eps = epsilon(x)

    # c < 0 is the case |c| with −v for v; for even φ only the sign of φ' differs.
    negative = x > 1
    x = xp.where(negative, 2 - x, x)
    mirrored = negative & (activation.parity != "even")
    one = xp.ones_like(x)
    sign_v, sign_slope = (xp.where(y, -one, one) for y in (mirrored, negative & ~mirrored))
    # The rule needs x > 0; below the floor all differences keep their form and shrink as √x.
    floor = least(x)
    shrink = stop_gradient(xp.sqrt(xp.minimum(x / floor, 1)))
    breaks = features(activation.kinks, root_a, *([] if equal else [root_b]))
    width = grading(activation.scale, xp.maximum(root_a, root_b), how)
    s, t, a, b, weight = quarter_plane(xp.maximum(x, floor), breaks, width, how)

    # The distinct mirror images of the nodes, on a leading axis, each with s − ±t.
    images = [(s, t, xp.where(mirrored, 2 * a, 2 * shrink * b))]
    if not equal:
        images.append((t, s, xp.where(mirrored, 2 * a, -2 * shrink * b)))
    if activation.parity is None:
        images += [(-s, -t, -gap) for s, t, gap in images]
    s, t, gap = (xp.stack(xp.broadcast_arrays(*each)) for each in zip(*images, strict=True))
    weight = weight / len(images)

    def weighed(*terms):
        return [weight * xp.sum(y, axis=0) for y in terms]

    t = sign_v * t
    u, v = root_a * s, root_b * t
    (fu, du), (fv, dv) = map(activation.with_slope, (u, v))
    # φ(u) − φ(v) = mean slope · (u − v): by subtraction, unless that differs from the
    # trapezoidal mean by no more than its rounding error.
    apart, lost = u - v, eps * (xp.abs(fu) + xp.abs(fv))
    trapezoid = (du + dv) / 2
    # Jumps between the two are counted as such, and not divided by u − v.
    crossed = _jumped(activation, u) - _jumped(activation, v) if activation.jumps else 0.0
    close = xp.abs(fu - fv - crossed - trapezoid * apart) <= 4 * lost
    apart = xp.where(apart == 0, 1, apart)
    gap = root_a * gap if equal else root_a * gap + (q_a - q_b) / (root_a + root_b) * t
    rise = xp.where(close, trapezoid, (fu - fv - crossed) / apart) * gap
    if activation.jumps:
        rise = rise + crossed * shrink
    terms = (fu * fv, rise**2 / 2, sign_slope * du * dv)
    if bounds:
        middle = activation.with_slope((u + v) / 2)[1]
        bent, lost = xp.abs(trapezoid - middle), lost / xp.abs(apart)
        doubt = xp.where(close, xp.minimum(bent, 5 * lost), lost)
        # This is a bound, while rounding elsewhere is typical: it uses less of the caller's margin.
        doubt = xp.abs(rise) + doubt * xp.abs(gap) / (8 * eps)
        jump = xp.sqrt(xp.maximum(floor - x, 0)) / eps * (du**2 + dv**2)
        sizes = (xp.abs(fu * fv), xp.abs(du * dv))
        all_of_it = sums(*weighed(*terms, *sizes, xp.abs(rise) * doubt, jump))
        product, distance, slope, product_size, slope_size, doubt, jump = all_of_it
        sizes = PairErrors(product_size, distance, slope_size)
        rounding = PairErrors(product_size, doubt, slope_size + jump)
        return PairErrors(product, distance, slope), sizes, rounding
    by_u, by_v = du * s / (2 * root_a), dv * t / (2 * root_b)  # φ'(u)u / 2q_a, and of v
    rates = sums(*weighed(by_u * fv, by_v * fu, by_u * rise, -by_v * rise))
    if equal:
        rates = [(rates[i] + rates[i + 1]) / 2 for i in (0, 0, 2, 2)]
    return PairMoments(*map(xp.sum, weighed(*terms)), *rates)
