"""The figure of a phase diagram, drawn from the stored data set."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, LogNorm, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path as MplPath
from matplotlib.patheffects import withStroke

from sigprop.figures._style import (
    BLACK,
    GREEN,
    MARKERS,
    ORANGE,
    PURPLE,
    SKY,
    WIDTH,
    YELLOW,
    styled,
    write_caption,
)
from theory import Phase, Stability, Status
from theory.phases import CriticalLine

_PHASES = {
    Phase.ORDERED: (SKY, "ordered"),
    Phase.CRITICAL: (GREEN, "critical"),
    Phase.CHAOTIC: (ORANGE, "chaotic"),
    Phase.DIVERGENT: (PURPLE, "divergent"),
    Phase.UNKNOWN: ("#BBBBBB", "phase unknown"),
    Phase.UNSETTLED: (YELLOW, "unsettled"),
}
_MISSING = {
    Status.INFINITE: ("white", "////", "infinite"),
    Status.ABSENT: ("#BBBBBB", "", "no such value"),
    Status.NOT_CONVERGED: ("#BBBBBB", "xxxx", "not converged"),
    Status.INVALID: ("#BBBBBB", "....", "not allowed"),
}
LABELS = {
    "weight_variance": r"weight variance $\sigma_w^2$",
    "bias_variance": r"bias variance $\sigma_b^2$",
    "length": r"length $q^*$",
    "correlation": r"correlation $c^*$",
    "slope": r"slope $\chi$",
    "depth_scale_correlation": r"depth scale $\xi_c$ (layers)",
    "depth_scale_length": r"depth scale $\xi_q$ (layers)",
    "order_parameter": r"order parameter $m$",
    "trace": r"slope $\chi$",
    "goldstone": r"rotation $\lambda_A$",
    "depth_scale_goldstone": r"depth scale $\xi_G$ (layers)",
}
_QUANTITIES = ("length", "correlation", "slope", "depth_scale_correlation", "depth_scale_length")
_SECTORS = ("length", "order_parameter", "trace", "goldstone", "depth_scale_goldstone")
_AT_LENGTH = ("slope", "trace", "goldstone")
"""Quantities that have a limit for diverging lengths, which does not belong to a fixed point."""
_DIVERGES = ("white", "\\\\\\\\", "the length diverges")


def phase_diagram_figure(
    dataset: xr.Dataset,
    line: CriticalLine | None = None,
    points: Sequence[tuple[float, float, str]] = (),
    *,
    caption: str = "",
) -> Figure:
    """Draw phases, fixed points and depth scales over two parameters.

    If the length diverges, χ and λ are those of q → ∞ and are not drawn. The edge of chaos is
    solid where its points attract lengths, and dashed where they repel them, so that no network
    is found there.

    Parameters
    ----------
    dataset
        From `theory.phase_diagram` or `theory.sector_diagram`, over two axes; the first is
        horizontal.
    line
        The edge of chaos, drawn if the axes are the two variances.
    points
        Places to mark: (horizontal, vertical, name).
    caption
        Text under the panels.

    Raises
    ------
    ValueError
        Unless the data set has two axes of two points or more.
    """
    across, up = _two_axes(dataset)
    if (across, up) != ("weight_variance", "bias_variance"):
        line = None
    quantities = _SECTORS if "goldstone" in dataset else _QUANTITIES
    with styled():
        figure = Figure(figsize=(WIDTH, 4.9), layout="constrained")
        panels = list(figure.subplots(2, 3, sharex=True, sharey=True).flat)
        shown = _phase_panel(panels[0], dataset)
        for panel, name in zip(panels[1:], quantities, strict=True):
            shown |= _quantity_panel(figure, panel, dataset, name)
        for letter, panel in zip("abcdef", panels, strict=True):
            _lines_and_points(panel, line, points)
            panel.set_title(f"({letter}) {panel.get_title('left')}", loc="left")
            panel.set(xlim=_edges(dataset[across])[[0, -1]], ylim=_edges(dataset[up])[[0, -1]])
        for panel in panels[3:]:
            panel.set_xlabel(LABELS.get(across, across))
        for panel in panels[::3]:
            panel.set_ylabel(LABELS.get(up, up))
        handles = [handle for _, handle in sorted(shown.items())] + _marks(line, points)
        long = any(len(str(handle.get_label())) > 24 for handle in handles)
        place = "outside upper center"
        figure.legend(handles=handles, loc=place, ncols=4 if long else 6, frameon=False)
        write_caption(figure, caption)
    return figure


def _two_axes(dataset: xr.Dataset) -> tuple[str, str]:
    dims = tuple(map(str, dataset["phase"].dims))
    if len(dims) != 2 or min(dataset["phase"].shape) < 2:
        raise ValueError(
            f"`dataset`: must have two axes of two points or more; got {dict(dataset.sizes)}"
        )
    return dims[0], dims[1]


def _edges(axis: xr.DataArray) -> np.ndarray:
    """The edges of the cells around the points of an axis."""
    x = axis.values
    middle = (x[1:] + x[:-1]) / 2
    return np.concatenate([[2 * x[0] - middle[0]], middle, [2 * x[-1] - middle[-1]]])


def _cells(panel: Axes, dataset: xr.Dataset, values: Any, **style: Any):
    across, up = _two_axes(dataset)
    x, y = _edges(dataset[across]), _edges(dataset[up])
    return panel.pcolormesh(x, y, values.T, rasterized=True, **style)


def _phase_panel(panel: Axes, dataset: xr.Dataset) -> dict[Any, Any]:
    values = dataset["phase"].values
    colours = ListedColormap([colour for colour, _ in _PHASES.values()])
    _cells(panel, dataset, values, cmap=colours, norm=Normalize(-0.5, len(Phase) - 0.5))
    panel.set_title("phase", loc="left")
    present = [phase for phase in Phase if np.any(values == phase)]
    return {(0, int(p)): Patch(facecolor=_PHASES[p][0], label=_PHASES[p][1]) for p in present}


def _quantity_panel(figure: Figure, panel: Axes, dataset: xr.Dataset, name: str) -> dict[Any, Any]:
    status = dataset[f"{name}_status"].values
    limit = (dataset["phase"].values == Phase.DIVERGENT) & (name in _AT_LENGTH)
    values = np.where((status <= Status.INACCURATE) & ~limit, dataset[name].values, np.nan)
    values = np.where(np.isfinite(values), values, np.nan)
    panel.set_title(LABELS[name], loc="left")
    if np.any(np.isfinite(values)):
        norm, colours, extend = _scale(name, values)
        low = norm.vmin if isinstance(norm, LogNorm) else None
        image = _cells(panel, dataset, np.clip(values, low, None), cmap=colours, norm=norm)
        figure.colorbar(image, ax=panel, extend=extend, pad=0.02, aspect=25)
    shown = {}
    kinds = [(int(kind), (status == kind) & ~limit, look) for kind, look in _MISSING.items()]
    for rank, where, (colour, hatch, text) in [*kinds, (len(Status), limit, _DIVERGES)]:
        if np.any(where):
            style: dict[str, Any] = {"facecolor": colour, "hatch": hatch, "edgecolor": "#555555"}
            panel.add_patch(PathPatch(_outline(dataset, where), linewidth=0, **style))
            shown[1, rank] = Patch(label=text, linewidth=0.5, **style)
    return shown


def _outline(dataset: xr.Dataset, where: np.ndarray) -> MplPath:
    """The cells that are True, as one path with one hatch, which is drawn at once."""
    x, y = (_edges(dataset[name]) for name in _two_axes(dataset))
    i, j = np.nonzero(where)
    corners = [(x[i + a], y[j + b]) for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))]
    return MplPath.make_compound_path_from_polys(np.moveaxis(np.array(corners), -1, 0))


def _scale(name: str, values: np.ndarray) -> tuple[Normalize, str | Colormap, str]:
    """The colour scale of a quantity, and at which end values exceed it."""
    finite = values[np.isfinite(values)]
    low, high = float(finite.min()), float(finite.max())
    positive = finite[finite > 0]
    if name in ("slope", "trace"):
        return TwoSlopeNorm(1.0, min(low, 0.5), max(high, 1.5)), "PuOr_r", "neither"
    if name in ("correlation", "order_parameter", "goldstone"):
        return Normalize(min(low, 0.0), max(high, 1.0)), "viridis", "neither"
    if positive.size and (name != "length" or high > 100 * float(np.median(positive))):
        top = float(np.quantile(positive, 0.995))
        bottom = max(float(np.quantile(positive, 0.005)), top / 1e6)
        if top < 20 * bottom:
            return Normalize(0.0, top), "plasma", "max" if high > top else "neither"
        beyond = {(False, False): "neither", (True, False): "min", (False, True): "max"}
        extend = beyond.get((low < bottom, high > top), "both")
        return LogNorm(bottom, top), "plasma", extend
    return Normalize(min(low, 0.0), high if high > 0 else 1.0), "viridis", "neither"


def _pieces(line: CriticalLine) -> list[tuple[str, Literal["-", "--"], np.ndarray]]:
    """Label, line style and points for each kind of piece of the edge of chaos."""
    kinds = np.asarray(line.stability)
    shown = np.isfinite(np.asarray(line.bias_variance.value))
    repels = (kinds == Stability.UNSTABLE) & shown
    rest = shown & ~repels
    repels |= rest & (np.convolve(repels, [1, 1, 1], "same") > 0)  # so that the pieces meet
    pieces: list[tuple[str, Literal["-", "--"], np.ndarray]] = [
        (r"edge of chaos, $\chi=1$", "-", rest),
        (r"$\chi=1$ at a length that repels", "--", repels),
    ]
    return [piece for piece in pieces if np.any(piece[2])]


def _lines_and_points(
    panel: Axes, line: CriticalLine | None, points: Sequence[tuple[float, float, str]]
) -> None:
    if line is not None:
        x, y = np.asarray(line.weight_variance.value), np.asarray(line.bias_variance.value)
        for _, style, own in _pieces(line):
            up = np.where(own, y, np.nan)
            halo = [withStroke(linewidth=2.2, foreground="white")]
            panel.plot(x, up, style, color=BLACK, linewidth=1.1, path_effects=halo)
    for (x, y, _), marker in zip(points, MARKERS, strict=False):
        panel.plot(
            x, y, marker, color="white", markersize=5.5, markeredgecolor=BLACK, clip_on=False
        )


def _marks(line: CriticalLine | None, points: Sequence[tuple[float, float, str]]) -> list[Line2D]:
    marks = []
    for label, style, _ in _pieces(line) if line is not None else []:
        marks.append(Line2D([], [], color=BLACK, linestyle=style, linewidth=1.1, label=label))
    for (_, _, name), marker in zip(points, MARKERS, strict=False):
        marks.append(
            Line2D([], [], marker=marker, color="white", markeredgecolor=BLACK, label=name)
        )
    return marks
