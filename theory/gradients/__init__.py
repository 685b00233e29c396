"""Coherence of gradients, and the gains of linear residual networks."""

from theory.gradients._coherence import Coherence, check_gram, gradient_coherence, layers_of
from theory.gradients._linear_residual import linear_residual_gain, spike_overlap

__all__ = [
    "Coherence",
    "check_gram",
    "gradient_coherence",
    "linear_residual_gain",
    "spike_overlap",
    "layers_of",
]
