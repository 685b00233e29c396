"""The mean-field reading: second moments of n inputs, carried through a description."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from theory._activations import Activation
from theory._architecture import Affine, Part, Pointwise, Reading, along_depth, interpret
from theory._expectation import pair_moments, single_moments
from theory._moments import (
    Moments,
    PostActivation,
    PreActivation,
    given_moments,
    per_component,
    signal_moments,
)


class MeanField(Reading[Any]):
    """Infinite-width moments: each `Affine` and sum makes a note, its `PreActivation`.

    Notation: q length, x = 1 − c, s separation, σ_w² and σ_b² the variances.
    """

    order: int = eqx.field(static=True, default=64)
    """Nodes per panel of the Gaussian quadrature."""
    equal_lengths: bool = eqx.field(static=True, default=False)
    """All inputs are known to have one length (as at a fixed point): half the work."""
    in_branch: bool = eqx.field(static=True, default=False)

    def inside_branch(self) -> "MeanField":
        return MeanField(self.order, self.equal_lengths, True)

    def affine(self, node: Affine, state: PreActivation | PostActivation):
        law, table = node.weights, node.weights.table
        if table.shape[2] != state.value.tangent.shape[-1]:
            raise TypeError(
                f"`components`: the weights act on units of {table.shape[2]} components; the "
                f"signal has {state.value.tangent.shape[-1]}"
            )

        def weigh(moments: Moments, table: np.ndarray) -> Moments:
            def through(matrix):
                return law.entry_variance * jnp.einsum("aij,...jk,alk->...il", table, matrix, table)

            return Moments(
                through(moments.covariance),
                through(moments.separation),
                through(moments.tangent),
                moments.log_gain,
            )

        table = jnp.asarray(table, state.value.covariance.dtype)
        bias = node.bias_variance * jnp.eye(table.shape[1], dtype=table.dtype)
        value = weigh(state.value, table)
        value = eqx.tree_at(lambda m: m.covariance, value, value.covariance + bias)
        state = PreActivation(value, _rounded(value, weigh(state.error, jnp.abs(table))))
        return state, None if self.in_branch else state

    def pointwise(self, node: Pointwise, state: PreActivation | PostActivation):
        if not isinstance(state, PreActivation):
            raise TypeError(
                "a nonlinearity must act on Gaussian moments, behind an Affine; here it acts on "
                f"{type(state).__name__} moments"
            )
        return _componentwise(node.activation, state, self.order, self.equal_lengths), None

    def add(self, skip: PreActivation, branch: PreActivation):
        def total(a: Moments, b: Moments) -> Moments:
            summed = jax.tree.map(jnp.add, a, b)
            return eqx.tree_at(lambda m: m.log_gain, summed, a.log_gain)

        value = total(skip.value, branch.value)
        state = PreActivation(value, _rounded(value, total(skip.error, branch.error)))
        return state, None if self.in_branch else state

    def boundary(self, state: PreActivation | PostActivation):
        if self.in_branch:
            return state
        # Tangents grow by χ per layer; their scale is kept as a logarithm.
        size = per_component(state.value.tangent)
        size = jnp.where(size > 0, size, 1.0)

        def scaled(m: Moments, log: Any) -> Moments:
            new = (m.tangent / size[:, None, None], m.log_gain + log)
            return eqx.tree_at(lambda m: (m.tangent, m.log_gain), m, new)

        return eqx.tree_at(
            lambda s: (s.value, s.error),
            state,
            (scaled(state.value, jnp.log(size)), scaled(state.error, 0.0)),
        )


def _rounded(value: Moments, error: Moments) -> Moments:
    eps = 4 * jnp.finfo(value.covariance.dtype).eps
    return jax.tree.map(lambda v, e: e + eps * jnp.abs(v), value, error)


def _componentwise(
    activation: Activation, state: PreActivation, order: int, equal_lengths: bool
) -> PostActivation:
    """Every component of every input is one Gaussian variable; pairs of them are all there is."""
    n, _, k, _ = state.value.covariance.shape
    m = n * k

    def flat(tensor):  # [n, n, k, k] -> [n k, n k]
        return jnp.swapaxes(tensor, 1, 2).reshape(m, m)

    def unflat(matrix):
        return jnp.swapaxes(matrix.reshape(n, k, n, k), 1, 2)

    covariance, covariance_error = flat(state.value.covariance), flat(state.error.covariance)
    q, q_error = jnp.diag(covariance), jnp.diag(covariance_error)
    own, own_error = jax.vmap(lambda q: single_moments(activation, q, order=order))(q)
    square_error = own_error.square + jnp.abs(own.square_rate) * q_error

    product, product_error = jnp.diag(own.square), jnp.diag(square_error)
    _, slope_rate = jax.jvp(
        jax.vmap(lambda q: single_moments(activation, q, order=order)[0].derivative_square),
        (q,),
        (jnp.ones_like(q),),
    )
    slope = jnp.diag(own.derivative_square)
    slope_error = jnp.diag(own_error.derivative_square + jnp.abs(slope_rate) * q_error)
    gap, gap_error = jnp.zeros((m, m), q.dtype), jnp.zeros((m, m), q.dtype)
    rows, columns = np.triu_indices(m, 1)
    if rows.size:
        # The carried separation is exact for one component of two inputs; between different
        # components it follows from the covariance.
        same = rows % k == columns % k
        separation, separation_error = flat(state.value.separation), flat(state.error.separation)
        apart = (q[:, None] + q[None]) / 2 - covariance
        apart_error = (q_error[:, None] + q_error[None]) / 2 + covariance_error
        s = jnp.where(same, separation[rows, columns], apart[rows, columns])
        s_error = jnp.where(same, separation_error[rows, columns], apart_error[rows, columns])
        qa, qb, ea, eb = q[rows], q[columns], q_error[rows], q_error[columns]
        mean = _safe_sqrt(qa * qb)
        x = s / mean
        if not equal_lengths:
            x = x - (_safe_sqrt(qa) - _safe_sqrt(qb)) ** 2 / (2 * mean)
        x = jnp.clip(x, 0.0, 2.0)
        ratio = _safe_sqrt(qb / jnp.where(qa > 0, qa, 1.0))
        ratio = jnp.where(ratio > 0, ratio, 1.0)
        x_error = (
            s_error + jnp.abs(1 - (1 - x) * ratio) * ea / 2 + jnp.abs(1 - (1 - x) / ratio) * eb / 2
        ) / mean
        pair, pair_error = jax.vmap(
            lambda a, b, x: pair_moments(
                activation, a, b, x, order=order, equal_lengths=equal_lengths
            )
        )(qa, qb, x)
        moved = mean * jnp.abs(pair.slope) * x_error
        p_error = (
            pair_error.product
            + moved
            + jnp.abs(pair.product_rate_a) * ea
            + jnp.abs(pair.product_rate_b) * eb
        )
        d_error = (
            pair_error.distance
            + moved
            + jnp.abs(pair.distance_rate_a) * ea
            + jnp.abs(pair.distance_rate_b) * eb
        )

        def put(matrix, entries):
            return matrix.at[rows, columns].set(entries).at[columns, rows].set(entries)

        product, product_error = put(product, pair.product), put(product_error, p_error)
        slope, slope_error = put(slope, pair.slope), put(slope_error, pair_error.slope)
        gap, gap_error = put(gap, pair.distance), put(gap_error, d_error)

    second, second_error = unflat(product), unflat(product_error)
    separation, separation_error = unflat(gap), unflat(gap_error)
    if k > 1:
        # Between components i ≠ j: E (φ(u_i) − φ(v_i))(φ(u_j) − φ(v_j)) / 2.
        off = ~jnp.eye(k, dtype=bool)
        plain = given_moments(second).separation
        separation = jnp.where(off, plain, separation)
        spread = jnp.einsum("aaij->aij", second_error)
        spread = (spread[:, None] + spread[None]) / 2 + second_error
        separation_error = jnp.where(off, spread, separation_error)

    # Tangents: t_i ↦ φ'(u_i) t_i, so E t tᵀ is multiplied by E φ'(u_i) φ'(u_j) of one input.
    gain = jnp.einsum("aaij->aij", unflat(slope))
    gain_error = jnp.einsum("aaij->aij", unflat(slope_error))
    old, old_error = state.value, state.error
    value = Moments(second, separation, gain * old.tangent, old.log_gain)
    error = Moments(
        second_error,
        separation_error,
        gain * old_error.tangent + gain_error * jnp.abs(old.tangent),
        old_error.log_gain,
    )
    return PostActivation(value, _rounded(value, error), own.mean.reshape(n, k))


def _safe_sqrt(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """√x with a finite derivative at 0, where its value is floored."""
    tiny = jnp.finfo(x.dtype).tiny
    return jnp.sqrt(jnp.maximum(x, tiny))


def input_state(inputs: Float[Array, "n width k"]) -> PostActivation:
    """The state of given inputs, shape [inputs, width, components]."""
    value = signal_moments(inputs)
    return PostActivation(value, _zero_error(value), jnp.mean(inputs, axis=1))


def gaussian_state(moments: Moments) -> PreActivation:
    """Pre-activations with given moments."""
    return PreActivation(moments, _zero_error(moments))


def _zero_error(value: Moments) -> Moments:
    return jax.tree.map(jnp.zeros_like, value)


def propagate(
    network: Part, inputs: Float[Array, "n width k"] | Moments, *, order: int = 64
) -> PreActivation:
    """Mean-field moments of n inputs at every layer of a network.

    Parameters
    ----------
    network
        The description.
    inputs
        The inputs themselves, or moments over their units (`given_moments`).
    order
        Nodes per panel of the quadrature; 64 reaches 1e-10 for lengths up to 1e6.

    Returns
    -------
    PreActivation
        `value` and `error`, each a `Moments` with a leading axis over depth: one entry
        behind every `Affine` and every residual sum, pre-activations all.

    Accuracy
    --------
    `error` is a first-order bound: quadrature and rounding of each layer, carried on by the
    map's own derivatives. In a chaotic network the error of a correlation therefore grows
    until it has reached its fixed point.

    References
    ----------
    Poole et al. 2016, eqs. 3-5; Schoenholz et al. 2017, eqs. 2-6.
    """
    if isinstance(inputs, Moments):
        n, k = inputs.tangent.shape[:2]
        state = PostActivation(
            inputs, _zero_error(inputs), jnp.zeros((n, k), inputs.covariance.dtype)
        )
    else:
        state = input_state(inputs)
    _, notes = interpret(network, MeanField(order), state)
    return along_depth(notes)
