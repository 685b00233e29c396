"""The base class of readings that follow a finite network."""

import dataclasses
from typing import Any

from sigprop.networks._finite_network import Carried, FiniteNetwork
from theory import Affine, Noise, Normalise, Pointwise
from theory.description import Reading


class Along(Reading[Carried]):
    """Follow the signals through `network`, with additional actions on the way.

    The state is `Signals`, or a subclass with more fields; the network changes values and tangents
    and leaves the other fields alone. A subclass defines what happens after every leaf and sum
    (`behind`), what to note (`note`), and what happens at the boundary of every layer outside
    branches (`at_boundary`), instead of what the network itself does there. Array leaves besides
    the network have a leading axis over the layers of a `Repeat`.
    """

    network: FiniteNetwork

    def behind(self, state: Carried) -> Carried:
        """The state after a leaf or a sum."""
        return state

    def note(self, state: Carried) -> Any:
        """The note made after an `Affine` or a sum, outside branches."""
        return None

    def at_boundary(self, state: Carried) -> Carried:
        """The state at the end of one layer, outside branches."""
        return state

    def affine(self, node: Affine, state: Carried) -> tuple[Carried, Any]:
        return self._noted(*self.network.affine(node, state))

    def pointwise(self, node: Pointwise, state: Carried) -> tuple[Carried, Any]:
        return self.behind(self.network.pointwise(node, state)[0]), None

    def normalise(self, node: Normalise, state: Carried) -> tuple[Carried, Any]:
        return self.behind(self.network.normalise(node, state)[0]), None

    def noise(self, node: Noise, state: Carried) -> tuple[Carried, Any]:
        return self.behind(self.network.noise(node, state)[0]), None

    def add(self, skip: Carried, branch: Carried) -> tuple[Carried, Any]:
        return self._noted(*self.network.add(skip, branch))

    def _noted(self, state: Carried, made: Any) -> tuple[Carried, Any]:
        state = self.behind(state)
        if self.network.shared is not None:  # what the network knows about its weights
            return state, made
        return state, None if self.network.in_branch else self.note(state)

    def over(self, network: FiniteNetwork) -> Any:
        """The same reading along another network."""
        return dataclasses.replace(self, network=network)

    def child(self, index: int) -> Any:
        return self.over(self.network.child(index))

    def inside_branch(self) -> Any:
        return self.over(self.network.inside_branch())

    def layers(self, depth: int) -> Any:
        return self.over(self.network.layers(depth))

    def boundary(self, state: Carried) -> Carried:
        return state if self.network.in_branch else self.at_boundary(state)
