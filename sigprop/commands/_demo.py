"""The command `demo`: three phases of tanh networks, predicted and simulated."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.commands import _output as out
from sigprop.commands._compare_command import (
    comparison_as_json,
    exit_code,
    leaf_name,
    simulate,
    store_comparison,
    verdict_word,
)
from sigprop.commands._jax import set_up
from sigprop.commands._network import Network
from sigprop.commands._phase_diagram_command import diagram, store_diagram
from sigprop.commands._predict_command import ESTIMATES
from sigprop.commands._requests import Inputs, Run

if TYPE_CHECKING:
    import xarray as xr

    from sigprop.comparison import Comparison
    from theory.numerics import Progress, Report

NETWORKS = {
    "ordered": Network(activation="tanh", weight_variance=1.5, bias_variance=0.05),
    "critical": Network(activation="tanh", weight_variance=1.76095463960674, bias_variance=0.05),
    "chaotic": Network(activation="tanh", weight_variance=2.5, bias_variance=0.05),
}
DEPTH = 50
RUN = Run(widths=(64, 128, 256), replicas=(300, 200, 100), seed=0, dtype="float32")
INPUTS = Inputs("gram", count=2, length=1.0, correlation=0.5)
POINTS = 41
"""Number of values of each variance in the phase diagram."""


def demo(
    output: Path | None,
    json: bool,
    *,
    networks: Mapping[str, Network] = NETWORKS,
    depth: int = DEPTH,
    run: Run = RUN,
    points: int = POINTS,
) -> int:
    """Predict and simulate networks of one activation, and draw their phase diagram."""
    set_up()
    figures = ["phase_diagram", *networks]
    folder = out.output_folder(output or Path("runs") / "demo", "demo", figures, figures)
    with out.progress_bars(json) as progress:
        dataset, files = _draw_diagram(networks, folder, points, progress)
        outcomes = {}
        for name, network in networks.items():

            def advance(now: "Progress", name: str = name) -> None:
                progress(now._replace(what=f"{name}, {now.what}"))

            described, signals = network.deep(depth), INPUTS.load(run)
            outcomes[name] = simulate(described, signals, run, advance)
            files += store_comparison(outcomes[name], folder, name, network, depth, run, INPUTS)
    predicted = {name: _prediction(dataset, network) for name, network in networks.items()}
    if json:
        found = {n: {**predicted[n], **comparison_as_json(outcomes[n])} for n in networks}
        out.print_json({"networks": found, "files": files})
    else:
        out.show(*_verdicts(networks, predicted, outcomes), f"figures and data written to {folder}")
    return exit_code(*outcomes.values())


def _draw_diagram(
    networks: Mapping[str, Network], folder: Path, points: int, progress: "Report"
) -> "tuple[xr.Dataset, list[str]]":
    """A phase diagram whose points include the networks."""
    from sigprop.storage import provenance

    across, up = zip(*(network.variances for network in networks.values()), strict=True)
    axes = {
        "weight_variance": np.union1d(np.linspace(0.5, 4.0, points), across),
        "bias_variance": np.union1d(np.linspace(0.0, 0.2, points), up),
    }
    one, *others = networks.values()
    assert all(other.kind == one.kind for other in others)
    dataset, line = diagram(one.layer, axes, progress=progress)
    size = " × ".join(str(len(values)) for values in axes.values())
    caption = (
        f"{one.kind} networks of infinite width: mean-field theory at {size} points, fixed points "
        "reached from length 1. Marked: the networks that are simulated."
    )
    origin = provenance(command="demo", activation=one.activation, start_length=1.0)
    marks = [(n.weight_variance, n.bias_variance, n.symbol) for n in networks.values()]
    return dataset, store_diagram(dataset, line, folder, caption, origin, marks)


def _prediction(dataset: "xr.Dataset", network: Network) -> dict[str, Any]:
    """The result of the phase diagram for a network, in the form of `sigprop predict`."""
    point = dataset.sel(
        weight_variance=network.weight_variance, bias_variance=network.bias_variance
    )

    def meaning(name: str) -> str:
        flags = point[name].attrs
        return flags["flag_meanings"].split()[flags["flag_values"].index(int(point[name]))]

    found: dict[str, Any] = {
        name: {
            "value": out.number(point[name]),
            "error": out.number(point[f"{name}_error"]),
            "status": meaning(f"{name}_status"),
        }
        for name in ESTIMATES
    }
    return {**found, "phase": meaning("phase")}


def _verdicts(
    networks: Mapping[str, Network],
    predicted: Mapping[str, Any],
    outcomes: "Mapping[str, Comparison]",
) -> list[Any]:
    columns = ("σ_b²", "phase", "q*", "c*", "χ", "ξ_c", "max |z|", "3 % off", "verdict")
    rows = out.table("theory against simulation", "σ_w²", *columns)
    for name, comparison in outcomes.items():
        told = predicted[name]
        shown = ("length", "correlation", "slope", "depth_scale_correlation")
        rows.add_row(
            f"{networks[name].weight_variance:.6g}",
            f"{networks[name].bias_variance:.6g}",
            told["phase"],
            *(_short(told[key]) for key in shown),
            f"{comparison.largest_z:.2f}",
            f"{_hidden_weights(comparison):.1f}",
            verdict_word(comparison.verdict),
        )
    limit = max(comparison.threshold for comparison in outcomes.values())
    rule = (
        f"|z| beyond {limit:.2f} contradicts theory, at family-wise false-alarm rate 1e-6.\n"
        "3 % off: max |z| of a theory whose σ_w² in the hidden layers is 3 % off."
    )
    return [rows, rule]


def _hidden_weights(comparison: "Comparison") -> float:
    """max |z| if theory had another weight variance in the hidden layers."""
    (found,) = [
        p for p in comparison.power if leaf_name(p.leaf) == "hidden layers: weight variance"
    ]
    return found.largest_z


def _short(entry: dict[str, Any]) -> str:
    return entry["status"] if entry["value"] is None else f"{entry['value']:.4g}"
