"""Averages over all singular values of a Jacobian, from its products with vectors only.

Notation: as in `_operator`.
"""

import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from sigprop.jacobians._operator import (
    bidiagonal,
    check_differentiable,
    nonzero,
    operator_of,
    smaller_side,
)
from sigprop.networks import check_key, svd
from theory import Status
from theory.numerics import as_array, check_count, check_positive, compiled


class SpectrumEstimate(eqx.Module):
    """Averages over all singular values s of a Jacobian, from random probes.

    Convention: the average E is over min(rows, columns) singular values.
    """

    log_mean: Float[Array, ""]
    """log E s²; −inf if J is zero."""
    log_mean_standard_error: Float[Array, ""]
    """Over the probes, like all standard errors here."""
    ratios: Float[Array, " orders"]
    """E s^{2p}/(E s²)^p for p = 1, 2, …, as in `theory.spectrum.jacobian_moments`."""
    ratios_standard_error: Float[Array, " orders"]
    log_grid: Float[Array, " points"]
    """Where the density of log s is estimated."""
    density: Float[Array, " points"]
    """Density of log s, smoothed by a Gaussian of standard deviation `bandwidth`. Unresolved values
    are left out, so it integrates to 1 − unresolved."""
    density_standard_error: Float[Array, " points"]
    density_quadrature_error: Float[Array, " points"]
    """A bound on the error due to the number of steps, for any law with the same moments."""
    bandwidth: Float[Array, ""]
    unresolved: Float[Array, ""]
    """The fraction of singular values that are zero or below the rounding error of the
    largest."""
    unresolved_standard_error: Float[Array, ""]
    unresolved_quadrature_error: Float[Array, ""]
    """A bound on the mass that so few steps may take for zero, or misplace."""
    status: Int[Array, ""]
    """One `Status` for all: INACCURATE if the quadrature leaves more than `tolerance` of all
    singular values undetermined, either as `unresolved` or under one smoothing Gaussian; INFINITE
    if J is zero; INVALID if the function or its derivative is NaN or infinite."""


def estimate_spectrum(
    fn: Callable | Sequence[Callable],
    x: Float[Array, "*shape"],
    *,
    key: Key[Array, ""],
    probes: int = 16,
    steps: int = 32,
    orders: int = 4,
    log_grid: Float[Array, " points"] | None = None,
    bandwidth: float | None = None,
    tolerance: float = 0.1,
) -> SpectrumEstimate:
    """Trace moments and density of the singular values of ∂f/∂x, without the matrix.

    The method is stochastic Lanczos quadrature: E g(s²) is the mean over random unit vectors v of
    vᵀ g(JᵀJ) v ≈ Σ_j w_j g(s_j²), with nodes and weights from the bidiagonal matrix that starts
    at v.

    Parameters
    ----------
    fn, x
        As in `leading_singular_values`.
    key
        Decides the probes.
    probes
        Number of random vectors, at least 2.
    steps
        Number of products with J and with Jᵀ per probe, at most min(rows, columns).
    orders
        Number of moments E s², …, E s^{2 · orders}, with 2 · steps > orders.
    log_grid
        Where to estimate the density of log s; by default 128 points over the range found.
    bandwidth
        Width of the smoothing Gaussian; by default a twentieth of the range.
    tolerance
        The status is INACCURATE if the quadrature leaves a larger fraction undetermined.

    Accuracy
    --------
    The quadrature is exact for the moments, which have only a standard error. The density and
    `unresolved` also have a quadrature error: the weights bound the cumulative at the nodes
    (Chebyshev, Markov and Stieltjes), and the weight of a node at zero bounds the mass there.
    Both apply to the law that each probe sees, and are 0 if its Krylov space was exhausted.
    Values below about 1e-15 of the largest (1e-6 in float32) are not resolved at any depth: they
    are counted.

    Raises
    ------
    ValueError
        If a number is out of range, `x` has no floating-point numbers, or the weights of the
        network are not explicit.

    References
    ----------
    Golub and Meurant 1994 (quadrature); Ubaru, Chen and Saad 2017 (its error); Szegő 1975,
    theorem 3.41.1 (bounds).
    """
    check_differentiable(fn, x)
    check_key("key", key)
    check_count("probes", probes, 2)
    check_count("steps", steps)
    check_count("orders", orders)
    steps = min(steps, smaller_side(fn, x))
    if orders > 2 * steps - 1 and steps < smaller_side(fn, x):
        raise ValueError(f"`orders`: must be below 2 · `steps`, {2 * steps}; got {orders}")
    if bandwidth is not None:
        check_positive("bandwidth", bandwidth)
    if log_grid is not None:
        log_grid = as_array("log_grid", log_grid, "[points]")
    check_positive("tolerance", tolerance)
    return _estimate(fn, x, key, probes, steps, orders, log_grid, bandwidth, tolerance)


@compiled
def _estimate(
    fn, x, key, probes, steps, orders, log_grid, bandwidth, tolerance
) -> SpectrumEstimate:
    operator = operator_of(fn, x, jax.random.fold_in(key, 0)).tall()
    starts = jax.random.normal(jax.random.fold_in(key, 1), (probes, operator.columns), float)
    b, _ = jax.vmap(lambda start: bidiagonal(operator, start, steps))(starts)
    nodes, weights = jax.vmap(_quadrature)(b)

    powers = jnp.arange(2, 2 * orders + 1, 2, dtype=float)
    scale = nonzero(jnp.max(nodes))
    moments = jnp.sum(weights[..., None] * (nodes[..., None] / scale) ** powers[None, None], axis=1)
    mean = jnp.mean(moments, axis=0)
    first = nonzero(mean[:1])
    # Relative change due to one probe more or less.
    own = moments / nonzero(mean)[None] - 1
    ratio_change = own - own[:, :1] * (powers / 2)[None]
    ratios = mean / first ** (powers / 2)
    ratios_error = ratios * _standard_error(ratio_change)
    log_mean = jnp.log(first[0]) + 2 * (jnp.log(scale) + operator.log_scale)

    resolved = nodes > operator.rounding * scale
    log_nodes = jnp.where(resolved, jnp.log(nonzero(nodes)), jnp.log(scale)) + operator.log_scale
    shown = jnp.where(resolved, weights, 0.0)
    low, high = jnp.min(log_nodes), jnp.max(log_nodes)
    if bandwidth is None:
        width = jnp.maximum((high - low) / 20, 1e-3)
    else:
        width = jnp.asarray(bandwidth, float)
    if log_grid is None:
        grid = jnp.linspace(low - 4 * width, high + 4 * width, 128)
    else:
        grid = log_grid.astype(float)
    density = _smoothed(log_nodes, shown, grid, width)
    floor = operator.rounding * scale
    # If the Krylov space is exhausted the rule is exact.
    couplings = jnp.minimum(jnp.abs(jnp.diagonal(b, 0, 1, 2))[:, :-1], jnp.diagonal(b, 1, 1, 2))
    exact = jnp.any(couplings <= floor, axis=1) | (steps == operator.columns)
    at = grid - operator.log_scale
    bound = jnp.where(exact[:, None], 0.0, _smoothing_bound(nodes, weights, floor, at, width))
    doubt = jnp.where(exact, 0.0, jax.vmap(_doubt, (0, 0, 0, None))(b, nodes, weights, floor))
    change, left = jnp.mean(bound, axis=0), jnp.mean(doubt)
    lost = 1 - jnp.sum(shown, axis=1)
    # Include the positions where the mass may be.
    lost_error = jnp.maximum(_standard_error(lost), _standard_error(lost + doubt))

    zero = operator.zero & operator.valid
    open_mass = jnp.maximum(left, math.sqrt(2 * math.pi) * width * jnp.max(change))
    status = jnp.where(open_mass <= tolerance, Status.OK, Status.INACCURATE)
    status = jnp.where(zero, Status.INFINITE, status)
    status = jnp.where(operator.valid, status, Status.INVALID).astype(jnp.int8)
    good = operator.valid & ~zero
    known = lambda value: jnp.where(good, value, jnp.nan)
    return SpectrumEstimate(
        log_mean=jnp.where(zero, -jnp.inf, known(log_mean)),
        log_mean_standard_error=known(_standard_error(own)[0]),
        ratios=known(ratios),
        ratios_standard_error=known(ratios_error),
        log_grid=grid,
        density=known(jnp.mean(density, axis=0)),
        density_standard_error=known(_standard_error(density)),
        density_quadrature_error=known(change),
        bandwidth=width,
        unresolved=jnp.where(zero, 1.0, known(jnp.mean(lost))),
        unresolved_standard_error=jnp.where(zero, 0.0, known(lost_error)),
        unresolved_quadrature_error=jnp.where(zero, 0.0, known(left)),
        status=status,
    )


def _quadrature(b: Float[Array, "steps steps"]) -> tuple[Array, Array]:
    """Nodes s_j and weights of Σ_j w_j g(s_j²) = e_1ᵀ g(BᵀB) e_1."""
    _, nodes, right = svd(b)
    return nodes, right[:, 0] ** 2


def _doubt(b: Array, nodes: Array, weights: Array, floor: Array) -> Array:
    """How far the mass at s ≤ `floor` may be from the weight there.

    The bound is the two weights next to it. If there is no node there, it is the weight of a node
    at zero in an extended rule: that rule over the square, at zero, of the polynomial that
    vanishes at its other nodes.
    """
    held = nodes <= floor
    below = jnp.max(jnp.where(held, weights, 0.0))
    nearest = jnp.argmin(jnp.where(held, jnp.inf, nodes))
    above = jnp.where(jnp.all(held), 0.0, weights[nearest])
    at_zero, mass = _quadrature(b.at[-1, -1].set(0.0))
    other = at_zero > jnp.min(at_zero)
    ratio = jnp.where(other, floor / nonzero(at_zero), 0.0)
    least = jnp.prod(1 - ratio**2) ** 2
    radau = mass[jnp.argmin(at_zero)] / nonzero(least)
    alone = ~jnp.any(held) & jnp.all(ratio < 1)
    return jnp.where(alone, jnp.minimum(above, radau), jnp.maximum(below, above))


def _smoothing_bound(
    nodes: Array, weights: Array, floor: Array, grid: Array, width: Array
) -> Array:
    """∫ |F − F_rule| |dK| for the Gaussian K at each point, zero below `floor`, for every probe.

    The error of the cumulative F is at most the larger weight of the nodes on both sides.
    """
    order = jnp.argsort(nodes, axis=1)
    x, w = (jnp.take_along_axis(table, order, axis=1) for table in (nodes, weights))
    w = jnp.pad(w, ((0, 0), (1, 1)))
    largest = jnp.maximum(w[:, :-1], w[:, 1:])[:, None, :]
    end = jnp.log(floor)
    x = jnp.where(x > floor, jnp.log(nonzero(x)), -jnp.inf)
    x = jnp.pad(x, ((0, 0), (1, 0)), constant_values=-jnp.inf)
    x = jnp.pad(x, ((0, 0), (0, 1)), constant_values=jnp.inf)[:, None, :]
    at = grid[None, :, None]

    def kernel(place):
        value = jnp.exp(-(((place - at) / width) ** 2) / 2) / (math.sqrt(2 * math.pi) * width)
        return jnp.where(place < end, 0.0, value)

    low, high = x[..., :-1], x[..., 1:]
    cut = jnp.clip(jnp.maximum(at, end), low, high)
    most = kernel(cut)
    variation = 2 * most - kernel(low) - kernel(high)
    return jnp.sum(largest * variation, axis=2)


def _smoothed(log_nodes: Array, weights: Array, grid: Array, width: Array) -> Array:
    """Σ_j w_j N(grid − log s_j; 0, width²) for every probe."""
    gap = (grid[None, :, None] - log_nodes[:, None, :]) / width
    kernel = jnp.exp(-(gap**2) / 2) / (math.sqrt(2 * math.pi) * width)
    return jnp.sum(weights[:, None, :] * kernel, axis=2)


def _standard_error(samples: Float[Array, "probes ..."]) -> Array:
    return jnp.std(samples, axis=0, ddof=1) / math.sqrt(samples.shape[0])
