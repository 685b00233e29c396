"""The network of a command: a file, or options that build the same description."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import Parameter

from sigprop.commands._output import BadInput, checked
from sigprop.networks import units_of

if TYPE_CHECKING:
    from theory import Part

Weights: TypeAlias = Annotated[
    str,
    Parameter(
        help="gaussian (independent), orthogonal (Haar-random matrices) or sparse:DENSITY "
        "(Gaussian with that probability, else 0)."
    ),
]
Symmetry: TypeAlias = Annotated[
    str | None,
    Parameter(
        help="O(k), U(m) or Sp(m): units of k, 2m or 4m real components with real, complex or "
        "quaternionic weights and the radial activation g(|z|) z/|z|. The profile g is "
        "--activation (also threshold, max(|z| - 1, 0)). Lengths and bias variances are per "
        "real component."
    ),
]
WeightVariance: TypeAlias = Annotated[
    float | None, Parameter(help="σ_w², at least 0: the variance of a weight times the width.")
]
BiasVariance: TypeAlias = Annotated[
    float | None, Parameter(help="σ_b², at least 0: the variance of a bias.")
]


@Parameter(name="*")
@dataclass(frozen=True)
class Structure:
    """The structure of a network, without its variances."""

    network: Annotated[
        str | None,
        Parameter(
            help="A file with a description, instead of the options below: FILE.toml, as written "
            "by theory.save_network, or FILE.py:NAME, which is run. One layer, or a whole "
            "network."
        ),
    ] = None
    activation: Annotated[
        str | None,
        Parameter(
            help="Nonlinearity φ: elu, erf, gelu, gelu_tanh, hard_tanh, leaky_relu, linear, relu, "
            "selu, sigmoid, silu, sin, softplus or tanh. Or a function in a file, FILE.py:NAME."
        ),
    ] = None
    weights: Weights = "gaussian"
    residual: Annotated[
        bool,
        Parameter(negative="", help="Residual layers, z + W φ(z) + b instead of W φ(z) + b."),
    ] = False
    symmetry: Symmetry = None

    def check(self) -> None:
        """Raise `BadInput` unless exactly one of file and options specifies the network."""
        needed = ("activation",)
        needed += tuple(
            name for name in ("weight_variance", "bias_variance") if hasattr(self, name)
        )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            option = f"--{field.name.replace('_', '-')}"
            if field.name in needed and value is None and self.network is None:
                raise BadInput(f"{option}: must be given, or --network; got none")
            if field.name != "network" and value != field.default and self.network is not None:
                raise BadInput(f"{option}: must not be given with --network; got {value}")

    @property
    def symmetric(self) -> bool:
        """Whether the options ask for units that rotate."""
        from theory.description import components

        if self._loaded is None:
            return self.symmetry is not None
        return components(self._loaded) > 1

    @property
    def whole(self) -> bool:
        """Whether a file contains a whole network, from which one layer is taken."""
        from theory.description import repeats_layers

        return self._loaded is not None and repeats_layers(self._loaded)

    @property
    def kind(self) -> str:
        """The activation and structure in words."""
        if self.network is not None:
            return Path(self.network).name
        kind = f"{self.activation}{' residual' * self.residual}"
        return kind if self.symmetry is None else f"{self.symmetry} {kind}"

    def layer_with(self, weight_variance: float, bias_variance: float) -> "Part":
        """One layer; one from a file has its own variances."""
        import theory

        if self._loaded is not None:
            with checked(network="network"):
                return theory.hidden_layer(self._loaded)
        with checked(name="activation", profile="activation", fn="activation"):
            how: dict[str, Any] = {} if self.symmetry is None else units_of(self.symmetry)
            phi: Any = self._activation()
            return theory.layer(
                phi,
                weight_variance,
                bias_variance,
                weights=self.weights,
                residual=self.residual,
                **how,
            )

    def _activation(self) -> Any:
        from theory.description import in_file, read_activation

        radial = self.symmetry is not None and not in_file(self.activation)
        return read_activation({"radial": self.activation} if radial else self.activation)

    @cached_property
    def _loaded(self) -> "Part | None":
        """The description in the file."""
        if self.network is None:
            return None
        import theory

        try:
            return theory.load_network(self.network)
        except (ValueError, TypeError) as error:
            raise BadInput(f"--network: {error}") from error

    def as_parameters(self) -> dict[str, Any]:
        """The options as plain numbers and words, including the contents of a file."""
        import theory

        asked = dataclasses.asdict(self)
        if self._loaded is None:
            return asked
        try:
            return {
                "network": self.network,
                "description": theory.to_dict(self._loaded),
            }
        except ValueError:  # a function in a Python file that cannot be written down
            return {"network": self.network, "description": theory.describe(self._loaded)}


@Parameter(name="*")
@dataclass(frozen=True)
class Network(Structure):
    """A network: its structure and its variances."""

    weight_variance: WeightVariance = None
    bias_variance: BiasVariance = None

    @property
    def variances(self) -> tuple[float, float]:
        """σ_w² and σ_b²; a file has its own."""
        return self.weight_variance or 0.0, self.bias_variance or 0.0

    def fields(self) -> dict[str, Any]:
        """As fields of `sigprop.Sweep`."""
        if self._loaded is not None:
            return {"description": self._loaded}
        return {
            name: value for name, value in dataclasses.asdict(self).items() if name != "network"
        }

    @property
    def text(self) -> str:
        """The description on one line."""
        if self.network is not None:
            return self.kind
        return f"{self._kind}, σ_w² = {self.weight_variance:g}, σ_b² = {self.bias_variance:g}"

    @property
    def caption(self) -> str:
        """The description for the text under a figure."""
        if self.network is not None:
            return f"the network of {self.kind}"
        return rf"{self._kind}, {self.symbol}, $\sigma_b^2={self.bias_variance:.6g}$"

    @property
    def symbol(self) -> str:
        """The weight variance, for a legend."""
        return rf"$\sigma_w^2={self.weight_variance:.6g}$"

    @property
    def _kind(self) -> str:
        from theory.description import weight_family

        return f"{self.kind} network, {weight_family(self.weights).name} weights"

    @property
    def layer(self) -> "Part":
        """One layer, for `theory.predict`."""
        return self.layer_with(*self.variances)

    def deep(self, depth: int | None) -> "Part":
        """The whole network, for `sigprop.compare`; one from a file may have its own depth."""
        from theory.description import deep_network, repeats_layers

        if depth is None:
            if self._loaded is None:
                raise BadInput("--depth: must be given; got none")
            return self._loaded
        if self._loaded is not None and repeats_layers(self._loaded):
            raise BadInput(f"--depth: must not be given with a whole network; got {depth}")
        with checked():
            return deep_network(self.layer, depth)

    @property
    def units(self) -> int:
        """Number of real components of a unit."""
        from theory.description import components

        return components(self.layer)


@Parameter(name="*")
@dataclass(frozen=True)
class Rotating(Network):
    """The network of `goldstone`, whose units rotate."""

    activation: Annotated[
        str | None, Parameter(help="Profile g of the radial activation, as in predict.")
    ] = "tanh"
    symmetry: Symmetry = "O(3)"
    weight_variance: WeightVariance = 2.25
    bias_variance: BiasVariance = 0.0
