"""How the entries of a random weight matrix are distributed, up to their variance."""

from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from theory.numerics import shown


@dataclass(frozen=True)
class GaussianWeights:
    """Independent Gaussian entries."""

    name: ClassVar[str] = "Gaussian"
    word: ClassVar[str] = "gaussian"
    """What `weight_family` reads."""
    independent: ClassVar[bool] = True
    """Whether entries are independent: then those of a column fluctuate, and at infinite width
    W Wᵀ has the spectrum of Marchenko and Pastur."""


@dataclass(frozen=True)
class OrthogonalWeights:
    """A Haar-distributed matrix with W Wᵀ = σ_w², over the algebra; of rectangular layers a part
    of one."""

    name: ClassVar[str] = "orthogonal"
    word: ClassVar[str] = "orthogonal"
    independent: ClassVar[bool] = False


WeightFamily: TypeAlias = GaussianWeights | OrthogonalWeights
Weights: TypeAlias = WeightFamily | str
"""A family, or the word for one."""


def weight_family(weights: Any) -> WeightFamily:
    """The family that is meant by "gaussian" or "orthogonal", or is given.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    if isinstance(weights, WeightFamily):
        return weights
    if isinstance(weights, str) and weights == "gaussian":
        return GaussianWeights()
    if isinstance(weights, str) and weights == "orthogonal":
        return OrthogonalWeights()
    raise ValueError(f"`weights`: must be gaussian or orthogonal; got {shown(weights)}")
