"""Gaussian expectations of a nonlinearity, each with an estimate of its error."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from theory.description import Componentwise, found_jumps, is_new, on_numpy
from theory.gaussian._growth import diverges, gaussian_rate
from theory.gaussian._moment_integrals import (
    BEYOND,
    PairErrors,
    PairMoments,
    SingleMoments,
    as_floats,
    behind,
    beyond_cut,
    density_at,
    epsilon,
    features,
    floored,
    frozen,
    grading,
    half_moments,
    jumping,
    least,
    pair_quadrature,
    pair_values,
    single_closed,
    single_quadrature,
    stein_defects,
)
from theory.gaussian._quadrature import Resolution, half_line, quarter_plane
from theory.numerics import (
    Array,
    Estimate,
    Status,
    as_kinks,
    as_number,
    check_callable,
    check_order,
    check_positive,
    inside_another,
    replace_where,
    shown,
    stop_gradient,
    traced,
    xp,
)

_Tree = TypeVar("_Tree")

_SAFETY = 5.0
"""Errors are this many times the largest difference between rules."""
_CAUTION = 10.0
"""The same for functions of which nothing is known."""
_ROUNDING = 16.0
"""Errors are at least this many times eps, relative to the size of the terms."""


def single_moments(
    activation: Componentwise,
    q: Any,
    *,
    order: int = 64,
    use_closed_form: bool = True,
    with_errors: bool = True,
) -> tuple[SingleMoments, SingleMoments]:
    """Moments of φ(u), u ~ N(0, q), and their absolute errors.

    Parameters
    ----------
    activation
        φ; its closed form is used where it has one.
    q
        Lengths q ≥ 0 of pre-activations, of any shape; below 0 everything is NaN.
    order
        Nodes per panel of the quadrature.
    use_closed_form
        False to integrate numerically in any case.
    with_errors
        False leaves the errors out; they are then zero.

    Accuracy
    --------
    1e-14 of the size of the terms at order 64, for q up to 1e6. The errors cover rounding,
    features narrower than the declared `scale`, undeclared kinks, and growth so fast that the
    far tails of the Gaussian matter; they are infinite where the rules that are compared agree
    on no digit. Of functions that are not named, ends of panels are looked at more closely: of
    30000 errors with an undeclared kink or jump none was too small.
    Derivatives, also with respect to parameters of φ, are right at declared kinks; those of
    `derivative_square` lose digits as eps/√q for small q.
    """
    (q,) = as_floats(q)
    q = xp.where(q >= 0, q, xp.nan)
    closed = use_closed_form and activation.closed_form is not None
    fixed, at = frozen(activation), stop_gradient(q)
    values = _single_values(activation, q, order, closed)
    if not with_errors:
        errors = jax.tree.map(xp.zeros_like, values)
    elif closed:
        m = frozen(values)
        rate = xp.abs(m.square_rate) + m.square / floored(at)
        sizes = SingleMoments(xp.sqrt(m.square), m.square, m.derivative_square, rate)
        errors = _errors(m, sizes, sizes, None)
    else:
        study = lambda how: single_quadrature(fixed, at, how, bounds=True)
        if activation.features_known:
            errors = judged(study, frozen(values), order)
        else:
            closer = single_quadrature(fixed, at, closer_look(order))
            errors = judged(study, frozen(values), order, closer)
            errors = jax.tree.map(xp.add, errors, beyond_cut(fixed, at))
            strange = _hidden_jump(fixed, at, order)
            strange = strange | _reaches_hidden_jump(fixed, at, frozen(values).square)
            slope = xp.where(strange, xp.inf, errors.derivative_square)
            errors = eqx.tree_at(lambda e: e.derivative_square, errors, slope)
    if activation.jumps:
        slope = xp.where(jumping(fixed, at), xp.inf, values.derivative_square)
        values = eqx.tree_at(lambda m: m.derivative_square, values, slope)
    # q = 0 is taken a little above, and what that changes is twice what the rate says.
    moved = 2 * xp.abs(stop_gradient(values.square_rate)) * (floored(at) - at)
    mean, square = errors.mean + xp.sqrt(moved), errors.square + moved
    return values, eqx.tree_at(lambda e: (e.mean, e.square), errors, (mean, square))


def _hidden_jump(activation: Componentwise, q: Array, order: int) -> Array:
    """Whether φ' does not integrate to φ: a jump that is not declared, or too steep a step.

    A kink that is not declared makes the defects of Stein's identity differ from rule to rule;
    a jump makes them agree.
    """
    one = stein_defects(activation, q, Resolution(order))
    look = lambda how: stein_defects(activation, q, how)
    others = _of_alternatives(look, order, q.dtype, host=not traced(q))
    defects = xp.concatenate([one[None], others])[:, 0]
    size, noise = xp.max(one[1], axis=0), 1e4 * epsilon(q)
    spread = xp.max(defects, axis=0) - xp.min(defects, axis=0)
    smallest = xp.min(xp.abs(defects), axis=0)
    return xp.any((smallest > 4 * spread) & (smallest > (noise * size)[None]), axis=0)


def _reaches_hidden_jump(activation: Componentwise, q: Array, size: Array) -> Array:
    """Whether u meets a jump of φ that is not declared, wherever it is; `size` is E φ²."""
    k, step = found_jumps(activation.fn, q.dtype)
    reached = density_at(k, floored(q)) * xp.sqrt(floored(q))[..., None] > epsilon(q)
    new = is_new(behind(q, k), behind(q, step), activation.jumps, size[..., None])
    return xp.any(reached & new, axis=-1)


def _unseen(
    activation: Componentwise, a: Array, b: Array, x: Array, m: PairErrors, order: int
) -> PairErrors:
    """What rules for pairs leave out between an end of a panel and a kink close to it that is
    not declared: relative to sizes, no more than ten times what those of one variable do."""
    shares, squares, tails, strange = [], [], [], []
    for q in (a,) if a is b else (a, b):
        values, sizes = half_moments(activation, q, Resolution(order))
        look = lambda how, q=q: half_moments(activation, q, how)[0]
        more = _of_alternatives(look, order, q.dtype, host=not traced(q))
        others = [look(closer_look(order))[None], more]
        explained = _ROUNDING * epsilon(q)
        shares.append(_disagreement(values, xp.concatenate(others), sizes, sizes, explained))
        squares.append(xp.mean(sizes[:, 2:], axis=0))
        strange.append(_reaches_hidden_jump(activation, q, squares[-1][0]))
        far = beyond_cut(activation, q)
        tails.append(xp.stack([far.square, far.derivative_square]))
    share = _CAUTION * xp.max(xp.stack(shares))
    share = xp.where(share < 1, share, xp.inf)
    product, slope = xp.sqrt(squares[0] * squares[-1])
    of = lambda size: xp.where(size > 0, share * size, 0.0)
    tail, steep = xp.sqrt(tails[0] * tails[-1])
    # Close inputs differ by φ' (u − v) out there, too.
    gap = xp.square(xp.sqrt(a) - xp.sqrt(b)) + xp.sqrt(a * b) * x
    apart = xp.minimum(tails[0][0] + tails[-1][0], float(BEYOND[0]) ** 2 * gap * steep)
    # Two inputs that a jump is between, or that meet it together, are at no nodes.
    jumps = xp.any(xp.stack(strange))
    jump = xp.where(jumps, xp.inf, 0.0)
    apart = of(xp.abs(m.distance)) + apart + jump
    product = of(product) * xp.where(jumps, 2.0, 1.0) + tail
    return PairErrors(product, apart, of(slope) + steep + jump)


def _single_values(activation: Componentwise, q: Array, order: int, closed: bool):
    if closed:
        return single_closed(activation, q)
    return single_quadrature(activation, q, Resolution(order))


def square_rate(
    activation: Componentwise, q: Float[Array, "*b"], *, order: int
) -> Float[Array, "*b"]:
    """∂E φ(u)²/∂q, u ~ N(0, q)."""
    return _single_values(activation, q, order, activation.closed_form is not None).square_rate


def slope_rate(
    activation: Componentwise, q: Float[Array, "*b"], *, order: int
) -> Float[Array, "*b"]:
    """∂E φ'(u)²/∂q, u ~ N(0, q), from a small difference: good to four digits, for errors."""
    closed, fixed = activation.closed_form is not None, frozen(activation)
    at = stop_gradient(floored(q))
    slope = lambda q: _single_values(fixed, q, order, closed).derivative_square
    return (slope(at * (1 + _STEP)) - slope(at)) / (_STEP * at)


_STEP = 1e-4


def pair_moments(
    activation: Componentwise,
    q_a: Any,
    q_b: Any,
    x: Any,
    *,
    order: int = 64,
    equal_lengths: bool = False,
    use_closed_form: bool = True,
    with_errors: bool = True,
) -> tuple[PairMoments, PairErrors]:
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
    with_errors
        False leaves the errors out; they are then zero.

    Accuracy
    --------
    As for `single_moments` (2e-11 at q = 1e6), and `distance` has relative accuracy down to
    x = 0: 1e-14, save 1e-11 where |u − v| is about 1e-5 of the scale of φ, and 1e-9 for even φ
    with q < 1e-6. Where an odd φ makes `product` vanish with c, its error stays that of its
    terms. Derivatives of `product` and `distance` follow from Price's theorem and are as
    accurate as the moments: ∂product/∂x = −∂distance/∂x = −√(q_a q_b) slope. Those of `slope`
    and of the rates with respect to x lose digits as eps/√x and are taken at x = eps where x
    is smaller.

    Notes
    -----
    Over many points `jax.lax.map` is faster than `jax.vmap` on CPU, and needs no memory.

    References
    ----------
    Price (1958), A useful theorem for nonlinear devices having Gaussian inputs, eq. 5.
    """
    q_a, q_b, x = as_floats(q_a, q_b, x)
    good = (q_a >= 0) & (q_b >= 0) & (x >= 0) & (x <= 2)
    q_a, q_b, x = (xp.where(good, y, xp.nan) for y in (q_a, q_b, x))
    closed = use_closed_form and activation.closed_form is not None
    how = None if closed else Resolution(order)
    values = pair_values(activation, q_a, q_b, x, how=how, equal=equal_lengths)
    if not with_errors:
        return values, jax.tree.map(xp.zeros_like, _first_three(values))
    fixed, (a, b, at), m = frozen(activation), frozen((q_a, q_b, x)), frozen(values)
    if closed:
        sizes = _closed_sizes(fixed, a, b, m)
        errors = _errors(_first_three(m), sizes, sizes, None)
    else:
        args = (fixed, a, b, at)

        def study(how):
            values, sizes, rounding = pair_quadrature(*args, how, equal_lengths, bounds=True)
            if not fixed.jumps:
                return values, sizes, rounding
            slope = pair_values(*args, how=how, equal=equal_lengths).slope
            larger = lambda e: xp.maximum(e.slope, xp.abs(slope))
            put = lambda e, slope: eqx.tree_at(lambda e: e.slope, e, slope)
            return put(values, slope), put(sizes, larger(sizes)), put(rounding, larger(rounding))

        errors = judged(study, _first_three(m), order)
        if not fixed.features_known:
            other = a if equal_lengths else b
            unseen = _unseen(fixed, a, other, at, _first_three(m), order)
            errors = jax.tree.map(xp.add, errors, unseen)
        if fixed.jumps:
            # Where the two coincide the slope may be infinite.
            there = (at < least(at)) | (2 - at < least(at))
            there = there & (jumping(fixed, a) | jumping(fixed, b))
            slope = xp.where(there, xp.inf, errors.slope)
            errors = eqx.tree_at(lambda e: e.slope, errors, slope)
    # Lengths of 0 are taken a little above.
    shift_a, shift_b = 2 * (floored(a) - a), 2 * (floored(b) - b)
    moved = xp.abs(m.product_rate_a) * shift_a + xp.abs(m.product_rate_b) * shift_b
    apart = xp.abs(m.distance_rate_a) * shift_a + xp.abs(m.distance_rate_b) * shift_b
    errors = PairErrors(errors.product + moved, errors.distance + apart, errors.slope)
    return values, errors


def _first_three(m: PairMoments) -> PairErrors:
    return PairErrors(m.product, m.distance, m.slope)


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
        INACCURATE where it is not, INFINITE where f overflows, INVALID for a negative variance
        and where f is NaN.

    Raises
    ------
    TypeError
        If `fn` is no function of one array.
    ValueError
        If `fn` returns another shape, or an argument is out of range; `order` is from 8 to 1024.

    Accuracy
    --------
    See `single_moments`. Kinks and jumps that are not declared show in the error, also those
    close to declared ones; features much narrower than `scale` may not.
    """
    check_callable("fn", fn)
    kinks = _checked_features(kinks, scale, order)
    variance = as_number("variance", variance, "at least 0 (map over several with jax.vmap)")
    run = functools.partial(_expectation, fn, kinks, scale, order)
    return run(variance) if inside_another(variance) else on_numpy(run, variance)


def _checked_features(kinks: Any, scale: Any, order: Any) -> tuple:
    """The kinks as a tuple."""
    check_positive("scale", scale)
    check_order(order)
    return as_kinks(kinks)


def _expectation(fn, kinks, scale, order, variance) -> Estimate:
    (q,) = as_floats(variance)
    safe = floored(xp.where(q >= 0, q, 1))
    root = xp.sqrt(safe)

    def evaluate(how, root, bounds=False):
        z, weight = half_line(features(kinks, root), grading(scale, root, how), how)
        values = _values(fn, root * xp.concatenate([z, -z]))
        return _weighted(values, weight / 2, bounds)

    def far(root):
        z = xp.asarray(np.outer(_FAR, [1, -1]).ravel(), root.dtype)
        return _values(fn, root * z)

    rate = gaussian_rate(lambda u: _values(fn, xp.asarray(u)), root.dtype)
    found = _estimate(evaluate, far, root, order, q >= 0, zoom=12)
    return _unless(stop_gradient(diverges(rate, q)), found)


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

    Raises
    ------
    TypeError, ValueError
        As `gaussian_expectation`.

    Accuracy
    --------
    Kinks along lines other than u = k and v = k, such as that of |u − v|, are not resolved; the
    error says so, also where they are close to such a line. See `pair_moments` where
    1 − correlation matters more than correlation.
    """
    check_callable("fn", fn, 2)
    kinks = _checked_features(kinks, scale, order)
    given = (
        as_number("variance_a", variance_a, "at least 0 (map over several with jax.vmap)"),
        as_number("variance_b", variance_b, "at least 0 (map over several with jax.vmap)"),
        as_number("correlation", correlation, "from -1 to 1 (map over several with jax.vmap)"),
    )
    run = functools.partial(_pair_expectation, fn, kinks, scale, order)
    return run(*given) if inside_another(given) else on_numpy(run, *given)


def _values(fn: Callable, *z: Array) -> Any:
    """A user's function, which is written for JAX, at arrays of either kind."""
    values = fn(*map(jnp.asarray, z))
    shape = getattr(values, "shape", None)
    if not shape or shape[-1] != z[0].size:
        got = shown(values) if shape is None else f"one of shape {list(shape)}"
        raise ValueError(
            f"`fn`: must return an array of shape [..., {z[0].size}] for one of shape "
            f"[{z[0].size}]; got {got}"
        )
    return values if traced(z) or isinstance(values, Tracer) else np.asarray(values)


def _pair_expectation(fn, kinks, scale, order, variance_a, variance_b, correlation) -> Estimate:
    q_a, q_b, c = as_floats(variance_a, variance_b, correlation)
    valid = (q_a >= 0) & (q_b >= 0) & (xp.abs(c) <= 1)
    q_a, q_b, c = (xp.where(valid, y, 0) for y in (q_a, q_b, c))
    x = 1 - xp.abs(c)
    # The rule needs x > 0. A derivative at x = 0 would be rounding error: the root makes it NaN.
    x = xp.square(xp.sqrt(x)) + least(x)
    parameters = (
        xp.sqrt(floored(q_a)),
        xp.sqrt(floored(q_b)),
        x,
        xp.where(c < 0, -xp.ones_like(c), 1),
    )

    def evaluate(how, parameters, bounds=False):
        root_a, root_b, x, sign = parameters
        width = grading(scale, xp.maximum(root_a, root_b), how)
        s, t, _, _, weight = quarter_plane(x, features(kinks, root_a, root_b), width, how)
        s, t = (xp.stack(y).ravel() for y in ((s, t, -s, -t), (t, s, -t, -s)))
        values = _values(fn, root_a * s, root_b * (sign * t))
        return _weighted(values, weight.ravel() / 4, bounds)

    def far(parameters):
        root_a, root_b, x, sign = parameters
        angle = xp.asarray(np.arange(_DIRECTIONS) * (2 * math.pi / _DIRECTIONS), x.dtype)
        a, b = xp.sqrt(1 - x / 2) * xp.cos(angle), xp.sqrt(x / 2) * xp.sin(angle)
        z = xp.asarray(_FAR, x.dtype)
        s, t = ((z[:, None] * y[None]).ravel() for y in (a + b, a - b))
        return _values(fn, root_a * s, root_b * (sign * t))

    def outwards(r):
        """The values at these distances from 0 in all directions, the distances last."""
        root_a, root_b, x, sign = parameters
        angle = np.arange(_DIRECTIONS) * (2 * math.pi / _DIRECTIONS)
        a, b = (xp.asarray(np.outer(y(angle), r), x.dtype) for y in (np.cos, np.sin))
        a, b = xp.sqrt(1 - x / 2) * a, xp.sqrt(x / 2) * b
        values = _values(fn, (root_a * (a + b)).ravel(), (root_b * (sign * (a - b))).ravel())
        return values.reshape(*values.shape[:-1], *a.shape)

    rate = xp.max(gaussian_rate(outwards, x.dtype), axis=-1)
    found = _estimate(evaluate, far, parameters, order, valid, zoom=8)
    return _unless(stop_gradient(diverges(rate, xp.ones_like(x))), found)


def _unless(infinite: Array, found: Estimate) -> Estimate:
    """Nothing is known of an expectation that is infinite by what f does far out."""
    changed = infinite & ((found.status == Status.OK) | (found.status == Status.INACCURATE))
    error = xp.where(changed, xp.inf, found.error)
    status = xp.where(changed, np.int8(Status.INACCURATE), found.status)
    return Estimate(found.value, error, status)


def _weighted(values: Array, weight: Array, magnitude: bool) -> Float[Array, "parts *outputs"]:
    """The parts of the sum, one for each mirror image of the nodes that the weights are of: what
    the rule is wrong by in one part may cancel in the sum, and in that of each other rule."""
    values = values.reshape(*values.shape[:-1], -1, weight.size)
    values = xp.abs(values) if magnitude else values
    return xp.moveaxis(xp.sum(values * weight.reshape((1,) * (values.ndim - 1) + (-1,)), -1), -1, 0)


_FAR = np.append([8.0, 8.5], BEYOND)
"""Standard deviations around the cut at 9 and beyond, while the density can be told from 0."""
_DIRECTIONS = 64


def _left_out(values: Array, whole: Array) -> Array:
    """A bound on E |f| beyond the cut, as f there is at `_FAR` and in some directions.

    `whole` is E |f|. If most of it is there, nothing is known of what is close to the cut.
    """
    size = xp.abs(values).reshape(*values.shape[:-1], _FAR.size, -1)
    # Overflow and NaN so far out say nothing.
    size = xp.where(xp.isfinite(size), size, 0)
    most = xp.maximum(size[..., :-1, :], size[..., 1:, :])
    mass = xp.asarray(np.exp(-(_FAR[:-1] ** 2) / 2), size.dtype)
    each = xp.einsum("...rd,r->...r", most, mass) / size.shape[-1]
    every, beyond = (xp.sum(each[..., _FAR[:-1] >= cut], axis=-1) for cut in (8, 9))
    return xp.where(every > 1e-3 * whole, every, beyond)


def _estimate(
    evaluate: Callable, far: Callable, parameters: Any, order: int, valid: Array, zoom: int
) -> Estimate:
    """The expectation, compared with the other rules and with one that looks closer at the
    ends of panels: what all others leave out there is not what they differ by."""
    parts = evaluate(Resolution(order), parameters)
    value, at = xp.sum(parts, axis=0), frozen(parameters)

    def off(how, at):
        return xp.sum(xp.abs(evaluate(how, at) - stop_gradient(parts)), axis=0)

    def study(how):
        size = xp.sum(evaluate(how, at, bounds=True), axis=0)
        return off(how, at), size, size

    # How much the roundings of the lengths count shows there, too.
    nudge = lambda i, y: y * (1 + (2 - 4 * i) * epsilon(y)) if i < 2 else y
    leaves, structure = jax.tree.flatten(at)
    moved = jax.tree.unflatten(structure, [nudge(i, y) for i, y in enumerate(leaves)])
    none, closer = xp.zeros_like(stop_gradient(value)), off(closer_look(order, zoom), moved)
    error = judged(study, none, order, closer, _MORE)
    size = stop_gradient(xp.sum(evaluate(Resolution(order), at, bounds=True), axis=0))
    error = error + stop_gradient(_left_out(far(at), size))
    good = error <= epsilon(value) ** 0.64 * size
    status = xp.where(good, np.int8(Status.OK), np.int8(Status.INACCURATE))
    found = replace_where(xp.isinf(value), Status.INFINITE, Estimate(value, error, status))
    return replace_where(~valid | xp.isnan(value), Status.INVALID, found)


_ALTERNATIVES = ((2.6, 8.5, 0.0), (3.5, 9.5, 0.8))
"""Stretch, cut and bend of the rules that a result is compared with. They share no node with it or
each other, so that an undeclared kink shows, and the shorter cut misses more of the tails."""


_MORE = (*_ALTERNATIVES, (2.9, 9.2, 0.4), (3.2, 8.8, 1.2))
"""Those for functions of which nothing is known."""


def _of_alternatives(
    study: Callable[[Resolution], _Tree],
    order: int,
    dtype: Any,
    rules: Any = _ALTERNATIVES,
    *,
    host: bool = False,
) -> _Tree:
    """What `study` gives with each of them, which differ in numbers only and are compiled once."""
    columns = [np.asarray(column, dtype) for column in zip(*rules, strict=True)]

    def other(stretch, cut, bend):
        return study(Resolution(7 * order // 8, stretch, cut, bend=bend))

    if host:
        results = [other(*rule) for rule in zip(*columns, strict=True)]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *results)
    return jax.vmap(other)(*map(jnp.asarray, columns))


def closer_look(order: int, zoom: int = 12) -> Resolution:
    """A rule that looks closer at the ends of panels."""
    return Resolution(7 * order // 8, zoom=zoom)


def judged(
    study: Callable[[Resolution], Any],
    values: _Tree,
    order: int,
    closer: _Tree | None = None,
    rules: Any = _ALTERNATIVES,
) -> _Tree:
    """Errors of `values` by comparison; `study` gives other values, sizes and rounding/eps.

    `closer` are the values of a rule of another kind.
    """
    dtype = jax.tree.leaves(values)[0].dtype
    safety = _SAFETY if closer is None else _CAUTION
    host = not traced(values)
    others, sizes, rounding = frozen(_of_alternatives(study, order, dtype, rules, host=host))
    sizes, rounding = (jax.tree.map(lambda y: y[0], tree) for tree in (sizes, rounding))
    if closer is not None:
        join = lambda some, one: xp.concatenate([some, frozen(one)[None]])
        others = jax.tree.map(join, others, closer)
    return _errors(values, sizes, rounding, others, safety)


def _closed_sizes(activation: Componentwise, q_a: Array, q_b: Array, m: PairMoments) -> PairErrors:
    """What rounding errors of closed forms are relative to."""
    one, other = single_closed(activation, q_a), single_closed(activation, q_b)
    return PairErrors(
        xp.sqrt(one.square * other.square),
        m.distance,
        xp.sqrt(one.derivative_square * other.derivative_square),
    )


def _errors(
    values: _Tree,
    sizes: _Tree,
    rounding: _Tree,
    others: _Tree | None,
    safety: float = _SAFETY,
) -> _Tree:
    """Absolute errors: the largest difference between rules relative to `sizes`, and rounding.

    `others` has a leading axis over rules, or is None where there is only rounding.
    """
    eps = epsilon(jax.tree.leaves(values)[0])
    worst = np.zeros((), jax.tree.leaves(values)[0].dtype)
    if others is not None:
        explained = _ROUNDING * eps * (_SAFETY / safety) ** 2
        worst = safety * _disagreement(values, others, sizes, rounding, explained)
    # Where the rules do not agree on one digit, nothing is known.
    worst = xp.where(worst < 1, worst, xp.inf)

    def error(value, size, rounding):
        total = xp.where(size > 0, worst * size, 0) + _ROUNDING * eps * rounding
        return xp.where(xp.isnan(value), xp.nan, total)

    return jax.tree.map(error, values, sizes, rounding)


def _disagreement(
    values: _Tree, others: _Tree, sizes: _Tree, rounding: _Tree, explained: float
) -> Array:
    """The largest difference between rules relative to `sizes`, beyond what rounding explains.

    Moments of several points are judged point by point, the entries of a plain array together.
    """
    axis = 0 if isinstance(values, eqx.Module) else None
    worst = xp.zeros((), jax.tree.leaves(values)[0].dtype)
    leaves = map(jax.tree.leaves, (values, others, sizes, rounding))
    for value, second, size, noise in zip(*leaves, strict=True):
        # What rounding explains in one moment says nothing about the others.
        difference = xp.abs(value[None] - second) - (explained * noise)[None]
        relative = difference / xp.where(size > 0, size, 1)[None]
        # One rule has met what the others have not.
        relative = xp.where(xp.isnan(second) & xp.isfinite(value)[None], xp.inf, relative)
        worst = xp.maximum(worst, xp.max(xp.where(relative > 0, relative, 0), axis=axis))
    return worst
