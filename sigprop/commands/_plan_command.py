"""The command `plan`."""

import dataclasses
from pathlib import Path
from typing import Any

from sigprop.commands import _output as out
from sigprop.commands._jax import set_up
from sigprop.commands._network import Network
from sigprop.commands._output import checked


def plan_networks(
    network: Network,
    fields: dict[str, Any],
    observable: str,
    error: float,
    width: int | None,
    run: bool,
    output: Path | None,
    json: bool,
) -> int:
    """Plan, and run the plan on request."""
    set_up()
    import sigprop
    from theory.numerics import clock

    with (
        checked(observables="observable", path="output", anything="network"),
        out.progress_bars(json) as progress,
    ):
        sweep = sigprop.Sweep(**network.fields(), **fields, observables=(observable,))
        planned = sigprop.plan(sweep, observable, error, width=width, progress=progress)
        found = None
        if run:
            store = Path("runs") / "plan.zarr" if output is None else output
            done = sigprop.run_sweep(planned.sweep, store, progress=progress)
            found = sigprop.outcome(planned, done, store)
    if json:
        words = planned._asdict() | {"pilot": planned.pilot._asdict()}
        words["sweep"] = dataclasses.asdict(planned.sweep)
        out.print_json(_finite({"plan": words, "outcome": found and found._asdict()}))
        return 0 if planned.reached else 1
    pilot = planned.pilot
    rows = out.table(f"{observable} to {error:g}", "", "planned", *(["obtained"] if found else []))

    def row(name: str, wanted: str, obtained: str | None = "") -> None:
        rows.add_row(name, wanted, *([obtained] if found else []))

    row("width", str(planned.width), str(planned.width))
    row("networks", str(planned.replicas), str(planned.replicas))
    row("weights drawn", "all" if planned.explicit_weights else "none, exact in law")
    row("1/N bias", f"{planned.bias:.2g} ± {pilot.bias_error / planned.width:.1g}")
    row("standard error", f"{planned.standard_error:.2g}", found and f"{found.standard_error:.2g}")
    row("off theory", "", found and f"{found.deviation:.2g}")
    row("time", clock(planned.seconds), found and clock(found.seconds))
    row("memory", _bytes(planned.memory), found and f"{_bytes(found.memory)} with JAX")
    lines = [f"{planned.dominates} dominates; theory at infinite width: {pilot.theory:.8g}"]
    if not planned.reached:
        lines.append(f"not reached: at width {planned.width} the bias alone may be above {error:g}")
    if pilot.variance_spread > 2 or pilot.chi_square > 14:
        lines.append(
            f"beware: at widths {', '.join(map(str, pilot.widths))} the bias is not b/N "
            f"(χ² {pilot.chi_square:.1f} for 2) or the variance not s/N "
            f"(s varies by {pilot.variance_spread:.1f})"
        )
    out.show(rows, *lines)
    return 0 if planned.reached else 1


def _bytes(count: float) -> str:
    return f"{count / 1e9:.2g} GB" if count >= 1e9 else f"{count / 1e6:.2g} MB"


def _finite(value: Any) -> Any:
    """Convert to JSON numbers; others become null."""
    match value:
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case float():
            return out.number(value)
        case _:
            return value
