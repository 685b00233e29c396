"""The floating-point precision of a calculation."""

from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

from theory.numerics._arguments import as_real
from theory.numerics._arrays import Array
from theory.numerics._compiled import device_of

_Tree = TypeVar("_Tree")


def needs_float64(name: str) -> None:
    """Raise a `ValueError` that says what to enable unless JAX has float64.

    For results that need differences and thresholds finer than float32.
    """
    if jnp.result_type(float) != jnp.float64:
        raise ValueError(
            f"`{name}`: needs float64; call jax.config.update('jax_enable_x64', True) first"
        )
    check_device(name, device_of())


def check_device(name: str, device: Any, dtype: Any = jnp.float64) -> None:
    """Raise a `ValueError` unless the device computes in a dtype with all of its digits.

    A TPU computes with pairs of float32 instead: some 48 bits, and the range of float32.
    """
    if device.platform == "tpu" and dtype == jnp.float64:
        raise ValueError(
            f"`{name}`: must not be in float64 on a TPU, which only imitates it; choose another "
            "device, as with JAX_PLATFORMS=cpu"
        )


def cast(tree: _Tree, dtype: Any) -> _Tree:
    """Convert every real number to one precision."""
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, tree)


def widest(*trees: Any) -> Any:
    """The precision that can represent every real number of the trees, at least float32."""
    known = [leaf.dtype for leaf in jax.tree.leaves(trees) if eqx.is_inexact_array(leaf)]
    return max([jnp.dtype(jnp.float32), *known], key=lambda dtype: jnp.finfo(dtype).bits)


def as_signals(name: str, signals: Any) -> Array:
    """Convert signals to an array of floating-point numbers.

    Raises
    ------
    ValueError
        If they are not real numbers, or in float64 on a TPU.
    """
    array = jnp.asarray(as_real(name, signals))
    if jnp.issubdtype(array.dtype, jnp.integer):
        array = array.astype(jnp.result_type(float))
    check_device(name, device_of(array), array.dtype)
    return array
