"""Nonlinearities: a function, with what the Gaussian integrals need to know about it."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from theory.description._closed_forms import ClosedForm
from theory.description._jumps import steps_at
from theory.numerics import Array, with_slope

Parity: TypeAlias = Literal["odd", "even"]


class Componentwise(eqx.Module):
    """An activation φ that acts on each real component separately.

    Create one with `activation` (by name) or `componentwise` (from any function).
    """

    fn: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]]
    """φ, elementwise. Its array leaves are parameters that can be swept and differentiated."""
    kinks: tuple[float, ...] = eqx.field(static=True)
    """Where φ or a derivative of it jumps, and the centres of narrow features away from 0."""
    scale: float = eqx.field(static=True)
    """Width of the features of φ around 0 and its kinks: 1 for tanh, 0.1 for tanh(10 z)."""
    parity: Parity | None = eqx.field(static=True)
    """Whether φ is odd, even, or neither (None)."""
    name: str = eqx.field(static=True)
    """Used in text and file names."""
    closed_form_of: Callable[[Any], ClosedForm] | None = eqx.field(static=True, default=None)
    """Builds the closed form from `fn`, so that the parameters exist only once."""
    jumps: tuple[float, ...] = eqx.field(static=True, default=())
    """Where φ itself may jump: at those ± kinks where it does, or where that is not known yet."""
    features_known: bool = eqx.field(static=True, default=False)
    """Whether `kinks` and `scale` are complete, as for named activations; others are searched."""
    source: str | None = eqx.field(static=True, default=None)
    """ "FILE.py:NAME" if φ was read from a file."""

    def __call__(self, z: Float[Array, "*shape"], axis: int = -1) -> Float[Array, "*shape"]:
        """φ(z); the axis of the components does not matter."""
        return self.fn(z)

    def with_slope(
        self, z: Float[Array, "*shape"]
    ) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
        """φ(z) and φ'(z)."""
        return with_slope(self.fn, z)

    def steps(self, dtype: Any) -> tuple[Float[Array, " jumps"], Float[Array, " jumps"]]:
        """φ(k + 0) − φ(k − 0) and the mean of the two, at every k in `jumps`."""
        return steps_at(self.fn, jnp.asarray(self.jumps, dtype))

    def push(
        self, z: Float[Array, "*units k"], tangents: Float[Array, "*units k m"]
    ) -> tuple[Float[Array, "*units k"], Float[Array, "*units k m"]]:
        """φ(z), and m tangents multiplied by φ'(z)."""
        value, slope = self.with_slope(z)
        return value, slope[..., None] * tangents

    @property
    def places(self) -> tuple[float, ...]:
        """The kinks, under the name that `Radial` uses."""
        return self.kinks

    @property
    def closed_form(self) -> ClosedForm | None:
        """The Gaussian moments of φ in closed form, if there is one."""
        return None if self.closed_form_of is None else self.closed_form_of(self.fn)


class Radial(eqx.Module):
    """An activation φ(z) = g(|z|) z/|z| of units z with several real components.

    It commutes with every rotation of the unit. Create one with `radial`. For k = 1 it is the
    odd function with φ(z) = g(z) for z > 0.
    """

    profile: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]]
    """g, elementwise on lengths r ≥ 0, with g(0) = 0. Its array leaves are parameters."""
    kinks: tuple[float, ...] = eqx.field(static=True)
    """Where g or a derivative of it jumps, at r > 0."""
    scale: float = eqx.field(static=True)
    """Width of the features of g around 0 and its kinks."""
    name: str = eqx.field(static=True)
    """Used in text and file names."""
    kinks_of: Callable[[Any], tuple[Float[Array, ""], ...]] | None = eqx.field(
        static=True, default=None
    )
    """Reads kinks that are parameters from the profile, so that they exist only once."""
    jumps: tuple[float, ...] = eqx.field(static=True, default=())
    """Where g itself may jump, at r > 0."""
    features_known: bool = eqx.field(static=True, default=False)
    """As in `Componentwise`."""
    source: str | None = eqx.field(static=True, default=None)
    """As in `Componentwise`."""

    @property
    def places(self) -> tuple[float | Float[Array, ""], ...]:
        """All kinks. Those that are parameters are arrays and can be differentiated."""
        return self.kinks + (() if self.kinks_of is None else self.kinks_of(self.profile))

    def steps(self, dtype: Any) -> tuple[Float[Array, " jumps"], Float[Array, " jumps"]]:
        """g(k + 0) − g(k − 0) and the mean of the two, at every k in `jumps`."""
        return steps_at(self.profile, jnp.asarray(self.jumps, dtype))

    def __call__(self, z: Float[Array, "*shape"], axis: int = -1) -> Float[Array, "*shape"]:
        """φ(z); the components of a unit lie along `axis`."""
        return _scaled_radially(self.profile, z, axis=axis)

    def gains(
        self, r: Float[Array, "*shape"]
    ) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
        """g'(r) and g(r)/r: the factors on tangents along z and perpendicular to it."""
        value, slope = with_slope(self.profile, r)
        return slope, value / r

    def gains_at(
        self, z: Float[Array, "*units k"]
    ) -> tuple[Float[Array, "*units 1"], Float[Array, "*units 1"]]:
        """`gains` for every unit."""
        return self.gains(_norm(z))

    def push(
        self, z: Float[Array, "*units k"], tangents: Float[Array, "*units k m"]
    ) -> tuple[Float[Array, "*units k"], Float[Array, "*units k m"]]:
        """φ(z), and m tangents multiplied by φ'(z)."""
        along, across = self.gains_at(z)
        n = (z / _norm(z))[..., None]
        radial = n * jnp.sum(n * tangents, axis=-2, keepdims=True)
        return across * z, across[..., None] * (tangents - radial) + along[..., None] * radial


def _norm(z: Float[Array, "*shape"], axis: int = -1) -> Float[Array, "*ones"]:
    """|z|, bounded away from zero so that g(r)/r is g'(0) there and derivatives are finite."""
    tiny = jnp.finfo(z.dtype).tiny
    if z.shape[axis] == 1:
        return jnp.maximum(jnp.abs(z), tiny**0.5)
    square = jnp.sum(z * z, axis=axis, keepdims=True)
    return jnp.sqrt(jnp.maximum(square, tiny))


@eqx.filter_custom_jvp
def _scaled_radially(profile: Callable, z: Array, *, axis: int) -> Float[Array, "*shape"]:
    """g(|z|) z/|z|, with a derivative that costs one division and one evaluation of g.

    With one component it needs neither a division nor a root.
    """
    r = _norm(z, axis)
    return profile(r) * jnp.sign(z) if z.shape[axis] == 1 else profile(r) / r * z


@_scaled_radially.def_jvp
def _(primals, tangents, *, axis):
    (profile, z), (moved, t) = primals, tangents
    r = _norm(z, axis)
    value, slope = jax.jvp(profile, (r,), (jnp.ones_like(r),))
    rate = None
    if jax.tree.leaves(moved):
        rate = eqx.filter_jvp(lambda profile: profile(r), (profile,), (moved,))[1]
    if z.shape[axis] == 1:
        sign = jnp.sign(z)
        change = jnp.zeros_like(z) if t is None else slope * t
        return sign * value, change if rate is None else change + rate * sign
    inverse = 1 / r
    across = value * inverse
    change = jnp.zeros_like(z)
    if t is not None:
        bend = (slope - across) * inverse * inverse
        change = across * t + bend * jnp.sum(z * t, axis=axis, keepdims=True) * z
    return across * z, change if rate is None else change + rate * inverse * z


Activation: TypeAlias = Componentwise | Radial
