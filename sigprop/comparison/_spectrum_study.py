"""Singular values of Jacobians, predicted and measured: the data of `sigprop spectrum`."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import theory
from sigprop.jacobians import sample_jacobians
from theory import Estimate, Part, Status
from theory.description import components
from theory.numerics import Report, check_count, replace_where
from theory.spectrum import JacobianFactors, Spectrum

FRACTIONS = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""Fractions for the exponents of infinite depth."""
_LEVELS = 64
"""Quantiles that are compared."""
_BINS = 40
_CURVE = 241
"""Number of points of a density."""
_LOWEST = 0.01
"""The fraction of the nonzero singular values below the range of the figure."""
AIRY_MEAN = -1.2065335745820
"""Mean of the largest eigenvalue of real symmetric matrices, in units of its fluctuation: the
Tracy–Widom law with β = 1 (Bornemann 2010, On the numerical evaluation of distributions in random
matrix theory, table 10)."""


class SpectrumPrediction(NamedTuple):
    """The theoretical spectrum of the Jacobian of `network` at an input of this length."""

    network: Part
    length: float
    """Length of the pre-activations z_0, per component."""
    factors: JacobianFactors
    spectrum: Spectrum
    exponents: Estimate
    """At `FRACTIONS`: infinitely many layers at the fixed point."""
    gains: Estimate | None
    """Squared gains of the generators; None if a bias breaks the symmetry."""


def predict_spectrum(layer: Part, depth: int, start: float | None = None) -> SpectrumPrediction:
    """Edges, moments, mass at zero, exponents and Goldstone gains of `depth` layers.

    J = ∂z_L/∂z_0 = W_L D_L ⋯ W_1 D_1, with as many weight matrices as nonlinearities.

    Parameters
    ----------
    layer
        One layer, such as `theory.layer`, without a residual branch.
    depth
        Number of layers, at least 1.
    start
        Length of the pre-activations z_0, per component; later lengths follow. Without it all
        layers are at the fixed point q* reached from 1, or start at 1 if q* is 0 or infinite.

    Raises
    ------
    ValueError
        If an argument is out of range. The message names the argument and its allowed range.
    """
    check_count("depth", depth)
    # The exponents always belong to the fixed point.
    fixed = theory.predict(layer).length
    q = float(fixed.value)
    network = theory.repeat(layer, depth)
    settled = math.isfinite(q) and q > 0
    one = theory.jacobian_factors(layer, q if settled else 1.0)
    if start is None and settled:
        length, factors = q, one.repeated(depth)
    else:
        length = 1.0 if start is None else start
        factors = theory.jacobian_factors(network, length)
    spectrum = theory.spectrum.spectrum_summary(factors)
    at_rest = one if settled or not math.isfinite(q) else theory.jacobian_factors(layer, 0.0)
    exponents = theory.spectrum.lyapunov_quantiles(at_rest, jnp.asarray(FRACTIONS))
    if not math.isfinite(q):
        exponents = replace_where(jnp.asarray(True), Status.ABSENT, exponents)
    gains = None
    if not theory.symmetry(layer).explicit:
        k = components(layer)
        moments = theory.given_moments(length * jnp.eye(k)[None, None])
        gains = theory.spectrum.goldstone_gains(network, moments)
    return SpectrumPrediction(network, length, factors, spectrum, exponents, gains)


def spectrum_study(
    predicted: SpectrumPrediction,
    *,
    width: int,
    replicas: int,
    seed: int = 0,
    dtype: Any = "float64",
    progress: Report | None = None,
) -> xr.Dataset:
    """Compare the theoretical distribution of singular values with that of finite networks.

    Parameters
    ----------
    predicted
        From `predict_spectrum`.
    width, replicas
        Units per layer, and networks, at least 2.
    seed
        Decides every draw.
    dtype
        Precision of the simulation.
    progress
        As in `sample_ensemble`.

    Returns
    -------
    xarray.Dataset
        Means over networks with their standard errors (the singular values of one network
        repel each other and are no independent samples), and theory with error and status.
        `quantile` of log s at `fraction`, the positions of single singular values; `cumulative`,
        the fraction of singular values below the theoretical quantiles; `density` of log s, and
        of s in units of the upper edge s_+, over bins and (theory) on a finer `curve`; `moment`,
        measured over theory, with the relative error of theory; `mass_at_zero`; `log_largest`,
        with the theoretical edge and `log_largest_expected` at this width; `log_singular_value`
        of every network, with its own numerical `error` and `status`.

    Convention
    ----------
    Fractions and densities refer to all singular values, including those that are zero. Every
    network has its own input of independent Gaussian pre-activations, as a layer inside a deep
    network has.

    Accuracy
    --------
    Networks of one finite width differ from theory by O(depth/width) in addition to their
    standard errors.

    Raises
    ------
    ValueError
        If an argument is out of range. The message names the argument and its allowed range.
    """
    check_count("width", width)
    check_count("replicas", replicas, 2)
    mass = float(predicted.spectrum.mass_at_zero.value)
    if mass == 1:
        raise ValueError("`weight_variance`: must be above 0 for a simulation; all J are zero")
    network, k = predicted.network, components(predicted.network)
    draw = jax.random.normal(jax.random.key(seed), (replicas, 1, width, k), dtype)
    inputs = draw * jnp.asarray(math.sqrt(predicted.length), dtype)
    sample = sample_jacobians(
        network, inputs, width=width, replicas=replicas, seed=seed, progress=progress
    )
    logs = np.asarray(sample.log_singular_values, float)

    edges = predicted.spectrum.edges
    top = float(edges.log_upper.value)
    dataset = xr.Dataset(attrs={"width": width, "replicas": replicas})
    _add_quantiles(dataset, predicted.factors, logs, mass)
    low = theory.singular_value_quantiles(
        predicted.factors, jnp.asarray([mass + _LOWEST * (1 - mass)])
    )
    _add_densities(dataset, predicted.factors, logs, mass, float(low.value[0]), top)
    _add_moments(dataset, predicted.spectrum, logs)

    _add(dataset, "mass_at_zero", (), predicted.spectrum.mass_at_zero)
    _measure(dataset, "mass_at_zero", (), np.mean(np.isneginf(logs), axis=1))
    _add(dataset, "log_largest", (), edges.log_upper)
    _measure(dataset, "log_largest", (), logs[:, 0])
    shift = AIRY_MEAN * float(edges.fluctuation.value) * (width * k) ** (-2 / 3)
    dataset["log_largest_expected"] = ((), top + shift)
    both = ("network", "index")
    dataset["log_singular_value"] = (both, logs)
    dataset["log_singular_value_error"] = ("network", np.asarray(sample.error, float))
    dataset["log_singular_value_status"] = ("network", np.asarray(sample.status))
    return dataset


def _add(dataset: xr.Dataset, name: str, dims: Any, estimate: Estimate) -> None:
    """Add theory, with error and status."""
    for part in ("value", "error", "status"):
        label = f"{name}_theory" + ("" if part == "value" else f"_{part}")
        dataset[label] = (dims, np.asarray(getattr(estimate, part)))
    flags = {"flag_values": [int(s) for s in Status]}
    flags |= {"flag_meanings": " ".join(s.name.lower() for s in Status)}
    dataset[f"{name}_theory_status"].attrs.update(flags)


def _measure(dataset: xr.Dataset, name: str, dims: Any, each: np.ndarray) -> None:
    """Add mean and standard error of the measurements of all networks; NaN if not finite."""
    each = np.where(np.all(np.isfinite(each), axis=0), each, np.nan)
    error = each.std(axis=0, ddof=1) / math.sqrt(len(each))
    dataset[f"{name}_mean"] = (dims, each.mean(axis=0))
    dataset[f"{name}_standard_error"] = (dims, error)


def _add_quantiles(
    dataset: xr.Dataset, factors: JacobianFactors, logs: np.ndarray, mass: float
) -> None:
    n = logs.shape[1]
    # The i-th largest of n is at the fraction 1 − (i + 1/2)/n.
    last = max(math.ceil(n * (1 - mass) - 0.5) - 1, 0)
    index = np.unique(np.linspace(0, last, _LEVELS).round().astype(int))[::-1]
    fraction = 1 - (index + 0.5) / n
    dataset.coords["fraction"] = fraction
    expected = theory.singular_value_quantiles(factors, jnp.asarray(fraction))
    _add(dataset, "quantile", "fraction", expected)
    _measure(dataset, "quantile", "fraction", logs[:, index])
    places = np.asarray(expected.value)
    below = np.stack([np.searchsorted(row[::-1], places) for row in logs]) / n
    _measure(dataset, "cumulative", "fraction", below)
    _measure(dataset, "cumulative_distance", (), np.max(np.abs(below - fraction), axis=1))


def _add_densities(
    dataset: xr.Dataset,
    factors: JacobianFactors,
    logs: np.ndarray,
    mass: float,
    low: float,
    top: float,
) -> None:
    span = max(top - low, 1e-3)
    # Denser towards the edge, where the density is a root.
    curve = top - span * np.linspace(1, 0, _CURVE) ** 2
    log_edges = np.linspace(low, max(top, logs.max()) + span / _BINS, _BINS + 1)
    reach = 1.02 * math.exp(max(float(logs.max()) - top, 0.0))
    edges = np.linspace(0, reach, _BINS + 1)
    places = np.concatenate([curve, log_edges, top + np.log(edges[1:])])
    found = theory.singular_value_distribution(factors, jnp.asarray(places))
    part = lambda start, stop: jax.tree.map(lambda a: a[start:stop], found)
    dataset.coords["curve"] = curve
    _add(dataset, "density", "curve", part(0, _CURVE).density)

    at, to = _CURVE, _CURVE + _BINS + 1
    bins = part(at, to).cumulative
    _add_histogram(dataset, "log_bin", log_edges, logs, np.asarray(bins.value), bins.error)
    above = part(to, None).cumulative
    value = np.concatenate([[mass], above.value])
    error = np.concatenate([[0.0], above.error])
    alive = np.where(np.isneginf(logs), np.nan, np.exp(logs - top))
    _add_histogram(dataset, "bin", edges, alive, value, error)


def _add_histogram(
    dataset: xr.Dataset, name: str, edges: np.ndarray, values: Any, cumulative: Any, error: Any
) -> None:
    """Add fractions of singular values in bins, over the width of a bin."""
    size = np.diff(edges)
    dataset.coords[name] = (edges[1:] + edges[:-1]) / 2
    dataset[f"{name}_width"] = (name, size)
    count = np.stack([np.histogram(row[~np.isnan(row)], edges)[0] for row in values])
    _measure(dataset, f"{name}_density", name, count / (values.shape[1] * size))
    error = np.asarray(error)
    dataset[f"{name}_density_theory"] = (name, np.diff(cumulative) / size)
    dataset[f"{name}_density_theory_error"] = (name, (error[1:] + error[:-1]) / size)


def _add_moments(dataset: xr.Dataset, spectrum: Spectrum, logs: np.ndarray) -> None:
    log_mean, ratios = spectrum.moments.log_mean, spectrum.moments.ratios
    order = np.arange(1, ratios.value.shape[-1] + 1)
    dataset.coords["order"] = order
    _add(dataset, "moment", "order", spectrum.moments.values)
    # Relative to theory, so that nothing overflows.
    log_moment = order * float(log_mean.value) + np.log(np.asarray(ratios.value))
    each = np.mean(np.exp(2 * order[:, None] * logs[:, None] - log_moment[:, None]), axis=2)
    _measure(dataset, "moment_relative", "order", each)
    error = order * float(log_mean.error) + np.asarray(ratios.error / ratios.value)
    dataset["moment_relative_theory_error"] = ("order", error)
