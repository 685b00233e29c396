"""Roots of a function of one variable whose values on a grid are known."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from theory.numerics._arrays import Array, stop_gradient, traced, while_loop, xp

_STEPS = 30
_STEP = 1e-4
"""Step of the finite difference that replaces a derivative; its square is the relative error of a
Newton step."""


def newton(
    look: Callable[[Array], tuple[Array, Array, Any]],
    start: Array,
    lower: Array,
    upper: Array,
    accuracy: Array | float,
    present: Bool[Array, ""] | bool = True,
    rises: Bool[Array, ""] | None = None,
) -> tuple[Float[Array, ""], Any]:
    """Newton's method, with bisection whenever a step leaves the bracket.

    Parameters
    ----------
    look
        Returns the value of a function that changes sign between `lower` and `upper`, its
        derivative, and anything else to keep for that point.
    accuracy
        Stop after a step below this, which leaves an error of about its square, or when small
        steps no longer shrink and only rounding remains.
    present
        False to take no step and evaluate nothing.
    rises
        Whether the function is positive at `upper`; needed unless it is monotone in between.

    Returns
    -------
    The point after the last step, and what `look` kept for the point before it.
    """

    def unfinished(carry):
        _, _, _, step, before, count, _ = carry
        stalled = (step >= before / 2) & (before < 1e-4)
        return (step > accuracy) & ~stalled & (count < _STEPS)

    def advance(carry):
        y, low, high, step, _, count, _ = carry
        value, slope, kept = look(y)
        # The side of the root on which y lies.
        beyond = (value > 0) == ((slope > 0) if rises is None else rises)
        low, high = xp.where(beyond, low, y), xp.where(beyond, y, high)
        new = y - value / slope
        new = xp.where((new >= low) & (new <= high), new, (low + high) / 2)
        return new, low, high, xp.abs(new - y), step, count + 1, kept

    far = xp.full_like(start, xp.inf)
    nothing = None
    if traced(start):
        seen = jax.eval_shape(look, start)[2]
        nothing = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), seen)
    carry = (start, lower, upper, xp.where(present, far, 0), far, 0, nothing)
    end = while_loop(unfinished, advance, carry)
    return end[0], end[-1]


def implicit_root(
    fn: Callable[[Array, Any], Array], args: Any, solve: Callable[[Any], Array]
) -> Float[Array, ""]:
    """The root y of fn(y, args), as found by `solve(args)`.

    Differentiable to any order in the arrays of `args`, by the implicit function theorem. `fn`
    and `solve` must not close over arrays. The derivative is traced only when it is needed.
    """
    if not traced(args):
        return solve(args)
    return _implicit(args, fn=fn, solve=solve)


@eqx.filter_custom_jvp
def _implicit(args, *, fn, solve):
    return solve(args)


@_implicit.def_jvp
def _implicit_derivative(primals, tangents, *, fn, solve):
    (args,), (change,) = primals, tangents
    y = _implicit(args, fn=fn, solve=solve)
    _, slope = jax.jvp(lambda y: fn(y, args), (y,), (xp.ones_like(y),))
    _, moved = eqx.filter_jvp(lambda args: fn(y, args), (args,), (change,))
    return y, -moved / slope


def bracketed_root(
    fn: Callable[[Array, Any], Array],
    args: Any,
    start: Array,
    lower: Array,
    upper: Array,
    present: Bool[Array, ""],
    rises: Bool[Array, ""] | None = None,
) -> Float[Array, ""]:
    """The root of fn(·, args) between `lower` and `upper`, by Newton's method from `start`.

    `rises` is as in `newton`. Differentiable in `args`, as `implicit_root`. If `present` is false
    the result is `start`, so that an absent root costs nothing under `vmap`. The caller checks
    the residual.
    """
    if not traced(args, start, lower, upper):
        return _bracketed(fn, args, start, lower, upper, present, rises)

    def guarded(y, everything):
        args, (start, *_), present = everything
        return xp.where(present, fn(y, args), y - start)

    def solve(everything):
        def look(y):
            fn = lambda y: guarded(y, everything)
            return *jax.jvp(fn, (y,), (xp.ones_like(y),)), None

        _, (start, lower, upper, rises), present = everything
        return newton(look, start, lower, upper, 1e-9, present, rises)[0]

    bracket = (*map(stop_gradient, (start, lower, upper)), rises)
    return implicit_root(guarded, (args, bracket, present), solve)


def _bracketed(fn, args, start, lower, upper, present, rises) -> Float[Array, ""]:
    """`bracketed_root` for NumPy arrays."""
    if not present:
        return start
    at = lambda y: fn(y, args)
    places = (start, lower, upper)
    values = [at(y) for y in places]
    if not values[1] * values[2] < 0:
        # Rounding has moved a node past the root; the caller sees the residual.
        return places[int(np.argmin(np.abs(values)))]
    slope = lambda y: (at(y + _STEP) - at(y - _STEP)) / (2 * _STEP)
    look = lambda y: (at(y), slope(y), None)
    return newton(look, start, lower, upper, 1e-9, True, rises)[0]


def cubic(fa: Array, fb: Array, da: Array, db: Array) -> Callable[[Array], tuple[Array, Array]]:
    """Value and slope at t of the cubic with values fa, fb and slopes da, db at 0 and 1."""
    square, cube = 3 * (fb - fa) - 2 * da - db, 2 * (fa - fb) + da + db

    def at(t):
        return ((cube * t + square) * t + da) * t + fa, (3 * cube * t + 2 * square) * t + da

    return at


def root_between_nodes(
    fn: Callable[[Array, Any], Array],
    args: Any,
    nodes: Float[Array, " nodes"],
    values: Float[Array, " nodes"],
    slopes: Float[Array, " nodes"],
    place: Int[Array, ""],
    present: Bool[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The root between nodes `place` and `place` + 1, and the width of that bracket.

    The search starts at the root of the cubic through values and slopes at both nodes.
    """
    a, b = nodes[place], nodes[place + 1]
    fa, fb = values[place], values[place + 1]
    da, db = (slopes[place + i] * (b - a) for i in range(2))
    t = fa / xp.where(fb == fa, 1.0, fa - fb)
    curve = cubic(fa, fb, da, db)
    for _ in range(3):
        value, slope = curve(t)
        t = xp.clip(t - value / xp.where(slope == 0, 1.0, slope), 0.0, 1.0)
    start = a + xp.where(xp.isfinite(t), t, 0.0) * (b - a)
    # Not from the slope: past the root the function may turn back.
    return bracketed_root(fn, args, start, a, b, present, fb > fa), b - a


def nearest_extremum(
    nodes: Float[Array, " nodes"], values: Float[Array, " nodes"], slopes: Float[Array, " nodes"]
) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """The interval in which a function comes closest to zero and turns back, if there is one.

    A pair of roots between two nodes shows as an extremum that approaches zero from both ends.
    The second result says whether there is one.
    """
    f, d = values, slopes
    heading = (f[:-1] * d[:-1] < 0) & (f[1:] * d[1:] > 0) & (f[:-1] * f[1:] > 0)
    fall = xp.abs(d[:-1]) * xp.abs(d[1:]) / (xp.abs(d[:-1]) + xp.abs(d[1:]))
    nearest = xp.minimum(xp.abs(f[:-1]), xp.abs(f[1:]))
    left = nearest - (nodes[1:] - nodes[:-1]) * fall
    # The tangents must go an eighth of the way to zero: those of a constant are rounding error.
    heading = heading & (left < 7 / 8 * nearest)
    i = xp.argmin(xp.where(heading, left, xp.inf))
    return i, heading[i]
