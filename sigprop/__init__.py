"""Finite random networks drawn from a description, and their comparison with theory.

`sample_ensemble` draws networks of one width, `compare` holds several widths against
`theory.propagate`, `sample_jacobians` measures singular values.
"""

from sigprop._compare import (
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
from sigprop._ensemble import Ensemble, sample_ensemble, sample_jacobians
from sigprop._inputs import digits_inputs, gram_inputs, idx_inputs, pair_gram, read_idx
from sigprop._network import (
    FiniteNetwork,
    JacobianSample,
    Sample,
    Signals,
    sample_jacobian,
    sample_network,
)
from sigprop._store import provenance, read_dataset, write_dataset

__all__ = [
    "Cells",
    "Comparison",
    "Ensemble",
    "FiniteNetwork",
    "JacobianSample",
    "OBSERVABLES",
    "Observable",
    "Power",
    "Sample",
    "Signals",
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
