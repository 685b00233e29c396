"""Products of a Jacobian with vectors, for networks too wide for the whole matrix.

Notation: J has shape `rows` × `columns`, singular values s, and right and left singular vectors v
and u. k Golub–Kahan steps give J V = U B with orthonormal V and U and a small bidiagonal B.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sigprop.networks import Along, DrawnNetwork, Signals
from theory.description import interpret
from theory.numerics import cast, check_callable, check_kind, exponent, shown, times_power

_ROUNDING = 8.0
"""Singular values below this many roundings of the largest are not resolved."""


class Operator(NamedTuple):
    """v ↦ J v e^{−log_scale} on flat vectors of JAX's default precision.

    e^{log_scale} is a power of two.
    """

    forward: Callable[[Array], Array]
    backward: Callable[[Array], Array]
    """u ↦ Jᵀ u e^{−log_scale}."""
    rows: int
    columns: int
    log_scale: Array
    """Chosen such that the size of a random vector stays the same."""
    rounding: float
    """Values below this fraction of the largest singular value are not resolved."""
    valid: Array
    zero: Array

    def tall(self) -> "Operator":
        """The map, or its transpose if that has fewer columns."""
        if self.rows >= self.columns:
            return self
        shape = {"rows": self.columns, "columns": self.rows}
        return self._replace(forward=self.backward, backward=self.forward, **shape)


class _Referenced(Along[Signals]):
    """A finite network with two tangents, both divided by the size of the first at each boundary.

    The second is a linear function of its initial value, at any depth. Sizes are powers of two,
    and `log_gain` is the sum of their exponents: both are exact.
    """

    def at_boundary(self, state: Signals) -> Signals:
        tangents, _, power = _rescaled(state.tangents)
        log_gain = state.log_gain + power.astype(state.log_gain.dtype)[None]
        return Signals(state.values, tangents, log_gain)

    def through_time(self, step, state, steps: int):
        raise TypeError("`fn`: the Jacobian is for one input, not for the sequences of a Recurrent")

    def loop(self, layer, state, layers, depth):
        # The transposed map draws the weights again instead of keeping them.
        return super().loop(jax.checkpoint(layer, prevent_cse=False), state, layers, depth)


def _rescaled(tangents: Float[Array, "*shape 2"]) -> tuple[Array, Array, Array]:
    """Both tangents divided by a power of two, the RMS of the first, and the exponent."""
    size = _mean_size(tangents[..., 0])
    power = _power_of(size)
    return times_power(tangents, -power), size, power


def _power_of(size: Array) -> Array:
    return jnp.where(size > 0, exponent(size), 0)


def operator_of(fn: Any, x: Array, key: Array) -> Operator:
    """The Jacobian at x of a function, of a sequence of layers, or of a drawn network."""
    dtype = x.dtype
    reference = jax.random.normal(key, x.shape, dtype)
    if isinstance(fn, DrawnNetwork):
        value, size, power, linear = _drawn_map(fn, x, reference)
    else:
        value, size, power, linear = _layered_map(_as_layers(fn), x, reference)

    def forward(v: Array) -> Array:
        return linear(v.astype(dtype).reshape(x.shape)).reshape(-1).astype(float)

    def backward(u: Array) -> Array:
        return jax.vjp(forward, jnp.zeros(x.size, float))[1](u)[0]

    valid = jnp.all(jnp.isfinite(value)) & jnp.isfinite(size)
    rounding = _ROUNDING * max(float(jnp.finfo(dtype).eps), float(jnp.finfo(float).eps))
    log_scale = math.log(2) * power.astype(float)
    return Operator(forward, backward, value.size, x.size, log_scale, rounding, valid, size == 0)


def _as_layers(fn: Any) -> list[Callable]:
    return [fn] if callable(fn) else list(fn)


def _drawn_map(drawn: DrawnNetwork, x: Array, reference: Array) -> tuple[Any, Any, Any, Callable]:
    network = cast(drawn.network, x.dtype)

    def run(v: Array) -> tuple[Array, Array, Array, Array]:
        start = Signals(x, jnp.stack([reference, v], axis=-1), jnp.zeros(1, x.dtype))
        end = interpret(network, _Referenced(drawn.reading), start)[0]
        tangents, size, power = _rescaled(end.tangents)
        return end.values, size, end.log_gain[0] + power.astype(x.dtype), tangents[..., 1]

    value, size, power, _ = run(reference)
    return value, size, power, lambda v: run(v)[3]


def _layered_map(layers: list, x: Array, reference: Array) -> tuple[Any, Any, Any, Callable]:
    # Nothing can be rescaled inside a layer: start tangents where the most range is left.
    room = int(0.45 * jnp.finfo(x.dtype).maxexp)
    value, pushed, total = x, reference, jnp.zeros((), jnp.int32)
    worst = jnp.ones((), x.dtype)
    maps = []
    for layer in layers:
        value, linear = jax.linearize(layer, value)
        first = _mean_size(linear(pushed))
        begin, size = jnp.zeros((), jnp.int32), first
        for scale in (room, -room):
            found = _mean_size(linear(pushed * jnp.asarray(2.0**scale, x.dtype)))
            # Small, but not so small that bits are lost; or overflown.
            poor = (size < math.sqrt(float(jnp.finfo(x.dtype).tiny))) | ~jnp.isfinite(size)
            better = poor & jnp.isfinite(found) & (found > 0)
            begin, size = jnp.where(better, scale, begin), jnp.where(better, found, size)
        end, one = _power_of(size), jnp.ones((), x.dtype)
        start, safe = times_power(one, begin), times_power(one, end)
        pushed = linear(pushed * start) / safe
        maps.append((linear, start, safe))
        total = total + end - begin
        worst = jnp.where(jnp.isfinite(worst) & (worst > 0), size, worst)

    def through(v: Array) -> Array:
        for linear, start, safe in maps:
            v = linear(v * start) / safe
        return v

    return value, worst, total, through


def _mean_size(tangents: Array) -> Array:
    """The root mean square, without overflow or underflow of the squares."""
    largest = jnp.max(jnp.abs(tangents))
    safe = nonzero(largest)
    return largest * jnp.sqrt(jnp.mean((tangents / safe) ** 2))


def nonzero(size: Array) -> Array:
    return jnp.where(size > 0, size, jnp.ones((), size.dtype))


def bidiagonal(operator: Operator, start: Array, steps: int) -> tuple[Array, Array]:
    """B [steps, steps] and V [steps, columns]; zeros once the space is exhausted."""
    from matfree.decomp import bidiag

    config: Any = jax.config
    own = config.jax_default_matmul_precision

    def forward(v: Array) -> Array:
        # Products inside the function have the precision that its author asked for.
        with jax.default_matmul_precision(own):
            return operator.forward(v)

    with jax.default_matmul_precision("highest"):
        (_, v), (diagonal, above), *_ = bidiag(steps, materialize=False)(forward, start)
    diagonal, above, v = (jnp.where(jnp.isfinite(part), part, 0.0) for part in (diagonal, above, v))
    return jnp.diag(diagonal) + jnp.diag(above, 1), v


def smaller_side(fn: Any, x: Array) -> int:
    """min(rows, columns), without running the function."""
    out: Any = x
    for layer in _as_layers(fn):
        out = eqx.filter_eval_shape(layer, out)
    return min(out.size, x.size)


def check_differentiable(fn: Any, x: Array) -> None:
    check_kind("x", x, jax.Array | np.ndarray, "an array")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"`x`: must contain floating-point numbers; got {x.dtype}")
    if x.size == 0:
        raise ValueError(f"`x`: must contain at least one number; got shape {list(x.shape)}")
    if not callable(fn) and not isinstance(fn, list | tuple):
        raise TypeError(f"`fn`: must be a function or a sequence of layers; got {shown(fn)}")
    for layer in [fn] if callable(fn) else fn:
        check_callable("fn", layer)
    if not callable(fn) and len(fn) == 0:
        raise ValueError("`fn`: must be a function or at least one layer; got an empty sequence")
    if isinstance(fn, DrawnNetwork):
        if not fn.explicit_weights:
            raise ValueError(
                "`fn`: must have explicit weights, equal for every vector; got a network "
                "whose weights are drawn from their law given each vector"
            )
        if len(x) != 1:
            raise ValueError(f"`x`: must be one input, for the Jacobian at it; got {len(x)}")
