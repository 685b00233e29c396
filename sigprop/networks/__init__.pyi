from ._along import Along
from ._arguments import check_explicit, check_key, check_precision, check_seed
from ._coherence import network_coherence, sample_coherence
from ._depth import measured_depth, outer_depth
from ._digits import subnormal, underflown_slopes
from ._ensemble import (
    Ensemble,
    default_block,
    in_blocks,
    sample_ensemble,
    sample_ensembles,
)
from ._finite_network import FiniteNetwork, Signals, start_at
from ._inputs import (
    digits_inputs,
    gram_inputs,
    idx_inputs,
    pair_gram,
    pair_inputs,
    read_idx,
    read_images,
)
from ._lapack import (
    alone,
    divide_upper,
    eigh,
    eigvalsh,
    one_thread,
    qr,
    singular_values,
    solve,
    solve_upper,
    svd,
    triangle,
    upright,
)
from ._limits import MOST_LAYERS, MOST_UNITS, MOST_WITH_MATRICES, memory_limit
from ._sample import DrawnNetwork, Sample, sample_network, sampled_inputs
from ._shared_weights import Blank
from ._units import units_of
from ._weights import draw_weights, draws_matrices, needs_matrices

__all__ = [
    "Along",
    "Blank",
    "DrawnNetwork",
    "Ensemble",
    "FiniteNetwork",
    "MOST_LAYERS",
    "MOST_UNITS",
    "MOST_WITH_MATRICES",
    "Sample",
    "Signals",
    "alone",
    "check_explicit",
    "check_key",
    "check_precision",
    "check_seed",
    "default_block",
    "digits_inputs",
    "divide_upper",
    "draw_weights",
    "draws_matrices",
    "eigh",
    "eigvalsh",
    "gram_inputs",
    "idx_inputs",
    "in_blocks",
    "measured_depth",
    "memory_limit",
    "needs_matrices",
    "network_coherence",
    "one_thread",
    "outer_depth",
    "pair_gram",
    "pair_inputs",
    "qr",
    "read_idx",
    "read_images",
    "sample_coherence",
    "sample_ensemble",
    "sample_ensembles",
    "sample_network",
    "sampled_inputs",
    "singular_values",
    "solve",
    "solve_upper",
    "start_at",
    "subnormal",
    "svd",
    "triangle",
    "underflown_slopes",
    "units_of",
    "upright",
]
