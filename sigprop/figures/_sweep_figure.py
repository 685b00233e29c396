"""One observable of a sweep against one of its axes: simulation as points, theory as lines."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from sigprop.figures._style import BLACK, styled, write_caption
from sigprop.sweeps import Absent, Sweep, sweep_theory

AXIS_LABELS = {
    "weight_variance": r"weight variance $\sigma_w^2$",
    "bias_variance": r"bias variance $\sigma_b^2$",
    "width": "width $N$",
    "depth": "depth $L$",
    "layer": "layer $l$",
    "input_length": "length of the inputs $q$",
    "input_correlation": "correlation of the inputs $c$",
}
_SHORT = {
    "weight_variance": r"$\sigma_w^2$",
    "bias_variance": r"$\sigma_b^2$",
    "width": "$N$",
    "depth": "$L$",
    "layer": "$l$",
}
_CONTINUOUS = ("weight_variance", "bias_variance", "input_length", "input_correlation")
_LINE = 49
"""Number of points of a theoretical line."""
_MARKERS = "os^vDP*X"


@dataclass(frozen=True)
class View:
    """The part of a sweep that is shown."""

    observable: str
    against: str
    by: str | None
    """The axis that distinguishes the series."""
    at: Mapping[str, Any]
    """Values of all other axes and of the layer."""
    input: int = 0
    """Which input, or pair of inputs."""
    label: str = ""
    """Symbol of the observable, for the axis."""


@dataclass(frozen=True)
class Series:
    """One line of points."""

    label: Any
    """The value on the axis `View.by`, None without one."""
    x: list[Any]
    networks: list[int]
    mean: np.ndarray
    standard_error: np.ndarray
    theory: np.ndarray
    """Theory at the same x."""
    line: tuple[list[Any], np.ndarray]
    """Theory at more x, for drawing."""


def choose(
    sweep: Sweep,
    observable: str | None,
    against: str | None,
    by: str | None,
    at: Mapping[str, Any],
    index: int,
) -> View:
    """Choose a view of a sweep; by default the first possibility.

    Raises
    ------
    ValueError
        If something is not in the sweep. The message names it.
    """
    absent = [record.name for record in sweep.records if isinstance(record.of, Absent)]
    names = [record.name for record in sweep.records if record.name not in absent]
    observable = (names or absent)[0] if observable is None else observable
    if observable in absent:
        raise ValueError(
            f"`observable`: must have a function that is loaded, for its theory: one of "
            f"{', '.join(names) or 'none here'}; got {observable}, a function of your own"
        )
    if observable not in names:
        raise ValueError(f"`observable`: must be one of {', '.join(names)}; got {observable}")
    axes = {**sweep.axes, "layer": sweep.kept_layers}
    long = [name for name, values in sweep.axes.items() if len(values) > 1]
    free = [name for name in long if name not in at]
    against = against or (free[-1] if free else "layer")
    for name, value in (("against", against), ("by", by)):
        if value is not None and value not in axes:
            raise ValueError(f"`{name}`: must be one of {', '.join(axes)}; got {value}")
    if by is None:
        by = next((name for name in free if name != against), None)
    if by == against:
        raise ValueError(f"`by`: must be another axis than {against}; got {by}")
    fixed: dict[str, Any] = {}
    for name, values in axes.items():
        if name in (against, by):
            continue
        default = values[-1] if name == "layer" else values[0]
        fixed[name] = _nearest(name, values, at[name]) if name in at else default
    for name in at:
        if name not in axes or name in (against, by):
            others = [key for key in axes if key not in (against, by)]
            raise ValueError(f"`at`: must name some of {', '.join(others)}; got {name}")
    cells = sweep.cells(sweep.record(observable))
    if not 0 <= index < cells:
        raise ValueError(f"`input`: must be from 0 to {cells - 1}; got {index}")
    return View(observable, against, by, fixed, index, sweep.record(observable).label)


def _nearest(name: str, values: tuple, wanted: Any) -> Any:
    for value in values:
        same = str(value).lower() == str(wanted).lower()
        with_rounding = False
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            try:
                with_rounding = bool(np.isclose(value, float(wanted), rtol=1e-6, atol=1e-12))
            except ValueError:
                with_rounding = False
        if same or with_rounding:
            return value
    if name == "layer" and str(wanted).startswith("-"):  # from the last one
        with suppress(ValueError, IndexError):
            return values[int(wanted)]
    shown = ", ".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in values)
    raise ValueError(f"`at`: must have a {name} of {shown}; got {wanted}")


def series_of(sweep: Sweep, summary: xr.Dataset, view: View) -> list[Series]:
    """The numbers of a view, with theory."""
    axes = {**sweep.axes, "layer": sweep.kept_layers}
    labels = axes[view.by] if view.by is not None else (None,)
    xs = list(axes[view.against])
    found = []
    for label in labels:
        here = {**view.at, **({view.by: label} if view.by is not None else {})}
        place = {name: axes[name].index(value) for name, value in here.items()}
        last = sweep.record(view.observable).dimension
        pick = lambda name, place=place, last=last: (
            summary[name].isel({**place, last: view.input}).transpose(view.against).values
        )
        grid = {name: i for name, i in place.items() if name != "layer"}
        networks = summary["networks"].isel(grid)
        counts = [int(n) for n in np.broadcast_to(networks.values, (len(xs),))]
        theory = _theory(sweep, view, here, xs)
        line = (xs, theory)
        if view.against in _CONTINUOUS and 1 < len(xs) < _LINE:
            fine = sorted({*xs, *np.linspace(min(xs), max(xs), _LINE).tolist()})
            line = (fine, _theory(sweep, view, here, fine))
        mean, error = pick(view.observable), pick(f"{view.observable}_standard_error")
        found.append(Series(label, xs, counts, mean, error, theory, line))
    return found


def _theory(sweep: Sweep, view: View, here: Mapping[str, Any], xs: list[Any]) -> np.ndarray:
    point = {name: here.get(name, sweep.values(name)[0]) for name in sweep.axis_names}
    whole = lambda at: sweep_theory(sweep, view.observable, at)[:, view.input]
    if view.against == "layer":
        return whole(point)
    layer = sweep.kept_layers.index(here["layer"])
    if view.against == "width":
        return np.full(len(xs), whole(point)[layer])
    return np.array([whole({**point, view.against: x})[layer] for x in xs])


def sweep_figure(view: View, series: list[Series], caption: str) -> Figure:
    """Draw a view: means with one standard error as points, theory as lines."""
    numeric = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in series[0].x)
    with styled():
        figure = Figure(figsize=(7.0, 3.6), layout="constrained")
        panel = figure.subplots()
        colours = mpl.colormaps["viridis"](np.linspace(0.0, 0.85, len(series)))
        place = {x: i for i, x in enumerate(series[0].x)}
        across = lambda xs: np.array(xs, float) if numeric else np.array([place[x] for x in xs])
        panel.plot([], [], color=BLACK, linewidth=1, label=r"theory, $N\to\infty$")
        label = r"simulation, $\pm 1$ standard error"
        panel.errorbar([], [], [], marker="o", markersize=3, color=BLACK, ls="none", label=label)
        for i, one in enumerate(series):
            colour = BLACK if view.by is None else colours[i]
            x, order = across(one.line[0]), np.argsort(across(one.line[0]))
            if view.by != "width":
                panel.plot(x[order], one.line[1][order], color=colour, linewidth=1)
            elif i == 0:  # theory does not depend on the width
                panel.plot(x[order], one.line[1][order], color=BLACK, linewidth=1)
            name = None if view.by is None else _SHORT.get(view.by, view.by)
            panel.errorbar(
                across(one.x),
                one.mean,
                one.standard_error,
                linestyle="none",
                marker=_MARKERS[i % len(_MARKERS)],
                markersize=3,
                capsize=1.5,
                elinewidth=0.8,
                color=colour,
                label=None if name is None else f"{name} = {_text(one.label)}",
            )
        if numeric and view.against in ("width", "depth") and len(series[0].x) > 1:
            panel.set_xscale("log")
        if not numeric:
            panel.set_xticks(np.arange(len(series[0].x)), [_text(x) for x in series[0].x])
        panel.set_xlabel(AXIS_LABELS.get(view.against, view.against))
        panel.set_ylabel(view.label)
        figure.legend(loc="outside right upper", frameon=False)
        write_caption(figure, caption)
    return figure


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def caption_of(sweep: Sweep, view: View, series: list[Series]) -> str:
    """Describe a view, for the text under its figure."""
    fixed = {name: sweep.values(name)[0] for name in sweep.axis_names if name not in sweep.axes}
    fixed = {name: value for name, value in {**fixed, **view.at}.items() if value is not None}
    words = ["described"] * (sweep.description is not None)
    words += [f"{fixed[n]}" for n in ("activation", "weights") if n in fixed]
    words += ["residual"] if fixed.get("residual") else []
    shown = [f"{_SHORT[n]}$=${_text(fixed[n])}" for n in _SHORT if n in fixed]
    layer = fixed.get("layer")
    if layer is not None and layer < 0:
        shown = [s for s in shown if not s.startswith("$l$")] + [f"layer {layer} from the last"]
    counts = {n for one in series for n in one.networks}
    networks = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    kind = f"{sweep.symmetry} " if sweep.symmetry else ""
    length, correlation = (
        _text(fixed[n]) if n in fixed else "on the axis"
        for n in ("input_length", "input_correlation")
    )
    inputs = f"inputs of length {length}"
    if sweep.inputs == "gram":
        inputs = f"two inputs of length {length} and correlation {correlation}"
    return (
        f"{kind}{' '.join(words)} networks, {', '.join(shown)}; {inputs}; "
        f"means over {networks} networks ({sweep.dtype}, seed {sweep.seed})."
    )
