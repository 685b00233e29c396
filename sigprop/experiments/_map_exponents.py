"""Lyapunov exponents of the map that a recurrent network iterates under constant input."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sigprop.jacobians import alignment, block_averages
from sigprop.networks import qr


class MapExponents(eqx.Module):
    """The leading exponents of a map along one trajectory."""

    values: Float[Array, " count"]
    """Natural logarithm of the growth per step; descending within standard errors."""
    standard_error: Float[Array, " count"]
    """From the means over blocks of steps."""
    alignment: Float[Array, " count"]
    """1 for exponents that the symmetry protects, else 0: see `sigprop.jacobians.Exponents`."""
    length: Float[Array, ""]
    """Root mean square of the last state. If it is zero to rounding no symmetry is broken, and the
    exponents are those of the symmetric state, without protection."""


def map_exponents(
    step: Callable[[Float[Array, "width k"]], Float[Array, "width k"]],
    state: Float[Array, "width k"],
    generators: Float[Array, "generators k k"],
    *,
    count: int,
    discard: int = 200,
    steps: int = 1000,
) -> MapExponents:
    """Iterate a map from a state and follow a frame of `count` tangents.

    Parameters
    ----------
    step
        The map, state ↦ state.
    state
        Where the trajectory starts; its dtype is that of the calculation.
    generators
        Generators of a possible symmetry: which exponents it protects is measured, not assumed.
    count
        Number of leading exponents, at most width · k.
    discard, steps
        Number of steps for the trajectory and the frame to settle, and to average over.

    Accuracy
    --------
    Neighbours closer than 1/steps are not separated. A protected exponent is
    log(|A z_end|/|A z_start|)/steps: zero up to O(1/steps) on any bounded trajectory that stays
    away from zero.

    References
    ----------
    Benettin et al. 1980 (the frame).
    """
    size = state.size
    flat = lambda z: step(z.reshape(state.shape)).reshape(-1)
    frame = qr(jax.random.normal(jax.random.key(0), (size, count), state.dtype))[0]

    def advance(carry, _):
        z, frame = carry
        after, push = jax.linearize(flat, z)
        frame, r = qr(jax.vmap(push, 1, 1)(frame))
        return (after, frame), jnp.log(jnp.abs(jnp.diagonal(r)))

    start = (state.reshape(-1), frame)
    (last, frame), logs = jax.lax.scan(advance, start, length=discard + steps)
    total = jnp.concatenate([jnp.zeros((1, count), state.dtype), jnp.cumsum(logs, axis=0)])
    values, error = block_averages(total, discard)
    a = jnp.asarray(generators, state.dtype).reshape(-1, state.shape[1], state.shape[1])
    moved = jnp.einsum("gij,uj->uig", a, last.reshape(state.shape), precision="highest")
    directions = moved.reshape(size, len(a))
    norms = jnp.linalg.norm(directions, axis=0)
    protected = alignment(frame, directions / jnp.where(norms > 0, norms, 1)[None])
    return MapExponents(values, error, protected, jnp.sqrt(jnp.mean(last**2)))
