__version__: str

from . import (
    alignment,
    comparison,
    experiments,
    figures,
    jacobians,
    networks,
    probes,
    storage,
    sweeps,
)
from .alignment import continuity
from .comparison import Comparison, Verdict, compare
from .jacobians import certify, sample_jacobian, sample_jacobians
from .networks import (
    Ensemble,
    digits_inputs,
    gram_inputs,
    idx_inputs,
    pair_gram,
    sample_ensemble,
    sample_network,
)
from .probes import probe
from .storage import read_dataset, write_dataset
from .sweeps import (
    Sweep,
    merge_sweeps,
    outcome,
    plan,
    read_sweep,
    read_sweep_file,
    run_sweep,
    summarise_sweep,
    sweep_status,
)

__all__ = [
    "Comparison",
    "Ensemble",
    "Sweep",
    "Verdict",
    "alignment",
    "certify",
    "compare",
    "comparison",
    "continuity",
    "digits_inputs",
    "experiments",
    "figures",
    "gram_inputs",
    "idx_inputs",
    "jacobians",
    "merge_sweeps",
    "networks",
    "outcome",
    "pair_gram",
    "plan",
    "probe",
    "probes",
    "read_dataset",
    "read_sweep",
    "read_sweep_file",
    "run_sweep",
    "sample_ensemble",
    "sample_jacobian",
    "sample_jacobians",
    "sample_network",
    "storage",
    "summarise_sweep",
    "sweep_status",
    "sweeps",
    "write_dataset",
]
