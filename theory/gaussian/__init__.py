"""Expectations over one and two Gaussian units, with errors."""

from theory.gaussian._expectation import gaussian_expectation, gaussian_pair_expectation
from theory.gaussian._moment_integrals import (
    Tree,
    epsilon,
    features,
    floored,
    frozen,
    grading,
    least,
)
from theory.gaussian._moments import pair_moments, single_moments, slope_rate, square_rate
from theory.gaussian._quadrature import Resolution, half_line
from theory.gaussian._radial_moments import (
    RadialMoments,
    chi_nodes,
    cross_moments,
    length_rate,
    radial_moments,
    series,
)

__all__ = [
    "RadialMoments",
    "Resolution",
    "Tree",
    "chi_nodes",
    "cross_moments",
    "epsilon",
    "features",
    "floored",
    "frozen",
    "gaussian_expectation",
    "gaussian_pair_expectation",
    "grading",
    "half_line",
    "least",
    "length_rate",
    "pair_moments",
    "radial_moments",
    "series",
    "single_moments",
    "slope_rate",
    "square_rate",
]
