"""One layer of a network at a fixed length, and the fixed point of its correlation map.

Notation: q length, λ = dq'/dq, χ slope, x = 1 − c, and r(x) = x'/x, the factor by which one layer
multiplies 1 − c.
"""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from theory.description import (
    Affine,
    Noise,
    Normalise,
    Part,
    Pointwise,
    Radial,
    Reading,
    check_layer,
    components,
    gain,
    interpret,
    is_linear,
)
from theory.gaussian import length_rate, square_rate
from theory.mean_field import MeanField, PreActivation, given_moments, length
from theory.numerics import Array, Estimate, compiled, traced, xp

SHORTEST = 1e-30
"""The shortest length at which a layer is evaluated; it represents 0."""


class LayerMap(eqx.Module):
    """The map of one layer, the body, for two inputs of one length q at 1 − c = x."""

    length: Float[Array, "*b"]
    separation: Float[Array, "*b"]
    slope: Float[Array, "*b"]
    """The factor on the squared distance of two nearby inputs."""
    pair_slope: Float[Array, "*b"]
    """The slope of the map of the covariance of the two inputs."""


def one_layer(
    body: Part, q: Array, x: Array | None = None, *, order: int = 64, errors: bool = False
) -> tuple[LayerMap, LayerMap]:
    """Evaluate one layer `body` at length q and, if given, 1 − c = x: values and errors.

    Without `errors` these are zero, which saves their cost. Inside a program it is compiled as a
    unit, so that its many uses in one solver are traced once.
    """
    run = _compiled_layer if traced(body, q, x) else _one_layer
    return run(body, q, x, order, errors)


def _one_layer(
    body: Part, q: Array, x: Array | None, order: int, errors: bool
) -> tuple[LayerMap, LayerMap]:
    check_layer(body)
    if x is None:
        covariance, separation = q.reshape(1, 1), xp.zeros((1, 1), q.dtype)
    else:
        s = q * x
        covariance = xp.array([[q, q - s], [q - s, q]])
        separation = xp.array([[xp.zeros_like(s), s], [s, xp.zeros_like(s)]])
    # Isotropic units: one component represents all k of them.
    moments = given_moments(covariance[..., None, None], separation[..., None, None])
    zero = jax.tree.map(xp.zeros_like, moments)
    reading = MeanField(order, equal_lengths=True, errors=errors, components=components(body))
    after, _ = interpret(body, reading, PreActivation(moments, zero))
    if not isinstance(after, PreActivation):
        raise TypeError(
            "`layer`: must go from pre-activations to pre-activations; this one ends "
            f"in {type(after).__name__} moments"
        )

    def read(m, tangent):
        return LayerMap(
            m.covariance[0, 0, 0, 0],
            m.separation[0, -1, 0, 0],
            tangent[0, 0, 0, 0],
            tangent[0, -1, 0, 0],
        )

    doubt = after.value.whole_tangent_error(after.error)
    return read(after.value, after.value.whole_tangent), read(after.error, doubt)


_compiled_layer: Any = compiled(_one_layer)


def layer_alone(
    body: Part, q: Float[Array, " lengths"], *, order: int = 64, errors: bool = True
) -> tuple[LayerMap, LayerMap, Float[Array, " lengths"]]:
    """Evaluate one layer at each of several lengths, with dq'/dq."""
    check_layer(body)
    moments = given_moments((xp.eye(q.size) * q)[..., None, None])
    zero = jax.tree.map(np.zeros_like, moments)
    field = MeanField(order, errors=errors, components=components(body), alone=True)
    start = _Moving(PreActivation(moments, zero), xp.ones(q.size))
    after, _ = interpret(body, _AlongLength(field), start)

    def read(m, tangent):
        own = lambda matrix: xp.diagonal(matrix[..., 0, 0])
        return LayerMap(own(m.covariance), xp.zeros(q.size), own(tangent), own(tangent))

    at = after.state
    doubt = at.value.whole_tangent_error(at.error)
    return read(at.value, at.value.whole_tangent), read(at.error, doubt), after.rate


class _Moving(eqx.Module):
    """A state, and the derivative of the length of every input by its initial length."""

    state: Any
    rate: Float[Array, " n"]


class _AlongLength(Reading[_Moving]):
    """`MeanField` of separate inputs, with derivatives with respect to their lengths."""

    field: MeanField

    def inside_branch(self) -> "_AlongLength":
        return _AlongLength(self.field.inside_branch())

    def affine(self, node: Affine, state: _Moving):
        after, _ = self.field.affine(node, state.state)
        return _Moving(after, node.weights.variance * state.rate), None

    def pointwise(self, node: Pointwise, state: _Moving):
        after, _ = self.field.pointwise(node, state.state)
        phi = node.activation
        if is_linear(phi):
            return _Moving(after, xp.square(gain(phi, state.rate.dtype)) * state.rate), None
        q = length(state.state.value)
        if isinstance(phi, Radial):
            rate = length_rate(phi, q, self.field.components or 1, order=self.field.order)
        else:
            rate = square_rate(phi, q, order=self.field.order)
        return _Moving(after, rate * state.rate), None

    def normalise(self, node: Normalise, state: _Moving):
        after, _ = self.field.normalise(node, state.state)
        square = length(state.state.value) + node.epsilon
        return _Moving(after, node.epsilon / xp.square(square) * state.rate), None

    def noise(self, node: Noise, state: _Moving):
        after, _ = self.field.noise(node, state.state)
        return _Moving(after, (1 + node.variance) * state.rate), None

    def add(self, skip: _Moving, branch: _Moving):
        after, _ = self.field.add(skip.state, branch.state)
        return _Moving(after, skip.rate + branch.rate), None

    def through_time(self, step, state, steps: int):
        raise TypeError("`layer`: must be one layer without a Recurrent")


class LengthPoint(eqx.Module):
    """A fixed point of the length map: q*, and λ = dq'/dq and χ there."""

    length: Estimate
    multiplier: Estimate
    slope: Estimate
