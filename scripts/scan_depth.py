"""Depth and variance of finite networks as a batch job: TPU pods, Slurm steps, Slurm arrays.

python scripts/scan_depth.py [scripts/studies/depth.toml] [--output runs/depth.zarr]

The same command on every host, and again after a host was taken away: what is there is not
computed twice. In a Slurm array each task makes a store of its own, for `sigprop sweep merge`.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import jax
from jax.sharding import AxisType

import sigprop
from theory.numerics import Progress

STUDY = Path(__file__).parent / "studies" / "depth.toml"


def array_task() -> str:
    """The shard "i/n" of a Slurm array's task, "0/1" outside of arrays."""
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")
    task, first, count = (int(os.environ.get(n, d)) for n, d in zip(names, (0, 0, 1), strict=True))
    return f"{task - first}/{count}"


def main(argv: list[str] | None = None) -> sigprop.sweeps.SweepRun:
    parser = argparse.ArgumentParser(description="Measure what is missing of a sweep.")
    parser.add_argument("sweep", nargs="?", type=Path, default=STUDY, help="TOML file")
    parser.add_argument("--output", type=Path, help="Zarr store that every host sees")
    parser.add_argument("--shard", default=array_task(), help="i/n, by default the array's task")
    parser.add_argument("--distributed", action="store_true", help="several hosts together")
    # A TPU pod and a Slurm step are found by JAX; elsewhere say where the first process is.
    parser.add_argument("--coordinator", help="host:port of process 0")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int, help="number of this process, from 0")
    options = parser.parse_args(argv)

    jax.config.update("jax_enable_x64", True)  # theory and addresses as on the command line
    jax.config.update("jax_default_matmul_precision", "highest")
    if options.distributed or options.coordinator:
        jax.distributed.initialize(options.coordinator, options.processes, options.process)

    number, parts = map(int, options.shard.split("/"))
    output = options.output or Path("runs") / f"{options.sweep.stem}.zarr"
    if parts > 1:
        output = output.with_suffix(f".{number}-of-{parts}.zarr")
    devices = jax.local_devices()
    mesh = jax.make_mesh(
        (len(devices),), ("devices",), devices=devices, axis_types=(AxisType.Auto,)
    )
    run = sigprop.run_sweep(
        sigprop.read_sweep_file(options.sweep),
        output,
        mesh=mesh,
        shard=(number, parts),
        progress=Lines(),
    )
    print(f"process {jax.process_index()}: {run}")
    return run


class Lines:
    """A line on stderr at first, every half minute, and at last."""

    def __init__(self) -> None:
        self.last = -float("inf")

    def __call__(self, progress: Progress) -> None:
        ends = progress.done in (0, progress.total)
        if ends or time.monotonic() > self.last + 30:
            self.last = time.monotonic()
            print(progress, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"scan_depth: {error}")
