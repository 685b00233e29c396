"""The law of the entries of a random weight matrix, up to their variance."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from theory.numerics import shown


@dataclass(frozen=True)
class GaussianWeights:
    """Independent Gaussian entries."""

    name: ClassVar[str] = "Gaussian"
    word: ClassVar[str] = "gaussian"
    """The word that `weight_family` reads."""
    independent: ClassVar[bool] = True
    """Whether entries are independent. The norms of columns then fluctuate, and at infinite width
    W Wᵀ has the Marchenko–Pastur spectrum."""
    rotation_invariant: ClassVar[bool] = True
    """Whether W O has the law of W for every orthogonal O (over the algebra). The law of W x then
    depends only on the length of x, and is Gaussian for many rows; and the action of W on a few
    vectors can be drawn without W."""
    excess_kurtosis: ClassVar[float] = 0.0
    """E w⁴/(E w²)² − 3 of an entry, at infinite width."""


@dataclass(frozen=True)
class OrthogonalWeights:
    """A Haar-distributed matrix with W Wᵀ = σ_w², over the algebra.

    If the layer is not square, W is a part of a square one.
    """

    name: ClassVar[str] = "orthogonal"
    word: ClassVar[str] = "orthogonal"
    independent: ClassVar[bool] = False
    rotation_invariant: ClassVar[bool] = True
    excess_kurtosis: ClassVar[float] = 0.0


@dataclass(frozen=True)
class SparseWeights:
    """Independent entries: Gaussian with probability p, and 0 otherwise.

    Convention: nonzero entries have variance σ_w²/(p N), so that every entry has variance σ_w²/N,
    as for other weights, and a fourth moment of 3/p times its square. A weight between units of
    several components is present or absent as a whole.

    At infinite width, p N → ∞, only that variance matters. A unit of W x is a sum of many small
    independent terms, hence Gaussian by Lindeberg's theorem, and the Jacobian has the spectrum of
    Gaussian weights. Terms in 1/N differ, through the excess kurtosis 3/p − 3 of an entry. Since
    inputs have finite width, the theory refuses sparse weights that act on inputs: `feedforward`
    and `recurrent` begin with Gaussian ones.

    Parameters
    ----------
    density
        p, in (0, 1].

    Raises
    ------
    ValueError
        If the density is out of range.

    Examples
    --------
    >>> tanh = theory.activation("tanh")
    >>> layer = theory.layer(tanh, 1.5, 0.05, weights=theory.SparseWeights(0.1))
    >>> print(theory.describe(layer).splitlines()[-1])
    W: sparse (density 0.1) weights, E |W_ij|² = σ_w²/N

    References
    ----------
    Pastur and Slavin 2020 (arXiv 2011.11439): spectra with independent entries of any law.
    """

    density: float
    independent: ClassVar[bool] = True
    rotation_invariant: ClassVar[bool] = False

    def __post_init__(self):
        given = self.density
        must = f"`density`: must be a number above 0 and at most 1; got {shown(given)}"
        try:
            p = math.nan if isinstance(given, bool | str) else float(given)
        except (TypeError, ValueError):
            raise ValueError(must) from None
        if not 0 < p <= 1:
            raise ValueError(must)
        object.__setattr__(self, "density", p)

    @property
    def excess_kurtosis(self) -> float:
        return 3 / self.density - 3

    @property
    def word(self) -> str:
        return f"sparse:{self.density!r}"

    @property
    def name(self) -> str:
        return f"sparse (density {self.density:g})"


WeightFamily: TypeAlias = GaussianWeights | OrthogonalWeights | SparseWeights
Weights: TypeAlias = WeightFamily | str
"""A family, or the word for one."""


def weight_family(weights: Any) -> WeightFamily:
    """Return the family of "gaussian", "orthogonal" or "sparse:DENSITY", or the one given.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    if isinstance(weights, WeightFamily):
        return weights
    word, _, density = weights.partition(":") if isinstance(weights, str) else ("", "", "")
    match word, density:
        case "gaussian", "":
            return GaussianWeights()
        case "orthogonal", "":
            return OrthogonalWeights()
        case "sparse", density if density:
            try:
                return SparseWeights(float(density))
            except ValueError:
                must = "sparse:DENSITY with a density above 0 and at most 1"
                raise ValueError(f"`weights`: must be {must}; got {shown(weights)}") from None
        case _:
            pass
    raise ValueError(
        f"`weights`: must be gaussian, orthogonal or sparse:DENSITY; got {shown(weights)}"
    )
