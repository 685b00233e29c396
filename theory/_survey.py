"""The length map of one turn of a network, looked at over the whole range of lengths.

Notation: q length, h(y) = log(q'/q) at y = log q, λ = dq'/dq, χ slope.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from theory._architecture import Part
from theory._fixed_point import SHORTEST, Turn, one_turn
from theory._moment_integrals import frozen
from theory._roots import bracketed_root

LONGEST = 1e30
"""The longest length up to which fixed points are looked for, from `SHORTEST` on."""
_FAR = 1e6
"""Beyond this length φ is taken to change slowly: nodes are few."""
_SURVEY = np.log(
    np.concatenate(
        [
            np.geomspace(SHORTEST, 1e-12, 10)[:-1],
            np.geomspace(1e-12, _FAR, 118),
            [1e7, 1e8, 1e9, 1e10, 1e12, 1e14, 1e17, 1e20, 1e25, LONGEST],
        ]
    )
)
_SMALL = float(np.log(1e-7))
"""The y of a length at which λ and χ differ from those at 0 by their derivatives there."""
_PLAIN = 3.0
"""A growth beyond this has the right sign even where the quadrature knows no digit: an average
of squares over many nodes is not wrong by such a factor."""


def along_length(body: Part, q: Float[Array, ""], order: int) -> tuple[Turn, Turn, Turn]:
    """One turn from length q: values, errors, and derivatives with respect to q."""
    turn = lambda q: one_turn(body, q, order=order, errors=True)
    value, rate, error = jax.jvp(turn, (q,), (jnp.ones_like(q),), has_aux=True)
    return value, error, rate


def log_growth(y: Float[Array, ""], body: Part, order: int) -> Float[Array, ""]:
    """h(y) = log(q'/q) at q = e^y."""
    q = jnp.exp(y)
    # The ratio keeps the digits that a difference of logarithms loses.
    return jnp.log(one_turn(body, q, order=order)[0].length / q)


def error_of_rate(turn: Turn, error: Turn, q: Array) -> Array:
    """The error of dq'/dq, two bounds of which follow from those of q' and of χ.

    Relative errors are those of the rule, for all of its integrals; and Cauchy and Schwarz
    bound E|φφ'u|/q by those of φ² and φ'².
    """
    usual = (turn.slope > 0) & jnp.isfinite(turn.slope + error.slope) & (turn.length > 0)
    length, slope = (jnp.where(usual, v, 1.0) for v in (turn.length, turn.slope))
    by_length = error.length / q * jnp.where(usual, jnp.maximum(jnp.sqrt(slope * q / length), 1), 1)
    by_slope = error.slope * jnp.sqrt(length / (q * slope))
    return jnp.where(usual, jnp.minimum(by_length, by_slope), by_length)


class Survey(eqx.Module):
    """The length map on a grid of y = log q, with the extremum of h nearest to zero put in."""

    y: Float[Array, " nodes"]
    growth: Float[Array, " nodes"]
    """h."""
    rate: Float[Array, " nodes"]
    """dh/dy."""
    noise: Float[Array, " nodes"]
    """The error of h: below it the sign of h is not known. Infinite where no digit is."""
    touching: Float[Array, ""]
    """The y of the extremum that was put in; NaN where there is none."""
    grid: Float[Array, " grid"]
    """The nodes before that, and there:"""
    multiplier: Float[Array, " grid"]
    multiplier_error: Float[Array, " grid"]
    slope: Float[Array, " grid"]
    slope_error: Float[Array, " grid"]

    @property
    def sure(self) -> Bool[Array, " nodes"]:
        """Where the sign of h is known."""
        size = jnp.abs(self.growth)
        return (size > self.noise) | (size > _PLAIN)

    @property
    def in_sight(self) -> Bool[Array, " nodes"]:
        """Where h is zero as far as can be told, by a quadrature that works."""
        return (jnp.abs(self.growth) <= self.noise) & (self.noise < 1e-6)

    @property
    def touches(self) -> Bool[Array, " nodes"]:
        """The node at which h touches zero without crossing it, as far as can be told."""
        return self.in_sight & (self.y == self.touching)

    def steepness(self, y: Array) -> tuple[Array, Array]:
        """|dλ/dy| and |dχ/dy| around y: twice the steepest of three secants."""
        steep, near = jnp.abs(jnp.diff(self._both) / jnp.diff(self.grid)[None]), self._interval(y)
        near = (jnp.abs(jnp.arange(steep.shape[1]) - near) <= 1)[None] & jnp.isfinite(steep)
        rate, slope = 2 * jnp.max(jnp.where(near, steep, 0.0), axis=1)
        return rate, slope

    def spread(self, y: Array, low: Array, high: Array) -> tuple[Array, Array]:
        """How far λ and χ between `low` and `high` are from those at `y`."""
        i = self._interval(y)
        step, far = self.grid[i + 1] - self.grid[i], jnp.maximum(high - y, y - low)
        close = jnp.stack(self.steepness(y)) * jnp.minimum(far, step)
        inside = (self.grid >= low - step) & (self.grid <= high + step)
        off = jnp.abs(self._both - self._both[:, i][:, None])
        seen = jnp.max(jnp.where(inside[None] & jnp.isfinite(off), off, 0.0), axis=1)
        rate, slope = jnp.where(far > step, close + seen, close)
        return rate, slope

    @property
    def _both(self) -> Float[Array, "2 grid"]:
        return jnp.stack([self.multiplier, self.slope])

    def _interval(self, y: Array) -> Array:
        """The place of the node of the grid below y."""
        return jnp.clip(jnp.sum(self.grid < y) - 1, 0, self.grid.size - 2)

    def drift(self, values: Float[Array, " grid"]) -> Array:
        """d values/dq at q = 0."""
        j = int(np.searchsorted(_SURVEY, _SMALL))
        change = (values[j] - values[0]) / jnp.exp(self.grid[j])
        return jnp.where(jnp.isfinite(change), change, 0.0)


def survey(body: Part, *, order: int = 64) -> Survey:
    """h(y) on a grid from `SHORTEST` to `LONGEST`, fine enough to tell its roots apart."""
    body = frozen(body)
    y = jnp.asarray(_SURVEY, jnp.result_type(float))
    turn, error, rate = jax.vmap(lambda q: along_length(body, q, order))(jnp.exp(y))
    h, noise = jnp.log(turn.length / jnp.exp(y)), error.length / turn.length
    dh = rate.length * jnp.exp(-h) - 1
    noise = jnp.where(noise < 0.5, noise, jnp.inf)
    # A pair of roots between two nodes shows as an extremum that heads for zero from both ends.
    heading = (h[:-1] * dh[:-1] < 0) & (h[1:] * dh[1:] > 0) & (h[:-1] * h[1:] > 0)
    heading = heading & (noise[:-1] < jnp.inf) & (noise[1:] < jnp.inf)
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

    top = bracketed_root(derivative, body, guess, y[i], y[i + 1], found, dh[i + 1] > dh[i])
    # Without an extremum the first node stands twice, which adds nothing.
    top = jnp.where(found, top, y[0])
    h_top = jnp.where(found, log_growth(top, body, order), h[0])
    noise_top = jnp.where(found, jnp.maximum(noise[i], noise[i + 1]), noise[0])
    place = jnp.where(found, i, 0) + 1

    def insert(values, new):  # no sort: one for each point of a diagram takes half the time
        before, behind = jnp.append(values, values[-1:]), jnp.append(values[:1], values)
        index = jnp.arange(before.size)
        return jnp.where(index < place, before, jnp.where(index > place, behind, new))

    # Without the barrier the compiler would put all of it into each of its many uses.
    return jax.lax.optimization_barrier(
        Survey(
            insert(y, top),
            insert(h, h_top),
            insert(dh, jnp.where(found, 0.0, dh[0])),
            insert(noise, noise_top),
            jnp.where(found, top, jnp.nan),
            y,
            rate.length,
            error_of_rate(turn, error, jnp.exp(y)),
            turn.slope,
            error.slope,
        )
    )
