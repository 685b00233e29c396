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
from ._matrix_free import (
    LeadingValues,
    SpectrumEstimate,
    estimate_spectrum,
    leading_singular_values,
)
from ._network import (
    DrawnNetwork,
    FiniteNetwork,
    Sample,
    Signals,
    sample_network,
)
from ._probe import DescriptionCheck, JacobianReport, LayerSignals, Probe, probe
from ._store import provenance, read_dataset, write_dataset

__all__ = [
    "Cells",
    "Certificate",
    "Comparison",
    "DescriptionCheck",
    "DrawnNetwork",
    "Ensemble",
    "Exponents",
    "FiniteNetwork",
    "JacobianReport",
    "JacobianSample",
    "LayerSignals",
    "LeadingValues",
    "OBSERVABLES",
    "Observable",
    "Power",
    "Probe",
    "ProductSpectrum",
    "Sample",
    "Signals",
    "SpectrumEstimate",
    "backward_charges",
    "certify",
    "compare",
    "comparison_dataset",
    "contributions",
    "digits_inputs",
    "estimate_spectrum",
    "extrapolate",
    "gram_inputs",
    "idx_inputs",
    "judge",
    "leading_singular_values",
    "pair_gram",
    "pair_inputs",
    "probe",
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
