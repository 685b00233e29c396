"""Roots of a function of one variable that was looked at on a grid."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_STEPS = 30


def newton(
    look: Callable[[Array], tuple[Array, Array]],
    start: Array,
    lower: Array,
    upper: Array,
    accuracy: float,
) -> Float[Array, ""]:
    """Newton's method, with bisection where it leaves what is known of the bracket.

    Parameters
    ----------
    look
        The value of a function that changes sign between `lower` and `upper`, and its
        derivative.
    accuracy
        Stops after a step below this, whose square is then the error that is left, or when
        small steps no longer shrink: what remains is rounding.
    """

    def unfinished(carry):
        _, _, _, step, before, count = carry
        stalled = (step >= before / 2) & (before < 1e-4)
        return (step > accuracy) & ~stalled & (count < _STEPS)

    def advance(carry):
        y, low, high, step, _, count = carry
        value, slope = look(y)
        # The side of the root that y is on follows from the sign of value/slope.
        beyond = (value > 0) == (slope > 0)
        low, high = jnp.where(beyond, low, y), jnp.where(beyond, y, high)
        new = y - value / slope
        new = jnp.where((new >= low) & (new <= high), new, (low + high) / 2)
        return new, low, high, jnp.abs(new - y), step, count + 1

    far = jnp.full_like(start, jnp.inf)
    return jax.lax.while_loop(unfinished, advance, (start, lower, upper, far, far, 0))[0]


def polished_root(
    fn: Callable[[Array], Array],
    start: Array,
    lower: Array,
    upper: Array,
    present: Array,
    *,
    solve: Callable[[Array], Array] | None = None,
) -> Float[Array, ""]:
    """The root of `fn` near `start`, by Newton's method kept inside the bracket.

    Differentiable, to any order, in whatever `fn` closes over (`jax.lax.custom_root`).
    `solve` may replace the plain iteration from `start`. Where `present` is false the result
    is `start`, so that one absent root costs nothing under `vmap`. The caller judges the
    residual.
    """
    start, lower, upper = map(jax.lax.stop_gradient, (start, lower, upper))

    def guarded(y):
        return jnp.where(present, fn(y), y - start)

    def iterate(_, y):
        if solve is not None:
            return jnp.where(present, solve(y), y)
        look = lambda y: jax.jvp(guarded, (y,), (jnp.ones_like(y),))
        return newton(look, y, lower, upper, 1e-9)

    return jax.lax.custom_root(guarded, start, iterate, lambda g, y: y / g(jnp.ones_like(y)))


def bracketed_root(
    fn: Callable[[Array], Array],
    nodes: Float[Array, " nodes"],
    values: Float[Array, " nodes"],
    place: Int[Array, ""],
    present: Bool[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The root between nodes `place` and `place` + 1, and the width of that bracket."""
    a, b = nodes[place], nodes[place + 1]
    fa, fb = values[place], values[place + 1]
    start = jnp.clip(a - fa * (b - a) / jnp.where(fb == fa, 1.0, fb - fa), a, b)
    start = jnp.where(jnp.isfinite(start), start, a)
    return polished_root(fn, start, a, b, present), b - a
