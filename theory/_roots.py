"""Roots of a function of one variable that was looked at on a grid."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Float, Int


def polished_root(
    fn: Callable, start: Array, lower: Array, upper: Array, present: Array, args: Any
) -> Float[Array, ""]:
    """The root of fn(y, args) near `start`, by Newton's method kept inside the bracket.

    Differentiable in `args` by the implicit function theorem. Where `present` is false the
    function is not used and the result is `start`, so that one absent root costs nothing
    under `vmap`. The caller judges the residual.
    """
    start, lower, upper = map(jax.lax.stop_gradient, (start, lower, upper))

    def guarded(y, args):
        args, present, start = args
        return jnp.where(present, fn(y, args), y - start)

    return optx.root_find(
        guarded,
        optx.Newton(rtol=1e-13, atol=1e-13),
        start,
        (args, present, start),
        options={"lower": lower, "upper": upper},
        max_steps=24,
        throw=False,
    ).value


def bracketed_root(
    fn: Callable,
    nodes: Float[Array, " nodes"],
    values: Float[Array, " nodes"],
    place: Int[Array, ""],
    present: Bool[Array, ""],
    args: Any,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The root between nodes `place` and `place` + 1, and the width of that bracket."""
    a, b = nodes[place], nodes[place + 1]
    fa, fb = values[place], values[place + 1]
    start = jnp.clip(a - fa * (b - a) / jnp.where(fb == fa, 1.0, fb - fa), a, b)
    start = jnp.where(jnp.isfinite(start), start, a)
    return polished_root(fn, start, a, b, present, args), b - a
