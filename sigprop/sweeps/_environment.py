"""What the bits of a sweep depend on besides its fields."""

import hashlib
from typing import Any

import numpy as np

from sigprop.storage import environment_of
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
    return {
        **environment_of(device),
        "schema": SCHEMA,
        "compiler": plain_options(device.platform),
        "networks_at_once": sweep.at_once(device.platform),
        "inputs": content,
    }
