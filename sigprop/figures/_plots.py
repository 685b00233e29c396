"""Figures of phase diagrams and of comparisons, drawn from the data sets that are stored."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from string import ascii_lowercase
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, LogNorm, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path as MplPath
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from sigprop.comparison import Comparison, comparison_dataset
from theory import OBSERVABLES, CriticalLine, Phase, Stability, Status

WIDTH = 7.0
"""Inches across two columns of a journal."""
_CAPTION = 132
"""Characters in a line of a caption of that width."""

# Okabe and Ito's colours, told apart by colour-blind readers.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"

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
"""What has a limit for diverging lengths, which belongs to no fixed point."""
_DIVERGES = ("white", "\\\\\\\\", "the length diverges")
_MARKERS = "os^vP*X"


@contextmanager
def styled() -> Iterator[None]:
    """The look of the figures; wanted while they are drawn and while they are saved."""
    look: dict[Any, Any] = {
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "legend.fontsize": 7,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "axes.linewidth": 0.6,
        "hatch.linewidth": 0.4,
        "pdf.fonttype": 42,
    }
    with mpl.rc_context(look):
        yield


def phase_diagram_figure(
    dataset: xr.Dataset,
    line: CriticalLine | None = None,
    points: Sequence[tuple[float, float, str]] = (),
    *,
    caption: str = "",
) -> Figure:
    """Draw phases, fixed points and depth scales over two parameters.

    Where the length diverges χ and λ are those of q → ∞ and not drawn. The edge of chaos is
    solid where its points attract lengths, dashed where they repel them: no network comes to
    rest there.

    Parameters
    ----------
    dataset
        Made by `theory.phase_diagram` or `theory.sector_diagram` over two axes, the first of
        which is drawn across.
    line
        The edge of chaos, drawn where the axes are the two variances.
    points
        Places to mark: (across, up, name).
    caption
        Text under the panels.

    Raises
    ------
    ValueError
        If the data set has not two axes of two points or more.
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


def comparison_figure(comparison: Comparison | xr.Dataset, *, caption: str = "") -> Figure:
    """Draw theory and simulation layer by layer, and how far apart they are.

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
    """The cells that are True, as one path: one hatch, which is drawn at once."""
    x, y = (_edges(dataset[name]) for name in _two_axes(dataset))
    i, j = np.nonzero(where)
    corners = [(x[i + a], y[j + b]) for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))]
    return MplPath.make_compound_path_from_polys(np.moveaxis(np.array(corners), -1, 0))


def _scale(name: str, values: np.ndarray) -> tuple[Normalize, str | Colormap, str]:
    """The colour scale of a quantity, and at which end values go beyond it."""
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
    """Label, line style and which points of the edge of chaos are of a kind."""
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
    for (x, y, _), marker in zip(points, _MARKERS, strict=False):
        panel.plot(
            x, y, marker, color="white", markersize=5.5, markeredgecolor=BLACK, clip_on=False
        )


def _marks(line: CriticalLine | None, points: Sequence[tuple[float, float, str]]) -> list[Line2D]:
    marks = []
    for label, style, _ in _pieces(line) if line is not None else []:
        marks.append(Line2D([], [], color=BLACK, linestyle=style, linewidth=1.1, label=label))
    for (_, _, name), marker in zip(points, _MARKERS, strict=False):
        marks.append(
            Line2D([], [], marker=marker, color="white", markeredgecolor=BLACK, label=name)
        )
    return marks


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
            marker=_MARKERS[i % len(_MARKERS)],
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

    In shallow networks that is all layers, a little to the side; in deep ones each series has
    layers of its own.
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
    for name, marker, colour in zip(names, cycle(_MARKERS), colours, strict=False):
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


def write_caption(figure: Figure, caption: str) -> None:
    lines = [textwrap.fill(part, _CAPTION) for part in caption.splitlines()]
    if lines:
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=7)
