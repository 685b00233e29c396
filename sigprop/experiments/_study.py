"""A training study as data: what is trained, on what, and how."""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from os import PathLike
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

from sigprop._toml import build, read_toml

if TYPE_CHECKING:
    from theory import Activation, Part, WeightLaw

Mixing = Literal["real", "complex", "quaternion", "dense"]


@dataclass(frozen=True)
class Architecture:
    """The interior of a deep classifier.

    The gain σ_w of a study is the square root of the weight variance, so that σ_w = 1 is the
    transition of every architecture with φ'(0) = 1; unless `same_entries`.
    """

    name: str
    components: int = 1
    """Real components k of a unit."""
    mixing: Mixing = "real"
    """What weights between units are: numbers of this algebra, or any k×k matrix (dense)."""
    activation: str = "radial tanh"
    """ "radial PROFILE" of whole units, or the name of an activation of every real component."""
    weights: Literal["gaussian", "orthogonal"] = "gaussian"
    residual: bool = False
    normalisation: Literal["none", "layer", "rms"] = "none"
    """In front of every activation, without gain."""
    same_entries: bool = False
    """Dense weights whose entries have the variance of the entries of real weights between
    units of k components at the same gain, as in the code released with Iqbal et al. 2026:
    their weight variance is k σ_w²."""
    features: int | None = None
    """Real numbers in a hidden layer, if not those of the study."""
    cell: Literal["deep", "rnn", "gru", "block", "transformer"] = "deep"
    """A deep network, or a recurrent one that reads its input step by step; a deep one of layers
    [h +] φ(W norm(h)), see `BlockClassifier`; or a language model, see `Transformer`."""

    @property
    def phi(self) -> "Activation":
        """The nonlinearity."""
        import theory

        kind, _, profile = self.activation.partition(" ")
        return theory.radial(profile) if kind == "radial" else theory.activation(self.activation)

    @property
    def law(self) -> "WeightLaw":
        """The law of the hidden weights at gain 1."""
        from theory import WeightLaw

        variance = self.components if self.same_entries else 1.0
        return WeightLaw(variance, self.weights, self.components, self.mixing)

    def interior(self, depth: int) -> "Part":
        """W, then φ and W in turn, then φ: `depth` of each, at gain 1."""
        from theory import Affine, Chain, Normalise, Pointwise, Residual, repeat

        phi, law = self.phi, Affine(self.law, 0.0)
        normalise = () if self.normalisation == "none" else (Normalise(self.normalisation),)
        turn: Part = Chain((*normalise, Pointwise(phi), law))
        body = Residual(turn) if self.residual else turn
        return Chain((law, repeat(body, depth - 1), *normalise, Pointwise(phi)))


@dataclass(frozen=True)
class Study:
    """Classifiers trained from every gain at every learning rate, from several seeds."""

    architectures: tuple[Architecture, ...]
    data: str = "digits"
    """ "digits" (scikit-learn's), a folder of IDX files (MNIST, Fashion-MNIST); "copy": ten tokens
    to be repeated after a delay, for recurrent cells; or "python": the sources of Python's
    standard library, for transformers."""
    permuted: bool = False
    """Take the pixels in a random order: it matters to recurrent cells."""
    delay: int = 25
    """Longest delay of the copy task."""
    depth: int = 100
    features: int = 64
    gains: tuple[float, ...] = (1.2,)
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 5
    batch: int = 256
    optimiser: Literal["adam", "sgd"] = "adam"
    records: int = 12
    """How often the networks are measured: at steps in geometric progression, and at the end."""
    precision: str = "highest"
    """Of matrix products."""
    measures: tuple[str, ...] = ("signals",)
    """What is measured beside loss and accuracy: names in `MEASURES`."""
    train_count: int | None = None
    """Images to train on, None for all."""

    def __post_init__(self):
        names = [a.name for a in self.architectures]
        checks: list[tuple[bool, str, str, Any]] = [
            (len(names) > 0, "architectures", "hold at least one", names),
            (len(set(names)) == len(names), "architectures", "have different names", names),
            (self.depth >= 2, "depth", "be a whole number of at least 2", self.depth),
            (self.epochs >= 1, "epochs", "be a whole number of at least 1", self.epochs),
            (self.batch >= 2, "batch", "be a whole number of at least 2", self.batch),
            (self.records >= 2, "records", "be a whole number of at least 2", self.records),
            (_positive(self.gains), "gains", "be positive, at least one", self.gains),
            (
                _positive(self.learning_rates),
                "learning_rates",
                "be positive, at least one",
                self.learning_rates,
            ),
            (
                len(self.seeds) > 0 and len(set(self.seeds)) == len(self.seeds),
                "seeds",
                "be different, at least one",
                self.seeds,
            ),
            (self.optimiser in ("adam", "sgd"), "optimiser", "be adam or sgd", self.optimiser),
        ]
        for architecture in self.architectures:
            size = architecture.features or self.features
            checks.append(
                (
                    size >= 1 and size % architecture.components == 0,
                    "features",
                    f"be a multiple of the components of {architecture.name}",
                    size,
                )
            )
            deep = architecture.cell in ("deep", "block")
            text = architecture.cell == "transformer"
            checks.append(
                (
                    text == (self.data == "python"),
                    "data",
                    "be python for transformers and for nothing else",
                    self.data,
                )
            )
            checks.append(
                (
                    not (deep and self.data == "copy"),
                    "data",
                    f"be images for {architecture.name}, which reads all numbers at once",
                    self.data,
                )
            )
        for good, name, what, value in checks:
            if not good:
                raise ValueError(f"`{name}`: must {what}; got {value}")

    @property
    def chance(self) -> float | None:
        """The accuracy of guessing; None for text, whose bytes are not equally frequent."""
        return {"copy": 1 / 8, "python": None}.get(self.data, 1 / 10)

    @property
    def members(self) -> "list[Member]":
        """Every network of the study, in the order of its axes."""
        return [
            Member(self, architecture, gain, rate, seed)
            for architecture in self.architectures
            for gain in self.gains
            for rate in self.learning_rates
            for seed in self.seeds
        ]


@dataclass(frozen=True)
class Member:
    """One network of a study."""

    study: Study
    architecture: Architecture
    gain: float
    learning_rate: float
    seed: int

    @property
    def key(self) -> str:
        """A name made of everything that decides the result.

        Fields at their defaults are left out, so that a new field renames nothing; so are the
        axes of the study, the name of the architecture, and where a folder of data lies.
        """
        study = _chosen(self.study)
        for axis in ("architectures", "gains", "learning_rates", "seeds"):
            study.pop(axis, None)
        study["data"] = PurePath(self.study.data).name
        architecture = _chosen(self.architecture)
        architecture.pop("name")
        content = {
            "study": study,
            "architecture": architecture,
            "member": (self.gain, self.learning_rate, self.seed),
        }
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _chosen(fields: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not at their defaults."""
    return {
        field.name: getattr(fields, field.name)
        for field in dataclasses.fields(fields)
        if getattr(fields, field.name) != field.default
    }


def read_study(path: str | PathLike[str], **instead: Any) -> Study:
    """A study from a TOML file, whose names are the fields of `Study` and `Architecture`.

    Keywords take the place of what the file says.

    Raises
    ------
    ValueError
        Names what cannot be read, an unknown field, or one out of range.
    """
    content = read_toml(path)
    tables = content.pop("architecture", [])
    try:
        if not (isinstance(tables, list) and all(isinstance(table, dict) for table in tables)):
            raise ValueError("`architecture`: must be tables [[architecture]]")
        architectures = tuple(build(Architecture, table) for table in tables)
        return build(Study, {**content, "architectures": architectures, **instead})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _positive(values: tuple[float, ...]) -> bool:
    return len(values) > 0 and all(math.isfinite(v) and v > 0 for v in values)
