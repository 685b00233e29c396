"""One turn of a network at a fixed length, and the fixed point of its correlation map.

Notation: q length, λ = dq'/dq, χ slope, x = 1 − c, and r(x) = x'/x, the factor by which one turn
multiplies 1 − c.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from theory._architecture import Part, components
from theory._interpret import interpret
from theory._mean_field import MeanField
from theory._moments import PreActivation, given_moments
from theory._status import Estimate
from theory._turn import check_turn

SHORTEST = 1e-30
"""The shortest length at which a turn is looked at; it stands for 0."""


class Turn(eqx.Module):
    """What one turn of the body does to two inputs of one length q at 1 − c = x."""

    length: Float[Array, ""]
    separation: Float[Array, ""]
    slope: Float[Array, ""]
    """The factor on the squared distance of two nearby inputs."""
    pair_slope: Float[Array, ""]
    """The slope of the map of the covariance of the two inputs."""


@eqx.filter_jit
def one_turn(
    body: Part, q: Array, x: Array | None = None, *, order: int = 64, errors: bool = False
) -> tuple[Turn, Turn]:
    """One turn of `body` from length q and, if given, 1 − c = x: values and errors.

    Without `errors` those are zero, and their cost is saved. Compiled as a unit, so that its
    many uses in one solver are traced once.
    """
    check_turn(body)
    if x is None:
        covariance, separation = q.reshape(1, 1), jnp.zeros((1, 1), q.dtype)
    else:
        s = q * x
        covariance = jnp.array([[q, q - s], [q - s, q]])
        separation = jnp.array([[jnp.zeros_like(s), s], [s, jnp.zeros_like(s)]])
    # Isotropic units: one component stands for all k of them.
    moments = given_moments(covariance[..., None, None], separation[..., None, None])
    zero = jax.tree.map(jnp.zeros_like, moments)
    reading = MeanField(order, equal_lengths=True, errors=errors, components=components(body))
    after, _ = interpret(body, reading, PreActivation(moments, zero))
    if not isinstance(after, PreActivation):
        raise TypeError(
            "`body`: one turn must go from pre-activations to pre-activations; this one ends "
            f"in {type(after).__name__} moments"
        )

    def read(m, tangent):
        return Turn(
            m.covariance[0, 0, 0, 0],
            m.separation[0, -1, 0, 0],
            tangent[0, 0, 0, 0],
            tangent[0, -1, 0, 0],
        )

    doubt = after.value.whole_tangent_error(after.error)
    return read(after.value, after.value.whole_tangent), read(after.error, doubt)


class LengthPoint(eqx.Module):
    """A fixed point of the length map: q*, λ = dq'/dq and χ there."""

    length: Estimate
    multiplier: Estimate
    slope: Estimate
