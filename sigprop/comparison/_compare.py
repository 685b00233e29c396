"""Theory compared with finite networks: z-scores after extrapolation to infinite width.

Notation: as in `_scores`.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from statistics import NormalDist
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import theory
from sigprop.comparison._cells import distance_from, fit_cells
from sigprop.comparison._verdict import FALSE_ALARM, Comparison, Power, largest
from sigprop.networks import (
    Ensemble,
    check_explicit,
    check_seed,
    measured_depth,
    outer_depth,
    sample_ensembles,
)
from theory import Moments, Observable, Part
from theory.description import check_part, time_steps
from theory.mean_field import PreActivation, check_signals, chosen_observables
from theory.numerics import (
    Report,
    as_array,
    as_signals,
    check_count,
    check_flag,
    check_kind,
    compiled,
    light_options,
    shown,
)

PERTURBATION = 0.03
"""Relative change of a leaf of the description to which the power refers."""
_COMPARED = ("length", "correlation", "slope", "gradient_growth")
"""The observables that are compared by default."""


def _observed(network: Part, chosen: Iterable[str | Observable]) -> tuple[Observable, ...]:
    """The observables to compare: through depth, or through time.

    The latter applies to a `Recurrent` at the end of the network, whose states are compared at
    all times, also at two times.
    """
    records, steps = chosen_observables(chosen), time_steps(network)
    return records if steps == 1 else tuple(_of_states(record, steps) for record in records)


def _of_states(record: Observable, steps: int) -> Observable:
    # Inputs may be zero at some steps, where a drive has no correlation; states are not.
    def of_last(function: Callable) -> Callable[[Moments], Array]:
        return lambda m: function(jax.tree.map(lambda x: x[-1:], m))

    through, scale = record.through_time, record.scale
    of = record.of if through is None else lambda m: through(m, steps)
    return dataclasses.replace(record, of=of_last(of), scale=scale and of_last(scale))


def _variances(network: Part) -> list[tuple[str, Any]]:
    """The leaves of the description, by name, in the order of the flattened tree."""
    paths = jax.tree_util.tree_leaves_with_path(eqx.filter(network, eqx.is_inexact_array))
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in paths]


def _perturbed(network: Part, index: int, factor: float) -> Part:
    leaves, structure = jax.tree.flatten(eqx.filter(network, eqx.is_inexact_array))
    leaves[index] = leaves[index] * factor
    rest = eqx.filter(network, eqx.is_inexact_array, inverse=True)
    return eqx.combine(jax.tree.unflatten(structure, leaves), rest)


def _propagation() -> Any:
    """theory.propagate in one program, since the power calls it repeatedly."""
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
    """Simulate a description at several widths and compare the result with theory.

    Parameters
    ----------
    network
        The description; theory and simulation use the same one.
    inputs
        Shape [inputs, width_in, components].
    widths
        At least three different widths. Corrections of order 1/N (and 1/N² from four widths on)
        are fitted and removed.
    replicas
        Networks per width: one number, or one for each width.
    seed
        Decides every draw.
    observables
        Names from `theory.OBSERVABLES`, and observables of your own. Those that need pairs are
        skipped if there is only one input.
    gradients
        Also compare the growth of gradients, if it is among the observables.
    explicit_weights
        See `sample_ensemble`. Without, many more networks are affordable. The choice is made for
        each width; `Comparison.explicit_weights` records it.
    progress
        As in `sample_ensemble`.

    Returns
    -------
    Comparison
        z per observable and layer, a verdict at family-wise false-alarm rate 1e-6 (Bonferroni
        over all cells), and the power: whether the same check rejects theory with one leaf of
        the description changed by 3 % in either direction.

    Raises
    ------
    ValueError
        If an argument is out of range. The message names the argument and its allowed range.

    Accuracy
    --------
    Standard errors come from independent networks. Beyond N ≲ depth the expansion in 1/N may
    fail; χ² of the fit then shows it. Cells whose fluctuations have heavy tails are not judged;
    see `Cells.resolved`.
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
    # Where theory runs, which may be another device than that of the networks.
    exact = jnp.asarray(np.asarray(inputs), float)
    check_signals("inputs", exact)
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
    """Raise a `ValueError` if gradients are not measured between all layers."""
    if time_steps(network) > 1:
        return
    layers = measured_depth(network, inputs)
    if layers != outer_depth(network):
        raise ValueError(
            "`gradients`: must be False for a network with layers outside its Repeat, "
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
    """Compare ensembles that have been drawn already with theory.

    Parameters
    ----------
    network
        The description.
    inputs
        Shape [inputs, width_in, components].
    expected
        The prediction for them, from `theory.propagate`.
    ensembles
        From `sample_ensemble`, one for each of at least three widths.
    observables
        As in `compare`.

    Returns
    -------
    Comparison
        As from `compare`.
    """
    check_part("network", network)
    inputs = as_array("inputs", inputs, "[inputs, width_in, components]")
    check_kind("expected", expected, PreActivation, "the result of theory.propagate")
    good = isinstance(ensembles, list | tuple) and all(isinstance(e, Ensemble) for e in ensembles)
    if not good or len({e.width for e in ensembles}) < max(3, len(ensembles)):
        raise TypeError(
            "`ensembles`: must be an Ensemble for each of at least 3 widths; got "
            f"{shown(ensembles)}"
        )
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
        lengths = fit_cells(length, expected, ensembles, threshold)
        known = np.all(lengths.resolved, axis=1)[:, None]
    cells = tuple(
        lengths
        if lengths is not None and o is lengths.observable
        else fit_cells(o, expected, ensembles, threshold, known if o.ratio_of_means else None)
        for o in chosen
    )
    power = []
    for index, (leaf, value) in enumerate(_variances(network)):
        if not np.any(value):
            continue  # 3 % of zero is no change
        outcomes = []
        for sign in (-1, 1):
            other = _propagation()(_perturbed(network, index, 1 + sign * PERTURBATION), inputs)
            outcomes.append(largest(*(distance_from(c, other) for c in cells)))
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
