from ._alignment_null import Null, cosine_null, overlap_null
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
from ._gauge import Drift, frame_drift, rotate_weights
from ._singular_vectors import LeadingVectors, leading_vectors
from ._weight_sequences import weight_sequences

__all__ = [
    "Continuity",
    "Drift",
    "LeadingVectors",
    "Null",
    "Spectra",
    "continuity",
    "cosine_null",
    "frame_drift",
    "frobenius_cosines",
    "gram_cosines",
    "layer_remarks",
    "leading_vectors",
    "mean_alignment",
    "neighbours",
    "overlap_null",
    "rotate_weights",
    "rotation_drift",
    "spectra",
    "weight_sequences",
]
