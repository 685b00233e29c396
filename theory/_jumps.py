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
