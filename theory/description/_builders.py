"""Builders of the usual networks."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from theory.description._activations import Activation, Radial
from theory.description._algebra import AlgebraName
from theory.description._nodes import (
    Affine,
    Chain,
    Part,
    Pointwise,
    Recurrent,
    Repeat,
    Residual,
    WeightLaw,
    check_activation,
    check_part,
)
from theory.description._weights import GaussianWeights, Weights
from theory.numerics import check_count, check_flag, renamed


def affine(
    weight_variance: Any,
    bias_variance: Any = 0.0,
    *,
    weights: Weights = "gaussian",
    components: int = 1,
    algebra: AlgebraName = "real",
    width: int | None = None,
) -> Affine:
    """Build an affine layer from its variances.

    Parameters
    ----------
    weight_variance, bias_variance
        σ_w² and σ_b², finite and >= 0; scalars, or one value per layer inside a `Repeat`.
    weights
        "gaussian", "orthogonal" (Haar) or "sparse:DENSITY"; or the law itself, such as
        `SparseWeights(0.1)`.
    components
        Real components k of a unit.
    algebra
        "real", "complex", "quaternion" or "dense": see `WeightLaw`.
    width
        Number of output units, if the description fixes it.

    Raises
    ------
    ValueError
        If an argument is out of range. The message names the argument and its allowed range.
    """
    with renamed(variance="weight_variance", family="weights"):
        law = WeightLaw(weight_variance, weights, components, algebra)
    return Affine(law, bias_variance, width)


def repeat(body: Part, depth: int) -> Repeat:
    """Repeat one layer `depth` times; each layer draws its own weights.

    Parameters
    ----------
    body
        The layer. All layers have the same law.
    depth
        Number of layers, at least 1.

    Raises
    ------
    ValueError, TypeError
        If `depth` is out of range, or `body` is not a description.
    """
    check_part("body", body)
    check_count("depth", depth)
    arrays, structure = eqx.partition(body, eqx.is_array)
    stacked = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (depth, *leaf.shape)), arrays)
    return Repeat(eqx.combine(stacked, structure), depth)


def layer(
    activation: Activation,
    weight_variance: Any,
    bias_variance: Any = 0.0,
    *,
    weights: Weights = "gaussian",
    components: int = 1,
    algebra: AlgebraName = "real",
    residual: bool = False,
) -> Part:
    """Build one layer of a deep network, from pre-activations to pre-activations.

    It is z ↦ W φ(z) + b, or z ↦ z + W φ(z) + b if `residual`.

    Parameters
    ----------
    activation
        φ, from `activation`, `componentwise` or `radial`.
    weight_variance, bias_variance, weights, components, algebra
        As in `affine`.
    residual
        Add a skip connection around the layer.

    Raises
    ------
    ValueError
        If a variance or the number of components is out of range.
    TypeError
        If units have several components and the activation is not radial.
    """
    check_activation(activation)
    check_flag("residual", residual)
    law = affine(
        weight_variance, bias_variance, weights=weights, components=components, algebra=algebra
    )
    if components > 1 and not isinstance(activation, Radial):
        raise TypeError(
            f"`activation`: units of {components} components need a radial one "
            f"(theory.radial); got {activation.name}"
        )
    body = Chain((Pointwise(activation), law))
    return Residual(body) if residual else body


def feedforward(
    activation: Activation,
    weight_variance: Any,
    bias_variance: Any = 0.0,
    *,
    depth: int,
    weights: Weights = "gaussian",
    components: int = 1,
    algebra: AlgebraName = "real",
    residual: bool = False,
) -> Chain:
    """Build the standard deep network: one affine layer, then `depth` layers of affine ∘ φ.

    Convention: every layer boundary carries pre-activations, and lengths q are measured there:
    z_0 = W_0 x + b_0 and z_{l+1} = [z_l +] W φ(z_l) + b. If `weights` are sparse, W_0 is still
    Gaussian, so that z_0 is Gaussian for inputs of any width.

    Parameters
    ----------
    activation, weight_variance, bias_variance, weights, components, algebra, residual
        As in `layer`.
    depth
        Number of layers after the first affine map, at least 1.

    Raises
    ------
    ValueError, TypeError
        As in `layer`, and if `depth` is below 1.
    """
    how: dict[str, Any] = {"weights": weights, "components": components, "algebra": algebra}
    first = read_in(affine(weight_variance, bias_variance, **how))
    body = layer(activation, weight_variance, bias_variance, residual=residual, **how)
    return Chain((first, repeat(body, depth)))


def read_in(hidden: Affine) -> Affine:
    """Return the affine map for inputs: Gaussian if rotations change the law of the weights."""
    law = hidden.weights
    if law.family.rotation_invariant:
        return hidden
    first = WeightLaw(law.variance, GaussianWeights(), law.components, law.algebra)
    return Affine(first, hidden.bias_variance, hidden.width)


def recurrent(
    activation: Activation,
    weight_variance: Any,
    bias_variance: Any = 0.0,
    *,
    steps: int,
    input_variance: Any = 1.0,
    weights: Weights = "gaussian",
    components: int = 1,
    algebra: AlgebraName = "real",
) -> Chain:
    """Build the standard recurrent network: z_1 = U x_1 and z_t = W φ(z_{t−1}) + b + U x_t.

    W, U and b are drawn once and shared over time, so the biases act as a constant drive. Model
    noise that is fresh at every step as an input. Inputs are sequences of `steps`, one after
    the other.

    Parameters
    ----------
    activation, weight_variance, bias_variance, weights, components, algebra
        φ, and σ_w² and σ_b² of W and b, as in `layer`.
    steps
        Number T of states z_1 … z_T.
    input_variance
        σ_u² of the Gaussian read-in U: E u² is σ_u² times the length of the input.

    Raises
    ------
    ValueError, TypeError
        As in `layer`, and if `steps` is below 1.

    References
    ----------
    Sompolinsky, Crisanti and Sommers 1988; in discrete time Molgedey, Schuchhardt and
    Schuster 1992.
    """
    how: dict[str, Any] = {"components": components, "algebra": algebra}
    body = layer(activation, weight_variance, bias_variance, weights=weights, **how)
    with renamed(weight_variance="input_variance"):
        first = affine(input_variance, **how)
    return Chain((first, Recurrent(body, steps)))
