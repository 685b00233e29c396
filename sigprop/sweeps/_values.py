"""The values of a field of a sweep: one, or several that form an axis."""

import math
from typing import Any

import numpy as np

from theory.numerics import shown

VARIANCES = ("weight_variance", "bias_variance")
FLOATS = (*VARIANCES, "input_length", "input_correlation")
COUNTS = ("depth", "width")
_MOST_VALUES = 1_000_000
SHORTHAND = {
    "activation": "tanh",
    "weights": "gaussian",
    "residual": False,
    "depth": 50,
    "weight_variance": 1.0,
    "bias_variance": 0.0,
}
"""Defaults of these fields if no `description` is given."""


def read_values(name: str, value: Any) -> Any:
    """The value of a field, or a tuple if there are several."""
    if value is None and name in SHORTHAND:
        return None
    real = name in FLOATS or name == "leaves"
    numeric = real or name in COUNTS
    kind = float if real else int
    if numeric and isinstance(value, str):
        value = _range(name, value)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple, range)):
        return tuple(_one(name, kind if numeric else None, item) for item in value)
    return _one(name, kind if numeric else None, value)


def _one(name: str, kind: Any, value: Any) -> Any:
    if kind is None:
        wanted = bool if name == "residual" else str
        if type(value) is not wanted:
            what = "true or false" if wanted is bool else "a text"
            raise ValueError(f"`{name}`: must be {what}, or a list of them; got {shown(value)}")
        return value
    try:
        number = kind(value)
        good = math.isfinite(number) and number == value and not isinstance(value, bool)
    except (TypeError, ValueError, OverflowError):
        good, number = False, None
    if not good:
        what = "finite numbers" if kind is float else "whole numbers"
        raise ValueError(f"`{name}`: must be {what}; got {shown(value)}")
    return number


def _range(name: str, text: str) -> list[Any]:
    try:
        start, stop, count = text.split(":")
        size = int(count)
        values = np.linspace(float(start), float(stop), size if size <= _MOST_VALUES else 0)
    except ValueError:
        raise ValueError(
            f"`{name}`: must be numbers or start:stop:count; got {shown(text)}"
        ) from None
    if size > _MOST_VALUES:
        raise ValueError(f"`{name}`: must have at most {_MOST_VALUES} values; got {shown(text)}")
    if name in COUNTS:
        return [int(v) for v in np.unique(values.round())] if np.all(np.isfinite(values)) else [0]
    return values.tolist()
