"""Which activations are linear or piecewise linear, as their JAX programs prove."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from theory.description._activations import Activation, Radial
from theory.numerics import Array, traced, widest, xp

_PASSED = {"neg", "convert_element_type", "copy", "squeeze", "reshape", "broadcast_in_dim"}
_ADDED = {"add", "sub", "add_any"}
_COMPARED = {"gt", "ge", "lt", "le", "eq", "ne", "sign", "and", "or", "not", "xor"}
_CHOSEN = {"max", "min", "abs", "select_n", "clamp"}
_CONSTANT, _STEPS, _STRAIGHT, _OTHER = range(4)
"""Degrees of a function of z: constant, piecewise constant, piecewise linear, or none of these."""
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_INSIDE = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call"}


def is_linear(activation: Activation) -> bool:
    """Whether φ(z) = a z, as its program proves from its operations, without evaluating it."""
    fn: Any = activation.profile if isinstance(activation, Radial) else activation.fn
    leaves, structure = jax.tree.flatten(fn)
    shapes = tuple(jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)) for x in leaves)
    return _is_linear(structure, shapes, widest(fn))


@functools.lru_cache(maxsize=256)
def _is_linear(structure: Any, shapes: tuple[jax.ShapeDtypeStruct, ...], dtype: Any) -> bool:
    whole = lambda leaves, z: jax.tree.unflatten(structure, leaves)(z)
    jaxpr = jax.make_jaxpr(whole)(shapes, jax.ShapeDtypeStruct((), dtype)).jaxpr
    return _outputs(jaxpr, [False] * len(shapes) + [True]) == [True]


def is_piecewise_linear(activation: Activation) -> bool:
    """Whether φ is piecewise linear, as its program proves: only sums, choices, comparisons.

    It does not say where the pieces end.
    """
    fn: Any = activation.profile if isinstance(activation, Radial) else activation.fn
    jaxpr = jax.make_jaxpr(fn)(jax.ShapeDtypeStruct((), widest(fn))).jaxpr
    return max(_degrees(jaxpr, [_STRAIGHT])) < _OTHER


def gain(activation: Activation, dtype: Any) -> Array:
    """The factor a of a linear φ(z) = a z."""
    fn: Callable = activation.profile if isinstance(activation, Radial) else activation.fn
    whole = jax.tree.map(jnp.asarray, fn)
    found = jnp.asarray(whole(jnp.ones((), dtype)), dtype)
    return found if isinstance(found, Tracer) or traced(fn) else xp.asarray(np.asarray(found))[()]


def _outputs(jaxpr: Any, inputs: Sequence[bool | None]) -> list[bool | None]:
    """For each output, whether it is linear; False if it is constant, None if neither."""
    known: dict[Any, bool | None] = dict(zip(jaxpr.invars, inputs, strict=True))
    of = lambda var: False if hasattr(var, "val") else known.get(var, False)
    for equation in jaxpr.eqns:
        name, seen = equation.primitive.name, [of(var) for var in equation.invars]
        out: list[bool | None] = [None] * len(equation.outvars)
        if not any(kind is not False for kind in seen):
            out = [False] * len(equation.outvars)
        elif name in _INSIDE:
            inner: Any = next(equation.params[key] for key in _BODIES if key in equation.params)
            out = _outputs(getattr(inner, "jaxpr", inner), seen)
        elif name in _PASSED or (name in _ADDED and seen == [True, True]):
            out = [seen[0]]
        elif (name == "mul" and None not in seen and seen != [True, True]) or (
            name == "div" and seen == [True, False]
        ):
            out = [True]
        known.update(zip(equation.outvars, out, strict=True))
    return [of(var) for var in jaxpr.outvars]


def _degrees(jaxpr: Any, inputs: Sequence[int]) -> list[int]:
    """The degree of each output."""
    known: dict[Any, int] = dict(zip(jaxpr.invars, inputs, strict=True))
    of = lambda var: _CONSTANT if hasattr(var, "val") else known.get(var, _CONSTANT)
    for equation in jaxpr.eqns:
        name, seen = equation.primitive.name, [of(var) for var in equation.invars]
        most = max(seen, default=_CONSTANT)
        out = [_OTHER] * len(equation.outvars)
        if name in _INSIDE:
            inner: Any = next(equation.params[key] for key in _BODIES if key in equation.params)
            out = _degrees(getattr(inner, "jaxpr", inner), seen)
        elif most < _STRAIGHT:
            out = [most] * len(equation.outvars)
        elif name in _COMPARED and most == _STRAIGHT:
            out = [_STEPS]
        elif (
            name in _PASSED | _ADDED | _CHOSEN
            or (name == "mul" and min(seen) < _STRAIGHT)
            or (name == "div" and seen[1] < _STRAIGHT)
        ):
            out = [most]
        known.update(zip(equation.outvars, out, strict=True))
    return [of(var) for var in jaxpr.outvars]
