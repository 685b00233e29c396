"""What a radial activation does to the second moments of n inputs.

Notation: Σ_a = q_a + D_a the covariance of input a, D_a traceless; C = X/√(q_a q_b) for the
cross-covariance X of two inputs, δ = 1 − C.

Errors of tangents and of pairs: every entry holds a bound on the Frobenius norm of the k×k
error, which rotations keep and which the map stretches by its largest multiplier. Bounds on
single entries would have to grow by up to k in every layer. Errors of Σ_a: the entries off
the diagonal hold such a bound for D_a, those on it the sum of this one and that of q_a.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from theory._activations import Radial
from theory._moment_integrals import epsilon, floored
from theory._moments import Moments, PostActivation, PreActivation, per_component
from theory._radial_moments import RadialMoments, cross_moments, radial_moments, series


class _Inputs(NamedTuple):
    """Every input by itself, shape [n, ...]."""

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
) -> PostActivation:
    """The moments behind a radial activation; `components` as in `MeanField`.

    Accuracy
    --------
    Exact where every Σ_a is isotropic (D_a = 0), as it is for isotropic inputs and at every
    fixed point: lengths to the accuracy of `radial_moments`, pairs to what the Hermite series
    leaves out. D_a itself is carried to first order; what it does to pairs is in the error.
    """
    before = state.value
    n, size = before.tangent.shape[1:3]
    k = components or size
    own = _own(before.covariance)
    q = per_component(own)
    bend = own - q[:, None, None] * jnp.eye(size, dtype=q.dtype)[None]
    m, local = jax.vmap(lambda q: radial_moments(activation, q, k, order=order))(q)
    lopsided = jnp.sqrt(jnp.sum(bend**2, axis=(1, 2))) / jax.vmap(floored)(q)
    inputs = _Inputs(own, q, lopsided, m, local)

    square = m.square[:, None, None] * jnp.eye(size, dtype=q.dtype)[None]
    square = square + m.anisotropy[:, None, None] * bend
    tangent = jax.vmap(_by_sector)(
        _own(before.tangent), m.trace, m.symmetric_traceless, m.antisymmetric
    )
    none = jnp.zeros_like(before.covariance)
    diagonal = lambda own: none.at[np.arange(n), np.arange(n)].set(own)
    value = Moments(diagonal(square), none, diagonal(tangent), before.log_gain)
    error = jax.tree.map(jnp.zeros_like, value)
    if errors:
        squares, tangents = _own_errors(inputs, tangent, state)
        error = Moments(diagonal(squares), none, diagonal(tangents), state.error.log_gain)

    rows, columns = np.triu_indices(n, 1)
    if rows.size:
        terms = 2 * order
        expand = jax.vmap(lambda q: series(activation, q, k, terms=terms))
        a = jnp.broadcast_to(expand(q[:1]), (n, terms)) if equal_lengths else expand(q)
        one_pair = lambda i, j: _pair(before, q, a, i, j, equal_lengths, k)
        pairs, delta = jax.vmap(one_pair)(rows, columns)
        if activation.jumps and size == 1 and equal_lengths:
            # The coefficients of a jump fall slowly, and all that is left out has c^(2n + 1).
            whole = (m.square[rows] + m.square[columns])[:, None, None] / 2 - pairs[0]
            apart = jnp.abs(1 - delta) ** (2 * terms) < 1e-3
            pairs = (pairs[0], jnp.where(apart, whole, pairs[1]), pairs[2])

        def put(whole: Moments, parts: tuple[Array, Array, Array]) -> Moments:
            def each(matrix, part):
                mirrored = jnp.swapaxes(part, -1, -2)
                return matrix.at[rows, columns].set(part).at[columns, rows].set(mirrored)

            tensors = (whole.covariance, whole.separation, whole.tangent)
            covariance, separation, tangent = map(each, tensors, parts)
            return Moments(covariance, separation, tangent, whole.log_gain)

        value = put(value, pairs)
        if errors:
            error = put(error, _pair_errors(inputs, a, pairs, delta, state, rows, columns))
    return PostActivation(value, error, jnp.zeros((n, size), q.dtype))


def _pair(before: Moments, q: Array, a: Array, i: Any, j: Any, equal_lengths: bool, k: int):
    """E φ(u)φ(v)ᵀ, E (φ(u) − φ(v))(φ(u) − φ(v))ᵀ/2, E φ'(u) T φ'(v)ᵀ, and δ."""
    root = jnp.sqrt(jnp.maximum(q, jnp.finfo(q.dtype).tiny))
    one = jnp.eye(before.tangent.shape[-1], dtype=q.dtype)
    cross, scale = before.covariance[i, j], root[i] * root[j]
    unlike = jnp.zeros_like(scale) if equal_lengths else (root[i] - root[j]) ** 2 / 2
    # The separation holds the symmetric part of δ to full relative accuracy.
    delta = (before.separation[i, j] - unlike * one - (cross - cross.T) / 2) / scale
    delta = _possible(delta)
    # By Price's theorem E φ' T φ'ᵀ is the derivative of the product along T.
    along = -before.tangent[i, j] / scale
    moved, rate = jax.jvp(lambda d: cross_moments(a[i], a[j], d, k), (delta,), (along,))
    gap = (moved.lost + moved.lost.T) / 2 + jnp.sum((a[i] - a[j]) ** 2) / 2 * one
    return (moved.product, gap, rate.product), delta


_BEYOND = 1e-9
"""In float64; a hundred roundings where that is more."""
_SQUARINGS = 34


def _possible(delta: Float[Array, "k k"]) -> Float[Array, "k k"]:
    """δ, where rounding has not led C = 1 − δ out of what a covariance may be; else that of C
    divided by its norm.

    No singular value of C is above 1. One that starts there, as those of two inputs do that are
    rotated into each other, leaves by rounding, which chaos amplifies; outside the map diverges.
    """
    one = jnp.eye(len(delta), dtype=delta.dtype)
    c = one - delta

    def square(_, carry):
        power, log, weight = carry
        size = floored(jnp.trace(power))
        power = power / size
        return power @ power, log + weight * jnp.log(size), weight / 2

    # The trace of M^m is the largest eigenvalue to the m, times a factor between 1 and k.
    start = (c.T @ c, jnp.zeros((), c.dtype), jnp.ones((), c.dtype))
    power, log, weight = jax.lax.fori_loop(0, _SQUARINGS, square, start)
    norm = jnp.exp((log + weight * jnp.log(floored(jnp.trace(power)))) / 2)
    beyond = max(_BEYOND, 100 * float(jnp.finfo(c.dtype).eps))
    return jnp.where(norm > 1 + beyond, one - c / norm, delta)


def _own_errors(inputs: _Inputs, tangent: Array, state: PreActivation) -> tuple[Array, Array]:
    """Errors of E φφᵀ and of E φ' T φ'ᵀ for every input."""
    q, m, local = inputs.q, inputs.m, inputs.local
    eye = jnp.eye(tangent.shape[-1], dtype=q.dtype)[None]
    q_error, bend_error = _length_and_bend(_own(state.error.covariance))
    # What is left out is of second order in D, with coefficients below one half.
    second = inputs.lopsided**2 * m.square / 2
    square = local.square + jnp.abs(m.square_rate) * q_error + second
    bend = jnp.abs(m.anisotropy) * bend_error + local.anisotropy * inputs.lopsided * q + second
    squares = _wide(square) * eye + _wide(bend) * jnp.ones_like(tangent)
    relative = _relative(local, m) + q_error / jax.vmap(floored)(q) + inputs.lopsided
    size = per_component(jnp.abs(_own(state.value.tangent)))
    scale = np.sqrt(eye.shape[-1])
    tangents = _wide(relative) * _norm(tangent) + _wide(relative * size * m.trace) * scale
    tangents = tangents + _wide(_steepest(m)) * _norm_bound(_own(state.error.tangent))
    # Of a gain that is 0 wherever there are nodes.
    unseen = jnp.where(m.trace > 0, 0.0, jnp.maximum(local.trace, local.symmetric_traceless))
    tangents = tangents + _wide(unseen) * _norm(_own(state.value.tangent))
    return squares, tangents * jnp.ones_like(tangent)


def _pair_errors(inputs: _Inputs, a: Array, pairs: Any, delta: Array, state: Any, rows, columns):
    """Errors of what `_pair` gives: the series' rest, the lengths, and what came in."""
    q, m, local = inputs.q, inputs.m, inputs.local
    ones = jnp.ones_like(delta)
    scale = np.sqrt(delta.shape[-1])  # the norm of the identity
    both = lambda x: _wide((x[rows] + x[columns]) / 2)
    q_error, _ = _length_and_bend(_own(state.error.covariance))
    odd = (2 * jnp.arange(a.shape[1], dtype=q.dtype) + 1)[None]
    rest = _positive(m.square - jnp.sum(a**2, axis=1), local.square)
    slope_rest = jnp.sum(odd * a**2, axis=1) / jax.vmap(floored)(q)
    slope_rest = _positive(m.trace - slope_rest, local.trace)
    product, gap, slope = pairs
    steep = both(_steepest(m))
    # Across a jump the map is steep only where the two inputs coincide.
    steep = jnp.where(jnp.isinf(steep), _norm(slope) / scale, steep)
    incoming = lambda x: steep * _norm_bound(x[rows, columns])
    relative = _relative(local, m) + jnp.abs(m.square_rate) * q_error / _nonzero(m.square)
    relative = both(relative + inputs.lopsided + 24 * epsilon(q))
    left_out = both(rest)
    near = both(q * jnp.where(jnp.isinf(slope_rest), 0.0, slope_rest)) * _norm(delta)
    left_out = jnp.where(both(slope_rest) < jnp.inf, jnp.minimum(left_out, near), left_out)
    missing, slopes = both(rest), both(slope_rest)
    if delta.shape[-1] == 1:
        # One number c: what is left out of the product is at most rest · c^(2n + 1).
        c, terms = jnp.abs(1 - delta), a.shape[1]
        power = c ** (2 * terms)
        missing = missing * power * c
        falling = power < 1e-3
        slopes = jnp.where(
            falling, jnp.minimum(slopes, (2 * terms + 1) * power * both(rest / q)), slopes
        )
        whole = missing + relative * both(m.square)
        left_out = jnp.where(falling & jnp.isinf(both(m.trace)), whole, left_out)
    slopes = slopes + relative * steep
    return (
        (incoming(state.error.covariance) + scale * missing + relative * _norm(product)) * ones,
        (incoming(state.error.separation) + scale * left_out + relative * _norm(gap)) * ones,
        (incoming(state.error.tangent) + slopes * _norm(state.value.tangent[rows, columns])) * ones,
    )


def _wide(x: Float[Array, " n"]) -> Float[Array, "n 1 1"]:
    return x[:, None, None]


def _steepest(m: RadialMoments) -> Array:
    return jnp.maximum(m.trace, m.symmetric_traceless)


def _own(tensor: Float[Array, "n n k k"]) -> Float[Array, "n k k"]:
    return jnp.einsum("aaij->aij", tensor)


def _by_sector(matrix, trace, symmetric, antisymmetric):
    """A k×k matrix with each part under rotations multiplied by its factor."""
    whole = per_component(matrix) * jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    turning = (matrix - matrix.T) / 2
    shear = matrix - turning - whole

    def times(gain, part):  # the gain of a jump is infinite, but not on what is not there
        nothing = jnp.isinf(gain) & (part == 0)
        return jnp.where(nothing, 0.0, jnp.where(nothing, 0.0, gain) * part)

    return times(trace, whole) + times(symmetric, shear) + times(antisymmetric, turning)


def _length_and_bend(error: Float[Array, "b k k"]) -> tuple[Array, Array]:
    """Bounds on q_a and on the norm of D_a."""
    k = error.shape[-1]
    bend = jnp.max(error * (1 - jnp.eye(k, dtype=error.dtype))[None], axis=(-2, -1))
    return jnp.maximum(per_component(error) - bend, 0.0), bend


def _norm(matrix: Float[Array, "b k k"]) -> Float[Array, "b 1 1"]:
    return jnp.sqrt(jnp.sum(matrix**2, axis=(-2, -1), keepdims=True))


def _norm_bound(error: Float[Array, "b k k"]) -> Float[Array, "b 1 1"]:
    return jnp.max(error, axis=(-2, -1), keepdims=True)


def _relative(local: RadialMoments, m: RadialMoments) -> Float[Array, " n"]:
    return local.square / _nonzero(m.square) + local.trace / _nonzero(m.trace)


def _nonzero(x: Array) -> Array:
    return jnp.where(x > 0, x, 1.0)


def _positive(left: Array, rounding: Array) -> Array:
    """What a sum of positive terms lacks of its limit, known to rounding."""
    return jnp.maximum(left, 0.0) + rounding
