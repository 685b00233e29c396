"""Rotations of the layers that leave a network unchanged, and the drift of weights along them.

Notation: W_l the weights of layers l = 1 … L of one width; R_l rotations, A_l antisymmetric.

Consider a chain h ↦ φ(W_l h) whose φ commutes with all rotations of a layer (linear, or a radial
function of the whole layer). It is the same function for the weights R_l W_l R_{l−1}ᵀ, if the maps
before and after it are rotated by R_0 and R_L: every layer has its own frame. With skip connections
h ↦ h + φ(W_l h) all R_l must be equal. If φ acts on single components, no rotation is left; if it
acts on units of k components, only those of the units.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from theory.numerics import as_array, check_count, check_word

Frames = Literal["each", "common"]


class Drift(NamedTuple):
    """A change of weights, decomposed."""

    along: Float[Array, ""]
    """The fraction of its squared norm that is a change of frames."""
    chance: Float[Array, ""]
    """The same fraction for a random change: the number of frame dimensions over that of
    weights."""
    error: Float[Array, ""]
    """The residual that the iteration left, relative to the change."""


def rotate_weights(
    weights: Float[Array, "layers n n"], rotations: Float[Array, "frames n n"]
) -> Float[Array, "layers n n"]:
    """R_l W_l R_{l−1}ᵀ from L + 1 rotations R_0 … R_L, or R W_l Rᵀ from one.

    Parameters
    ----------
    weights
        Square matrices W_1 … W_L.
    rotations
        One rotation, or L + 1.

    Raises
    ------
    ValueError
        If there is another number of rotations.
    """
    weights = as_array("weights", weights, "[layers, n, n]")
    rotations = as_array("rotations", rotations, "[frames, n, n]")
    layers = len(weights)
    if rotations.shape[1:] != 2 * weights.shape[1:2]:
        raise ValueError(
            f"`rotations`: must be matrices of the {weights.shape[1]} rows of the weights; got "
            f"shape {list(rotations.shape)}"
        )
    if len(rotations) not in (1, layers + 1):
        raise ValueError(f"`rotations`: must be 1 or {layers + 1}; got {len(rotations)}")
    every = jnp.broadcast_to(rotations, (layers + 1, *rotations.shape[1:]))
    rotated = jnp.matmul(every[1:], weights, precision="highest")
    return jnp.matmul(rotated, jnp.swapaxes(every[:-1], 1, 2), precision="highest")


def frame_drift(
    weights: Float[Array, "layers n n"],
    change: Float[Array, "layers n n"],
    frames: Frames = "each",
    *,
    steps: int = 200,
) -> Drift:
    """How much of a change of weights is a rotation of frames, A_l W_l − W_l A_{l−1}.

    The nearest such change is a linear least-squares problem for the A_l, solved with conjugate
    gradients on the normal equations. The gradient of a loss is orthogonal to every direction that
    leaves the function unchanged, so gradient flow contains none of it at any time. A finite
    change does, because of its step size, of an optimiser such as Adam that is not equivariant
    under rotations, or of the maps before and after the layers, which rotate too.

    Parameters
    ----------
    weights
        The weights before the change.
    change
        For example the step of an optimiser, or the difference of two checkpoints.
    frames
        "each": every layer has its own (chains); "common": all layers share one (residual
        networks).
    steps
        Number of iterations.
    """
    weights = as_array("weights", weights, "[layers, n, n]")
    change = as_array("change", change, "[layers, n, n]")
    for name, value in (("weights", weights), ("change", change)):
        if value.shape != (len(weights), *2 * weights.shape[1:2]):
            raise ValueError(
                f"`{name}`: must be square matrices, as many of one size as weights; got shape "
                f"{list(value.shape)}"
            )
    check_word("frames", frames, ("each", "common"))
    check_count("steps", steps)
    return _frame_drift(weights, change, frames, steps)


@functools.partial(jax.jit, static_argnames=("frames", "steps"))
def _frame_drift(weights: Array, change: Array, frames: Frames, steps: int) -> Drift:
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
