"""Alignments by chance: exact laws for unrelated directions and frames."""

import math
from typing import NamedTuple

import numpy as np
import scipy.special

from theory.numerics import as_number, check_count, shown

_DRAWS = 20_000


class Null(NamedTuple):
    """The law of an alignment between two independent, uniformly random directions or frames."""

    mean: float
    deviation: float
    quantile: float
    """Exceeded with probability 1 − level."""
    quantile_error: float
    """Standard error if the quantile is sampled, else 0."""


def cosine_null(dimension: int, level: float = 0.99) -> Null:
    """The law of |⟨u, v⟩| for independent uniform unit vectors in d dimensions.

    ⟨u, v⟩² has the law Beta(1/2, (d − 1)/2), so E|⟨u, v⟩| = Γ(d/2)/(√π Γ((d + 1)/2)), which is
    √(2/πd)(1 + 1/(4d) + …), and E⟨u, v⟩² = 1/d. Along a chain of independent directions the
    cosines of neighbours are independent: the deviation of their mean over L − 1 pairs is smaller
    by √(L − 1).

    Parameters
    ----------
    dimension
        d, at least 1.
    level
        Probability that defines the quantile, between 0 and 1.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_count("dimension", dimension)
    _check_level(level)
    d = dimension
    if d == 1:
        return Null(1.0, 0.0, 1.0, 0.0)
    mean = math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2)) / math.sqrt(math.pi)
    low, high = 0.0, 1.0
    cdf = lambda x: scipy.special.betainc(0.5, (d - 1) / 2, x**2)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if float(cdf(middle)) < level else (low, middle)
    return Null(mean, math.sqrt(max(1 / d - mean**2, 0.0)), (low + high) / 2, 0.0)


def overlap_null(dimension: int, rank: int, level: float = 0.99) -> Null:
    """The law of ‖UᵀV‖²/r for independent uniform orthonormal frames of r vectors in d dimensions.

    The mean is r/d. Traceless symmetric matrices are irreducible under rotations, which gives the
    variance 2(1 − r/d)²/((d − 1)(d + 2)). The quantile is sampled from the exact law: UᵀV has the
    singular values of a matrix-variate Beta variable, A/(A + B) with Wishart matrices A and B of
    r and d − r degrees of freedom.

    Parameters
    ----------
    dimension
        d, at least 1.
    rank
        r, from 1 to d.
    level
        Probability that defines the quantile, between 0 and 1.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_count("dimension", dimension)
    check_count("rank", rank)
    _check_level(level)
    d, r = dimension, rank
    if r > d:
        raise ValueError(f"`rank`: must be at most the dimension, {d}; got {r}")
    if r == d:
        return Null(1.0, 0.0, 1.0, 0.0)
    deviation = (1 - r / d) * math.sqrt(2 / ((d - 1) * (d + 2)))
    rng = np.random.default_rng(0)
    square = rng.normal(size=(_DRAWS, r, r))
    one = square @ np.swapaxes(square, 1, 2)
    rest = one + _wishart(rng, r, d - r)
    drawn = np.sort(np.trace(np.linalg.solve(rest, one), axis1=1, axis2=2) / r)
    # The standard error from the order statistics one deviation of their rank to either side.
    place, spread = level * _DRAWS, math.sqrt(_DRAWS * level * (1 - level))
    ends = np.clip([place - spread, place + spread], 0, _DRAWS - 1).astype(int)
    error = float(drawn[ends[1]] - drawn[ends[0]]) / 2
    return Null(r / d, deviation, float(np.quantile(drawn, level)), error)


def _wishart(rng: np.random.Generator, size: int, freedom: int) -> np.ndarray:
    """Wishart matrices of unit scale, by Bartlett's decomposition if they have full rank."""
    if freedom < size:
        thin = rng.normal(size=(_DRAWS, size, freedom))
        return thin @ np.swapaxes(thin, 1, 2)
    root = np.tril(rng.normal(size=(_DRAWS, size, size)), -1)
    places = np.arange(size)
    root[:, places, places] = np.sqrt(rng.chisquare(freedom - places, (_DRAWS, size)))
    return root @ np.swapaxes(root, 1, 2)


def _check_level(level: float) -> None:
    if not 0 < as_number("level", level, "between 0 and 1") < 1:
        raise ValueError(f"`level`: must be between 0 and 1; got {shown(level)}")
