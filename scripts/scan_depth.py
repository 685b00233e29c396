"""Depth and variance of finite networks as a batch job: TPU pods, Slurm steps, Slurm arrays.

python scripts/scan_depth.py [scripts/studies/depth.toml] [--output runs/depth.zarr]

The same command on every host, and again after a host was taken away: what is there is not
computed twice. In a Slurm array each task makes a store of its own, for `sigprop sweep merge`.
"""

import argparse
import os
import shlex
import sys
import time
from pathlib import Path

import jax
from jax.sharding import AxisType

import sigprop
from sigprop.commands._hosts import join_hosts
from sigprop.commands._stop import stoppable
from sigprop.commands._sweep_command import saying
from theory.numerics import Progress

STUDY = Path(__file__).parent / "studies" / "depth.toml"


def whole(option: str, text: str | None) -> int | None:
    if text is not None and not text.isdecimal():
        raise ValueError(f"{option}: must be a whole number; got {text}")
    return None if text is None else int(text)


def part_of(parts: int | None) -> tuple[int, int]:
    """(i, n) for the task of a Slurm array: part i, its own number, of n; (0, 1) without an array.

    A task that is submitted again alone knows nothing of the others, so that n is said by the user.
    """
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    if task is None:
        if parts not in (None, 1):
            raise ValueError(f"--parts: must be 1 outside of a Slurm array; got {parts}")
        return 0, 1
    if not task.isdecimal():
        raise ValueError(f"SLURM_ARRAY_TASK_ID: must be a whole number; got {task!r}")
    if parts is None or not 0 <= int(task) < parts:
        raise ValueError(
            f"--parts: must be the number of tasks of the whole array, 0 to n-1, and above this "
            f"task's own number {task}; got {'none' if parts is None else parts}"
        )
    return int(task), parts


def main(argv: list[str] | None = None) -> sigprop.sweeps.SweepRun:
    parser = argparse.ArgumentParser(description="Measure what is missing of a sweep.")
    parser.add_argument("sweep", nargs="?", type=Path, default=STUDY, help="TOML file")
    parser.add_argument("--output", type=Path, help="Zarr store that every host sees")
    parser.add_argument("--parts", help="tasks of the whole Slurm array, 0 to n-1")
    parser.add_argument("--distributed", action="store_true", help="several hosts together")
    # A TPU pod and a Slurm step are found by JAX; elsewhere say where the first process is.
    parser.add_argument("--coordinator", help="host:port of process 0")
    parser.add_argument("--processes")
    parser.add_argument("--process", help="number of this process, from 0")
    options = parser.parse_args(argv)

    jax.config.update("jax_enable_x64", True)  # theory and addresses as on the command line
    jax.config.update("jax_default_matmul_precision", "highest")
    if options.distributed or options.coordinator:
        join_hosts(
            options.coordinator,
            whole("--processes", options.processes),
            whole("--process", options.process),
        )

    number, parts = part_of(whole("--parts", options.parts))
    output = options.output or Path("runs") / f"{options.sweep.stem}.zarr"
    if parts > 1:
        output = output.with_name(f"{output.name.removesuffix('.zarr')}.{number}-of-{parts}.zarr")
    devices = jax.local_devices()
    mesh = jax.make_mesh(
        (len(devices),), ("devices",), devices=devices, axis_types=(AxisType.Auto,)
    )
    with saying(output):
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
        with stoppable("scan_depth", shlex.join(["python", *sys.argv])):
            main()
    except ValueError as error:
        print(f"scan_depth: {error}", file=sys.stderr)
        sys.exit(2)
