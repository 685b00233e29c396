"""Where an activation itself jumps, and by how much."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

_ROUNDINGS = 1e3
"""A change across a kink below this many roundings of its terms is none."""


def steps_at(fn: Callable, k: Float[Array, " jumps"]) -> tuple[Array, Array]:
    """fn(k + 0) − fn(k − 0), zero where that is rounding, and the mean of the two."""
    info = jnp.finfo(k.dtype)
    beside = jnp.maximum(2 * float(info.eps) * jnp.abs(k), float(info.tiny) ** 0.5)
    along = lambda z: jax.jvp(fn, (z,), (jnp.ones_like(z),))
    (low, steep), (high, steeper) = along(k - beside), along(k + beside)
    noise = float(info.eps) * (jnp.abs(low) + jnp.abs(high))
    noise = noise + beside * (jnp.abs(steep) + jnp.abs(steeper))
    step = high - low
    return jnp.where(jnp.abs(step) > _ROUNDINGS * noise, step, 0.0), (low + high) / 2


def may_jump(fn: Callable, kinks: tuple[float, ...]) -> tuple[float, ...]:
    """The places ± kinks where `fn` jumps; all of them while a parameter of it is traced."""
    places = sorted({sign * abs(kink) for kink in kinks for sign in (1.0, -1.0)})
    if not places:
        return ()
    with jax.ensure_compile_time_eval():
        steps, _ = steps_at(fn, jnp.asarray(places, jnp.result_type(float)))
    if isinstance(steps, Tracer):
        return tuple(places)
    return tuple(k for k, step in zip(places, np.asarray(steps), strict=True) if step != 0)


_GRID = np.concatenate([[0.0], np.geomspace(1e-9, 1e9, 18 * 8 + 1)])
"""Beyond 0 its nodes are within a third of each other: a jump is looked for between any two."""


def found_jumps(fn: Callable, dtype: Any) -> tuple[Array, Array]:
    """Where fn jumps and by how much, one place for each interval of a grid from −1e9 to 1e9;
    0 where it does not.

    Intervals are halved until their ends are neighbours, towards the half in which fn differs
    most from what its derivative says: of a kink nothing is left of that, of a jump all.
    """
    ends = np.concatenate([-_GRID[:0:-1], _GRID])
    low, width = jnp.asarray(ends[:-1], dtype), jnp.asarray(np.diff(ends), dtype)

    def look(low, width, parts):
        """Between each of the nodes and the next: the change of fn beyond that of a trapezoid of
        its derivative, and the size of rounding."""
        share = jnp.arange(parts + 1, dtype=dtype)[:, None] / parts
        # A little wider, since sums of halves are rounded, and a jump may be at an end.
        more = 8 * float(jnp.finfo(dtype).eps) * (share - 0.5) * jnp.abs(low)[None]
        z = low[None] + share * width[None] + more
        value, slope = jax.jvp(fn, (z,), (jnp.ones_like(z),))
        gap = jnp.abs(jnp.diff(value, axis=0) - (slope[:-1] + slope[1:]) / 2 * jnp.diff(z, axis=0))
        noise = float(jnp.finfo(dtype).eps) * (jnp.abs(value) + jnp.abs(z * slope))
        return jnp.where(jnp.isfinite(gap), gap, 0.0), noise[:-1] + noise[1:]

    def halve(i, low):
        # Only the place is kept: a compiler may decide twice between halves that are alike.
        half = width * 0.5 ** (i + 1).astype(dtype)
        (first, second), _ = look(low, 2 * half, 2)
        return jnp.where(first > second, low, low + half)

    # The interval at 0 has to come down from 1e-9 to nothing.
    steps = jnp.finfo(dtype).nmant + 8
    low, width = jax.lax.fori_loop(0, steps, halve, low), 4 * width * 0.5**steps
    width = jnp.maximum(width, 8 * float(jnp.finfo(dtype).eps) * jnp.abs(low))
    gap, noise = look(low - width, 2 * width, 1)
    return low, jnp.where(gap[0] > _ROUNDINGS * noise[0], gap[0], 0.0)


def is_new(k: Array, step: Array, declared: tuple[float, ...], square: Array) -> Array:
    """Which of the jumps found at k are not declared, and more than rounding of a function with
    that mean square."""
    eps = float(jnp.finfo(k.dtype).eps)
    new = step > _ROUNDINGS * eps * jnp.sqrt(square)
    for place in declared:
        new = new & (jnp.abs(k - place) > 4 * eps * abs(place) + _ROUNDINGS * eps**2)
    return new


def check_no_jump(phi: Any) -> None:
    """Raise where φ is known to jump: its derivative then says nothing of nearby inputs."""
    if not phi.jumps:
        return
    with jax.ensure_compile_time_eval():
        steps, _ = phi.steps(jnp.result_type(float))
    if not isinstance(steps, Tracer) and np.any(np.asarray(steps) != 0):
        place = phi.jumps[int(np.argmax(np.asarray(steps) != 0))]
        raise ValueError(
            f"`activation`: {phi.name} jumps at {place:g}, where its derivative is infinite; a "
            "Jacobian needs a function without jumps"
        )
