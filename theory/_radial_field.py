"""What a radial activation does to the second moments of n inputs.

Notation: Σ_a = q_a + D_a the covariance of input a, D_a traceless; C = X/√(q_a q_b) for the
cross-covariance X of two inputs, δ = 1 − C.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from theory._activations import Radial
from theory._moment_integrals import epsilon, floored
from theory._moments import Moments, PostActivation, PreActivation, per_component
from theory._radial_moments import RadialMoments, cross_moments, radial_moments, series


def radial_field(
    activation: Radial, state: PreActivation, *, order: int, equal_lengths: bool, errors: bool
) -> PostActivation:
    """The moments behind a radial activation.

    Accuracy
    --------
    Exact where every Σ_a is isotropic (D_a = 0), as it is for isotropic inputs and at every
    fixed point: lengths to the accuracy of `radial_moments`, pairs to what the Hermite series
    leaves out. D_a itself is carried to first order; what it does to pairs is in the error.
    """
    value, error = state.value, state.error
    n, _, k, _ = value.covariance.shape
    one = jnp.eye(k, dtype=value.covariance.dtype)
    eye = one[None]
    own, own_error = jnp.einsum("aaij->aij", value.covariance), _own(error.covariance)
    q, q_error = per_component(own), per_component(own_error)
    bend = own - q[:, None, None] * eye
    lopsided = jnp.sqrt(jnp.sum(bend**2, axis=(1, 2))) / floored_all(q)
    m, local = jax.vmap(lambda q: radial_moments(activation, q, k, order=order))(q)

    def sectors(m: RadialMoments, tangent: Array) -> Array:
        return _by_sector(tangent, m.trace, m.symmetric_traceless, m.antisymmetric)

    square = m.square[:, None, None] * eye + m.anisotropy[:, None, None] * bend
    gain = jax.vmap(sectors)(m, jnp.einsum("aaij->aij", value.tangent))
    flat = np.arange(n)
    none = jnp.zeros_like(value.covariance)
    covariance, separation = none.at[flat, flat].set(square), none
    tangent = none.at[flat, flat].set(gain)
    zero = jax.tree.map(jnp.zeros_like, value)
    e = Moments(none, none, none, value.log_gain * 0)
    if errors:
        # Of second order in D, with a coefficient of order one.
        crooked = lopsided**2 * m.square
        from_length = jnp.abs(m.square_rate) * q_error
        square_error = (local.square + from_length + crooked)[:, None, None] * eye
        square_error += jnp.abs(m.anisotropy)[:, None, None] * own_error
        relative = _relative(local, m) + (q_error / floored_all(q)) + lopsided
        steep = jnp.maximum(m.trace, m.symmetric_traceless)[:, None, None]
        own_tangent = _own(value.tangent)
        tangent_error = relative[:, None, None] * jnp.abs(gain) + steep * _spread(
            _own(error.tangent)
        )
        tangent_error += (relative * per_component(jnp.abs(own_tangent)) * m.trace)[
            :, None, None
        ] * eye
        e = Moments(
            none.at[flat, flat].set(square_error),
            none,
            none.at[flat, flat].set(tangent_error),
            e.log_gain,
        )

    rows, columns = np.triu_indices(n, 1)
    if rows.size:
        terms = 2 * order
        expand = jax.vmap(lambda q: series(activation, q, k, terms=terms))
        a = jnp.broadcast_to(expand(q[:1]), (n, terms)) if equal_lengths else expand(q)
        root = jnp.sqrt(jnp.maximum(q, jnp.finfo(q.dtype).tiny))

        def pair(i, j):
            cross, apart = value.covariance[i, j], value.separation[i, j]
            turning = (cross - cross.T) / 2
            unlike = 0.0 if equal_lengths else (root[i] - root[j]) ** 2 / 2
            scale = root[i] * root[j]
            delta = (apart - unlike * one - turning) / scale
            along = -value.tangent[i, j] / scale
            moved, rate = jax.jvp(lambda d: cross_moments(a[i], a[j], d), (delta,), (along,))
            unequal = jnp.sum((a[i] - a[j]) ** 2) / 2
            gap = (moved.lost + moved.lost.T) / 2 + unequal * one
            return moved.product, gap, rate.product, delta

        product, gap, rate, delta = jax.vmap(pair)(rows, columns)
        put = lambda whole, part: whole.at[rows, columns].set(part).at[columns, rows].set(_t(part))
        covariance, separation = put(covariance, product), put(separation, gap)
        tangent = put(tangent, rate)
        if errors:
            both = lambda x: (x[rows] + x[columns]) / 2
            index = (2 * jnp.arange(terms, dtype=q.dtype) + 1)[None]
            tail = _positive(m.square - jnp.sum(a**2, axis=1), local.square)
            steep_tail = _positive(
                m.trace - jnp.sum(index * a**2, axis=1) / floored_all(q), local.trace
            )
            size = jnp.sqrt(jnp.sum(delta**2, axis=(1, 2)))
            relative = _relative(local, m) + jnp.abs(m.square_rate) * q_error / _nonzero(m.square)
            relative = both(relative + lopsided + 16 * epsilon(q))[:, None, None]
            steep = both(jnp.maximum(m.trace, m.symmetric_traceless))[:, None, None]
            left = jnp.minimum(both(tail), both(q * steep_tail) * size)[:, None, None]
            incoming = lambda x: steep * _spread(x[rows, columns])
            ones = jnp.ones((1, k, k), q.dtype)
            largest = lambda x: jnp.max(jnp.abs(x), axis=(1, 2), keepdims=True)
            pairs = (
                incoming(error.covariance)
                + both(tail)[:, None, None] * eye
                + relative * largest(product) * ones,
                incoming(error.separation) + left * ones + relative * largest(gap) * ones,
                (both(steep_tail)[:, None, None] + relative * steep)
                * largest(value.tangent[rows, columns])
                * ones
                + incoming(error.tangent),
            )
            covariances, separations, tangents = map(
                put, (e.covariance, e.separation, e.tangent), pairs
            )
            e = Moments(covariances, separations, tangents, e.log_gain)
    after = Moments(covariance, separation, tangent, value.log_gain)
    e = zero if not errors else Moments(e.covariance, e.separation, e.tangent, error.log_gain)
    return PostActivation(after, e, jnp.zeros((n, k), q.dtype))


def _own(tensor: Float[Array, "n n k k"]) -> Float[Array, "n k k"]:
    return jnp.einsum("aaij->aij", tensor)


def _t(tensor: Float[Array, "pairs k k"]) -> Float[Array, "pairs k k"]:
    return jnp.swapaxes(tensor, -1, -2)


def _by_sector(matrix, trace, symmetric, antisymmetric):
    """A k×k matrix with each part under rotations multiplied by its factor."""
    whole = per_component(matrix) * jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    turning = (matrix - matrix.T) / 2
    return trace * whole + symmetric * (matrix - turning - whole) + antisymmetric * turning


def _spread(error: Float[Array, "*b k k"]) -> Float[Array, "*b k k"]:
    """A bound on every entry of a matrix that was rotated, from bounds on its entries."""
    size = jnp.sqrt(jnp.sum(error**2, axis=(-2, -1), keepdims=True))
    return jnp.broadcast_to(size, error.shape)


def _relative(local: RadialMoments, m: RadialMoments) -> Float[Array, " n"]:
    return local.square / _nonzero(m.square) + local.trace / _nonzero(m.trace)


def _nonzero(x: Array) -> Array:
    return jnp.where(x > 0, x, 1.0)


def _positive(left: Array, rounding: Array) -> Array:
    """What a sum of positive terms lacks of its limit, known to rounding."""
    return jnp.maximum(left, 0.0) + rounding


def floored_all(q: Float[Array, " n"]) -> Float[Array, " n"]:
    return jax.vmap(floored)(q)
