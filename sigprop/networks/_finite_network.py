"""The finite-width reading: a random network whose weights are drawn on the fly and dropped."""

import dataclasses
from typing import Any, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from sigprop.networks._digits import fallen, in_range, layer_status, places, vanishes
from sigprop.networks._random import normal
from sigprop.networks._shared_weights import Blank, end_of_forward, shared_product
from sigprop.networks._weights import product
from theory import Affine, Moments, Noise, Normalise, Pointwise
from theory.description import Reading, check_sequences
from theory.mean_field import signal_moments


class Signals(eqx.Module):
    """Signals of n inputs in one layer, with m tangents of each."""

    values: Float[Array, "n width k"]
    tangents: Float[Array, "n width k m"]
    """Tangents, divided by exp(log_gain/2)."""
    log_gain: Float[Array, " n"]
    lost: Bool[Array, " n"] | None = None
    """Whether digits are lost: all numbers of a layer have come close to the smallest normal one,
    or have become zero on the way. None if this is not tracked."""

    def moved(self, values: Array, tangents: Array, lost: Array | None = None) -> Any:
        """Replace signals and tangents, keeping their scale and everything else."""
        before = self.lost
        lost = before if before is None or lost is None else before | lost
        return dataclasses.replace(self, values=values, tangents=tangents, lost=lost)


Carried = TypeVar("Carried", bound=Signals)


class Layer(eqx.Module):
    """The note of a layer whose digits are tracked."""

    moments: Moments
    status: Int[Array, ""]
    tangent_status: Int[Array, ""]


Note: TypeAlias = Moments | Layer | None


class FiniteNetwork(Reading[Signals]):
    """A network of finite width; each `Affine` and each sum notes the `Moments` of its units.

    Every part draws from its own key, folded in once per level of the description. A result
    therefore does not depend on batching, and `Chain((b,) * 4)` equals `repeat(b, 4)`.
    """

    key: Key[Array, "*layers"]
    width: int = eqx.field(static=True)
    backward: Float[Array, "*depth n"] | None = None
    """Zeros whose gradient is the log of the squared norm of the backward signal, one per
    boundary of the outermost `Repeat`; see `_mark_backward`."""
    precision: str = eqx.field(static=True, default="highest")
    explicit_weights: bool = eqx.field(static=True, default=True)
    in_branch: bool = eqx.field(static=True, default=False)
    shared: Any = None
    """Inside a recurrent body, what is known about its weights (`Shared`), in the order of its
    notes, which stays the same from step to step."""

    def _at(self, key: Any, backward: Any, in_branch: bool, shared: Any) -> "FiniteNetwork":
        how = (self.precision, self.explicit_weights)
        return FiniteNetwork(key, self.width, backward, *how, in_branch, shared)

    def _part(self, index: int) -> Any:
        return None if self.shared is None else self.shared[index]

    def child(self, index: int) -> "FiniteNetwork":
        key = jax.random.fold_in(self.key, index)
        return self._at(key, self.backward, self.in_branch, self._part(index))

    def inside_branch(self) -> "FiniteNetwork":
        return self._at(jax.random.fold_in(self.key, 0), None, True, self._part(0))

    def layers(self, depth: int) -> "FiniteNetwork":
        keys = jax.vmap(lambda layer: jax.random.fold_in(self.key, layer))(jnp.arange(depth))
        shared = None if self.shared is None else self.shared.notes
        return self._at(keys, self.backward, self.in_branch, shared)

    def affine(self, node: Affine, state: Carried) -> tuple[Carried, Any]:
        n, fan_in, k, m = state.tangents.shape
        fan_out = self.width if node.width is None else node.width
        # Signals and tangents are columns of one product with the same weights.
        columns = jnp.concatenate([state.values[..., None], state.tangents], axis=-1)
        columns = jnp.moveaxis(columns, 0, -1).reshape(fan_in, k, (1 + m) * n)
        if self.shared is None:
            out, bias = self._fresh(node, columns, fan_out)
            memory = None
        else:
            out, memory = shared_product(node.weights, self.shared, columns, self.precision)
            bias = memory.bias
        out = jnp.moveaxis(out.reshape(*out.shape[:2], 1 + m, n), -1, 0)
        values, tangents = out[..., 0] + bias[None], out[..., 1:]
        if not self.explicit_weights:
            # The bias must not be drawn again wherever the signals are used.
            values, tangents = jax.lax.optimization_barrier((values, tangents))
        before, state = state, state.moved(values, tangents)
        if state.lost is not None:
            exact = node.weights.entry_variance == 0
            lost = fallen(before.values, values, exact) | fallen(before.tangents, tangents, exact)
            state = state.moved(values, tangents, lost)
        return state, self._note(state) if memory is None else memory

    def _fresh(self, node: Affine, columns: Array, fan_out: int) -> tuple[Array, Array]:
        """Products with weights, and a bias, drawn for this place."""
        out = product(
            node.weights,
            jax.random.fold_in(self.key, 0),
            columns,
            fan_out,
            explicit=self.explicit_weights,
            precision=self.precision,
        )
        deviation = jnp.sqrt(node.bias_variance).astype(out.dtype)
        draw = jax.random.normal if self.explicit_weights else normal
        return out, deviation * draw(jax.random.fold_in(self.key, 1), out.shape[:2], out.dtype)

    def pointwise(self, node: Pointwise, state: Carried) -> tuple[Carried, None]:
        values, tangents = node.activation.push(state.values, state.tangents)
        lost = None
        if state.lost is not None:
            lost = fallen(state.values, values, vanishes(node.activation, state.values))
            lost |= fallen(state.tangents, tangents, bool(places(node.activation)))
        return state.moved(values, tangents, lost), None

    def normalise(self, node: Normalise, state: Carried) -> tuple[Carried, None]:
        whole = lambda x: node(x, (1, 2))
        push = lambda tangent: jax.jvp(whole, (state.values,), (tangent,))[1]
        tangents = jax.vmap(push, in_axes=-1, out_axes=-1)(state.tangents)
        values = whole(state.values)
        return state.moved(values, tangents, fallen(state.values, values)), None

    def noise(self, node: Noise, state: Carried) -> tuple[Carried, None]:
        # Keys 0 and 1 belong to weights and biases.
        key, dtype = jax.random.fold_in(self.key, 2), state.values.dtype
        g = jax.random.normal(key, (*state.values.shape[:2], 1), dtype)
        factor = 1 + jnp.sqrt(node.variance).astype(dtype) * g
        values, tangents = factor * state.values, factor[..., None] * state.tangents
        lost = None
        if state.lost is not None:
            lost = fallen(state.values, values) | fallen(state.tangents, tangents)
        return state.moved(values, tangents, lost), None

    def add(self, skip: Carried, branch: Carried) -> tuple[Carried, Note]:
        values, tangents = skip.values + branch.values, skip.tangents + branch.tangents
        state = skip.moved(values, tangents, branch.lost)
        return state, self._note(state)

    def through_time(self, step, state: Signals, steps: int) -> tuple[Signals, Note]:
        inputs, width, k, m = state.tangents.shape
        n = check_sequences(inputs, steps)
        if self.shared is not None:
            raise TypeError("`network`: a recurrent body must not contain a Recurrent")
        drives = jax.tree.map(lambda x: jnp.swapaxes(_split(x, n), 0, 1), state)
        columns = n * (1 + m) * max(steps - 1, 1)
        how = (self.width, columns, self.explicit_weights, self.backward is not None)
        unit = jnp.zeros((width, k), state.values.dtype)
        _, shared = step(Blank(self.key, *how), unit, unit)

        def advance(carry, now):
            previous, shared = carry
            drive, mark = now
            drive, previous = _on_one_scale(drive, previous)
            reading = self._at(self.key, mark, self.in_branch, shared)
            after, (shared, _) = step(reading, previous, drive)
            after = reading.boundary(after)
            return (after, (shared, None)), after

        marks = self.backward
        at = lambda i: (jax.tree.map(lambda x: x[i], drives), None if marks is None else marks[i])
        drive, mark = at(0)
        first = self._at(self.key, mark, self.in_branch, None).boundary(drive)
        (last, shared), rest = jax.lax.scan(advance, (first, shared), at(slice(1, None)))
        if marks is not None and not self.explicit_weights:
            known = eqx.filter(shared, eqx.is_inexact_array)
            end = end_of_forward(last.values, known)
            rest = eqx.tree_at(lambda s: s.values, rest, rest.values.at[-1:].set(end[None]))
        state = jax.tree.map(lambda x, y: jnp.concatenate([x[None], y]), first, rest)
        state = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(inputs, *x.shape[2:]), state)
        return state, self._note(state)

    def boundary(self, state: Signals) -> Signals:
        if self.in_branch:
            return state
        values = state.values
        if self.backward is not None:
            values = _mark_backward(values, self.backward)
        tangents, log = _of_unit_size(state.tangents)
        return Signals(values, tangents, state.log_gain + log, state.lost)

    def loop(self, layer, state, layers, depth):
        if self.backward is not None:
            # The backward pass draws the weights again instead of keeping them.
            layer = jax.checkpoint(layer, prevent_cse=False)
        return super().loop(layer, state, layers, depth)

    def _note(self, state: Signals) -> Note:
        if self.in_branch:
            return None
        moments = measure(state)
        if state.lost is None:
            return moments
        return Layer(moments, *layer_status(state.values, moments, state.lost))


def _split(x: Array, n: int) -> Array:
    return x.reshape(n, len(x) // n, *x.shape[1:])


def _on_one_scale(drive: Signals, state: Signals) -> tuple[Signals, Signals]:
    """Bring the tangents of both to one scale; a zero tangent has any scale."""
    moves = jnp.any(drive.tangents != 0, axis=(1, 2, 3))
    common = jnp.where(moves, jnp.maximum(drive.log_gain, state.log_gain), state.log_gain)

    def moved(of: Signals) -> Signals:
        factor = jnp.exp(jnp.minimum((of.log_gain - common) / 2, 40))[:, None, None, None]
        return Signals(of.values, of.tangents * factor, common, of.lost)

    return moved(drive), moved(state)


def _of_unit_size(tangents: Float[Array, "n width k m"]) -> tuple[Array, Float[Array, " n"]]:
    """Rescale tangents to mean square 1, and return the log of the factor; zeros stay."""
    tangents, log = in_range(tangents)
    size = jnp.mean(tangents**2, axis=(1, 2, 3))
    safe = jnp.where(size > 0, size, 1.0)
    return tangents / jnp.sqrt(safe)[:, None, None, None], log + jnp.log(safe)


def measure(state: Signals) -> Moments:
    """The moments of a layer's units, averaged over the m tangents."""
    moments = signal_moments(state.values)
    t, log = in_range(state.tangents)
    tangent = jnp.einsum("auim,bujm->abij", t, t, precision="highest")
    _, width, _, m = t.shape
    tangent, log_gain = tangent / (width * m), state.log_gain + log
    return Moments(moments.covariance, moments.separation, tangent, log_gain)


@jax.custom_vjp
def _mark_backward(values: Float[Array, "n width k"], mark: Float[Array, " n"]):
    """The identity; its backward pass normalises each input's gradient.

    The log of the squared norm goes to `mark`, so that gradients neither vanish nor overflow.
    """
    return values


def _mark_forward(values, mark):
    return values, None


def _mark_reverse(_, gradient):
    gradient, log = in_range(gradient)
    square = jnp.sum(gradient**2, axis=(1, 2))
    safe = jnp.where(square > 0, square, 1.0)
    log = jnp.where(square > 0, log + jnp.log(safe), -jnp.inf)
    return gradient / jnp.sqrt(safe)[:, None, None], log


_mark_backward.defvjp(_mark_forward, _mark_reverse)


def start_at(x: Float[Array, "n width k"]) -> Signals:
    """Inputs without tangents."""
    return Signals(x, jnp.zeros((*x.shape, 0), x.dtype), jnp.zeros(len(x), x.dtype))
