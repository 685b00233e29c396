"""A trained network as a Flax module."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float


class Network(nnx.Module):
    """The function `model.logits`, with every array of the parameters as an `nnx.Param`.

    Create it with `to_nnx`. The parameters are named by their place in the tree of the model,
    `parameters["read_in_0"]` and so on, and can be trained, split and saved as in any module.
    """

    def __init__(self, model: Any, parameters: Any):
        places, structure = jax.tree_util.tree_flatten_with_path(parameters)
        named = {_name(path): nnx.Param(leaf) for path, leaf in places}
        self.parameters = nnx.Dict(named)
        self._names = tuple(named)

        def scores(leaves, x):
            return model.logits(jax.tree.unflatten(structure, leaves), x)

        self._scores = scores  # the variances of the description are not state of the module

    def __call__(self, x: Float[Array, "n numbers"]) -> Array:
        """Scores of the classes."""
        leaves = [self.parameters[name][...] for name in self._names]
        return self._scores(leaves, x)


def _name(path: tuple[Any, ...]) -> str:
    keys = (
        getattr(step, "key", getattr(step, "idx", getattr(step, "name", None))) for step in path
    )
    return "_".join(str(key) for key in keys)


def to_nnx(model: Any, parameters: Any) -> Network:
    """Convert a model and its parameters to one `flax.nnx` module.

    Parameters
    ----------
    model
        A `Classifier`, `SequenceClassifier` or other `Model`.
    parameters
        From `model.draw`, or trained.
    """
    return Network(model, parameters)
