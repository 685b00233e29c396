"""Weights that are shared over time: stored, or known only through their products so far.

Notation: W is Gaussian with unit variance, or √size times a block of a Haar matrix O of that
size. Going forward it is known by W Q = A, with Q orthonormal and A Gaussian (or √size times a
frame). That is equivalent to a draw of W, which never meets a direction outside Q. Going backward
Wᵀ g = Q Aᵀ g + (1 − Q Qᵀ) Z Pᵀ g, with P an orthonormal frame of the backward signals (for O
without its part inside A) and Z drawn like A. Rows of the arrays are columns of these matrices.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from sigprop.networks._random import normal
from sigprop.networks._weights import draw_weights, haar_size, images, lift, of_units, products_of
from theory import Affine, WeightLaw
from theory.description import Survey
from theory.numerics import largest_exponent, times_power


class HeldWeights(eqx.Module):
    """An `Affine` with drawn weights."""

    weights: Float[Array, "*layers fan_out fan_in tables"]
    bias: Float[Array, "*layers fan_out k"]


class Products(eqx.Module):
    """An `Affine` whose weights are known only through their products."""

    q: Float[Array, "*layers columns size_in"]
    a: Float[Array, "*layers columns size_out"]
    z: Float[Array, "*layers columns size_in"] | None
    p: Float[Array, "*layers columns size_out"] | None
    """Empty going forward; going backward they travel as their own cotangents."""
    used: Int[Array, "*layers"]
    key: Key[Array, "*layers"]
    bias: Float[Array, "*layers fan_out k"]


Shared = HeldWeights | Products


def shared_product(
    law: WeightLaw,
    memory: Shared,
    vectors: Float[Array, "fan_in k columns"],
    precision: str,
) -> tuple[Float[Array, "fan_out k_out columns"], Shared]:
    """W v for every column v, and the updated knowledge of W."""
    fan_in, _, columns = vectors.shape
    if isinstance(memory, HeldWeights):
        weights = memory.weights.reshape(len(memory.weights), -1)
        out = jnp.matmul(weights, lift(law, vectors, precision), precision=precision)
        return out.reshape(len(weights), law.table.shape[1], columns), memory
    fan_out = len(memory.bias)
    x, height, haar = products_of(law, vectors, fan_out, precision)
    parts = (memory.q, memory.a, memory.z, memory.p)
    rows = jnp.pad(x, ((0, memory.q.shape[1] - len(x)), (0, 0))).T
    used = memory.used
    met: Any = _meet(haar, precision, rows, parts, used, memory.key)
    out, (q, a, z, p) = met
    scale = jnp.sqrt(law.entry_variance / fan_in).astype(vectors.dtype)
    memory = Products(q, a, z, p, used + len(rows) * max(haar, 1), memory.key, memory.bias)
    return of_units(law, scale * out[:, :height].T, fan_out, columns), memory


def _put(known: Array, row: Array, slot: Any, haar: int) -> Array:
    """Put the images of a vector in the rows from a slot on."""
    return jax.lax.dynamic_update_slice_in_dim(known, images(row[:, None], haar).T, slot, 0)


def _extend(
    known: Array, row: Array, slot: Any, haar: int, precision: str
) -> tuple[Array, Array, Array]:
    """Extend the frame by the new part of a vector; also return the vector's coefficients.

    A part of the size of rounding is not new: the frame gets zeros.
    """
    dot = lambda x, y: jnp.matmul(x, y, precision=precision)
    size = jnp.linalg.norm(row)
    rest, inside = row, jnp.zeros(len(known), row.dtype)
    for _ in range(2):  # the second pass removes what rounding left
        along = dot(known, rest)
        rest, inside = rest - dot(along, known), inside + along
    left = jnp.linalg.norm(rest)
    new = left > 32 * jnp.finfo(row.dtype).eps * size
    unit = jnp.where(new, rest / jnp.where(new, left, 1), 0)
    inside = inside.at[slot].set(jnp.where(new, left, 0))
    return _put(known, unit, slot, haar), inside, new


def _fresh(frame: Array, slot: Any, key: Array, outside: tuple, haar: int) -> Array:
    """A random row: Gaussian, or the next one of √size times a Haar frame outside others."""
    row = normal(jax.random.fold_in(key, slot), frame.shape[1:], frame.dtype)
    if not haar:
        return row
    for _ in range(2):
        for known, size in outside:
            row = row - jnp.matmul(jnp.matmul(known, row, precision="highest"), known) / size
    return row * jnp.sqrt(jnp.asarray(row.size, row.dtype)) / jnp.linalg.norm(row)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _meet(haar: int, precision: str, rows: Array, parts: tuple, used: Array, key: Array):
    q, a, z, p = parts
    out, q, a = _columns_forward(haar, precision, rows, q, a, used, key)
    return out, (q, a, z, p)


def _meet_forward(haar, precision, rows, parts, used, key):
    return _meet(haar, precision, rows, parts, used, key), (used, key)


def _meet_reverse(haar, precision, known, cotangent):
    used, key = known
    g, (q, a, z, p) = cotangent
    if z is None:
        raise ValueError(
            "`gradients`: must be True to differentiate through shared weights; got False"
        )
    back, z, p = _columns_backward(haar, precision, g, q, a, z, p, used, key)
    return back, (q, a, z, p), None, None


_meet.defvjp(_meet_forward, _meet_reverse)


@jax.custom_vjp
def end_of_forward(values: Array, memory: Any) -> Array:
    """The identity on values, at the end of a forward pass.

    What is known about the weights at the end starts the backward pass, as its own cotangent.
    """
    return values


def _end_forward(values, memory):
    return values, memory


def _end_reverse(memory, cotangent):
    return cotangent, memory


end_of_forward.defvjp(_end_forward, _end_reverse)


def _columns_forward(haar, precision, rows, q, a, used, key):
    """One column after the other: each may lie in the span of those before it."""

    def step(carry, column):
        q, a = carry
        row, slot = column
        q, inside, new = _extend(q, row, slot, haar, precision)
        drawn = _fresh(a, slot, jax.random.fold_in(key, 0), ((a, a.shape[1]),), haar)
        a = _put(a, jnp.where(new, drawn, 0), slot, haar)
        return (q, a), jnp.matmul(inside, a, precision=precision)

    slots = used + jnp.arange(len(rows)) * max(haar, 1)
    power = largest_exponent(rows, 1)
    (q, a), out = jax.lax.scan(step, (q, a), (times_power(rows, -power), slots))
    return times_power(out, power), q, a


def _columns_backward(haar, precision, rows, q, a, z, p, used, key):
    size = q.shape[1]
    dot = lambda x, y: jnp.matmul(x, y, precision=precision)

    def outside(row):
        for _ in range(2):
            row = row - dot(dot(q, row), q)
        return row

    def step(carry, column):
        z, p = carry
        row, slot = column
        rest = row
        if haar:
            for _ in range(2):
                rest = rest - dot(dot(a, rest), a) / size
            # If a vector lies inside A, only rounding remains.
            large = jnp.linalg.norm(rest) > 32 * jnp.finfo(row.dtype).eps * jnp.linalg.norm(row)
            rest = jnp.where(large, rest, 0)
        p, inside, new = _extend(p, rest, slot, haar, precision)
        drawn = _fresh(z, slot, jax.random.fold_in(key, 1), ((q, 1), (z, size)), haar)
        z = _put(z, jnp.where(new, drawn, 0), slot, haar)
        back = dot(dot(a, row), q) + outside(dot(inside, z))
        return (z, p), back

    slots = used + jnp.arange(len(rows)) * max(haar, 1)
    power = largest_exponent(rows, 1)
    (z, p), out = jax.lax.scan(step, (z, p), (times_power(rows, -power), slots))
    return times_power(out, power), z, p


class Blank(Survey[Array]):
    """Note the weights that an `Affine` of a recurrent body shares, before its first step.

    The state is zeros for one unit; keys are those of the finite network.
    """

    key: Key[Array, "*layers"]
    width: int = eqx.field(static=True)
    columns: int = eqx.field(static=True)
    """Number of vectors that the weights will act on."""
    explicit_weights: bool = eqx.field(static=True)
    gradients: bool = eqx.field(static=True)

    def affine(self, node: Affine, state: Array):
        fan_in = len(state)
        law, dtype = node.weights, state.dtype
        fan_out = self.width if node.width is None else node.width
        key, bias_key = (jax.random.fold_in(self.key, i) for i in range(2))
        tables, k_out, _ = law.table.shape
        draw = jax.random.normal if self.explicit_weights else normal
        bias = jnp.sqrt(node.bias_variance).astype(dtype) * draw(bias_key, (fan_out, k_out), dtype)
        after = jnp.zeros((fan_out, k_out), dtype)
        if self.explicit_weights:
            return after, HeldWeights(draw_weights(law, key, fan_out, fan_in, dtype), bias)
        size_in, size_out, columns = fan_in * tables, fan_out, self.columns * k_out
        if haar_size(law):
            size_in = size_out = max(size_in, fan_out * tables)
            if columns > size_in:
                raise ValueError(
                    f"`width`: must be at least the {columns // tables} vectors that orthogonal "
                    f"weights act on, or weights must be explicit; got {size_in // tables}"
                )
        q, a = (jnp.zeros((columns, size), dtype) for size in (size_in, size_out))
        z, p = (q, a) if self.gradients else (None, None)
        return after, Products(q, a, z, p, jnp.zeros((), int), key, bias)

    def child(self, index: int) -> "Blank":
        return eqx.tree_at(lambda b: b.key, self, jax.random.fold_in(self.key, index))

    def inside_branch(self) -> "Blank":
        return self.child(0)

    def layers(self, depth: int) -> "Blank":
        keys = jax.vmap(lambda layer: jax.random.fold_in(self.key, layer))(jnp.arange(depth))
        return eqx.tree_at(lambda b: b.key, self, keys)

    def through_time(self, step, state: Array, steps: int):
        raise TypeError("`network`: a recurrent body must not contain a Recurrent")
