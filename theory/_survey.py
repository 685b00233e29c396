"""The length map of one turn of a network, looked at over the whole range of lengths.

Notation: q length, h(y) = log(q'/q) at y = log q, λ = dq'/dq, χ slope.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from theory._architecture import Part
from theory._fixed_point import SHORTEST, Turn, one_turn
from theory._moment_integrals import frozen
from theory._roots import bracketed_root

LONGEST = 1e6
"""The longest length up to which fixed points are looked for, from `SHORTEST` on."""
_SURVEY = np.log(
    np.append(np.geomspace(SHORTEST, 1e-12, 10)[:-1], np.geomspace(1e-12, LONGEST, 128))
)


def along_length(body: Part, q: Float[Array, ""], order: int) -> tuple[Turn, Turn, Turn]:
    """One turn from length q: values, errors, and derivatives with respect to q."""
    turn = lambda q: one_turn(body, q, order=order, errors=True)
    value, rate, error = jax.jvp(turn, (q,), (jnp.ones_like(q),), has_aux=True)
    return value, error, rate


def log_growth(y: Float[Array, ""], body: Part, order: int) -> Float[Array, ""]:
    """h(y) = log(q'/q) at q = e^y."""
    return jnp.log(one_turn(body, jnp.exp(y), order=order)[0].length) - y


class Survey(eqx.Module):
    """The length map on a grid of y = log q, with the extremum of h nearest to zero put in."""

    y: Float[Array, " nodes"]
    growth: Float[Array, " nodes"]
    """h."""
    rate: Float[Array, " nodes"]
    """dh/dy."""
    noise: Float[Array, " nodes"]
    """|h| below this is zero as far as can be told."""
    touching: Float[Array, ""]
    """The y of the extremum that was put in; NaN where there is none."""
    grid: Float[Array, " grid"]
    """The nodes before that, and there:"""
    multiplier: Float[Array, " grid"]
    slope: Float[Array, " grid"]
    slope_error: Float[Array, " grid"]

    def change(self, values: Float[Array, " grid"], y: Float[Array, ""]) -> Float[Array, ""]:
        """|d values/dy| around y, by differences: good enough to carry an error on."""
        i = jnp.clip(jnp.searchsorted(self.grid, y), 1, self.grid.size - 1)
        return jnp.abs((values[i] - values[i - 1]) / (self.grid[i] - self.grid[i - 1]))


def survey(body: Part, *, order: int = 64) -> Survey:
    """h(y) on a grid from `SHORTEST` to `LONGEST`, fine enough to tell its roots apart."""
    body = frozen(body)
    y = jnp.asarray(_SURVEY, jnp.result_type(float))
    turn, error, rate = jax.vmap(lambda q: along_length(body, q, order))(jnp.exp(y))
    h, noise = jnp.log(turn.length) - y, error.length / turn.length
    dh = rate.length * jnp.exp(-h) - 1
    # Where the quadrature fails the sign of h is still the best guess; the error will say so.
    noise = jnp.where(noise < 1e-6, noise, 0.0)
    # A pair of roots between two nodes shows as an extremum that heads for zero from both ends.
    heading = (h[:-1] * dh[:-1] < 0) & (h[1:] * dh[1:] > 0) & (h[:-1] * h[1:] > 0)
    step = y[1:] - y[:-1]
    fall = jnp.abs(dh[:-1]) * jnp.abs(dh[1:]) / (jnp.abs(dh[:-1]) + jnp.abs(dh[1:]))
    nearest = jnp.minimum(jnp.abs(h[:-1]), jnp.abs(h[1:]))
    left = nearest - step * fall
    # Unless the tangents go no eighth of the way to zero: those of a constant are rounding.
    heading = heading & (left < 7 / 8 * nearest)
    i = jnp.argmin(jnp.where(heading, left, jnp.inf))
    found = heading[i]
    guess = y[i] + jnp.where(found, step[i] * dh[i] / (dh[i] - dh[i + 1]), 0.0)

    def derivative(y, body):
        return jax.jvp(lambda y: log_growth(y, body, order), (y,), (jnp.ones_like(y),))[1]

    top = bracketed_root(derivative, body, guess, y[i], y[i + 1], found)
    # Without an extremum the first node stands twice, which adds nothing.
    top = jnp.where(found, top, y[0])
    h_top = jnp.where(found, log_growth(top, body, order), h[0])
    noise_top = jnp.where(found, jnp.maximum(noise[i], noise[i + 1]), noise[0])
    place = jnp.where(found, i, 0) + 1

    def insert(values, new):  # no sort: one for each point of a diagram takes half the time
        before, behind = jnp.append(values, values[-1:]), jnp.append(values[:1], values)
        index = jnp.arange(before.size)
        return jnp.where(index < place, before, jnp.where(index > place, behind, new))

    return Survey(
        insert(y, top),
        insert(h, h_top),
        insert(dh, jnp.where(found, 0.0, dh[0])),
        insert(noise, noise_top),
        jnp.where(found, top, jnp.nan),
        y,
        rate.length,
        turn.slope,
        error.slope,
    )
