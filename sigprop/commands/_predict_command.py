"""The command `predict`."""

from typing import TYPE_CHECKING, Any

from sigprop.commands import _output as out
from sigprop.commands._jax import set_up
from sigprop.commands._network import Network
from sigprop.commands._output import checked
from sigprop.commands._requests import check_positive

if TYPE_CHECKING:
    from theory import Estimate, Prediction

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
"""The fields of a prediction, in printing order."""


def predict(network: Network, start: float, json: bool) -> int:
    """Predict one point and print it."""
    check_positive("--start-length", start)
    set_up()
    import theory

    layer, symmetric = network.layer, network.symmetric
    with checked(layer="network", anything="network"):
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
    words = ["for the layer that the network repeats"] if network.whole else []
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
