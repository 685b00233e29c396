"""What the bits of a trained network depend on besides the fields of its study."""

import hashlib
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from sigprop.experiments._data import Labelled
from sigprop.storage import environment_of


def environment(data: Labelled, networks_at_once: int) -> dict[str, Any]:
    """Collect versions, device and configuration, and hash the data.

    Packages that move no number of a training are left out: NumPy and scikit-learn through the
    content of the data, Flax, Equinox and Orbax because they only carry arrays.

    Parameters
    ----------
    data
        What is trained and tested on.
    networks_at_once
        Networks side by side in one program.
    """
    return {
        **environment_of(jax.devices()[0]),
        "optax": version("optax"),
        "networks_at_once": networks_at_once,
        "data": content_of(data),
    }


def content_of(data: Labelled) -> str:
    """A hash of the numbers and labels, the same on every machine."""
    found = hashlib.sha256()
    for part in (data.train, data.train_labels, data.test, data.test_labels):
        values = np.asarray(part)
        little = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
        found.update(f"{little.dtype.str} {little.shape} ".encode())
        found.update(little.data)
    return found.hexdigest()[:16]
