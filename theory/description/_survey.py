"""The base class of readings that ask about the structure of a network."""

from collections.abc import Callable
from typing import Any

from theory.description._interpret import Reading, State
from theory.description._nodes import Affine, Noise, Normalise, Pointwise


class Survey(Reading[State]):
    """A question about structure: nodes that a subclass does not override leave the state alone.

    A sum returns the state of the branch, which started as that of the skip connection. A
    `Recurrent` takes one step.

    If skipping a node would give a wrong answer, as for what a nonlinearity does to a signal,
    derive from `Reading`, which has no such defaults.

    Examples
    --------
    Count the weight matrices that a signal passes:

    >>> class Matrices(theory.description.Survey):
    ...     def affine(self, node, state):
    ...         return state + 1, None
    >>> network = theory.feedforward(theory.activation("tanh"), 1.5, depth=30)
    >>> matrices, _ = theory.description.interpret(network, Matrices(), jnp.asarray(0))
    >>> int(matrices)
    31
    """

    def affine(self, node: Affine, state: State) -> tuple[State, Any]:
        return state, None

    def pointwise(self, node: Pointwise, state: State) -> tuple[State, Any]:
        return state, None

    def normalise(self, node: Normalise, state: State) -> tuple[State, Any]:
        return state, None

    def noise(self, node: Noise, state: State) -> tuple[State, Any]:
        return state, None

    def add(self, skip: State, branch: State) -> tuple[State, Any]:
        return branch, None

    def through_time(self, step: Callable, state: State, steps: int) -> tuple[State, Any]:
        return step(self, state, state)
