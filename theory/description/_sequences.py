"""Sequences of inputs, and how many steps they have."""

import jax

from theory.description._nodes import Part, Recurrent


def check_sequences(inputs: int, steps: int) -> int:
    """How many whole sequences that many inputs are, or a `ValueError`."""
    if inputs % steps or not inputs:
        raise ValueError(
            f"`inputs`: must be sequences of {steps} steps, one after the other; got {inputs}"
        )
    return inputs // steps


def time_steps(part: Part) -> int:
    """The steps of the recurrent parts of a network; 1 where it has none.

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
        raise ValueError(f"`network`: recurrent parts must have one number of steps; got {found}")
    return found.pop() if found else 1
