"""Alignment of layers as measured by a study, inside its compiled program."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sigprop.alignment import frobenius_cosines, leading_vectors, neighbours
from sigprop.experiments._classifier import cross_entropy
from sigprop.experiments._diagnostics import rotations
from sigprop.jacobians import certify
from sigprop.networks import singular_values

_CERTIFIED = 2
FRAME = 4
"""Number of vectors in a frame, or half of the space if that is less."""


def alignments(weights: Float[Array, "layers m n"]) -> dict[str, Array]:
    """Alignments of neighbouring layers, and effective ranks.

    `right`, `left`, `right_frame` and `left_frame` have shape [L − 1]; they are NaN if a layer has
    no leading direction or no leading frame. `effective_rank` has shape [L].
    """
    m, n = weights.shape[1:]
    rank = max(1, min(FRAME, m // 2, n // 2))
    found = leading_vectors(weights, rank)
    near = lambda x: jnp.maximum(x[1:], x[:-1])
    error, frame_error = near(found.error), near(found.frame_error)  # NaN if there is none
    result = {}
    for side in ("right", "left"):
        vectors = getattr(found, side)
        inner = jnp.einsum("ldr,lds->lrs", vectors[1:], vectors[:-1], precision="highest")
        result[side] = jnp.where(jnp.isnan(error), jnp.nan, jnp.abs(inner[:, 0, 0]))
        overlap = jnp.sum(inner**2, axis=(1, 2)) / rank
        result[f"{side}_frame"] = jnp.where(jnp.isnan(frame_error), jnp.nan, overlap)
    square = jax.vmap(singular_values)(weights) ** 2
    total = jnp.sum(square, axis=1, keepdims=True)
    share = square / jnp.where(total > 0, total, 1)
    result["effective_rank"] = jnp.exp(jnp.sum(jax.scipy.special.entr(share), axis=1))
    return result


def continuity_of(model, parameters, initial, x, labels) -> dict[str, tuple[Array, tuple]]:
    """Quantities of the weights W, of their change ΔW during training, and of the gradients."""
    weights = model.layer_weights(parameters)
    change = _beyond_rounding(weights - model.layer_weights(initial), weights)
    found: dict[str, tuple[Any, tuple]] = {}
    for name, matrices in (("", weights), ("update_", change)):
        for quantity, values in alignments(matrices).items():
            axis = "layer" if quantity == "effective_rank" else "pair"
            found[f"{name}{quantity}"] = values, (axis,)
    found["update_cosine"] = neighbours(frobenius_cosines(change)).value, ("pair",)

    def loss(parameters):
        return jnp.mean(cross_entropy(model.logits(parameters, x), labels))

    gradient = model.layer_weights(jax.grad(loss)(parameters))
    found["gradient_cosine"] = neighbours(frobenius_cosines(gradient)).value, ("pair",)
    vectors = leading_vectors(weights)
    found["right_vector"] = vectors.right[..., 0], ("layer", "entry")
    found["left_vector"] = vectors.left[..., 0], ("layer", "entry")
    inputs = jnp.mean(model.layer_inputs(parameters, x), axis=2)
    size = jnp.linalg.norm(inputs, axis=1)
    along = jnp.sum(inputs * vectors.right[..., 0], axis=1)
    found["right_on_mean_input"] = jnp.abs(along) / jnp.where(size > 0, size, 1), ("layer",)
    if model.shared:
        found |= _certificate(model, parameters, x[:_CERTIFIED])
    return found


def _beyond_rounding(change: Array, weights: Array) -> Array:
    """The change, or zero if rounding of the redrawn initial weights could explain it."""
    size = lambda x: jnp.sqrt(jnp.sum(x * x, axis=(1, 2), keepdims=True))
    floor = 8 * jnp.finfo(weights.dtype).eps * size(weights)
    return jnp.where(size(change) <= floor, 0, change)


def _certificate(model, parameters, x) -> dict[str, tuple[Array, tuple]]:
    """The Goldstone identity of the layers in float64, and the rounding that it may claim."""
    exact = jnp.result_type(float)
    parameters = jax.tree.map(lambda leaf: leaf.astype(exact), parameters)
    into = model.states(parameters, x.astype(exact))[1][0]
    z = jnp.moveaxis(into.reshape(-1, model.components, len(x)), -1, 0)
    generators = rotations(model.components)
    inside = lambda z: model.inside(parameters, z)
    proved = jax.lax.map(lambda z: certify(inside, z[None], generators), z)
    axes = ("input", "generator")
    return {
        "certificate_residual": (proved.residual, axes),
        "certificate_claim": (proved.claim, axes),
        "certificate_broken": (proved.broken, ("input",)),
    }
