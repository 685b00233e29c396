"""From a deep network to the layer that it repeats, and back."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer

from theory.description._builders import read_in, repeat
from theory.description._nodes import Affine, Chain, Part, Recurrent, Repeat, Residual, check_part


def repeats_layers(part: Part) -> bool:
    """Whether there is a `Repeat` or a `Recurrent` at the outermost level of a description."""
    parts = part.parts if isinstance(part, Chain) else (part,)
    return any(isinstance(member, Repeat | Recurrent) for member in parts)


def check_layer(layer: Part, name: str = "layer") -> None:
    """Raise an error unless a description can be one layer that is repeated without end.

    Raises
    ------
    ValueError
        If it is a whole network, as built by `feedforward`: its first affine map is meant for
        inputs, and would act on pre-activations.
    TypeError
        If it is not a description, or contains a `Recurrent`.
    """
    check_part(name, layer)
    is_recurrent = lambda node: isinstance(node, Recurrent)
    if any(map(is_recurrent, jax.tree.leaves(layer, is_leaf=is_recurrent))):
        raise TypeError(
            f"`{name}`: must be one layer without a Recurrent; for a recurrent network pass the "
            "`body` of its Recurrent (theory.phases.stationary_state)"
        )
    match layer:
        case Chain(parts=(Affine(), Repeat(), *_)):
            raise ValueError(
                f"`{name}`: must be one layer, such as theory.layer; got a whole network, whose "
                "first Affine is for its inputs (theory.hidden_layer returns its layer)"
            )
        case _:
            pass


def hidden_layer(network: Part) -> Part:
    """Return the layer that a deep network repeats, as `predict` and similar functions need it.

    A description of one layer is returned unchanged.

    Parameters
    ----------
    network
        A deep network, such as one from `feedforward`, or one layer.

    Raises
    ------
    ValueError
        If the network repeats several layers, or one whose variances change with depth.

    Examples
    --------
    >>> import theory
    >>> deep = theory.feedforward(theory.activation("relu"), 2.0, depth=30)
    >>> float(theory.predict(theory.hidden_layer(deep)).slope.value)
    1.0
    """
    check_part("network", network)
    if not repeats_layers(network):
        return network
    parts = network.parts if isinstance(network, Chain) else (network,)
    repeats = [part for part in parts if isinstance(part, Repeat)]
    if len(repeats) != 1:
        raise ValueError(f"`network`: must contain one Repeat, of one layer; got {len(repeats)}")
    (found,) = repeats
    for leaf in jax.tree.leaves(eqx.filter(found.body, eqx.is_array)):
        if isinstance(leaf, Tracer) or not np.all(np.asarray(leaf) == np.asarray(leaf[:1])):
            raise ValueError(
                "`network`: must repeat one layer; got numbers that change with depth or are traced"
            )
    return layer_at(found.body, 0)


def deep_network(layer: Part, depth: int) -> Chain:
    """Build a deep network from any layer, as `feedforward` does from its arguments.

    An `Affine` with the law of the last one in the layer comes first, then the layer `depth`
    times.

    Raises
    ------
    ValueError
        If the layer has no `Affine`, or the depth is below 1.
    """
    last = _last_affine(layer)
    if last is None:
        raise ValueError("`network`: must contain an Affine; got none")
    return Chain((read_in(last), repeat(layer, depth)))


def _last_affine(part: Part) -> Affine | None:
    """The last affine map of a layer; of a `Repeat` inside it, that of its last layer."""
    match part:
        case Affine():
            return part
        case Chain(parts=parts):
            found = (_last_affine(member) for member in reversed(parts))
            return next((affine for affine in found if affine is not None), None)
        case Residual(branch=body) | Recurrent(body=body):
            return _last_affine(body)
        case Repeat(body=body):
            return _last_affine(layer_at(body, -1))
        case _:
            return None


def before_weights(layer: Part) -> tuple[Part, ...]:
    """The parts of a layer before its first `Affine`: a normalisation, a nonlinearity.

    Examples
    --------
    >>> import theory
    >>> layer = theory.layer(theory.activation("tanh"), 1.5, residual=True)
    >>> [type(part).__name__ for part in theory.description.before_weights(layer)]
    ['Pointwise']
    """
    match layer:
        case Affine():
            return ()
        case Chain(parts=parts):
            place = next((i for i, part in enumerate(parts) if _acts(part)), len(parts))
            inside = before_weights(parts[place]) if place < len(parts) else ()
            return (*parts[:place], *inside)
        case Residual(branch=body) | Recurrent(body=body):
            return before_weights(body)
        case Repeat(body=body):
            return before_weights(layer_at(body, 0))
        case _:
            return (layer,)


def layer_at(body: Part, index: int) -> Part:
    """The body of a `Repeat`, with the variances of one layer."""
    arrays, structure = eqx.partition(body, eqx.is_array)
    return eqx.combine(jax.tree.map(lambda leaf: leaf[index], arrays), structure)


def with_variances(part: Part, weight_variance: Any = None, bias_variance: Any = None) -> Part:
    """Replace the variances of every `Affine`, where new ones are given."""

    def change(node: Any) -> Any:
        if not isinstance(node, Affine):
            return node
        law, bias = node.weights, bias_variance
        if weight_variance is not None:
            law = dataclasses.replace(law, variance=weight_variance)
        return Affine(law, node.bias_variance if bias is None else bias, node.width)

    return jax.tree.map(change, part, is_leaf=lambda node: isinstance(node, Affine))


def _acts(part: Part) -> bool:
    return any(isinstance(node, Affine) for node in _nodes(part))


def _nodes(part: Part) -> list[Any]:
    return jax.tree.leaves(part, is_leaf=lambda node: isinstance(node, Affine))
