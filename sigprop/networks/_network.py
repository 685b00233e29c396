"""The finite-width reading: a random network with weights drawn in passing and dropped."""

import dataclasses
from typing import Any, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from sigprop.networks._arguments import check_explicit, check_key, check_precision
from sigprop.networks._digits import (
    fallen,
    gradient_growths,
    in_range,
    layer_status,
    places,
    subnormal,
    vanishes,
)
from sigprop.networks._lapack import svd
from sigprop.networks._random import normal
from sigprop.networks._shared import Blank, shared_product, turn_round
from sigprop.networks._weights import draws_matrices, product
from theory import (
    Affine,
    Moments,
    Noise,
    Normalise,
    Part,
    Pointwise,
    Reading,
    Status,
    Survey,
    along_depth,
    interpret,
    signal_moments,
)
from theory.description import check_part, check_sequences, time_steps
from theory.mean_field import check_signals
from theory.numerics import as_signals, cast, check_count, check_flag, one_program, plain_options


class Signals(eqx.Module):
    """Signals of n inputs in one layer, with m tangents of each riding along."""

    values: Float[Array, "n width k"]
    tangents: Float[Array, "n width k m"]
    """Tangents, over exp(log_gain/2)."""
    log_gain: Float[Array, " n"]
    lost: Bool[Array, " n"] | None = None
    """Whether digits are gone: all numbers of a layer have come near the smallest normal one, or
    have become zero on the way. None where this is not watched."""

    def moved(self, values: Array, tangents: Array, lost: Array | None = None) -> Any:
        """Other signals and tangents over the same scale, and all else as it is."""
        before = self.lost
        lost = before if before is None or lost is None else before | lost
        return dataclasses.replace(self, values=values, tangents=tangents, lost=lost)


Carried = TypeVar("Carried", bound=Signals)


class Layer(eqx.Module):
    """What is noted of a layer whose digits are watched."""

    moments: Moments
    status: Int[Array, ""]
    tangent_status: Int[Array, ""]


Note: TypeAlias = Moments | Layer | None


class FiniteNetwork(Reading[Signals]):
    """A network of finite width; each `Affine` and sum notes the `Moments` of its units.

    Every part draws from its own key, folded in once per level of the description, so that
    a result does not depend on batching, and `Chain((b,) * 4)` equals `repeat(b, 4)`.
    """

    key: Key[Array, "*layers"]
    width: int = eqx.field(static=True)
    backward: Float[Array, "*turns n"] | None = None
    """Zeros whose gradient is the log of the squared norm of the backward signal, one per
    boundary of the outermost `Repeat`; see `_mark_backward`."""
    precision: str = eqx.field(static=True, default="highest")
    explicit_weights: bool = eqx.field(static=True, default=True)
    in_branch: bool = eqx.field(static=True, default=False)
    shared: Any = None
    """Inside a recurrent body, what its weights are known by (`Shared`), in the order of its
    notes, which are the same after one more step."""

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
            # What draws the bias must not run again wherever the signals are used.
            values, tangents = jax.lax.optimization_barrier((values, tangents))
        before, state = state, state.moved(values, tangents)
        if state.lost is not None:
            exact = node.weights.entry_variance == 0
            lost = fallen(before.values, values, exact) | fallen(before.tangents, tangents, exact)
            state = state.moved(values, tangents, lost)
        return state, self._note(state) if memory is None else memory

    def _fresh(self, node: Affine, columns: Array, fan_out: int) -> tuple[Array, Array]:
        """Products with weights, and a bias, of this place alone."""
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
        # Keys 0 and 1 are those of weights and biases.
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

    def through_time(self, turn, state: Signals, steps: int) -> tuple[Signals, Note]:
        inputs, width, k, m = state.tangents.shape
        n = check_sequences(inputs, steps)
        if self.shared is not None:
            raise TypeError("`network`: a recurrent body must not hold a recurrent part itself")
        drives = jax.tree.map(lambda x: jnp.swapaxes(_split(x, n), 0, 1), state)
        columns = n * (1 + m) * max(steps - 1, 1)
        how = (self.width, columns, self.explicit_weights, self.backward is not None)
        unit = jnp.zeros((width, k), state.values.dtype)
        _, shared = turn(Blank(self.key, *how), unit, unit)

        def advance(carry, now):
            previous, shared = carry
            drive, mark = now
            drive, previous = _on_one_scale(drive, previous)
            reading = self._at(self.key, mark, self.in_branch, shared)
            after, (shared, _) = turn(reading, previous, drive)
            after = reading.boundary(after)
            return (after, (shared, None)), after

        marks = self.backward
        at = lambda i: (jax.tree.map(lambda x: x[i], drives), None if marks is None else marks[i])
        drive, mark = at(0)
        first = self._at(self.key, mark, self.in_branch, None).boundary(drive)
        (last, shared), rest = jax.lax.scan(advance, (first, shared), at(slice(1, None)))
        if marks is not None and not self.explicit_weights:
            known = eqx.filter(shared, eqx.is_inexact_array)
            end = turn_round(last.values, known)
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

    def loop(self, turn, state, layers, depth):
        if self.backward is not None:
            # The backward pass draws the weights again instead of keeping them.
            turn = jax.checkpoint(turn, prevent_cse=False)
        return super().loop(turn, state, layers, depth)

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
    """The tangents of both over one scale; a tangent of zero is one on any scale."""
    moves = jnp.any(drive.tangents != 0, axis=(1, 2, 3))
    common = jnp.where(moves, jnp.maximum(drive.log_gain, state.log_gain), state.log_gain)

    def moved(of: Signals) -> Signals:
        factor = jnp.exp(jnp.minimum((of.log_gain - common) / 2, 40))[:, None, None, None]
        return Signals(of.values, of.tangents * factor, common, of.lost)

    return moved(drive), moved(state)


def _of_unit_size(tangents: Float[Array, "n width k m"]) -> tuple[Array, Float[Array, " n"]]:
    """Tangents of mean square 1, and the log of what it was; zeros stay."""
    tangents, log = in_range(tangents)
    size = jnp.mean(tangents**2, axis=(1, 2, 3))
    safe = jnp.where(size > 0, size, 1.0)
    return tangents / jnp.sqrt(safe)[:, None, None, None], log + jnp.log(safe)


def measure(state: Signals) -> Moments:
    """The moments of a layer's units, the tangents averaged over the m that ride along."""
    moments = signal_moments(state.values)
    t, log = in_range(state.tangents)
    tangent = jnp.einsum("auim,bujm->abij", t, t, precision="highest")
    _, width, _, m = t.shape
    tangent, log_gain = tangent / (width * m), state.log_gain + log
    return Moments(moments.covariance, moments.separation, tangent, log_gain)


def _orthogonal_tangent(
    inputs: Float[Array, "n width k"], key: Key[Array, ""]
) -> Float[Array, "width k"]:
    """A random direction of unit mean square whose components, as vectors over the units, are
    orthogonal to those of every input: E t uᵀ = 0, as for a tangent that knows nothing of them."""
    n, width, k = inputs.shape
    if width <= n * k:
        raise ValueError(
            f"`inputs`: must have more units than {n} inputs of {k} components fill, {n * k}, so "
            f"that a tangent orthogonal to them exists; got {width}"
        )
    tangent = jax.random.normal(key, (width * k,), inputs.dtype).reshape(width, k)
    columns = jnp.moveaxis(inputs, 1, 0).reshape(width, n * k)
    u, s, _ = svd(columns)
    frame = jnp.where(s > s[0] * jnp.finfo(s.dtype).eps * width * k, 1, 0)[None] * u
    for _ in range(2):  # once more takes out what rounding left
        tangent = tangent - frame @ (frame.T @ tangent)
    return tangent / jnp.sqrt(jnp.mean(tangent**2))


@jax.custom_vjp
def _mark_backward(values: Float[Array, "n width k"], mark: Float[Array, " n"]):
    """The identity; going backward it rescales each input's gradient to norm 1 and hands the
    log of its squared norm to `mark`, so that gradients neither vanish nor overflow."""
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


class Sample(eqx.Module):
    """What was measured in one network (or, with leading axes, in many)."""

    moments: Moments
    """Per layer, pre-activations: leading axis over depth, as `theory.propagate` gives."""
    gradient_growth: Float[Array, "*batch boundaries n"] | None
    """|∂L/∂z_l|²/|∂L/∂z_{l+1}|² of a random linear loss, for the boundaries l = 1…depth − 1
    of the outermost `Repeat`."""
    status: Int[Array, "*batch depth"]
    """`theory.Status` of each layer's covariance and separation: OK where they are those of the
    network to rounding; INACCURATE where digits are lost, since numbers here or in a layer before
    are too small for their type; INVALID where something is not finite."""
    tangent_status: Int[Array, "*batch depth"]
    """The same of tangent and log gain, which stay known where lengths are too small."""
    gradient_status: Int[Array, "*batch boundaries"] | None
    """The same of the growth of gradients."""

    @property
    def known(self) -> "Sample":
        """The same with NaN wherever digits are lost, so that no mean hides it."""
        m = self.moments
        signals = lambda x: _kept(self.status, x)
        tangents = lambda x: _kept(self.tangent_status, x)
        moments = Moments(
            signals(m.covariance), signals(m.separation), tangents(m.tangent), tangents(m.log_gain)
        )
        growth = self.gradient_growth
        if growth is not None:
            growth = _kept(self.gradient_status, growth)
        statuses = (self.status, self.tangent_status, self.gradient_status)
        return Sample(moments, growth, *statuses)


def _kept(status: Any, values: Array) -> Array:
    good = status != Status.INACCURATE
    return jnp.where(good.reshape(good.shape + (1,) * (values.ndim - good.ndim)), values, jnp.nan)


def sample_network(
    network: Part,
    inputs: Float[Array, "n width_in k"],
    key: Key[Array, ""],
    *,
    width: int,
    gradients: bool = False,
    explicit_weights: bool | None = None,
    precision: str = "highest",
) -> Sample:
    """Draw one finite network and measure its moments in every layer.

    Parameters
    ----------
    network
        The description.
    inputs
        Shape [inputs, width_in, components]; its dtype is the precision of the run.
    key
        Decides the weights, the biases and the tangents.
    width
        Units per layer, where the description does not fix it.
    gradients
        Also propagate a random loss gradient back through the layers.
    explicit_weights
        True to draw every weight, False to draw only what the weights do to the signals,
        which has exactly the same law: a layer of N units then costs N · n² for n inputs, not
        N². By default matrices are drawn up to 1024 units, and beyond where it is cheaper.
    precision
        Of the matrix products ("highest": no reduced-precision passes on any device).

    Convention
    ----------
    Lengths and correlations are averages over the units of one network; one random tangent
    of unit mean square, orthogonal to every input component by component, rides along. (A
    tangent along an input changes its length too, one along A u its direction; mean-field
    theory counts these separately.)

    Raises
    ------
    ValueError
        If there is no room for a tangent beside the inputs: width_in <= k · number of inputs;
        if they are of half precision.
    """
    check_part("network", network)
    check_key("key", key)
    check_count("width", width)
    check_flag("gradients", gradients)
    check_explicit(explicit_weights)
    check_precision(precision)
    inputs = sampled_inputs(inputs)
    network = cast(network, inputs.dtype)
    n, steps = len(inputs), time_steps(network)
    check_sequences(n, steps)
    explicit_weights = draws_matrices(explicit_weights, width, 2 * n * inputs.shape[2], network)
    return _sampled(network, inputs, key, width, gradients, explicit_weights, precision)


@one_program(plain_options)
def _sampled(network, inputs, key, width, gradients, explicit_weights, precision) -> Sample:
    n, steps = len(inputs), time_steps(network)
    weights_key, tangent_key, loss_key = (jax.random.fold_in(key, i) for i in range(3))
    # Of a sequence the first input alone is perturbed.
    first = (jnp.arange(n) % steps == 0).astype(inputs.dtype)[:, None, None, None]
    tangent = _orthogonal_tangent(inputs[::steps], tangent_key)[None, ..., None]
    tangents = first * tangent
    start = Signals(inputs, tangents, jnp.zeros(n, inputs.dtype), subnormal(inputs))

    def run(marks):
        reading = FiniteNetwork(weights_key, width, marks, precision, explicit_weights)
        return interpret(network, reading, start)

    if not gradients:
        _, notes = run(None)
        series = along_depth(notes)
        return Sample(series.moments, None, series.status, series.tangent_status, None)

    depth = outer_depth(network)

    def loss(marks):
        final, notes = run(marks)
        shape = final.values.shape
        direction = jax.random.normal(loss_key, shape, inputs.dtype)
        # Of a sequence the last state alone counts.
        last = (jnp.arange(n) % steps == steps - 1).astype(inputs.dtype)[:, None, None]
        direction = direction * last
        return jnp.sum(direction * final.values), (notes, final.lost)

    marks = jnp.zeros((depth, n // steps), inputs.dtype)
    logs, (notes, lost) = jax.grad(loss, has_aux=True)(marks)
    series, (growth, gradient_status) = along_depth(notes), gradient_growths(logs, jnp.any(lost))
    statuses = (series.status, series.tangent_status, gradient_status)
    return Sample(series.moments, growth, *statuses)


class DrawnNetwork(eqx.Module):
    """One drawn network as a function of its inputs, for `jax.jvp` and the like.

    The same `key` and `width` give the network that `sample_network` measures with explicit
    weights. They are drawn again in every call, in the dtype of the inputs.
    """

    network: Part
    key: Key[Array, ""]
    width: int = eqx.field(static=True)
    explicit_weights: bool = eqx.field(static=True, default=True)
    precision: str = eqx.field(static=True, default="highest")

    def __check_init__(self):
        check_part("network", self.network)
        check_key("key", self.key)
        check_count("width", self.width)
        check_flag("explicit_weights", self.explicit_weights)
        check_precision(self.precision)

    def __call__(self, x: Float[Array, "n width_in k"]) -> Float[Array, "n width_out k"]:
        return _applied(self, x)

    @property
    def reading(self) -> FiniteNetwork:
        """The draw of every weight."""
        key = jax.random.fold_in(self.key, 0)
        return FiniteNetwork(key, self.width, None, self.precision, self.explicit_weights)


@one_program(plain_options)
def _applied(drawn: DrawnNetwork, x: Array) -> Array:
    return interpret(cast(drawn.network, x.dtype), drawn.reading, start_at(x))[0].values


def sampled_inputs(inputs: Any) -> Array:
    """Inputs in the precision of the run, which is theirs.

    Raises
    ------
    ValueError
        If they do not have three axes, or are of half precision.
    """
    inputs = as_signals("inputs", inputs)
    check_signals("inputs", inputs)
    if jnp.finfo(inputs.dtype).bits < 32:
        raise ValueError(
            "`inputs`: must be float32 or float64, which a network is then sampled in; got "
            f"{inputs.dtype}"
        )
    return inputs


def start_at(x: Float[Array, "n width k"]) -> Signals:
    """Inputs without tangents."""
    return Signals(x, jnp.zeros((*x.shape, 0), x.dtype), jnp.zeros(len(x), x.dtype))


class _OuterDepth(Survey[int]):
    """The number of turns of the outermost `Repeat`."""

    def add(self, skip, branch):
        return skip, None

    def through_time(self, turn, state, steps):
        return steps, None

    def loop(self, turn, state, layers, depth):
        return depth, None


def outer_depth(network: Part) -> int:
    """How often the outermost `Repeat` of a network turns, or the steps of its `Recurrent`.

    Raises
    ------
    ValueError
        If the network repeats nothing.
    """
    check_part("network", network)
    depth, _ = interpret(network, _OuterDepth(), 0)
    if depth == 0:
        raise ValueError("`network`: must hold a Repeat at its outermost level; got none")
    return depth
