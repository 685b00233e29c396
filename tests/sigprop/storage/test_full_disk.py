"""Every writer on a file system that is full: one line, nothing lost, and the same call ends it."""

import dataclasses
import os
import shutil
import subprocess

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

import sigprop
from sigprop.commands._output import save_figure
from sigprop.experiments import Architecture, Study, train

may_mount = hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("mount") is not None
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not may_mount, reason="mounts a small file system, as root on Linux"),
]

SMALL = sigprop.Sweep(
    activation="erf",
    weight_variance=(1.0, 2.0, 3.0),
    bias_variance=(0.0, 0.1),
    depth=4,
    width=8,
    replicas=4,
)
LARGE = dataclasses.replace(SMALL, replicas=9)
STUDY = Study(
    (Architecture("t", activation="tanh"),),
    depth=3,
    features=8,
    learning_rates=(1e-3,),
    seeds=(0,),
    epochs=2,
    batch=64,
    records=2,
    train_count=128,
    measures=(),
)
SIZES = [f"size=4m,nr_inodes={files}" for files in (4, 8, 30, 44, 60, 80)]
SIZES += [f"size={kilobytes}k,nr_inodes=2000" for kilobytes in (4, 12, 24, 48, 96, 160, 220, 300)]


def data_set(number):
    draw = np.random.default_rng(number).normal
    return xr.Dataset({f"v{i}": ("x", draw(size=3000)) for i in range(4)})


def run(sweep):
    return lambda folder: sigprop.run_sweep(sweep, folder / "s.zarr", chunk=4)


def write(number):
    return lambda folder: sigprop.write_dataset(data_set(number), folder / "d.zarr", provenance={})


def merge(folder):
    other = folder.parent / "large.zarr"
    if not other.exists():
        sigprop.run_sweep(LARGE, other, chunk=4)
    sigprop.merge_sweeps([other], folder / "s.zarr")


def draw(folder):
    figure = Figure()
    figure.subplots().plot(np.arange(9))
    save_figure(figure, folder / "f", "x")


def learn(folder):
    train(STUDY, folder / "study", checkpoint_seconds=0)


def nothing(folder):
    pass


CALLS = {
    "run": (nothing, run(SMALL)),
    "grow": (run(SMALL), run(LARGE)),
    "merge": (run(SMALL), merge),
    "write": (nothing, write(1)),
    "replace": (write(0), write(1)),
    "figure": (nothing, draw),
    "train": (nothing, learn),
}


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def refusal(call, folder):
    try:
        call(folder)
    except ValueError as error:
        return str(error)
    return None


# A checkpoint is incomplete, and Orbax never asks how its write ended.
@pytest.mark.filterwarnings("ignore:the checkpoint:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", CALLS)
def test_a_full_disk_loses_nothing(name, tmp_path):
    before, call = CALLS[name]
    roomy, disk = tmp_path / "roomy", tmp_path / "disk"
    for folder in (roomy, disk):
        folder.mkdir()
    before(roomy)
    complete = files(roomy)
    source = shutil.copytree(roomy, tmp_path / "source")
    call(roomy)
    full = 0
    for size in SIZES:
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", disk], check=True)
        try:
            try:
                shutil.copytree(source, disk, dirs_exist_ok=True)
            except shutil.Error:
                continue  # not even what is there before has room
            said = refusal(call, disk)
            if said is not None:
                full += 1
                assert "No space left on device" in said
                assert "\n" not in said
                assert complete <= files(disk)
                more = "remount,size=64m,nr_inodes=20000"
                subprocess.run(["mount", "-o", more, disk], check=True)
                call(disk)
            assert files(disk) == files(roomy)
        finally:
            subprocess.run(["umount", disk], check=True)
    print(f"{name}: full {full} times, nothing lost, nothing left behind")
    assert full
