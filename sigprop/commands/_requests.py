"""The requests of the command line as data, with checks."""

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from sigprop.commands._output import BadInput, checked

MOST_POINTS = 2000
"""Most values along one axis of a phase diagram."""
MOST_DEPTH = 100_000
"""Most units of a layer without a weight matrix."""
MOST_REPLICAS = 1_000_000


Matrices: TypeAlias = Literal["auto", "always", "never"]
"""Whether weight matrices are drawn: depending on the width, always or never."""


@dataclass(frozen=True)
class Run:
    """How to simulate a description."""

    widths: tuple[int, ...]
    replicas: tuple[int, ...]
    seed: int
    dtype: str
    gradients: bool = True
    weight_matrices: Matrices = "auto"
    observables: tuple[str, ...] = ("length", "correlation", "slope", "gradient_growth")

    @property
    def explicit_weights(self) -> bool | None:
        """The argument of `sigprop.sample_ensemble`."""
        return {"auto": None, "always": True, "never": False}[self.weight_matrices]

    def check(self) -> None:
        """Raise `BadInput` unless `sigprop.compare` accepts these numbers."""
        if len(set(self.widths)) < 3 or len(set(self.widths)) != len(self.widths):
            raise BadInput(f"--widths: must be at least 3 different widths; got {self.widths}")
        if len(self.replicas) not in (1, len(self.widths)):
            raise BadInput(
                f"--replicas: must be one number or one for each of {len(self.widths)} widths; "
                f"got {len(self.replicas)}"
            )
        self.check_seed()
        self.check_observables()

    def check_observables(self) -> None:
        """Raise `BadInput` unless they are known."""
        from theory.mean_field import chosen_observables

        with checked():
            chosen_observables(self.observables)

    def check_seed(self) -> None:
        """Raise `BadInput` unless the seed fits in 32 bits."""
        if not 0 <= self.seed < 2**32:
            raise BadInput(f"--seed: must be from 0 to {2**32 - 1}; got {self.seed}")


@dataclass(frozen=True)
class Inputs:
    """The inputs of the networks."""

    source: str
    """"gram", "digits", or the path of IDX files."""
    count: int
    length: float
    correlation: float

    @property
    def caption(self) -> str:
        """The inputs for the text under a figure."""
        if self.source == "gram":
            return f"two inputs of length {self.length:g} and correlation {self.correlation:g}"
        what = "of scikit-learn's digits" if self.source == "digits" else "images"
        return f"{self.count} {what}, mean length of the data set {self.length:g}"

    def load(self, run: Run, components: int = 1) -> Any:
        """The signals in the dtype of the run: [inputs, width_in, components]."""
        import jax
        import jax.numpy as jnp

        import sigprop

        # Networks of width N use the key folded with N, so 0 is free.
        key = jax.random.fold_in(jax.random.key(run.seed), 0)
        check_positive("--input-length", self.length)
        if components > 1 and self.source != "gram":
            raise BadInput(
                f"--inputs: must be gram with units of {components} components; got {self.source}"
            )
        options = {name: f"input-{name}" for name in ("count", "length", "correlation")}
        with checked(path="inputs", **options):
            if self.source == "gram":
                gram = sigprop.pair_gram(self.length, self.correlation)
                size = max(4 * components, min(64, *run.widths))
                signals = sigprop.gram_inputs(gram, size, key=key, components=components)
            elif self.source == "digits":
                signals, _ = sigprop.digits_inputs(self.count, key=key, length=self.length)
            else:
                signals, _ = sigprop.idx_inputs(
                    self.source, self.count, key=key, length=self.length
                )
        found = jnp.asarray(signals, run.dtype)
        if not bool(jnp.all(jnp.isfinite(found))):
            raise BadInput(
                f"--input-length: must leave inputs finite in {run.dtype}; got {self.length}"
            )
        return found


def check_depth(depth: int) -> None:
    """Raise `BadInput` unless every layer can be measured."""
    if not 1 <= depth <= MOST_DEPTH:
        raise BadInput(f"--depth: must be a whole number from 1 to {MOST_DEPTH}; got {depth}")


def check_positive(option: str, value: float) -> None:
    """Raise `BadInput` unless the value is finite and above 0."""
    if not (math.isfinite(value) and value > 0):
        raise BadInput(f"{option}: must be finite and above 0; got {value}")


def whole_numbers(option: str, text: str, lowest: int, highest: int) -> tuple[int, ...]:
    """The whole numbers in a text such as "64,128,256"."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < lowest or max(numbers) > highest:
        raise BadInput(
            f"{option}: must be whole numbers from {lowest} to {highest}, separated by commas; "
            f"got {text}"
        )
    return numbers


def axis_values(option: str, text: str) -> np.ndarray:
    """The values of an axis, from "start:stop:count" or numbers separated by commas."""
    try:
        values = _axis_values(text)
    except ValueError:
        values = np.array([])
    if not 2 <= len(values) <= MOST_POINTS:
        raise BadInput(
            f"{option}: must be start:stop:count or numbers separated by commas, "
            f"2 to {MOST_POINTS} of them; got {text}"
        )
    if not np.all(np.isfinite(values) & (values >= 0)) or np.any(np.diff(values) <= 0):
        raise BadInput(f"{option}: must be finite, at least 0 and increasing; got {text}")
    return values


def _axis_values(text: str) -> np.ndarray:
    if ":" not in text:
        return np.array([float(part) for part in text.split(",")])
    start, stop, count = text.split(":")
    number = int(count)
    if not 2 <= number <= MOST_POINTS:
        return np.array([])
    with np.errstate(invalid="ignore"):
        return np.linspace(float(start), float(stop), number)
