"""Every file of a store damaged in every way: repaired, or refused in one line; no wrong number."""

import shutil

import numpy as np
import pytest
import xarray as xr

import sigprop

SWEEP = sigprop.Sweep(
    activation="erf",
    weight_variance=(1.0, 2.0),
    depth=3,
    width=6,
    replicas=4,
    observables=("length", "overlap"),
)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-7])


def emptied(path):
    path.write_bytes(b"")


def deleted(path):
    path.unlink()


def flipped(path):
    """One bit, in the middle of the file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def replaced(path):
    """By a folder."""
    path.unlink()
    path.mkdir()
    (path / "file").write_text("")


DAMAGES = (truncated, emptied, deleted, flipped, replaced)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("damage") / "source.zarr"
    sigprop.run_sweep(SWEEP, path, chunk=2)
    return path


def names(path):
    return sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())


def damaged_copies(store, folder, damage):
    """Each file's name, and the path of a copy of the store in which that file is damaged."""
    path = folder / "copy.zarr"
    for name in names(store):
        shutil.copytree(store, path)
        damage(path / name)
        yield name, path
        shutil.rmtree(path)


def one_line(call):
    """What a call gives, or None if it is refused in one line that names the store."""
    try:
        return call()
    except ValueError as error:
        said = str(error)
    assert said.startswith("`path`: must be")
    assert "\n" not in said
    return None


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_damaged_number_is_read(source, tmp_path, damage):
    known = sigprop.read_sweep(source)
    missing = 0
    for name, path in damaged_copies(source, tmp_path, damage):
        found = one_line(lambda path=path: sigprop.read_sweep(path))
        if found is not None:
            there = found["measured"]
            missing += int((~there).sum())
            for observable in SWEEP.observables:
                right = (found[observable] == known[observable]) | known[observable].isnull()
                assert bool((right | ~there).all()), name
                assert bool(found[observable].where(~there).isnull().all()), name
        status = one_line(lambda path=path: sigprop.sweep_status(path))
        assert status is None or 0 <= status.done <= status.networks == 8, name
    assert missing > 0


def test_a_run_does_not_count_what_is_damaged(source, tmp_path):
    path = tmp_path / "sweep.zarr"
    shutil.copytree(source, path)
    deleted(path / "length/c/0/0/0/0")
    run = sigprop.run_sweep(SWEEP, path)
    assert (run.computed, run.reused) == (2, 6)


def test_a_sweep_is_not_read_as_a_data_set(source):
    """Which has no markers to be checked."""
    with pytest.raises(ValueError, match="must be a data set; got the store of a sweep"):
        sigprop.read_dataset(source)


def repaired(source, path, name, damage):
    shutil.copytree(source, path)
    damage(path / name)
    run = one_line(lambda: sigprop.run_sweep(SWEEP, path))
    if run is not None:
        xr.testing.assert_identical(
            sigprop.read_sweep(path).drop_attrs(), sigprop.read_sweep(source).drop_attrs()
        )
    shutil.rmtree(path)
    return None if run is None else run.computed


def test_what_is_damaged_is_computed_again(source, tmp_path):
    """Numbers and markers of networks; never the others."""
    for name in ("length/c/0/0/0/0", "marker/c/1/0/0"):
        for damage in (flipped, replaced):
            assert repaired(source, tmp_path / "sweep.zarr", name, damage) in (2, 4), name


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_repaired_or_refused(source, tmp_path, damage):
    found = [repaired(source, tmp_path / "sweep.zarr", name, damage) for name in names(source)]
    assert sum(n is not None and n > 0 for n in found) >= len(found) // 2


@pytest.fixture
def data_set(tmp_path):
    path = tmp_path / "found.zarr"
    values = {"loss": ("step", np.linspace(2, 1, 50)), "word": ("step", ["a", "χ"] * 25)}
    sigprop.write_dataset(xr.Dataset(values, attrs={"width": 64}), path, provenance={"seed": 3})
    return path


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_damaged_data_set_is_read(data_set, tmp_path, damage):
    known = sigprop.read_dataset(data_set)
    refused = 0
    for _, path in damaged_copies(data_set, tmp_path, damage):
        found = one_line(lambda path=path: sigprop.read_dataset(path))
        refused += found is None
        if found is not None:
            xr.testing.assert_identical(found, known)
    assert refused >= 3


def test_digits_of_attributes_are_checked(data_set):
    """A flipped bit can leave valid JSON behind."""
    place = data_set / "zarr.json"
    place.write_text(place.read_text().replace('"width": 64', '"width": 65'))
    with pytest.raises(ValueError, match="must be undamaged; got other bytes of its attributes"):
        sigprop.read_dataset(data_set)


def test_digits_of_a_sweep_are_checked(source, tmp_path):
    path = tmp_path / "sweep.zarr"
    shutil.copytree(source, path)
    place = path / "zarr.json"
    place.write_text(place.read_text().replace("[1.0, 2.0]", "[1.0, 2.5]"))
    for call in (sigprop.read_sweep, sigprop.sweep_status, lambda p: sigprop.run_sweep(SWEEP, p)):
        with pytest.raises(ValueError, match="store of a sweep; got damaged attributes"):
            call(path)
