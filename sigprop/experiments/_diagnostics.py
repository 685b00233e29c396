"""The effect of training on the signals and gradients of a classifier."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sigprop.experiments._classifier import Classifier, cross_entropy
from sigprop.experiments._recurrent import SequenceClassifier
from theory.numerics import as_array, check_count, check_kind

_MOST_COMPONENTS = 256


class Diagnostics(eqx.Module):
    """Diagnostics of one network at n inputs, after each layer of its `Repeat`."""

    order_parameter: Float[Array, ""]
    """Mean over units and inputs of |h| in the last hidden state, which is E g(r) for a
    radial activation. (Divided by √k it would be per real component.)"""
    similarity: Float[Array, " layers"]
    """Mean cosine of the states of two different inputs."""
    spread: Float[Array, " layers"]
    """Standard deviation over inputs, divided by the root mean square of the state."""
    log_gradient: Float[Array, " layers"]
    """log of the mean over inputs of |∂loss/∂z_l|, for the loss of one input."""
    charge: Float[Array, " generators"]
    """Root mean square over inputs of Q_A = Σ_units ⟨∂loss/∂z, A z⟩ after the last layer."""
    charge_drift: Float[Array, " generators"]
    """Largest change of Q_A over depth, divided by the largest |∂loss/∂z_l| |A z_l|, over inputs:
    rounding for an equivariant network."""


def diagnose(
    classifier: Classifier | SequenceClassifier,
    parameters: dict[str, Any],
    x: Float[Array, "n numbers"],
    labels: Int[Array, "n *answers"],
    generators: Float[Any, "generators k k"],
) -> Diagnostics:
    """Measure the states and gradients of a network on a batch of inputs.

    Parameters
    ----------
    classifier, parameters
        The model, and its parameters.
    x, labels
        The inputs and their labels.
    generators
        Antisymmetric matrices, such as `rotations`, whose charges are measured.
    """
    kinds = (Classifier, SequenceClassifier)
    check_kind("classifier", classifier, kinds, "a Classifier or a SequenceClassifier")
    check_kind("parameters", parameters, dict, "those that the classifier draws")
    x = as_array("x", x, "[inputs, numbers]")
    a = as_array("generators", generators, "[generators, k, k]") if np.size(generators) else None
    n, k = len(x), classifier.components
    if a is not None and a.shape[1:] != (k, k):
        raise ValueError(f"`generators`: must be {k}x{k} matrices; got shape {list(a.shape)}")
    last, kept = classifier.hidden(parameters, x, keep=True)
    assert kept is not None
    states = kept[1:]  # the first affine map comes before the layers

    def loss(probes):
        hidden, _ = classifier.hidden(parameters, x, probes)
        return jnp.sum(cross_entropy(classifier.read_out(parameters, hidden), labels))

    gradients = jax.grad(loss)(jnp.zeros_like(states))
    sizes = jnp.sqrt(jnp.sum(gradients**2, axis=(2, 3)))
    flat = states.reshape(len(states), n, -1)
    norms = jnp.linalg.norm(flat, axis=2, keepdims=True)
    unit = flat / jnp.where(norms > 0, norms, 1)
    # The mean over pairs of different inputs, from the square of the sum of unit vectors.
    total = jnp.sum(jnp.sum(unit, axis=1) ** 2, axis=1)
    similarity = (total - n) / (n * (n - 1))
    deviation = jnp.sqrt(jnp.mean(jnp.var(flat, axis=1), axis=1))
    spread = deviation / jnp.sqrt(jnp.mean(flat**2, axis=(1, 2)))
    a = jnp.asarray(generators, x.dtype).reshape(-1, k, k)
    turned = jnp.einsum("apq,lnuq->lanup", a, states, precision="highest")
    charges = jnp.einsum("lnup,lanup->lan", gradients, turned, precision="highest")
    bound = sizes[:, None] * jnp.sqrt(jnp.sum(turned**2, axis=(3, 4)))
    drift = jnp.max(jnp.abs(charges - charges[-1:]), axis=0) / jnp.max(bound, axis=0)
    return Diagnostics(
        jnp.mean(jnp.sqrt(jnp.sum(last**2, axis=-1))),
        similarity,
        spread,
        jnp.log(jnp.mean(sizes, axis=1)),
        jnp.sqrt(jnp.mean(charges[-1] ** 2, axis=1)),
        jnp.max(drift, axis=1),
    )


def rotations(components: int) -> Float[np.ndarray, "generators k k"]:
    """The ½k(k − 1) generators of SO(k); those of its subgroups are combinations of them.

    Parameters
    ----------
    components
        k.
    """
    check_count("components", components, 1, _MOST_COMPONENTS)
    rows, columns = np.triu_indices(components, 1)
    result = np.zeros((len(rows), components, components))
    result[np.arange(len(rows)), rows, columns] = -1
    result[np.arange(len(rows)), columns, rows] = 1
    return result
