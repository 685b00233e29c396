"""The command `spectrum`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.commands import _output as out
from sigprop.commands._jax import set_up
from sigprop.commands._network import Network
from sigprop.commands._output import checked
from sigprop.commands._predict_command import as_json
from sigprop.commands._requests import Run, check_positive

if TYPE_CHECKING:
    import xarray as xr

    from sigprop.comparison import SpectrumPrediction
    from theory import Estimate

_EDGES = ("lower", "upper", "log_lower", "log_upper", "fluctuation")


def spectrum(
    network: Network,
    depth: int,
    run: Run,
    start: float | None,
    theory_only: bool,
    output: Path | None,
    json: bool,
) -> int:
    """Predict the spectrum of a Jacobian, and measure it unless only theory is requested."""
    run.check_seed()
    if start is not None:
        check_positive("--start-length", start)
    set_up()
    from sigprop.comparison import predict_spectrum

    layer = network.layer
    asked = {**network.as_parameters(), "depth": depth, "start_length": start}
    if not theory_only:
        return _compare(network, depth, run, start, output, json, asked)
    with checked(anything="network"):
        predicted = predict_spectrum(layer, depth, start)
    found = spectrum_as_json(predicted, network)
    if json:
        out.print_json({**found, "parameters": asked})
    else:
        out.show(*_tables(found, network, depth, run))
    return 0


def _compare(
    network: Network,
    depth: int,
    run: Run,
    start: float | None,
    output: Path | None,
    json: bool,
    asked: dict[str, Any],
) -> int:
    """Predict, measure, draw and store."""
    from sigprop.comparison import predict_spectrum, spectrum_study
    from sigprop.figures import spectrum_figure
    from sigprop.storage import provenance
    from theory.numerics import check_count

    (width,), (replicas,) = run.widths, run.replicas
    with checked():
        check_count("depth", depth)
        check_count("width", width)
        check_count("replicas", replicas, 2)
    folder = out.output_folder(output, "spectrum", ["spectrum"], ["spectrum"])
    with out.progress_bars(json) as progress, checked(anything="network"):
        predicted = predict_spectrum(network.layer, depth, start)
        dataset = spectrum_study(
            predicted,
            width=width,
            replicas=replicas,
            seed=run.seed,
            dtype=run.dtype,
            progress=progress,
        )
    asked = {**asked, "width": width, "replicas": replicas, "seed": run.seed, "dtype": run.dtype}
    origin = provenance(command="spectrum", **asked)
    caption = (
        f"{network.caption}; {depth} layers, whose pre-activations begin with length "
        f"{predicted.length:.4g}. Theory: $N\\to\\infty$. Networks: {replicas} of {width} units "
        f"({run.dtype}), error bars: $\\pm 1$ standard error over networks. (a, b) densities of "
        "all singular values, zeros among them; $s_+$ is theory's upper edge."
    )
    draw = lambda: spectrum_figure(dataset, caption=caption)
    files = out.store(dataset, draw, folder, "spectrum", origin)
    found = {**spectrum_as_json(predicted, network), "sampled": sampled_as_json(dataset)}
    tables = lambda: _tables(found, network, depth, run)
    out.report(found, files, asked, tables, folder, json)
    return 0


def _one(estimate: "Estimate") -> dict[str, Any]:
    """Convert to JSON; −∞, the logarithm of zero, has the status infinite."""
    found = as_json(estimate)
    return found | ({"status": "infinite"} if np.isinf(estimate.value) else {})


def _many(estimates: "Estimate") -> list[dict[str, Any]]:
    import jax

    count = estimates.value.shape[0]
    return [_one(jax.tree.map(lambda a, i=i: a[i], estimates)) for i in range(count)]


def spectrum_as_json(predicted: "SpectrumPrediction", network: Network) -> dict[str, Any]:
    """The predicted spectrum as plain numbers and words."""
    from sigprop.comparison import FRACTIONS

    edges, moments = predicted.spectrum.edges, predicted.spectrum.moments
    exponents = zip(FRACTIONS, _many(predicted.exponents), strict=True)
    found: dict[str, Any] = {
        "length": out.number(predicted.length),
        "edges": {name: _one(getattr(edges, name)) for name in _EDGES},
        "moments": _many(moments.values),
        "log_mean": as_json(moments.log_mean),
        "moment_ratios": _many(moments.ratios),
        "mass_at_zero": as_json(predicted.spectrum.mass_at_zero),
        "lyapunov_quantiles": [{"fraction": t, **each} for t, each in exponents],
    }
    if network.symmetric:
        # A bias breaks the symmetry, and nothing is protected.
        found["goldstone_gains"] = None if predicted.gains is None else _many(predicted.gains)
    return found


def sampled_as_json(dataset: "xr.Dataset") -> dict[str, Any]:
    """The measurements as plain numbers."""
    import theory

    def measured(name: str) -> dict[str, Any]:
        mean, error = dataset[f"{name}_mean"], dataset[f"{name}_standard_error"]
        return {"mean": out.number(mean), "standard_error": out.number(error)}

    relative = dataset["moment_relative_mean"], dataset["moment_relative_standard_error"]
    pairs = zip(*(part.values for part in relative), strict=True)
    status = theory.Status(int(dataset["log_singular_value_status"].max())).name.lower()
    return {
        "moments_over_theory": [
            {"mean": out.number(mean), "standard_error": out.number(error)} for mean, error in pairs
        ],
        "mass_at_zero": measured("mass_at_zero"),
        "log_largest": {
            **measured("log_largest"),
            "expected": out.number(dataset["log_largest_expected"]),
        },
        "cumulative_distance": measured("cumulative_distance"),
        "numerical_error": out.number(dataset["log_singular_value_error"].max()),
        "worst_status": status,
    }


def _tables(found: dict[str, Any], network: Network, depth: int, run: Run) -> list[Any]:
    """Tables of theory, and of networks if there are any."""
    rows = out.table(f"{network.text}, {depth} layers", "", "value", "error", "status")

    def add(name: str, e: dict[str, Any]) -> None:
        text = lambda value, digits: "" if value is None else format(value, digits)
        rows.add_row(name, text(e["value"], ".10g"), text(e["error"], ".1e"), e["status"])

    for name in ("lower", "upper"):
        add(f"{name} edge of s", found["edges"][name])
    for name in ("log_lower", "log_upper"):
        add(f"{name[4:]} edge of log s", found["edges"][name])
    for k, each in enumerate(found["moments"], 1):
        add(f"moment {k} of JJᵀ", each)
    add("mass at zero", found["mass_at_zero"])
    for each in found["lyapunov_quantiles"]:
        add(f"exponent at {each['fraction']:g}", each)
    for i, each in enumerate(found.get("goldstone_gains") or [], 1):
        add(f"squared gain, generator {i}", each)
    if "sampled" not in found:
        return [rows]
    sampled = found["sampled"]
    networks = out.table(
        f"{run.replicas[0]} networks of {run.widths[0]} units", "", "theory", "networks"
    )
    text = lambda value: "not finite" if value is None else f"{value:.4g}"
    both = lambda e: f"{text(e['mean'])} ± {text(e['standard_error'])}"
    for k, each in enumerate(sampled["moments_over_theory"], 1):
        networks.add_row(f"moment {k} over theory's", "1", both(each))
    mass, largest = sampled["mass_at_zero"], sampled["log_largest"]
    networks.add_row("mass at zero", text(found["mass_at_zero"]["value"]), both(mass))
    networks.add_row(
        "largest log s (theory: edge at this width)", text(largest["expected"]), both(largest)
    )
    distance = sampled["cumulative_distance"]
    networks.add_row("distance of cumulatives", "0", both(distance))
    words = f"singular values computed to {text(sampled['numerical_error'])} in log s: "
    return [rows, networks, words + sampled["worst_status"]]
