"""Singular values of the Jacobians of one or many finite networks.

Layers are streamed through factors.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from sigprop.jacobians._graded import Graded, finish, generic_frame, start, step
from sigprop.networks import (
    Along,
    FiniteNetwork,
    Signals,
    check_key,
    check_precision,
    check_seed,
    in_blocks,
    sampled_inputs,
    subnormal,
    underflown_slopes,
)
from theory import Affine, Part, Pointwise, Status
from theory.description import Componentwise, check_part, interpret
from theory.numerics import (
    Report,
    as_signals,
    cast,
    check_count,
    check_positive,
    compiled,
    light_options,
    one_program,
    plain_options,
)


class JacobianSample(eqx.Module):
    """Singular values of the input-output Jacobian of one network.

    With a leading axis, of many networks.
    """

    log_singular_values: Float[Array, "*batch values"]
    """Natural logarithms, descending; −inf for zeros."""
    error: Float[Array, "*batch"]
    """The largest absolute error, over the finite values, that rounding explains."""
    zeros: Int[Array, "*batch"]
    """Number of zeros to working precision: the atom at zero, times the number of values."""
    status: Int[Array, "*batch"]
    """One `Status` for all; see `product_log_singular_values`."""


class _Columns(Signals):
    """The tangents are the frame, propagated through everything since the last factorisation."""

    graded: Graded = eqx.field(kw_only=True)
    clean: Bool[Array | np.ndarray, ""] = eqx.field(kw_only=True)
    """Nothing has been applied since then; a NumPy array if that is known when tracing."""
    underflown: Bool[Array, ""] = eqx.field(kw_only=True)
    """A slope underflowed, so that apparent zeros may be none."""


class _Streaming(Along[_Columns]):
    """A finite network whose Jacobian is factorised after every nonlinearity and every sum.

    A saturated or dead nonlinearity makes the rows of a product very different in size. The
    weights that follow would mix and lose them, so an orthonormal frame is inserted. Inside a
    residual branch nothing is factorised: the sum is one factor.
    """

    def behind(self, state: _Columns) -> _Columns:
        return dataclasses.replace(state, clean=jnp.zeros((), bool))

    def affine(self, node: Affine, state: _Columns):
        if self.network.in_branch:
            return super().affine(node, state)
        state, _ = super().affine(node, _factorised(state))
        # A layer of another width needs a frame of another shape; a narrower one leaves fewer
        # directions.
        changed = len(_matrix(state)) != len(state.graded.frame)
        return _factorised(state) if changed else state, None

    def pointwise(self, node: Pointwise, state: _Columns):
        phi, z, before = node.activation, state.values, state.tangents
        state, _ = super().pointwise(node, state)
        if self.network.in_branch:  # absolute accuracy is enough next to a skip connection
            return state, None
        underflown = state.underflown | underflown_slopes(phi, z)[0]
        state = dataclasses.replace(state, underflown=underflown)
        if isinstance(phi, Componentwise) or z.shape[2] == 1:
            return state, None
        # In components along z and perpendicular to it the matrix is diagonal. In other components
        # small gains along z would be lost in differences of the large perpendicular ones.
        along, across = phi.gains_at(z)
        gains = jnp.concatenate([along, jnp.broadcast_to(across, z[..., 1:].shape)], axis=-1)
        tangents = gains[..., None] * _reflected(z, before)
        state = _factorised(state.moved(state.values, tangents))
        return state.moved(state.values, _reflected(z, state.tangents)), None

    def add(self, skip: _Columns, branch: _Columns):
        state, _ = super().add(skip, branch)
        return state if self.network.in_branch else _factorised(state), None

    def through_time(self, step, state, steps: int):
        raise TypeError("`network`: singular values are for a chain of layers, not for a Recurrent")


def _reflected(
    z: Float[Array, "n width k"], tangents: Float[Array, "n width k m"]
) -> Float[Array, "n width k m"]:
    """Reflect the tangents of every unit to the basis in which z is an axis, or back."""
    first = z[..., :1]
    length = jnp.linalg.norm(z, axis=-1, keepdims=True)
    unit = jnp.where(length > 0, z / jnp.where(length > 0, length, 1), 0)
    sign = jnp.where(first < 0, -jnp.ones_like(first), 1)
    v = jnp.concatenate([jnp.where(length > 0, unit[..., :1], sign) + sign, unit[..., 1:]], axis=-1)
    share = jnp.sum(v[..., None] * tangents, axis=-2) / jnp.abs(v[..., :1])
    return tangents - v[..., None] * share[..., None, :]


def _matrix(signals: Signals) -> Float[Array, "rows p"]:
    return signals.tangents.reshape(-1, signals.tangents.shape[-1])


def _factorised(state: _Columns) -> _Columns:
    """The same Jacobian, with the tangents re-orthonormalised."""

    def work(state: _Columns) -> _Columns:
        graded = step(state.graded, _matrix(state))
        tangents = graded.frame.reshape(*state.tangents.shape[:3], -1)
        return dataclasses.replace(
            state, tangents=tangents, graded=graded, clean=jnp.ones((), bool)
        )

    if len(_matrix(state)) != len(state.graded.frame):
        return work(state)
    if isinstance(state.clean, np.ndarray):
        return state
    return jax.lax.cond(state.clean, lambda state: state, work, state)


def sample_jacobian(
    network: Part,
    inputs: Float[Array, "1 width_in k"],
    *,
    key: Key[Array, ""],
    width: int,
    precision: str = "highest",
    tolerance: float = 1e-9,
) -> JacobianSample:
    """Singular values of J = ∂z_L/∂x of one finite network at one input.

    Parameters
    ----------
    network
        The description.
    inputs
        One input; its dtype is the precision of the run.
    key, width, precision
        As in `sample_network`.
    tolerance
        The status is INACCURATE if `error` is larger.

    Convention
    ----------
    There are min(width_in · k, width_out · k) values, with k the components of a unit.

    Accuracy
    --------
    Full relative accuracy for every value, however deep the network: see
    `product_log_singular_values`. `error` refers to the product of the layers as the run computed
    them. A chaotic network also amplifies the rounding of its signals, which makes it another
    network of the same law.

    Raises
    ------
    ValueError
        If there is more than one input.
    """
    check_part("network", network)
    check_key("key", key)
    check_count("width", width)
    check_precision(precision)
    check_positive("tolerance", tolerance)
    inputs = sampled_inputs(inputs)
    network = cast(network, inputs.dtype)
    if len(inputs) != 1:
        raise ValueError(f"`inputs`: must be one, for the Jacobian at it; got {len(inputs)}")
    return _sampled(network, inputs, key, width, precision, tolerance)


@one_program(plain_options)
def _sampled(network, inputs, key, width, precision, tolerance) -> JacobianSample:
    _, width_in, k = inputs.shape
    size = width_in * k
    graded = start(generic_frame(size, inputs.dtype))
    tangents = graded.frame.reshape(1, width_in, k, size)
    reading = FiniteNetwork(jax.random.fold_in(key, 0), width, None, precision)
    state = _Columns(
        inputs,
        tangents,
        jnp.zeros(1, inputs.dtype),
        subnormal(inputs),
        graded=graded,
        clean=np.ones((), bool),
        underflown=jnp.zeros((), bool),
    )
    final, _ = interpret(network, _Streaming(reading), state)
    rows = _matrix(final)
    values, error, zeros, status, _ = finish(final.graded, rows, tolerance)
    if final.lost is not None:  # digits of the signals, on which every slope depends
        known = (status != Status.OK) | ~final.lost[0]
        status = jnp.where(known, status, jnp.int8(Status.INACCURATE))
    doubted = final.underflown & (status != Status.INVALID)
    error = jnp.where(doubted, jnp.inf, error)
    status = jnp.where(doubted, jnp.int8(Status.INACCURATE), status)
    # Zeros due to a bottleneck inside.
    missing = min(size, len(rows)) - len(values)
    values = jnp.concatenate([values, jnp.full(missing, -jnp.inf, values.dtype)])
    return JacobianSample(values, error, zeros + missing, status)


def _jacobian_block(network, inputs, key, indices, width, precision):
    def one(index):
        key_ = jax.random.fold_in(key, index)
        x = inputs if inputs.ndim == 3 else inputs[index]
        return sample_jacobian(network, x, key=key_, width=width, precision=precision)

    return jax.lax.map(one, indices)


def sample_jacobians(
    network: Part,
    inputs: Float[Array, "*networks 1 width_in k"],
    *,
    width: int,
    replicas: int,
    seed: int = 0,
    precision: str = "highest",
    progress: Report | None = None,
) -> JacobianSample:
    """Log singular values of the input-output Jacobians of `replicas` networks.

    Parameters
    ----------
    network, width, replicas, seed, precision, progress
        As in `sample_ensemble`.
    inputs
        One input for all networks, or with a leading axis one for each.

    Returns
    -------
    JacobianSample
        With a leading axis over replicas; see `sample_jacobian`.
    """
    check_part("network", network)
    check_count("width", width)
    check_count("replicas", replicas)
    check_seed(seed)
    check_precision(precision)
    key = jax.random.fold_in(jax.random.key(seed), width)
    inputs = as_signals("inputs", inputs)
    if inputs.ndim not in (3, 4) or inputs.shape[-3] != 1 or 0 in inputs.shape:
        raise ValueError(
            "`inputs`: must have the shape [1, width_in, components], or one axis more over "
            f"networks, for a Jacobian at one input; got {list(inputs.shape)}"
        )
    if inputs.ndim == 4 and len(inputs) != replicas:
        raise ValueError(
            f"`inputs`: must be one input, or one for each of {replicas} networks; "
            f"got {len(inputs)}"
        )
    network = cast(network, inputs.dtype)
    sample = compiled(_jacobian_block, light_options)
    return in_blocks(
        lambda indices: sample(network, inputs, key, indices, width, precision),
        replicas,
        1,
        progress,
    )
