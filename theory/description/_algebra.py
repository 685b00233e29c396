"""The algebras over which weights are defined."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

AlgebraName: TypeAlias = Literal["real", "complex", "quaternion", "dense"]


@dataclass(frozen=True, eq=False)
class Algebra:
    """Real numbers, complex ones, quaternions, or all k×k matrices ("dense")."""

    name: AlgebraName
    basis: np.ndarray | None
    """Its D units as real matrices that multiply from the left, [D, D, D]; None if they depend on
    the number of components of a unit."""
    group: str | None
    """The letter of the group of rotations that commute with it; None if there is none."""
    order: int
    """Position in the chain of inclusions: the table of each algebra contains those of lower order,
    so what commutes with the last commutes with all."""

    @property
    def size(self) -> int:
        """The number of real components of a unit must be a multiple of this."""
        return 1 if self.basis is None else len(self.basis)

    def table(self, components: int) -> np.ndarray:
        """A basis of the weights between units of k real components, [D, k, k]."""
        k = components
        if self.basis is None:
            return np.eye(k * k).reshape(k * k, k, k)
        return np.stack([np.kron(np.eye(k // self.size), e) for e in self.basis])


_COMPLEX = np.array([[[1, 0], [0, 1]], [[0, -1], [1, 0]]])
# left multiplication by 1, i, j, k on a + bi + cj + dk
_QUATERNION = np.array(
    [
        [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
        [[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, -1], [0, 0, 1, 0]],
        [[0, 0, -1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, -1, 0, 0]],
        [[0, 0, 0, -1], [0, 0, -1, 0], [0, 1, 0, 0], [1, 0, 0, 0]],
    ]
)

ALGEBRAS: dict[AlgebraName, Algebra] = {
    algebra.name: algebra
    for algebra in (
        Algebra("real", np.ones((1, 1, 1)), "O", 0),
        Algebra("complex", _COMPLEX, "U", 1),
        Algebra("quaternion", _QUATERNION, "Sp", 2),
        Algebra("dense", None, None, 3),
    )
}
"""The algebras, by name."""
