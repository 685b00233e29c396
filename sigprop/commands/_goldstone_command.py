"""The command `goldstone`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigprop.commands import _output as out
from sigprop.commands._jax import set_up
from sigprop.commands._network import Network
from sigprop.commands._output import BadInput, checked
from sigprop.commands._predict_command import MULTIPLIERS, as_json
from sigprop.commands._requests import Run

if TYPE_CHECKING:
    import xarray as xr

    from theory import Part


def goldstone(network: Network, depth: int, run: Run, output: Path | None, json: bool) -> int:
    """Predict and measure what the symmetry of a network protects."""
    run.check_seed()
    set_up()
    from sigprop.comparison import LONG, NARROW, goldstone_study
    from sigprop.figures import goldstone_figure
    from sigprop.storage import provenance
    from theory import Affine, Chain, Pointwise
    from theory.description import Radial

    match network.layer:
        case Chain(parts=(Pointwise(activation=Radial() as phi), Affine() as affine)):
            law, bias = affine.weights, affine.bias_variance
        case _:
            raise BadInput(
                "--network: must contain a layer of a radial Pointwise and an Affine; got another"
            )
    if law.components == 1:
        raise BadInput("--symmetry: must be continuous; got O(1)")
    folder = out.output_folder(output, "goldstone", ["goldstone"], ["goldstone"])
    (width,), (replicas,) = run.widths, run.replicas
    with out.progress_bars(json) as progress, checked(anything="network"):
        dataset = goldstone_study(
            phi,
            float(law.variance),
            float(bias),
            components=law.components,
            algebra=law.algebra,
            depth=depth,
            width=width,
            replicas=replicas,
            seed=run.seed,
            dtype=run.dtype,
            explicit_weights=run.explicit_weights,
            progress=progress,
        )
    asked = {**network.as_parameters(), "depth": depth, **asdict(run)}
    origin = provenance(command="goldstone", **asked)
    caption = (
        f"{network.caption}. Lines: mean-field theory; points: mean over {replicas} networks of "
        f"{width} units, {depth} layers ({run.dtype}), $\\pm 1$ standard error, which differ "
        f"from infinite width by an additional $O(1/{width})$ per layer. (a) at layer "
        f"{depth}. (b) theory. (c) one network of {NARROW} units and {LONG} layers (float64). "
        "(d, e) two inputs, one rotated by 0.8 rad; angles where the overlap is resolved. (f) one "
        "network."
    )
    draw = lambda: goldstone_figure(dataset, caption=caption)
    files = out.store(dataset, draw, folder, "goldstone", origin)
    found = goldstone_as_json(dataset, network.layer, float(law.variance))
    tables = lambda: _goldstone_tables(dataset, found, network)
    out.report(found, files, asked, tables, folder, json)
    return 0


def goldstone_as_json(
    dataset: "xr.Dataset", layer: "Part", weight_variance: float
) -> dict[str, Any]:
    """Predictions and measurements as plain numbers."""
    import jax.numpy as jnp

    import theory

    group = theory.symmetry(layer)
    point = dataset.sel(weight_variance=weight_variance)
    names = ("length", "order_parameter", *MULTIPLIERS, "depth_scale_goldstone")
    part = lambda name: jnp.asarray(point[name].values)
    shown = {name: theory.Estimate(*(part(name + end) for end in _PARTS)) for name in names}
    numbers = lambda name: [out.number(value) for value in dataset[name].values]
    return {
        "symmetry": group.group,
        "explicitly_broken": group.explicit,
        "broken_generators": dataset.attrs["broken_generators"],
        **{name: as_json(estimate) for name, estimate in shown.items()},
        "rotation_scale": out.number(dataset["rotation_scale"]),
        "sampled": {
            "weight_variance": numbers("sampled_weight_variance"),
            "order_parameter": numbers("sampled_order_parameter"),
            "standard_error": numbers("sampled_order_parameter_standard_error"),
        },
        "certificate": {
            "residual": numbers("certificate_residual"),
            "claim": numbers("certificate_claim"),
            "holds": [bool(value) for value in dataset["certificate_holds"].values],
            "gain": numbers("certificate_gain"),
            "expected_gain": numbers("certificate_expected_gain"),
        },
        "exponents": {
            "value": numbers("exponent"),
            "standard_error": numbers("exponent_standard_error"),
            "alignment": numbers("exponent_alignment"),
        },
    }


_PARTS = ("", "_error", "_status")


def _goldstone_tables(dataset: "xr.Dataset", found: dict[str, Any], network: Network) -> list[Any]:
    """Theory and networks, the certificate, and the exponents."""
    order = out.table(f"{network.text}: order parameter m", "σ_w²", "theory", "networks")
    sampled = found["sampled"]
    for variance, mean, error in zip(*sampled.values(), strict=True):
        exact = float(dataset["order_parameter"].sel(weight_variance=variance))
        known = None not in (mean, error)
        drawn = f"{mean:.5f} ± {error:.1g}" if known else "not finite"
        order.add_row(f"{variance:.4g}", f"{exact:.5f}", drawn)
    rows = out.table(
        "certificate of one network", "generator", "residual", "claim", "gain", "expected"
    )
    certificate = found["certificate"]
    text = lambda value: "not finite" if value is None else f"{value:.3g}"
    columns = ("residual", "claim", "gain", "expected_gain")
    for i, values in enumerate(zip(*(certificate[name] for name in columns), strict=True)):
        rows.add_row(str(i + 1), *map(text, values))
    exponents = out.table("leading exponents of a narrow, deep one", "", "value", "alignment")
    for i, (value, error, own) in enumerate(zip(*found["exponents"].values(), strict=True)):
        exponents.add_row(str(i + 1), f"{text(value)} ± {text(error)}", text(own))
    kind = "pseudo-Goldstone" if found["explicitly_broken"] else "Goldstone"
    words = (
        f"symmetry {found['symmetry']}: {found['broken_generators']} {kind} modes in one network"
    )
    scale = found["rotation_scale"]
    if scale is not None:
        words += f"; rotations decay over {scale:.4g} layers"
    return [order, rows, exponents, words]
