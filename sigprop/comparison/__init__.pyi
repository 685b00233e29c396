from ._cells import contributions
from ._compare import compare, judge
from ._goldstone_study import LONG, NARROW, goldstone_study
from ._scores import extrapolate
from ._spectrum_study import FRACTIONS, SpectrumPrediction, predict_spectrum, spectrum_study
from ._verdict import Cells, Comparison, Power, Verdict, comparison_dataset

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
