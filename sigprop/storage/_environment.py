"""What the bits of every result depend on besides its fields."""

import platform
from importlib.metadata import version
from typing import Any


def environment_of(device: Any) -> dict[str, Any]:
    """Collect the versions and the configuration of JAX, and the device that runs a program."""
    import jax

    config: Any = jax.config
    return {
        "sigprop": version("sigprop"),
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        "platform": device.platform,
        "device": device.device_kind,
        "machine": platform.machine(),
        "x64": bool(config.jax_enable_x64),
        "random": str(config.jax_default_prng_impl),
        "random_partitionable": bool(config.jax_threefry_partitionable),
    }
