"""The weights of the layers of an existing model, in order."""

import re
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

_NUMBER = re.compile(r"\d+")


def weight_sequences(model: Any) -> dict[str, list[Array]]:
    """Find the matrices that occur once in every layer.

    Parameters
    ----------
    model
        Any tree of arrays: an equinox or Flax nnx module, the variables of a Flax linen module,
        nested or flat dictionaries of a checkpoint, parameters of `sigprop.experiments`.

    Returns
    -------
    The matrices in order, each [outputs, inputs], by name, with * for the number of the layer.
    Layers may be numbered ("layers.3.weight", "Dense_3"), or be one array with a leading axis.

    Raises
    ------
    ValueError
        If no matrix occurs in two layers.

    Notes
    -----
    Arrays called kernel are [inputs, outputs], as in Flax, and are transposed; the heads of an
    attention are joined. If a name contains several numbers, the first one that varies is that of
    the layer.
    """
    found: dict[str, dict[int, Array]] = {}
    whole: dict[str, list[Array]] = {}
    leaves = jax.tree_util.tree_leaves_with_path(model)
    named = [(_name(path), leaf) for path, leaf in leaves if _is_weight(leaf)]
    for name, leaf in named:
        array = jnp.asarray(leaf)
        if array.ndim == 4 and array.shape[-1] == 1:
            array = array[..., 0]
        matrix = _matrix(name, array)
        if matrix is None:
            if array.ndim == 3 and len(array) > 1:
                kernel = name.rsplit("/", 1)[-1] == "kernel"
                whole[name] = list(jnp.swapaxes(array, 1, 2) if kernel else array)
            continue
        for place in _NUMBER.finditer(name):
            pattern = f"{name[: place.start()]}*{name[place.end() :]}"
            found.setdefault(pattern, {})[int(place[0])] = matrix
    several = {p: layers for p, layers in found.items() if len(layers) > 1}
    result = dict(whole)
    used: set[int] = set()
    # Patterns whose number comes first in the name take precedence.
    for pattern in sorted(several, key=lambda p: (p.index("*"), p)):
        layers = several[pattern]
        if used.isdisjoint(map(id, layers.values())):
            used.update(map(id, layers.values()))
            result[pattern] = [layers[i] for i in sorted(layers)]
    if not result:
        raise ValueError("`model`: must contain a matrix that occurs in two layers; got none")
    return result


def _name(path: Any) -> str:
    parts = []
    for key in path:
        part = next((getattr(key, a) for a in ("name", "key", "idx") if hasattr(key, a)), key)
        parts.append(str(part))
    return "/".join(p for p in parts if p not in ("value", "raw_value", "params", ""))


def _is_weight(leaf: Any) -> bool:
    shape, dtype = getattr(leaf, "shape", ()), getattr(leaf, "dtype", None)
    return len(shape) in (2, 3, 4) and dtype is not None and jnp.issubdtype(dtype, jnp.floating)


def _matrix(name: str, array: Array) -> Array | None:
    """[outputs, inputs], or None if it is not a matrix of one layer."""
    kernel = name.rsplit("/", 1)[-1] == "kernel"
    if array.ndim == 2:
        return array.T if kernel else array
    if array.ndim == 3 and kernel and _NUMBER.search(name):
        # Attention in Flax: [inputs, heads, size] before it, [heads, size, outputs] after it.
        parts = name.split("/")
        into = len(parts) > 1 and parts[-2] in ("query", "key", "value")
        first = array.shape[0] if into else array.shape[0] * array.shape[1]
        return array.reshape(first, -1).T
    return None
