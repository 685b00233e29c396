"""Deep classifiers: a described interior between two ordinary dense layers."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from sigprop.experiments._model import HeldNetwork, draw_parameters, without_zero_biases
from theory import Chain, Part, Repeat, WeightLaw
from theory.description import along_depth, components, interpret
from theory.numerics import as_real, shown


class Classifier(eqx.Module):
    """Linear(pixels → features), the interior, Linear(features → classes).

    The first and the last map have biases and no symmetry. They are initialised uniformly in
    ±1/√fan_in, as in PyTorch and Equinox.
    """

    interior: Part = eqx.field(converter=without_zero_biases)
    pixels: int = eqx.field(static=True)
    features: int = eqx.field(static=True)
    """Number of real numbers in a hidden layer, width · k."""
    classes: int = eqx.field(static=True)
    precision: str = eqx.field(static=True, default="highest")

    def __check_init__(self):
        if self.features % self.components:
            raise ValueError(
                f"`features`: must be a multiple of the {self.components} components of a "
                f"unit; got {self.features}"
            )

    @property
    def components(self) -> int:
        """Number of real components of a unit."""
        return components(self.interior)

    @property
    def width(self) -> int:
        """Number of units of a hidden layer."""
        return self.features // self.components

    def draw(
        self, key: Key[Array, ""], gain: float | Float[Array, ""] = 1.0, dtype: Any = jnp.float32
    ) -> dict[str, Any]:
        """The parameters at initialisation, with interior weight variances multiplied by gain²."""
        keys = [jax.random.fold_in(key, i) for i in range(3)]
        is_law = lambda node: isinstance(node, WeightLaw)
        louder = lambda node: (
            eqx.tree_at(lambda law: law.variance, node, node.variance.astype(dtype) * gain**2)
            if is_law(node)
            else node
        )
        interior = draw_parameters(
            jax.tree.map(louder, self.interior, is_leaf=is_law),
            keys[1],
            fan_in=self.width,
            width=self.width,
            components=self.components,
            dtype=dtype,
        )
        return {
            "read_in": draw_linear(keys[0], self.pixels, self.features, dtype),
            "interior": interior,
            "read_out": draw_linear(keys[2], self.features, self.classes, dtype),
        }

    def hidden(
        self,
        parameters: dict[str, Any],
        x: Float[Array, "n pixels"],
        probes: Float[Array, "layers n width k"] | None = None,
        keep: bool = False,
    ) -> tuple[Float[Array, "n width k"], Float[Array, "states n width k"] | None]:
        """The last hidden state, and if `keep` the signals before and after every layer."""
        weights, bias = parameters["read_in"]
        first = jnp.matmul(weights, x.T, precision=self.precision) + bias[:, None]
        state = first.reshape(self.width, self.components, len(x))
        probes = None if probes is None else jnp.moveaxis(probes, 1, -1)
        reading = HeldNetwork(parameters["interior"], probes, keep, self.precision)
        last, notes = interpret(self.interior, reading, state)
        kept = along_depth(notes)
        return jnp.moveaxis(last, -1, 0), None if kept is None else jnp.moveaxis(kept, -1, 1)

    def layers(self, parameters: dict[str, Any]) -> tuple[Repeat, Any]:
        """The part of the interior that repeats, and its parameters."""
        assert isinstance(self.interior, Chain)
        for part, own in zip(self.interior.parts, parameters["interior"], strict=True):
            if isinstance(part, Repeat):
                return part, own
        raise ValueError("`interior`: must repeat a layer; got none")

    def logits(
        self, parameters: dict[str, Any], x: Float[Array, "n pixels"]
    ) -> Float[Array, "n classes"]:
        """Scores of the classes."""
        return self.read_out(parameters, self.hidden(parameters, x)[0])

    def read_out(
        self, parameters: dict[str, Any], hidden: Float[Array, "n width k"]
    ) -> Float[Array, "n classes"]:
        """Scores from the last hidden state."""
        weights, bias = parameters["read_out"]
        flat = hidden.reshape(len(hidden), -1)
        return jnp.matmul(flat, weights.T, precision=self.precision) + bias[None]


def parameter_count(parameters: Any) -> int:
    """Count the real numbers in the parameters.

    Parameters
    ----------
    parameters
        Any tree of arrays.
    """
    for leaf in jax.tree.leaves(parameters):
        if not isinstance(leaf, jax.Array | np.ndarray):
            raise TypeError(f"`parameters`: must be a tree of arrays; got {shown(leaf)} in it")
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parameters))


def cross_entropy(
    logits: Float[Array, "n *answers classes"], labels: Int[Array, "n *answers"]
) -> Float[Array, " n"]:
    """−log of the probability of the label; the mean over answers if there are several.

    Parameters
    ----------
    logits
        Scores of the classes.
    labels
        The index of the right class.
    """
    logits = jnp.asarray(as_real("logits", logits))
    labels = jnp.asarray(as_real("labels", labels))
    if logits.ndim < 2 or 0 in logits.shape or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(
            f"`logits`: must be floating-point numbers of shape [inputs, ..., classes]; got "
            f"{shown(logits)}"
        )
    if labels.shape != logits.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"`labels`: must be whole numbers of shape {list(logits.shape[:-1])}; got "
            f"{shown(labels)}"
        )
    chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    each = jax.nn.logsumexp(logits, axis=-1) - chosen
    return jnp.mean(each.reshape(len(each), -1), axis=1)


def draw_linear(
    key: Key[Array, ""], fan_in: int, fan_out: int, dtype: Any
) -> tuple[Float[Array, "fan_out fan_in"], Float[Array, " fan_out"]]:
    """Weights and bias of an ordinary dense map, uniform in ±1/√fan_in."""
    bound = 1 / math.sqrt(fan_in)
    draw = lambda i, shape: jax.random.uniform(
        jax.random.fold_in(key, i), shape, dtype, -bound, bound
    )
    return draw(0, (fan_out, fan_in)), draw(1, (fan_out,))
