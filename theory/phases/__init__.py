"""Fixed points, criticality, sectors of a symmetry, stationary states and diagrams."""

from theory.phases._critical import (
    CriticalLine,
    CriticalPoints,
    critical_line,
    critical_points,
    half_stable_points,
)
from theory.phases._diagram import phase_diagram, sector_diagram
from theory.phases._length_cycle import LengthCycle, length_cycle
from theory.phases._length_point import FixedPoints, Stability, fixed_points
from theory.phases._prediction import Phase, Prediction, predict
from theory.phases._stationary import StationaryState, stationary_state
from theory.phases._symmetry import (
    Sectors,
    Symmetry,
    SymmetryPhase,
    generators,
    plane_generator,
    sectors,
    symmetry,
)

__all__ = [
    "CriticalLine",
    "CriticalPoints",
    "FixedPoints",
    "LengthCycle",
    "Phase",
    "Prediction",
    "Sectors",
    "Stability",
    "StationaryState",
    "Symmetry",
    "SymmetryPhase",
    "critical_line",
    "critical_points",
    "fixed_points",
    "generators",
    "half_stable_points",
    "length_cycle",
    "phase_diagram",
    "plane_generator",
    "predict",
    "sector_diagram",
    "sectors",
    "stationary_state",
    "symmetry",
]
