"""The command `compare`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.commands import _output as out
from sigprop.commands._jax import PRECISION, set_up
from sigprop.commands._network import Network
from sigprop.commands._output import checked
from sigprop.commands._requests import Inputs, Run, check_depth

if TYPE_CHECKING:
    from sigprop.comparison import Comparison
    from theory.numerics import Report


def compare(
    network: Network,
    depth: int | None,
    run: Run,
    inputs: Inputs,
    output: Path | None,
    json: bool,
) -> int:
    """Simulate a description at several widths and compare it with theory."""
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
    with out.progress_bars(json) as progress, checked(width="widths", anything="network"):
        comparison = simulate(described, signals, run, progress)
    asked = {**network.as_parameters(), "depth": depth, **asdict(run), "inputs": asdict(inputs)}
    files = store_comparison(comparison, folder, "comparison", network, depth, run, inputs)
    tables = lambda: verdict_tables(comparison, network)
    out.report(comparison_as_json(comparison), files, asked, tables, folder, json)
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
    """Write the data and the figure of a comparison, and return the paths."""
    import sigprop
    from sigprop.figures import comparison_figure

    origin = sigprop.storage.provenance(
        command="compare",
        network=network.as_parameters(),
        depth=depth,
        inputs=inputs,
        run=run,
        simulation_matmul_precision=PRECISION,
        seed=run.seed,
    )
    dataset = sigprop.comparison.comparison_dataset(comparison)
    counts = ", ".join(map(str, dict.fromkeys(comparison.replicas)))
    widths = ", ".join(map(str, comparison.widths))
    caption = (
        f"{network.caption}; {inputs.caption}. {counts} networks of width $N$ = {widths} "
        f"({run.dtype}). The first input or pair is shown, in deep networks each width at separate "
        "layers. Error bars:  $\\pm 1$ standard error; grey: error bound of the theory."
    )
    draw = lambda: comparison_figure(dataset, caption=caption)
    return out.store(dataset, draw, folder, name, origin)


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
    """A verdict as a word in a table."""
    return _WORDS[verdict.name.lower()]


def verdict_tables(comparison: "Comparison", network: Network) -> list[Any]:
    """The verdict per observable, the power per leaf, and a summary line."""
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
