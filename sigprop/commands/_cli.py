"""The command line: `predict`, `phase-diagram`, `compare`, `goldstone`, `spectrum` and others.

The work of a command is in its own module, which is imported only when it runs, so that help and
error messages need not wait for JAX.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

from cyclopts import App, CoercionError, CycloptsError, MissingArgumentError, Parameter

from sigprop.commands._network import Network, Rotating, Structure
from sigprop.commands._output import BadInput, explained, printable
from sigprop.commands._plan_cli import plan
from sigprop.commands._stop import stoppable
from sigprop.commands._sweep_cli import sweep
from sigprop.commands._whole_numbers import exactly

_HELP = """\
Random deep networks: mean-field theory predicts, simulation at finite width tests.

A network is z_{l+1} = W φ(z_l) + b with fresh random weights and biases in every layer: a
weight has variance σ_w²/N (N the width), a bias has variance σ_b². All parameters are
variances, never standard deviations. The length q_l = |z_l|²/N is the mean square of a
pre-activation in layer l, c_l the correlation of two inputs there, and the slope χ the
factor per layer on the squared distance of two nearby inputs: below 1 the network is
ordered, above 1 chaotic. Depth scales ξ are in layers.
"""
_EPILOGUE = "Exit codes: 0 done, 1 theory and simulation disagree, 2 bad input, 3 no verdict."

app = App(
    name="sigprop",
    help=_HELP,
    help_epilogue=_EPILOGUE,
    help_format="markdown",
    default_parameter=Parameter(converter=exactly),
    suppress_keyboard_interrupt=False,  # see `stoppable`
)
app.command(plan)
app.command(sweep)

StartLength: TypeAlias = Annotated[
    float,
    Parameter(help="Length q_0 > 0 of a typical input, from which the fixed point is reached."),
]
WeightMatrices: TypeAlias = Annotated[
    Literal["auto", "always", "never"],
    Parameter(
        help="Draw every weight, or only the products of weights and signals, which has the same "
        "law at a cost proportional to the width rather than its square. auto: the cheaper way "
        "from width 1025 on."
    ),
]
Dtype: TypeAlias = Annotated[
    Literal["float32", "float64"],
    Parameter(help="Precision of the simulation; the theory uses float64."),
]
Seed: TypeAlias = Annotated[int, Parameter(help="Decides every random number.")]
Output: TypeAlias = Annotated[
    Path | None,
    Parameter(help="Folder for figures (PNG, PDF) and data (Zarr); by default in runs/."),
]
Json: TypeAlias = Annotated[
    bool, Parameter(negative="", help="Print one JSON object and no progress bars.")
]


_NONE, _STRUCTURE, _ROTATING = Network(), Structure(), Rotating()
"""Without any option."""


@app.command
def predict(
    *,
    network: Network = _NONE,
    start_length: StartLength = 1.0,
    json: Json = False,
) -> int:
    """Predict one network of infinite width and depth.

    Prints the stable fixed points q* (length) and c* (correlation), the slope χ, the depth
    scales ξ_q and ξ_c in layers, and the phase; each number with its estimated error and a
    status. In JSON a number that is infinite or absent is null; its status says which.

    With a symmetry, also prints the symmetry group of the description, the number of its
    Goldstone modes (pseudo-Goldstone modes if a bias breaks it explicitly; none if q* = 0), the
    order parameter m = E g(|z|), and the multipliers per layer of a small difference of two
    inputs: of a relative rotation (goldstone: 1 − σ_b²/q*), of the distance (trace: χ) and of a
    relative shear (symmetric_traceless).
    """
    network.check()
    from sigprop.commands import _predict_command

    return _predict_command.predict(network, start_length, json)


_RANGE = "start:stop:count, or numbers separated by commas."


@app.command
def phase_diagram(
    *,
    network: Structure = _STRUCTURE,
    weight_variance: Annotated[str, Parameter(help=f"Values of σ_w² ≥ 0: {_RANGE}")] = "0.5:4:64",
    bias_variance: Annotated[str, Parameter(help=f"Values of σ_b² ≥ 0: {_RANGE}")] = "0:0.5:64",
    start_length: StartLength = 1.0,
    output: Output = None,
    json: Json = False,
) -> int:
    """Predict a whole plane of variances: phases, q*, c*, χ, and the depth scales ξ in layers.

    Writes phase_diagram.png, .pdf and .zarr. The figure shows the edge of chaos χ = 1; in the
    data every number has its estimated error and a status. With a symmetry, the order parameter
    and the multipliers by sector replace c* and its scales.
    """
    network.check()
    from sigprop.commands import _phase_diagram_command

    axes = {"weight_variance": weight_variance, "bias_variance": bias_variance}
    return _phase_diagram_command.phase_diagram(network, axes, start_length, output, json)


@app.command
def compare(
    *,
    network: Network = _NONE,
    depth: Annotated[
        int | None,
        Parameter(
            help="Hidden layers after the input layer, at least 1; omit it for a file with a whole "
            "network."
        ),
    ] = None,
    widths: Annotated[
        str,
        Parameter(
            help="Widths N: at least 3 different ones, separated by commas.",
            allow_leading_hyphen=True,
        ),
    ] = "64,128,256,512",
    replicas: Annotated[
        str,
        Parameter(
            help="Networks per width, at least 2: one number, or one for each width.",
            allow_leading_hyphen=True,
        ),
    ] = "200",
    inputs: Annotated[
        str,
        Parameter(
            help="gram (two inputs of exactly the given length and correlation), digits "
            "(scikit-learn's, 8x8 pixels), or a folder of IDX files (MNIST, Fashion-MNIST)."
        ),
    ] = "gram",
    input_count: Annotated[int, Parameter(help="Number of images from digits or a folder.")] = 2,
    input_length: Annotated[
        float, Parameter(help="Length q > 0 of inputs; for a data set, the mean over its images.")
    ] = 1.0,
    input_correlation: Annotated[
        float, Parameter(help="Correlation of the two inputs of gram, from -1 to 1.")
    ] = 0.5,
    observables: Annotated[
        str,
        Parameter(
            help="Observables to compare, separated by commas; an unknown one prints the list of "
            "all of them."
        ),
    ] = "length,correlation,slope,gradient_growth",
    gradients: Annotated[
        bool, Parameter(help="Also measure the growth of gradients from layer to layer.")
    ] = True,
    weight_matrices: WeightMatrices = "auto",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    output: Output = None,
    json: Json = False,
) -> int:
    """Simulate networks of several widths and test theory against them, layer by layer.

    By default measures in every layer the length q_l, the correlation c_l, the slope χ_l, and the
    growth of squared gradients. Means over networks are extrapolated to infinite width in powers
    of 1/N; z is the significance of their distance from theory, in standard deviations of a
    normal law. The verdict has a false-alarm rate of 1e-6 over all tests. Its power is the result
    of the same check for a theory with one variance 3 % wrong. χ²/dof shows whether the
    extrapolation fits.

    Exits with 0 if theory and simulation agree, with 1 if they disagree, with 2 on bad input,
    with 3 if too few cells could be judged or a number is not finite. Writes comparison.png, .pdf
    and .zarr.
    """
    network.check()
    from sigprop.commands import _compare_command
    from sigprop.commands._requests import (
        MOST_REPLICAS,
        Inputs,
        Run,
        whole_numbers,
    )
    from sigprop.networks import MOST_UNITS, MOST_WITH_MATRICES

    most = MOST_WITH_MATRICES if weight_matrices == "always" else MOST_UNITS
    run = Run(
        whole_numbers("--widths", widths, 1, most),
        whole_numbers("--replicas", replicas, 2, MOST_REPLICAS),
        seed,
        dtype,
        gradients,
        weight_matrices,
        tuple(name.strip() for name in observables.split(",")),
    )
    source = Inputs(inputs, input_count, input_length, input_correlation)
    return _compare_command.compare(network, depth, run, source, output, json)


@app.command
def goldstone(
    *,
    network: Rotating = _ROTATING,
    depth: Annotated[
        int, Parameter(help="Hidden layers after the input layer, at least 20.")
    ] = 200,
    width: Annotated[int, Parameter(help="Units per layer.")] = 256,
    replicas: Annotated[int, Parameter(help="Networks per point and pair, at least 2.")] = 100,
    weight_matrices: WeightMatrices = "never",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    output: Output = None,
    json: Json = False,
) -> int:
    """Show what a symmetry protects: order parameter, multipliers, rotations through depth.

    Compares theory with networks of one width: the order parameter m = E g(|z|) against σ_w²;
    the multipliers by sector; the overlap and relative rotation, layer by layer, of two inputs
    that are rotated copies of each other and of two that are not (with a bias the rotation
    decays). For one network, also shows its leading Lyapunov exponents, classified by alignment
    with the generators A, and the residual of J(Ax) = A f(x). Writes goldstone.png, .pdf and
    .zarr.
    """
    network.check()
    from sigprop.commands import _goldstone_command
    from sigprop.commands._requests import Run

    run = Run((width,), (replicas,), seed, dtype, weight_matrices=weight_matrices)
    return _goldstone_command.goldstone(network, depth, run, output, json)


@app.command
def spectrum(
    *,
    network: Network = _NONE,
    depth: Annotated[int, Parameter(help="Layers L, at least 1, in J = W_L D_L ... W_1 D_1.")],
    start_length: Annotated[
        float | None,
        Parameter(
            help="Length q_0 > 0 of the pre-activations that enter. By default all layers are at "
            "the fixed point q* reached from 1, or q_0 = 1 if q* is 0 or infinite."
        ),
    ] = None,
    theory_only: Annotated[bool, Parameter(negative="", help="Draw no networks.")] = False,
    width: Annotated[int, Parameter(help="Units per layer.")] = 256,
    replicas: Annotated[int, Parameter(help="Networks, at least 2.")] = 20,
    dtype: Dtype = "float64",
    seed: Seed = 0,
    output: Output = None,
    json: Json = False,
) -> int:
    """Predict and measure all singular values of the input-output Jacobian J.

    J = W_L D_L ... W_1 D_1 has a weight matrix W and a diagonal matrix D of slopes φ' in each
    of its layers. Prints the edges of the singular values, moments of JJᵀ, the fraction of
    singular values that are zero, the exponents log s/L of infinitely many layers at the fixed
    point, and with a symmetry the squared gains along its generators; each with error and status.

    Then draws networks of one width, computes all their singular values to full relative
    accuracy, and compares. Writes spectrum.png, .pdf and .zarr. Networks differ from theory by
    O(L/N) in addition to their standard errors.
    """
    network.check()
    from sigprop.commands import _spectrum_command
    from sigprop.commands._requests import Run

    run = Run((width,), (replicas,), seed, dtype)
    return _spectrum_command.spectrum(network, depth, run, start_length, theory_only, output, json)


@app.command
def demo(*, output: Output = None, json: Json = False) -> int:
    """Show everything in under two minutes: three tanh networks, and their phase diagram.

    At σ_b² = 0.05, σ_w² = 1.5 is ordered, 1.760955 critical and 2.5 chaotic. Each is predicted,
    simulated 50 layers deep at widths 64, 128 and 256, and judged. Writes to runs/demo.
    """
    from sigprop.commands._demo import demo as run_demo

    return run_demo(output, json)


@app.command
def probe(
    target: Annotated[
        str,
        Parameter(
            help="FILE.py:NAME, where NAME is a function or an equinox module of one input, a "
            "Flax nnx module, or a pair (linen module, variables). The file is run."
        ),
    ],
    *,
    inputs: Annotated[
        str,
        Parameter(
            help="gram (two inputs of length 1 and correlation 0.5), digits (scikit-learn's, "
            "64 pixels, mean length 1), or a .npy file with a leading axis over inputs."
        ),
    ] = "digits",
    input_count: Annotated[int, Parameter(help="Number of inputs from digits or a file.")] = 8,
    input_width: Annotated[int, Parameter(help="Number of entries of an input of gram.")] = 64,
    layers: Annotated[
        str | None, Parameter(help="Name in the file of a list of layers that compose to NAME.")
    ] = None,
    description: Annotated[
        str | None,
        Parameter(help="Name in the file of the description that the network is drawn from."),
    ] = None,
    dtype: Dtype = "float32",
    seed: Seed = 0,
    output: Output = None,
    json: Json = False,
) -> int:
    """Measure signals, gradients and the Jacobian of any network in a Python file.

    Prints lengths, exact zeros and gradients layer by layer if the layers can be found, and the
    singular values of the Jacobian at each input with their errors. With a description, also
    prints the rank of this network among networks drawn from it. Writes probe.png, .pdf and
    .zarr.
    """
    from sigprop.commands._probe_command import probe_network

    return probe_network(
        target,
        inputs,
        input_count,
        input_width,
        layers,
        description,
        dtype,
        seed,
        output,
        json,
    )


@app.command
def train(
    study: Annotated[
        Path,
        Parameter(
            help="A TOML file with the fields of sigprop.experiments.Study and one table "
            "[[architecture]] for each: keywords, a description, or the file of a network."
        ),
    ],
    *,
    data: Annotated[
        str | None, Parameter(help="A folder of IDX files, or digits; overrides the study.")
    ] = None,
    depth: Annotated[int | None, Parameter(help="Layers; overrides the study.")] = None,
    delay: Annotated[
        int | None, Parameter(help="Longest delay of the copy task; overrides the study.")
    ] = None,
    permuted: Annotated[
        bool | None, Parameter(help="Whether pixels are read in a random order.")
    ] = None,
    output: Output = None,
    only_show: Annotated[bool, Parameter(negative="", help="Train nothing.")] = False,
    json: Json = False,
) -> int:
    """Train a study: classifiers of several architectures, gains, learning rates and seeds.

    Finished networks in the output folder (by default runs/ and the name of the file) are not
    trained again, and interrupted ones resume from their last checkpoint. Prints the best and
    worst learning rate of every architecture and gain. Writes study.png, .pdf and .zarr, and a
    Zarr store for every network.
    """
    try:
        from sigprop.commands._train_command import train_study
    except ModuleNotFoundError as error:
        raise BadInput(
            f"train: needs the extra packages of sigprop[train]; got none named {error.name}"
        ) from error
    instead = {"data": data, "depth": depth, "delay": delay, "permuted": permuted}
    return train_study(study, instead, output, only_show, json)


@app.command
def continuity(
    target: Annotated[
        str,
        Parameter(
            help="A .npz or .npy file, the folder of an Orbax checkpoint, or FILE.py:NAME, where "
            "NAME is a model or a tree of arrays. The file is run. Or a study in a TOML file, "
            "trained by sigprop train with the same --output."
        ),
    ],
    *,
    names: Annotated[
        str,
        Parameter(help="Which weights, with * for any text; # represents the number of a layer."),
    ] = "*",
    rank: Annotated[int, Parameter(help="Leading singular vectors in a frame, at least 1.")] = 4,
    tolerance: Annotated[float, Parameter(help="Error of alignments, between 0 and 1.")] = 1e-2,
    output: Output = None,
    json: Json = False,
) -> int:
    """Measure how similar the weights of different layers are, compared with chance.

    Finds weights that occur in every layer by their names. Prints |cos| of the leading right
    (inputs, v) and left (outputs, u) singular vectors of neighbouring layers, with the mean and the
    99 % quantile for independent random directions, and a line for every layer without a leading
    direction. Writes layer×layer maps: continuity.png, .pdf and .zarr.
    """
    if target.endswith(".toml"):
        try:
            from sigprop.commands._continuity_study import show_study
        except ModuleNotFoundError as error:
            raise BadInput(
                f"continuity: a study needs the extra packages of sigprop[train]; got none named "
                f"{error.name}"
            ) from error
        return show_study(Path(target), output, json)
    from sigprop.commands._continuity_command import show_continuity

    return show_continuity(target, names, rank, tolerance, output, json)


_KINDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false"}


def _sentence(error: Exception) -> str:
    """What to say of an error: for words that are no value of an option, as the library does."""
    if not isinstance(error, CoercionError) or error.msg is not None or error.token is None:
        # Cyclopts names the option before a sentence of ours that does so, too.
        return re.sub(r"^Invalid value for (\S+): (?=\1: )", "", str(error))
    name = error.token.keyword
    if name is None and error.argument is not None:
        name = error.argument.name.lstrip("-").upper()
    choices = ", ".join(map(str, get_args(error.target_type)))
    must = _KINDS.get(error.target_type, f"one of {choices}" if choices else "another value")
    return f"{name}: must be {must}; got {error.token.value}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    The code is 0, 1 (disagreement), 2 (bad input) or 3 (no verdict). SIGINT and SIGTERM exit with
    130 and 143.
    """
    tokens = sys.argv[1:] if argv is None else list(argv)
    command = tokens[0] if tokens and not tokens[0].startswith("-") else None
    with stoppable("sigprop", shlex.join(["sigprop", *tokens])):
        if command is None or "--json" in tokens:
            return _run(tokens)
        with explained(
            f"{command}: loading JAX; programs that are not in the cache are compiled first"
        ):
            return _run(tokens)


def _run(tokens: list[str]) -> int:
    try:
        result = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except MissingArgumentError as error:
        name = "an option" if error.argument is None else error.argument.name
        if error.argument is not None and error.argument.field_info.is_positional:
            name = name.lstrip("-").upper()
        print(f"sigprop: {name}: must be given with a value; got none", file=sys.stderr)
        return 2
    except (BadInput, CycloptsError) as error:
        print("sigprop:", printable(_sentence(error)), file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).partition("\n")[0]
        print("sigprop: the computation must fit into memory; got", reason, file=sys.stderr)
        return 2
    return result or 0
