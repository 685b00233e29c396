"""Cycles of the length map, which deep networks traverse again and again.

Notation: q length, y = log q, m = d log q'/d log q, χ slope.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Int

from theory.description import Part, check_layer
from theory.gaussian import frozen
from theory.numerics import (
    Array,
    Estimate,
    Status,
    as_estimate,
    check_order,
    check_positive,
    hasty_jit,
    implicit_root,
    needs_float64,
    newton,
    replace_where,
)
from theory.phases._attractor import follow
from theory.phases._length_grid import along_length, error_of_rate, length_grid, log_growth

_LONGEST = 16
_STEPS = 20000


class LengthCycle(eqx.Module):
    """The lengths that a deep network cycles through."""

    length: Estimate
    """In cyclic order, starting with the shortest; 16 places, ABSENT beyond the period."""
    period: Int[Array, ""]
    """1 for a fixed point; 0 if lengths do not repeat, and then all estimates are NOT_CONVERGED."""
    multiplier: Estimate
    """The factor on a small change of the length over the whole cycle."""
    growth: Estimate
    """Factor per layer of the squared distance of two nearby inputs: the geometric mean of χ."""


def _round(y: Array, body: Part, period: Array, order: int) -> tuple[Array, Array]:
    """y after `period` layers, and before each of them."""

    def step(y, j):
        return jnp.where(j < period, y + log_growth(y, body, order), y), y

    return jax.lax.scan(step, y, jnp.arange(_LONGEST))


def length_cycle(
    layer: Part, *, start: float = 1.0, tolerance: float = 1e-10, order: int = 64
) -> LengthCycle:
    """The cycle in which the length of a typical input ends.

    If the length map decreases steeply (λ < −1) its fixed point repels, and `predict` returns
    UNSETTLED: lengths then end in a cycle of 2, 4, … values, or never repeat. The geometric mean
    of χ over the cycle decides whether two inputs diverge.

    Parameters
    ----------
    layer
        One layer, such as `theory.layer`.
    start
        Length of the typical input.
    tolerance, order
        As in `predict`.

    Returns
    -------
    LengthCycle
        Cycles of up to 16 lengths that are reached within 20000 layers. Works under `jax.vmap`
        and `jax.grad`.

    Raises
    ------
    ValueError
        If `start` or `tolerance` is not above 0, or `order` below 8.

    References
    ----------
    May 1976, *Simple mathematical models with very complicated dynamics*, for such maps.
    """
    needs_float64("length_cycle")
    check_layer(layer)
    check_positive("start", start)
    check_positive("tolerance", tolerance)
    check_order(order)
    return _length_cycle(layer, start, tolerance, order)


@hasty_jit
def _length_cycle(body, start, tolerance, order) -> LengthCycle:
    seen = length_grid(body, order=order)
    y0 = jnp.log(jnp.asarray(start, seen.y.dtype))
    travel = follow(body, seen, y0, jnp.asarray(True), order, _STEPS)
    there = (travel.period > 0) & (travel.period <= _LONGEST) & ~travel.out
    period = jnp.where(there, travel.period, 1)
    index = jnp.arange(_LONGEST)
    _, passed = _round(travel.y, frozen(body), period, order)
    first = jnp.min(jnp.where(index < period, passed, jnp.inf))

    def miss(y, args):
        body, period, _ = args
        return _round(y, body, period, order)[0] - y

    def solve(args):
        look = lambda y: (*jax.jvp(lambda y: miss(y, args), (y,), (jnp.ones_like(y),)), None)
        first = args[2]
        return newton(look, first, first - 1e-3, first + 1e-3, 1e-9)[0]

    y = implicit_root(miss, (body, period, frozen(first)), solve)

    layers, whole, y_error = _around(body, y, period, order)
    q, inside = jnp.exp(layers.y), index < period

    spread = jax.vmap(lambda y, e: seen.spread(y, y - e, y + e))(layers.y, y_error)

    def relative(near, error):
        """The relative error of the product of `near` over the cycle."""
        return jnp.sum(jnp.where(inside, error / jnp.abs(near), 0.0))

    count = period.astype(q.dtype)
    growth = jnp.exp(jnp.sum(jnp.where(inside, jnp.log(layers.slope), 0.0)) / count)
    errors = (
        q * jnp.expm1(y_error),
        jnp.abs(whole) * relative(layers.rate, layers.rate_error + spread[0]),
        growth * relative(layers.slope, layers.slope_error + spread[1]) / count,
    )
    length, multiplier, mean = (
        as_estimate(value, frozen(error), tolerance)
        for value, error in zip((q, whole, growth), errors, strict=True)
    )
    length = replace_where(~inside, Status.ABSENT, length)
    found = LengthCycle(length, jnp.where(there, period, 0), multiplier, mean)
    return replace_where(~there, Status.NOT_CONVERGED, found)


class _Layers(eqx.Module):
    """Quantities at each layer of the cycle."""

    y: Array
    slope: Array
    slope_error: Array
    rate: Array
    rate_error: Array
    moved: Array
    """The factor on a change of the first y up to here."""
    gathered: Array
    """The error of y accumulated up to here."""


def _around(body: Part, y: Array, period: Array, order: int) -> tuple[_Layers, Array, Array]:
    """One round from y: the layers, the multiplier, and the error of every y."""

    def step(carry, j):
        y, moved, gathered = carry
        q = jnp.exp(y)
        value, error, along = along_length(body, q, order)
        rate, rate_error = along.length, error_of_rate(value, error, q)
        m = rate * q / value.length
        gathered_next = frozen(jnp.abs(m) * gathered + error.length / value.length)
        new = (jnp.log(value.length), moved * m, gathered_next)
        seen = _Layers(y, value.slope, error.slope, rate, rate_error, moved, gathered)
        return jax.tree.map(lambda a, b: jnp.where(j < period, a, b), new, carry), seen

    start = (y, jnp.ones_like(y), jnp.zeros_like(y))
    (end, whole, total), layers = jax.lax.scan(step, start, jnp.arange(_LONGEST))
    # A change of the first length returns multiplied by `whole`, plus what was added on the way.
    own = (total + jnp.abs(end - y) + 4 * jnp.finfo(y.dtype).eps) / jnp.abs(1 - whole)
    return layers, whole, frozen(jnp.abs(layers.moved) * own + layers.gathered)
