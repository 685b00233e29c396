"""The table of observables of a layer."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from theory.mean_field._moments import (
    Moments,
    correlation,
    distance,
    growth,
    length,
    log_tangent,
    overlap,
    participation_ratio,
)
from theory.mean_field._two_times import step_growth
from theory.numerics import Array, shown, xp


@dataclass(frozen=True)
class Observable:
    """A quantity per layer that the theory and finite networks compute from the same `Moments`.

    Those in `OBSERVABLES` are known by name. Pass your own to `sigprop.compare` or
    `sigprop.Sweep` alongside the names.

    Raises
    ------
    ValueError
        If `name` or `axis` is not a word.

    Examples
    --------
    >>> import theory
    >>> def variance_ratio(moments):
    ...     q = theory.length(moments)
    ...     return q[:, 1] / q[:, 0]
    >>> ratio = theory.Observable("ratio", "q_2/q_1", variance_ratio, "inputs", ratio_of_means=True)
    >>> ratio.label
    'ratio $q_2/q_1$'
    """

    name: str
    symbol: str
    """In LaTeX, without dollar signs."""
    of: Callable[[Moments], Array]
    """Maps the moments of one network, with a leading depth axis, to [layers, ...]."""
    axis: str = "input"
    """The axis of `of` besides layers: "input" for [layers, n]; "pair" for [layers, n, n], of which
    the pairs a < b count; "inputs" for [layers], one number for all inputs; any other word names
    an axis of its own, [layers, values]."""
    first_layer: int = 0
    """Layer of the first row; `of` may leave out layers at either end."""
    ratio_of_means: bool = False
    """True to average the moments over networks first and apply `of` to the means; False to
    average the values of the networks."""
    gradients: bool = False
    """True if finite networks measure it through gradients, as the `gradient_growth` of
    `sigprop.networks.Sample`; `of` is then the theory only."""
    words: str = ""
    """Axis label of figures; the name by default."""
    through_time: Callable[[Moments, int], Array] | None = None
    """For recurrent networks: maps the moments of the states at all steps, with a depth axis of
    length 1, and the number of steps to values. `of` by default."""
    scale: Callable[[Moments], Array] | None = None
    """Natural scale of the values, laid out as `of`, against which changes are large or small; the
    size of the values by default."""

    def __post_init__(self):
        for field in ("name", "axis"):
            word = getattr(self, field)
            if not (isinstance(word, str) and word.isidentifier()):
                raise ValueError(
                    f"`{field}`: must be a word of letters, digits and _; got {shown(word)}"
                )
        first: Any = self.first_layer
        if isinstance(first, bool) or not isinstance(first, int) or first < 0:
            raise ValueError(f"`first_layer`: must be a whole number >= 0; got {shown(first)}")
        if not callable(self.of):
            raise ValueError(f"`of`: must be a function of Moments; got {shown(self.of)}")

    @property
    def label(self) -> str:
        """Axis label of figures."""
        return f"{self.words or self.name.replace('_', ' ')} ${self.symbol}$"

    @property
    def dimension(self) -> str:
        """The name of `axis` in data sets: "input", "pair", "inputs", or one of its own."""
        return self.axis if self.axis in ("input", "pair", "inputs") else f"{self.name}_{self.axis}"

    def values(self, moments: Moments) -> Float[Array, "layers cells"]:
        """The observable as one row of numbers per layer."""
        return self._rows(self.of(moments))

    def scales(self, moments: Moments) -> Float[Array, "layers cells"]:
        """The natural scale of the `values`."""
        return (
            xp.abs(self.values(moments)) if self.scale is None else self._rows(self.scale(moments))
        )

    def _rows(self, found: Any) -> Array:
        if self.axis == "inputs":
            return found[:, None]
        return pairs(found) if self.axis == "pair" else found

    def check(self, inputs: int, components: int = 1) -> None:
        """Raise a `ValueError` unless `of` returns the shape that `axis` promises."""
        made: Any = _shape(self.of, self.first_layer + 3, inputs, components)
        shape = getattr(made, "shape", None)
        wanted = {"input": (inputs,), "pair": (inputs, inputs), "inputs": ()}.get(self.axis)
        if shape is None or (len(shape) != 2 if wanted is None else shape[1:] != wanted):
            lengths = ["layers", *map(str, wanted if wanted is not None else ("values",))]
            raise ValueError(
                f"`observables`: {self.name} must return [{', '.join(lengths)}] for {inputs} "
                f"inputs, as its axis is {self.axis!r}; got "
                f"{shown(made) if shape is None else list(shape)}"
            )

    def cells(self, inputs: int, components: int = 1) -> int:
        """How many numbers a layer has."""
        known = {"input": inputs, "pair": inputs * (inputs - 1) // 2, "inputs": 1}
        if self.axis in known:
            return known[self.axis]
        return _shape(self.values, self.first_layer + 3, inputs, components).shape[1]


def _shape(of: Callable[[Moments], Any], layers: int, inputs: int, components: int) -> Any:
    """The shape of the result of a function of moments."""
    real = jnp.result_type(float)
    gain = jax.ShapeDtypeStruct((layers, inputs), real)
    table = jax.ShapeDtypeStruct((layers, inputs, inputs, components, components), real)
    return jax.eval_shape(lambda *parts: of(Moments(*parts)), table, table, table, gain)


def pairs(matrix: Float[Array, "*batch n n"]) -> Float[Array, "*batch pairs"]:
    """The entries above the diagonal, row by row."""
    rows, columns = np.triu_indices(matrix.shape[-1], 1)
    return matrix[..., rows, columns]


def _first_growth(moments: Moments, steps: int) -> Array:
    return step_growth(moments, steps)[0]


def _sizes(moments: Moments) -> Array:
    root = xp.sqrt(length(moments))
    return root[..., :, None] * root[..., None, :]


def _above_least(moments: Moments) -> Array:
    least = 1 / moments.log_gain.shape[-1]
    return xp.maximum(participation_ratio(moments) - least, 0)


def _backward_growth(moments: Moments) -> Array:
    return growth(moments)[1:]


OBSERVABLES: Mapping[str, Observable] = MappingProxyType(
    {
        one.name: one
        for one in (
            Observable("length", "q_l", length),
            Observable("overlap", "q_l^{ab}", overlap, "pair", scale=_sizes),
            Observable(
                "correlation",
                "c_l",
                correlation,
                "pair",
                ratio_of_means=True,
                scale=lambda m: 1 - correlation(m),
            ),
            Observable("distance", "|z_a-z_b|^2/2N", distance, "pair"),
            Observable("slope", r"\chi_l", growth, first_layer=1, through_time=_first_growth),
            Observable(
                "log_gain",
                r"\log|t_l|^2/N",
                log_tangent,
                scale=lambda m: xp.ones_like(m.log_gain),
            ),
            Observable(
                "gradient_growth",
                "|g_l|^2/|g_{l+1}|^2",
                _backward_growth,
                first_layer=1,
                gradients=True,
                words="gradients",
                through_time=_first_growth,
            ),
            Observable(
                "participation_ratio",
                r"(\mathrm{tr}\,C_l)^2/(n\,\mathrm{tr}\,C_l^2)",
                participation_ratio,
                "inputs",
                ratio_of_means=True,
                scale=_above_least,
            ),
        )
    }
)
"""Quantities that the theory predicts and finite networks measure, by name."""


def chosen_observables(chosen: Iterable[str | Observable]) -> tuple[Observable, ...]:
    """Return the observables for names and records.

    Raises
    ------
    ValueError
        If there are none, a name is unknown, or two have the same name.
    """
    single = isinstance(chosen, str | Observable) or not isinstance(chosen, Iterable)
    given: tuple[Any, ...] = (chosen,) if single else tuple(chosen)
    found = [OBSERVABLES.get(one) if isinstance(one, str) else one for one in given]
    records = [one for one in found if isinstance(one, Observable)]
    strangers = [one for one in records if OBSERVABLES.get(one.name, one) != one]
    names = {one.name for one in records}
    if not given or strangers or len(names) < len(given):
        said = ", ".join(one.name if isinstance(one, Observable) else shown(one) for one in given)
        raise ValueError(
            f"`observables`: must be some of {', '.join(OBSERVABLES)}, each once; own observables "
            f"are given from Python, under other names; got {said or 'none'}"
        )
    return tuple(records)
