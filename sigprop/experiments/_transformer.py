"""A small language model on bytes: attention with Q, K, V, O and a gated MLP, RMS normalisation."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

BYTES = 256
PROJECTIONS = ("query", "key", "value", "out", "gate", "up", "down")
"""The first three, gate and up read from the residual stream; out and down write to it."""


class _Layer(nnx.Module):
    """h + O attention(norm h), then h + Down(silu(Gate n) · Up n), n = norm h."""

    def __init__(self, features: int, heads: int, hidden: int, rngs: nnx.Rngs):
        linear = lambda into, out: nnx.Linear(into, out, use_bias=False, rngs=rngs)
        self.query, self.key = linear(features, features), linear(features, features)
        self.value, self.out = linear(features, features), linear(features, features)
        self.gate, self.up = linear(features, hidden), linear(features, hidden)
        self.down = linear(hidden, features)
        self.before, self.between = (nnx.RMSNorm(features, rngs=rngs) for _ in range(2))
        self.heads = heads

    def __call__(self, h: Float[Array, "n steps features"]) -> Float[Array, "n steps features"]:
        n, steps, features = h.shape
        into = self.before(h)
        split = lambda x: x.reshape(n, steps, self.heads, features // self.heads)
        q, k = (_rotated(split(part(into))) for part in (self.query, self.key))
        found = jax.nn.dot_product_attention(q, k, split(self.value(into)), is_causal=True)
        h = h + self.out(found.reshape(n, steps, features))
        into = self.between(h)
        return h + self.down(jax.nn.silu(self.gate(into)) * self.up(into))


def _rotated(x: Float[Array, "n steps heads size"]) -> Float[Array, "n steps heads size"]:
    """Rotary positions (Su et al. 2021)."""
    _, steps, _, size = x.shape
    rate = 10_000.0 ** (-jnp.arange(0, size, 2, dtype=x.dtype) / size)
    angle = (jnp.arange(steps, dtype=x.dtype)[:, None] * rate[None])[None, :, None]
    one, two = x[..., ::2], x[..., 1::2]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([one * cos - two * sin, one * sin + two * cos], axis=-1).reshape(x.shape)


class _Network(nnx.Module):
    def __init__(self, features: int, heads: int, hidden: int, depth: int, rngs: nnx.Rngs):
        self.embed = nnx.Embed(BYTES, features, rngs=rngs)
        self.layers = nnx.List([_Layer(features, heads, hidden, rngs) for _ in range(depth)])
        self.last = nnx.RMSNorm(features, rngs=rngs)
        self.read_out = nnx.Linear(features, BYTES, use_bias=False, rngs=rngs)

    def __call__(self, tokens: Array) -> Array:
        h = self.embed(tokens)
        for layer in self.layers:
            h = layer(h)
        return self.read_out(self.last(h))


class Transformer(eqx.Module):
    """Predict the next byte at every step, with the architecture of Llama (Touvron et al. 2023)."""

    features: int = eqx.field(static=True)
    depth: int = eqx.field(static=True)
    heads: int = eqx.field(static=True, default=4)
    deviation: float = eqx.field(static=True, default=0.02)
    """Standard deviation of all weights at gain 1."""

    def _parts(self) -> tuple[Any, Any]:
        """The graph of the module, and its state without numbers."""
        hidden = 8 * self.features // 3
        how = (self.features, self.heads, hidden, self.depth)
        return nnx.split(nnx.eval_shape(lambda: _Network(*how, nnx.Rngs(0))))

    def draw(
        self, key: Key[Array, ""], gain: float | Float[Array, ""] = 1.0, dtype: Any = jnp.float32
    ) -> dict[str, Any]:
        """All matrices N(0, (gain · deviation)²), the scales of norms 1."""
        leaves, structure = jax.tree.flatten(nnx.to_pure_dict(self._parts()[1]))
        scale = jnp.asarray(gain, dtype) * jnp.asarray(self.deviation, dtype)
        drawn = [
            scale * jax.random.normal(jax.random.fold_in(key, i), leaf.shape, dtype)
            if leaf.ndim > 1
            else jnp.ones(leaf.shape, dtype)
            for i, leaf in enumerate(leaves)
        ]
        return jax.tree.unflatten(structure, drawn)

    def logits(
        self, parameters: dict[str, Any], x: Float[Array, "n steps"]
    ) -> Float[Array, "n steps bytes"]:
        """Scores of the next byte at every step."""
        graph, state = self._parts()
        nnx.replace_by_pure_dict(state, parameters)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return nnx.merge(graph, state)(x.astype(jnp.int32))

    def projections(self, parameters: dict[str, Any]) -> dict[str, Float[Array, "depth out in"]]:
        """The matrices of all layers by name, [outputs, inputs]."""
        layers = parameters["layers"]
        stack = lambda name: jnp.stack([layers[i][name]["kernel"].T for i in range(self.depth)])
        return {name: stack(name) for name in PROJECTIONS}
