"""A description with stored weights: parameters to train."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Key

from sigprop.networks import check_key, check_precision, draw_weights
from theory import Affine, Normalise, Part, Pointwise, Recurrent, WeightLaw
from theory.description import Reading, Survey, check_part, check_sequences, interpret
from theory.numerics import as_array, check_count, shown


class Parameters(eqx.Module):
    """The weights and biases that an `Affine` has drawn."""

    weights: Float[Array, "*layers fan_out fan_in tables"]
    """The real numbers w_a of w = Σ_a w_a e_a (see `theory.WeightLaw`)."""
    bias: Float[Array, "*layers fan_out k"] | None
    """None if the description has no bias, which would break a symmetry."""


class _Drawing(Survey[Array]):
    """Note the parameters of every `Affine`; the state is zeros for one unit."""

    key: Key[Array, "*layers"]
    width: int = eqx.field(static=True)

    def affine(self, node: Affine, state: Array):
        fan_in, k = state.shape
        fan_out = self.width if node.width is None else node.width
        weights_key, bias_key = (jax.random.fold_in(self.key, i) for i in range(2))
        weights = draw_weights(node.weights, weights_key, fan_out, fan_in, state.dtype)
        bias = None
        if node.bias_variance is not None:
            deviation = jnp.sqrt(node.bias_variance).astype(state.dtype)
            bias = deviation * jax.random.normal(bias_key, (fan_out, k), state.dtype)
        return jnp.zeros((fan_out, k), state.dtype), Parameters(weights, bias)

    def child(self, index: int) -> "_Drawing":
        return _Drawing(jax.random.fold_in(self.key, index), self.width)

    def inside_branch(self) -> "_Drawing":
        return self.child(0)

    def layers(self, depth: int) -> "_Drawing":
        keys = jax.vmap(lambda layer: jax.random.fold_in(self.key, layer))(jnp.arange(depth))
        return _Drawing(keys, self.width)


def without_zero_biases(network: Part) -> Part:
    """Replace every bias variance that is known to be zero by None.

    Parameters
    ----------
    network
        The description.
    """
    check_part("network", network)

    def bare(node):
        if not isinstance(node, Affine):
            return node
        variance: Any = node.bias_variance
        if variance is None or isinstance(variance, Tracer) or np.any(np.asarray(variance)):
            return node
        return eqx.tree_at(lambda a: a.bias_variance, node, None)

    return jax.tree.map(bare, network, is_leaf=lambda node: isinstance(node, Affine))


class HeldNetwork(Reading[Float[Array, "width k n"]]):
    """A network with given parameters; the state is the signals of n inputs.

    Inputs are the last axis, so that every layer is one matrix product without transposed copies.
    Every layer of a `Repeat` stores only the state before it: its activations are recomputed on
    the backward pass, which is faster than loading them from memory.
    """

    parameters: Any
    """From `draw_parameters`."""
    probes: Float[Array, "*layers width k n"] | None = None
    """Added to the signals after every layer of the outermost `Repeat`: zeros, whose gradient is
    the backward signal there."""
    keep: bool = eqx.field(static=True, default=False)
    """Note the signals before the outermost `Repeat` and after every layer of it."""
    precision: str = eqx.field(static=True, default="highest")
    inside: bool = eqx.field(static=True, default=False)
    """Whether this is a part of a layer, or of a branch."""

    def _at(self, parameters: Any, probes: Any, inside: bool) -> "HeldNetwork":
        return HeldNetwork(parameters, probes, self.keep, self.precision, inside)

    def affine(self, node: Affine, state: Array):
        out = apply_weights(node.weights, self.parameters.weights, state, self.precision)
        if self.parameters.bias is not None:
            out = out + self.parameters.bias[..., None]
        return out, None

    def pointwise(self, node: Pointwise, state: Array):
        return node.activation(state, axis=-2), None

    def normalise(self, node: Normalise, state: Array):
        return node(state, (0, 1)), None

    def noise(self, node: Any, state: Array):
        raise TypeError("`network`: networks that train must have no noise; got a Noise")

    def add(self, skip: Array, branch: Array):
        return skip + branch, None

    def through_time(self, step, state: Array, steps: int):
        n = check_sequences(state.shape[-1], steps)
        drives = jnp.moveaxis(state.reshape(*state.shape[:-1], n, steps), -1, 0)

        def advance(previous, drive):
            after, _ = step(self, previous, drive)
            return after, after

        _, later = jax.lax.scan(advance, drives[0], drives[1:])
        states = jnp.moveaxis(jnp.concatenate([drives[:1], later]), 0, -1).reshape(state.shape)
        return states, None

    def child(self, index: int) -> "HeldNetwork":
        return self._at(self.parameters[index], None if self.inside else self.probes, self.inside)

    def inside_branch(self) -> "HeldNetwork":
        return self._at(self.parameters[0], None, True)

    def layers(self, depth: int) -> "HeldNetwork":
        return self._at(self.parameters.notes, None if self.inside else self.probes, True)

    def boundary(self, state: Array) -> Array:
        return state if self.probes is None else state + self.probes

    def loop(self, layer, state, layers, depth):
        keep = jax.checkpoint_policies.dots_saveable
        layer = jax.checkpoint(layer, prevent_cse=False, policy=keep)
        if self.inside or not self.keep:
            return super().loop(layer, state, layers, depth)

        def keeping(before, leaves):
            after, _ = layer(before, leaves)
            return after, after

        last, states = super().loop(keeping, state, layers, depth)
        return last, jnp.concatenate([state[None], states])


def check_trains(network: Part, width: int, components: int) -> None:
    """Raise a one-line error unless a description maps layers of this size to the same size.

    Its weights must also be trainable.
    """
    is_recurrent = lambda node: isinstance(node, Recurrent)
    if any(map(is_recurrent, jax.tree.leaves(network, is_leaf=is_recurrent))):
        raise ValueError("`network`: must not be recurrent in a deep network; got a Recurrent")
    start = jax.ShapeDtypeStruct((2, width, components), jnp.float32)

    def outputs(x):
        how = {"fan_in": width, "width": width, "components": components, "dtype": x.dtype}
        return apply_parameters(network, draw_parameters(network, jax.random.key(0), **how), x)

    found = jax.eval_shape(outputs, start)
    if found != start:
        sizes = [list(shape[1:]) for shape in (start.shape, found.shape)]
        raise ValueError(
            f"`network`: must end with units and components {sizes[0]}; got {sizes[1]}"
        )


def apply_weights(
    law: WeightLaw,
    weights: Float[Array, "fan_out fan_in tables"],
    x: Float[Array, "fan_in k n"],
    precision: str = "highest",
) -> Float[Array, "fan_out k_out n"]:
    """W x for every input, by one real matrix product.

    Real weights act on whole vectors. Others become one matrix of fan_out·k_out rows, with at most
    as many multiplications as the lifted product of the sampler.
    """
    fan_in, k, n = x.shape
    if len(law.table) == 1:
        out = jnp.matmul(weights[..., 0], x.reshape(fan_in, k * n), precision=precision)
        return out.reshape(-1, k, n)
    table = jnp.asarray(law.table, x.dtype)
    blocks = jnp.einsum("oia,apq->opiq", weights, table, precision="highest")
    out_k = table.shape[1]
    matrix = blocks.reshape(len(weights) * out_k, fan_in * k)
    out = jnp.matmul(matrix, x.reshape(fan_in * k, n), precision=precision)
    return out.reshape(len(weights), out_k, n)


def draw_parameters(
    network: Part,
    key: Key[Array, ""],
    *,
    fan_in: int,
    width: int,
    components: int,
    dtype: Any = jnp.float32,
) -> Any:
    """Draw the parameters of a network and keep them.

    Parameters
    ----------
    network
        The description. Parts whose bias variance is zero have no bias.
    key
        The same key and width give the weights of `sigprop.networks.DrawnNetwork`.
    fan_in, width, components
        Units of the input and of a layer, and real components of a unit.
    dtype
        Floating-point type of the parameters.

    Returns
    -------
    A tree of `Parameters` that mirrors the description.

    Raises
    ------
    ValueError
        If a number of units is not a whole number of at least 1.
    """
    check_part("network", network)
    check_key("key", key)
    check_count("fan_in", fan_in)
    check_count("width", width)
    check_count("components", components)
    try:
        floating = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        floating = False
    if not floating:
        raise TypeError(f"`dtype`: must be a floating-point type; got {shown(dtype)}")
    reading = _Drawing(jax.random.fold_in(key, 0), width)
    start = jnp.zeros((fan_in, components), dtype)
    _, notes = interpret(without_zero_biases(network), reading, start)
    return notes


def apply_parameters(
    network: Part,
    parameters: Any,
    x: Float[Array, "n fan_in k"],
    *,
    precision: str = "highest",
) -> Float[Array, "n width k"]:
    """Apply a network with these parameters to n inputs.

    Parameters
    ----------
    network
        The description.
    parameters
        From `draw_parameters`, or trained.
    x
        Shape [inputs, fan_in, components].
    precision
        Precision of the matrix products.
    """
    check_part("network", network)
    check_precision(precision)
    x = as_array("x", x, "[inputs, fan_in, components]")
    if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((network, parameters))):
        size = {"fan_in": x.shape[1], "width": x.shape[1], "components": x.shape[2]}
        draw = lambda key: draw_parameters(network, key, **size)
        drawn = jax.eval_shape(draw, jax.random.key(0))
        if jax.tree.structure(parameters) != jax.tree.structure(drawn):
            raise TypeError(
                "`parameters`: must be those that draw_parameters makes for this network; got "
                f"{shown(parameters)}"
            )
    state = jnp.moveaxis(x, 0, -1)
    reading = HeldNetwork(parameters, precision=precision)
    return jnp.moveaxis(interpret(network, reading, state)[0], -1, 0)
