"""Gaussian expectations of a nonlinearity, each with an estimate of its error.

Notation: u = √q_a s and v = √q_b t with s, t standard, of correlation c = 1 − x.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float

from theory._activations import Componentwise
from theory._quadrature import Resolution, half_line, quarter_plane
from theory._status import Estimate, Status

Scalar = Float[Array, ""]
_Tree = TypeVar("_Tree")

_SAFETY = 3.0
"""Errors are this many times the largest difference between rules."""
_ROUNDING = 4.0
"""Errors are at least this many times eps, relative to the size of the terms."""
_FAR = 40.0
"""Features beyond this many standard deviations are all alike."""


class SingleMoments(eqx.Module):
    """Moments of φ(u), u ~ N(0, q)."""

    mean: Scalar
    """E φ(u)."""
    square: Scalar
    """E φ(u)²."""
    derivative_square: Scalar
    """E φ'(u)²."""
    square_rate: Scalar
    """∂square/∂q = E φ(u)φ'(u)u / q."""


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


def single_moments(
    activation: Componentwise, q: Any, *, order: int = 64, use_closed_form: bool = True
) -> tuple[SingleMoments, SingleMoments]:
    """Moments of φ(u), u ~ N(0, q), and their absolute errors.

    Parameters
    ----------
    activation
        φ; its closed form is used where it has one.
    q
        The length q ≥ 0 of pre-activations; below 0 everything is NaN.
    order
        Nodes per panel of the quadrature.
    use_closed_form
        False to integrate numerically in any case.

    Accuracy
    --------
    The errors cover rounding, features narrower than the declared `scale`, undeclared kinks, and
    growth so fast that the far tails of the Gaussian matter; they are infinite where the rules
    that are compared agree on no digit. Derivatives, also with respect to parameters of φ, are
    right at declared kinks; those of `derivative_square` lose digits as eps/√q for small q.
    """
    q = _as_float(q)
    q = jnp.where(q >= 0, q, jnp.nan)
    closed = use_closed_form and activation.closed_form is not None
    fixed, at = _frozen(activation), stop_gradient(q)
    if closed:
        values = _single_closed(activation, q)
        m = _frozen(values)
        rate = jnp.abs(m.square_rate) + m.square / _floored(at)
        sizes = SingleMoments(jnp.sqrt(m.square), m.square, m.derivative_square, rate)
        errors = _errors(m, sizes, sizes, [])
    else:
        values = _single_quadrature(activation, q, Resolution(order))
        others = [_single_quadrature(fixed, at, how) for how in _comparison(order)]
        sizes = _single_quadrature(fixed, at, Resolution(order), sizes=True)
        errors = _errors(_frozen(values), sizes, sizes, others)
    # q = 0 is taken a little above.
    moved = 2 * jnp.abs(stop_gradient(values.square_rate)) * (_floored(at) - at)
    return values, eqx.tree_at(lambda e: e.square, errors, errors.square + moved)


def pair_moments(
    activation: Componentwise,
    q_a: Any,
    q_b: Any,
    x: Any,
    *,
    order: int = 64,
    equal_lengths: bool = False,
    use_closed_form: bool = True,
) -> tuple[PairMoments, PairMoments]:
    """Moments of φ(u) and φ(v), and their absolute errors.

    Convention: (u, v) is centred Gaussian with variances q_a, q_b and correlation 1 − x.

    Parameters
    ----------
    activation
        φ; its closed form is used where it has one.
    q_a, q_b
        Lengths of the pre-activations, at least 0.
    x
        1 − c, from 0 to 2. Everything is NaN where an argument is out of range.
    order
        Nodes per panel of the quadrature, in each direction.
    equal_lengths
        q_a and q_b are one number, and are differentiated as one. Less than half the work.
    use_closed_form
        False to integrate numerically in any case.

    Accuracy
    --------
    As for `single_moments`; and `distance` has relative accuracy down to x = 0. Where an odd φ
    makes `product` vanish with c, its error stays that of its terms. Derivatives of `product`
    and `distance` follow from Price's theorem and are as accurate as the moments:
    ∂product/∂x = −∂distance/∂x = −√(q_a q_b) slope. Those of `slope` and of the rates with
    respect to x lose digits as eps/√x and are taken at x = eps where x is smaller.

    References
    ----------
    Price (1958), A useful theorem for nonlinear devices having Gaussian inputs, eq. 5.
    """
    q_a, q_b, x = (_as_float(y) for y in (q_a, q_b, x))
    good = (q_a >= 0) & (q_b >= 0) & (x >= 0) & (x <= 2)
    q_a, q_b, x = (jnp.where(good, y, jnp.nan) for y in (q_a, q_b, x))
    closed = use_closed_form and activation.closed_form is not None
    fixed, (a, b, at) = _frozen(activation), _frozen((q_a, q_b, x))
    if closed:
        values = _pair_values(activation, q_a, q_b, x, how=None, equal=equal_lengths)
        m = _frozen(values)
        one, other = (_single_closed(fixed, q) for q in (a, b))
        product = jnp.sqrt(one.square * other.square)
        slope = jnp.sqrt(one.derivative_square * other.derivative_square)
        sizes = [product, m.distance, slope]
        for size, rates in (
            (product, (m.product_rate_a, m.product_rate_b)),
            (m.distance, (m.distance_rate_a, m.distance_rate_b)),
        ):
            sizes += [jnp.abs(r) + size / _floored(q) for r, q in zip(rates, (a, b), strict=True)]
        errors = _errors(m, PairMoments(*sizes), PairMoments(*sizes), [])
    else:
        how = Resolution(order)
        values = _pair_values(activation, q_a, q_b, x, how=how, equal=equal_lengths)
        args = (fixed, a, b, at)
        others = [_pair_quadrature(*args, how, equal_lengths) for how in _comparison(order)]
        bounds = _pair_quadrature(*args, how, equal_lengths, bounds=True)
        errors = _errors(_frozen(values), *bounds, others)
    shift_a, shift_b = 2 * (_floored(a) - a), 2 * (_floored(b) - b)
    m = jax.tree.map(lambda v: jnp.abs(stop_gradient(v)), values)
    product = errors.product + m.product_rate_a * shift_a + m.product_rate_b * shift_b
    distance = errors.distance + m.distance_rate_a * shift_a + m.distance_rate_b * shift_b
    return values, eqx.tree_at(lambda e: (e.product, e.distance), errors, (product, distance))


def _as_float(x: Any) -> Scalar:
    return jnp.asarray(x, jnp.result_type(x, float))


def _frozen(tree: _Tree) -> _Tree:
    return jax.tree.map(lambda y: stop_gradient(y) if eqx.is_array(y) else y, tree)


def _eps(x: Array) -> float:
    return float(jnp.finfo(x.dtype).eps)


def _least(x: Array) -> float:
    return float(jnp.finfo(x.dtype).tiny) ** (1 / 3)


def _floored(q: Scalar) -> Scalar:
    """q > 0, with derivative 1 at 0: so small, yet no second derivative overflows."""
    return q + stop_gradient(jnp.maximum(_least(q) - q, 0))


def _features(kinks: Sequence[float], *roots: Scalar) -> list[Scalar]:
    """Distances of the kinks from the origin, in standard deviations."""
    distances = sorted({abs(float(k)) for k in kinks} - {0.0})
    return [jnp.minimum(k / root, _FAR) for root in roots for k in distances]


def _width(scale: float, root: Scalar, how: Resolution) -> Scalar:
    # A smooth integrand does not care where the nodes are, so this need not be differentiated.
    return stop_gradient(how.stretch * scale / root)


def _value_and_slope(fn: Callable, u: Array) -> tuple[Array, Array]:
    return jax.jvp(fn, (u,), (jnp.ones_like(u),))


def _comparison(order: int) -> list[Resolution]:
    """Rules that share no node with `Resolution(order)`, so that an undeclared kink shows.

    Their cut is shorter: they miss more of the tails than that rule does.
    """
    less = 7 * order // 8
    return [Resolution(less, 2.6, 8.5), Resolution(less + 1, 3.5, 8.7)]


def _errors(values: _Tree, sizes: _Tree, rounding: _Tree, others: list[_Tree]) -> _Tree:
    """Absolute errors: the largest difference between rules relative to `sizes`, and rounding."""
    eps = _eps(jax.tree.leaves(values)[0])
    worst = jnp.zeros((), jax.tree.leaves(values)[0].dtype)
    for other in others:
        for value, second, size, noise in zip(*map(jax.tree.leaves, (values, other, sizes, rounding))):
            # What rounding explains in one moment says nothing about the others.
            difference = jnp.abs(value - second) - _ROUNDING * eps * noise
            relative = jnp.where(difference > 0, difference / jnp.where(size > 0, size, 1), 0)
            worst = jnp.maximum(worst, jnp.max(relative))
    # Where the rules do not agree on one digit, nothing is known.
    worst = jnp.where(_SAFETY * worst < 1, _SAFETY * worst, jnp.inf)

    def error(value, size, rounding):
        total = jnp.where(size > 0, worst * size, 0) + _ROUNDING * eps * rounding
        return jnp.where(jnp.isnan(value), jnp.nan, total)

    return jax.tree.map(error, values, sizes, rounding)


def _single_quadrature(
    activation: Componentwise, q: Scalar, how: Resolution, *, sizes: bool = False
) -> SingleMoments:
    q = _floored(q)
    root = jnp.sqrt(q)
    width = _width(activation.scale, root, how)
    z, weight = half_line(_features(activation.kinks, root), jnp.ones_like(q), width, how)
    if activation.parity is None:
        z, weight = jnp.concatenate([z, -z]), jnp.concatenate([weight, weight]) / 2
    f, df = _value_and_slope(activation.fn, root * z)
    mean = jnp.zeros_like(f) if activation.parity == "odd" else f
    terms = SingleMoments(mean, f * f, df * df, f * df * z / root)
    return jax.tree.map(lambda y: jnp.sum(weight * (jnp.abs(y) if sizes else y)), terms)


def _single_closed(activation: Componentwise, q: Scalar) -> SingleMoments:
    form, q = activation.closed_form, _floored(q)
    assert form is not None
    values, rates = jax.jvp(form.single, (q,), (jnp.ones_like(q),))
    return SingleMoments(*values, rates[1])


def _pair_closed(activation: Componentwise, q_a: Scalar, q_b: Scalar, x: Scalar) -> PairMoments:
    form, q_a, q_b = activation.closed_form, _floored(q_a), _floored(q_b)
    assert form is not None
    one = jnp.ones_like(x)
    values, rates_a = jax.jvp(lambda q: form.pair(q, q_b, x), (q_a,), (one,))
    rates_b = jax.jvp(lambda q: form.pair(q_a, q, x), (q_b,), (one,))[1]
    return PairMoments(*values, rates_a[0], rates_b[0], rates_a[1], rates_b[1])


def _pair_plain(activation, q_a, q_b, x, how, equal) -> PairMoments:
    if how is None:
        return _pair_closed(activation, q_a, q_b, x)
    return _pair_quadrature(activation, q_a, q_b, x, how, equal)


@eqx.filter_custom_jvp
def _pair_values(activation, q_a, q_b, x, *, how, equal) -> PairMoments:
    return _pair_plain(activation, q_a, q_b, x, how, equal)


@_pair_values.def_jvp
def _pair_derivatives(primals, tangents, *, how, equal):
    activation, q_a, q_b, x = primals
    values = _pair_values(activation, q_a, q_b, x, how=how, equal=equal)

    def plain(activation, q_a, q_b, x):
        return _pair_plain(activation, q_a, q_b, x, how, equal)

    # Differences that vanish with x are divided by it: not where they are all rounding.
    clear = jnp.maximum(stop_gradient(x), _eps(x)) + x - stop_gradient(x)
    primals = (activation, q_a, q_b, clear)
    moved = eqx.filter_jvp(plain, primals, tangents)[1]
    dq_a, dq_b, dx = (jnp.zeros_like(x) if t is None else t for t in tangents[1:])
    by_x = jnp.sqrt(_floored(q_a) * _floored(q_b)) * values.slope * dx
    product = values.product_rate_a * dq_a + values.product_rate_b * dq_b - by_x
    distance = values.distance_rate_a * dq_a + values.distance_rate_b * dq_b + by_x
    if jax.tree.leaves(tangents[0]):
        by_leaves = eqx.filter_jvp(lambda phi: plain(phi, q_a, q_b, x), primals[:1], tangents[:1])[
            1
        ]
        product, distance = product + by_leaves.product, distance + by_leaves.distance
    return values, eqx.tree_at(lambda m: (m.product, m.distance), moved, (product, distance))


def _pair_quadrature(
    activation: Componentwise,
    q_a: Scalar,
    q_b: Scalar,
    x: Scalar,
    how: Resolution,
    equal: bool,
    *,
    bounds: bool = False,
) -> Any:
    """Values; or with `bounds` the sizes of their terms and of the terms' rounding errors/eps."""
    if equal:
        q_a = q_b = (q_a + q_b) / 2
    q_a, q_b = _floored(q_a), _floored(q_b)
    root_a, root_b = jnp.sqrt(q_a), jnp.sqrt(q_b)
    eps = _eps(x)

    # c < 0 is the case |c| with −v for v; for even φ the two differ in the sign of φ' only.
    negative = x > 1
    x = jnp.where(negative, 2 - x, x)
    mirrored = negative & (activation.parity != "even")
    sign_v, sign_slope = (
        jnp.where(y, -jnp.ones_like(x), 1) for y in (mirrored, negative & ~mirrored)
    )
    # The rule needs x > 0; below the least, all differences keep their form and shrink with √x.
    least = _least(x)
    shrink = stop_gradient(jnp.sqrt(jnp.minimum(x / least, 1)))
    features = _features(activation.kinks, root_a, *([] if equal else [root_b]))
    width = _width(activation.scale, jnp.maximum(root_a, root_b), how)
    s, t, a, b, weight = quarter_plane(jnp.maximum(x, least), features, width, how)

    # The symmetric points that differ, each with s − ±t.
    turns = [(s, t, jnp.where(mirrored, 2 * a, 2 * shrink * b))]
    if not equal:
        turns.append((t, s, jnp.where(mirrored, 2 * a, -2 * shrink * b)))
    if activation.parity is None:
        turns += [(-s, -t, -gap) for s, t, gap in turns]

    def collect(product, distance, slope, rates):
        if equal:
            rates = [(rates[i] + rates[i + 1]) / 2 for i in (0, 0, 2, 2)]
        return PairMoments(product, distance, sign_slope * slope, *rates)

    def terms(s, t, gap):
        t = sign_v * t
        u, v = root_a * s, root_b * t
        (fu, du), (fv, dv) = (_value_and_slope(activation.fn, y) for y in (u, v))
        # φ(u) − φ(v) = mean slope · (u − v): by subtraction, unless that differs from the
        # trapezoidal mean by no more than its rounding error.
        apart, lost = u - v, eps * (jnp.abs(fu) + jnp.abs(fv))
        trapezoid = (du + dv) / 2
        close = jnp.abs(fu - fv - trapezoid * apart) <= lost
        apart = jnp.where(apart == 0, 1, apart)
        gap = root_a * gap if equal else root_a * gap + (q_a - q_b) / (root_a + root_b) * t
        rise = jnp.where(close, trapezoid, (fu - fv) / apart) * gap
        by_u, by_v = du * s / (2 * root_a), dv * t / (2 * root_b)  # φ'(u)u / 2q_a, and of v
        rates = [by_u * fv, by_v * fu, by_u * rise, -by_v * rise]
        values = collect(fu * fv, rise**2 / 2, du * dv, rates)
        if not bounds:
            return values
        middle = _value_and_slope(activation.fn, (u + v) / 2)[1]
        bent, lost = jnp.abs(trapezoid - middle), lost / jnp.abs(apart)
        doubt = jnp.where(close, jnp.minimum(bent, 2 * lost), lost)
        doubt = jnp.abs(rise) + doubt * jnp.abs(gap) / eps
        rates = [jnp.abs(y) for y in (by_u * fv, by_v * fu, by_u * doubt, by_v * doubt)]
        jump = jnp.sqrt(jnp.maximum(least - x, 0)) / eps * (du**2 + dv**2)
        rounding = collect(fu * fv, rise * doubt, jnp.abs(du * dv) + jump, rates)
        return jax.tree.map(jnp.abs, (values, rounding))

    totals = jax.tree.map(lambda *y: jnp.sum(weight * sum(y)), *(terms(*turn) for turn in turns))
    return jax.tree.map(lambda y: y / len(turns), totals)


def gaussian_expectation(
    fn: Callable[[Float[Array, " nodes"]], Float[Array, "*outputs nodes"]],
    variance: Any,
    *,
    kinks: Sequence[float] = (),
    scale: float = 1.0,
    order: int = 64,
) -> Estimate:
    """E f(√q z), z ~ N(0, 1), for one or several functions f.

    Parameters
    ----------
    fn
        Elementwise: takes an array [nodes] and returns [..., nodes]; the result of this function
        then has the shape of the leading axes.
    variance
        q ≥ 0, a scalar; map over several with `jax.vmap`.
    kinks
        Where f or a derivative of it jumps, and the centres of smooth steps away from 0. A jump
        of f itself belongs here, too.
    scale
        The width of the features of f: 0.1 for tanh(10 z).
    order
        Nodes per panel.

    Returns
    -------
    Estimate
        With status OK where the error is within 1e-10 of E|f| in float64 (eps^0.64 in general),
        INACCURATE where it is not, INVALID for a negative variance.

    Accuracy
    --------
    See `single_moments`.
    """
    q = _as_float(variance)
    safe = _floored(jnp.where(q >= 0, q, 1))
    root = jnp.sqrt(safe)

    def evaluate(how, root, bounds=False):
        z, weight = half_line(
            _features(kinks, root), jnp.ones_like(root), _width(scale, root, how), how
        )
        values = fn(root * jnp.concatenate([z, -z]))
        weight = jnp.concatenate([weight, weight]) / 2
        return jnp.sum(weight * (jnp.abs(values) if bounds else values), axis=-1)

    return _estimate(evaluate, root, order, q >= 0)


def gaussian_pair_expectation(
    fn: Callable[[Array, Array], Array],
    variance_a: Any,
    variance_b: Any,
    correlation: Any,
    *,
    kinks: Sequence[float] = (),
    scale: float = 1.0,
    order: int = 64,
) -> Estimate:
    """E f(u, v), for a centred Gaussian pair (u, v).

    Parameters
    ----------
    fn
        Elementwise: takes two arrays of one shape [nodes] and returns [..., nodes].
    variance_a, variance_b
        E u², E v² ≥ 0.
    correlation
        E uv/√(E u² E v²), from −1 to 1. The derivative with respect to it is NaN at ±1.
    kinks
        Where f is not smooth in u or in v, and the centres of smooth steps away from 0.
    scale
        The width of the features of f.
    order
        Nodes per panel, in each direction.

    Returns
    -------
    Estimate
        As for `gaussian_expectation`; INVALID for |correlation| > 1, too.

    Accuracy
    --------
    Kinks along lines other than u = k and v = k, such as that of |u − v|, are not resolved; the
    error says so. See `pair_moments` where 1 − correlation matters more than correlation.
    """
    q_a, q_b, c = (_as_float(y) for y in (variance_a, variance_b, correlation))
    valid = (q_a >= 0) & (q_b >= 0) & (jnp.abs(c) <= 1)
    q_a, q_b, c = (jnp.where(valid, y, 0) for y in (q_a, q_b, c))
    x = 1 - jnp.abs(c)
    # The rule needs x > 0. A derivative at x = 0 would be rounding error: the root makes it NaN.
    x = jnp.square(jnp.sqrt(x)) + _eps(x) ** 2
    parameters = (jnp.sqrt(_floored(q_a)), jnp.sqrt(_floored(q_b)), x, jnp.where(c < 0, -1, 1))

    def evaluate(how, parameters, bounds=False):
        root_a, root_b, x, sign = parameters
        width = _width(scale, jnp.maximum(root_a, root_b), how)
        s, t, _, _, weight = quarter_plane(x, _features(kinks, root_a, root_b), width, how)
        s, t = (jnp.stack(y).ravel() for y in ((s, t, -s, -t), (t, s, -t, -s)))
        values = fn(root_a * s, root_b * (sign * t))
        weight = jnp.tile(weight.ravel(), 4) / 4
        return jnp.sum(weight * (jnp.abs(values) if bounds else values), axis=-1)

    return _estimate(evaluate, parameters, order, valid)


def _estimate(evaluate: Callable, parameters: Any, order: int, valid: Array) -> Estimate:
    value = evaluate(Resolution(order), parameters)
    at = _frozen(parameters)
    others = [stop_gradient(evaluate(how, at)) for how in _comparison(order)]
    size = stop_gradient(evaluate(Resolution(order), at, bounds=True))
    error = _errors(stop_gradient(value), size, size, others)
    value, error = (jnp.where(valid, y, jnp.nan) for y in (value, error))
    status = jnp.where(error <= _eps(value) ** 0.64 * size, Status.OK, Status.INACCURATE)
    status = jnp.where(valid, status, Status.INVALID).astype(jnp.int8)
    return Estimate(value, error, status)
