"""Results as Zarr stores: what comes back, what a killed run leaves, what is refused."""

import enum
import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from sigprop.storage import _places
from sigprop.storage._store import provenance, read_dataset, write_dataset


def version(number):
    """A data set of many files; a mixture of two versions is told from either."""
    values = {f"v{i}": ("x", np.full(64, float(number))) for i in range(8)}
    return xr.Dataset(values, attrs={"number": number})


def number_of(dataset):
    """The one number that the whole data set holds."""
    (number,) = {dataset.attrs["number"], *np.unique([dataset[f"v{i}"] for i in range(8)])}
    return number


def leftovers(path):
    return sorted(item.name for item in path.parent.iterdir() if item != path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.zarr"


def test_round_trip(path):
    values = {
        "value": (("gain", "point"), jnp.array([[1.0, np.nan], [np.inf, -0.0]])),
        "status": ("gain", jnp.array([0, 5], jnp.int8)),
        "single": ("gain", np.array([np.nan, 1e-30], np.float32)),
        "spectrum": ("gain", np.array([1 + 2j, np.nan * 1j])),
        "converged": ("gain", np.array([True, False])),
        "empty": ("none", np.zeros(0)),
        "scalar": ((), np.int64(2**60)),
    }
    coordinates = {
        "gain": [0.5, 1.5],
        "point": ["ordered", "χ"],
        "note": ("gain", ["", "b"]),
    }
    dataset = xr.Dataset(values, coordinates, attrs={"title": "t"})
    dataset["value"].attrs["long_name"] = "length"
    write_dataset(dataset, path, provenance={"seed": 3, "none": None, "nan": np.nan})
    found = read_dataset(str(path))
    expected = dataset.as_numpy().assign_attrs(seed=3, none=None, nan="nan")
    xr.testing.assert_identical(found, expected)
    for name in dataset.variables:
        assert found[name].dtype == expected[name].dtype, name
    assert leftovers(path) == []


def test_store_is_plain_zarr(path):
    write_dataset(version(1), path, provenance={"bad": [np.nan, -np.inf, 1j]})
    content = json.loads((path / "zarr.json").read_text(), parse_constant=pytest.fail)
    assert content["zarr_format"] == 3
    with xr.open_zarr(path, consolidated=False) as dataset:
        assert number_of(dataset) == 1


def test_new_store_replaces_the_old(path):
    path.mkdir()
    for number in (1, 2):
        write_dataset(version(number), path, provenance={})
        assert number_of(read_dataset(path)) == number
    smaller = version(3)[["v0"]]
    write_dataset(smaller, path, provenance={})
    assert list(read_dataset(path)) == ["v0"]
    assert leftovers(path) == []


def test_a_store_can_be_read_changed_and_written(path):
    dataset = version(1).astype(int)
    write_dataset(dataset, path, provenance={})
    dataset = read_dataset(path)
    dataset["v0"].data = np.full(64, 0.5)  # the integer type of the file must not come back
    write_dataset(dataset, path, provenance={})
    assert np.all(read_dataset(path)["v0"] == 0.5)


def write_and_die(path, step, index, name):
    """Write version 2 and be killed just before one of the moves in a folder."""
    owner = shutil if step == "rmtree" else Path
    original = getattr(owner, step)

    def deadly(*args, **options):
        if Path(args[index]).name.startswith(name):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **options)

    setattr(owner, step, deadly)
    write_dataset(version(2), path, provenance={})


def write_forever(path):
    number = 2
    while True:
        write_dataset(version(number), path, provenance={})
        number += 1


@pytest.fixture(scope="module")
def processes():
    """Processes that start in no time: forked from one that has done the imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["equinox", "pytest", "sigprop.storage._store"])
    return context


@pytest.mark.parametrize(
    ("move", "expected"),
    [
        (("rename", 0, "results.zarr"), 1),  # the new store is complete beside the old one
        (("replace", 1, "results.zarr"), 1),  # there is nothing at the path
        (("rename", 0, ".results.zarr"), 2),  # the new store is in place beside the old one
        (("rmtree", 0, ".results.zarr"), 2),
    ],
)
def test_a_run_killed_while_replacing_leaves_a_store(path, processes, move, expected):
    write_dataset(version(1), path, provenance={})
    process = processes.Process(target=write_and_die, args=(path, *move), daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert number_of(read_dataset(path)) == expected
    write_dataset(version(3), path, provenance={})
    assert number_of(read_dataset(path)) == 3
    assert all(name.endswith(".partial") for name in leftovers(path))


@pytest.mark.parametrize("there_before", [True, False])
def test_a_run_killed_at_any_moment_leaves_a_store_or_none(path, processes, there_before):
    for moment in (0.0, 0.01, 0.03, 0.1):
        if there_before:
            write_dataset(version(1), path, provenance={})
        process = processes.Process(target=write_forever, args=(path,), daemon=True)
        process.start()
        deadline = time.monotonic() + 60
        while not leftovers(path):  # until the first write has begun
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(moment)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        if there_before or path.exists():
            assert number_of(read_dataset(path)) >= 1
        for item in path.parent.iterdir():
            shutil.rmtree(item)


def test_what_killed_runs_left_is_removed_when_old(path):
    old, young = (path.with_name(f".{path.name}.{token}.partial") for token in ("0ld", "y0ung"))
    other = path.with_name(".other.zarr.0ld.partial")
    for folder in (old, young, other):
        folder.mkdir()
    for folder in (old, other):
        os.utime(folder, (0, 0))
    write_dataset(version(1), path, provenance={})
    assert leftovers(path) == sorted([young.name, other.name])


def test_a_failed_write_leaves_the_old_store(path, monkeypatch):
    write_dataset(version(1), path, provenance={})

    def full(dataset, folder, **options):
        folder.mkdir()
        (folder / "zarr.json").write_text("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_zarr", full)
    expected = f"`path`: must be writable; got No space left on device for {path}"
    with pytest.raises(ValueError, match=f"^{expected}$"):
        write_dataset(version(2), path, provenance={})
    assert number_of(read_dataset(path)) == 1
    assert leftovers(path) == []


def test_nothing_but_a_store_is_replaced(tmp_path):
    precious = tmp_path / "folder" / "thesis.tex"
    precious.parent.mkdir()
    precious.write_text("precious")
    for path in (precious, precious.parent):
        with pytest.raises(ValueError, match=f"must be free or a Zarr store; .* at {path}$"):
            write_dataset(version(1), path, provenance={})
    with pytest.raises(ValueError, match=f"must be writable; .* for {precious / 'x'}$"):
        write_dataset(version(1), precious / "x", provenance={})
    assert precious.read_text() == "precious"
    assert leftovers(precious.parent) == []


def test_no_store_is_written_into_another(path):
    write_dataset(version(1), path, provenance={})
    before = sorted(path.rglob("*"))
    with pytest.raises(ValueError, match=f"^`path`: must not lie inside another .* at {path}$"):
        write_dataset(version(1), path / "inner" / "deep.zarr", provenance={})
    assert sorted(path.rglob("*")) == before


def test_unreadable_stores_are_refused(path):
    with pytest.raises(ValueError, match=f"^`path`: must be a Zarr store; got none at {path}$"):
        read_dataset(path)
    write_dataset(version(1), path, provenance={})
    (path / "v0" / "zarr.json").write_text("{")
    with pytest.raises(ValueError, match=f"^`path`: must be a readable Zarr store; .*{path}$"):
        read_dataset(path)


class Colour(enum.IntEnum):
    RED = 0


class Layer(eqx.Module):
    variance: jax.Array
    activation: object


def test_provenance_says_everything(path):
    found = provenance(
        seed=7,
        depth=3,
        gain=np.float32(1.5),
        bad=[np.nan, (np.inf, None)],
        root=1 + 2j,
        colour=Colour.RED,
        key=jax.random.key(4),
        layer=Layer(jnp.array([1.0, -np.inf]), jnp.tanh),
        where=Path("runs"),
    )
    assert json.loads(found["parameters"], parse_constant=pytest.fail) == {
        "depth": 3,
        "gain": 1.5,
        "bad": ["nan", ["inf", None]],
        "root": {"real": 1.0, "imag": 2.0},
        "colour": "RED",
        "key": [0, 4],
        "layer": {"type": "Layer", "variance": [1.0, "-inf"], "activation": "tanh"},
        "where": "runs",
    }
    versions = json.loads(found["versions"])
    assert set(versions) == {"sigprop", "jax", "jaxlib", "numpy", "equinox", "python"}
    assert versions["jax"] == jax.__version__
    assert found["seed"] == 7
    assert found["backend"] == jax.default_backend()
    assert found["dtype"] == "float64"
    with jax.default_matmul_precision("highest"):
        assert provenance()["matmul_precision"] == "highest"
    write_dataset(version(1), path, provenance=found)
    assert read_dataset(path).attrs == version(1).attrs | found


def test_replacing_needs_no_more_than_renaming(path, monkeypatch):
    """Were the old store deleted before the new one is in place, a kill would lose both."""
    write_dataset(version(1), path, provenance={})
    monkeypatch.setattr(_places, "_discard", lambda former: None)
    write_dataset(version(2), path, provenance={})
    assert number_of(read_dataset(path)) == 2
    shutil.rmtree(path)
    assert number_of(read_dataset(path)) == 1
