"""Descriptions of networks: nodes, activations, builders, and the fold that reads them."""

from theory.description._activations import Activation, Componentwise, Radial
from theory.description._algebra import ALGEBRAS, Algebra, AlgebraName
from theory.description._builders import affine, feedforward, layer, recurrent, repeat
from theory.description._closed_forms import ClosedForm, SinForm
from theory.description._componentwise import componentwise
from theory.description._describe import describe
from theory.description._interpret import Reading, Stacked, along_depth, interpret
from theory.description._jumps import check_no_jump, found_jumps, is_new
from theory.description._layers import (
    before_weights,
    check_layer,
    deep_network,
    hidden_layer,
    layer_at,
    repeats_layers,
    with_variances,
)
from theory.description._linearity import gain, is_linear, is_piecewise_linear
from theory.description._named_activations import ACTIVATION_NAMES, activation, radial
from theory.description._nodes import (
    Affine,
    Chain,
    Noise,
    Normalise,
    Part,
    Pointwise,
    Recurrent,
    Repeat,
    Residual,
    WeightLaw,
    check_activation,
    check_no_noise,
    check_part,
)
from theory.description._on_numpy import directly, directly_if, is_simple, on_numpy
from theory.description._python_files import defined_in, in_file
from theory.description._sequences import check_sequences, time_steps
from theory.description._structure import check_read_in, components, starts_nonlinear, weight_laws
from theory.description._survey import Survey
from theory.description._table import numbers_of, read_toml, with_numbers
from theory.description._text import (
    from_dict,
    load_network,
    read_activation,
    read_network,
    save_network,
    to_dict,
)
from theory.description._weights import (
    GaussianWeights,
    OrthogonalWeights,
    SparseWeights,
    WeightFamily,
    Weights,
    weight_family,
)

__all__ = [
    "ACTIVATION_NAMES",
    "ALGEBRAS",
    "Activation",
    "Affine",
    "Algebra",
    "AlgebraName",
    "Chain",
    "ClosedForm",
    "Componentwise",
    "GaussianWeights",
    "Noise",
    "Normalise",
    "OrthogonalWeights",
    "Part",
    "Pointwise",
    "Radial",
    "Reading",
    "Recurrent",
    "Repeat",
    "Residual",
    "SinForm",
    "SparseWeights",
    "Stacked",
    "Survey",
    "WeightFamily",
    "WeightLaw",
    "Weights",
    "activation",
    "affine",
    "along_depth",
    "before_weights",
    "check_activation",
    "check_no_jump",
    "check_no_noise",
    "check_part",
    "check_read_in",
    "check_sequences",
    "check_layer",
    "components",
    "componentwise",
    "deep_network",
    "defined_in",
    "describe",
    "directly",
    "directly_if",
    "feedforward",
    "found_jumps",
    "from_dict",
    "gain",
    "hidden_layer",
    "in_file",
    "interpret",
    "is_linear",
    "is_new",
    "is_piecewise_linear",
    "is_simple",
    "layer",
    "layer_at",
    "load_network",
    "numbers_of",
    "on_numpy",
    "radial",
    "read_activation",
    "read_network",
    "read_toml",
    "recurrent",
    "repeat",
    "repeats_layers",
    "save_network",
    "starts_nonlinear",
    "time_steps",
    "to_dict",
    "weight_family",
    "weight_laws",
    "with_numbers",
    "with_variances",
]
