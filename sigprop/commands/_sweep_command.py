"""The commands `sweep run`, `status`, `merge` and `show`."""

from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sigprop.commands import _output as out
from sigprop.commands._hosts import join_hosts
from sigprop.commands._jax import set_up
from sigprop.commands._output import BadInput, checked
from sigprop.commands._stop import keeping

_EVERY = 30.0
"""Seconds between two lines of progress if there is no terminal."""


def run(
    path: Path,
    output: Path | None,
    shard: str | None,
    devices: int | None,
    distributed: bool,
    json: bool,
) -> int:
    """Compute the missing part of the sweep in a TOML file."""
    set_up()
    import sigprop

    if distributed:
        with checked():
            join_hosts()
    with checked(path="FILE"):
        sweep = sigprop.read_sweep_file(path)
    number, parts = part_of(shard)
    # The same name for every run, so that a sweep resumes.
    store = Path("runs") / f"{path.stem}.zarr" if output is None else output
    if parts > 1:
        store = store.with_name(f"{store.name.removesuffix('.zarr')}.{number}-of-{parts}.zarr")
    own = out.fields_of(path, sigprop.Sweep)
    with checked(path="output"), own, saying(store), out.progress_bars(json) as progress:
        done = sigprop.run_sweep(
            sweep, store, mesh=mesh_of(devices), shard=(number, parts), progress=progress
        )
    found = {"output": str(store), **done._asdict()}
    if json:
        out.print_json(found)
    else:
        out.show(summary_line(done), f"written to {store}")
    return 0


def saying(store: Path) -> AbstractContextManager[None]:
    """Say how many networks are in a store, if a signal ends the work inside."""
    from sigprop.sweeps import sweep_status

    def said() -> str:
        found = sweep_status(store)
        return f"{found.done} of {found.networks} networks are in {store}"

    return keeping(said)


def summary_line(done: Any) -> str:
    """A run in one line."""
    from theory.numerics import clock

    words = f"{done.computed} networks computed, {done.reused} existed"
    if done.elsewhere:
        words += f", {done.elsewhere} are left to others"
    if done.computed:
        share = done.compute_seconds / (done.workers * done.seconds)
        words += f"; {clock(done.seconds)}, {100 * share:.0f} % of it in compiled programs"
    return words


def part_of(shard: str | None) -> tuple[int, int]:
    """Parse a text "i/n" to (i, n)."""
    try:
        number, parts = (0, 1) if shard is None else map(int, shard.split("/"))
    except ValueError:
        number, parts = 0, 0
    if not 0 <= number < parts:
        raise BadInput(f"--shard: must be i/n with i from 0 to n - 1; got {shard}")
    return number, parts


def mesh_of(devices: int | None) -> Any:
    """All devices, or the first ones of this process, in a row."""
    import jax

    here = jax.local_devices()
    if devices is not None and not 1 <= devices <= len(here):
        raise BadInput(f"--devices: must be from 1 to {len(here)}; got {devices}")
    chosen = here[:devices]
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((len(chosen),), ("devices",), devices=chosen, axis_types=auto)


def status(store: Path, json: bool) -> int:
    """Show how much of a sweep has been computed."""
    from sigprop.sweeps import sweep_status

    with checked(path="STORE"):
        found = sweep_status(store)
    if json:
        out.print_json(found._asdict())
        return 0
    rows = out.table(store.name, "", "done", "of")
    rows.add_row("networks", str(found.done), str(found.networks))
    rows.add_row("points", str(found.finished_points), str(found.points))
    axes = ", ".join(f"{name} {size}" for name, size in found.axes.items()) or "none"
    where = ", ".join(f"{k} {found.environment[k]}" for k in ("sigprop", "jax", "device"))
    out.show(rows, f"axes: {axes}; {found.replicas} replicas", where)
    return 0


def merge(stores: list[Path], output: Path, json: bool) -> int:
    """Join stores."""
    set_up()
    import sigprop

    with checked(path="output", paths="STORES"):
        found = sigprop.merge_sweeps(stores, output)
    if json:
        out.print_json({"output": str(output), **found._asdict()})
    else:
        out.show(f"{found.done} of {found.networks} networks", f"written to {output}")
    return 0


def show(
    store: Path,
    observable: str | None,
    against: str | None,
    by: str | None,
    at: str | None,
    index: int,
    output: Path | None,
    json: bool,
) -> int:
    """Draw and print one observable against one axis."""
    set_up()
    from sigprop.figures import caption_of, choose, series_of, sweep_figure
    from sigprop.storage import place_of
    from sigprop.sweeps import dataset_of, open_store, summarised

    with checked(path="STORE"):
        opened = open_store(place_of(store), write=False)
        sweep = opened.sweep
        view = choose(sweep, observable, against, by, _pairs(at), index)
        folder = out.output_folder(output, "sweep", ["sweep"], [])
        series = series_of(sweep, summarised(sweep, dataset_of(opened)), view)
    files = out.save_figure(
        sweep_figure(view, series, caption_of(sweep, view, series)), folder, "sweep"
    )
    if json:
        out.print_json(
            {"view": asdict(view), "series": [_plain(one) for one in series], "files": files}
        )
        return 0
    rows = out.table(
        f"{view.observable}, mean ± standard error",
        view.against,
        view.by or "",
        "networks",
        "simulation",
        "±",
        "theory",
    )
    for one in series:
        values = zip(one.x, one.networks, one.mean, one.standard_error, one.theory, strict=True)
        for x, count, mean, error, theory in values:
            label = "" if one.label is None else _short(one.label)
            rows.add_row(
                _short(x), label, str(count), f"{mean:.6g}", f"{error:.1e}", f"{theory:.6g}"
            )
    out.show(rows, f"written to {folder}")
    return 0


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _plain(one: Any) -> dict[str, Any]:
    numbers = {
        name: [out.number(x) for x in getattr(one, name)]
        for name in ("mean", "standard_error", "theory")
    }
    return {"label": one.label, "x": one.x, "networks": one.networks, **numbers}


def _pairs(text: str | None) -> dict[str, str]:
    """The pairs of a text such as "depth=50,layer=-1"."""
    found: dict[str, str] = {}
    for part in text.split(",") if text else []:
        name, equals, value = part.partition("=")
        if not equals:
            raise BadInput(f"--at: must be axis=value, separated by commas; got {text}")
        found[name.strip().replace("-", "_")] = value.strip()
    return found
