"""The command line of `sigprop plan`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from sigprop.commands._network import Network
from sigprop.commands._output import BadInput
from sigprop.commands._sweep_cli import Json

_NONE = Network()


def plan(
    *,
    network: Network = _NONE,
    depth: Annotated[
        int | None,
        Parameter(help="Hidden layers after the input layer; omit it for a whole network."),
    ] = None,
    observable: Annotated[
        str,
        Parameter(
            help="The observable, such as length or correlation; an unknown one prints the list of "
            "all of them."
        ),
    ],
    error: Annotated[
        float,
        Parameter(help="Root mean square of 1/N bias and sampling noise to reach, above 0."),
    ],
    width: Annotated[
        int | None, Parameter(help="Units per layer; by default the cheapest width.")
    ] = None,
    input_length: Annotated[float, Parameter(help="Length q > 0 of the two inputs.")] = 1.0,
    input_correlation: Annotated[float, Parameter(help="Correlation of the inputs.")] = 0.5,
    dtype: Annotated[
        Literal["float32", "float64"], Parameter(help="Precision of the simulation.")
    ] = "float32",
    seed: Annotated[int, Parameter(help="Decides every random number.")] = 0,
    run: Annotated[
        bool, Parameter(negative="", help="Run the plan, and compare the result with it.")
    ] = False,
    output: Annotated[
        Path | None, Parameter(help="The Zarr store of --run; by default runs/plan.zarr.")
    ] = None,
    json: Json = False,
) -> int:
    """Plan width and number of networks for a given precision in the last layer.

    Draws a pilot of small networks and times this device. Prints the cheapest width, the number
    of networks, their memory and time, and whether 1/N bias or sampling noise dominates.

    Exits with 1 if a given width is so small that its bias alone exceeds the given error.
    """
    from sigprop.commands._plan_command import plan_networks

    network.check()
    if depth is None and network.network is None:
        raise BadInput("--depth: must be given; got none")
    fields = {
        "depth": depth,
        "input_length": input_length,
        "input_correlation": input_correlation,
        "dtype": dtype,
        "seed": seed,
    }
    return plan_networks(network, fields, observable, error, width, run, output, json)
