"""Sweeps of small cells, and on several devices."""

import os
import subprocess
import sys
import tempfile

import jax
import numpy as np

import sigprop


def sweep_run(workers, mesh=None, points=100, replicas=4):
    """A sweep of small cells into an empty store."""
    sweep = sigprop.Sweep(
        weight_variance=np.linspace(0.5, 3, points),
        bias_variance=np.linspace(0, 0.5, points),
        width=32,
        depth=20,
        replicas=replicas,
        observables=("length", "correlation", "slope"),
    )
    with tempfile.TemporaryDirectory() as folder:
        return sigprop.run_sweep(sweep, f"{folder}/sweep.zarr", workers=workers, mesh=mesh)


def device_seconds(devices):
    """A sweep on some simulated devices of this machine, one chunk in work; in this process."""
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((devices,), ("d",), auto, devices=jax.devices()[:devices])
    return sweep_run(1, mesh).seconds


def scaling(repeats):
    """Seconds on one and on two simulated devices, side by side in one process."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import jax; "
        "jax.config.update('jax_enable_x64', True); "
        "from benchmarks.sweeps import device_seconds; "
        "[print(*(device_seconds(d) for d in (1, 2))) for _ in range(int(sys.argv[2]))]"
    )
    flags = "--xla_force_host_platform_device_count=2"
    argv = [sys.executable, "-c", code, os.path.dirname(os.path.dirname(__file__)), str(repeats)]
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(argv, env=environment, check=True, capture_output=True, text=True)
    times = np.array([list(map(float, line.split())) for line in done.stdout.splitlines()])
    return np.median(times, axis=0)
