"""Gaussian expectations of a user's function of one or two variables, with errors."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from theory.description import on_numpy
from theory.gaussian._errors import MORE_RULES, closer_look, judged
from theory.gaussian._growth import diverges, gaussian_rate
from theory.gaussian._moment_integrals import (
    BEYOND,
    as_floats,
    epsilon,
    features,
    floored,
    frozen,
    grading,
    least,
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


def gaussian_expectation(
    fn: Callable[[Float[Array, " nodes"]], Float[Array, "*outputs nodes"]],
    variance: Any,
    *,
    kinks: Sequence[float] = (),
    scale: float = 1.0,
    order: int = 64,
) -> Estimate:
    """Compute E f(√q z), z ~ N(0, 1), for one or several functions f.

    Parameters
    ----------
    fn
        Elementwise: maps an array [nodes] to [..., nodes]. The result then has the shape of the
        leading axes.
    variance
        q ≥ 0, a scalar; map over several with `jax.vmap`.
    kinks
        Where f or a derivative of it jumps, including jumps of f itself, and the centres of
        smooth steps away from 0.
    scale
        Width of the features of f: 0.1 for tanh(10 z).
    order
        Nodes per panel, from 8 to 1024.

    Returns
    -------
    Estimate
        Status OK if the error is within 1e-10 of E|f| in float64 (eps^0.64 in general),
        INACCURATE if it is not, INFINITE if f overflows, INVALID if the variance is negative or
        f is NaN.

    Raises
    ------
    TypeError
        If `fn` is not a function of one array.
    ValueError
        If `fn` returns another shape, or an argument is out of range.

    Accuracy
    --------
    As for `single_moments`. Undeclared kinks and jumps show in the error, also those close to
    declared ones. Features much narrower than `scale` may not show.
    """
    check_callable("fn", fn)
    kinks = _checked_features(kinks, scale, order)
    variance = as_number("variance", variance, "at least 0 (map over several with jax.vmap)")
    run = functools.partial(_expectation, fn, kinks, scale, order)
    return run(variance) if inside_another(variance) else on_numpy(run, variance)


def _checked_features(kinks: Any, scale: Any, order: Any) -> tuple:
    """Check the declared features and return the kinks as a tuple."""
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
    """Compute E f(u, v) for a centred Gaussian pair (u, v).

    Parameters
    ----------
    fn
        Elementwise: maps two arrays of one shape [nodes] to [..., nodes].
    variance_a, variance_b
        E u², E v² ≥ 0.
    correlation
        E uv/√(E u² E v²), from −1 to 1. The derivative with respect to it is NaN at ±1.
    kinks
        Where f is not smooth in u or in v, and the centres of smooth steps away from 0.
    scale
        Width of the features of f.
    order
        Nodes per panel, in each direction; from 8 to 1024.

    Returns
    -------
    Estimate
        As for `gaussian_expectation`; also INVALID if |correlation| > 1.

    Raises
    ------
    TypeError, ValueError
        As `gaussian_expectation`.

    Accuracy
    --------
    Kinks along lines other than u = k and v = k, such as that of |u − v|, are not resolved. The
    error shows them, also if they are close to such a line. Use `pair_moments` if 1 − correlation
    matters more than the correlation.
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
    """Evaluate a user's function, which is written for JAX, on arrays of either kind."""
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
        """The values at these distances from 0 in all directions; distances on the last axis."""
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
    """Discard the value if the growth of f far out makes the expectation infinite."""
    changed = infinite & ((found.status == Status.OK) | (found.status == Status.INACCURATE))
    error = xp.where(changed, xp.inf, found.error)
    status = xp.where(changed, np.int8(Status.INACCURATE), found.status)
    return Estimate(found.value, error, status)


def _weighted(values: Array, weight: Array, magnitude: bool) -> Float[Array, "parts *outputs"]:
    """The parts of the sum, one for each mirror image of the nodes that the weights belong to.

    The error of a rule in one part may cancel in the sum, and do so in every other rule as well.
    """
    values = values.reshape(*values.shape[:-1], -1, weight.size)
    values = xp.abs(values) if magnitude else values
    return xp.moveaxis(xp.sum(values * weight.reshape((1,) * (values.ndim - 1) + (-1,)), -1), -1, 0)


_FAR = np.append([8.0, 8.5], BEYOND)
"""Standard deviations around the cut at 9 and beyond, as long as the density is not 0."""
_DIRECTIONS = 64


def _left_out(values: Array, whole: Array) -> Array:
    """Bound E |f| beyond the cut, from the values of f at `_FAR` in some directions.

    `whole` is E |f|. If most of it lies beyond the cut, nothing is known near the cut either.
    """
    size = xp.abs(values).reshape(*values.shape[:-1], _FAR.size, -1)
    # Overflow and NaN this far out say nothing.
    size = xp.where(xp.isfinite(size), size, 0)
    most = xp.maximum(size[..., :-1, :], size[..., 1:, :])
    mass = xp.asarray(np.exp(-(_FAR[:-1] ** 2) / 2), size.dtype)
    each = xp.einsum("...rd,r->...r", most, mass, precision="highest") / size.shape[-1]
    every, beyond = (xp.sum(each[..., _FAR[:-1] >= cut], axis=-1) for cut in (8, 9))
    return xp.where(every > 1e-3 * whole, every, beyond)


def _estimate(
    evaluate: Callable, far: Callable, parameters: Any, order: int, valid: Array, zoom: int
) -> Estimate:
    """The expectation, with an error from other rules and from one that zooms in on panel ends.

    Where all other rules leave the same piece out at an end, their differences do not show it.
    """
    parts = evaluate(Resolution(order), parameters)
    value, at = xp.sum(parts, axis=0), frozen(parameters)

    def off(how, at):
        return xp.sum(xp.abs(evaluate(how, at) - stop_gradient(parts)), axis=0)

    def study(how):
        size = xp.sum(evaluate(how, at, bounds=True), axis=0)
        return off(how, at), size, size

    # The effect of rounding the lengths shows there, too.
    nudge = lambda i, y: y * (1 + (2 - 4 * i) * epsilon(y)) if i < 2 else y
    leaves, structure = jax.tree.flatten(at)
    moved = jax.tree.unflatten(structure, [nudge(i, y) for i, y in enumerate(leaves)])
    none, closer = xp.zeros_like(stop_gradient(value)), off(closer_look(order, zoom), moved)
    error = judged(study, none, order, closer, MORE_RULES)
    size = stop_gradient(xp.sum(evaluate(Resolution(order), at, bounds=True), axis=0))
    error = error + stop_gradient(_left_out(far(at), size))
    good = error <= epsilon(value) ** 0.64 * size
    status = xp.where(good, np.int8(Status.OK), np.int8(Status.INACCURATE))
    found = replace_where(xp.isinf(value), Status.INFINITE, Estimate(value, error, status))
    return replace_where(~valid | xp.isnan(value), Status.INVALID, found)
