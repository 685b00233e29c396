"""Ratios of mean moments in a sweep, which stores two arrays of each network for them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from theory import OBSERVABLES, Moments, Observable
from theory.mean_field import signal_moments
from theory.numerics import compiled

PARTS = ("length", "overlap")
"""The arrays that ratios are functions of."""


def moments_of(length: Float[Array, "layers n"], overlap: Float[Array, "layers pairs"]) -> Moments:
    """Moments with these lengths and overlaps, as for real units; tangents are unknown."""
    layers, n = length.shape
    rows, columns = np.triu_indices(n, 1)
    each = np.arange(n)
    matrix = jnp.zeros((layers, n, n), length.dtype).at[:, each, each].set(length)
    matrix = matrix.at[:, rows, columns].set(overlap).at[:, columns, rows].set(overlap)
    apart = (length[:, :, None] + length[:, None]) / 2 - matrix
    unknown = jnp.full((layers, n), jnp.nan, length.dtype)
    tangent = jnp.full((layers, n, n, 1, 1), jnp.nan, length.dtype)
    return Moments(matrix[..., None, None], apart[..., None, None], tangent, unknown)


def of_networks(observable: Observable, length: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    """The values in single networks: [..., layers, cells] from [..., layers, inputs or pairs]."""
    lead = length.shape[:-2]
    with jax.enable_x64(True):
        found = np.asarray(_values(observable, *(_flat(x, 2) for x in (length, overlap))))
    return found.reshape(*lead, *found.shape[1:])


def influences(
    observable: Observable,
    length: np.ndarray,
    overlap: np.ndarray,
    mean_length: np.ndarray,
    mean_overlap: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The value at the mean moments, and the first-order contribution of every network.

    Parameters
    ----------
    length, overlap
        Shape [..., replicas, layers, inputs or pairs].
    mean_length, mean_overlap
        Shape [..., layers, inputs or pairs].

    Returns
    -------
    Shapes [..., layers, cells] and [..., replicas, layers, cells], in float64.
    """
    lead, replicas = length.shape[:-3], length.shape[-3]
    with jax.enable_x64(True):
        parts = tuple(_flat(x, 3) for x in (length, overlap))
        means = tuple(_flat(x, 2) for x in (mean_length, mean_overlap))
        value, each = map(np.asarray, _first_order(observable, parts, means))
    return value.reshape(*lead, *value.shape[1:]), each.reshape(*lead, replicas, *each.shape[2:])


def _flat(x: np.ndarray, kept: int) -> Array:
    shape = np.shape(x)[-kept:]
    count = int(np.prod(np.shape(x)[:-kept]))
    return jnp.asarray(np.asarray(x, np.float64).reshape(count, *shape))


@compiled
def _values(observable: Observable, length: Array, overlap: Array) -> Array:
    one = lambda parts: observable.values(moments_of(*parts))
    return jax.lax.map(one, (length, overlap), batch_size=1024)


@compiled
def _first_order(observable: Observable, parts: Any, means: Any) -> tuple[Array, Array]:
    def at_point(given):
        parts, means = given
        of = lambda *both: observable.values(moments_of(*both))

        def one(own):
            away = jax.tree.map(jnp.subtract, own, means)
            return jax.jvp(of, means, away)[1]

        return of(*means), jax.lax.map(one, parts, batch_size=1024)

    return jax.lax.map(at_point, (parts, means))


def check_ratio(observable: Observable, inputs: int, components: int) -> None:
    """Raise a `ValueError` unless it is a function of lengths and overlaps, layer by layer."""
    random = np.random.default_rng(0)
    signals: Any = [random.normal(size=(inputs, 9, components)) for _ in range(3)]
    layers = map(signal_moments, signals)
    whole: Any = jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *layers)
    length, overlap = (OBSERVABLES[name].values(whole) for name in PARTS)
    right = observable.values(whole)
    single = [
        observable.values(moments_of(length[i : i + 1], overlap[i : i + 1])) for i in range(3)
    ]
    found = np.concatenate(single)
    if found.shape != right.shape or not np.allclose(found, right, rtol=1e-4):
        raise ValueError(
            "`observables`: must be functions of length and overlap, layer by layer, where they "
            f"are ratios of means; got {observable.name}"
        )
