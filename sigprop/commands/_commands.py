"""What the commands `predict`, `phase-diagram` and `compare` do."""

import importlib
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.commands import _output as out
from sigprop.commands._network import Network, Structure
from sigprop.commands._output import checked
from sigprop.commands._requests import Inputs, Run, axis_values, check_depth, check_positive

if TYPE_CHECKING:
    import xarray as xr

    from sigprop.comparison import Comparison
    from theory import CriticalLine, Estimate, Part, Prediction
    from theory.numerics import Progress, Report

ESTIMATES = (
    "length",
    "slope",
    "correlation",
    "separation",
    "multiplier",
    "correlation_slope",
    "depth_scale_length",
    "depth_scale_correlation",
)
"""The fields of a prediction, in the order in which they are printed."""
PRECISION = "highest"
"""Of every matrix product."""


def set_up() -> None:
    """The configuration of JAX in this program: float64, matrix products in full, and programs
    that were compiled before read from the user's cache folder."""
    out.note("loading JAX; what is not in the cache of compiled programs is compiled first")
    import jax

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", PRECISION)
    folder = os.environ.get(CACHE, "")
    known: Any = jax.config
    if folder == "off" or known.jax_compilation_cache_dir is not None:
        return
    import platformdirs

    folder = folder or platformdirs.user_cache_dir("sigprop", appauthor=False)
    jax.config.update("jax_compilation_cache_dir", str(Path(folder) / "programs"))
    jax.config.update("jax_compilation_cache_max_size", _CACHE_SIZE)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


CACHE = "SIGPROP_CACHE"
"""The environment variable with another folder for compiled programs, or "off"."""
_CACHE_SIZE = 2**29
"""Bytes; what was not used for longest then goes."""


def predict(network: Network, start: float, json: bool) -> int:
    """Predict one point and print it."""
    check_positive("--start-length", start)
    set_up()
    import theory

    layer, symmetric = network.layer, network.symmetric
    with checked(body="network"):
        prediction = theory.predict(layer, start=start)
    sectors: Any = theory.sectors(layer, prediction.length) if symmetric else None
    estimates = {name: getattr(prediction, name) for name in ESTIMATES}
    found = prediction_as_json(prediction)
    if symmetric:
        group = theory.symmetry(layer)
        broken = float(prediction.length.value) > 0
        modes = group.goldstone_modes() if broken else 0
        shown = {name: getattr(sectors, name) for name in MULTIPLIERS}
        found |= {
            "symmetry": group.group,
            "explicitly_broken": group.explicit,
            "goldstone_modes": modes,
            "order_parameter": as_json(sectors.order_parameter),
            "multipliers": {name: as_json(e) for name, e in shown.items()},
            "depth_scale_goldstone": as_json(sectors.depth_scale_goldstone),
        }
        estimates |= {f"multiplier, {name}": e for name, e in shown.items()}
        estimates["order_parameter"] = sectors.order_parameter
        estimates["depth_scale_goldstone"] = sectors.depth_scale_goldstone
    if json:
        out.print_json({**found, "parameters": {**network.as_parameters(), "start_length": start}})
        return 0
    rows = out.table(f"{network.text}: {found['phase']}", "", "value", "error", "status")
    for name, e in estimates.items():
        value, error = f"{float(e.value):.12g}", f"{float(e.error):.1e}"
        rows.add_row(name.replace("_", " "), value, error, as_json(e)["status"])
    words = ["of the layer that it repeats, and of no other"] if network.whole else []
    if symmetric:
        kind = "pseudo-Goldstone" if found["explicitly_broken"] else "Goldstone"
        words += [f"symmetry {found['symmetry']}, {found['goldstone_modes']} {kind} modes"]
    out.show(rows, *words)
    return 0


MULTIPLIERS = ("goldstone", "trace", "symmetric_traceless")


def as_json(estimate: "Estimate") -> dict[str, Any]:
    """An estimate as plain numbers and a word."""
    import theory

    status = theory.Status(int(estimate.status)).name.lower()
    value, error = out.number(estimate.value), out.number(estimate.error)
    return {"value": value, "error": error, "status": status}


def prediction_as_json(prediction: "Prediction") -> dict[str, Any]:
    """The prediction as plain numbers and words."""
    import theory

    found: dict[str, Any] = {name: as_json(getattr(prediction, name)) for name in ESTIMATES}
    return {**found, "phase": theory.Phase(int(prediction.phase)).name.lower()}


def phase_diagram(
    network: Structure, ranges: Mapping[str, str], start: float, output: Path | None, json: bool
) -> int:
    """Compute, draw and store a phase diagram over the two variances."""
    axes = {name: axis_values(f"--{name.replace('_', '-')}", text) for name, text in ranges.items()}
    check_positive("--start-length", start)
    set_up()
    asked = {**network.as_parameters(), **ranges, "start_length": start}
    # One point of the plane, for what is checked before anything is computed.
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
    if json:
        out.print_json({**found, "files": files, "parameters": asked})
        return 0
    columns = [status.replace("_", " ") for status in statuses["length"]]
    rows = out.table(f"{network.kind}: {size} points", "", *columns)
    for name, counts in statuses.items():
        rows.add_row(name.replace("_", " "), *map(str, counts.values()))
    out.show(rows, f"phases: {words}", f"written to {folder}")
    return 0


def diagram(
    layer: "Part",
    axes: Mapping[str, Any],
    *,
    symmetric: bool = False,
    start: float = 1.0,
    progress: "Report",
) -> "tuple[xr.Dataset, CriticalLine | None]":
    """A phase diagram over the two variances of a layer, and its edge of chaos if that is known."""
    import jax

    import theory
    from theory.description import components, with_variances

    def advance(now: "Progress") -> None:
        if now.done == 0:
            threading.Thread(target=_import_writers).start()
        progress(now)

    build = jax.tree_util.Partial(with_variances, layer)
    compute = theory.sector_diagram if symmetric else theory.phase_diagram
    with checked(build="network", body="network"):
        dataset = compute(build, axes, start=start, progress=advance)
    match layer:
        case theory.Chain(parts=(theory.Pointwise(activation=phi), theory.Affine())):
            lengths = np.geomspace(1e-8, 1e4, 600)
            return dataset, theory.critical_line(phi, lengths, components=components(layer))
        case _:
            return dataset, None


def _import_writers() -> None:
    """What draws figures takes seconds to import. (Two threads must not import xarray at once.)"""
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
    """Write the data and the figure of a phase diagram; gives back the paths."""
    from sigprop.figures import phase_diagram_figure
    from sigprop.storage import write_dataset
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
    store = folder / "phase_diagram.zarr"
    with checked(path="output"):
        write_dataset(dataset, store, provenance=origin)
    figure = phase_diagram_figure(dataset, line, points, caption=caption)
    return [str(store), *out.save_figure(figure, folder, "phase_diagram")]


def count_flags(flags: "xr.DataArray") -> dict[str, int]:
    """How often each of the meanings of an integer array occurs."""
    meanings = zip(flags.attrs["flag_values"], flags.attrs["flag_meanings"].split(), strict=True)
    return {meaning: int((flags == value).sum()) for value, meaning in meanings}


def compare(
    network: Network,
    depth: int | None,
    run: Run,
    inputs: Inputs,
    output: Path | None,
    json: bool,
) -> int:
    """Simulate a description at several widths and hold it against theory."""
    if depth is not None:
        check_depth(depth)
    run.check()
    set_up()
    from sigprop.networks import needs_matrices

    described, signals = network.deep(depth), inputs.load(run, network.units)
    if run.weight_matrices == "never" and needs_matrices(described):
        raise out.BadInput(
            "--weight-matrices: must be auto or always with sparse weights; got never"
        )
    folder = out.output_folder(output, "compare", ["comparison"], ["comparison"])
    with out.progress_bars(json) as progress, checked(width="widths"):
        comparison = simulate(described, signals, run, progress)
    asked = {**network.as_parameters(), "depth": depth, **asdict(run), "inputs": asdict(inputs)}
    files = store_comparison(comparison, folder, "comparison", network, depth, run, inputs)
    if json:
        found = comparison_as_json(comparison)
        out.print_json({**found, "files": files, "parameters": asked})
    else:
        out.show(*verdict_tables(comparison, network), f"written to {folder}")
    return exit_code(comparison)


def exit_code(*comparisons: "Comparison") -> int:
    """0 if theory and simulation agree in every comparison, 1 if they disagree in one, else 3."""
    from sigprop import Verdict

    found = {c.verdict for c in comparisons}
    if Verdict.DISAGREES in found:
        return 1
    return 3 if Verdict.NOT_JUDGED in found else 0


def simulate(described: Any, signals: Any, run: Run, progress: "Report") -> "Comparison":
    """Run `sigprop.compare`."""
    import sigprop
    from sigprop.networks import outer_depth

    replicas = run.replicas * (len(run.widths) if len(run.replicas) == 1 else 1)
    return sigprop.compare(
        described,
        signals,
        widths=run.widths,
        replicas=replicas,
        seed=run.seed,
        observables=run.observables,
        gradients=run.gradients and outer_depth(described) > 1,
        explicit_weights=run.explicit_weights,
        progress=progress,
    )


def store_comparison(
    comparison: "Comparison",
    folder: Path,
    name: str,
    network: Network,
    depth: int | None,
    run: Run,
    inputs: Inputs,
) -> list[str]:
    """Write the data and the figure of a comparison; gives back the paths."""
    import sigprop
    from sigprop.figures import comparison_figure

    origin = sigprop.provenance(
        command="compare",
        network=network.as_parameters(),
        depth=depth,
        inputs=inputs,
        run=run,
        simulation_matmul_precision=PRECISION,
        seed=run.seed,
    )
    dataset = sigprop.comparison_dataset(comparison)
    store = folder / f"{name}.zarr"
    with checked(path="output"):
        sigprop.write_dataset(dataset, store, provenance=origin)
    counts = ", ".join(map(str, dict.fromkeys(comparison.replicas)))
    widths = ", ".join(map(str, comparison.widths))
    caption = (
        f"{network.caption}; {inputs.caption}. {counts} networks of width $N$ = {widths} "
        f"({run.dtype}). The first input or pair is drawn, in deep networks each width at layers "
        "of its own. Error bars: $\\pm 1$ standard error; grey: error bound of the theory."
    )
    figure = comparison_figure(dataset, caption=caption)
    return [str(store), *out.save_figure(figure, folder, name)]


def comparison_as_json(comparison: "Comparison") -> dict[str, Any]:
    """The verdict as plain numbers and words."""
    return {
        "complete": all(cells.finite for cells in comparison.cells),
        "verdict": comparison.verdict.name.lower(),
        "agrees": comparison.agrees,
        "judged": comparison.judged,
        "powerful": bool(comparison.powerful),
        "largest_z": out.number(comparison.largest_z),
        "threshold": out.number(comparison.threshold),
        "tests": comparison.tests,
        "weight_matrices": dict(zip(comparison.widths, comparison.explicit_weights, strict=True)),
        "observables": {c.observable.name: _verdict(c, comparison) for c in comparison.cells},
        "power": [
            {"leaf": p.leaf, "largest_z": out.number(p.largest_z), "rejected": bool(p.rejected)}
            for p in comparison.power
        ],
    }


def _verdict(cells: Any, comparison: "Comparison") -> dict[str, Any]:
    return {
        "verdict": cells.verdict(comparison.threshold).name.lower(),
        "largest_z": out.number(cells.largest_z),
        "cells": int(cells.z.size),
        "cells_resolved": int(cells.resolved.sum()),
        "pooled_z": out.number(cells.pooled_z),
        "pooled_theory": out.number(cells.pooled_theory),
        "pooled_simulation": out.number(cells.pooled_limit.value),
        "pooled_standard_error": out.number(cells.pooled_limit.error),
        "mean_chi_square": out.number(np.mean(cells.limit.chi_square)),
    }


_WORDS = {"agrees": "agree", "disagrees": "DISAGREE", "not_judged": "not judged"}


def verdict_word(verdict: Any) -> str:
    """A verdict in a table."""
    return _WORDS[verdict.name.lower()]


def verdict_tables(comparison: "Comparison", network: Network) -> list[Any]:
    """The verdict per observable, the power per leaf, and a line that sums up."""
    columns = ("theory", "simulation", "largest |z|", "pooled z", "χ²/dof", "judged", "verdict")
    verdict = out.table(network.text, "observable", *columns)
    freedom = len(comparison.widths) - (3 if len(comparison.widths) >= 4 else 2)
    for cells in comparison.cells:
        verdict.add_row(
            cells.observable.name.replace("_", " "),
            f"{cells.pooled_theory:.5g}",
            f"{cells.pooled_limit.value:.5g} ± {cells.pooled_limit.error:.1g}",
            f"{cells.largest_z:.2f}",
            f"{cells.pooled_z:+.2f}",
            f"{np.mean(cells.limit.chi_square) / freedom:.2f}",
            f"{cells.resolved.sum()} of {cells.z.size}",
            verdict_word(cells.verdict(comparison.threshold)),
        )
    power = out.table("the same check with one variance 3 % wrong", "", "largest |z|", "rejected")
    names = [leaf_name(leaf.leaf) for leaf in comparison.power]
    for name, leaf in zip(names, comparison.power, strict=True):
        if names.count(name) > 1:
            name = f"{name}, {leaf.leaf.lstrip('.')}"
        power.add_row(name, f"{leaf.largest_z:.1f}", "yes" if leaf.rejected else "no")
    return [verdict, power, weight_matrices(comparison), summary(comparison)]


def weight_matrices(comparison: "Comparison") -> str:
    """At which widths weights were drawn, in words."""
    pairs = list(zip(comparison.widths, comparison.explicit_weights, strict=True))
    drawn = [str(width) for width, explicit in pairs if explicit]
    free = [str(width) for width, explicit in pairs if not explicit]
    words = [f"drawn at width {', '.join(drawn)}"] * bool(drawn)
    words += [f"not needed at width {', '.join(free)}"] * bool(free)
    return "weight matrices: " + "; ".join(words)


def summary(comparison: "Comparison") -> str:
    """The verdict in one sentence."""
    judged = f"{comparison.judged:.0%} of the cells could be judged"
    if not all(cells.finite for cells in comparison.cells):
        return "no verdict: not all numbers are finite (over- or underflow in the simulation)"
    if not comparison.agrees and not comparison.largest_z > comparison.threshold:
        return (
            f"no verdict: {judged}; take more networks (at least 50 of each width), or wider ones "
            "where the depth is not small against the width"
        )
    sign = "≤" if comparison.agrees else ">"
    return (
        f"theory and simulation {verdict_word(comparison.verdict)}: largest |z| "
        f"{comparison.largest_z:.2f} {sign} {comparison.threshold:.2f}, the threshold for "
        f"{comparison.tests} tests at family-wise false-alarm rate 1e-6; {judged}"
    )


def leaf_name(path: str) -> str:
    """The path of a variance in a deep network, in words."""
    place = "input layer" if path.startswith(".parts[0]") else "hidden layers"
    if path.endswith(".weights.variance"):
        return f"{place}: weight variance"
    return f"{place}: {path.rpartition('.')[2].replace('_', ' ')}"
