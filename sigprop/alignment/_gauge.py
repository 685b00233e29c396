"""Rotations of the layers that leave a network as it is, and the drift of weights along them.

Notation: W_l the weights of layers l = 1 … L of one width; R_l rotations, A_l antisymmetric.

A chain h ↦ φ(W_l h) whose φ commutes with all rotations of a layer (linear, or a radial function
of the whole layer) is the same function for the weights R_l W_l R_{l−1}ᵀ, with the maps before
and behind it rotated by R_0 and R_L: every layer has a frame of its own. With skip connections
h ↦ h + φ(W_l h) all R_l must be one R. A φ that acts on single components leaves no rotation, and
one on units of k components those of the units.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Frames = Literal["each", "common"]


class Drift(NamedTuple):
    """A change of weights, taken apart."""

    along: Float[Array, ""]
    """The share of its squared norm that is a change of frames alone."""
    chance: Float[Array, ""]
    """What that is for a random change: the number of its dimensions over that of weights."""
    error: Float[Array, ""]
    """What the iteration left of the residual, relative to the change."""


def rotate_weights(
    weights: Float[Array, "layers n n"], rotations: Float[Array, "frames n n"]
) -> Float[Array, "layers n n"]:
    """R_l W_l R_{l−1}ᵀ from L + 1 rotations R_0 … R_L, or R W_l Rᵀ from one.

    Raises
    ------
    ValueError
        If there is another number of rotations.
    """
    layers = len(weights)
    if len(rotations) not in (1, layers + 1):
        raise ValueError(f"`rotations`: must be 1 or {layers + 1}; got {len(rotations)}")
    every = jnp.broadcast_to(rotations, (layers + 1, *rotations.shape[1:]))
    rotated = jnp.matmul(every[1:], weights, precision="highest")
    return jnp.matmul(rotated, jnp.swapaxes(every[:-1], 1, 2), precision="highest")


@functools.partial(jax.jit, static_argnames=("frames", "steps"))
def frame_drift(
    weights: Float[Array, "layers n n"],
    change: Float[Array, "layers n n"],
    frames: Frames = "each",
    *,
    steps: int = 200,
) -> Drift:
    """How much of a change of weights is a rotation of frames, A_l W_l − W_l A_{l−1}.

    The nearest such change is a linear least-squares problem for the A_l, solved with conjugate
    gradients on the normal equations. A gradient of a loss is orthogonal to every direction that
    leaves the function as it is, so that gradient flow has none of it at any time; what is found
    of a finite change comes from the size of its steps, from an optimiser such as Adam that is
    not equivariant under rotations, or from the maps before and behind, which rotate too.

    Parameters
    ----------
    weights
        Where the change begins.
    change
        For example the step of an optimiser, or the difference of two checkpoints.
    frames
        "each": every layer has its own (chains); "common": all the same (residual networks).
    steps
        Of the iteration.
    """
    layers, n = weights.shape[:2]
    count = 1 if frames == "common" else layers + 1
    times = lambda a, b: jnp.matmul(a, b, precision="highest")
    skew = lambda x: (x - jnp.swapaxes(x, 1, 2)) / 2

    def move(a):
        every = jnp.broadcast_to(a, (layers + 1, n, n))
        return times(every[1:], weights) - times(weights, every[:-1])

    def back(d):
        left = times(d, jnp.swapaxes(weights, 1, 2))
        right = -times(jnp.swapaxes(weights, 1, 2), d)
        nothing = jnp.zeros((1, n, n), d.dtype)
        summed = jnp.concatenate([nothing, left]) + jnp.concatenate([right, nothing])
        summed = jnp.sum(summed, axis=0, keepdims=True) if count == 1 else summed
        return skew(summed)

    wanted = back(change)
    found, _ = jax.scipy.sparse.linalg.cg(lambda a: back(move(a)), wanted, maxiter=steps, tol=1e-10)
    moved = move(found)
    square = lambda x: jnp.sum(x * x)
    whole = jnp.where(square(change) > 0, square(change), 1)
    left = jnp.sqrt(square(wanted - back(moved)) / jnp.where(square(wanted) > 0, square(wanted), 1))
    chance = jnp.asarray(count * n * (n - 1) / 2 / weights.size, weights.dtype)
    return Drift(square(moved) / whole, chance, left)
