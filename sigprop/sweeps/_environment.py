"""What the bits of a sweep depend on besides its fields."""

import hashlib
import platform
from importlib.metadata import version
from typing import Any

import numpy as np

from sigprop.sweeps._sweep import Sweep
from sigprop.sweeps._sweep_status import SCHEMA


def environment(sweep: Sweep, device: Any = None) -> dict[str, Any]:
    """What determines the bits of a result besides the fields.

    It consists of versions, configuration, the content of a data set, and the device that runs the
    networks, by default the first one of this process.
    """
    import jax

    from theory.numerics import plain_options

    device = device or jax.local_devices()[0]
    content = sweep.inputs
    if content != "gram":
        signals = np.asarray(sweep.signals(1.0, 0.0))
        content = hashlib.sha256(signals.tobytes()).hexdigest()
    config: Any = jax.config
    return {
        "schema": SCHEMA,
        "sigprop": version("sigprop"),
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        "platform": device.platform,
        "device": device.device_kind,
        "machine": platform.machine(),
        "x64": bool(config.jax_enable_x64),
        "random": str(config.jax_default_prng_impl),
        "random_partitionable": bool(config.jax_threefry_partitionable),
        "compiler": plain_options(device.platform),
        "networks_at_once": sweep.at_once(device.platform),
        "inputs": content,
    }
