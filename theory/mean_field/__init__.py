"""Second moments of inputs, propagated through depth and time."""

from theory.mean_field._moments import (
    Moments,
    PostActivation,
    PreActivation,
    check_finite,
    check_signals,
    correlation,
    distance,
    given_moments,
    gram_matrix,
    growth,
    length,
    log_tangent,
    overlap,
    participation_ratio,
    per_component,
    signal_moments,
)
from theory.mean_field._observables import (
    OBSERVABLES,
    Observable,
    chosen_observables,
    pairs,
)
from theory.mean_field._propagation import MeanField, depth_of, input_state, propagate
from theory.mean_field._two_times import autocorrelation, step_growth

__all__ = [
    "MeanField",
    "Moments",
    "OBSERVABLES",
    "Observable",
    "PostActivation",
    "PreActivation",
    "autocorrelation",
    "check_finite",
    "check_signals",
    "chosen_observables",
    "correlation",
    "depth_of",
    "distance",
    "given_moments",
    "gram_matrix",
    "growth",
    "input_state",
    "length",
    "log_tangent",
    "overlap",
    "pairs",
    "participation_ratio",
    "per_component",
    "propagate",
    "signal_moments",
    "step_growth",
]
