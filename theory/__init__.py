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
    Part,
    Pointwise,
    Reading,
    Repeat,
    Residual,
    Stacked,
    WeightLaw,
    affine,
    along_depth,
    feedforward,
    interpret,
    layer,
    repeat,
)
from theory._diagram import phase_diagram, sector_diagram
from theory._expectation import gaussian_expectation, gaussian_pair_expectation
from theory._fixed_point import FixedPoints, Stability, fixed_points
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
from theory._phase import (
    CriticalLine,
    CriticalPoints,
    Phase,
    Prediction,
    critical_line,
    critical_points,
    half_stable_points,
    predict,
)
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

__all__ = [
    "ACTIVATION_NAMES",
    "Activation",
    "Affine",
    "Chain",
    "Componentwise",
    "CriticalLine",
    "CriticalPoints",
    "Estimate",
    "FixedPoints",
    "MeanField",
    "Moments",
    "OnsetLaw",
    "Part",
    "Phase",
    "Pointwise",
    "PostActivation",
    "PreActivation",
    "Prediction",
    "Radial",
    "Reading",
    "Repeat",
    "Residual",
    "Sectors",
    "Stability",
    "Stacked",
    "Status",
    "Symmetry",
    "SymmetryPhase",
    "WeightLaw",
    "activation",
    "affine",
    "along_depth",
    "componentwise",
    "correlation",
    "critical_line",
    "critical_points",
    "distance",
    "feedforward",
    "fixed_points",
    "gaussian_expectation",
    "gaussian_pair_expectation",
    "generators",
    "given_moments",
    "growth",
    "half_stable_points",
    "interpret",
    "layer",
    "length",
    "onset_curvature",
    "onset_law",
    "overlap",
    "phase_diagram",
    "plane_generator",
    "predict",
    "propagate",
    "radial",
    "repeat",
    "sector_diagram",
    "sectors",
    "signal_moments",
    "symmetry",
]
