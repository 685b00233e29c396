"""Theory against finite networks: z-scores after extrapolation to infinite width.

Notation: as in `_scores`.
"""

import dataclasses
import enum
from collections.abc import Callable, Iterable, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

import theory
from sigprop.comparison._scores import Limit, fit_of, judgeable, limit_of, next_order, score
from sigprop.networks import (
    Ensemble,
    Sample,
    check_explicit,
    check_seed,
    outer_depth,
    sample_ensembles,
)
from theory import Moments, Observable, Part, PreActivation, propagate
from theory.description import check_part, time_steps
from theory.mean_field import chosen_observables
from theory.numerics import (
    Report,
    as_signals,
    check_count,
    check_flag,
    compiled,
    light_options,
    shown,
)

FALSE_ALARM = 1e-6
"""Family-wise probability that a correct simulation is rejected."""
PERTURBATION = 0.03
"""Relative change of a leaf of the description that the power refers to."""
ROUNDING = 16
"""Differences below this many roundings of the simulation's dtype contradict nothing."""
ENOUGH = 0.5
"""The share of cells that must be judged for a verdict."""


class Verdict(enum.IntEnum):
    """What a comparison says."""

    AGREES = 0
    """At least half of the cells could be judged, and none contradicts theory."""
    DISAGREES = 1
    """A cell contradicts theory."""
    NOT_JUDGED = 2
    """Neither: too few networks, tails too heavy, or networks too narrow for their depth, at
    more than half of the cells; or a number that is not finite."""


def _verdict(contradicts: bool, judged: float, finite: bool) -> Verdict:
    if not finite:
        return Verdict.NOT_JUDGED
    if contradicts:
        return Verdict.DISAGREES
    return Verdict.AGREES if judged >= ENOUGH else Verdict.NOT_JUDGED


_COMPARED = ("length", "correlation", "slope", "gradient_growth")
"""The observables that are compared unless others are named."""


def _observed(network: Part, chosen: Iterable[str | Observable]) -> tuple[Observable, ...]:
    """What is compared: through depth; or through the time of a `Recurrent` at the end of the
    network, of all states, also at two times."""
    records, steps = chosen_observables(chosen), time_steps(network)
    return records if steps == 1 else tuple(_of_states(record, steps) for record in records)


def _of_states(record: Observable, steps: int) -> Observable:
    # Inputs may be zero at some steps, where a drive has no correlation; states are not.
    def of_last(function: Callable) -> Callable[[Moments], Array]:
        return lambda m: function(jax.tree.map(lambda x: x[-1:], m))

    through, scale = record.through_time, record.scale
    of = record.of if through is None else lambda m: through(m, steps)
    return dataclasses.replace(record, of=of_last(of), scale=scale and of_last(scale))


class Cells(NamedTuple):
    """One observable at every layer: what theory says and what the networks say."""

    observable: Observable
    theory: np.ndarray
    theory_error: np.ndarray
    """With the rounding of the simulation."""
    mean: np.ndarray
    """[widths, layers, cells]."""
    standard_error: np.ndarray
    limit: Limit
    """Of the mean over networks, for infinite width."""
    left_out: np.ndarray
    """A bound on the next order in 1/N, which the extrapolation leaves out."""
    resolved: np.ndarray
    """Where the networks allow a verdict at all; where one has lost digits (`Sample.status`) they
    do not."""
    z: np.ndarray
    """NaN where not resolved."""
    pooled_limit: Limit
    """Of the mean over all cells that are resolved."""
    pooled_theory: float
    pooled_z: float
    """NaN where not resolved."""

    @property
    def largest_z(self) -> float:
        """NaN where nothing could be judged."""
        return _largest(self.z, self.pooled_z)

    @property
    def judged(self) -> float:
        """The share of cells with a verdict."""
        return float(np.mean(self.resolved))

    @property
    def finite(self) -> bool:
        """Whether every number is."""
        return bool(np.all(np.isfinite(self.mean)) and np.all(np.isfinite(self.z[self.resolved])))

    def verdict(self, threshold: float) -> Verdict:
        """What this observable says, at a threshold of |z|."""
        return _verdict(self.largest_z > threshold, self.judged, self.finite)


class Power(NamedTuple):
    """What the comparison says when one leaf of the description is changed by ±3 %."""

    leaf: str
    largest_z: float
    """The smaller of the two signs' largest |z|."""
    rejected: bool


class Comparison(NamedTuple):
    """The outcome of `compare`."""

    cells: tuple[Cells, ...]
    power: tuple[Power, ...]
    threshold: float
    """|z| beyond which a cell contradicts theory, at family-wise false-alarm rate 1e-6."""
    tests: int
    """Of how many cells and pooled means."""
    widths: tuple[int, ...]
    replicas: tuple[int, ...]
    explicit_weights: tuple[bool, ...] = ()
    """For each width, whether weight matrices were drawn."""

    @property
    def largest_z(self) -> float:
        """NaN where nothing could be judged."""
        return _largest(*(c.largest_z for c in self.cells))

    @property
    def judged(self) -> float:
        """The share of all cells with a verdict."""
        return float(np.mean(np.concatenate([c.resolved.ravel() for c in self.cells])))

    @property
    def verdict(self) -> Verdict:
        """Of all observables together; `Cells.verdict` has that of each."""
        finite = all(c.finite for c in self.cells)
        return _verdict(self.largest_z > self.threshold, self.judged, finite)

    @property
    def agrees(self) -> bool:
        """Whether theory and simulation agree: neither disagree nor remain without a verdict."""
        return self.verdict == Verdict.AGREES

    @property
    def powerful(self) -> bool:
        """Whether the same check rejects every leaf perturbed by 3 %."""
        return all(p.rejected for p in self.power)


def _largest(*z: Any) -> float:
    """The largest |z| that is not NaN; NaN if there is none."""
    values = np.abs(np.concatenate([np.ravel(one) for one in z]))
    return float(np.nanmax(values)) if not np.all(np.isnan(values)) else float("nan")


def contributions(observable: Observable, sample: Sample) -> np.ndarray:
    """Per network, numbers whose mean is the estimate and whose spread is its error.

    For a ratio of mean moments these are its influence values (first order in the
    fluctuations), so that correlated moments get the right standard error.

    Returns
    -------
    Shape [replicas, layers, cells].
    """
    if observable.gradients:
        return np.asarray(sample.gradient_growth, np.float64)
    return np.asarray(_contributions(observable, sample.moments))


@eqx.filter_jit
def _contributions(observable: Observable, moments: Moments) -> Array:
    moments = jax.tree.map(lambda x: jnp.asarray(x, float), moments)
    if not observable.ratio_of_means:
        return jax.vmap(observable.values)(moments)
    mean = jax.tree.map(lambda x: jnp.mean(x, axis=0), moments)

    def influence(one):
        centred = jax.tree.map(jnp.subtract, one, mean)
        value, change = jax.jvp(observable.values, (mean,), (centred,))
        return value + change

    return jax.lax.map(influence, moments, batch_size=64)


def _inaccurate(observable: Observable, sample: Sample) -> np.ndarray:
    """Cells in which some network has lost digits: [layers, cells]."""
    growth = sample.gradient_growth
    ones = eqx.tree_at(
        lambda s: (s.moments, s.gradient_growth),
        sample,
        jax.tree.map(jnp.ones_like, (sample.moments, growth)),
        is_leaf=lambda x: x is None,
    ).known
    # What is made of a number that is NaN is NaN itself.
    if observable.gradients:
        each = np.asarray(ones.gradient_growth)
    else:
        each = np.asarray(_of_networks(observable, ones.moments))
    return np.asarray(np.isnan(each).any(axis=0))


@eqx.filter_jit
def _of_networks(observable: Observable, moments: Moments) -> Array:
    return jax.vmap(observable.values)(moments)


def extrapolate(
    widths: Sequence[int], mean: np.ndarray, standard_error: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted least squares of y_N = y + b/N (+ c/N² from four widths on).

    Parameters
    ----------
    widths
        At least three.
    mean, standard_error
        Shape [widths, ...].

    Returns
    -------
    intercept, its standard error, and χ² of the fit, each of shape [...].
    """
    scaled = min(widths) / np.asarray(widths, float)
    degree = 2 if len(widths) >= 4 else 1
    design = scaled[:, None] ** np.arange(degree + 1)
    # A cell that does not fluctuate at all (a conserved number) is known exactly.
    tiny = np.finfo(float).eps * np.maximum(np.abs(mean), 1e-100)
    weight = 1 / np.maximum(standard_error, tiny) ** 2
    normal = np.einsum("wi,w...,wj->...ij", design, weight, design)
    right = np.einsum("wi,w...,w...->...i", design, weight, mean)
    coefficients = np.linalg.solve(normal, right[..., None])[..., 0]
    error = np.sqrt(np.linalg.inv(normal)[..., 0, 0])
    residual = mean - np.einsum("wi,...i->w...", design, coefficients)
    chi_square = np.sum(weight * residual**2, axis=0)
    return coefficients[..., 0], np.asarray(error), np.asarray(chi_square)


def _theory_values(observable: Observable, state: PreActivation) -> tuple[np.ndarray, ...]:
    """What theory says, a bound on its error, and what changes of it are compared with."""
    return tuple(map(np.asarray, _with_error(observable, state)))


@eqx.filter_jit
def _with_error(observable: Observable, state: PreActivation) -> tuple[Array, Array, Array]:
    value = observable.values(state.value)
    # |∂o/∂m| · error(m), summed over moments: one derivative for each sign would be enough for
    # monotone observables, but not for correlations, whose moments pull in different ways.
    error = jnp.zeros_like(value)
    leaves, structure = jax.tree.flatten(state.value)
    for i, bound in enumerate(jax.tree.leaves(state.error)):
        change = [jnp.zeros_like(x) for x in leaves]
        change[i] = bound
        moves = (jax.tree.unflatten(structure, change),)
        _, moved = jax.jvp(observable.values, (state.value,), moves)
        error = error + jnp.abs(moved)
    return value, error, observable.scales(state.value)


def _z(difference: Any, slack: Any, limit: Limit) -> np.ndarray:
    """The difference beyond what theory, rounding and the fit leave open, as a score."""
    beyond = np.maximum(np.abs(difference) - slack, 0)
    # 0/0: a number that does not fluctuate and agrees.
    t = np.divide(
        beyond, limit.error, out=np.zeros_like(beyond), where=(beyond != 0) | (limit.error != 0)
    )
    return np.asarray(np.sign(difference) * score(t, limit))


def _scores(
    limit: Limit, pooled: Limit, resolved: np.ndarray, theory: np.ndarray, slack: np.ndarray
) -> tuple[np.ndarray, float, float]:
    """z per cell (NaN where not resolved), theory's mean over cells, and the pooled z."""
    z = np.where(resolved, _z(limit.value - theory, slack, limit), np.nan)
    if not resolved.any():
        return z, np.nan, np.nan
    mean, margin = theory[resolved].mean(), slack[resolved].mean()
    return z, float(mean), float(_z(pooled.value - mean, margin, pooled))


def _fit(
    observable: Observable,
    expected: PreActivation,
    ensembles: Sequence[Ensemble],
    threshold: float,
    denominators: np.ndarray | None = None,
) -> Cells:
    """Cells of one observable; where a ratio has `denominators` that are not resolved, neither
    is the ratio, whose error is known to first order in their fluctuations."""
    each = [contributions(observable, e.samples) for e in ensembles]
    values, slack, scale = _theory_values(observable, expected)
    eps = float(jnp.finfo(ensembles[0].samples.moments.covariance.dtype).eps)
    slack = slack + ROUNDING * eps * np.abs(values)
    fit = fit_of([e.width for e in ensembles], [e.replicas for e in ensembles])
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is not judged
        limit = limit_of(fit, each)
        resolved = judgeable(limit, scale, threshold)
        resolved &= ~np.any([_inaccurate(observable, e.samples) for e in ensembles], axis=0)
        if denominators is not None:
            resolved &= denominators[-len(resolved) :]
        left_out = next_order(fit, limit, scale)
        pooled = limit_of(fit, [_mean(c, resolved) for c in each])
        z, pooled_theory, pooled_z = _scores(limit, pooled, resolved, values, slack + left_out)
    return Cells(
        observable,
        theory=values,
        theory_error=slack,
        mean=np.stack([c.mean(axis=0) for c in each]),
        standard_error=np.stack([c.std(axis=0, ddof=1) / np.sqrt(len(c)) for c in each]),
        limit=limit,
        left_out=left_out,
        resolved=resolved,
        z=z,
        pooled_limit=pooled,
        pooled_theory=pooled_theory,
        pooled_z=pooled_z if judgeable(pooled, np.inf, threshold) else np.nan,
    )


def _mean(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Per network, over the cells; NaN where there are none."""
    return values[:, where].mean(axis=1) if where.any() else np.full(len(values), np.nan)


def _variances(network: Part) -> list[tuple[str, Any]]:
    """The leaves of the description, by name; their place is that in the flattened tree."""
    paths = jax.tree_util.tree_leaves_with_path(eqx.filter(network, eqx.is_inexact_array))
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in paths]


def _perturbed(network: Part, index: int, factor: float) -> Part:
    leaves, structure = jax.tree.flatten(eqx.filter(network, eqx.is_inexact_array))
    leaves[index] = leaves[index] * factor
    rest = eqx.filter(network, eqx.is_inexact_array, inverse=True)
    return eqx.combine(jax.tree.unflatten(structure, leaves), rest)


def _propagation() -> Any:
    """theory.propagate in one program: the power asks for it again and again."""
    return compiled(theory.propagate, light_options)


def compare(
    network: Part,
    inputs: Float[Array, "n width_in k"],
    *,
    widths: Sequence[int] = (64, 128, 256, 512),
    replicas: Sequence[int] | int = 200,
    seed: int = 0,
    observables: Sequence[str | Observable] = _COMPARED,
    gradients: bool = True,
    explicit_weights: bool | None = None,
    progress: Report | None = None,
) -> Comparison:
    """Simulate a description at several widths and hold the result against theory.

    Parameters
    ----------
    network
        The description; theory and simulation read the same one.
    inputs
        Shape [inputs, width_in, components].
    widths
        At least three different ones; corrections of order 1/N (and, from four widths on,
        1/N²) are fitted and taken out.
    replicas
        Networks per width: one number, or one for each width.
    seed
        Decides every draw.
    observables
        Names from `theory.OBSERVABLES`, and observables of your own. What one input has no pairs
        for is left out.
    gradients
        Also compare the growth of gradients, where it is among the observables.
    explicit_weights
        See `sample_ensemble`; without, many more networks can be afforded. The choice is made
        for each width; `Comparison.explicit_weights` says which.
    progress
        As in `sample_ensemble`.

    Returns
    -------
    Comparison
        z per observable and layer, a verdict at family-wise false-alarm rate 1e-6
        (Bonferroni over all cells), and the power: whether the same check rejects theory
        with a leaf of the description changed by 3 % in either direction.

    Raises
    ------
    ValueError
        Names the field and its allowed range.

    Accuracy
    --------
    Standard errors come from independent networks. Beyond N ≲ depth the expansion in 1/N
    need not hold; then χ² of the fit says so. Cells whose fluctuations have heavy tails are
    not judged, and counted in `Cells.resolved`.
    """
    check_part("network", network)
    inputs = as_signals("inputs", inputs)
    check_seed(seed)
    check_flag("gradients", gradients)
    check_explicit(explicit_weights)
    records = chosen_observables(observables)
    widths = _counts("widths", widths, 1)
    single = isinstance(replicas, int | np.integer) and not isinstance(replicas, bool)
    given = _counts("replicas", [replicas] if single else replicas, 2)
    counts = given * len(widths) if single else given
    if len(set(widths)) < 3 or len(set(widths)) != len(widths):
        raise ValueError(f"`widths`: must be at least 3 different widths; got {list(widths)}")
    if len(counts) != len(widths):
        raise ValueError(
            f"`replicas`: must be one number or one for each of {len(widths)} widths; "
            f"got {len(counts)}"
        )
    exact = jnp.asarray(inputs, float)
    for record in records:
        record.check(len(exact), exact.shape[-1])
    gradients = gradients and any(record.gradients for record in records)
    if gradients:
        _check_gradients(network, exact)
    ensembles = sample_ensembles(
        network,
        inputs,
        widths=widths,
        replicas=counts,
        seed=seed,
        gradients=gradients,
        explicit_weights=explicit_weights,
        progress=progress,
        beside=[(_propagation(), (network, exact))],
    )
    expected = _propagation()(network, exact)
    return judge(network, exact, expected, ensembles, records)


def _check_gradients(network: Part, inputs: Any) -> None:
    """Raise a `ValueError` if there are layers between which gradients are not measured."""
    if time_steps(network) > 1:
        return
    layers = jax.eval_shape(lambda x: propagate(network, x).value.log_gain, inputs).shape[0] - 1
    if layers != outer_depth(network):
        raise ValueError(
            "`gradients`: must be False for a network with layers outside of its one Repeat, "
            f"between which they are not measured; got True for {layers} layers, "
            f"{outer_depth(network)} of them in the Repeat"
        )


def _counts(name: str, values: Any, lowest: int) -> tuple[int, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"`{name}`: must be a sequence of whole numbers; got {shown(values)}")
    values = tuple(values)
    for value in values:
        check_count(name, value, lowest)
    return values


def judge(
    network: Part,
    inputs: Any,
    expected: PreActivation,
    ensembles: Sequence[Ensemble],
    observables: Sequence[str | Observable] = _COMPARED,
) -> Comparison:
    """The verdict on ensembles that have been drawn already."""
    several = inputs.shape[0] > 1
    growths = ensembles[0].samples.gradient_growth
    gradients = growths is not None and growths.shape[1] > 0
    records = _observed(network, observables)
    chosen = [
        o for o in records if (several or o.axis != "pair") and (gradients or not o.gradients)
    ]
    if not chosen:
        raise ValueError(
            "`observables`: must have one that these networks have; correlations and distances "
            "need two inputs, growths of gradients two layers and `gradients`; got "
            f"{', '.join(o.name for o in records)}"
        )
    size = lambda o: int(np.prod(np.shape(jax.eval_shape(o.values, expected.value))))
    tests = sum(size(o) + 1 for o in chosen)
    threshold = NormalDist().inv_cdf(1 - FALSE_ALARM / tests / 2)
    known = lengths = None
    if any(o.ratio_of_means for o in chosen):
        length = next((o for o in chosen if o.name == "length"), *_observed(network, ("length",)))
        lengths = _fit(length, expected, ensembles, threshold)
        known = np.all(lengths.resolved, axis=1)[:, None]
    cells = tuple(
        lengths
        if lengths is not None and o is lengths.observable
        else _fit(o, expected, ensembles, threshold, known if o.ratio_of_means else None)
        for o in chosen
    )
    power = []
    for index, (leaf, value) in enumerate(_variances(network)):
        if not np.any(value):
            continue  # 3 % of zero is no change
        outcomes = []
        for sign in (-1, 1):
            other = _propagation()(_perturbed(network, index, 1 + sign * PERTURBATION), inputs)
            outcomes.append(_largest(*(_distance_from(c, other) for c in cells)))
        power.append(Power(leaf, min(outcomes), min(outcomes) > threshold))
    return Comparison(
        cells,
        tuple(power),
        threshold,
        tests,
        tuple(e.width for e in ensembles),
        tuple(e.replicas for e in ensembles),
        tuple(e.explicit_weights for e in ensembles),
    )


def _distance_from(cells: Cells, other: PreActivation) -> float:
    """The largest |z| of the same measurements against another prediction."""
    values, _, _ = _theory_values(cells.observable, other)
    slack = cells.theory_error + cells.left_out
    with np.errstate(invalid="ignore"):
        z, _, pooled = _scores(cells.limit, cells.pooled_limit, cells.resolved, values, slack)
    return _largest(z, pooled if np.isfinite(cells.pooled_z) else np.nan)


def comparison_dataset(comparison: Comparison) -> xr.Dataset:
    """The comparison as labelled arrays, every mean with its standard error."""
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
