"""The figure of `sigprop spectrum`, drawn from the stored data set."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sigprop.figures._style import BLACK, BLUE, VERMILLION, WIDTH, styled, write_caption

_BARS = "#A6CBE3"


def spectrum_figure(dataset: xr.Dataset, *, caption: str = "") -> Figure:
    """Draw a data set from `spectrum_study`: densities, quantiles, moments; theory and networks."""
    with styled():
        figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
        panels = figure.subplots(2, 2)
        linear_panel(panels[0, 0], dataset)
        log_panel(panels[0, 1], dataset)
        quantile_panel(panels[1, 0], dataset)
        moment_panel(panels[1, 1], dataset)
        for letter, panel in zip("abcd", panels.flat, strict=True):
            panel.set_title(f"({letter})", loc="left")
        write_caption(figure, caption)
    return figure


def _bars(panel: Axes, dataset: xr.Dataset, name: str) -> None:
    """Histogram over networks with standard errors."""
    place, width = dataset[name].values, dataset[f"{name}_width"].values
    mean = dataset[f"{name}_density_mean"].values
    error = dataset[f"{name}_density_standard_error"].values
    panel.bar(place, mean, width, color=_BARS, lw=0, label="networks")
    panel.errorbar(place, mean, error, color=BLUE, fmt="none", elinewidth=0.7)


def linear_panel(panel: Axes, dataset: xr.Dataset) -> None:
    """The density of s in units of the upper edge."""
    top = float(dataset["log_largest_theory"])
    _bars(panel, dataset, "bin")
    x = dataset["curve"].values - top
    known = np.isfinite(dataset["density_theory_error"].values)
    density = dataset["density_theory"].values / np.exp(x)
    panel.plot(np.exp(x)[known], density[known], color=VERMILLION, label="theory")
    mean = dataset["bin_density_mean"].values
    # A smooth curve extends below the first bin; values below all bins are not drawn.
    drawn = mean[mean > 0]
    panel.set(yscale="log", ylim=(0.5 * drawn.min(), 3 * drawn.max()))
    panel.set(xlabel="singular value $s/s_+$", ylabel="density of $s/s_+$")
    panel.set_xlim(0.0, float(dataset["bin"][-1] + dataset["bin_width"][-1] / 2))
    panel.legend(frameon=False)


def log_panel(panel: Axes, dataset: xr.Dataset) -> None:
    """The density of log s, and the theoretical edges."""
    _bars(panel, dataset, "log_bin")
    known = np.isfinite(dataset["density_theory_error"].values)
    x, density = dataset["curve"].values[known], dataset["density_theory"].values[known]
    panel.plot(x, density, color=VERMILLION)
    top = float(dataset["log_largest_theory"])
    panel.axvline(top, color="0.4", lw=0.7, ls=":", label="edge $s_+$")
    ends = dataset["log_bin"].values[[0, -1]]
    margin = float(dataset["log_bin_width"][0])
    panel.set(xlim=(ends[0] - margin, ends[1] + margin))
    panel.set(xlabel=r"$\log s$", ylabel=r"density of $\log s$")
    mass = float(dataset["mass_at_zero_theory"])
    if mass > 0:
        measured = float(dataset["mass_at_zero_mean"])
        text = f"zeros: theory {mass:.3f}, networks {measured:.3f}"
        panel.text(0.03, 0.97, text, transform=panel.transAxes, va="top", fontsize=7)
    panel.legend(frameon=False, loc="center left")


def quantile_panel(panel: Axes, dataset: xr.Dataset) -> None:
    """Measured against predicted quantiles of log s."""
    x, y = dataset["quantile_theory"].values, dataset["quantile_mean"].values
    error = dataset["quantile_standard_error"].values
    known = np.isfinite(x) & np.isfinite(y)
    panel.errorbar(
        x[known], y[known], error[known], fmt="o", ms=2.5, mfc="white", color=BLUE, elinewidth=0.7
    )
    if np.any(known):
        ends = np.array([x[known].min(), x[known].max()])
        panel.plot(ends, ends, color=VERMILLION, zorder=0)
    panel.set(xlabel=r"quantiles of $\log s$, theory", ylabel=r"quantiles of $\log s$, networks")


def moment_panel(panel: Axes, dataset: xr.Dataset) -> None:
    """Moments of JJᵀ divided by their theoretical values."""
    order = dataset["order"].values
    mean = dataset["moment_relative_mean"].values
    error = dataset["moment_relative_standard_error"].values
    panel.axhline(1.0, color=VERMILLION, zorder=0)
    panel.errorbar(order, mean, error, fmt="o", ms=3, mfc="white", color=BLACK, elinewidth=0.7)
    panel.set(xlabel="order $k$", ylabel=r"$m_k$, networks/theory", xticks=order)
