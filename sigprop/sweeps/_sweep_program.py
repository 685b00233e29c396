"""The compiled programs of a sweep, on one device or a mesh of them.

One program serves all cells of one structure. It loops over batches of networks, and every
network takes its variances, inputs and number from arrays. The computation for a network does not
depend on how many there are, in which order, or on how many devices.
"""

import dataclasses
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sigprop.networks import Sample, sample_network
from sigprop.sweeps._sweep import AXES, STRUCTURE, Sweep
from sigprop.sweeps._sweep_store import Arrays
from theory.numerics import cast, device_of, plain_options


def measured(sweep: Sweep, sample: Sample, depth: int) -> dict[str, jax.Array]:
    """The kept layers of the observables of one network.

    NaN if a layer has no such number or has lost digits.
    """
    sample = sample.known
    labels = np.array(sweep.kept_layers)
    kept = np.where(labels < 0, labels + depth + 1, labels)
    found = {}
    for stored in sweep.stored:
        values: Any = sample.gradient_growth if stored.gradients else stored.values(sample.moments)
        first = stored.first_layer
        inside = (kept >= first) & (kept < first + len(values))
        blank = jnp.full((len(kept), values.shape[1]), jnp.nan, values.dtype)
        if inside.any():
            at = np.clip(kept - first, 0, len(values) - 1)
            blank = jnp.where(inside[:, None], values[at], blank)
        found[stored.name] = blank
    return found


class Program(NamedTuple):
    """A compiled program."""

    call: Any
    steps: int
    """Number of batches on each device."""
    memory: int
    """Bytes on each device, as reported by the compiler."""


class _Key(NamedTuple):
    """What a program is compiled for, besides the fields of a sweep that are not axes."""

    structure: tuple
    steps: int
    at_once: int
    mesh: Mesh
    inputs: tuple[int, ...]
    x64: bool


def traced(sweep: Sweep, key: _Key) -> Any:
    """The program of one structure, traced for a mesh but not compiled."""
    point = dict(zip(STRUCTURE, key.structure, strict=True))
    dtype, platform = jnp.dtype(sweep.dtype), key.mesh.devices.flat[0].platform

    def one(*given):
        # With a barrier on either side, the code in between is compiled identically everywhere.
        signals, *values, replica = jax.lax.optimization_barrier(given)
        numbers = dict(zip(sweep.numbers, values, strict=True))
        ensemble = jax.random.fold_in(jax.random.key(sweep.seed), point["width"])
        sample = sample_network(
            cast(sweep.network({**point, **numbers}), dtype),
            signals,
            key=jax.random.fold_in(ensemble, replica),
            width=point["width"],
            gradients=any(stored.gradients for stored in sweep.stored),
            explicit_weights=sweep.explicit_weights,
            precision=sweep.precision,
        )
        return jax.lax.optimization_barrier(measured(sweep, sample, point["depth"]))

    def on_device(count, inputs, which, *numbers):
        def batch(step):
            given = (inputs[which[step]], *(x[step] for x in numbers))
            if key.at_once > 1:
                return jax.vmap(one)(*given)
            return jax.tree.map(lambda x: x[None], one(*(x[0] for x in given)))

        def fill(step, kept):
            return jax.tree.map(lambda all_, new: all_.at[step].set(new), kept, batch(step))

        lead = (key.steps, key.at_once, len(sweep.kept_layers))
        kept = {
            stored.name: jnp.zeros((*lead, sweep.cells(stored)), dtype) for stored in sweep.stored
        }
        return jax.lax.fori_loop(0, count[0], fill, kept)

    spread, whole = PartitionSpec(key.mesh.axis_names), PartitionSpec()
    placed = lambda shape, kind, spec: jax.ShapeDtypeStruct(
        shape, kind, sharding=NamedSharding(key.mesh, spec)
    )
    specs = (spread, whole, *(spread for _ in range(len(sweep.numbers) + 2)))
    sharded = jax.shard_map(
        on_device, mesh=key.mesh, in_specs=specs, out_specs=spread, check_vma=False
    )
    program: Any = jax.jit(sharded, compiler_options=plain_options(platform))
    table, real = (key.mesh.size * key.steps, key.at_once), jnp.result_type(float)
    # Products that name no precision of their own have that of the sweep, not of the process.
    with jax.default_matmul_precision(sweep.precision):
        return program.trace(
            placed((key.mesh.size,), jnp.int32, spread),
            placed(key.inputs, dtype, whole),
            placed(table, jnp.int32, spread),
            *(placed(table, real, spread) for _ in sweep.numbers),
            placed(table, jnp.int32, spread),
        )


@lru_cache(maxsize=64)
def _compiled(sweep: Sweep, key: _Key) -> Program:
    call = traced(sweep, key).lower().compile()
    stats = call.memory_analysis()
    parts = ("temp", "output", "argument")
    memory = sum(int(getattr(stats, f"{part}_size_in_bytes", 0)) for part in parts)
    return Program(call, key.steps, memory)


class Engine:
    """Runs networks of a sweep on a mesh of devices.

    Parameters
    ----------
    sweep
        What to measure.
    mesh
        Devices of this process.
    most
        Largest number of networks per call; more are run in turns.
    """

    def __init__(self, sweep: Sweep, mesh: Mesh, most: int):
        self.sweep, self.mesh = sweep, mesh
        device = mesh.devices.flat[0]
        self.at_once = sweep.at_once(device.platform)
        self.steps = max(1, -(-most // (mesh.size * self.at_once)))
        self.compute_seconds = 0.0
        self._lock = threading.Lock()
        index = np.unravel_index(np.arange(sweep.points), sweep.shape)
        at = dict(zip(sweep.axis_names, index, strict=True))
        real = np.dtype(jnp.result_type(float))
        column = lambda name: np.array(sweep.values(name), real)[at[name]]
        self._numbers = [column(name) for name in sweep.numbers]
        lengths, correlations = sweep.values("input_length"), sweep.values("input_correlation")
        self._which = at["input_length"] * len(correlations) + at["input_correlation"]
        # There and not elsewhere, since their bits depend on it, too.
        with nullcontext() if device == device_of() else jax.default_device(device):
            self._inputs = jnp.stack([sweep.signals(q, c) for q in lengths for c in correlations])
        sizes = [len(sweep.values(name)) for name in STRUCTURE]
        self.structure = np.ravel_multi_index([at[name] for name in STRUCTURE], sizes)
        """The index of the structure of each point."""
        # Sweeps with other numbers and replicas share programs.
        first: dict[str, Any] = {name: sweep.values(name)[0] for name in AXES}
        first["depth"] = None if sweep.depth is None else max(sweep.values("depth"))
        first |= {name: 1.0 for name in AXES if name in sweep.numbers}
        first["leaves"] = [(path, 1.0) for path, _ in sweep.leaves]
        first["layers"] = sweep.kept_layers
        self._fixed = dataclasses.replace(sweep, **first, replicas=1)

    def program(self, point: int) -> Program:
        """The compiled program for a point of the grid."""
        return _compiled(*self.kind(point))

    def kind(self, point: int) -> tuple[Sweep, _Key]:
        """The arguments of `traced` for a point of the grid."""
        config: Any = jax.config
        values = self.sweep.point(point)
        key = _Key(
            tuple(values[name] for name in STRUCTURE),
            self.steps,
            self.at_once,
            self.mesh,
            self._inputs.shape,
            bool(config.jax_enable_x64),
        )
        return self._fixed, key

    def run(self, points: np.ndarray, replicas: np.ndarray) -> Arrays:
        """Observables of networks at points of one structure: [networks, layers, ...] each."""
        program = self.program(int(points[0]))
        most = self.mesh.size * program.steps * self.at_once
        pieces = [
            self._call(program, points[i : i + most], replicas[i : i + most])
            for i in range(0, len(points), most)
        ]
        return {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}

    def _call(self, program: Program, points: np.ndarray, replicas: np.ndarray) -> Arrays:
        slots, counts = _slots(len(points), self.mesh.size, program.steps, self.at_once)
        chosen = points[slots]
        arguments = (
            counts.astype(np.int32),
            self._inputs,
            self._which[chosen].astype(np.int32),
            *(values[chosen] for values in self._numbers),
            replicas[slots].astype(np.int32),
        )
        spread = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))
        whole = NamedSharding(self.mesh, PartitionSpec())
        where = [whole if i == 1 else spread for i in range(len(arguments))]
        start = time.perf_counter()
        found = jax.tree.map(np.asarray, program.call(*jax.device_put(arguments, tuple(where))))
        with self._lock:
            self.compute_seconds += time.perf_counter() - start
        own = (np.arange(program.steps) < counts[:, None]).reshape(-1)
        return {n: np.concatenate(list(v[own]))[: len(points)] for n, v in found.items()}


def _slots(count: int, devices: int, steps: int, at_once: int) -> tuple[np.ndarray, np.ndarray]:
    """The network in each slot, [devices · steps, at_once], and the batches on each device.

    A batch that is not full repeats its last network.
    """
    batches = -(-count // at_once)
    counts = np.full(devices, batches // devices) + (np.arange(devices) < batches % devices)
    filled = np.minimum(np.arange(batches * at_once), count - 1).reshape(batches, at_once)
    slots = np.zeros((devices, steps, at_once), np.int64)
    slots[np.arange(steps) < counts[:, None]] = filled
    return slots.reshape(-1, at_once), counts


def structures(engine: Engine, points: np.ndarray) -> Iterator[np.ndarray]:
    """Group the indices of a list of points by structure."""
    kinds = engine.structure[points]
    for kind in np.unique(kinds):
        yield np.flatnonzero(kinds == kind)
