"""The command `phase-diagram`."""

import importlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.commands import _output as out
from sigprop.commands._jax import set_up
from sigprop.commands._network import Structure
from sigprop.commands._output import checked
from sigprop.commands._requests import axis_values, check_positive

if TYPE_CHECKING:
    import xarray as xr

    from theory import Part
    from theory.numerics import Progress, Report
    from theory.phases import CriticalLine


def phase_diagram(
    network: Structure, ranges: Mapping[str, str], start: float, output: Path | None, json: bool
) -> int:
    """Compute, draw and store a phase diagram over the two variances."""
    axes = {name: axis_values(f"--{name.replace('_', '-')}", text) for name, text in ranges.items()}
    check_positive("--start-length", start)
    set_up()
    asked = {**network.as_parameters(), **ranges, "start_length": start}
    # One point of the plane, to check arguments before anything is computed.
    layer = network.layer_with(1.0, 0.0)
    folder = out.output_folder(output, "phase-diagram", ["phase_diagram"], ["phase_diagram"])
    with out.progress_bars(json) as progress:
        dataset, line = diagram(
            layer, axes, symmetric=network.symmetric, start=start, progress=progress
        )
    size = " × ".join(str(len(values)) for values in axes.values())
    caption = (
        f"{network.kind} networks of infinite width: mean-field theory at "
        f"{size} points, fixed points reached from length {start:g}."
    )
    from sigprop.storage import provenance

    origin = provenance(command="phase-diagram", **asked)
    files = store_diagram(dataset, line, folder, caption, origin)
    phases = count_flags(dataset["phase"])
    names = [name for name in dataset if f"{name}_status" in dataset]
    statuses = {str(name): count_flags(dataset[f"{name}_status"]) for name in names}
    found: dict[str, Any] = {"phases": phases, "statuses": statuses}
    words = ", ".join(f"{count} {phase}" for phase, count in phases.items() if count)
    if "symmetry_phase" in dataset:
        found["symmetry_phases"] = split = count_flags(dataset["symmetry_phase"])
        kinds = (f"{count} {kind}" for kind, count in split.items() if count)
        words += f"; symmetry: {', '.join(kinds)}"
    columns = [status.replace("_", " ") for status in statuses["length"]]
    rows = out.table(f"{network.kind}: {size} points", "", *columns)
    for name, counts in statuses.items():
        rows.add_row(name.replace("_", " "), *map(str, counts.values()))
    out.report(found, files, asked, lambda: [rows, f"phases: {words}"], folder, json)
    return 0


def diagram(
    layer: "Part",
    axes: Mapping[str, Any],
    *,
    symmetric: bool = False,
    start: float = 1.0,
    progress: "Report",
) -> "tuple[xr.Dataset, CriticalLine | None]":
    """A phase diagram over the two variances of a layer, and its edge of chaos if it is known."""
    import jax

    import theory
    from theory.description import components, with_variances

    def advance(now: "Progress") -> None:
        if now.done == 0:
            threading.Thread(target=_import_writers).start()
        progress(now)

    build = jax.tree_util.Partial(with_variances, layer)
    compute = theory.sector_diagram if symmetric else theory.phase_diagram
    with checked(build="network", layer="network", anything="network"):
        dataset = compute(build, axes, start=start, progress=advance)
    match layer:
        case theory.Chain(parts=(theory.Pointwise(activation=phi), theory.Affine())):
            lengths = np.geomspace(1e-8, 1e4, 600)
            return dataset, theory.critical_line(phi, lengths, components=components(layer))
        case _:
            return dataset, None


def _import_writers() -> None:
    """Import xarray and the figures, which takes seconds; two threads must not do it at once."""
    for name in ("figure", "backends.backend_agg", "backends.backend_pdf"):
        importlib.import_module(f"matplotlib.{name}")


def store_diagram(
    dataset: "xr.Dataset",
    line: "CriticalLine | None",
    folder: Path,
    caption: str,
    origin: Mapping[str, Any],
    points: Any = (),
) -> list[str]:
    """Write the data and the figure of a phase diagram, and return the paths."""
    from sigprop.figures import phase_diagram_figure
    from theory import Stability

    if line is not None:
        dataset = dataset.assign_coords(critical_length=np.asarray(line.length))
        for name in ("weight_variance", "bias_variance"):
            values = np.asarray(getattr(line, name).value)
            dataset[f"critical_{name}"] = ("critical_length", values)
        kinds = list(Stability)
        flags = {
            "flag_values": [int(kind) for kind in kinds],
            "flag_meanings": " ".join(kind.name.lower() for kind in kinds),
        }
        dataset["critical_stability"] = ("critical_length", np.asarray(line.stability), flags)
    draw = lambda: phase_diagram_figure(dataset, line, points, caption=caption)
    return out.store(dataset, draw, folder, "phase_diagram", origin)


def count_flags(flags: "xr.DataArray") -> dict[str, int]:
    """Count how often each meaning of an integer array occurs."""
    meanings = zip(flags.attrs["flag_values"], flags.attrs["flag_meanings"].split(), strict=True)
    return {meaning: int((flags == value).sum()) for value, meaning in meanings}
