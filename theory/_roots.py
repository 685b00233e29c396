"""Roots of a function of one variable that was looked at on a grid."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_STEPS = 30


def polished_root(
    fn: Callable[[Array], Array], start: Array, lower: Array, upper: Array, present: Array
) -> Float[Array, ""]:
    """The root of `fn` near `start`, by Newton's method kept inside the bracket.

    Differentiable, to any order, in whatever `fn` closes over (`jax.lax.custom_root`). Where
    `present` is false the result is `start`, so that one absent root costs nothing under
    `vmap`. The caller judges the residual.
    """
    start, lower, upper = map(jax.lax.stop_gradient, (start, lower, upper))
    tolerance = 8 * jnp.finfo(start.dtype).eps

    def guarded(y):
        return jnp.where(present, fn(y), y - start)

    def newton(f, y):
        def unfinished(carry):
            y, step, count = carry
            return (jnp.abs(step) > tolerance * (1 + jnp.abs(y))) & (count < _STEPS)

        def advance(carry):
            y, _, count = carry
            value, slope = jax.jvp(f, (y,), (jnp.ones_like(y),))
            new = jnp.clip(y - value / slope, lower, upper)
            return new, new - y, count + 1

        return jax.lax.while_loop(unfinished, advance, (y, jnp.ones_like(y), 0))[0]

    return jax.lax.custom_root(guarded, start, newton, lambda g, y: y / g(jnp.ones_like(y)))


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
