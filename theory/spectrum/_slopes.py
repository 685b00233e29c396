"""The law of the slopes of a layer: of D² over its units.

Notation: as in `_factors`.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, assert_never

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from theory.description import (
    Activation,
    Componentwise,
    Radial,
    check_no_jump,
    is_linear,
    is_piecewise_linear,
)
from theory.gaussian import Resolution, chi_nodes, epsilon, features, floored, grading, half_line
from theory.numerics import Array, elementwise, xp


class SlopeLaw(eqx.Module):
    """The law of D² over the units of a layer, as values and their probabilities.

    Atoms are exact. A continuous law is represented by quadrature nodes; sums over them are as
    accurate as the quadrature for functions that are smooth on the scale of their spacing.
    """

    square: Float[Array, "*laws nodes"]
    probability: Float[Array, "*laws nodes"]
    branch: Float[Array, "*laws"] | None = None
    """For layers 1 + a: the number of matrices with independent entries in the residual branch a,
    whose weight variances are then included in `square`; −1 for other layers. None if there are
    only other layers."""

    @property
    def mass_at_zero(self) -> Float[Array, "*laws"]:
        """The fraction of zero singular values of the layer."""
        mass = xp.sum(xp.where(self.square == 0, self.probability, 0.0), axis=-1)
        return mass if self.branch is None else xp.where(self.branch < 0, mass, 0.0)

    @property
    def mass_below(self) -> Float[Array, "*laws"]:
        """The probability that D² is too small to represent, not counting zeros."""
        tiny = (self.square > 0) & (self.square <= 1.001 * _least(self.square, _ROOM))
        mass = xp.sum(xp.where(tiny, self.probability, 0.0), axis=-1)
        return mass if self.branch is None else xp.where(self.branch < 0, mass, 0.0)

    @property
    def mean(self) -> Float[Array, "*laws"]:
        """The mean squared singular value of the layer.

        Weights are included only if it has a skip connection.
        """
        mean = xp.sum(self.probability * self.square, axis=-1)
        return mean if self.branch is None else xp.where(self.branch < 0, mean, 1 + mean)

    def padded(self, nodes: int) -> "SlopeLaw":
        """The same law on more nodes, with probability zero."""
        width = [(0, 0)] * (self.square.ndim - 1) + [(0, nodes - self.square.shape[-1])]
        square = xp.pad(self.square, width, mode="edge")
        return SlopeLaw(square, xp.pad(self.probability, width), self.branch)


def constant_slopes(activation: Componentwise) -> bool:
    """Whether φ is linear between its kinks, as its program proves and many slopes confirm.

    The program shows that φ is piecewise linear, slopes whether the pieces end at the kinks. The
    decision depends on the structure alone, with a generic value for every parameter of φ.
    """
    if is_linear(activation):
        return True
    kinks = activation.kinks
    if not kinks or not is_piecewise_linear(activation):
        return False
    # Close to a kink, far away, and wherever a quadrature may have nodes.
    away = np.concatenate([np.geomspace(1e-6, 1e6, 400), np.linspace(0.005, 50, 4001)])
    ends = [-np.inf, *kinks, np.inf]
    with jax.ensure_compile_time_eval():
        generic = jax.tree.map(
            lambda leaf: xp.full(leaf.shape, 0.37, leaf.dtype) if eqx.is_array(leaf) else leaf,
            activation,
        )
        for low, high in itertools.pairwise(ends):
            places = np.concatenate([low + away, high - away])
            places = places[(places > low) & (places < high)]
            if np.isfinite(high - low):
                places = np.concatenate([places, np.linspace(low, high, 4003)[1:-1]])
            _, slope = generic.with_slope(xp.asarray(places, jnp.result_type(float)))
            if isinstance(slope, Tracer) or np.any(np.asarray(slope) != slope[0]):
                return False
    return True


def _normal_below(_: None, z: Array) -> tuple[Array]:
    return (jax.scipy.special.ndtr(z),)


def _atoms(activation: Componentwise, root: Float[Array, ""]) -> SlopeLaw:
    """The law for a φ that is linear between its kinks: one atom per piece."""
    kinks = list(activation.kinks)
    middle = [(a + b) / 2 for a, b in itertools.pairwise(kinks)]
    inside = [kinks[0] - 1.0, *middle, kinks[-1] + 1.0] if kinks else [1.0]
    _, slope = activation.with_slope(xp.asarray(inside, root.dtype))
    # P(u > k), from the smaller tail, so that small probabilities keep their digits.
    at = xp.asarray(kinks, root.dtype) / root
    end = xp.zeros(1, root.dtype)
    tail = lambda at: elementwise(_normal_below, None, at)[0]
    above = xp.concatenate([end + 1, tail(-at), end])
    below = xp.concatenate([end, tail(at), end + 1])
    left = above[:-1] < 0.5
    probability = xp.where(left, above[:-1] - above[1:], below[1:] - below[:-1])
    return SlopeLaw(slope**2, probability)


_ROOM = 45.0
"""The equations can represent D² down to exp(_ROOM) over the largest number."""


def _least(x: Array, room: float) -> float:
    return math.exp(room) / float(np.finfo(x.dtype).max)


def _squares(slope: Array, z: Array, places: Sequence[Any], room: float, sure: bool) -> Array:
    """D² at z, where a zero counts only if φ is constant there.

    Between kinks, slopes that decay through ever smaller numbers to zero are not zero but
    underflow. They are set to the least D² that the equations can represent, as are all smaller
    ones. Slopes that end at the rounding error of 1 may have lost their digits; they are taken
    as zero if `sure`.
    """
    eps = epsilon(slope)
    least = _least(slope, room)
    size = xp.abs(slope)
    above = [(z > xp.asarray(place, z.dtype)).astype(int) for place in places]
    piece = sum(above, xp.zeros(z.shape, int))
    fades = xp.zeros(z.shape, bool)
    for i in range(len(places) + 1):
        inside = piece == i
        smallest = xp.min(xp.where(inside & (size > 0), size, xp.inf))
        largest = xp.max(xp.where(inside, size, 0))
        fades |= inside & (smallest < (eps if sure else 8) * eps * largest)
    return xp.where((size == 0) & ~fades, 0, xp.maximum(slope * slope, least))


def slope_law(
    activation: Activation,
    length: Float[Array, ""],
    k: int,
    how: Resolution,
    *,
    check: bool = False,
) -> SlopeLaw:
    """The law of D² for pre-activations N(0, q) per component.

    Convention: a radial φ(z) = g(|z|) z/|z| of k components has the gain a = g'(r) along z and
    b = g(r)/r perpendicular to it, so D² has the law (1/k) law(a²) + (1 − 1/k) law(b²). With
    `check`, unknown tiny slopes are set to another value.
    """
    check_no_jump(activation)
    known = {"room": _ROOM + 10 if check else _ROOM, "sure": not check}
    root = xp.sqrt(floored(length))
    match activation:
        case Componentwise():
            if constant_slopes(activation):
                return _atoms(activation, root)
            width = grading(activation.scale, root, how)
            z, weight = half_line(features(activation.kinks, root), width, how)
            if activation.parity is None:
                z, weight = xp.concatenate([z, -z]), xp.concatenate([weight, weight])
            _, slope = activation.with_slope(root * z)
            square = _squares(slope, root * z, activation.places, **known)
            probability = weight
        case Radial():
            rho, weight = chi_nodes(activation, root, k, how)
            r = root * rho
            gains = [_squares(gain, r, activation.places, **known) for gain in activation.gains(r)]
            square = xp.concatenate(gains)
            probability = xp.concatenate([weight / k, weight * (1 - 1 / k)])
        case _:
            assert_never(activation)
    return SlopeLaw(square, probability / xp.sum(probability))
