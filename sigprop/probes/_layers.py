"""The layers of an existing network, as functions of one input.

Flax is never imported: its modules are recognised by their classes. A decomposition into layers
counts only if it agrees with the whole function.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from theory.numerics import check_callable, shown


class Layer(NamedTuple):
    """One layer: its name, its function of one input, and whether it has parameters."""

    name: str
    call: Callable[[Array], Array]
    parametric: bool


class Anatomy(NamedTuple):
    """A network as a function of one input, and its components."""

    call: Callable[[Array], Array]
    layers: tuple[Layer, ...] | None
    """In order; their composition is `call`."""
    captured: tuple[tuple[str, Array], ...] | None
    """Outputs of submodules for the whole batch, if there are no functions between them."""
    note: str | None
    """Why there are no layers."""


class _Linen(eqx.Module):
    """A Flax linen module with its variables, on one input."""

    module: Any = eqx.field(static=True)
    variables: Any

    def __call__(self, x: Array) -> Array:
        return self.module.apply(self.variables, x[None])[0]


class _OnBatchOfOne(eqx.Module):
    function: Callable

    def __call__(self, x: Array) -> Array:
        return self.function(x[None])[0]


class _Elementwise(eqx.Module):
    """The activation of an equinox MLP, which may have parameters for every unit."""

    activation: Any

    def __call__(self, x: Array) -> Array:
        return eqx.filter_vmap(lambda f, value: f(value))(self.activation, x)


def dissect(fn: Any, x: Float[Array, "n *shape"], layers: Sequence[Any] | None) -> Anatomy:
    """Return the function and its layers.

    Raises
    ------
    TypeError
        If `fn` is neither a function nor a pair of a linen module and its variables.
    ValueError
        If `layers` are given and their composition is another function.
    """
    given: Any = fn
    module, variables = given if isinstance(fn, tuple) and len(fn) == 2 else (given, None)
    linen = isinstance(fn, tuple) and _made_by(module, "flax.linen")
    if not linen and not callable(fn):
        raise TypeError(
            "`fn`: must be a function, a module, or a pair of a linen module and its variables; "
            f"got {type(fn).__name__}"
        )
    if inspect.isfunction(fn) or isinstance(fn, type):
        check_callable("fn", fn)
    batched = linen or _made_by(fn, "flax.nnx")
    call: Any = _Linen(module, variables) if linen else _OnBatchOfOne(given) if batched else given
    _check_output(eqx.filter_eval_shape(call, x[0]))
    expected = jax.vmap(call)(x)

    if layers is not None:
        several = isinstance(layers, Sequence) or _made_by(layers, "flax.nnx")
        if isinstance(layers, str | bytes) or not several or not all(map(callable, layers)):
            raise TypeError(f"`layers`: must be a sequence of functions; got {shown(layers)}")
        if not layers:
            raise ValueError("`layers`: must contain at least one layer; got none")
        found = _named(layers, False)
        if not _composes(found, x, expected):
            raise ValueError("`layers`: must compose to `fn`; they do not")
        return Anatomy(call, found, None, None)
    found = _own_layers(module.bind(variables) if linen else fn, batched)
    if found is not None and _composes(found, x, expected):
        return Anatomy(call, found, None, None)
    if linen:
        captured = _captured(module, variables, x)
        if captured:
            return Anatomy(call, None, captured, "gradients: layers are not known as functions")
    if found is not None:
        return Anatomy(call, None, None, "`layers` of the module do not compose to the module")
    return Anatomy(call, None, None, "layers: none were found or given")


def _check_output(out: Any) -> None:
    """Raise a `TypeError` unless a function returns what has lengths and a Jacobian."""
    must = "`fn`: must return one array of floating-point numbers, not empty"
    if not isinstance(out, jax.ShapeDtypeStruct):
        raise TypeError(f"{must}; got {shown(out)}")
    if not jnp.issubdtype(out.dtype, jnp.floating) or out.size == 0:
        raise TypeError(f"{must}; got {out.dtype} of shape {list(out.shape)}")


def _made_by(thing: Any, package: str) -> bool:
    return any(f"{base.__module__}.".startswith(f"{package}.") for base in type(thing).__mro__)


def _own_layers(module: Any, batched: bool) -> tuple[Layer, ...] | None:
    """The contents of a `layers` attribute, with the activations of an `eqx.nn.MLP` in between."""
    if isinstance(module, eqx.nn.MLP):
        if module.scan:
            return None
        scalar = module.out_size == "scalar"
        last = module.final_activation if scalar else _Elementwise(module.final_activation)
        found: list[Layer] = []
        for i, linear in enumerate(module.layers):
            own = lambda leaf, i=i: leaf[i] if eqx.is_array(leaf) else leaf
            inner = _Elementwise(jax.tree.map(own, module.activation))
            after = inner if i < len(module.layers) - 1 else last
            found += [*_named([linear], False), Layer("activation", after, False)]
        return tuple(found)
    layers: Any = getattr(module, "layers", None)
    if not isinstance(layers, Sequence) and not _made_by(layers, "flax.nnx"):
        return None
    layers = list(layers)
    if not layers or not all(callable(layer) for layer in layers):
        return None
    return _named(layers, batched)


def _named(layers: Sequence[Any], batched: bool) -> tuple[Layer, ...]:
    found = []
    for layer in layers:
        name = getattr(layer, "name", None) or getattr(layer, "__name__", type(layer).__name__)
        call = layer
        if _made_by(layer, "flax.linen"):
            call = _Linen(*layer.unbind())
        elif batched or _made_by(layer, "flax"):
            call = _OnBatchOfOne(layer)
        found.append(Layer(str(name), call, _parametric(layer)))
    return tuple(found)


def _parametric(layer: Any) -> bool:
    if _made_by(layer, "flax.linen"):
        return bool(jax.tree.leaves(layer.variables))
    return any(isinstance(leaf, jax.Array | np.ndarray) for leaf in jax.tree.leaves(layer))


def _composes(layers: tuple[Layer, ...], x: Array, expected: Array) -> bool:
    out = x
    try:
        for layer in layers:
            out = jax.vmap(layer.call)(out)
    except Exception:  # a wrong guess at how a module calls its layers can fail in any way
        return False
    if out.shape != expected.shape:
        return False
    tolerance = float(jnp.finfo(expected.dtype).eps) ** 0.5
    scale = jnp.max(jnp.abs(jnp.nan_to_num(expected)))
    return bool(jnp.allclose(out, expected, rtol=0, atol=tolerance * scale, equal_nan=True))


def _captured(module: Any, variables: Any, x: Array) -> tuple[tuple[str, Array], ...]:
    """The outputs of all submodules of a linen module, in the order of the calls."""
    _, state = module.apply(variables, x, capture_intermediates=True, mutable=["intermediates"])
    found: list[tuple[str, Array]] = []

    def walk(tree: Any, path: str) -> None:
        for name, value in tree.items():
            if name != "__call__":
                walk(value, f"{path}/{name}" if path else name)
            elif path:
                found.extend((path, out) for out in value if eqx.is_inexact_array(out))

    walk(state["intermediates"], "")
    return tuple((name, out) for name, out in found if out.shape[:1] == x.shape[:1])
