"""Dynamic mean-field theory in discrete time: the moments of a recurrent network at two times.

Notation: u_t are the drives, z_t = u_t + body(z_{t−1}) the states. At infinite width they are
jointly Gaussian over times and sequences, and body(z_{t−1}) is independent of all drives. So the
moments of (z_t, z_s) follow from those of (z_{t−1}, z_{s−1}) and of (u_t, u_s) alone: different
time lags do not mix.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from theory.description import check_sequences
from theory.mean_field._moments import Moments, PreActivation, check_moments
from theory.numerics import Array, check_count


def states_of_all_times(
    one_step: Callable, boundary: Callable, drives: PreActivation, steps: int
) -> PreActivation:
    """Compute the moments of all states from those of all drives, sequence by sequence.

    Parameters
    ----------
    one_step
        Maps the moments of some states, and of their drives one step later, to the moments of
        the states one step later.
    boundary
        Ends a step.
    drives
        Moments of sequences · steps inputs.

    References
    ----------
    Sompolinsky, Crisanti and Sommers 1988; Molgedey, Schuchhardt and Schuster 1992
    (discrete time).
    """
    inputs = drives.value.log_gain.shape[0]
    sequences = check_sequences(inputs, steps)

    def run(first: PreActivation, at: Array, lag: Any) -> PreActivation:
        def advance(state, now):
            drive, state = _on_one_scale(_some(drives, now), state)
            return boundary(one_step(state, drive))

        def step(state, when):
            now, t = when
            # Later steps lie beyond the end of the sequence.
            state = jax.lax.cond(t < steps - lag, advance, lambda state, _: state, state, now)
            return state, state

        first = boundary(first)
        rest = jax.lax.scan(step, first, (at[1:], jnp.arange(1, steps)))[1]
        return jax.tree.map(lambda x, y: jnp.concatenate([x[None], y]), first, rest)

    times = np.arange(inputs).reshape(sequences, steps)
    alone = jax.lax.map(lambda at: run(_some(drives, at[0]), at, 0), times[:, :, None])

    # A pair of sequences a, b starts at step 1 of a, and `lag` steps later in b.
    pairs = [
        (a, b, lag) for lag in range(steps) for a in range(sequences) for b in range(sequences)
    ]
    pairs = np.array([(a, b, lag) for a, b, lag in pairs if lag or a < b]).reshape(-1, 3)
    found = jax.tree.map(lambda x: jnp.zeros((inputs,) + x.shape[1:], x.dtype), drives)
    merged = _on_diagonal(found, alone, inputs)
    if len(pairs) == 0:
        return merged
    later = np.minimum(np.arange(steps)[None] + pairs[:, 2:], steps - 1)
    at = np.stack([times[pairs[:, 0]], times[pairs[:, 1][:, None], later]], axis=-1)

    def one(where):
        at, b, lag = where
        own = jax.tree.map(lambda x: x[b, lag], alone)
        return run(_joined(_some(drives, at[0]), own), at, lag)

    both = jax.lax.map(one, (at, pairs[:, 1], pairs[:, 2]))
    inside = np.arange(steps)[None] < steps - pairs[:, 2:]
    rows, columns = (at[..., i][inside] for i in range(2))

    def fill(matrix, pair):
        pair = pair[inside]
        matrix = matrix.at[rows, columns].set(pair[:, 0, 1])
        return matrix.at[columns, rows].set(pair[:, 1, 0])

    return jax.tree.map(lambda m, p: fill(m, p) if p.ndim > 3 else m, merged, both)


def _some(state: PreActivation, at: Any) -> PreActivation:
    """The moments of some of the inputs."""
    return jax.tree.map(lambda x: x[at] if x.ndim == 1 else x[at][:, at], state)


def _on_diagonal(found: PreActivation, alone: PreActivation, inputs: int) -> PreActivation:
    each = np.arange(inputs)

    def put(matrix, own):
        own = own.reshape(inputs, *own.shape[2:])
        return own[:, 0] if matrix.ndim == 1 else matrix.at[each, each].set(own[:, 0, 0])

    return jax.tree.map(put, found, alone)


def _scaled(moments: Moments, log_gain: Float[Array, " m"]) -> Moments:
    """Change the scale of tangents; a zero tangent has any scale."""
    shift = jnp.minimum((moments.log_gain - log_gain) / 2, 100.0)
    factor = jnp.exp(shift[:, None] + shift[None])[..., None, None]
    return Moments(moments.covariance, moments.separation, moments.tangent * factor, log_gain)


def _on_one_scale(
    drive: PreActivation, state: PreActivation
) -> tuple[PreActivation, PreActivation]:
    moves = jnp.any(jnp.einsum("aaij->aij", drive.value.tangent) != 0, axis=(1, 2))
    own, other = drive.value.log_gain, state.value.log_gain
    common = jnp.where(moves, jnp.maximum(own, other), other)

    def moved(of: PreActivation) -> PreActivation:
        # Errors are on the scale of their values.
        error = eqx.tree_at(lambda m: m.log_gain, of.error, of.value.log_gain)
        error = eqx.tree_at(lambda m: m.log_gain, _scaled(error, common), of.error.log_gain)
        return PreActivation(_scaled(of.value, common), error)

    return moved(drive), moved(state)


def _joined(drives: PreActivation, own: PreActivation) -> PreActivation:
    """u_1 of one sequence and z of another: z is u plus something independent."""
    _, drives = _on_one_scale(drives, drives)
    scale = jnp.stack([drives.value.log_gain[0], own.value.log_gain[0]])
    error = eqx.tree_at(lambda m: m.log_gain, drives.error, drives.value.log_gain)
    error = eqx.tree_at(lambda m: m.log_gain, _scaled(error, scale), drives.error.log_gain)
    at_scale = PreActivation(_scaled(drives.value, scale), error)

    def join(part: Moments, single: Moments) -> Moments:
        added = (single.covariance[0, 0] - part.covariance[1, 1]) / 2
        return Moments(
            part.covariance.at[1, 1].set(single.covariance[0, 0]),
            part.separation.at[0, 1].add(added).at[1, 0].add(added).at[1, 1].set(0),
            part.tangent.at[1, 1].set(single.tangent[0, 0]),
            part.log_gain.at[1].set(single.log_gain[0]),
        )

    return PreActivation(join(at_scale.value, own.value), join(at_scale.error, own.error))


def autocorrelation(
    moments: Moments, steps: int
) -> Float[Array, "*batch sequences sequences steps steps"]:
    """The autocorrelation C_ab(t, s) = E z_at·z_bs/k of whole sequences.

    Parameters
    ----------
    moments
        Moments of the states of all sequences at all steps, as from `propagate`.
    steps
        Number of steps of a sequence.
    """
    check_moments(moments)
    check_count("steps", steps)
    c = jnp.trace(moments.covariance, axis1=-2, axis2=-1) / moments.covariance.shape[-1]
    n = check_sequences(c.shape[-1], steps)
    return jnp.swapaxes(c.reshape(*c.shape[:-2], n, steps, n, steps), -3, -2)


def step_growth(moments: Moments, steps: int) -> Float[Array, "*batch steps_less_one sequences"]:
    """The factor per step of the squared tangent of every sequence.

    Convention: only the first input of a sequence is perturbed. The factor tends to
    χ = exp(2 λ), with λ the largest Lyapunov exponent.

    Parameters
    ----------
    moments, steps
        As in `autocorrelation`.
    """
    check_moments(moments)
    check_count("steps", steps)
    size = jnp.einsum("...aaii->...a", moments.tangent) / moments.tangent.shape[-1]
    log = moments.log_gain + jnp.log(size)
    n = check_sequences(log.shape[-1], steps)
    log = jnp.swapaxes(log.reshape(*log.shape[:-1], n, steps), -1, -2)
    return jnp.exp(log[..., 1:, :] - log[..., :-1, :])


def first_input_alone(moments: Moments, steps: int) -> Moments:
    """The moments with tangents that start at the first step of every sequence and no other."""
    inputs = moments.log_gain.shape[0]
    check_sequences(inputs, steps)
    first = (np.arange(inputs) % steps == 0).astype(moments.tangent.dtype)
    both = (first[:, None] * first[None])[..., None, None]
    return eqx.tree_at(lambda m: m.tangent, moments, moments.tangent * both)
