from ._compare import (
    OBSERVABLES,
    Cells,
    Comparison,
    Observable,
    Power,
    compare,
    comparison_dataset,
    contributions,
    extrapolate,
    judge,
)
from ._ensemble import Ensemble, sample_ensemble, sample_jacobians
from ._goldstone import Certificate, certify
from ._inputs import digits_inputs, gram_inputs, idx_inputs, pair_gram, read_idx
from ._network import (
    DrawnNetwork,
    FiniteNetwork,
    JacobianSample,
    Sample,
    Signals,
    sample_jacobian,
    sample_network,
)
from ._store import provenance, read_dataset, write_dataset

__all__ = [
    "Cells",
    "Certificate",
    "Comparison",
    "DrawnNetwork",
    "Ensemble",
    "FiniteNetwork",
    "JacobianSample",
    "OBSERVABLES",
    "Observable",
    "Power",
    "Sample",
    "Signals",
    "certify",
    "compare",
    "comparison_dataset",
    "contributions",
    "digits_inputs",
    "extrapolate",
    "gram_inputs",
    "idx_inputs",
    "judge",
    "pair_gram",
    "provenance",
    "read_dataset",
    "read_idx",
    "sample_ensemble",
    "sample_jacobian",
    "sample_jacobians",
    "sample_network",
    "write_dataset",
]
