"""One observable of ensembles of several widths, compared with theory layer by layer.

Notation: as in `_scores`.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from sigprop.comparison._scores import Limit, fit_of, judgeable, limit_of, next_order, score
from sigprop.comparison._verdict import Cells, largest
from sigprop.networks import Ensemble, Sample
from theory import Moments, Observable
from theory.mean_field import PreActivation
from theory.numerics import check_kind, compiled

ROUNDING = 16
"""Differences below this many roundings of the simulation's dtype are no contradiction."""


def contributions(observable: Observable, sample: Sample) -> np.ndarray:
    """One number per network, such that their mean is the estimate and their spread its error.

    For a ratio of mean moments these are its influence values (first order in the fluctuations),
    which give the right standard error for correlated moments.

    Parameters
    ----------
    observable
        What to estimate.
    sample
        Measurements, with a leading axis over networks.

    Returns
    -------
    Shape [replicas, layers, cells].
    """
    check_kind("observable", observable, Observable, "an Observable, as in theory.OBSERVABLES")
    check_kind("sample", sample, Sample, "the samples of an Ensemble")
    if observable.gradients:
        return np.asarray(sample.gradient_growth, np.float64)
    return np.asarray(_contributions(observable, sample.moments))


@compiled
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
    # NaN propagates.
    if observable.gradients:
        each = np.asarray(ones.gradient_growth)
    else:
        each = np.asarray(_of_networks(observable, ones.moments))
    return np.asarray(np.isnan(each).any(axis=0))


@compiled
def _of_networks(observable: Observable, moments: Moments) -> Array:
    return jax.vmap(observable.values)(moments)


def _theory_values(observable: Observable, state: PreActivation) -> tuple[np.ndarray, ...]:
    """The theoretical values, bounds on their errors, and the scales of their changes."""
    return tuple(map(np.asarray, _with_error(observable, state)))


@compiled
def _with_error(observable: Observable, state: PreActivation) -> tuple[Array, Array, Array]:
    value = observable.values(state.value)
    # |∂o/∂m| · error(m), summed over moments. One derivative for each sign would be enough for
    # monotone observables, but not for correlations, on which moments have opposite effects.
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
    """The score of a difference, beyond the errors of theory, rounding and the fit."""
    beyond = np.maximum(np.abs(difference) - slack, 0)
    # 0/0: a number that does not fluctuate and agrees.
    t = np.divide(
        beyond, limit.error, out=np.zeros_like(beyond), where=(beyond != 0) | (limit.error != 0)
    )
    return np.asarray(np.sign(difference) * score(t, limit))


def _scores(
    limit: Limit, pooled: Limit, resolved: np.ndarray, theory: np.ndarray, slack: np.ndarray
) -> tuple[np.ndarray, float, float]:
    """z per cell (NaN if not resolved), the mean of theory over cells, and the pooled z."""
    z = np.where(resolved, _z(limit.value - theory, slack, limit), np.nan)
    if not resolved.any():
        return z, np.nan, np.nan
    mean, margin = theory[resolved].mean(), slack[resolved].mean()
    return z, float(mean), float(_z(pooled.value - mean, margin, pooled))


def fit_cells(
    observable: Observable,
    expected: PreActivation,
    ensembles: Sequence[Ensemble],
    threshold: float,
    denominators: np.ndarray | None = None,
) -> Cells:
    """Compute the cells of one observable.

    A ratio with unresolved `denominators` is unresolved itself, since its error is known only to
    first order in their fluctuations.
    """
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
    """The mean over the cells for each network; NaN if there are none."""
    return values[:, where].mean(axis=1) if where.any() else np.full(len(values), np.nan)


def distance_from(cells: Cells, other: PreActivation) -> float:
    """The largest |z| of the same measurements relative to another prediction."""
    values, _, _ = _theory_values(cells.observable, other)
    slack = cells.theory_error + cells.left_out
    with np.errstate(invalid="ignore"):
        z, _, pooled = _scores(cells.limit, cells.pooled_limit, cells.resolved, values, slack)
    return largest(z, pooled if np.isfinite(cells.pooled_z) else np.nan)
