"""Random matrices drawn from the weight law of a description."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from theory import WeightLaw


def draw_weights(
    law: WeightLaw, key: Key[Array, ""], fan_out: int, fan_in: int, dtype: Any
) -> Float[Array, "fan_out fan_in tables"]:
    """The real numbers w_a of w = Σ_a w_a e_a for every pair of units.

    Convention: variance σ_w²/fan_in per unit pair (see `WeightLaw`). "orthogonal" draws a
    Haar-distributed matrix, of which a rectangular layer takes the leading rows or columns,
    scaled to the same second moment.
    """
    tables = law.table.shape[0]
    scale = jnp.sqrt(law.entry_variance / fan_in).astype(dtype)
    if law.distribution == "gaussian":
        return scale * jax.random.normal(key, (fan_out, fan_in, tables), dtype)
    if tables != 1:
        raise NotImplementedError("orthogonal weights need a table of one matrix")
    larger, smaller = max(fan_out, fan_in), min(fan_out, fan_in)
    # The Q of a Gaussian matrix is Haar once the signs of R's diagonal are absorbed.
    q, r = jnp.linalg.qr(jax.random.normal(key, (larger, smaller), dtype))
    q = q * jnp.where(jnp.diagonal(r) < 0, -1, 1).astype(dtype)[None]
    q = q if fan_out >= fan_in else q.T
    # An entry of a Haar matrix of size `larger` has variance 1/larger.
    return (scale * jnp.sqrt(jnp.asarray(larger, dtype)) * q)[:, :, None]


def product(
    law: WeightLaw,
    key: Key[Array, ""],
    vectors: Float[Array, "fan_in k columns"],
    fan_out: int,
    *,
    precision: str = "highest",
) -> Float[Array, "fan_out k_out columns"]:
    """W v for every column v, with one freshly drawn W that is dropped afterwards."""
    fan_in, _, columns = vectors.shape
    table = jnp.asarray(law.table, vectors.dtype)
    tables, k_out, _ = table.shape
    weights = draw_weights(law, key, fan_out, fan_in, vectors.dtype)
    # One matrix product: the vectors are lifted by each e_a, the weights stay real.
    lifted = jnp.einsum("aoi,uic->uaoc", table, vectors, precision=precision)
    out = jnp.matmul(
        weights.reshape(fan_out, fan_in * tables),
        lifted.reshape(fan_in * tables, k_out * columns),
        precision=precision,
    )
    return out.reshape(fan_out, k_out, columns)
