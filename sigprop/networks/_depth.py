"""The number of layers of a network, and how many of them are measured."""

from typing import Any

import jax

from theory import Part, propagate
from theory.description import Survey, check_part, interpret


class _OuterDepth(Survey[int]):
    """The number of layers of the outermost `Repeat`."""

    def add(self, skip, branch):
        return skip, None

    def through_time(self, step, state, steps):
        return steps, None

    def loop(self, layer, state, layers, depth):
        return depth, None


def outer_depth(network: Part) -> int:
    """The number of layers in the outermost `Repeat` of a network, or of steps in its `Recurrent`.

    Raises
    ------
    ValueError
        If the network repeats nothing.
    """
    check_part("network", network)
    depth, _ = interpret(network, _OuterDepth(), 0)
    if depth == 0:
        raise ValueError("`network`: must contain a Repeat at its outermost level; got none")
    return depth


def measured_depth(network: Part, inputs: Any) -> int:
    """The number of measurements of the layers of a network, minus one.

    `inputs` may be only a shape, a `jax.ShapeDtypeStruct` [inputs, width_in, components].
    """
    log_gain = jax.eval_shape(lambda x: propagate(network, x).value.log_gain, inputs)
    return log_gain.shape[0] - 1
