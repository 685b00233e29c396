from ._compare import (
    Cells,
    Comparison,
    Power,
    Verdict,
    compare,
    comparison_dataset,
    contributions,
    extrapolate,
    judge,
)
from ._goldstone_study import LONG, NARROW, goldstone_study
from ._spectrum_study import FRACTIONS, SpectrumPrediction, predict_spectrum, spectrum_study

__all__ = [
    "Cells",
    "Comparison",
    "FRACTIONS",
    "LONG",
    "NARROW",
    "Power",
    "SpectrumPrediction",
    "Verdict",
    "compare",
    "comparison_dataset",
    "contributions",
    "extrapolate",
    "goldstone_study",
    "judge",
    "predict_spectrum",
    "spectrum_study",
]
