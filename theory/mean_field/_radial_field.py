"""Second moments of n inputs after a radial activation.

Notation: Σ_a = q_a + D_a is the covariance of input a, D_a traceless; C = X/√(q_a q_b) for the
cross-covariance X of two inputs, δ = 1 − C.

Errors of tangents and of pairs: every entry contains a bound on the Frobenius norm of the k×k
error, which rotations preserve and the map stretches by its largest multiplier. Bounds on single
entries would have to grow by up to k in every layer. Errors of Σ_a: off-diagonal entries contain
such a bound for D_a, diagonal ones the sum of that and the error of q_a.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from theory.description import Radial
from theory.gaussian import RadialMoments, cross_moments, epsilon, floored, radial_moments, series
from theory.mean_field._moments import Moments, PostActivation, PreActivation, per_component
from theory.numerics import Array, each, of_one_kind, put, scan, traced, xp


class _Inputs(NamedTuple):
    """Every input separately, shape [n, ...]."""

    own: Array
    """Σ_a."""
    q: Array
    lopsided: Array
    """|D_a|/q_a."""
    m: RadialMoments
    local: RadialMoments
    """Errors of m."""


def radial_field(
    activation: Radial,
    state: PreActivation,
    *,
    components: int | None,
    order: int,
    equal_lengths: bool,
    errors: bool,
    alone: bool = False,
) -> PostActivation:
    """Moments after a radial activation; `components` as in `MeanField`.

    Accuracy
    --------
    Exact if every Σ_a is isotropic (D_a = 0), as for isotropic inputs and at every fixed point:
    lengths to the accuracy of `radial_moments`, pairs up to the remainder of the Hermite series.
    D_a itself is propagated to first order; its effect on pairs is in the error.
    """
    state = of_one_kind(state)
    before = state.value
    n, size = before.tangent.shape[1:3]
    k = components or size
    own = _own(before.covariance)
    q = per_component(own)
    bend = own - q[:, None, None] * xp.eye(size, dtype=q.dtype)[None]
    m, local = radial_moments(activation, q, k, order=order, with_errors=errors)
    lopsided = xp.sqrt(xp.sum(bend**2, axis=(1, 2))) / floored(q)
    inputs = _Inputs(own, q, lopsided, m, local)

    square = m.square[:, None, None] * xp.eye(size, dtype=q.dtype)[None]
    square = square + m.anisotropy[:, None, None] * bend
    tangent = each(
        _by_sector, _own(before.tangent), m.trace, m.symmetric_traceless, m.antisymmetric
    )
    none = xp.zeros_like(before.covariance)
    diagonal = lambda own: put(none, (np.arange(n), np.arange(n)), own)
    value = Moments(diagonal(square), none, diagonal(tangent), before.log_gain)
    error = jax.tree.map(xp.zeros_like, value)
    if errors:
        squares, tangents = _own_errors(inputs, tangent, state)
        error = Moments(diagonal(squares), none, diagonal(tangents), state.error.log_gain)

    rows, columns = np.triu_indices(1 if alone else n, 1)
    if rows.size:
        terms = 2 * order
        expand = lambda q: each(lambda q: series(activation, q, k, terms=terms), q)
        a = xp.broadcast_to(expand(q[:1]), (n, terms)) if equal_lengths else expand(q)
        one_pair = lambda i, j: _pair(before, q, a, i, j, equal_lengths, k)
        both = (jnp.asarray(rows), jnp.asarray(columns)) if traced(q) else (rows, columns)
        pairs, delta = each(one_pair, *both)
        if activation.jumps and size == 1 and equal_lengths:
            # The coefficients of a jump decay slowly; all omitted terms have c^(2n + 1).
            whole = (m.square[rows] + m.square[columns])[:, None, None] / 2 - pairs[0]
            apart = xp.abs(1 - delta) ** (2 * terms) < 1e-3
            pairs = (pairs[0], xp.where(apart, whole, pairs[1]), pairs[2])

        def with_pairs(whole: Moments, parts: tuple[Array, Array, Array]) -> Moments:
            def each(matrix, part):
                mirrored = xp.swapaxes(part, -1, -2)
                return put(put(matrix, (rows, columns), part), (columns, rows), mirrored)

            tensors = (whole.covariance, whole.separation, whole.tangent)
            covariance, separation, tangent = map(each, tensors, parts)
            return Moments(covariance, separation, tangent, whole.log_gain)

        value = with_pairs(value, pairs)
        if errors:
            error = with_pairs(error, _pair_errors(inputs, a, pairs, delta, state, rows, columns))
    return PostActivation(value, error, xp.zeros((n, size), q.dtype))


def _pair(before: Moments, q: Array, a: Array, i: Any, j: Any, equal_lengths: bool, k: int):
    """E φ(u)φ(v)ᵀ, E (φ(u) − φ(v))(φ(u) − φ(v))ᵀ/2, E φ'(u) T φ'(v)ᵀ, and δ."""
    root = xp.sqrt(xp.maximum(q, np.finfo(q.dtype).tiny))
    one = xp.eye(before.tangent.shape[-1], dtype=q.dtype)
    cross, scale = before.covariance[i, j], root[i] * root[j]
    unlike = xp.zeros_like(scale) if equal_lengths else (root[i] - root[j]) ** 2 / 2
    # The separation has the symmetric part of δ to full relative accuracy.
    delta = (before.separation[i, j] - unlike * one - (cross - cross.T) / 2) / scale
    delta = _possible(delta)
    # By Price's theorem E φ' T φ'ᵀ is the derivative of the product along T.
    along = -before.tangent[i, j] / scale
    moved, rate = _along(lambda d: cross_moments(a[i], a[j], d, k), delta, along)
    gap = (moved.lost + moved.lost.T) / 2 + xp.sum((a[i] - a[j]) ** 2) / 2 * one
    return (moved.product, gap, rate.product), delta


def _along(fn: Callable, x: Array, tangent: Array) -> tuple[Any, Any]:
    """fn(x), and its derivative along the tangent, for an analytic function.

    On the host by a complex step (Squire and Trapp 1998), which involves no subtraction.
    """
    if traced(x, tangent):
        return jax.jvp(fn, (x,), (tangent,))
    size = np.max(np.abs(tangent), initial=np.finfo(x.dtype).tiny)
    found = fn(x + 1j * _TINY * (tangent / size))
    part = lambda take: jax.tree.map(take, found)
    return part(np.real), part(lambda y: np.imag(y) / _TINY * size)


_TINY = 1e-30
_BEYOND = 1e-9
"""In float64; a hundred roundings if that is more."""
_SQUARINGS = 34


def _possible(delta: Float[Array, "k k"]) -> Float[Array, "k k"]:
    """δ, corrected if rounding has taken C = 1 − δ out of the range of a covariance.

    No singular value of C can exceed 1. If one starts at 1, as for two inputs that are rotations
    of each other, rounding takes it above and chaos amplifies the excess; the map diverges there.
    C is then divided by its norm.
    """
    one = xp.eye(len(delta), dtype=delta.dtype)
    c = one - delta
    times = functools.partial(xp.matmul, precision="highest")

    def square(carry, _):
        power, log, weight = carry
        size = floored(xp.trace(power))
        power = power / size
        return (times(power, power), log + weight * xp.log(size), weight / 2), None

    # The trace of M^m is the largest eigenvalue to the power m, times a factor between 1 and k.
    start = (times(c.T, c), np.zeros((), c.dtype), np.ones((), c.dtype))
    power, log, weight = scan(square, start, None, _SQUARINGS)[0]
    norm = xp.exp((log + weight * xp.log(floored(xp.trace(power)))) / 2)
    beyond = max(_BEYOND, 100 * float(np.finfo(c.dtype).eps))
    return xp.where(norm > 1 + beyond, one - c / norm, delta)


def _own_errors(inputs: _Inputs, tangent: Array, state: PreActivation) -> tuple[Array, Array]:
    """Errors of E φφᵀ and of E φ' T φ'ᵀ for every input."""
    q, m, local = inputs.q, inputs.m, inputs.local
    eye = xp.eye(tangent.shape[-1], dtype=q.dtype)[None]
    q_error, bend_error = _length_and_bend(_own(state.error.covariance))
    # The omitted terms are of second order in D, with coefficients below one half.
    second = inputs.lopsided**2 * m.square / 2
    square = local.square + xp.abs(m.square_rate) * q_error + second
    bend = xp.abs(m.anisotropy) * bend_error + local.anisotropy * inputs.lopsided * q + second
    squares = _wide(square) * eye + _wide(bend) * xp.ones_like(tangent)
    relative = _relative(local, m) + q_error / floored(q) + inputs.lopsided
    size = per_component(xp.abs(_own(state.value.tangent)))
    scale = np.sqrt(eye.shape[-1])
    tangents = _wide(relative) * _norm(tangent) + _wide(relative * size * m.trace) * scale
    tangents = tangents + _wide(_steepest(m)) * _norm_bound(_own(state.error.tangent))
    # Error of a gain that is 0 at all nodes.
    unseen = xp.where(m.trace > 0, 0.0, xp.maximum(local.trace, local.symmetric_traceless))
    tangents = tangents + _wide(unseen) * _norm(_own(state.value.tangent))
    return squares, tangents * xp.ones_like(tangent)


def _pair_errors(inputs: _Inputs, a: Array, pairs: Any, delta: Array, state: Any, rows, columns):
    """Errors of the results of `_pair`: the remainder of the series, the lengths, the input."""
    q, m, local = inputs.q, inputs.m, inputs.local
    ones = xp.ones_like(delta)
    scale = np.sqrt(delta.shape[-1])  # the norm of the identity
    both = lambda x: _wide((x[rows] + x[columns]) / 2)
    q_error, _ = _length_and_bend(_own(state.error.covariance))
    odd = (2 * xp.arange(a.shape[1], dtype=q.dtype) + 1)[None]
    rest = _positive(m.square - xp.sum(a**2, axis=1), local.square)
    slope_rest = xp.sum(odd * a**2, axis=1) / floored(q)
    slope_rest = _positive(m.trace - slope_rest, local.trace)
    product, gap, slope = pairs
    steep = both(_steepest(m))
    # At a jump the map is steep only where the two inputs coincide.
    steep = xp.where(xp.isinf(steep), _norm(slope) / scale, steep)
    incoming = lambda x: steep * _norm_bound(x[rows, columns])
    relative = _relative(local, m) + xp.abs(m.square_rate) * q_error / _nonzero(m.square)
    relative = both(relative + inputs.lopsided + 24 * epsilon(q))
    left_out = both(rest)
    near = both(q * xp.where(xp.isinf(slope_rest), 0.0, slope_rest)) * _norm(delta)
    left_out = xp.where(both(slope_rest) < xp.inf, xp.minimum(left_out, near), left_out)
    missing, slopes = both(rest), both(slope_rest)
    if delta.shape[-1] == 1:
        # With one component C is a number c: the product omits at most rest · c^(2n + 1).
        c, terms = xp.abs(1 - delta), a.shape[1]
        power = c ** (2 * terms)
        missing = missing * power * c
        falling = power < 1e-3
        slopes = xp.where(
            falling, xp.minimum(slopes, (2 * terms + 1) * power * both(rest / q)), slopes
        )
        whole = missing + relative * both(m.square)
        left_out = xp.where(falling & xp.isinf(both(m.trace)), whole, left_out)
    slopes = slopes + relative * steep
    return (
        (incoming(state.error.covariance) + scale * missing + relative * _norm(product)) * ones,
        (incoming(state.error.separation) + scale * left_out + relative * _norm(gap)) * ones,
        (incoming(state.error.tangent) + slopes * _norm(state.value.tangent[rows, columns])) * ones,
    )


def _wide(x: Float[Array, " n"]) -> Float[Array, "n 1 1"]:
    return x[:, None, None]


def _steepest(m: RadialMoments) -> Array:
    return xp.maximum(m.trace, m.symmetric_traceless)


def _own(tensor: Float[Array, "n n k k"]) -> Float[Array, "n k k"]:
    return xp.einsum("aaij->aij", tensor)


def _by_sector(matrix, trace, symmetric, antisymmetric):
    """Multiply each part of a k×k matrix under rotations by its factor."""
    whole = per_component(matrix) * xp.eye(matrix.shape[0], dtype=matrix.dtype)
    rotation = (matrix - matrix.T) / 2
    shear = matrix - rotation - whole

    def times(gain, part):  # the gain of a jump is infinite, but not times a part that is 0
        nothing = xp.isinf(gain) & (part == 0)
        return xp.where(nothing, 0.0, xp.where(nothing, 0.0, gain) * part)

    return times(trace, whole) + times(symmetric, shear) + times(antisymmetric, rotation)


def _length_and_bend(error: Float[Array, "b k k"]) -> tuple[Array, Array]:
    """Bounds on q_a and on the norm of D_a."""
    k = error.shape[-1]
    bend = xp.max(error * (1 - xp.eye(k, dtype=error.dtype))[None], axis=(-2, -1))
    return xp.maximum(per_component(error) - bend, 0.0), bend


def _norm(matrix: Float[Array, "b k k"]) -> Float[Array, "b 1 1"]:
    return xp.sqrt(xp.sum(matrix**2, axis=(-2, -1), keepdims=True))


def _norm_bound(error: Float[Array, "b k k"]) -> Float[Array, "b 1 1"]:
    return xp.max(error, axis=(-2, -1), keepdims=True)


def _relative(local: RadialMoments, m: RadialMoments) -> Float[Array, " n"]:
    return local.square / _nonzero(m.square) + local.trace / _nonzero(m.trace)


def _nonzero(x: Array) -> Array:
    return xp.where(x > 0, x, 1.0)


def _positive(left: Array, rounding: Array) -> Array:
    """The remainder of a sum of positive terms, known up to rounding."""
    return xp.maximum(left, 0.0) + rounding
