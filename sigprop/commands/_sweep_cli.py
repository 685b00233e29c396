"""The command line of sweeps: `sigprop sweep run`, `status`, `merge` and `show`."""

from pathlib import Path
from typing import Annotated, TypeAlias

from cyclopts import App, Parameter

sweep = App(
    name="sweep",
    help="Measure networks over a grid of values; a sweep that is stopped goes on where it was.",
)

Json: TypeAlias = Annotated[
    bool, Parameter(negative="", help="Print one JSON object and no progress.")
]
Store: TypeAlias = Annotated[Path, Parameter(help="The Zarr store of a sweep.")]


@sweep.command
def run(
    file: Annotated[Path, Parameter(help="A TOML file with the fields of sigprop.Sweep.")],
    *,
    output: Annotated[
        Path | None, Parameter(help="The Zarr store; by default runs/ and the name of the file.")
    ] = None,
    shard: Annotated[
        str | None,
        Parameter(help="i/n: only part i, from 0, of n, in a store of its own for merge."),
    ] = None,
    devices: Annotated[
        int | None, Parameter(help="Devices of this host to use; by default all.")
    ] = None,
    distributed: Annotated[
        bool,
        Parameter(negative="", help="Run on all hosts of a TPU pod or a Slurm step together."),
    ] = False,
    json: Json = False,
) -> int:
    """Compute what is missing of a sweep.

    Several values of a field are an axis: a list, or "start:stop:count". What the store has
    already, by the address of its content, is not computed again; a run that was killed goes on
    and ends with the same bits. A larger sweep takes over the results of a smaller one.
    """
    from sigprop.commands import _sweep_command

    return _sweep_command.run(file, output, shard, devices, distributed, json)


@sweep.command
def status(store: Store, *, json: Json = False) -> int:
    """Say how much of a sweep is there."""
    from sigprop.commands import _sweep_command

    return _sweep_command.status(store, json)


@sweep.command
def merge(
    stores: Annotated[list[Path], Parameter(help="Stores of shards, or of parts of a grid.")],
    *,
    output: Annotated[Path, Parameter(help="The store that is made, or joined as well.")],
    json: Json = False,
) -> int:
    """Join the stores of several runs in one."""
    from sigprop.commands import _sweep_command

    return _sweep_command.merge(stores, output, json)


@sweep.command
def show(
    store: Store,
    *,
    observable: Annotated[
        str | None, Parameter(help="What to show; by default the first that was measured.")
    ] = None,
    against: Annotated[
        str | None, Parameter(help="The axis to show it against, or layer; by default the fastest.")
    ] = None,
    by: Annotated[str | None, Parameter(help="The axis of the series, or layer.")] = None,
    at: Annotated[
        str | None,
        Parameter(
            help="Values of the other axes, as in depth=50,layer=-1; by default the first of "
            "each, and the last layer."
        ),
    ] = None,
    input: Annotated[int, Parameter(help="Which input, or pair of inputs.")] = 0,
    output: Annotated[
        Path | None, Parameter(help="Folder for the figure (PNG, PDF); by default in runs/.")
    ] = None,
    json: Json = False,
) -> int:
    """Draw one observable against one axis, with standard errors and theory.

    Writes sweep.png and sweep.pdf; a sweep that is not finished shows what is there.
    """
    from sigprop.commands import _sweep_command

    return _sweep_command.show(store, observable, against, by, at, input, output, json)
