"""Where an activation itself jumps, and how far."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from theory.numerics import Array, inside_another, known_of, while_loop, with_slope, xp

_ROUNDINGS = 1e3
"""A change across a kink of fewer roundings of its terms than this is no jump."""


def steps_at(fn: Callable, k: Float[Array, " jumps"]) -> tuple[Array, Array]:
    """fn(k + 0) − fn(k − 0), zero if that is rounding error, and the mean of the two."""
    info = np.finfo(k.dtype)
    beside = xp.maximum(2 * float(info.eps) * xp.abs(k), float(info.tiny) ** 0.5)
    (low, steep), (high, steeper) = with_slope(fn, k - beside), with_slope(fn, k + beside)
    noise = float(info.eps) * (xp.abs(low) + xp.abs(high))
    noise = noise + beside * (xp.abs(steep) + xp.abs(steeper))
    step = high - low
    return xp.where(xp.abs(step) > _ROUNDINGS * noise, step, 0.0), (low + high) / 2


def may_jump(fn: Callable, kinks: tuple[float, ...]) -> tuple[float, ...]:
    """Those ± kinks where `fn` jumps; all of them while a parameter of it is traced."""
    places = sorted({sign * abs(kink) for kink in kinks for sign in (1.0, -1.0)})
    if not places:
        return ()
    at = xp.asarray(places, jnp.result_type(float))
    if not inside_another(fn):
        steps, _ = steps_at(fn, at)
    else:  # which `fn` may depend on
        with jax.ensure_compile_time_eval():
            steps, _ = steps_at(fn, jnp.asarray(at))
    if isinstance(steps, Tracer):
        return tuple(places)
    return tuple(k for k, step in zip(places, np.asarray(steps), strict=True) if step != 0)


_GRID = np.concatenate([[0.0], np.geomspace(1e-9, 1e9, 18 * 8 + 1)])
"""Away from 0, neighbouring nodes differ by less than a third; every interval is searched."""


def found_jumps(fn: Callable, dtype: Any) -> tuple[Array, Array]:
    """Where fn jumps and how far, one entry per interval of a grid from −1e9 to 1e9; else 0.

    Intervals are halved until their ends are neighbouring numbers, always towards the half in
    which fn deviates most from the integral of its derivative: at a kink the deviation vanishes,
    at a jump it stays.
    """
    return known_of(_found_jumps, fn, dtype)


def _found_jumps(fn: Callable, dtype: Any, arrays: Any) -> tuple[Array, Array]:
    ends = np.concatenate([-_GRID[:0:-1], _GRID])
    low, width = arrays.asarray(ends[:-1], dtype), np.asarray(np.diff(ends), dtype)
    eps = float(np.finfo(dtype).eps)

    def look(low, width, parts):
        """For each interval, the change of fn minus the trapezoid of its derivative, and rounding.

        Rounding is the size of the rounding errors of that difference.
        """
        share = np.arange(parts + 1, dtype=dtype)[:, None] / parts
        # Slightly wider, since sums of halves are rounded and a jump may lie at an end.
        more = 8 * eps * (share - 0.5) * xp.abs(low)[None]
        z = low[None] + share * width[None] + more
        value, slope = with_slope(fn, z)
        gap = xp.abs(xp.diff(value, axis=0) - (slope[:-1] + slope[1:]) / 2 * xp.diff(z, axis=0))
        noise = eps * (xp.abs(value) + xp.abs(z * slope))
        return xp.where(xp.isfinite(gap), gap, 0.0), noise[:-1] + noise[1:]

    def halve(state):
        # Keep the place only: a compiler may choose differently between equal halves each time.
        i, low = state
        half = width * 0.5 ** (i + 1).astype(dtype)
        (first, second), _ = look(low, 2 * half, 2)
        return i + 1, xp.where(first > second, low, low + half)

    steps = _halvings(dtype)
    _, low = while_loop(lambda state: state[0] < steps, halve, (arrays.asarray(0), low))
    width = 4 * width * 0.5**steps
    width = xp.maximum(width, 8 * eps * xp.abs(low))
    gap, noise = look(low - width, 2 * width, 1)
    return low, xp.where(gap[0] > _ROUNDINGS * noise[0], gap[0], 0.0)


def _halvings(dtype: Any) -> int:
    """Number of halvings; the ends of intervals at 0, 1e-9 wide, are not neighbours then."""
    return np.finfo(dtype).nmant + 8


def is_new(k: Array, step: Array, declared: tuple[float, ...], square: Array) -> Array:
    """Which of the jumps found at k are undeclared, and more than rounding error.

    Rounding is that of a function with mean square `square`.
    """
    eps = float(np.finfo(k.dtype).eps)
    new = step > _ROUNDINGS * eps * xp.sqrt(square)
    beside_zero = 8 * float(_GRID[1]) * 0.5 ** _halvings(k.dtype)
    for place in declared:
        new = new & (xp.abs(k - place) > 4 * eps * abs(place) + beside_zero)
    return new


def check_no_jump(phi: Any) -> None:
    """Raise if φ is known to jump: its derivative then says nothing about nearby inputs."""
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
