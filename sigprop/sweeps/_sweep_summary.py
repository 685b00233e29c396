"""A sweep in numbers: means over networks with standard errors, beside theory."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array

import theory
from sigprop.sweeps._sweep import Sweep
from sigprop.sweeps._sweep_store import VARIABLES, dataset_of, open_store
from theory import Moments
from theory.mean_field import log_tangent

SYMBOLS = {
    "length": r"length $q_l$",
    "correlation": r"correlation $c_l$",
    "distance": r"distance $|z_a-z_b|^2/2N$",
    "slope": r"slope $\chi_l$",
    "log_gain": r"log gain $\log|t_l|^2/N$",
    "gradient_growth": r"gradients $|g_l|^2/|g_{l+1}|^2$",
}


def summarise_sweep(path: str | PathLike[str]) -> xr.Dataset:
    """Means over networks of everything that a sweep has measured.

    Returns
    -------
    xr.Dataset
        Every observable and its `…_standard_error`, with dimensions (axes of the sweep…, layer,
        input or pair), and `networks`, how many are there. NaN where there is none, and in
        standard errors of one network.

    Convention
    ----------
    A correlation is the ratio of mean moments, and its standard error that of their first-order
    fluctuations; every other observable is a mean over networks.

    Raises
    ------
    ValueError
        If there is no store of a sweep at `path`.
    """
    store = open_store(Path(path).resolve(), write=False)
    return summarised(store.sweep, dataset_of(store))


def summarised(sweep: Sweep, found: xr.Dataset) -> xr.Dataset:
    """Means of what `read_sweep` gives."""
    there = found["measured"]
    count = there.sum("replica")

    def mean(values: xr.DataArray) -> xr.DataArray:
        # A network that has overflown is NaN and stays in the mean.
        return values.astype(float).where(there, 0.0).sum("replica", skipna=False) / count

    def both(values: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
        middle = mean(values)
        square = mean((values - middle) ** 2)
        error = (square / (count - 1).where(count > 1)) ** 0.5
        return middle.where(count > 0), error.where(count > 0)

    data: dict[str, Any] = {"networks": count}
    for name in sweep.observables:
        if name == "correlation":
            i, j = np.triu_indices(sweep.inputs_at_once, 1)
            length = found["length"].astype(float)
            one, two = (length.isel(input=xr.DataArray(at, dims="pair")) for at in (i, j))
            value, each = influences(found["overlap"].astype(float), one, two, mean)
            value, error = value.where(count > 0), both(each)[1]
        else:
            value, error = both(found[VARIABLES[name][0]])
        data[name], data[f"{name}_standard_error"] = value, error
    return xr.Dataset(data, attrs=found.attrs)


def influences(overlap: Any, one: Any, two: Any, mean: Callable[[Any], Any]) -> tuple[Any, Any]:
    """c = E⟨ab⟩/√(E⟨aa⟩ E⟨bb⟩), and what every network adds to it to first order."""
    top, left, right = mean(overlap), mean(one), mean(two)
    size = (left * right) ** 0.5
    value = top / size
    return value, overlap / size - value * (one / left + two / right) / 2


def of_moments(name: str, moments: Moments) -> Array:
    """An observable of theory's moments, from its first layer on."""
    i, j = np.triu_indices(moments.log_gain.shape[-1], 1)
    of: dict[str, Callable[[], Array]] = {
        "length": lambda: theory.length(moments),
        "correlation": lambda: theory.correlation(moments)[..., i, j],
        "distance": lambda: theory.distance(moments)[..., i, j],
        "slope": lambda: theory.growth(moments),
        "gradient_growth": lambda: theory.growth(moments)[1:],
        "log_gain": lambda: log_tangent(moments),
    }
    return of[name]()


FIRST_LAYER = {"slope": 1, "gradient_growth": 1}
"""Of the observables that are not there in layer 0."""


def sweep_theory(sweep: Sweep, name: str, point: dict[str, Any]) -> np.ndarray:
    """What mean-field theory says of an observable at a point, in the kept layers.

    Returns
    -------
    Shape [layers, inputs or pairs]; NaN where a layer has no such number.
    """
    network, depth = sweep.network(point), point["depth"]
    signals = sweep.signals(point["input_length"], point["input_correlation"])
    moments = theory.propagate(network, jnp.asarray(signals, float)).value
    values = np.asarray(of_moments(name, moments))
    first = FIRST_LAYER.get(name, 0)
    labels = np.array(sweep.kept_layers)
    at = np.where(labels < 0, labels + depth + 1, labels) - first
    inside = (at >= 0) & (at < len(values))
    found = np.full((len(labels), values.shape[1]), np.nan)
    found[inside] = values[at[inside]]
    return found
