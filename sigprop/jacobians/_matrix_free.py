"""Singular values of a Jacobian from its products with vectors alone.

For networks too wide for the whole matrix. Notation: J has `rows` × `columns`, s its singular
values, v and u its right and left singular vectors; k steps of Golub and Kahan give
J V = U B with orthonormal V and U and a small bidiagonal B.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from sigprop.networks import (
    Along,
    DrawnNetwork,
    Signals,
    check_key,
    qr,
    singular_values,
    svd,
)
from theory import Status, interpret
from theory.numerics import (
    cast,
    check_count,
    check_kind,
    check_positive,
    exponent,
    shown,
    times_power,
)

_CLOSE = 4.0
"""Values that differ by this many times what is not resolved are not told apart."""
_ROUNDING = 8.0
"""Singular values closer to zero than this many roundings of the largest are not resolved."""


class LeadingValues(eqx.Module):
    """The largest singular values of a Jacobian, with their vectors."""

    log_singular_values: Float[Array, " count"]
    """Natural logarithms, descending. −inf with status INFINITE where J is zero; NaN with
    status ABSENT where the value is smaller than rounding leaves of the largest."""
    error: Float[Array, " count"]
    """A bound on the distance, in the logarithm, to a singular value of J; infinite where the
    residual is as large as the value or a larger value was missed, with status NOT_CONVERGED."""
    status: Int[Array, " count"]
    """`Status`: INACCURATE where `error` is above the tolerance, INVALID if the function or
    its derivative is NaN or infinite."""
    left: Float[Array, "count rows"]
    """u, flattened outputs; zeros where there is no value."""
    right: Float[Array, "count columns"]
    """v, flattened inputs."""


class SpectrumEstimate(eqx.Module):
    """Averages over all singular values s of a Jacobian, from random probes.

    Convention: the average E is over min(rows, columns) singular values.
    """

    log_mean: Float[Array, ""]
    """log E s²; −inf where J is zero."""
    log_mean_standard_error: Float[Array, ""]
    """Over the probes, as are all standard errors here."""
    ratios: Float[Array, " orders"]
    """E s^{2p}/(E s²)^p for p = 1, 2, …, as in `theory.jacobian_moments`."""
    ratios_standard_error: Float[Array, " orders"]
    log_grid: Float[Array, " points"]
    """Where the density of log s is estimated."""
    density: Float[Array, " points"]
    """Density of log s, smoothed by a Gaussian of standard deviation `bandwidth`; unresolved
    values are left out, so that it integrates to 1 − unresolved."""
    density_standard_error: Float[Array, " points"]
    density_quadrature_error: Float[Array, " points"]
    """A bound on what the number of steps leaves, of any law with the same moments."""
    bandwidth: Float[Array, ""]
    unresolved: Float[Array, ""]
    """The fraction of singular values that are zero or smaller than rounding leaves of the
    largest."""
    unresolved_standard_error: Float[Array, ""]
    unresolved_quadrature_error: Float[Array, ""]
    """A bound on the mass that so few steps may take for zero, or see elsewhere."""
    status: Int[Array, ""]
    """`Status` of the whole: INACCURATE where the quadrature leaves more than `tolerance` of all
    singular values open, as `unresolved` or under one smoothing Gaussian; INFINITE where J is
    zero, INVALID if the function or its derivative is NaN or infinite."""


class _Operator(NamedTuple):
    """v ↦ J v e^{−log_scale} on flat vectors of JAX's default precision; e^{log_scale} is a
    power of two."""

    forward: Callable[[Array], Array]
    backward: Callable[[Array], Array]
    """u ↦ Jᵀ u e^{−log_scale}."""
    rows: int
    columns: int
    log_scale: Array
    """Of a size that leaves that of a random vector as it is."""
    rounding: float
    """What is below this fraction of the largest singular value is not resolved."""
    valid: Array
    zero: Array

    def turned(self) -> "_Operator":
        """The transposed map where that has fewer columns."""
        if self.rows >= self.columns:
            return self
        shape = {"rows": self.columns, "columns": self.rows}
        return self._replace(forward=self.backward, backward=self.forward, **shape)


class _Referenced(Along[Signals]):
    """A finite network with two tangents, both over the size of the first at each boundary.

    The second one is a linear function of where it started, at any depth. Sizes are powers of
    two, and `log_gain` holds the sum of their exponents: both are exact.
    """

    def at_boundary(self, state: Signals) -> Signals:
        tangents, _, power = _rescaled(state.tangents)
        log_gain = state.log_gain + power.astype(state.log_gain.dtype)[None]
        return Signals(state.values, tangents, log_gain)

    def through_time(self, turn, state, steps: int):
        raise TypeError(
            "`fn`: the Jacobian is that of one input, not of the sequences of a Recurrent"
        )

    def loop(self, turn, state, layers, depth):
        # The transposed map draws the weights again instead of keeping them.
        return super().loop(jax.checkpoint(turn, prevent_cse=False), state, layers, depth)


def _rescaled(tangents: Float[Array, "*shape 2"]) -> tuple[Array, Array, Array]:
    """Both tangents over a power of two, the root mean square of the first, and the exponent."""
    size = _mean_size(tangents[..., 0])
    power = _power_of(size)
    return times_power(tangents, -power), size, power


def _power_of(size: Array) -> Array:
    return jnp.where(size > 0, exponent(size), 0)


def _operator(fn: Any, x: Array, key: Array) -> _Operator:
    """The Jacobian at x of a function, of layers in their order, or of a drawn network."""
    dtype = x.dtype
    reference = jax.random.normal(key, x.shape, dtype)
    if isinstance(fn, DrawnNetwork):
        value, size, power, linear = _drawn_map(fn, x, reference)
    else:
        value, size, power, linear = _layered_map(_as_layers(fn), x, reference)

    def forward(v: Array) -> Array:
        return linear(v.astype(dtype).reshape(x.shape)).reshape(-1).astype(float)

    def backward(u: Array) -> Array:
        return jax.vjp(forward, jnp.zeros(x.size, float))[1](u)[0]

    valid = jnp.all(jnp.isfinite(value)) & jnp.isfinite(size)
    rounding = _ROUNDING * max(float(jnp.finfo(dtype).eps), float(jnp.finfo(float).eps))
    log_scale = math.log(2) * power.astype(float)
    return _Operator(forward, backward, value.size, x.size, log_scale, rounding, valid, size == 0)


def _as_layers(fn: Any) -> list[Callable]:
    return [fn] if callable(fn) else list(fn)


def _drawn_map(drawn: DrawnNetwork, x: Array, reference: Array) -> tuple[Any, Any, Any, Callable]:
    network = cast(drawn.network, x.dtype)

    def run(v: Array) -> tuple[Array, Array, Array, Array]:
        start = Signals(x, jnp.stack([reference, v], axis=-1), jnp.zeros(1, x.dtype))
        end = interpret(network, _Referenced(drawn.reading), start)[0]
        tangents, size, power = _rescaled(end.tangents)
        return end.values, size, end.log_gain[0] + power.astype(x.dtype), tangents[..., 1]

    value, size, power, _ = run(reference)
    return value, size, power, lambda v: run(v)[3]


def _layered_map(layers: list, x: Array, reference: Array) -> tuple[Any, Any, Any, Callable]:
    # A layer has no place inside to rescale: a tangent starts where there is most room.
    room = int(0.45 * jnp.finfo(x.dtype).maxexp)
    value, pushed, total = x, reference, jnp.zeros((), jnp.int32)
    worst = jnp.ones((), x.dtype)
    maps = []
    for layer in layers:
        value, linear = jax.linearize(layer, value)
        first = _mean_size(linear(pushed))
        begin, size = jnp.zeros((), jnp.int32), first
        for scale in (room, -room):
            found = _mean_size(linear(pushed * jnp.asarray(2.0**scale, x.dtype)))
            # Small, but not so small that bits are lost; or overflown.
            poor = (size < math.sqrt(float(jnp.finfo(x.dtype).tiny))) | ~jnp.isfinite(size)
            better = poor & jnp.isfinite(found) & (found > 0)
            begin, size = jnp.where(better, scale, begin), jnp.where(better, found, size)
        end, one = _power_of(size), jnp.ones((), x.dtype)
        start, safe = times_power(one, begin), times_power(one, end)
        pushed = linear(pushed * start) / safe
        maps.append((linear, start, safe))
        total = total + end - begin
        worst = jnp.where(jnp.isfinite(worst) & (worst > 0), size, worst)

    def through(v: Array) -> Array:
        for linear, start, safe in maps:
            v = linear(v * start) / safe
        return v

    return value, worst, total, through


def _mean_size(tangents: Array) -> Array:
    """The root mean square, without over- or underflow of the squares."""
    largest = jnp.max(jnp.abs(tangents))
    safe = _safe(largest)
    return largest * jnp.sqrt(jnp.mean((tangents / safe) ** 2))


def _safe(size: Array) -> Array:
    return jnp.where(size > 0, size, jnp.ones((), size.dtype))


def _bidiagonal(operator: _Operator, start: Array, steps: int) -> tuple[Array, Array]:
    """B [steps, steps] and V [steps, columns]; zeros once the space is exhausted."""
    from matfree.decomp import bidiag

    (_, v), (diagonal, above), *_ = bidiag(steps, materialize=False)(operator.forward, start)
    diagonal, above, v = (jnp.where(jnp.isfinite(part), part, 0.0) for part in (diagonal, above, v))
    return jnp.diag(diagonal) + jnp.diag(above, 1), v


def leading_singular_values(
    fn: Callable | Sequence[Callable],
    x: Float[Array, "*shape"],
    key: Key[Array, ""],
    *,
    count: int = 8,
    steps: int | None = None,
    tolerance: float = 1e-6,
) -> LeadingValues:
    """The `count` largest singular values of ∂f/∂x and their vectors, without the matrix.

    Golub–Kahan bidiagonalisation with full re-orthogonalisation, by `matfree`.

    Parameters
    ----------
    fn
        A function of one array; a sequence of layers, the first one first, whose tangents
        are rescaled between them; or a `DrawnNetwork`, at any depth.
    x
        Where the derivative is taken; its dtype is that of the function.
    key
        Decides the first vector.
    steps
        Products with J and with Jᵀ; 4 · count + 20 by default, at most min(rows, columns).
    tolerance
        The status is INACCURATE where `error` is larger.

    Accuracy
    --------
    `error` follows from the residuals |J v − s u| and |Jᵀ u − s v|, computed afresh, and from
    the rounding of one product: J, as the function computes it, has a singular value that
    close. The residual does not tell that none was missed: one vector sees every multiple value
    once. So a third as many steps look for a larger value on what is orthogonal to all that was
    found; where they find one, the i-th value is a later one, its error infinite and its status
    NOT_CONVERGED. With few `steps` and hardly a gap one can still be missed. Values are never
    too large by more than rounding.

    Raises
    ------
    ValueError
        If `count` or `steps` is outside its range, `x` has no floating-point numbers, or the
        network's weights are not explicit.

    References
    ----------
    Golub and Kahan 1965, section 4.
    """
    _check(fn, x)
    check_key("key", key)
    check_positive("tolerance", tolerance)
    smaller = _smaller_side(fn, x)
    check_count("count", count)
    if count > smaller:
        raise ValueError(f"`count`: must be at most min(rows, columns) = {smaller}; got {count}")
    steps = min(smaller, 4 * count + 20 if steps is None else steps)
    check_count("steps", steps)
    if steps < count:
        raise ValueError(f"`steps`: must be at least `count`, {count}; got {steps}")
    return _leading(fn, x, key, count, steps, tolerance)


@eqx.filter_jit
def _leading(fn, x, key, count, steps, tolerance) -> LeadingValues:
    # From the smaller side, so that all steps are enough to exhaust it.
    plain = _operator(fn, x, jax.random.fold_in(key, 0))
    operator = plain.turned()
    start = jax.random.normal(jax.random.fold_in(key, 1), (operator.columns,), float)
    _, basis = _bidiagonal(operator, start, steps)
    # Where the Krylov space was exhausted, rounding went into the last vectors; an orthonormal
    # frame of the same span, and fresh products with it, do not know of that.
    frame = qr(basis.T)[0].T
    u, values, turn = svd(jax.vmap(operator.forward)(frame).T)
    u, values, v = u.T[:count], values[:count], turn[:count] @ frame
    onward = jax.vmap(operator.forward)(v) - values[:, None] * u
    back = jax.vmap(operator.backward)(u) - values[:, None] * v
    residual = jnp.maximum(jnp.linalg.norm(onward, axis=1), jnp.linalg.norm(back, axis=1))
    floor = operator.rounding * values[0]
    resolved, close = values > floor, residual + floor < values
    error = -jnp.log1p(-jnp.where(close, (residual + floor) / _safe(values), 0.5))
    error = jnp.where(close, error, jnp.inf)
    above = _missed(operator, v, jax.random.fold_in(key, 2), steps)
    # Of one in the middle of a cluster, too, larger values of it were missed.
    close &= values * jnp.exp(error) >= above - _CLOSE * floor
    # That of the logarithm itself, and of what it is added to.
    shift = 2 * float(jnp.finfo(values.dtype).eps) * jnp.abs(operator.log_scale)
    error = jnp.where(close, error + shift, jnp.inf)
    status = jnp.where(error <= tolerance, Status.OK, Status.INACCURATE)
    status = jnp.where(close, status, Status.NOT_CONVERGED)
    status = jnp.where(resolved, status, Status.ABSENT)
    log_values = jnp.where(resolved, jnp.log(_safe(values)) + operator.log_scale, jnp.nan)
    zero = operator.zero & operator.valid
    log_values = jnp.where(zero, -jnp.inf, log_values)
    status = jnp.where(zero, Status.INFINITE, status)
    status = jnp.where(operator.valid, status, Status.INVALID).astype(jnp.int8)
    log_values = jnp.where(operator.valid, log_values, jnp.nan)
    known = resolved & operator.valid & ~zero
    error = jnp.where(known, error, jnp.nan)
    u, v = (jnp.where(known[:, None], vectors, 0.0) for vectors in (u, v))
    u, v = (u, v) if operator is plain else (v, u)
    return LeadingValues(log_values, error, status, u, v)


def _missed(operator: _Operator, v: Array, key: Array, steps: int) -> Array:
    """The largest singular value on what is orthogonal to the rows v; never too large by more
    than rounding."""
    across = lambda x: x - v.T @ (v @ x)
    rest = operator._replace(forward=lambda x: operator.forward(across(x)))
    start = across(jax.random.normal(key, (operator.columns,), float))
    values, _ = _bidiagonal(rest, start, min(operator.columns, operator.rows, max(12, steps // 3)))
    return singular_values(values)[0]


def estimate_spectrum(
    fn: Callable | Sequence[Callable],
    x: Float[Array, "*shape"],
    key: Key[Array, ""],
    *,
    probes: int = 16,
    steps: int = 32,
    orders: int = 4,
    log_grid: Float[Array, " points"] | None = None,
    bandwidth: float | None = None,
    tolerance: float = 0.1,
) -> SpectrumEstimate:
    """Trace moments and density of the singular values of ∂f/∂x, without the matrix.

    Stochastic Lanczos quadrature: E g(s²) is the mean over random unit vectors v of
    vᵀ g(JᵀJ) v ≈ Σ_j w_j g(s_j²), nodes and weights from the bidiagonal matrix that starts at v.

    Parameters
    ----------
    fn, x
        As in `leading_singular_values`.
    key
        Decides the probes.
    probes
        Random vectors, at least 2.
    steps
        Products with J and with Jᵀ per probe, at most min(rows, columns).
    orders
        Moments E s², …, E s^{2 · orders}, with 2 · steps > orders.
    log_grid
        Where to estimate the density of log s; 128 points over what was found by default.
    bandwidth
        By which it is smoothed; a twentieth of the range by default.
    tolerance
        The status is INACCURATE where the quadrature leaves a larger fraction of all open.

    Accuracy
    --------
    The quadrature is exact for the moments, which have a standard error alone. The density and
    `unresolved` have one of the quadrature too: its weights bound the cumulative at its nodes
    (Chebyshev, Markov and Stieltjes), and the weight of a node at zero bounds the mass there.
    Both are of the law that each probe sees, and 0 where its Krylov space was exhausted. Values
    under about 1e-15 of the largest (1e-6 in float32) are
    not resolved, whatever the depth: they are counted.

    Raises
    ------
    ValueError
        If a number is outside its range, `x` has no floating-point numbers, or the network's
        weights are not explicit.

    References
    ----------
    Golub and Meurant 1994 (quadrature); Ubaru, Chen and Saad 2017 (its error); Szegő 1975,
    theorem 3.41.1 (bounds).
    """
    _check(fn, x)
    check_key("key", key)
    check_count("probes", probes, 2)
    check_count("steps", steps)
    check_count("orders", orders)
    steps = min(steps, _smaller_side(fn, x))
    if orders > 2 * steps - 1 and steps < _smaller_side(fn, x):
        raise ValueError(f"`orders`: must be below 2 · `steps`, {2 * steps}; got {orders}")
    if bandwidth is not None and not (math.isfinite(bandwidth) and bandwidth > 0):
        raise ValueError(f"`bandwidth`: must be finite and above 0; got {bandwidth}")
    check_positive("tolerance", tolerance)
    return _estimate(fn, x, key, probes, steps, orders, log_grid, bandwidth, tolerance)


@eqx.filter_jit
def _estimate(
    fn, x, key, probes, steps, orders, log_grid, bandwidth, tolerance
) -> SpectrumEstimate:
    operator = _operator(fn, x, jax.random.fold_in(key, 0)).turned()
    starts = jax.random.normal(jax.random.fold_in(key, 1), (probes, operator.columns), float)
    b, _ = jax.vmap(lambda start: _bidiagonal(operator, start, steps))(starts)
    nodes, weights = jax.vmap(_quadrature)(b)

    powers = jnp.arange(2, 2 * orders + 1, 2, dtype=float)
    scale = _safe(jnp.max(nodes))
    moments = jnp.sum(weights[..., None] * (nodes[..., None] / scale) ** powers[None, None], axis=1)
    mean = jnp.mean(moments, axis=0)
    first = _safe(mean[:1])
    # What one probe more or less would change, in relative terms.
    own = moments / _safe(mean)[None] - 1
    ratio_change = own - own[:, :1] * (powers / 2)[None]
    ratios = mean / first ** (powers / 2)
    ratios_error = ratios * _standard_error(ratio_change)
    log_mean = jnp.log(first[0]) + 2 * (jnp.log(scale) + operator.log_scale)

    resolved = nodes > operator.rounding * scale
    log_nodes = jnp.where(resolved, jnp.log(_safe(nodes)), jnp.log(scale)) + operator.log_scale
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
    # Where the Krylov space is exhausted the rule is exact.
    couplings = jnp.minimum(jnp.abs(jnp.diagonal(b, 0, 1, 2))[:, :-1], jnp.diagonal(b, 1, 1, 2))
    exact = jnp.any(couplings <= floor, axis=1) | (steps == operator.columns)
    at = grid - operator.log_scale
    bound = jnp.where(exact[:, None], 0.0, _smoothing_bound(nodes, weights, floor, at, width))
    doubt = jnp.where(exact, 0.0, jax.vmap(_doubt, (0, 0, 0, None))(b, nodes, weights, floor))
    change, left = jnp.mean(bound, axis=0), jnp.mean(doubt)
    lost = 1 - jnp.sum(shown, axis=1)
    # Of where it may be, too.
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

    By the two weights next to it, or where there is none, by that of a rule with a node at zero
    over the square there of the polynomial that is zero at its other nodes.
    """
    held = nodes <= floor
    below = jnp.max(jnp.where(held, weights, 0.0))
    nearest = jnp.argmin(jnp.where(held, jnp.inf, nodes))
    above = jnp.where(jnp.all(held), 0.0, weights[nearest])
    at_zero, mass = _quadrature(b.at[-1, -1].set(0.0))
    other = at_zero > jnp.min(at_zero)
    ratio = jnp.where(other, floor / _safe(at_zero), 0.0)
    least = jnp.prod(1 - ratio**2) ** 2
    radau = mass[jnp.argmin(at_zero)] / _safe(least)
    alone = ~jnp.any(held) & jnp.all(ratio < 1)
    return jnp.where(alone, jnp.minimum(above, radau), jnp.maximum(below, above))


def _smoothing_bound(
    nodes: Array, weights: Array, floor: Array, grid: Array, width: Array
) -> Array:
    """∫ |F − F_rule| |dK| for the Gaussian K at each point, zero under `floor`; every probe.

    F, the cumulative, is off by no more than the larger weight of the nodes on both sides.
    """
    order = jnp.argsort(nodes, axis=1)
    x, w = (jnp.take_along_axis(table, order, axis=1) for table in (nodes, weights))
    w = jnp.pad(w, ((0, 0), (1, 1)))
    largest = jnp.maximum(w[:, :-1], w[:, 1:])[:, None, :]
    end = jnp.log(floor)
    x = jnp.where(x > floor, jnp.log(_safe(x)), -jnp.inf)
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


def _smaller_side(fn: Any, x: Array) -> int:
    """min(rows, columns), without running the function."""
    out: Any = x
    for layer in _as_layers(fn):
        out = eqx.filter_eval_shape(layer, out)
    return min(out.size, x.size)


def _check(fn: Any, x: Array) -> None:
    check_kind("x", x, jax.Array | np.ndarray, "an array")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"`x`: must hold floating-point numbers; got {x.dtype}")
    if not callable(fn) and not isinstance(fn, list | tuple):
        raise TypeError(f"`fn`: must be a function or a sequence of layers; got {shown(fn)}")
    if not callable(fn) and len(fn) == 0:
        raise ValueError("`fn`: must be a function or at least one layer; got an empty sequence")
    if isinstance(fn, DrawnNetwork):
        if not fn.explicit_weights:
            raise ValueError(
                "`fn`: must have explicit weights, the same for every vector; got a network "
                "whose weights are drawn from their law given each vector"
            )
        if len(x) != 1:
            raise ValueError(f"`x`: a Jacobian is taken at one input; got {len(x)}")
