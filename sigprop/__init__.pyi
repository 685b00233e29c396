from ._alignment_null import Null, cosine_null, overlap_null
from ._coherence import network_coherence, sample_coherence
from ._compare import (
    OBSERVABLES,
    Cells,
    Comparison,
    Observable,
    Power,
    Verdict,
    compare,
    comparison_dataset,
    contributions,
    extrapolate,
    judge,
)
from ._continuity import (
    Continuity,
    Spectra,
    continuity,
    frobenius_cosines,
    gram_cosines,
    layer_remarks,
    mean_alignment,
    neighbours,
    rotation_drift,
    spectra,
)
from ._ensemble import Ensemble, sample_ensemble
from ._exponents import Exponents, sample_exponents
from ._gauge import Drift, frame_drift, turned_weights
from ._goldstone import Certificate, backward_charges, certify
from ._inputs import digits_inputs, gram_inputs, idx_inputs, pair_gram, pair_inputs, read_idx
from ._jacobian import JacobianSample, sample_jacobian
from ._jacobian_samples import sample_jacobians
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
from ._plan import Outcome, Pilot, Plan, outcome, plan
from ._probe import DescriptionCheck, JacobianReport, LayerSignals, Probe, probe
from ._product import ProductSpectrum, product_log_singular_values
from ._singular import LeadingVectors, leading_vectors
from ._store import provenance, read_dataset, write_dataset
from ._sweep import Sweep, read_sweep_file
from ._sweep_run import (
    SweepProgress,
    SweepRun,
    SweepStatus,
    merge_sweeps,
    read_sweep,
    run_sweep,
    sweep_status,
)
from ._sweep_summary import summarise_sweep

__all__ = [
    "Cells",
    "Certificate",
    "Comparison",
    "Continuity",
    "DescriptionCheck",
    "DrawnNetwork",
    "Drift",
    "Ensemble",
    "Exponents",
    "FiniteNetwork",
    "JacobianReport",
    "JacobianSample",
    "LayerSignals",
    "LeadingValues",
    "LeadingVectors",
    "Null",
    "OBSERVABLES",
    "Observable",
    "Outcome",
    "Pilot",
    "Plan",
    "Power",
    "Probe",
    "ProductSpectrum",
    "Sample",
    "Signals",
    "Spectra",
    "SpectrumEstimate",
    "Sweep",
    "SweepProgress",
    "SweepRun",
    "SweepStatus",
    "Verdict",
    "backward_charges",
    "certify",
    "compare",
    "comparison_dataset",
    "continuity",
    "contributions",
    "cosine_null",
    "digits_inputs",
    "estimate_spectrum",
    "extrapolate",
    "frame_drift",
    "frobenius_cosines",
    "gram_cosines",
    "gram_inputs",
    "idx_inputs",
    "judge",
    "layer_remarks",
    "leading_singular_values",
    "leading_vectors",
    "mean_alignment",
    "merge_sweeps",
    "neighbours",
    "network_coherence",
    "outcome",
    "overlap_null",
    "pair_gram",
    "pair_inputs",
    "plan",
    "probe",
    "product_log_singular_values",
    "provenance",
    "read_dataset",
    "read_idx",
    "read_sweep",
    "read_sweep_file",
    "rotation_drift",
    "run_sweep",
    "sample_coherence",
    "sample_ensemble",
    "sample_exponents",
    "sample_jacobian",
    "sample_jacobians",
    "sample_network",
    "spectra",
    "summarise_sweep",
    "sweep_status",
    "turned_weights",
    "write_dataset",
]
