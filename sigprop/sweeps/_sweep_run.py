"""Running a sweep: what is missing, who computes it, and how progress is reported."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import xarray as xr
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from sigprop.networks import memory_limit
from sigprop.storage import is_empty_folder, place_of, writing
from sigprop.sweeps._sweep import Sweep
from sigprop.sweeps._sweep_files import union
from sigprop.sweeps._sweep_program import Engine, structures
from sigprop.sweeps._sweep_status import SweepStatus, sweep_status
from sigprop.sweeps._sweep_store import (
    SweepStore,
    create_store,
    dataset_of,
    gather,
    nested,
    open_store,
    prepare,
)
from theory.numerics import Report, check_count, check_device, check_kind, cores, counter, shown

_MOST_WORKERS = 16
SHARE = 0.8
"""Fraction of the available memory to use."""


class SweepRun(NamedTuple):
    """What a run has done."""

    computed: int
    """Networks computed."""
    reused: int
    """Networks that existed before."""
    elsewhere: int
    """Networks left to other shards and hosts."""
    memory: int
    """Bytes, as reported before the run."""
    workers: int
    """Number of chunks in progress at once."""
    compile_seconds: float
    """Seconds before the first chunk."""
    seconds: float
    """Seconds from the first chunk to the last."""
    compute_seconds: float
    """Seconds inside the compiled programs, summed over the workers."""


def run_sweep(
    sweep: Sweep,
    path: str | PathLike[str],
    *,
    mesh: Mesh | None = None,
    shard: tuple[int, int] = (0, 1),
    chunk: int | None = None,
    workers: int | None = None,
    progress: Report | None = None,
) -> SweepRun:
    """Measure the missing part of a sweep, and store it in a Zarr store.

    Parameters
    ----------
    sweep
        What to measure.
    path
        The store. An existing one may contain a part of the sweep, with fewer values on the axes
        or fewer replicas: its results are kept and not computed again.
    mesh
        Devices to distribute the networks over, with any axes. On a mesh over several hosts, each
        process uses its own devices. By default the first device of this process.
    shard
        (i, n) computes part i of n, counted from 0. Write each part to its own store and join
        them with `merge_sweeps`.
    chunk
        Networks to write at once, for a new store; by default about a second of work.
    workers
        Number of chunks in progress at once. By default one per core on a CPU and 2 elsewhere, so
        that one is written while the next is computed; fewer if memory is short.
    progress
        Called with a `theory.numerics.Progress` before anything is computed and after every
        chunk. It counts the networks of this run that are written, estimates the remaining time
        from the work done and left, and names the memory that the run needs in addition to that
        of JAX itself.

    Returns
    -------
    SweepRun

    Raises
    ------
    ValueError
        If the store cannot be written, is being written by another run, has another version, or
        contains results that are not in the sweep; if there is not enough memory. Earlier results
        are kept.

    Convention
    ----------
    With `jax.distributed`, call it on every host with the same arguments and a path that all can
    access: process 0 creates the store, and each process computes and writes every P-th chunk.

    Accuracy
    --------
    The order of the work, `mesh`, `shard`, `chunk` and `workers` change no bit of the numbers. A
    run that is killed at any moment and called again ends with the same bits.
    """
    check_kind("sweep", sweep, Sweep, "a sigprop.Sweep")
    path = place_of(path)
    whole = isinstance(shard, tuple | list) and all(type(number) is int for number in shard)
    if not whole or len(shard) != 2 or not 0 <= shard[0] < shard[1]:
        raise ValueError(f"`shard`: must be (i, n) with 0 <= i < n; got {shown(shard)}")
    number, parts = shard
    for name, value in (("chunk", chunk), ("workers", workers)):
        if value is not None:
            check_count(name, value)
    if mesh is not None:
        check_kind("mesh", mesh, Mesh, "a jax.sharding.Mesh")
    counter(progress, "networks", 0)
    if sweep.dtype == "float64" and jax.numpy.result_type(float) != np.float64:
        raise ValueError("`dtype`: must be float32 without jax_enable_x64; got float64")
    if mesh is None:
        mesh = own_mesh()
    elif jax.process_count() > 1:
        mesh = mesh.local_mesh
    device = mesh.devices.flat[0]
    check_device("dtype", device, np.dtype(sweep.dtype))
    ahead = 0.0
    with ExitStack() as stack:
        with together():
            if jax.process_index() == 0:
                stack.enter_context(writing(path))
                if not path.exists() or is_empty_folder(path):
                    # Before anything is written. The programs are kept and not compiled again.
                    machine = _Machine(sweep, mesh, sweep.chunk(chunk), workers)
                    start = time.perf_counter()
                    machine.compile(np.arange(sweep.points))
                    ahead = time.perf_counter() - start
                with writable(path):
                    prepare(sweep, path, chunk, device)
        with together():
            store = open_store(path)
            counts = store.counts()
        with together():
            chunks = np.arange(store.chunks)[number::parts]
            chunks = chunks[jax.process_index() :: jax.process_count()]
            with writable(path):
                run = _Run(store, mesh, workers, progress).run(chunks, counts)
                return run._replace(compile_seconds=run.compile_seconds + ahead)


def own_mesh() -> Mesh:
    """The first device of this process."""
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((1,), ("devices",), auto, devices=jax.local_devices()[:1])


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Report on one line that the system cannot write, and why."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(
            f"`path`: must be writable; got {reason} for {path}; finished results are kept"
        ) from error


@contextmanager
def together() -> Iterator[None]:
    """Leave at the same time on every host, or with an error on every host."""
    if jax.process_count() == 1:
        yield
        return
    failed = None
    try:
        yield
    except Exception as error:
        failed = error
    every = multihost_utils.process_allgather(np.array([failed is not None]))
    if failed is not None:
        raise failed
    if np.any(every):
        first = int(np.flatnonzero(np.ravel(every))[0])
        raise ValueError(
            f"`path`: must be writable by every host; process {first} reports what failed"
        )


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.{0 if size >= 1e7 else 1}f} MB"


class _Machine:
    """The compiled programs of a sweep on a mesh, and how many chunks they take at a time."""

    def __init__(self, sweep: Sweep, mesh: Mesh, chunk: tuple[int, int], workers: int | None):
        self.sweep, self.mesh, self.workers = sweep, mesh, workers
        size, at_once = math.prod(chunk), sweep.at_once(mesh.devices.flat[0].platform)
        self.chunks_per_task = max(1, mesh.size * at_once // size)
        self.networks = size * self.chunks_per_task
        self.engine = Engine(sweep, mesh, self.networks)

    def compile(self, points: np.ndarray) -> tuple[int, int]:
        """Compile every program; return how many chunks fit in memory at once, and their bytes."""
        first = np.unique(self.engine.structure[points], return_index=True)[1]
        with ThreadPoolExecutor(2) as pool:
            programs = list(pool.map(self.engine.program, map(int, points[first])))
        largest = max(program.memory for program in programs)
        host = 3 * self.networks * self.sweep.row_bytes()
        device = self.mesh.devices.flat[0]
        if device.platform == "cpu":
            each = largest * self.mesh.size + host
            room = memory_limit()
            wanted = max(1, min(_MOST_WORKERS, cores() // self.mesh.size))
        else:
            each = largest
            stats = device.memory_stats() or {}
            room, wanted = stats.get("bytes_limit", each * 4), 2
        wanted = self.workers or wanted
        workers = min(wanted, int(SHARE * room) // max(each, 1))
        if workers < 1:
            raise ValueError(
                f"`width`: must fit in memory; got a need of {each / 1e9:.1f} GB for one chunk, "
                f"of {room / 1e9:.1f} GB"
            )
        return workers, workers * each


class _Run:
    """One call of `run_sweep` in one process."""

    def __init__(self, store: SweepStore, mesh: Mesh, workers: int | None, progress):
        self.store, self.sweep, self.progress = store, store.sweep, progress
        chunk = (store.points_per_chunk, store.replicas_per_chunk)
        self.machine = _Machine(self.sweep, mesh, chunk, workers)
        self.engine = self.machine.engine
        _, first, kind = np.unique(self.engine.structure, return_index=True, return_inverse=True)
        points = [self.sweep.point(int(i)) for i in first]
        each = np.array([self.sweep.work(p["depth"], p["width"]) for p in points])
        self.work = each[kind]
        """Work of a network at every point."""

    def run(self, chunks: np.ndarray, counts: np.ndarray) -> SweepRun:
        """Compute the missing networks of chunks; `counts` are those of all markers."""
        in_all = self.sweep.points * self.sweep.replicas
        missing = self._missing(chunks)
        total = sum(len(points) for points in missing.values())
        # What is damaged in these chunks is not there; of the others the markers are believed.
        own = sum(self.store.networks(chunk) for chunk in map(int, chunks)) - total
        believed = sum(self.store.counted(chunk, counts) for chunk in map(int, chunks))
        before = int(counts.sum()) - believed + own
        tasks = [*missing]
        step = self.machine.chunks_per_task
        batches = [tasks[i : i + step] for i in range(0, len(tasks), step)]
        if not batches:
            return SweepRun(0, before, in_all - before, 0, 0, 0.0, 0.0, 0.0)
        start = time.perf_counter()
        workers, memory = self.machine.compile(np.concatenate([*missing.values()]))
        compiling = time.perf_counter() - start
        left = sum(float(self.work[points].sum()) for points in missing.values())
        start, done, finished = time.perf_counter(), 0, 0.0
        count = counter(self.progress, f"networks ({_megabytes(memory)} of memory)", total)
        count(0)
        with ThreadPoolExecutor(workers) as pool:
            waiting = iter(batches)
            running: dict[Future, list[int]] = {}
            try:
                while True:
                    while len(running) < workers and (batch := next(waiting, None)) is not None:
                        running[pool.submit(self._compute, batch)] = batch
                    if not running:
                        break
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        batch = running.pop(future)
                        future.result()
                        done += sum(len(missing[chunk]) for chunk in batch)
                        finished += sum(float(self.work[missing[chunk]].sum()) for chunk in batch)
                        count(done, 1.0 if done == total else finished / left)
            finally:
                pool.shutdown(cancel_futures=True)
        return SweepRun(
            done,
            before,
            max(0, in_all - before - done),
            memory,
            workers,
            compiling,
            time.perf_counter() - start,
            self.engine.compute_seconds,
        )

    def _missing(self, chunks: np.ndarray) -> dict[int, np.ndarray]:
        """For every incomplete chunk, the points of the missing networks."""
        found = {}
        for chunk in map(int, chunks):
            rows, replicas = self.store.region(chunk)
            _, counts = self.store.read(chunk)
            gaps = replicas.stop - replicas.start - counts
            if gaps.any():
                found[chunk] = np.repeat(np.arange(rows.start, rows.stop), gaps)
        return found

    def _compute(self, chunks: list[int]) -> None:
        """Fill the gaps of some chunks and write them."""
        known = [self.store.read(chunk) for chunk in chunks]
        points, replicas, places = [], [], []
        for (_, counts), chunk in zip(known, chunks, strict=True):
            rows, block = self.store.region(chunk)
            inside = np.arange(block.stop - block.start)
            row, column = np.nonzero(inside >= counts[:, None])
            points.append(rows.start + row)
            replicas.append(block.start + column)
            places.append((row, column))
        every, numbers = np.concatenate(points), np.concatenate(replicas)
        ends = np.cumsum([len(p) for p in points])
        found = {}
        for chosen in structures(self.engine, every):
            for name, values in self.engine.run(every[chosen], numbers[chosen]).items():
                whole = found.setdefault(
                    name, np.empty((len(every), *values.shape[1:]), values.dtype)
                )
                whole[chosen] = values
        for (arrays, counts), chunk, place, end in zip(known, chunks, places, ends, strict=True):
            for name, values in found.items():
                arrays[name][place] = values[end - len(place[0]) : end]
            _, block = self.store.region(chunk)
            self.store.write(chunk, arrays, np.full_like(counts, block.stop - block.start))


def merge_sweeps(paths: Sequence[str | PathLike[str]], output: str | PathLike[str]) -> SweepStatus:
    """Join the stores of shards, or of sweeps with other values on the axes, into one.

    Parameters
    ----------
    paths
        Stores of sweeps that differ only in the values of their axes and in replicas.
    output
        The store to create; if it exists it is joined as well.

    Raises
    ------
    ValueError
        If sweeps, versions or devices differ, or two stores have different numbers for one cell;
        if the output cannot be written. Existing stores stay unchanged.
    """
    output = place_of(output, "output")
    if isinstance(paths, str | bytes) or not isinstance(paths, Iterable):
        raise TypeError(f"`paths`: must be a sequence of paths; got {shown(paths)}")
    places = list(dict.fromkeys(place_of(path, "paths") for path in paths))
    if output.exists() and not output.is_dir():
        raise ValueError(f"`output`: must be free or the store of a sweep; got a file, {output}")
    with writing(output):
        if output.exists() and any(output.iterdir()):
            places = [output, *(path for path in places if path != output)]
        if not places:
            raise ValueError("`paths`: must be at least one store; got none")
        sources = [_source(path) for path in places]
        for other in sources[1:]:
            for name, value in sources[0].environment.items():
                if other.environment.get(name) != value:
                    raise ValueError(
                        f"`paths`: must be of one {name}; got {value}, "
                        f"{other.environment.get(name)}, {other.path}"
                    )
        whole = union([source.sweep for source in sources])
        with writable(output):
            store = create_store(
                whole,
                output,
                chunk=nested(whole, sources),
                where=sources[0].environment,
                fill=lambda new: gather(new, sources),
            )
    return sweep_status(store.path)


def _source(path: Path) -> SweepStore:
    """A store to be merged."""
    try:
        return open_store(path, write=False)
    except ValueError as error:
        raise ValueError(str(error).replace("`path`", "`paths`", 1)) from error


def read_sweep(path: str | PathLike[str]) -> xr.Dataset:
    """Load everything measured in a sweep, network by network.

    Parameters
    ----------
    path
        The store.

    Returns
    -------
    xr.Dataset
        Every observable under its own name, with dimensions (axes of the sweep…, replica, layer,
        input, pair or its own); for ratios of means also `length` and `overlap`. NaN where a
        network is missing, and where a layer has no such number. Negative layers count from the
        last.

    Convention
    ----------
    A ratio, such as a correlation, is that of each network. Its mean over replicas is not the
    ratio of the means, which `summarise_sweep` computes. A ratio of your own is left out if its
    function is not imported.

    Raises
    ------
    ValueError
        If there is no sweep store at `path`.
    """
    return dataset_of(open_store(place_of(path), write=False))
