"""Sequences of inputs and their number of steps."""

import jax

from theory.description._nodes import Part, Recurrent


def check_sequences(inputs: int, steps: int) -> int:
    """Return the number of whole sequences among the inputs, or raise a `ValueError`."""
    if inputs % steps or not inputs:
        raise ValueError(
            f"`inputs`: must be sequences of {steps} steps, one after the other; got {inputs}"
        )
    return inputs // steps


def time_steps(part: Part) -> int:
    """The number of steps of the recurrent parts of a network; 1 if there are none.

    Raises
    ------
    ValueError
        If recurrent parts disagree.
    """
    found: set[int] = set()

    def note(node):
        if isinstance(node, Recurrent):
            found.add(node.steps)
        return False

    jax.tree.flatten(part, is_leaf=note)
    if len(found) > 1:
        raise ValueError(
            f"`network`: all Recurrent parts must have the same number of steps; got {found}"
        )
    return found.pop() if found else 1
