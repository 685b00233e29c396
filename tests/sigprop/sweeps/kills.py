"""Kills a writer of a store before every change of a file, and writes again.

Run with the folder of a finished store, what to do, and the step from one kill to the next; with a
step of 0 it kills only before a whole store is moved or removed. Prints how often it killed.

The process forks for each attempt, before JAX has a device: what it imports is imported once.
Numbers of networks come from stand-ins for the compiled programs; files are written as always."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import xarray as xr

from sigprop.storage import read_dataset, write_dataset, writing
from sigprop.sweeps import _sweep_run, merge_sweeps, run_sweep, sweep_status
from sigprop.sweeps._sweep_store import dataset_of, open_store, prepare

MOVES = ("os.rename", "shutil.rmtree")
CHANGES = (*MOVES, "os.remove", "os.rmdir", "os.mkdir", "os.truncate")


def kill_before(number, folder, inside):
    """Kill this process before it changes something in the folder for the n-th time."""
    seen = 0

    def hook(event, args):
        nonlocal seen
        writes = event == "open" and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if not (writes and inside) and event not in (CHANGES if inside else MOVES):
            return
        paths = [Path(a) for a in args if isinstance(a, str | Path)]
        if any(folder in (p.parents if inside else (p.parent,)) for p in paths):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def in_child(do):
    """The exit status of a function in a process of its own."""
    child = os.fork()
    if child == 0:
        try:
            do()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def measured(path):
    """How many networks a store has, and a hash of them."""
    found = dataset_of(open_store(path, write=False))
    found = found.isel(replica=slice(0, 4))
    content = b"".join(found[n].values.tobytes() for n in sorted(found))
    return int(found["measured"].sum()), hashlib.sha256(content).hexdigest()


class Grow:
    """A store that gets room for more replicas and for another variance."""

    def __init__(self, source, folder):
        self.source, self.path = source, folder / "sweep.zarr"
        sweep = open_store(source, write=False).sweep
        self.larger = dataclasses.replace(sweep, replicas=6, bias_variance=(0.0, 0.05, 0.1))

    def before(self):
        shutil.copytree(self.source, self.path)

    def act(self):
        with writing(self.path):
            prepare(self.larger, self.path)

    def there(self):
        return sweep_status(self.path).done == 24

    def right(self):
        found = dataset_of(open_store(self.path, write=False)).sel(bias_variance=[0.0, 0.1])
        known = dataset_of(open_store(self.source, write=False))
        return all(
            np.array_equal(found[n].isel(replica=slice(0, 4)), known[n], equal_nan=True)
            for n in ("length", "overlap", "measured")
        )


class Merge(Grow):
    """A store that takes up another one."""

    def act(self):
        merge_sweeps([self.source], self.path)

    def right(self):
        return measured(self.path) == measured(self.source)


class Replace:
    """A data set that takes the place of another."""

    def __init__(self, source, folder):
        self.path = folder / "found.zarr"

    def before(self):
        write_dataset(xr.Dataset({"a": ("x", [1.0, 2.0])}), self.path, provenance={})

    def act(self):
        write_dataset(xr.Dataset({"a": ("x", [3.0, 4.0])}), self.path, provenance={})

    def there(self):
        return read_dataset(self.path)["a"].values.tolist() in ([1.0, 2.0], [3.0, 4.0])

    def right(self):
        for left in self.path.parent.glob("*.partial"):  # is removed when it is an hour old
            shutil.rmtree(left)
        return read_dataset(self.path)["a"].values.tolist() == [3.0, 4.0]


def content(path):
    """The bytes of every file of a store or a folder of them, without dates and their hashes."""
    found = {}
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        text = file.read_bytes()
        if file.name == "zarr.json":
            whole = json.loads(text)
            for name in ("date", "sigprop_checksums"):
                whole.get("attributes", {}).pop(name, None)
            text = json.dumps(whole)
        found[file.relative_to(path).as_posix()] = text
    return found


class Machine:
    """In the place of the compiled programs of a sweep: numbers of a point and a replica."""

    def __init__(self, sweep, *_):
        self.sweep, self.chunks_per_task = sweep, 1
        self.engine = SimpleNamespace(
            structure=np.zeros(sweep.points, int), run=self.run, compute_seconds=0.0
        )

    def compile(self, points):
        return 1, 0

    def run(self, points, replicas):
        found = {}
        for stored in self.sweep.stored:
            shape = (len(self.sweep.kept_layers), self.sweep.cells(stored))
            values = (points + replicas / 64)[:, None, None] + np.arange(shape[0])[:, None]
            found[stored.name] = np.broadcast_to(values, (len(points), *shape))
        return found


class Run:
    """A sweep from its beginning."""

    def __init__(self, source, folder):
        self.path, self.undisturbed = folder / "sweep.zarr", folder.parent / "undisturbed.zarr"
        self.sweep = open_store(source, write=False).sweep
        _sweep_run._Machine = Machine
        assert in_child(partial(run_sweep, self.sweep, self.undisturbed, chunk=4)) == 0

    def before(self):
        pass

    def act(self):
        self.run = run_sweep(self.sweep, self.path, chunk=4)

    def there(self):
        self.done = sweep_status(self.path).done if self.path.exists() else 0
        return True

    def right(self):
        return self.run.reused == self.done and content(self.path) == content(self.undisturbed)


class Training:
    """A study of two networks; with checkpoints if `seconds` is 0."""

    seconds = float("inf")

    def __init__(self, source, folder):
        from sigprop.experiments import Labelled, _train

        self.path, self.undisturbed = folder / "study", folder.parent / f"whole of {folder.name}"
        images = np.zeros((4, 1), np.float32)
        labels = np.zeros(4, np.int32)
        data = Labelled(images, labels, images, labels, 10, 1)
        _train.load_data = lambda study: data
        _train.model_of = lambda *_: None
        _train._start, _train._advance, _train._measure = self.start, self.advance, self.measure
        _train.ThreadPoolExecutor = lambda _: ThreadPoolExecutor(1)  # the same order of changes
        assert in_child(partial(self.train, self.undisturbed)) == 0

    def start(self, classifier, study, gains, seeds, each):
        from sigprop.experiments._train import Progressing

        zero = seeds * 0
        parameters = {"w": seeds[:, None] * np.ones((1, 3), np.float32)}
        return Progressing(parameters, dict(parameters), zero, zero, zero + np.float32(0.5))

    def advance(self, classifier, study, data, states, rates, seeds, stop, each):
        moved = {"w": states.parameters["w"] + (stop - states.step)}
        return dataclasses.replace(states, parameters=moved, step=states.step * 0 + stop)

    def measure(self, classifier, study, data, states, gains, seeds, each):
        from sigprop.experiments._results import Record

        loss = states.parameters["w"].sum(axis=1)
        return Record(states.step, states.failed, states.loss, loss, loss, loss, {})

    def train(self, path):
        from sigprop.experiments import Architecture, Study, train

        study = Study(
            (Architecture("tanh", activation="tanh"),),
            learning_rates=(1e-3,),
            seeds=(0, 1),
            epochs=2,
            batch=2,
            records=2,
            measures=(),
        )
        train(study, path, checkpoint_seconds=self.seconds)

    def before(self):
        pass

    def act(self):
        self.train(self.path)

    def ready(self):
        return [p for p in self.path.glob("networks/*.zarr") if any(p.iterdir())]

    def there(self):
        for path in self.ready():
            read_dataset(path)
        return True

    def right(self):
        return content(self.path) == content(self.undisturbed)


class Checkpoints(Training):
    seconds = 0.0


CASES = {
    "grow": Grow,
    "merge": Merge,
    "replace": Replace,
    "run": Run,
    "study": Training,
    "checkpoint": Checkpoints,
}


def attempt(case, number, folder, inside):
    kill_before(number, folder, inside)
    case.act()


def check(case, number, folder):
    assert case.there(), f"lost before change {number}"
    case.act()
    assert case.right(), f"other numbers after change {number}"
    left = sorted(p.name for p in folder.iterdir() if p != case.path)
    assert not left, (number, left)


def main(source, kind, step):
    folder = source.parent / f"kills of {kind}"
    case = CASES[kind](source, folder)
    kills, number, status = 0, 1, -signal.SIGKILL
    while status:
        folder.mkdir()
        case.before()
        status = in_child(partial(attempt, case, number, folder, step > 0))
        assert status in (0, -signal.SIGKILL), status
        assert in_child(partial(check, case, number, folder)) == 0
        shutil.rmtree(folder)
        kills, number = kills + (status != 0), number + max(step, 1)
    print(kills)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2], int(sys.argv[3]))
