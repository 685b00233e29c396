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
from ._exponents import Exponents, sample_exponents
from ._goldstone import Certificate, backward_charges, certify
from ._graded import ProductSpectrum, product_log_singular_values
from ._inputs import digits_inputs, gram_inputs, idx_inputs, pair_gram, pair_inputs, read_idx
from ._jacobian import JacobianSample, sample_jacobian
from ._network import (
    DrawnNetwork,
    FiniteNetwork,
    Sample,
    Signals,
    sample_network,
)
from ._store import provenance, read_dataset, write_dataset

__all__ = [
    "Cells",
    "Certificate",
    "Comparison",
    "DrawnNetwork",
    "Ensemble",
    "Exponents",
    "FiniteNetwork",
    "JacobianSample",
    "OBSERVABLES",
    "Observable",
    "Power",
    "ProductSpectrum",
    "Sample",
    "Signals",
    "backward_charges",
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
    "pair_inputs",
    "product_log_singular_values",
    "provenance",
    "read_dataset",
    "read_idx",
    "sample_ensemble",
    "sample_exponents",
    "sample_jacobian",
    "sample_jacobians",
    "sample_network",
    "write_dataset",
]
