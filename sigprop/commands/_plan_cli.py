"""The command line of `sigprop plan`, which names what theory can observe."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from sigprop.commands._network import Network
from sigprop.commands._output import BadInput
from sigprop.commands._sweep_cli import Json
from theory import OBSERVABLES

*_NAMES, _LAST = OBSERVABLES
_NONE = Network()


def plan(
    *,
    network: Network = _NONE,
    depth: Annotated[
        int | None,
        Parameter(help="Hidden layers behind the input layer; a whole network has its own."),
    ] = None,
    observable: Annotated[str, Parameter(help=f"{', '.join(_NAMES)} or {_LAST}.")],
    error: Annotated[
        float,
        Parameter(help="Wanted root mean square of 1/N bias and sampling noise, above 0."),
    ],
    width: Annotated[
        int | None, Parameter(help="Units per layer; by default the cheapest width.")
    ] = None,
    input_length: Annotated[float, Parameter(help="Length q > 0 of the two inputs.")] = 1.0,
    input_correlation: Annotated[float, Parameter(help="Correlation of the inputs.")] = 0.5,
    dtype: Annotated[
        Literal["float32", "float64"], Parameter(help="Numbers of the simulation.")
    ] = "float32",
    seed: Annotated[int, Parameter(help="Decides every random number.")] = 0,
    run: Annotated[
        bool, Parameter(negative="", help="Run the plan, and say what was obtained beside it.")
    ] = False,
    output: Annotated[
        Path | None, Parameter(help="The Zarr store of --run; by default runs/plan.zarr.")
    ] = None,
    json: Json = False,
) -> int:
    """Plan width and number of networks; `_cli` has the help, which need not wait for theory."""
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
