"""A training study as data: what to train, on what, and how."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import numpy as np
from msgspec import Meta

from sigprop.storage import Count, build, check_fields, network_text, portable
from theory.description import read_toml
from theory.numerics import shown, with_names

if TYPE_CHECKING:
    from theory import Part, WeightLaw
    from theory.description import Activation

Several: TypeAlias = Annotated[int, Meta(ge=2)]
Seed: TypeAlias = Annotated[int, Meta(ge=0, lt=2**31)]
Positive: TypeAlias = Annotated[float, Meta(gt=0)]


SHORTHAND = {
    "components": 1,
    "mixing": "real",
    "activation": "radial tanh",
    "weights": "gaussian",
    "residual": False,
    "normalisation": "none",
    "same_entries": False,
}
"""Defaults of these fields if no `description` is given."""
_UNREAD = {
    "rnn": ("residual", "normalisation"),
    "gru": ("residual", "normalisation"),
    "block": ("weights", "same_entries"),
    "transformer": tuple(SHORTHAND),
}
"""The fields that do not affect a recurrent cell."""


@dataclass(frozen=True)
class Architecture:
    """The interior of a deep classifier, or a recurrent cell.

    It is a `description`, or a shorthand: the fields from `components` to `same_entries`, which
    build one of weight variance 1. The gain of a study is then its σ_w, and the transition of
    every architecture with φ'(0) = 1 is at gain 1 (except with `same_entries`).
    """

    name: str
    components: Count | None = None
    """Number k of real components of a unit, 1 by default."""
    mixing: str | None = None
    """The weights between units: numbers of this algebra ("real" by default), or any k×k matrix
    ("dense")."""
    activation: str | None = None
    """ "radial PROFILE" of whole units ("radial tanh" by default), or the name of an activation of
    every real component."""
    weights: str | None = None
    """ "gaussian" (the default), "orthogonal" or "sparse:DENSITY", at initialisation."""
    residual: bool | None = None
    normalisation: Literal["none", "layer", "rms"] | None = None
    """Normalisation before every activation, without gain."""
    same_entries: bool | None = None
    """Dense weights whose entries have the variance of the entries of real weights between
    units of k components at the same gain, as in the code released with Iqbal et al. 2026:
    their weight variance is k σ_w²."""
    features: Count | None = None
    """Number of real numbers in a hidden layer, by default that of the study."""
    cell: Literal["deep", "rnn", "gru", "block", "transformer"] = "deep"
    """A deep network; a recurrent one that reads its input step by step; a deep one of layers
    [h +] φ(W norm(h)), see `BlockClassifier`; or a language model, see `Transformer`. The last two
    have no description."""
    description: Any = None
    """Any hidden layer, instead of the shorthand; for a deep network also all of it, with the depth
    of the study. A part, its dictionary, or the name of its file, as in `sigprop.Sweep`; stored as
    the text of the dictionary. A recurrent cell takes φ and W from it: see `theory.layer`."""

    def __post_init__(self):
        check_fields(self)
        given = {name: getattr(self, name) for name in SHORTHAND}
        given = {name: value for name, value in given.items() if value is not None}
        for name, value in given.items():
            if self.description is not None:
                raise ValueError(
                    f"`{name}`: must not be given with a description; got {shown(value)}"
                )
            if name in _UNREAD.get(self.cell, ()) and value != SHORTHAND[name]:
                raise ValueError(
                    f"`{name}`: must not be given with cell {self.cell}; got {shown(value)}"
                )
        if self.cell == "block" and self.mixing not in (None, "real", "dense"):
            must = "must be real or dense with cell block"
            raise ValueError(f"`mixing`: {must}; got {shown(self.mixing)}")
        if self.description is None:
            for name in SHORTHAND.keys() - given:
                object.__setattr__(self, name, SHORTHAND[name])
        elif self.cell in ("block", "transformer"):
            raise ValueError(f"`description`: must not be given with cell {self.cell}; got one")
        else:
            object.__setattr__(self, "description", network_text(self.description))

    def check(self, depth: int, features: int) -> None:
        """Raise a `ValueError` that names the field unless this can be built and trained."""
        try:
            size = self.units
            if features % size:
                must = f"must be a multiple of the {size} components of a unit"
                raise ValueError(f"`features`: {must}; got {features}")
            if self.cell in ("rnn", "gru"):
                _ = self.recurrence
            elif self.cell == "deep":
                interior = self.interior(depth)
                if self.description is not None:
                    from sigprop.experiments._model import check_trains

                    check_trains(interior, features // size, size)
        except (ValueError, TypeError) as error:
            names = {
                "name": "activation",
                "profile": "activation",
                "algebra": "mixing",
                "network": "description",
                "family": "weights",
                "anything": "description",
            }
            names |= {
                n: f"description.{n}" for n in ("variance", "weight_variance", "bias_variance")
            }
            message = with_names(str(error), names)
            raise ValueError(f"{message}, of {self.name}") from error

    @property
    def phi(self) -> "Activation":
        """The nonlinearity of the shorthand."""
        import theory

        word = str(self.activation)
        kind, _, profile = word.partition(" ")
        return theory.radial(profile) if kind == "radial" else theory.activation(word)

    @property
    def part(self) -> "Part":
        """The description at gain 1: a layer, or a whole network."""
        import theory
        from theory import Chain, Normalise, Pointwise, Residual

        if self.description is not None:
            return theory.from_dict(json.loads(self.description))
        k: Any = self.components
        how: Any = {"weights": self.weights, "components": k, "algebra": self.mixing}
        kind: Any = self.normalisation
        norm = () if kind == "none" else (Normalise(kind),)
        law = theory.affine(k if self.same_entries else 1.0, **how)
        layer = Chain((*norm, Pointwise(self.phi), law))
        return Residual(layer) if self.residual else layer

    @property
    def units(self) -> int:
        """Number of real components of a unit."""
        from theory.description import components

        return components(self.part)

    @property
    def recurrence(self) -> "tuple[WeightLaw, Activation]":
        """The weights of a recurrent cell at gain 1, and its nonlinearity.

        Raises
        ------
        ValueError
            If the description contains anything else.
        """
        from theory import Affine, Chain, Pointwise

        part = self.part
        match part:
            case Chain(parts=(Pointwise(activation=phi), Affine(weights=law, width=None) as last)):
                if np.ndim(law.variance) == 0 and not np.any(last.bias_variance):
                    return law, phi
            case _:
                pass
        parts = part.parts if isinstance(part, Chain) else (part,)
        raise ValueError(
            f"`description`: must be a Pointwise and an Affine without bias, as in theory.layer, "
            f"for a cell {self.cell};  got {', '.join(type(p).__name__ for p in parts)}"
        )

    def interior(self, depth: int) -> "Part":
        """A deep network of `depth` hidden layers at gain 1.

        It consists of the last weights of the layer, then the layer `depth` − 1 times, and then
        again what the layer does before its weights (normalisation and φ), since the read-out
        takes the place of the weights of one more layer. A whole network that continues after its
        `Repeat` is used as it is.

        Raises
        ------
        ValueError
            If a whole network has another depth.
        """
        from theory import Chain, Repeat
        from theory.description import before_weights, deep_network, layer_at, repeats_layers

        network = self.part
        if not repeats_layers(network):
            network = deep_network(network, depth - 1)
        parts = network.parts if isinstance(network, Chain) else (network,)
        repeats = [part for part in parts if isinstance(part, Repeat)]
        if len(repeats) != 1:
            raise ValueError(f"`network`: must contain one Repeat; got {len(repeats)}")
        (found,) = repeats
        if found.depth != depth - 1:
            must = f"must be {found.depth + 1}, one above that of the Repeat of the description"
            raise ValueError(f"`depth`: {must}; got {depth}")
        if parts[-1] is found:
            parts = (*parts, *before_weights(layer_at(found.body, -1)))
        return Chain(parts)


@dataclass(frozen=True)
class Study:
    """Classifiers trained from every gain at every learning rate, with several seeds."""

    architectures: tuple[Architecture, ...]
    data: str = "digits"
    """ "digits" (those of scikit-learn), a folder of IDX files (MNIST, Fashion-MNIST); "copy": ten
    tokens to be repeated after a delay, for recurrent cells; or "python": the sources of Python's
    standard library, for transformers."""
    permuted: bool = False
    """Read the pixels in a random order, which matters to recurrent cells."""
    delay: Count = 25
    """Longest delay of the copy task."""
    depth: Several = 100
    """Hidden layers; if an architecture describes a whole network, one more than it repeats."""
    features: Count = 64
    gains: tuple[Positive, ...] = (1.2,)
    """Factors g on all hidden weights at initialisation: they multiply every weight variance of a
    description by g², and no bias. The read-in, the gates of a GRU and the read-out have no gain;
    in transformers, which have no description, every matrix has one."""
    learning_rates: tuple[Positive, ...] = (1e-4, 3e-4, 1e-3)
    seeds: tuple[Seed, ...] = (0, 1, 2)
    epochs: Count = 5
    batch: Several = 256
    optimiser: Literal["adam", "sgd"] = "adam"
    records: Annotated[int, Meta(ge=2, le=100_000)] = 12
    """Number of measurements: at steps in geometric progression, and at the end."""
    precision: Literal["highest", "high", "default"] = "highest"
    """Precision of matrix products."""
    measures: tuple[str, ...] = ("signals",)
    """Measurements besides loss and accuracy: names in `MEASURES`."""
    train_count: Count | None = None
    """Number of training images, None for all."""

    def __post_init__(self):
        check_fields(self)

        def need(good: Any, name: str, what: str, value: Any) -> None:
            if not good:
                raise ValueError(f"`{name}`: must {what}; got {shown(value)}")

        names = [a.name for a in self.architectures]
        need(names, "architectures", "contain at least one", names)
        need(len(set(names)) == len(names), "architectures", "have different names", names)
        for name in ("gains", "learning_rates", "seeds"):
            values = getattr(self, name)
            need(
                len(set(values)) == len(values) > 0, name, "contain at least one, each once", values
            )
        for architecture in self.architectures:
            architecture.check(self.depth, architecture.features or self.features)
            own, cell = architecture.name, architecture.cell
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
        """A name made of everything that determines the result.

        The network enters as the dictionary of its description, however it was specified, in the
        single precision of training, and with the contents of files instead of their names. Fields
        of the study with default values are left out, so that a new field renames nothing; so are
        its axes, the name of the architecture, and the location of a data folder. The content of
        the data, the versions and the device are kept beside the result, and `train` compares them.
        """
        study, own = _chosen(self.study), self.architecture
        for name in ("architectures", "gains", "learning_rates", "seeds", "features"):
            study.pop(name, None)
        study["data"] = PurePath(self.study.data).name
        content: dict[str, Any] = {
            "study": study,
            "cell": own.cell,
            "features": own.features or self.study.features,
            "member": (self.gain, self.learning_rate, self.seed),
        }
        if own.cell in ("block", "transformer"):
            content["words"] = {name: getattr(own, name) for name in SHORTHAND}
        else:
            study.pop("depth", None)  # the description contains it
            table = json.dumps(portable(_table(own, self.study.depth)))
            content["network"] = json.loads(table, parse_float=lambda x: float(np.float32(x)))
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@lru_cache(maxsize=256)
def _table(architecture: Architecture, depth: int) -> dict[str, Any]:
    """The dictionary of the interior, or of the layer of a recurrent cell."""
    from theory.description import to_dict

    deep = architecture.cell == "deep"
    return to_dict(architecture.interior(depth) if deep else architecture.part)


def _chosen(fields: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults."""
    return {
        field.name: getattr(fields, field.name)
        for field in dataclasses.fields(fields)
        if getattr(fields, field.name) != field.default
    }


def read_study(path: str | PathLike[str], **instead: Any) -> Study:
    """Read a study from a TOML file, whose names are the fields of `Study` and `Architecture`.

    The `description` of an architecture is a table, or the name of a file relative to the folder
    of this one; `network` is another word for the latter.

    Parameters
    ----------
    path
        The file.
    **instead
        Fields that override those of the file.

    Raises
    ------
    ValueError
        If the file cannot be read, or a field is unknown or out of range. The message names it.
    """
    content = read_toml(path)
    tables = content.pop("architecture", [])
    try:
        if not (isinstance(tables, list) and all(isinstance(table, dict) for table in tables)):
            raise ValueError("`architecture`: must be tables [[architecture]]")
        architectures = tuple(_architecture(table, Path(path).parent) for table in tables)
        return build(Study, {**content, "architectures": architectures, **instead})
    except (ValueError, TypeError) as error:
        message = with_names(str(error), {"architectures": "architecture"})
        raise ValueError(f"{path}: {message}") from error


def _architecture(table: dict[str, Any], folder: Path) -> Architecture:
    if "network" in table and "description" in table:
        raise ValueError("`network`: must not be given with a description")
    for name in ("network", "description"):
        if name in table:
            text = network_text(table.pop(name), name=name, folder=folder)
            return build(Architecture, {**table, "description": text})
    return build(Architecture, table)
