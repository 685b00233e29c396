"""What the bits of a trained network depend on besides the fields of its study."""

import hashlib
import platform
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from sigprop.experiments._data import Labelled


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
    device = jax.devices()[0]
    config: Any = jax.config
    return {
        "sigprop": version("sigprop"),
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        "optax": version("optax"),
        "platform": device.platform,
        "device": device.device_kind,
        "machine": platform.machine(),
        "x64": bool(config.jax_enable_x64),
        "random": str(config.jax_default_prng_impl),
        "random_partitionable": bool(config.jax_threefry_partitionable),
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
