"""Roots of a function of one variable that was looked at on a grid."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from theory.numerics._arrays import Array, stop_gradient, traced, while_loop, xp

_STEPS = 30
_STEP = 1e-4
"""Between the points of a difference that stands for a derivative; it makes a step of Newton's
method shorter or longer by its square."""


def newton(
    look: Callable[[Array], tuple[Array, Array, Any]],
    start: Array,
    lower: Array,
    upper: Array,
    accuracy: Array | float,
    present: Bool[Array, ""] | bool = True,
    rises: Bool[Array, ""] | None = None,
) -> tuple[Float[Array, ""], Any]:
    """Newton's method, with bisection where it leaves what is known of the bracket.

    Parameters
    ----------
    look
        The value of a function that changes sign between `lower` and `upper`, its
        derivative, and what else is to be kept of the point.
    accuracy
        Stops after a step below this, whose square is then the error that is left, or when
        small steps no longer shrink: what remains is rounding.
    present
        False takes no step at all, and looks at nothing.
    rises
        Whether the function is positive at `upper`; needed unless it is monotone in between.

    Returns
    -------
    The point after the last step, and what `look` kept of the one before.
    """

    def unfinished(carry):
        _, _, _, step, before, count, _ = carry
        stalled = (step >= before / 2) & (before < 1e-4)
        return (step > accuracy) & ~stalled & (count < _STEPS)

    def advance(carry):
        y, low, high, step, _, count, _ = carry
        value, slope, kept = look(y)
        # The side of the root that y is on.
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
    """The root y of fn(y, args) that `solve(args)` finds.

    Differentiable to any order in the arrays of `args`, by the implicit function theorem;
    `fn` and `solve` must not close over arrays. Nothing of the
    derivative is traced before it is asked for.
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

    `rises` is as for `newton`. Differentiable in `args`, as `implicit_root`. Where `present` is
    false the result is `start`, so that one absent root costs nothing under `vmap`. The caller
    judges the residual.
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
    """The same for arrays of NumPy."""
    if not present:
        return start
    at = lambda y: fn(y, args)
    places = (start, lower, upper)
    values = [at(y) for y in places]
    if not values[1] * values[2] < 0:
        # Rounding moved a node past the root; the caller sees the residual.
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

    The start is the root of the cubic through values and slopes at both nodes.
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
    # Not by the slope: behind the root the function may turn back.
    return bracketed_root(fn, args, start, a, b, present, fb > fa), b - a


def nearest_extremum(
    nodes: Float[Array, " nodes"], values: Float[Array, " nodes"], slopes: Float[Array, " nodes"]
) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """The interval in which a function comes closest to zero and turns back, and whether there
    is one: a pair of roots between two nodes shows as an extremum that heads for zero from both
    ends.
    """
    f, d = values, slopes
    heading = (f[:-1] * d[:-1] < 0) & (f[1:] * d[1:] > 0) & (f[:-1] * f[1:] > 0)
    fall = xp.abs(d[:-1]) * xp.abs(d[1:]) / (xp.abs(d[:-1]) + xp.abs(d[1:]))
    nearest = xp.minimum(xp.abs(f[:-1]), xp.abs(f[1:]))
    left = nearest - (nodes[1:] - nodes[:-1]) * fall
    # Unless the tangents go no eighth of the way to zero: those of a constant are rounding.
    heading = heading & (left < 7 / 8 * nearest)
    i = xp.argmin(xp.where(heading, left, xp.inf))
    return i, heading[i]
