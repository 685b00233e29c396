"""Units with a given symmetry."""

import re
from typing import Any

MOST_COMPONENTS = 64
"""Real components of a unit."""


def units_of(symmetry: str) -> dict[str, Any]:
    """The number of components of a unit, and the algebra of the weights, for a symmetry.

    Raises
    ------
    ValueError
        If it is none of O(1) to O(64), U(1) to U(32) and Sp(1) to Sp(16).
    """
    from theory.description import ALGEBRAS

    found = re.fullmatch(r"(O|U|Sp)\(([1-9][0-9]{0,3})\)", symmetry)
    if found is not None:
        algebra = next(a for a in ALGEBRAS.values() if a.group == found[1])
        components = algebra.size * int(found[2])
        if components <= MOST_COMPONENTS:
            return {"components": components, "algebra": algebra.name}
    raise ValueError(
        "`symmetry`: must be O(1) to O(64), U(1) to U(32) or Sp(1) to Sp(16); got "
        f"{symmetry if isinstance(symmetry, str) and symmetry.isprintable() else repr(symmetry)}"
    )
