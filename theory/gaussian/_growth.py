"""Growth of a function far out, which decides whether its expectations exist."""

from collections.abc import Callable
from typing import Any

import numpy as np

from theory.numerics import Array, known_of, with_slope, xp

_PLACES = 2.0 ** np.arange(-8, 40.5, 0.5)
"""The search stops at the last of these."""
_LEAST = 20.0
"""Least log |f| at the last place where f is finite; values that overflow are far above."""
_SLOWER, _FASTER = 3.0, 4.6
"""log |f| at 2u divided by log |f| at u: 4 for exp(u²)."""


def gaussian_rate(values: Callable[[Any], Array], dtype: Any) -> Array:
    """The rate a in log |f(u)| ~ a u² for large |u|: 0 if f grows more slowly, ∞ if faster.

    `values` returns f at an array of places, along the last axis. Powers of two are tried until
    f overflows. A function that does not overflow is taken to be bounded by a power of u.
    """
    u = np.asarray(_PLACES, dtype)
    sides = [values(sign * u) for sign in (1, -1)]
    rate: Any = 0.0
    for side in sides:
        size = xp.abs(side)
        log = xp.log(xp.where(xp.isfinite(size) & (size > 0), size, 1.0))
        last = xp.isfinite(size[..., :-1]) & ~xp.isfinite(size[..., 1:])
        now, before = log[..., 2:-1], log[..., :-3]
        known = last[..., 2:] & (now > _LEAST)
        ratio = now / xp.where(known & (before > 0), before, 1.0)
        slow, fast = ratio < _SLOWER, ratio > _FASTER
        squares = u[2:-1].reshape((1,) * (now.ndim - 1) + (-1,)) ** 2
        found = xp.where(fast, xp.inf, xp.where(slow, 0.0, now / squares))
        rate = xp.maximum(rate, xp.max(xp.where(known, found, 0.0), axis=-1))
    return rate


def grows_too_fast(fn: Callable, q: Array) -> Array:
    """Whether E f(u)², u ~ N(0, q), is infinite because of the growth of f."""
    return diverges(2 * known_of(_rate, fn, q.dtype), q)


def _rate(fn: Callable, dtype: Any, arrays: Any) -> Array:
    return gaussian_rate(lambda u: with_slope(fn, arrays.asarray(u))[0], dtype)


def diverges(rate: Array, q: Array) -> Array:
    """Whether exp(rate u²) has no expectation; rates are known to a few digits."""
    return (rate > 0) & (rate * 2 * q > 1 - 1e-3)
