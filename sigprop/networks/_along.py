"""The base of readings that follow a finite network."""

import dataclasses
from typing import Any

from sigprop.networks._finite_network import Carried, FiniteNetwork
from theory import Affine, Noise, Normalise, Pointwise
from theory.description import Reading


class Along(Reading[Carried]):
    """What `network` does to its signals, with something done on the way.

    The state is `Signals`, or a subclass that carries more; the network moves values and tangents
    and leaves the rest alone. A subclass says what happens `behind` every leaf and sum, what is a
    `note` of them, and what happens at the boundary of every layer outside of branches
    (`at_boundary`), in place of what the network itself does there. Array leaves beside the
    network have a leading axis over the layers of a `Repeat`.
    """

    network: FiniteNetwork

    def behind(self, state: Carried) -> Carried:
        """The state behind a leaf or a sum."""
        return state

    def note(self, state: Carried) -> Any:
        """What is noted behind an `Affine` or a sum, outside of branches."""
        return None

    def at_boundary(self, state: Carried) -> Carried:
        """The state at the end of one layer, outside of branches."""
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
        if self.network.shared is not None:  # the network's memory of its weights
            return state, made
        return state, None if self.network.in_branch else self.note(state)

    def over(self, network: FiniteNetwork) -> Any:
        """The same along another network."""
        return dataclasses.replace(self, network=network)

    def child(self, index: int) -> Any:
        return self.over(self.network.child(index))

    def inside_branch(self) -> Any:
        return self.over(self.network.inside_branch())

    def layers(self, depth: int) -> Any:
        return self.over(self.network.layers(depth))

    def boundary(self, state: Carried) -> Carried:
        return state if self.network.in_branch else self.at_boundary(state)
