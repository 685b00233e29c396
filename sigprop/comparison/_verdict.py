"""The result of a comparison: a score for each cell, the verdict, the power.

Notation: as in `_scores`.
"""

import enum
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from sigprop.comparison._scores import Limit
from theory import Observable
from theory.numerics import check_kind

FALSE_ALARM = 1e-6
"""Family-wise probability that a correct simulation is rejected."""
ENOUGH = 0.5
"""The fraction of cells that must be judged for a verdict."""


class Verdict(enum.IntEnum):
    """The conclusion of a comparison."""

    AGREES = 0
    """At least half of the cells could be judged, and none contradicts theory."""
    DISAGREES = 1
    """A cell contradicts theory."""
    NOT_JUDGED = 2
    """Neither: for more than half of the cells there are too few networks, tails are too heavy, or
    networks are too narrow for their depth; or a number is not finite."""


def _verdict(contradicts: bool, judged: float, finite: bool) -> Verdict:
    if not finite:
        return Verdict.NOT_JUDGED
    if contradicts:
        return Verdict.DISAGREES
    return Verdict.AGREES if judged >= ENOUGH else Verdict.NOT_JUDGED


class Cells(NamedTuple):
    """One observable at every layer, in theory and in networks."""

    observable: Observable
    theory: np.ndarray
    theory_error: np.ndarray
    """Error of theory, including the rounding of the simulation."""
    mean: np.ndarray
    """[widths, layers, cells]."""
    standard_error: np.ndarray
    limit: Limit
    """Standard error of the mean over networks, for infinite width."""
    left_out: np.ndarray
    """A bound on the next order in 1/N, which the extrapolation omits."""
    resolved: np.ndarray
    """Where the networks allow a verdict; not where one has lost digits (`Sample.status`)."""
    z: np.ndarray
    """NaN if not resolved."""
    pooled_limit: Limit
    """For the mean over all resolved cells."""
    pooled_theory: float
    pooled_z: float
    """NaN if not resolved."""

    @property
    def largest_z(self) -> float:
        """The largest |z|; NaN if nothing could be judged."""
        return largest(self.z, self.pooled_z)

    @property
    def judged(self) -> float:
        """The fraction of cells with a verdict."""
        return float(np.mean(self.resolved))

    @property
    def finite(self) -> bool:
        """Whether every number is finite."""
        return bool(np.all(np.isfinite(self.mean)) and np.all(np.isfinite(self.z[self.resolved])))

    def verdict(self, threshold: float) -> Verdict:
        """The verdict for this observable, at a threshold of |z|."""
        return _verdict(self.largest_z > threshold, self.judged, self.finite)


class Power(NamedTuple):
    """The result of the comparison when one leaf of the description is changed by ±3 %."""

    leaf: str
    largest_z: float
    """The largest |z|, for the sign that gives the smaller one."""
    rejected: bool


class Comparison(NamedTuple):
    """The result of `compare`."""

    cells: tuple[Cells, ...]
    power: tuple[Power, ...]
    threshold: float
    """|z| beyond which a cell contradicts theory, at family-wise false-alarm rate 1e-6."""
    tests: int
    """Number of cells and pooled means."""
    widths: tuple[int, ...]
    replicas: tuple[int, ...]
    explicit_weights: tuple[bool, ...] = ()
    """For each width, whether weight matrices were drawn."""

    @property
    def largest_z(self) -> float:
        """The largest |z|; NaN if nothing could be judged."""
        return largest(*(c.largest_z for c in self.cells))

    @property
    def judged(self) -> float:
        """The fraction of all cells with a verdict."""
        return float(np.mean(np.concatenate([c.resolved.ravel() for c in self.cells])))

    @property
    def verdict(self) -> Verdict:
        """The verdict for all observables together; `Cells.verdict` gives it for each."""
        finite = all(c.finite for c in self.cells)
        return _verdict(self.largest_z > self.threshold, self.judged, finite)

    @property
    def agrees(self) -> bool:
        """Whether theory and simulation agree; False also if there is no verdict."""
        return self.verdict == Verdict.AGREES

    @property
    def powerful(self) -> bool:
        """Whether the same check rejects every leaf perturbed by 3 %."""
        return all(p.rejected for p in self.power)


def largest(*z: Any) -> float:
    """The largest |z| that is not NaN; NaN if there is none."""
    values = np.abs(np.concatenate([np.ravel(one) for one in z]))
    return float(np.nanmax(values)) if not np.all(np.isnan(values)) else float("nan")


def comparison_dataset(comparison: Comparison) -> xr.Dataset:
    """The comparison as labelled arrays, every mean with its standard error.

    Parameters
    ----------
    comparison
        The result of `compare`.
    """
    check_kind("comparison", comparison, Comparison, "a Comparison")
    dataset = xr.Dataset(coords={"width": list(comparison.widths)})
    dataset["replicas"] = ("width", list(comparison.replicas))
    if comparison.explicit_weights:
        drawn = [int(drawn) for drawn in comparison.explicit_weights]
        dataset["explicit_weights"] = ("width", drawn)
    for cells in comparison.cells:
        o = cells.observable
        layer = f"{o.name}_layer"
        dims, per_width = (layer, o.dimension), ("width", layer, o.dimension)
        dataset[layer] = np.arange(len(cells.theory)) + o.first_layer
        columns = {
            "theory": cells.theory,
            "theory_error": cells.theory_error,
            "extrapolated": cells.limit.value,
            "extrapolated_standard_error": cells.limit.error,
            "left_out": cells.left_out,
            "z": cells.z,
            "resolved": cells.resolved.astype(np.int8),
            "chi_square": cells.limit.chi_square,
        }
        for name, values in columns.items():
            dataset[f"{o.name}_{name}"] = (dims, values, {"long_name": o.label})
        dataset[f"{o.name}_mean"] = (per_width, cells.mean)
        dataset[f"{o.name}_standard_error"] = (per_width, cells.standard_error)
    dataset.attrs.update(
        threshold=comparison.threshold,
        tests=comparison.tests,
        largest_z=comparison.largest_z,
        judged=comparison.judged,
        agrees=int(comparison.agrees),
        verdict=comparison.verdict.name.lower(),
        powerful=int(comparison.powerful),
    )
    return dataset
