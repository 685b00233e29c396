"""A training study as data: what is trained, on what, and how."""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from os import PathLike
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from msgspec import Meta

from sigprop.storage import Count, build, check_fields
from theory.description import read_toml

if TYPE_CHECKING:
    from theory import Activation, Part, WeightLaw

Several: TypeAlias = Annotated[int, Meta(ge=2)]
Seed: TypeAlias = Annotated[int, Meta(ge=0, lt=2**31)]
Positive: TypeAlias = Annotated[float, Meta(gt=0)]


@dataclass(frozen=True)
class Architecture:
    """The interior of a deep classifier.

    The gain σ_w of a study is the square root of the weight variance, so that σ_w = 1 is the
    transition of every architecture with φ'(0) = 1; unless `same_entries`.
    """

    name: str
    components: Count = 1
    """Real components k of a unit."""
    mixing: str = "real"
    """What weights between units are: numbers of this algebra, or any k×k matrix (dense)."""
    activation: str = "radial tanh"
    """ "radial PROFILE" of whole units, or the name of an activation of every real component."""
    weights: str = "gaussian"
    """ "gaussian", "orthogonal" or "sparse:DENSITY"."""
    residual: bool = False
    normalisation: Literal["none", "layer", "rms"] = "none"
    """In front of every activation, without gain."""
    same_entries: bool = False
    """Dense weights whose entries have the variance of the entries of real weights between
    units of k components at the same gain, as in the code released with Iqbal et al. 2026:
    their weight variance is k σ_w²."""
    features: Count | None = None
    """Real numbers in a hidden layer, if not those of the study."""
    cell: Literal["deep", "rnn", "gru", "block", "transformer"] = "deep"
    """A deep network, or a recurrent one that reads its input step by step; a deep one of layers
    [h +] φ(W norm(h)), see `BlockClassifier`; or a language model, see `Transformer`."""

    def __post_init__(self):
        check_fields(self)

    def check(self) -> None:
        """Raise a `ValueError` that names the field unless this can be built."""
        try:
            _ = self.phi, self.law
        except ValueError as error:
            message = re.sub("^`(name|profile)`", "`activation`", str(error))
            message = re.sub("^`algebra`", "`mixing`", message)
            raise ValueError(f"{message}, of {self.name}") from error

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
        algebra: Any = self.mixing  # checked there
        return WeightLaw(variance, self.weights, self.components, algebra)

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
    delay: Count = 25
    """Longest delay of the copy task."""
    depth: Several = 100
    features: Count = 64
    gains: tuple[Positive, ...] = (1.2,)
    learning_rates: tuple[Positive, ...] = (1e-4, 3e-4, 1e-3)
    seeds: tuple[Seed, ...] = (0, 1, 2)
    epochs: Count = 5
    batch: Several = 256
    optimiser: Literal["adam", "sgd"] = "adam"
    records: Several = 12
    """How often the networks are measured: at steps in geometric progression, and at the end."""
    precision: Literal["highest", "high", "default"] = "highest"
    """Of matrix products."""
    measures: tuple[str, ...] = ("signals",)
    """What is measured beside loss and accuracy: names in `MEASURES`."""
    train_count: Count | None = None
    """Images to train on, None for all."""

    def __post_init__(self):
        check_fields(self)

        def need(good: Any, name: str, what: str, value: Any) -> None:
            if not good:
                raise ValueError(f"`{name}`: must {what}; got {value!r}")

        names = [a.name for a in self.architectures]
        need(names, "architectures", "hold at least one", names)
        need(len(set(names)) == len(names), "architectures", "have different names", names)
        for name in ("gains", "learning_rates", "seeds"):
            values = getattr(self, name)
            need(len(set(values)) == len(values) > 0, name, "hold at least one, each once", values)
        for architecture in self.architectures:
            architecture.check()
            own, cell = architecture.name, architecture.cell
            size = architecture.features or self.features
            several = size % architecture.components == 0
            need(several, "features", f"be a multiple of the components of {own}", size)
            text = (cell == "transformer") == (self.data == "python")
            need(text, "data", "be python for transformers and for nothing else", self.data)
            images = self.data != "copy" or cell in ("rnn", "gru")
            what = f"be images for {own}, which reads all numbers at once"
            need(images, "data", what, self.data)

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
