"""The length map of one layer of a network over the whole range of lengths.

Notation: q length, h(y) = log(q'/q) at y = log q, λ = dq'/dq, χ slope.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from theory.description import Part
from theory.gaussian import frozen
from theory.numerics import Array, barrier, bracketed_root, traced, xp
from theory.phases._one_layer import SHORTEST, LayerMap, layer_alone, one_layer

LONGEST = 1e30
"""The longest length in the search for fixed points, which starts at `SHORTEST`."""
_FAR = 1e6
"""Beyond this length φ is assumed to change slowly, and nodes are sparse."""
_GRID = np.log(
    np.concatenate(
        [
            np.geomspace(SHORTEST, 1e-12, 10)[:-1],
            np.geomspace(1e-12, _FAR, 118),
            [1e7, 1e8, 1e9, 1e10, 1e12, 1e14, 1e17, 1e20, 1e25, LONGEST],
        ]
    )
)
_SMALL = float(np.log(1e-7))
"""The y of a length at which λ and χ differ from their values at 0 by the linear term."""
_PLAIN = 3.0
"""A growth beyond this has the right sign even if the quadrature has no correct digit: an average
of squares over many nodes is never wrong by such a factor."""


def along_length(
    body: Part, q: Float[Array, "*b"], order: int
) -> tuple[LayerMap, LayerMap, LayerMap]:
    """One layer from length q: values, errors, and derivatives with respect to q.

    On the host there is only the derivative of the length.
    """
    if not traced(body, q):
        value, error, rate = layer_alone(body, xp.atleast_1d(q), order=order)
        if np.ndim(q) == 0:
            value, error, rate = jax.tree.map(lambda v: v[0], (value, error, rate))
        still = xp.full_like(rate, xp.nan)
        return value, error, LayerMap(rate, still, still, still)
    layer = lambda q: one_layer(body, q, order=order, errors=True)
    value, rate, error = jax.jvp(layer, (q,), (xp.ones_like(q),), has_aux=True)
    return value, error, rate


def log_growth(y: Float[Array, ""], body: Part, order: int) -> Float[Array, ""]:
    """h(y) = log(q'/q) at q = e^y."""
    q = xp.exp(y)
    # The ratio keeps digits that a difference of logarithms loses.
    return xp.log(one_layer(body, q, order=order)[0].length / q)


def error_of_rate(layer: LayerMap, error: LayerMap, q: Array) -> Array:
    """The error of dq'/dq, from the errors of q' and of χ by two bounds.

    Relative errors of the rule are the same for all of its integrals; and by Cauchy–Schwarz
    φ² and φ'² bound E|φφ'u|/q.
    """
    usual = (layer.slope > 0) & xp.isfinite(layer.slope + error.slope) & (layer.length > 0)
    length, slope = (xp.where(usual, v, 1.0) for v in (layer.length, layer.slope))
    by_length = error.length / q * xp.where(usual, xp.maximum(xp.sqrt(slope * q / length), 1), 1)
    by_slope = error.slope * xp.sqrt(length / (q * slope))
    return xp.where(usual, xp.minimum(by_length, by_slope), by_length)


class LengthGrid(eqx.Module):
    """The length map on a grid of y = log q, including the extremum of h nearest to zero."""

    y: Float[Array, " nodes"]
    growth: Float[Array, " nodes"]
    """h."""
    rate: Float[Array, " nodes"]
    """dh/dy."""
    noise: Float[Array, " nodes"]
    """The error of h: if |h| is smaller its sign is unknown. Infinite if no digit is known."""
    touching: Float[Array, ""]
    """The y of the extremum that was inserted; NaN if there is none."""
    grid: Float[Array, " grid"]
    """The nodes before the insertion, and there:"""
    multiplier: Float[Array, " grid"]
    multiplier_error: Float[Array, " grid"]
    slope: Float[Array, " grid"]
    slope_error: Float[Array, " grid"]

    @property
    def sure(self) -> Bool[Array, " nodes"]:
        """Where the sign of h is known."""
        size = xp.abs(self.growth)
        return (size > self.noise) | (size > _PLAIN)

    @property
    def in_sight(self) -> Bool[Array, " nodes"]:
        """Where h is zero within its error, and the quadrature works."""
        return (xp.abs(self.growth) <= self.noise) & (self.noise < 1e-6)

    @property
    def touches(self) -> Bool[Array, " nodes"]:
        """The node at which h touches zero without crossing it, within errors."""
        return self.in_sight & (self.y == self.touching)

    def steepness(self, y: Array) -> tuple[Array, Array]:
        """|dλ/dy| and |dχ/dy| around y: twice the steepest of three secants."""
        steep, near = xp.abs(xp.diff(self._both) / xp.diff(self.grid)[None]), self._interval(y)
        near = (xp.abs(xp.arange(steep.shape[1]) - near) <= 1)[None] & xp.isfinite(steep)
        rate, slope = 2 * xp.max(xp.where(near, steep, 0.0), axis=1)
        return rate, slope

    def spread(self, y: Array, low: Array, high: Array) -> tuple[Array, Array]:
        """How much λ and χ between `low` and `high` differ from their values at `y`."""
        i = self._interval(y)
        step, far = self.grid[i + 1] - self.grid[i], xp.maximum(high - y, y - low)
        close = xp.stack(self.steepness(y)) * xp.minimum(far, step)
        inside = (self.grid >= low - step) & (self.grid <= high + step)
        off = xp.abs(self._both - self._both[:, i][:, None])
        seen = xp.max(xp.where(inside[None] & xp.isfinite(off), off, 0.0), axis=1)
        rate, slope = xp.where(far > step, close + seen, close)
        return rate, slope

    @property
    def _both(self) -> Float[Array, "2 grid"]:
        return xp.stack([self.multiplier, self.slope])

    def _interval(self, y: Array) -> Array:
        """The index of the grid node below y."""
        return xp.clip(xp.sum(self.grid < y) - 1, 0, self.grid.size - 2)

    def drift(self, values: Float[Array, " grid"]) -> Array:
        """d values/dq at q = 0."""
        j = int(np.searchsorted(_GRID, _SMALL))
        change = (values[j] - values[0]) / xp.exp(self.grid[j])
        return xp.where(xp.isfinite(change), change, 0.0)


def length_grid(body: Part, *, order: int = 64) -> LengthGrid:
    """h(y) on a grid from `SHORTEST` to `LONGEST`, fine enough to separate its roots."""
    body = frozen(body)
    if traced(body):
        y = jnp.asarray(_GRID, jnp.result_type(float))
        layer, error, rate = jax.vmap(lambda q: along_length(body, q, order))(jnp.exp(y))
    else:
        y = xp.asarray(_GRID)
        layer, error, rate = along_length(body, xp.exp(y), order)
    h, noise = xp.log(layer.length / xp.exp(y)), error.length / layer.length
    dh = rate.length * xp.exp(-h) - 1
    noise = xp.where(noise < 0.5, noise, xp.inf)
    # A pair of roots between two nodes shows as an extremum that approaches zero from both ends.
    heading = (h[:-1] * dh[:-1] < 0) & (h[1:] * dh[1:] > 0) & (h[:-1] * h[1:] > 0)
    heading = heading & (noise[:-1] < xp.inf) & (noise[1:] < xp.inf)
    step = y[1:] - y[:-1]
    fall = xp.abs(dh[:-1]) * xp.abs(dh[1:]) / (xp.abs(dh[:-1]) + xp.abs(dh[1:]))
    nearest = xp.minimum(xp.abs(h[:-1]), xp.abs(h[1:]))
    left = nearest - step * fall
    # The tangents must go an eighth of the way to zero: those of a constant are rounding error.
    heading = heading & (left < 7 / 8 * nearest)
    i = xp.argmin(xp.where(heading, left, xp.inf))
    found = heading[i]
    guess = y[i] + xp.where(found, step[i] * dh[i] / (dh[i] - dh[i + 1]), 0.0)

    def derivative(y, body):
        if not traced(body, y):
            layer, _, rate = along_length(body, xp.exp(y), order)
            return rate.length * np.exp(y) / layer.length - 1
        return jax.jvp(lambda y: log_growth(y, body, order), (y,), (xp.ones_like(y),))[1]

    top = bracketed_root(derivative, body, guess, y[i], y[i + 1], found, dh[i + 1] > dh[i])
    # Without an extremum the first node appears twice, which changes nothing.
    top = xp.where(found, top, y[0])
    h_top = xp.where(found, log_growth(top, body, order), h[0])
    noise_top = xp.where(found, xp.maximum(noise[i], noise[i + 1]), noise[0])
    place = xp.where(found, i, 0) + 1

    def insert(values, new):  # no sort: for each point of a diagram that would take twice the time
        before, behind = xp.append(values, values[-1:]), xp.append(values[:1], values)
        index = xp.arange(before.size)
        return xp.where(index < place, before, xp.where(index > place, behind, new))

    # Without the barrier the compiler would inline all of it into each of its many uses.
    return barrier(
        LengthGrid(
            insert(y, top),
            insert(h, h_top),
            insert(dh, xp.where(found, 0.0, dh[0])),
            insert(noise, noise_top),
            xp.where(found, top, xp.nan),
            y,
            rate.length,
            error_of_rate(layer, error, xp.exp(y)),
            layer.slope,
            error.slope,
        )
    )
