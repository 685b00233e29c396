"""A sweep in numbers: means over networks with standard errors, and theory."""

from functools import partial
from os import PathLike
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr

import theory
from sigprop.storage import place_of
from sigprop.sweeps._ratios import PARTS, influences
from sigprop.sweeps._sweep import Sweep
from sigprop.sweeps._sweep_store import dataset_of, open_store, ratios


def summarise_sweep(path: str | PathLike[str]) -> xr.Dataset:
    """Compute means over networks of everything that a sweep has measured.

    Parameters
    ----------
    path
        The store.

    Returns
    -------
    xr.Dataset
        Every observable and its `…_standard_error`, with dimensions (axes of the sweep…, layer,
        input or pair), and `networks`, their number. NaN where there are none, and in standard
        errors of one network.

    Convention
    ----------
    Ratios of means, such as a correlation, are ratios of the mean moments, with standard errors
    from first-order fluctuations; every other observable is a mean over networks. A ratio of your
    own is left out if its function is not imported.

    Raises
    ------
    ValueError
        If there is no sweep store at `path`.
    """
    store = open_store(place_of(path), write=False)
    return summarised(store.sweep, dataset_of(store))


def summarised(sweep: Sweep, found: xr.Dataset) -> xr.Dataset:
    """Means of a data set from `read_sweep`."""
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
    for record in sweep.records:
        name = record.name
        if record in ratios(sweep):
            parts = [found[part].astype(float) for part in PARTS]
            value, each = xr.apply_ufunc(
                partial(influences, record),
                *parts,
                *map(mean, parts),
                input_core_dims=[
                    ["replica", "layer", "input"],
                    ["replica", "layer", "pair"],
                    ["layer", "input"],
                    ["layer", "pair"],
                ],
                output_core_dims=[
                    ["layer", record.dimension],
                    ["replica", "layer", record.dimension],
                ],
            )
            value, error = value.where(count > 0), both(each)[1]
        elif record.ratio_of_means:
            continue
        else:
            value, error = both(found[name])
        data[name], data[f"{name}_standard_error"] = value, error
    return xr.Dataset(data, attrs=found.attrs)


def sweep_theory(sweep: Sweep, name: str, point: dict[str, Any]) -> np.ndarray:
    """The mean-field value of an observable at a point, in the kept layers.

    Returns
    -------
    Shape [layers, inputs, pairs or its own axis]; NaN where a layer has no such number.
    """
    network, depth = sweep.network(point), point["depth"]
    signals = sweep.signals(point["input_length"], point["input_correlation"])
    moments = theory.propagate(network, jnp.asarray(signals, float)).value
    record = sweep.record(name)
    values = np.asarray(record.values(moments))
    labels = np.array(sweep.kept_layers)
    at = np.where(labels < 0, labels + depth + 1, labels) - record.first_layer
    inside = (at >= 0) & (at < len(values))
    found = np.full((len(labels), values.shape[1]), np.nan)
    found[inside] = values[at[inside]]
    return found
