from ._blocks import BlockClassifier
from ._checkpoint import read_checkpoint
from ._classifier import Classifier, cross_entropy, parameter_count
from ._data import Labelled, copy_task, load_images, permuted, python_sources
from ._diagnostics import Diagnostics, diagnose, rotations
from ._flax import to_nnx
from ._measures import MEASURES, Measured
from ._model import (
    HeldNetwork,
    Parameters,
    apply_parameters,
    draw_parameters,
    without_zero_biases,
)
from ._recurrent import SequenceClassifier
from ._results import REASONS, study_dataset
from ._study import Architecture, Member, Study, read_study
from ._train import Model, train
from ._transformer import PROJECTIONS, Transformer

__all__ = [
    "Architecture",
    "BlockClassifier",
    "Classifier",
    "Diagnostics",
    "HeldNetwork",
    "Labelled",
    "MEASURES",
    "Measured",
    "Member",
    "Model",
    "PROJECTIONS",
    "Parameters",
    "REASONS",
    "SequenceClassifier",
    "Study",
    "Transformer",
    "apply_parameters",
    "copy_task",
    "cross_entropy",
    "diagnose",
    "draw_parameters",
    "load_images",
    "parameter_count",
    "permuted",
    "python_sources",
    "read_checkpoint",
    "read_study",
    "rotations",
    "study_dataset",
    "to_nnx",
    "train",
    "without_zero_biases",
]
