"""The command line of `sigprop plan`, which names what theory can observe."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from sigprop.commands._sweep_cli import Json
from theory import OBSERVABLES

*_NAMES, _LAST = OBSERVABLES


def plan(
    *,
    activation: Annotated[str, Parameter(help="Nonlinearity φ, as in predict.")],
    weight_variance: Annotated[float, Parameter(help="σ_w², at least 0.")],
    bias_variance: Annotated[float, Parameter(help="σ_b², at least 0.")],
    depth: Annotated[int, Parameter(help="Hidden layers behind the input layer, at least 1.")],
    observable: Annotated[str, Parameter(help=f"{', '.join(_NAMES)} or {_LAST}.")],
    error: Annotated[
        float,
        Parameter(help="Wanted root mean square of 1/N bias and sampling noise, above 0."),
    ],
    width: Annotated[
        int | None, Parameter(help="Units per layer; by default the cheapest width.")
    ] = None,
    weights: Literal["gaussian", "orthogonal"] = "gaussian",
    residual: Annotated[bool, Parameter(negative="", help="Residual layers.")] = False,
    symmetry: Annotated[str | None, Parameter(help="O(k), U(m) or Sp(m), as in predict.")] = None,
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

    fields = {
        "activation": activation,
        "weight_variance": weight_variance,
        "bias_variance": bias_variance,
        "depth": depth,
        "weights": weights,
        "residual": residual,
        "symmetry": symmetry,
        "input_length": input_length,
        "input_correlation": input_correlation,
        "dtype": dtype,
        "seed": seed,
    }
    return plan_networks(fields, observable, error, width, run, output, json)
