"""The command `demo`: three phases of tanh networks, predicted and simulated."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigprop import _output as out
from sigprop._commands import (
    comparison_as_json,
    diagram,
    prediction_as_json,
    set_up,
    simulate,
    store_comparison,
    store_diagram,
)
from sigprop._requests import Inputs, Network, Run, axis_values, find_activation

if TYPE_CHECKING:
    from sigprop._compare import Comparison

NETWORKS = {
    "ordered": Network("tanh", 1.5, 0.05),
    "critical": Network("tanh", 1.76095463960674, 0.05),
    "chaotic": Network("tanh", 2.5, 0.05),
}
RUN = Run(depth=50, widths=(64, 128, 256), replicas=(400, 300, 200), seed=0, dtype="float32")
INPUTS = Inputs("gram", count=2, length=1.0, correlation=0.5)
AXES = {"weight_variance": "0.5:4:36", "bias_variance": "0:0.2:41"}


def demo(output: Path | None, json: bool, run: Run = RUN, axes: dict[str, str] = AXES) -> int:
    """Predict and simulate three networks, and draw the phase diagram they live in."""
    set_up()
    import theory
    from sigprop._store import provenance

    figures = ["phase_diagram", *NETWORKS]
    folder = out.output_folder(output or Path("runs") / "demo", "demo", figures, figures)
    phi = find_activation("tanh")
    files, found, outcomes = [], {}, []
    with out.progress_bars(json) as progress:
        grid = {name: axis_values(name, text) for name, text in axes.items()}
        dataset, line = diagram(phi, grid, progress=progress)
        points = [(n.weight_variance, n.bias_variance, name) for name, n in NETWORKS.items()]
        caption = "tanh networks of infinite width: mean-field theory."
        origin = provenance(command="demo", activation="tanh", **axes)
        files += store_diagram(dataset, line, folder, caption, origin, points)
        for name, network in NETWORKS.items():
            prediction = prediction_as_json(theory.predict(network.layer()))

            def advance(what: str, done: int, total: int, name: str = name) -> None:
                progress(f"{name}, {what}", done, total)

            described, signals = network.deep(run.depth), INPUTS.load(run)
            comparison = simulate(described, signals, run, advance)
            files += store_comparison(comparison, folder, name, network, run, INPUTS)
            found[name] = {**prediction, **comparison_as_json(comparison)}
            outcomes.append(comparison)
    if json:
        out.print_json({"networks": found, "files": files})
    else:
        out.show(_verdicts(found, outcomes), f"figures and data written to {folder}")
    return 0 if all(comparison.agrees for comparison in outcomes) else 1


def _verdicts(found: dict[str, Any], outcomes: "list[Comparison]") -> Any:
    columns = ("predicted phase", "q*", "c*", "χ", "ξ_c", "largest |z|", "verdict")
    rows = out.table("tanh, σ_b² = 0.05: theory against simulation", "σ_w²", *columns)
    for (name, told), comparison in zip(found.items(), outcomes, strict=True):
        rows.add_row(
            f"{NETWORKS[name].weight_variance:g}",
            told["phase"],
            *(_short(told[key]) for key in ("length", "correlation", "slope")),
            _short(told["depth_scale_correlation"]),
            f"{comparison.largest_z:.2f} (limit {comparison.threshold:.2f})",
            _word(comparison),
        )
    return rows


def _short(entry: dict[str, Any]) -> str:
    return entry["status"] if entry["value"] is None else f"{entry['value']:.4g}"


def _word(comparison: "Comparison") -> str:
    if not comparison.agrees:
        return "disagree"
    return "agree, 3 % off rejected" if comparison.powerful else "agree, 3 % off not told"
