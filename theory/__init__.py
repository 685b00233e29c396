"""Mean-field theory of signal propagation in random networks, from one description.

Describe a network (`feedforward`, `layer`, or the nodes themselves), then `propagate`
moments through it, find its `fixed_points`, `predict` its infinite-depth behaviour, or draw
a whole `phase_diagram`.
"""

from theory._activations import (
    ACTIVATION_NAMES,
    Activation,
    Componentwise,
    Radial,
    activation,
    componentwise,
    radial,
)
from theory._architecture import (
    Affine,
    Chain,
    Normalise,
    Part,
    Pointwise,
    Recurrent,
    Repeat,
    Residual,
    WeightLaw,
    affine,
    feedforward,
    layer,
    recurrent,
    repeat,
)
from theory._coherence import Coherence, gradient_coherence
from theory._critical import (
    CriticalLine,
    CriticalPoints,
    critical_line,
    critical_points,
    half_stable_points,
)
from theory._describe import describe
from theory._diagram import phase_diagram, sector_diagram
from theory._edges import Edges, spectrum_edges
from theory._expectation import gaussian_expectation, gaussian_pair_expectation
from theory._finite_width import LengthCorrection, length_correction
from theory._generic_exponent import GenericExponent, generic_exponent
from theory._interpret import Reading, Stacked, along_depth, interpret
from theory._jacobian import JacobianFactors, SlopeLaw, jacobian_factors
from theory._jacobian_moments import (
    SpectrumMoments,
    goldstone_gains,
    jacobian_moments,
    lyapunov_quantiles,
)
from theory._length_cycle import LengthCycle, length_cycle
from theory._length_point import FixedPoints, Stability, fixed_points
from theory._linear_residual import linear_residual_gain, spike_overlap
from theory._mean_field import MeanField, propagate
from theory._moments import (
    Moments,
    PostActivation,
    PreActivation,
    correlation,
    distance,
    given_moments,
    growth,
    length,
    overlap,
    signal_moments,
)
from theory._onset import OnsetLaw, onset_curvature, onset_law
from theory._phase import Phase, Prediction, predict
from theory._residual_moments import residual_moments
from theory._spectrum import (
    Distribution,
    Spectrum,
    jacobian_spectrum,
    singular_value_distribution,
    singular_value_quantiles,
    spectrum_summary,
)
from theory._stationary import StationaryState, stationary_state
from theory._status import Estimate, Status
from theory._symmetry import (
    Sectors,
    Symmetry,
    SymmetryPhase,
    generators,
    plane_generator,
    sectors,
    symmetry,
)
from theory._two_times import autocorrelation, step_growth

__all__ = [
    "ACTIVATION_NAMES",
    "Activation",
    "Affine",
    "Chain",
    "Coherence",
    "Componentwise",
    "CriticalLine",
    "CriticalPoints",
    "Distribution",
    "Edges",
    "Estimate",
    "FixedPoints",
    "GenericExponent",
    "JacobianFactors",
    "LengthCorrection",
    "LengthCycle",
    "MeanField",
    "Moments",
    "Normalise",
    "OnsetLaw",
    "Part",
    "Phase",
    "Pointwise",
    "PostActivation",
    "PreActivation",
    "Prediction",
    "Radial",
    "Reading",
    "Recurrent",
    "Repeat",
    "Residual",
    "Sectors",
    "SlopeLaw",
    "Spectrum",
    "SpectrumMoments",
    "Stability",
    "Stacked",
    "StationaryState",
    "Status",
    "Symmetry",
    "SymmetryPhase",
    "WeightLaw",
    "activation",
    "affine",
    "along_depth",
    "autocorrelation",
    "componentwise",
    "correlation",
    "critical_line",
    "critical_points",
    "describe",
    "distance",
    "feedforward",
    "fixed_points",
    "gaussian_expectation",
    "gaussian_pair_expectation",
    "generators",
    "generic_exponent",
    "given_moments",
    "goldstone_gains",
    "gradient_coherence",
    "growth",
    "half_stable_points",
    "interpret",
    "jacobian_factors",
    "jacobian_moments",
    "jacobian_spectrum",
    "layer",
    "length",
    "length_correction",
    "length_cycle",
    "linear_residual_gain",
    "lyapunov_quantiles",
    "onset_curvature",
    "onset_law",
    "overlap",
    "phase_diagram",
    "plane_generator",
    "predict",
    "propagate",
    "radial",
    "recurrent",
    "repeat",
    "residual_moments",
    "sector_diagram",
    "sectors",
    "signal_moments",
    "singular_value_distribution",
    "singular_value_quantiles",
    "spectrum_edges",
    "spectrum_summary",
    "spike_overlap",
    "stationary_state",
    "step_growth",
    "symmetry",
]
