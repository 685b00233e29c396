"""The figure of `sigprop goldstone`, drawn from the stored data set."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sigprop.figures._phase_diagram_figure import LABELS
from sigprop.figures._style import BLACK, BLUE, GREEN, VERMILLION, WIDTH, styled, write_caption

SECTORS = (
    ("trace", VERMILLION, "-", r"distance, $\chi$"),
    ("symmetric_traceless", GREEN, "--", "shear"),
    ("goldstone", BLUE, "-", r"rotation, $\lambda_A$"),
)
PAIRS = {
    "related": (BLUE, "o", r"rotated copy, $c_0=1$"),
    "generic": (VERMILLION, "s", r"generic, $c_0=0.9$"),
}
POINTS: dict[str, Any] = {"ms": 3, "mfc": "white", "elinewidth": 0.7, "linestyle": "none"}
_RESOLVED = 4.0
"""Least overlap, in standard errors, at which an angle is drawn."""


def goldstone_figure(dataset: xr.Dataset, *, caption: str = "") -> Figure:
    """Draw a data set from `goldstone_study`.

    Panels show order parameter, multipliers, exponents, two pairs of inputs through depth, and the
    certificate.
    """
    with styled():
        figure = Figure(figsize=(WIDTH, 4.9), layout="constrained")
        panels = figure.subplots(2, 3)
        order_parameter_panel(panels[0, 0], dataset)
        multipliers_panel(panels[0, 1], dataset)
        exponents_panel(panels[0, 2], dataset)
        for pair in dataset["pair"].values:
            pair_panels(panels[1, 0], panels[1, 1], dataset.sel(pair=pair), *PAIRS[str(pair)])
        _scales(panels[1, 0], panels[1, 1], dataset)
        certificate_panel(panels[1, 2], dataset)
        for letter, panel in zip("abcdef", panels.flat, strict=True):
            panel.set_title(f"({letter})", loc="left")
        for panel in (panels[0, 1], panels[1, 2]):
            panel.legend(frameon=False)
        # Error bars grow upwards and downwards with the layer; nothing is near an angle of 0.
        panels[1, 1].legend(frameon=False, loc="lower left")
        write_caption(figure, caption)
    return figure


def order_parameter_panel(
    panel: Axes, dataset: xr.Dataset, color: str = BLUE, marker: str = "o", label: str = ""
) -> None:
    """m = E g(|z|) against weight variance: theory, and networks of one width."""
    name = "order_parameter"
    panel.plot(dataset["weight_variance"], dataset[name], color=color, label=label or None)
    panel.errorbar(
        dataset["sampled_weight_variance"],
        dataset[f"sampled_{name}"],
        dataset[f"sampled_{name}_standard_error"],
        marker=marker,
        color=color,
        **POINTS,
    )
    panel.set(xlabel=LABELS["weight_variance"], ylabel=r"order parameter $m=\mathrm{E}\,g(|z|)$")


def multipliers_panel(panel: Axes, dataset: xr.Dataset) -> None:
    """Factors per layer on a small difference of two inputs, by sector."""
    for name, color, style, label in SECTORS:
        if np.any(np.isfinite(dataset[name])):
            panel.plot(dataset["weight_variance"], dataset[name], style, color=color, label=label)
    panel.axhline(1.0, color="0.7", lw=0.8, zorder=0)
    panel.set(xlabel=LABELS["weight_variance"], ylabel="multiplier per layer")


def exponents_panel(panel: Axes, dataset: xr.Dataset) -> None:
    """Leading exponents of one network; filled if they are aligned with the generators."""
    index = np.arange(1, dataset.sizes["direction"] + 1)
    value, error = dataset["exponent"].values, dataset["exponent_standard_error"].values
    aligned = dataset["exponent_alignment"].values > 0.5
    for own, face, label in ((True, BLUE, "along generators"), (False, "white", "other")):
        at = aligned == own
        panel.errorbar(
            index[at],
            value[at],
            error[at],
            marker="o",
            color=BLUE,
            **{**POINTS, "mfc": face},
            label=label if np.any(at) else None,
        )
    panel.axhline(0.0, color="0.7", lw=0.8, zorder=0)
    panel.set(xlabel="index $i$", ylabel=r"exponent $\lambda_i$ (per layer)")
    panel.legend(frameon=False)


def pair_panels(
    overlap: Axes, rotation: Axes, pair: xr.Dataset, color: str, marker: str, label: str
) -> None:
    """Overlap and relative rotation of one pair of inputs, layer by layer."""
    layer = pair["layer"].values
    some = np.unique(np.linspace(0, len(layer) - 1, 13).round().astype(int))
    value = lambda name: pair[name].values
    long = value("overlap_mean") > _RESOLVED * value("overlap_standard_error")
    rotated = np.abs(value("rotation_mean")) > 2 * value("rotation_standard_error")
    for panel, name, seen in ((overlap, "overlap", long), (rotation, "rotation", long & rotated)):
        exact = np.abs(value(f"{name}_theory"))
        known = value(f"{name}_theory_error") < 0.1 * exact
        panel.plot(layer[known], exact[known], color=color, label=label)
        at = some[seen[some]]
        mean, error = np.abs(value(f"{name}_mean")), value(f"{name}_standard_error")
        panel.errorbar(layer[at], mean[at], error[at], marker=marker, color=color, **POINTS)
        panel.set_xlabel("layer $l$")
    overlap.set(ylabel=r"overlap $|C_l|/q_l$", yscale="log")
    rotation.set_ylabel(r"relative rotation $\theta_l$ (rad)")


def _scales(overlap: Axes, rotation: Axes, dataset: xr.Dataset) -> None:
    """Use a logarithmic scale if something decays, down to what networks can resolve."""
    mean, error = dataset["overlap_mean"], dataset["overlap_standard_error"]
    lowest = float(mean.where(mean > _RESOLVED * error).min())
    overlap.set_ylim(0.4 * lowest, 1.5)
    scale = float(dataset["rotation_scale"])
    if not np.isfinite(scale):
        rotation.set_ylim(0.0, 1.6 * float(dataset["rotation_theory"][0, 0]))
        return
    rotation.set(yscale="log", ylim=(float(dataset["rotation_standard_error"].min()), 3.0))
    exact = np.abs(dataset["rotation_theory"].sel(pair="generic").values)
    layer = dataset["layer"].values
    first = min(len(layer) - 1, round(scale))
    guide = 0.6 * exact[first] * np.exp(-(layer[first:] - first) / scale)
    rotation.plot(layer[first:], guide, ":", color="0.4", label=rf"$e^{{-l/{scale:.3g}}}$")


def certificate_panel(panel: Axes, dataset: xr.Dataset) -> None:
    """The residual of J(Ax) = A f(x), and the part that rounding explains."""
    index = np.arange(1, dataset.sizes["generator"] + 1)
    residual = dataset["certificate_residual"].values
    claim = dataset["certificate_claim"].values
    floor = 1e-17
    panel.plot(index, np.maximum(residual, floor), "o", color=BLUE, ms=3, label="residual")
    panel.plot(index, claim, "_", color=BLACK, ms=8, label="explained by rounding")
    panel.set(xlabel="generator", ylabel=r"$|J(Ax)-Af|/|Af|$", yscale="log")
    panel.set_xlim(0.5, len(index) + 0.5)
    panel.set_xticks(index if len(index) <= 12 else index[:: -(-len(index) // 12)])
