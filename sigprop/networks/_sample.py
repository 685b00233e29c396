"""One finite network, drawn: its moments in every layer, or its function."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from sigprop.networks._arguments import check_explicit, check_key, check_precision
from sigprop.networks._depth import outer_depth
from sigprop.networks._digits import gradient_growths, subnormal
from sigprop.networks._finite_network import FiniteNetwork, Signals, start_at
from sigprop.networks._lapack import svd
from sigprop.networks._weights import draws_matrices
from theory import Moments, Part, Status
from theory.description import along_depth, check_part, check_sequences, interpret, time_steps
from theory.mean_field import check_signals
from theory.numerics import as_signals, cast, check_count, check_flag, one_program, plain_options


def _orthogonal_tangent(
    inputs: Float[Array, "n width k"], key: Key[Array, ""]
) -> Float[Array, "width k"]:
    """A random direction of unit mean square, orthogonal to every input.

    Its components, as vectors over the units, are orthogonal to those of every input: E t uᵀ = 0,
    as for a tangent that is independent of them.
    """
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
    times = functools.partial(jnp.matmul, precision="highest")
    for _ in range(2):  # the second pass removes what rounding left
        tangent = tangent - times(frame, times(frame.T, tangent))
    return tangent / jnp.sqrt(jnp.mean(tangent**2))


class Sample(eqx.Module):
    """Measurements in one network (or, with leading axes, in many)."""

    moments: Moments
    """Pre-activations of each layer, with a leading depth axis as in `theory.propagate`."""
    gradient_growth: Float[Array, "*batch boundaries n"] | None
    """|∂L/∂z_l|²/|∂L/∂z_{l+1}|² of a random linear loss, for the boundaries l = 1…depth − 1
    of the outermost `Repeat`."""
    status: Int[Array, "*batch depth"]
    """`theory.Status` of the covariance and separation of each layer: OK if they are exact up to
    rounding; INACCURATE if digits are lost, because numbers here or in an earlier layer are too
    small for their type; INVALID if something is not finite."""
    tangent_status: Int[Array, "*batch depth"]
    """The same for tangent and log gain, which stay valid if lengths are too small."""
    gradient_status: Int[Array, "*batch boundaries"] | None
    """The same for the growth of gradients."""

    @property
    def known(self) -> "Sample":
        """The sample with NaN wherever digits are lost, so that no mean hides it."""
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
    *,
    key: Key[Array, ""],
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
        Units per layer, unless the description fixes them.
    gradients
        Also propagate a random loss gradient back through the layers.
    explicit_weights
        True to draw every weight; False to draw only the products of weights and signals, which
        has exactly the same law. A layer of N units then costs N · n² for n inputs, not N². By
        default matrices are drawn up to 1024 units, and beyond if that is cheaper.
    precision
        Precision of the matrix products ("highest": no reduced-precision passes on any device).

    Convention
    ----------
    Lengths and correlations are averages over the units of one network. One random tangent of
    unit mean square, orthogonal to every input component by component, is propagated with the
    signals. (A tangent along an input would also change its length, and one along A u its
    direction; mean-field theory treats these separately.)

    Raises
    ------
    ValueError
        If the inputs leave no room for an orthogonal tangent, width_in <= k · number of inputs;
        if they have half precision.
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
    # Of a sequence only the first input is perturbed.
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
        # Of a sequence only the last state counts.
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
    weights. The weights are drawn again in every call, in the dtype of the inputs.
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
        """The reading with every weight drawn."""
        key = jax.random.fold_in(self.key, 0)
        return FiniteNetwork(key, self.width, None, self.precision, self.explicit_weights)


@one_program(plain_options)
def _applied(drawn: DrawnNetwork, x: Array) -> Array:
    return interpret(cast(drawn.network, x.dtype), drawn.reading, start_at(x))[0].values


def sampled_inputs(inputs: Any) -> Array:
    """Return inputs as an array; their precision is that of the run.

    Raises
    ------
    ValueError
        If they do not have three axes, or have half precision.
    """
    inputs = as_signals("inputs", inputs)
    check_signals("inputs", inputs)
    if jnp.finfo(inputs.dtype).bits < 32:
        raise ValueError(
            "`inputs`: must be float32 or float64, the precision of the simulation; got "
            f"{inputs.dtype}"
        )
    return inputs
