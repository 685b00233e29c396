"""The figure of a comparison, drawn from the stored data set."""

from collections.abc import Sequence
from itertools import cycle
from string import ascii_lowercase
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sigprop.comparison import Comparison, comparison_dataset
from sigprop.figures._style import (
    BLACK,
    BLUE,
    GREEN,
    MARKERS,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    WIDTH,
    styled,
    write_caption,
)
from theory import OBSERVABLES


def comparison_figure(comparison: Comparison | xr.Dataset, *, caption: str = "") -> Figure:
    """Draw theory and simulation layer by layer, and their distance.

    One panel per observable shows its first cell (input 1, inputs 1 and 2); the last panel
    shows z of every cell.
    """
    given = isinstance(comparison, xr.Dataset)
    dataset = comparison if given else comparison_dataset(comparison)
    ends = "_theory"
    names = [str(n).removesuffix(ends) for n in dataset.data_vars if str(n).endswith(ends)]
    place = {name: i for i, name in enumerate(OBSERVABLES)}  # stores sort by name
    names.sort(key=lambda name: place.get(name, len(place)))
    rows = -(-len(names) // 2)
    with styled():
        figure = Figure(figsize=(WIDTH, 1.75 * rows + 2.5), layout="constrained")
        grid = figure.add_gridspec(rows + 1, 2)
        for i, name in enumerate(names):
            panel = figure.add_subplot(grid[i // 2, i % 2])
            _layers_panel(panel, dataset, name)
            panel.set_ylabel(_label(dataset, name))
            panel.set_title(f"({ascii_lowercase[i]})", loc="left")
        panel = figure.add_subplot(grid[rows, :])
        _z_panel(panel, dataset, names)
        panel.set_title(
            f"({ascii_lowercase[len(names)]}) $N\\to\\infty$ against theory", loc="left"
        )
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=6, frameon=False)
        write_caption(figure, caption)
    return figure


def _layers_panel(panel: Axes, dataset: xr.Dataset, name: str) -> None:
    layer = dataset[f"{name}_layer"].values
    first = {part: dataset[f"{name}_{part}"].values[..., 0] for part in _PARTS}
    theory, bound = first["theory"], first["theory_error"]
    panel.fill_between(layer, theory - bound, theory + bound, color="#AAAAAA", linewidth=0)
    panel.plot(layer, theory, color=BLACK, linewidth=1, label="theory", zorder=4)
    widths = dataset["width"].values
    colours = mpl.colormaps["viridis"](np.linspace(0.1, 0.85, len(widths)))
    series = len(widths) + 1
    style: dict[str, Any] = {"linestyle": "none", "markersize": 2.6, "elinewidth": 0.7}
    for i, width in enumerate(widths):
        at, place = _places(layer, i, series)
        panel.errorbar(
            place,
            first["mean"][i][at],
            first["standard_error"][i][at],
            marker=MARKERS[i % len(MARKERS)],
            color=colours[i],
            label=f"$N={width}$",
            **style,
        )
    at, place = _places(layer, len(widths), series)
    panel.errorbar(
        place,
        first["extrapolated"][at],
        first["extrapolated_standard_error"][at],
        marker="D",
        color=VERMILLION,
        markerfacecolor="white",
        label=r"$N\to\infty$",
        zorder=5,
        **style,
    )
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_xlabel("layer $l$")


def _label(dataset: xr.Dataset, name: str) -> str:
    return dataset[f"{name}_theory"].attrs.get("long_name", name)


def _places(layer: np.ndarray, i: int, series: int) -> tuple[np.ndarray, np.ndarray]:
    """Which layers series i of several shows, and where, so that no marker hides another.

    In shallow networks it shows all layers, slightly displaced; in deep ones each series has its
    own layers.
    """
    if len(layer) <= 5 * series:
        at = np.arange(len(layer))
        return at, layer + 0.6 * ((i + 0.5) / series - 0.5)
    at = np.arange(0, len(layer), max(1, len(layer) // (14 * series)))[i::series]
    return at, layer[at]


_PARTS = (
    "theory",
    "theory_error",
    "mean",
    "standard_error",
    "extrapolated",
    "extrapolated_standard_error",
)


def _z_panel(panel: Axes, dataset: xr.Dataset, names: Sequence[str]) -> None:
    threshold = float(dataset.attrs["threshold"])
    largest = threshold
    colours = cycle((BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK))
    for name, marker, colour in zip(names, cycle(MARKERS), colours, strict=False):
        z = dataset[f"{name}_z"].values
        layer = np.broadcast_to(dataset[f"{name}_layer"].values[:, None], z.shape)
        label = _label(dataset, name).partition(" $")[0]
        panel.plot(layer.ravel(), z.ravel(), marker, markersize=2, color=colour, label=label)
        largest = max(largest, float(np.max(np.abs(z[np.isfinite(z)]), initial=0)))
    panel.axhline(0, color=BLACK, linewidth=0.6)
    for sign in (-1, 1):
        label = f"threshold $\\pm{threshold:.2f}$" if sign > 0 else None
        panel.axhline(sign * threshold, color=BLACK, linestyle="--", linewidth=0.8, label=label)
    panel.set(
        xlabel="layer $l$", ylabel="$z$ (standard errors)", ylim=(-1.2 * largest, 1.2 * largest)
    )
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.01, 0.97), "ncols": 5}
    panel.legend(frameon=False, columnspacing=1.2, handletextpad=0.3, **place)
