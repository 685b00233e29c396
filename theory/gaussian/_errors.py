"""Quadrature errors: a rule is compared with others that share no node with it."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from theory.gaussian._moment_integrals import epsilon, frozen
from theory.gaussian._quadrature import Resolution
from theory.numerics import Array, traced, xp

_Tree = TypeVar("_Tree")

_SAFETY = 5.0
"""Errors are this many times the largest difference between rules."""
CAUTION = 10.0
"""The same for functions about which nothing is known."""
ROUNDING = 16.0
"""Errors are at least this many times eps, relative to the size of the terms."""
RULES = ((2.6, 8.5, 0.0), (3.5, 9.5, 0.8))
"""Stretch, cut and bend of the rules that a result is compared with. They share no node with it or
with each other, so that an undeclared kink shows. The shorter cut misses more of the tails."""


MORE_RULES = (*RULES, (2.9, 9.2, 0.4), (3.2, 8.8, 1.2))
"""Those for functions about which nothing is known."""


def of_alternatives(
    study: Callable[[Resolution], _Tree],
    order: int,
    dtype: Any,
    rules: Any = RULES,
    *,
    host: bool = False,
) -> _Tree:
    """Call `study` with each of the rules. They differ in numbers only and compile once."""
    columns = [np.asarray(column, dtype) for column in zip(*rules, strict=True)]

    def other(stretch, cut, bend):
        return study(Resolution(7 * order // 8, stretch, cut, bend=bend))

    if host:
        results = [other(*rule) for rule in zip(*columns, strict=True)]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *results)
    return jax.vmap(other)(*map(jnp.asarray, columns))


def closer_look(order: int, zoom: int = 12) -> Resolution:
    """A rule with more nodes near the ends of panels."""
    return Resolution(7 * order // 8, zoom=zoom)


def judged(
    study: Callable[[Resolution], Any],
    values: _Tree,
    order: int,
    closer: _Tree | None = None,
    rules: Any = RULES,
) -> _Tree:
    """Estimate errors of `values` by comparison.

    `study` returns other values, sizes, and rounding/eps. `closer` are the values of a rule of
    another kind.
    """
    dtype = jax.tree.leaves(values)[0].dtype
    safety = _SAFETY if closer is None else CAUTION
    host = not traced(values)
    others, sizes, rounding = frozen(of_alternatives(study, order, dtype, rules, host=host))
    sizes, rounding = (jax.tree.map(lambda y: y[0], tree) for tree in (sizes, rounding))
    if closer is not None:
        join = lambda some, one: xp.concatenate([some, frozen(one)[None]])
        others = jax.tree.map(join, others, closer)
    return errors_of(values, sizes, rounding, others, safety)


def errors_of(
    values: _Tree,
    sizes: _Tree,
    rounding: _Tree,
    others: _Tree | None,
    safety: float = _SAFETY,
) -> _Tree:
    """Absolute errors: the largest difference between rules relative to `sizes`, and rounding.

    `others` has a leading axis over rules, or is None if rounding is the only error.
    """
    eps = epsilon(jax.tree.leaves(values)[0])
    worst = np.zeros((), jax.tree.leaves(values)[0].dtype)
    if others is not None:
        explained = ROUNDING * eps * (_SAFETY / safety) ** 2
        worst = safety * disagreement(values, others, sizes, rounding, explained)
    # If the rules agree on no digit, nothing is known.
    worst = xp.where(worst < 1, worst, xp.inf)

    def error(value, size, rounding):
        total = xp.where(size > 0, worst * size, 0) + ROUNDING * eps * rounding
        return xp.where(xp.isnan(value), xp.nan, total)

    return jax.tree.map(error, values, sizes, rounding)


def disagreement(
    values: _Tree, others: _Tree, sizes: _Tree, rounding: _Tree, explained: float
) -> Array:
    """The largest difference between rules relative to `sizes`, beyond what rounding explains.

    Moments of several points are compared point by point, the entries of a plain array together.
    """
    axis = 0 if isinstance(values, eqx.Module) else None
    worst = xp.zeros((), jax.tree.leaves(values)[0].dtype)
    leaves = map(jax.tree.leaves, (values, others, sizes, rounding))
    for value, second, size, noise in zip(*leaves, strict=True):
        # Rounding in one moment says nothing about the others.
        difference = xp.abs(value[None] - second) - (explained * noise)[None]
        relative = difference / xp.where(size > 0, size, 1)[None]
        # One rule has met a singularity that the others have missed.
        relative = xp.where(xp.isnan(second) & xp.isfinite(value)[None], xp.inf, relative)
        worst = xp.maximum(worst, xp.max(xp.where(relative > 0, relative, 0), axis=axis))
    return worst
