"""Singular values of Jacobians at infinite width."""

from theory.spectrum._edges import Edges, spectrum_edges
from theory.spectrum._factors import SAFETY, JacobianFactors, jacobian_factors
from theory.spectrum._jacobian_moments import (
    SpectrumMoments,
    goldstone_gains,
    jacobian_moments,
    lyapunov_quantiles,
)
from theory.spectrum._residual_moments import residual_moments
from theory.spectrum._singular_values import (
    Distribution,
    Spectrum,
    jacobian_spectrum,
    singular_value_distribution,
    singular_value_quantiles,
    spectrum_summary,
)
from theory.spectrum._slopes import SlopeLaw, constant_slopes

__all__ = [
    "Distribution",
    "Edges",
    "JacobianFactors",
    "SAFETY",
    "SlopeLaw",
    "Spectrum",
    "SpectrumMoments",
    "constant_slopes",
    "goldstone_gains",
    "jacobian_factors",
    "jacobian_moments",
    "jacobian_spectrum",
    "lyapunov_quantiles",
    "residual_moments",
    "singular_value_distribution",
    "singular_value_quantiles",
    "spectrum_edges",
    "spectrum_summary",
]
