"""Training many classifiers at once, in pieces that stop and resume."""

import functools
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import xarray as xr
from jaxtyping import Array, Float, Int, Key

from sigprop.experiments._blocks import BlockClassifier
from sigprop.experiments._checkpoint import forget_damaged, seal, write_checkpoint
from sigprop.experiments._classifier import Classifier, cross_entropy, parameter_count
from sigprop.experiments._data import Labelled, copy_task, load_images, permuted, python_sources
from sigprop.experiments._environment import environment
from sigprop.experiments._measures import MEASURES, Measured
from sigprop.experiments._recurrent import SequenceClassifier
from sigprop.experiments._results import (
    Record,
    finished,
    member_dataset,
    member_store,
    study_dataset,
)
from sigprop.experiments._study import Architecture, Member, Study
from sigprop.experiments._transformer import Transformer
from sigprop.storage import provenance, tidy, write_dataset, writing
from theory.numerics import (
    Report,
    as_path,
    check_count,
    check_kind,
    check_length,
    compiled,
    counter,
    device_of,
    renamed,
    shown,
)


@runtime_checkable
class Model(Protocol):
    """A model that a study can train.

    Modules with these methods are enough for loss and accuracy. Each of `MEASURES` documents what
    else it calls.
    """

    def draw(self, key: Key[Array, ""], gain: Any = 1.0) -> Any:
        """The parameters at initialisation, a pytree of arrays in float32."""
        ...

    def logits(self, parameters: Any, x: Float[Array, "n numbers"]) -> Array:
        """Scores of the classes, [n, classes] or [n, answers, classes]."""
        ...


_PROBED = 256
"""Number of test data for `MEASURES`."""
_TEST_BLOCK = 1000
_SAVING = threading.Lock()
"""Orbax counts its operations per process."""


class Progressing(eqx.Module):
    """One network in training: everything that the rest of its training depends on."""

    parameters: Any
    moments: Any
    """State of the optimiser."""
    step: Int[Array, ""]
    failed: Int[Array, ""]
    """A key of `REASONS`; if it is not 0, the network stays as it was before that step."""
    loss: Float[Array, ""]
    """Loss of the last batch."""


def load_data(study: Study) -> Labelled:
    """The data of a study."""
    if study.data == "copy":
        return copy_task(study.delay, study.train_count or 10_000)
    if study.data == "python":
        return python_sources(study.train_count)
    with renamed(source="data"):
        images = load_images(study.data, study.train_count)
    return permuted(images) if study.permuted else images


def model_of(
    study: Study, architecture: Architecture, data: Labelled
) -> Classifier | SequenceClassifier | BlockClassifier | Transformer:
    """The network of an architecture for these data, at gain 1."""
    features = architecture.features or study.features
    if architecture.cell == "deep":
        interior, numbers = architecture.interior(study.depth), data.train.shape[1]
        return Classifier(interior, numbers, features, data.classes, study.precision)
    if architecture.cell == "transformer":
        return Transformer(features, study.depth)
    if architecture.cell == "block":
        words: Any = architecture
        return BlockClassifier(
            words.phi,
            data.train.shape[1],
            features,
            data.classes,
            study.depth,
            words.components,
            words.mixing == "real" and words.components > 1,
            words.residual,
            words.normalisation,
            study.precision,
        )
    return SequenceClassifier(
        *architecture.recurrence,
        architecture.cell,
        data.inputs,
        features,
        data.classes,
        None if data.train_labels.ndim == 1 else data.train_labels.shape[1],
        study.precision,
    )


def optimiser_of(study: Study) -> optax.GradientTransformation:
    """The direction of a step of unit learning rate."""
    return optax.scale_by_adam() if study.optimiser == "adam" else optax.identity()


def record_steps(study: Study, data: Labelled) -> list[int]:
    """When to measure: before training, and from step 1 in geometric progression."""
    total = steps_per_epoch(study, data) * study.epochs
    steps = np.geomspace(total, 1, study.records - 1).round().astype(int)  # a single one is the end
    return [0, *(int(step) for step in np.unique(steps))]


def steps_per_epoch(study: Study, data: Labelled) -> int:
    """Number of whole batches in the training images."""
    if study.batch > len(data.train):
        raise ValueError(
            f"`batch`: must be at most {len(data.train)}, the images to train on; got {study.batch}"
        )
    return len(data.train) // study.batch


def initial(classifier: Model, gain: Array, seed: Array) -> Any:
    """The parameters before training."""
    return classifier.draw(jax.random.fold_in(jax.random.key(0), seed), gain)


def start(classifier: Model, study: Study, gain: Array, seed: Array) -> Progressing:
    """A network at initialisation."""
    parameters = initial(classifier, gain, seed)
    zero = jnp.zeros((), jnp.int32)
    return Progressing(
        parameters, optimiser_of(study).init(parameters), zero, zero, jnp.float32(jnp.nan)
    )


def advance(
    classifier: Model,
    study: Study,
    data: Labelled,
    state: Progressing,
    rate: Float[Array, ""],
    seed: Int[Array, ""],
    stop: Int[Array, ""],
) -> Progressing:
    """Train to step `stop`, within the epoch of the first step.

    If the loss or the gradient is not finite, that step and all later ones are skipped.
    """
    optimiser = optimiser_of(study)
    per_epoch = steps_per_epoch(study, data)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), seed), state.step // per_epoch)
    order = jax.random.permutation(key, len(data.train))

    def loss_of(parameters, chosen):
        logits = classifier.logits(parameters, data.train[chosen])
        return jnp.mean(cross_entropy(logits, data.train_labels[chosen]))

    def one_step(state: Progressing) -> Progressing:
        at = state.step % per_epoch * study.batch
        chosen = jax.lax.dynamic_slice_in_dim(order, at, study.batch)
        loss, gradient = jax.value_and_grad(loss_of)(state.parameters, chosen)
        squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradient)]
        good = jnp.isfinite(functools.reduce(jnp.add, squares))
        failed = jnp.where(jnp.isfinite(loss), jnp.where(good, 0, 2), 1).astype(jnp.int32)
        with jax.numpy_dtype_promotion("standard"):  # required by optax
            direction, moments = optimiser.update(gradient, state.moments)
        moved = jax.tree.map(lambda p, d: p - rate * d, state.parameters, direction)
        parameters, moments = jax.tree.map(
            lambda old, new: jnp.where(failed == 0, new, old),
            (state.parameters, state.moments),
            (moved, moments),
        )
        return Progressing(parameters, moments, state.step + 1, failed, loss)

    going = lambda state: (state.step < stop) & (state.failed == 0)
    return jax.lax.while_loop(going, one_step, state)


def measure(
    classifier: Model,
    study: Study,
    data: Labelled,
    state: Progressing,
    gain: Float[Array, ""],
    seed: Int[Array, ""],
) -> Record:
    """Test a network, and take the measurements of the study."""
    count = len(data.test)
    blocks = -(-count // _TEST_BLOCK)
    size = -(-count // blocks)
    pad = blocks * size - count
    x = jnp.pad(data.test, ((0, pad), (0, 0))).reshape(blocks, size, -1)
    answers = data.test_labels.shape[1:]
    y = jnp.pad(data.test_labels, [(0, pad)] + [(0, 0)] * len(answers))
    y = y.reshape(blocks, size, *answers)
    counted = (jnp.arange(blocks * size) < count).reshape(blocks, size)

    def test(block):
        x, y, counted = block
        logits = classifier.logits(state.parameters, x)
        right = jnp.argmax(logits, axis=-1).astype(y.dtype) == y
        right = right.reshape(size, -1).astype(jnp.float32)
        each = (cross_entropy(logits, y), jnp.mean(right, axis=1), jnp.min(right, axis=1))
        return [jnp.sum(jnp.where(counted, values, 0)) for values in each]

    sums = jax.lax.map(test, (x, y, counted))
    loss, accuracy, success = (jnp.sum(total).astype(jnp.float32) / count for total in sums)
    probed = min(_PROBED, count)
    before = initial(classifier, gain, seed)
    found: dict[str, Measured] = {}
    for name in study.measures:
        found |= MEASURES[name](
            classifier, state.parameters, before, data.test[:probed], data.test_labels[:probed]
        )
    return Record(state.step, state.failed, state.loss, loss, accuracy, success, found)


@compiled
def _start(classifier, study, gains, seeds, each):
    one = lambda gain, seed: start(classifier, study, gain, seed)
    with jax.default_matmul_precision(study.precision):
        return each(one, gains, seeds)


@compiled
def _advance(classifier, study, data, states, rates, seeds, stop, each):
    one = lambda state, rate, seed: advance(classifier, study, data, state, rate, seed, stop)
    # Models that name no precision of their own, such as those of Flax, have that of the study.
    with jax.default_matmul_precision(study.precision):
        return each(one, states, rates, seeds)


@compiled
def _measure(classifier, study, data, states, gains, seeds, each):
    one = lambda state, gain, seed: measure(classifier, study, data, state, gain, seed)
    with jax.default_matmul_precision(study.precision):
        return each(one, states, gains, seeds)


def one_by_one(fn: Callable, *leading: Any) -> Any:
    """Apply the function to the members one after the other, for a CPU."""
    return jax.lax.map(lambda member: fn(*member), leading)


def side_by_side(fn: Callable, *leading: Any) -> Any:
    """Apply the function to all members at once, for an accelerator."""
    return jax.vmap(fn)(*leading)


def train(
    study: Study,
    folder: str | Path,
    *,
    members_at_once: int | None = None,
    checkpoint_seconds: float = 10.0,
    progress: Report | None = None,
) -> xr.Dataset:
    """Train all networks of a study that are missing in a folder.

    Parameters
    ----------
    study
        What to train.
    folder
        Contains one Zarr store for every finished network, and checkpoints of the others. A run
        that is stopped in any way resumes from there and ends with the same bits. One process at a
        time trains in it.
    members_at_once
        Networks in one compiled program: by default 1 on a CPU, where two programs run at once,
        and 64 elsewhere. It can change the last bits on an accelerator.
    checkpoint_seconds
        A checkpoint is written at the end of an epoch if the last one is at least this old. Writing
        one takes a tenth of a second, which is longer than many epochs.
    progress
        Called with a `theory.numerics.Progress` of steps.

    Returns
    -------
    xr.Dataset
        As from `study_dataset`.

    Raises
    ------
    ValueError
        If data are missing, or a measure is unknown or does not apply; if the folder cannot be
        written, another process trains in it, or it has networks of this study that were trained
        with other versions, on another device or on other data.
    """
    check_kind("study", study, Study, "a Study")
    folder = as_path("folder", folder).resolve()
    if members_at_once is not None:
        check_count("members_at_once", members_at_once)
    check_length("checkpoint_seconds", checkpoint_seconds)
    counter(progress, "steps", 0)
    _check_measures(study)
    data = load_data(study)
    stops = record_steps(study, data)
    on_cpu = device_of().platform == "cpu"
    size = members_at_once or (1 if on_cpu else 64)
    chunks: list[list[Member]] = []
    for architecture in study.architectures:
        own = [m for m in study.members if m.architecture == architecture]
        chunks += [own[i : i + size] for i in range(0, len(own), size)]
    total, done = len(study.members) * stops[-1], 0
    count = counter(progress, "steps", total)
    count(0)

    def note(steps: int) -> None:
        nonlocal done
        done += steps
        count(done)

    here = environment(data, 1 if on_cpu else size)
    stopped = threading.Event()

    def run(chunk: list[Member]) -> None:
        job = _Job(folder, chunk, size, on_cpu, json.dumps(here, sort_keys=True))
        if all(member.key in ready for member in chunk):
            note(len(chunk) * stops[-1])
        else:
            with jax.default_matmul_precision(study.precision):
                if not job.train(data, stops, checkpoint_seconds, note, stopped):
                    return
        shutil.rmtree(job.checkpoints, ignore_errors=True)

    with writing(folder / "networks", "folder"):
        try:
            (folder / "networks").mkdir(exist_ok=True)
            tidy(folder / "networks")
            ready = finished(study, folder, here)
            with ThreadPoolExecutor(2 if on_cpu else 1) as pool:
                try:
                    list(pool.map(run, chunks))
                except BaseException:
                    stopped.set()
                    raise
            with suppress(OSError):  # those of another study may be there
                (folder / "checkpoints").rmdir()
        except OSError as error:
            reason = error.strerror or error
            raise ValueError(f"`folder`: must be writable; got {reason}, {folder}") from error
    return study_dataset(study, folder)


_MEASURED = {
    "signals": ("deep", "rnn", "gru"),
    "classes": ("deep",),
    "jacobian": ("deep",),
    "exponents": ("rnn", "gru"),
    "continuity": ("block",),
    "projections": ("transformer",),
}
"""The cells that a measure applies to."""


def _check_measures(study: Study) -> None:
    for name in study.measures:
        if name not in MEASURES:
            known = ", ".join(MEASURES)
            raise ValueError(f"`measures`: must be some of {known}; got {shown(name)}")
        for architecture in study.architectures:
            cells = _MEASURED[name]
            if architecture.cell not in cells:
                raise ValueError(
                    f"`measures`: {name} is of {cells[0]} networks; got it for {architecture.name}"
                )


_PIECE_SECONDS = 1.0
"""How long a program may run until it is asked again whether to go on."""


@dataclass(frozen=True)
class _Job:
    """Some networks of one architecture, which are trained by one program."""

    folder: Path
    chunk: list[Member]
    size: int
    on_cpu: bool
    environment: str

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints of exactly these networks."""
        keys = [member.key for member in self.chunk]
        whole = hashlib.sha256(f"{keys} {self.size}".encode()).hexdigest()[:16]
        return self.folder / "checkpoints" / whole

    def train(
        self,
        data: Labelled,
        stops: list[int],
        checkpoint_seconds: float,
        note: Callable[[int], None],
        stopped: threading.Event,
    ) -> bool:
        """Train from the last checkpoint to the end, unless stopped; return whether it is reached.

        If stopped, a checkpoint is written within a second or a step.
        """
        chunk, study = self.chunk, self.chunk[0].study
        padded = chunk + [chunk[-1]] * (self.size - len(chunk))
        each = one_by_one if self.on_cpu else side_by_side
        gains = jnp.array([m.gain for m in padded], jnp.float32)
        rates = jnp.array([m.learning_rate for m in padded], jnp.float32)
        seeds = jnp.array([m.seed for m in padded], jnp.int32)
        classifier = model_of(study, chunk[0].architecture, data)
        per_epoch = steps_per_epoch(study, data)
        epochs = list(range(per_epoch, stops[-1] + 1, per_epoch))
        states = _start(classifier, study, gains, seeds, each)
        look = lambda states: _measure(classifier, study, data, states, gains, seeds, each)
        blank = jax.eval_shape(look, states)
        records = jax.tree.map(
            lambda leaf: np.full((len(stops), *leaf.shape), -1, leaf.dtype), blank
        )
        at, steps, saved, last = 0, 1, time.monotonic(), 0
        forget_damaged(self.checkpoints, self.environment)
        how = ocp.CheckpointManagerOptions(
            max_to_keep=2, create=True, enable_async_checkpointing=False
        )
        with ocp.CheckpointManager(self.checkpoints, options=how) as manager:

            def save() -> None:
                full, _ = _full_and_empty((states, records))
                with _SAVING:
                    write_checkpoint(manager, at, full)
                seal(self.checkpoints / str(at), self.environment)

            latest = manager.latest_step()
            if latest is not None:
                full, empty = _full_and_empty((states, records))
                found = manager.restore(latest, args=ocp.args.StandardRestore(full))
                states, records = _joined((states, records), found, empty)
                at = last = latest
                note(len(chunk) * at)
            for stop in sorted({*stops, *epochs}):
                if stop < at or (stop == at and latest is not None):
                    continue
                while at < stop and not stopped.is_set():
                    begun, until = time.monotonic(), min(stop, at + steps)
                    states = _advance(
                        classifier, study, data, states, rates, seeds, jnp.int32(until), each
                    )
                    jax.block_until_ready(states)
                    note(len(chunk) * (until - at))
                    took = (time.monotonic() - begun) / (until - at)
                    at, steps = until, max(1, int(_PIECE_SECONDS / took))
                if at == stop and stop in stops:
                    found = look(states)
                    place = stops.index(stop)
                    records = jax.tree.map(
                        lambda all_, one, p=place: _placed(all_, np.asarray(one), p), records, found
                    )
                if stopped.is_set():
                    break
                if stop in epochs and time.monotonic() - saved >= checkpoint_seconds:
                    save()
                    saved, last = time.monotonic(), at
            if at < stops[-1]:
                if at > last:
                    save()
                return False
        count = parameter_count(jax.tree.map(lambda leaf: leaf[0], states.parameters))
        for index, member in enumerate(chunk):
            own = jax.tree.map(lambda leaf, i=index: leaf[:, i], records)
            origin = provenance(seed=member.seed, member=member)
            origin = {**origin, "environment": self.environment}
            try:
                write_dataset(
                    member_dataset(own, count), member_store(self.folder, member), provenance=origin
                )
            except ValueError as error:
                raise ValueError(str(error).replace("`path`", "`folder`", 1)) from error
        return True


def _full_and_empty(tree: Any) -> tuple[list[Any], list[Any]]:
    """The leaves of a tree with and without entries; Orbax cannot save the latter."""
    leaves = jax.tree.leaves(tree)
    return [x for x in leaves if x.size], [x for x in leaves if not x.size]


def _joined(like: Any, full: list[Any], empty: list[Any]) -> Any:
    leaves, structure = jax.tree.flatten(like)
    parts = iter(full), iter(empty)
    return jax.tree.unflatten(structure, [next(parts[0 if x.size else 1]) for x in leaves])


def _placed(every: np.ndarray, one: np.ndarray, place: int) -> np.ndarray:
    result = np.array(every)
    result[place] = one
    return result
