"""Trainable recurrent networks, equivariant or not, that read sequences."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sigprop.experiments._classifier import draw_linear
from sigprop.experiments._model import apply_weights
from sigprop.networks import draw_weights
from theory import WeightLaw
from theory.description import Activation

Kind = Literal["rnn", "gru"]


class SequenceClassifier(eqx.Module):
    """h_t = φ(W h_{t−1} + U x_t + b), read out at the last steps; or its gated version.

    W is shared over time, with the law of a description, and commutes with the symmetry. U, b and
    the read-out are ordinary dense maps and break it.

    A "gru" has gates u, r in (0, 1) for every unit:
    h_t = (1 − u) h_{t−1} + u φ(W (r h_{t−1}) + U x_t + b). The gates are dense functions of x_t
    and of the invariants of h_{t−1}: the norms of its units. With one component they are
    functions of h_{t−1} itself, as in Cho et al. 2014.
    """

    law: WeightLaw
    activation: Activation
    kind: Kind = eqx.field(static=True)
    inputs: int = eqx.field(static=True)
    """Number of inputs at one step; a sequence is the rows of [steps, inputs]."""
    features: int = eqx.field(static=True)
    """Number of real numbers in h."""
    classes: int = eqx.field(static=True)
    answers: int | None = eqx.field(static=True, default=None)
    """Number of last steps to read out, each separately; None for the last one, without an axis."""
    precision: str = eqx.field(static=True, default="highest")

    @property
    def components(self) -> int:
        """Number of real components of a unit."""
        return self.law.components

    @property
    def width(self) -> int:
        """Number of units of h."""
        return self.features // self.components

    def draw(
        self, key: Key[Array, ""], gain: float | Float[Array, ""] = 1.0, dtype: Any = jnp.float32
    ) -> dict[str, Any]:
        """The parameters at initialisation, with the variance of W multiplied by gain²."""
        keys = [jax.random.fold_in(key, i) for i in range(4)]
        weights = draw_weights(self.law, keys[1], self.width, self.width, dtype)
        parameters = {
            "read_in": draw_linear(keys[0], self.inputs, self.features, dtype),
            "recurrent": jnp.asarray(gain, dtype) * weights,
            "read_out": draw_linear(keys[2], self.features, self.classes, dtype),
        }
        if self.kind == "gru":
            gates = self.width + self.inputs
            parameters["gates"] = draw_linear(keys[3], gates, 2 * self.width, dtype)
        return parameters

    def hidden(
        self,
        parameters: dict[str, Any],
        x: Float[Array, "n numbers"],
        probes: Float[Array, "steps n width k"] | None = None,
        keep: bool = False,
    ) -> tuple[Any, Float[Array, "states n width k"] | None]:
        """The states to read out, and if `keep` the states after every step.

        The first of the latter is the state before the first step, all zeros, so that steps are
        counted like layers of a deep network.
        """
        n = len(x)
        sequence = jnp.moveaxis(x.reshape(n, -1, self.inputs), 0, -1)
        probes = None if probes is None else jnp.moveaxis(probes, 1, -1)

        def follow(h, here):
            x_t, probe = here
            after = self._step(parameters, h, x_t)
            after = after if probe is None else after + probe
            return after, after

        start = jnp.zeros((self.width, self.components, n), x.dtype)
        _, states = jax.lax.scan(follow, start, (sequence, probes))
        last = states[-1] if self.answers is None else states[-self.answers :]
        read = jnp.moveaxis(last, -1, 0)
        every = jnp.concatenate([start[None], states]) if keep else None
        return read, None if every is None else jnp.moveaxis(every, -1, 1)

    def step(
        self,
        parameters: dict[str, Any],
        h: Float[Array, "n width k"],
        x_t: Float[Array, "n inputs"],
    ) -> Float[Array, "n width k"]:
        """The state after one step."""
        return jnp.moveaxis(self._step(parameters, jnp.moveaxis(h, 0, -1), x_t.T), -1, 0)

    def _step(
        self,
        parameters: dict[str, Any],
        h: Float[Array, "width k n"],
        x_t: Float[Array, "inputs n"],
    ) -> Float[Array, "width k n"]:
        """`step` with inputs on the last axis, which is faster."""
        drive = self._into(parameters["read_in"], x_t).reshape(h.shape)
        if self.kind == "rnn":
            return self.activation(self._times_weights(parameters, h) + drive, axis=-2)
        seen = h[:, 0] if self.components == 1 else _sizes(h)
        gates = self._into(parameters["gates"], jnp.concatenate([seen, x_t]))
        update, reset = jnp.split(jax.nn.sigmoid(gates)[:, None], 2)
        new = self.activation(self._times_weights(parameters, reset * h) + drive, axis=-2)
        return (1 - update) * h + update * new

    def logits(self, parameters: dict[str, Any], x: Float[Array, "n numbers"]) -> Array:
        """Scores of the classes, [n, classes] or [n, answers, classes]."""
        return self.read_out(parameters, self.hidden(parameters, x)[0])

    def read_out(self, parameters: dict[str, Any], hidden: Array) -> Array:
        """Scores from the states to read out."""
        weights, bias = parameters["read_out"]
        flat = hidden.reshape(*hidden.shape[:-2], -1)
        out = jnp.matmul(flat, weights.T, precision=self.precision)
        return out + bias.reshape((1,) * (out.ndim - 1) + bias.shape)

    def _times_weights(self, parameters: dict[str, Any], h: Array) -> Array:
        return apply_weights(self.law, parameters["recurrent"], h, self.precision)

    def _into(self, parameters: tuple[Array, Array], x: Array) -> Array:
        weights, bias = parameters
        return jnp.matmul(weights, x, precision=self.precision) + bias[:, None]


def _sizes(h: Float[Array, "width k n"]) -> Float[Array, "width n"]:
    """|h_i|, with a derivative at 0."""
    return jnp.sqrt(jnp.maximum(jnp.sum(h**2, axis=-2), jnp.finfo(h.dtype).tiny))
