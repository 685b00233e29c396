"""The command line of sweeps: `sigprop sweep run`, `status`, `merge` and `show`."""

from pathlib import Path
from typing import Annotated, TypeAlias

from cyclopts import App, Parameter

sweep = App(
    name="sweep",
    help="Measure networks over a grid of values; a sweep that is interrupted can be resumed.",
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
        Parameter(help="i/n: compute only part i of n, from 0, in its own store for merge."),
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
    """Compute the missing part of a sweep.

    Several values of a field are an axis: a list, or "start:stop:count". Results in the store,
    found by the address of their content, are not computed again; a run that was killed resumes
    and ends with the same bits. A larger sweep takes over the results of a smaller one.
    """
    from sigprop.commands import _sweep_command

    return _sweep_command.run(file, output, shard, devices, distributed, json)


@sweep.command
def status(store: Store, *, json: Json = False) -> int:
    """Show how much of a sweep has been computed."""
    from sigprop.commands import _sweep_command

    return _sweep_command.status(store, json)


@sweep.command
def merge(
    stores: Annotated[list[Path], Parameter(help="Stores of shards, or of parts of a grid.")],
    *,
    output: Annotated[Path, Parameter(help="The store to create; an existing one is joined too.")],
    json: Json = False,
) -> int:
    """Join the stores of several runs into one."""
    from sigprop.commands import _sweep_command

    return _sweep_command.merge(stores, output, json)


@sweep.command
def show(
    store: Store,
    *,
    observable: Annotated[
        str | None, Parameter(help="The observable to show; by default the first one measured.")
    ] = None,
    against: Annotated[
        str | None, Parameter(help="The horizontal axis, or layer; by default the fastest axis.")
    ] = None,
    by: Annotated[str | None, Parameter(help="The axis of the series, or layer.")] = None,
    at: Annotated[
        str | None,
        Parameter(
            help="Values of the other axes, such as depth=50,layer=-1; by default the first of "
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

    Writes sweep.png and sweep.pdf. An unfinished sweep shows the results so far.
    """
    from sigprop.commands import _sweep_command

    return _sweep_command.show(store, observable, against, by, at, input, output, json)
