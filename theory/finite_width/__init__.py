"""Corrections in 1/width and exact laws at finite width."""

from theory.finite_width._generic_exponent import GenericExponent, generic_exponent
from theory.finite_width._length_correction import LengthCorrection, length_correction
from theory.finite_width._onset import OnsetLaw, onset_curvature, onset_law

__all__ = [
    "GenericExponent",
    "LengthCorrection",
    "OnsetLaw",
    "generic_exponent",
    "length_correction",
    "onset_curvature",
    "onset_law",
]
