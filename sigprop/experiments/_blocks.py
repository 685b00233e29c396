"""Deep classifiers whose branch ends in the nonlinearity: h ↦ [h +] φ(W norm(h))."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sigprop.experiments._classifier import draw_linear
from theory.description import Activation

Normalisation = Literal["none", "layer", "rms"]
_EPSILON = 1e-5


class BlockClassifier(eqx.Module):
    """Linear(pixels → features), L layers h ↦ [h +] φ(W norm(h)), Linear(features → classes).

    It has no mean-field description, since the branch does not end in fresh weights. W reads the
    stream h in its input space, and φ acts in its output space.

    W is square and dense, with independent N(0, σ_w²/features) entries, or with `shared` one real
    number between two units of k components, N(0, σ_w² k/features). A radial φ of units with
    k components commutes with the rotations of a unit. With k = features it is one function of
    the whole layer, and W is dense whatever the symmetry.
    """

    activation: Activation
    pixels: int = eqx.field(static=True)
    features: int = eqx.field(static=True)
    classes: int = eqx.field(static=True)
    depth: int = eqx.field(static=True)
    components: int = eqx.field(static=True, default=1)
    shared: bool = eqx.field(static=True, default=False)
    residual: bool = eqx.field(static=True, default=True)
    normalisation: Normalisation = eqx.field(static=True, default="none")
    precision: str = eqx.field(static=True, default="highest")

    def __check_init__(self):
        if self.features % self.components:
            raise ValueError(
                f"`features`: must be a multiple of the {self.components} components of a "
                f"unit; got {self.features}"
            )

    def draw(
        self, key: Key[Array, ""], gain: float | Float[Array, ""] = 1.0, dtype: Any = jnp.float32
    ) -> dict[str, Any]:
        """The parameters at initialisation, with σ_w = gain."""
        keys = [jax.random.fold_in(key, i) for i in range(3)]
        size = self.features // self.components if self.shared else self.features
        blocks = jax.random.normal(keys[1], (self.depth, size, size), dtype)
        return {
            "read_in": draw_linear(keys[0], self.pixels, self.features, dtype),
            "blocks": jnp.asarray(gain, dtype) / jnp.sqrt(jnp.asarray(size, dtype)) * blocks,
            "read_out": draw_linear(keys[2], self.features, self.classes, dtype),
        }

    def logits(
        self, parameters: dict[str, Any], x: Float[Array, "n pixels"]
    ) -> Float[Array, "n classes"]:
        """Scores of the classes."""
        last, _ = self.states(parameters, x)
        weights, bias = parameters["read_out"]
        out = jnp.matmul(weights, self._normalised(last), precision=self.precision)
        return (out + bias[:, None]).T

    def states(
        self, parameters: dict[str, Any], x: Float[Array, "n pixels"]
    ) -> tuple[Float[Array, "features n"], Float[Array, "depth features n"]]:
        """The last state, and the inputs of every W; the components of a unit come second."""
        weights, bias = parameters["read_in"]
        start = jnp.matmul(weights, x.T, precision=self.precision) + bias[:, None]
        return self._through(parameters, start)

    def _through(self, parameters: dict[str, Any], start: Float[Array, "features n"]):
        def layer(h, w):
            into = self._normalised(h)
            rows = into.reshape(w.shape[1], -1)
            branch = jnp.matmul(w, rows, precision=self.precision)
            units = branch.reshape(-1, self.components, into.shape[1])
            branch = self.activation(units, axis=-2).reshape(h.shape)
            return (h + branch if self.residual else branch), into

        return jax.lax.scan(layer, start, parameters["blocks"])

    def inside(
        self, parameters: dict[str, Any], z: Float[Array, "n width k"]
    ) -> Float[Array, "n width k"]:
        """The layers alone, from the state after the first map to the last state."""
        start = jnp.moveaxis(z, 0, -1).reshape(self.features, -1)
        last, _ = self._through(parameters, start)
        return jnp.moveaxis(last.reshape(*z.shape[1:], -1), -1, 0)

    def layer_weights(self, parameters: dict[str, Any]) -> Float[Array, "depth size size"]:
        """The matrices of the layers."""
        return parameters["blocks"]

    def layer_inputs(
        self, parameters: dict[str, Any], x: Float[Array, "n pixels"]
    ) -> Float[Array, "depth size columns"]:
        """The inputs of the matrices, as columns."""
        into = self.states(parameters, x)[1]
        return into.reshape(len(into), parameters["blocks"].shape[2], -1)

    def _normalised(self, h: Float[Array, "features n"]) -> Float[Array, "features n"]:
        if self.normalisation == "none":
            return h
        if self.normalisation == "layer":
            h = h - jnp.mean(h, axis=0, keepdims=True)
        return h / jnp.sqrt(jnp.mean(h * h, axis=0, keepdims=True) + _EPSILON)
