from ._classifier import Classifier, cross_entropy, parameter_count
from ._data import Labelled, copy_task, load_images, permuted
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
from ._study import Architecture, Member, Study, read_study
from ._train import Model, study_dataset, train

__all__ = [
    "Architecture",
    "Classifier",
    "Diagnostics",
    "HeldNetwork",
    "Labelled",
    "MEASURES",
    "Measured",
    "Member",
    "Model",
    "Parameters",
    "SequenceClassifier",
    "Study",
    "apply_parameters",
    "copy_task",
    "cross_entropy",
    "diagnose",
    "draw_parameters",
    "load_images",
    "parameter_count",
    "permuted",
    "read_study",
    "rotations",
    "study_dataset",
    "to_nnx",
    "train",
    "without_zero_biases",
]
