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
from theory.numerics import check_count, check_flag


def affine(
    weight_variance: Any,
    bias_variance: Any = 0.0,
    *,
    weights: Weights = "gaussian",
    components: int = 1,
    algebra: AlgebraName = "real",
    width: int | None = None,
) -> Affine:
    """An affine layer from its variances.

    Parameters
    ----------
    weight_variance, bias_variance
        σ_w² and σ_b², finite and >= 0; scalars, or one value per layer inside a `Repeat`.
    weights
        "gaussian", "orthogonal" (Haar), "sparse:DENSITY", or the law itself, as
        `SparseWeights(0.1)`.
    components
        Real components k of a unit.
    algebra
        "real", "complex", "quaternion" or "dense": see `WeightLaw`.
    width
        Number of output units, where it is part of the description.

    Raises
    ------
    ValueError
        Names the field and its allowed range.
    """
    law = WeightLaw(weight_variance, weights, components, algebra)
    return Affine(law, bias_variance, width)


def repeat(body: Part, depth: int) -> Repeat:
    """`depth` layers with the law of `body`; each layer draws its own weights."""
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
    """One layer of a deep network, from pre-activations to pre-activations.

    z ↦ W φ(z) + b, or z ↦ z + W φ(z) + b if `residual`.

    Raises
    ------
    ValueError
        If a variance or the number of components is not possible.
    TypeError
        If units of several components have an activation that is not radial.
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
    """The canonical deep network: one affine layer, then `depth` layers of affine ∘ φ.

    Convention: pre-activations stand at every boundary, which is where the length q is
    measured: z_0 = W_0 x + b_0 and z_{l+1} = [z_l +] W φ(z_l) + b. W_0 is Gaussian where `weights`
    are sparse, so that z_0 is, whatever the width of the inputs.
    """
    how: dict[str, Any] = {"weights": weights, "components": components, "algebra": algebra}
    first = read_in(affine(weight_variance, bias_variance, **how))
    body = layer(activation, weight_variance, bias_variance, residual=residual, **how)
    return Chain((first, repeat(body, depth)))


def read_in(hidden: Affine) -> Affine:
    """The same for inputs: with Gaussian weights where rotations change its law."""
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
    """The canonical recurrent network: z_1 = U x_1 and z_t = W φ(z_{t−1}) + b + U x_t.

    W, U and b are drawn once and shared over time: the biases are a constant drive. Noise that
    is fresh at every step is an input. Inputs are sequences of `steps`, one after the other.

    Parameters
    ----------
    activation, weight_variance, bias_variance, weights, components, algebra
        φ, σ_w² and σ_b² of W and b, as in `layer`.
    steps
        How many states, z_1 … z_T.
    input_variance
        σ_u² of the read-in U, Gaussian: E u² is σ_u² times the length of the input.

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
    return Chain((affine(input_variance, **how), Recurrent(body, steps)))
