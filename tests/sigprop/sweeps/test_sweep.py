"""Sweeps: what decides a cell, what survives, and that devices and hosts change no bit."""

import dataclasses
import errno
import hashlib
import importlib.util
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr

import sigprop
import theory
from sigprop import Sweep, run_sweep
from sigprop.commands import _cli
from sigprop.comparison import contributions
from sigprop.storage import writing
from sigprop.sweeps import _sweep_program, _sweep_store
from sigprop.sweeps._environment import environment
from sigprop.sweeps._sweep_summary import summarised, sweep_theory
from tests.tolerances import FOLD, SINGLE, SINGLE_LAYERS, sigmas

ROOT = Path(__file__).parents[3]
# erf has closed forms, which compile fastest; chunks of one size share one program.
SMALL = Sweep(
    activation="erf",
    weight_variance=(1.0, 2.0, 3.0),
    bias_variance=(0.0, 0.1),
    depth=4,
    width=8,
    replicas=4,
    observables=("length", "correlation", "slope"),
)
CHUNK = 4


def files(path):
    """The content of every file of a store, less the date of its making."""
    found = {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    found["zarr.json"] = b"".join(
        line for line in found["zarr.json"].splitlines(True) if b'"date"' not in line
    )
    return found


def numbers(path):
    """A hash of all numbers, whatever the chunks."""
    found = sigprop.read_sweep(path)
    assert bool(found["measured"].all())
    return hashlib.sha256(b"".join(found[n].values.tobytes() for n in sorted(found))).hexdigest()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The store of a sweep that nobody disturbed."""
    path = tmp_path_factory.mktemp("whole") / "sweep.zarr"
    run = run_sweep(SMALL, path, chunk=CHUNK)
    assert (run.computed, run.reused, run.elsewhere) == (24, 0, 0)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sweep.zarr"


class TestDescription:
    def test_axes(self):
        sweep = Sweep(weight_variance="1:3:5", width=np.array([16, 32]), depth="10:30:3")
        assert sweep.axes == {
            "depth": (10, 20, 30),
            "width": (16, 32),
            "weight_variance": (1.0, 1.5, 2.0, 2.5, 3.0),
        }
        assert sweep.points == 30
        assert (sweep.point(7)["depth"], sweep.point(7)["width"]) == (10, 32)
        assert sweep.point(7)["weight_variance"] == 2.0
        with pytest.raises(dataclasses.FrozenInstanceError):
            sweep.seed = 1

    def test_file(self, tmp_path):
        file = tmp_path / "sweep.toml"
        file.write_text('activation = ["erf", "relu"]\nwidth = [8, 16]\nlayers = [0, -1]\n')
        expected = Sweep(activation=("erf", "relu"), width=(8, 16), layers=(0, -1))
        assert sigprop.read_sweep_file(file) == expected

    @pytest.mark.parametrize(
        "fields, message",
        [
            ({"activation": "tan"}, "`activation`: must be one of .*; got 'tan'"),
            ({"weight_variance": -1.0}, "`weight_variance`: must be finite and at least 0"),
            ({"weight_variance": float("nan")}, "`weight_variance`: must be finite numbers"),
            ({"weight_variance": "1:2"}, "`weight_variance`: must be numbers or start:stop:count"),
            ({"weight_variance": (1.0, 1.0)}, "`weight_variance`: must have different values"),
            ({"weight_variance": ()}, "`weight_variance`: must have different values"),
            ({"width": 0}, "`width`: must be whole numbers of at least 1"),
            ({"width": 8.5}, "`width`: must be whole numbers"),
            ({"width": 10**12}, "`width`: must be at most 10000000; got 10{12}"),
            ({"input_width": 10**12}, "`input_width`: must be at most 10000000"),
            ({"depth": 10**9}, "`depth`: must be at most 1000000"),
            ({"replicas": 10**12}, "`replicas`: must be at most 100000000 for 1 points"),
            (
                {"weight_variance": "1:2:100000000"},
                "`weight_variance`: must have at most 1000000 v",
            ),
            ({"depth": "0:5:6"}, "`depth`: must be whole numbers of at least 1"),
            ({"weights": "sparse"}, "`weights`: must be gaussian, orthogonal or sparse:DENSITY"),
            (
                {"weights": "sparse:0.1", "explicit_weights": False},
                "`explicit_weights`: must be true with sparse:0.1 weights",
            ),
            ({"observables": ("entropy",)}, "`observables`: must be some of length"),
            ({"layers": (60,)}, "`layers`: must be different and from -51 to 50"),
            ({"replicas": 0}, "`replicas`: must be a whole number >= 1"),
            ({"seed": -1}, "`seed`: must be a whole number >= 0"),
            ({"symmetry": "O(0)"}, "`symmetry`: must be O"),
            ({"weights": ("sparse:0.1", "sparse:0.10")}, "`weights`: must have different values"),
            ({"inputs": "digits", "input_correlation": (0.1, 0.2)}, "`input_correlation`"),
            ({"weight_variance": "0:1:2000", "bias_variance": "0:1:2000"}, "`sweep`: must have"),
        ],
    )
    def test_bad_values(self, fields, message):
        with pytest.raises(ValueError, match=message) as caught:
            Sweep(**fields)
        assert "\n" not in str(caught.value)

    def test_wrong_kinds_are_named(self):
        """In a process of its own, where no hook checks the types before the sweep does."""
        cases = [
            ({"explicit_weights": "no"}, "`explicit_weights`: must be true or false; got 'no'"),
            ({"layers": [1.7]}, "`layers[0]`: must be a whole number; got (1.7,)"),
            ({"layers": "12"}, "`layers`: must be a list or nothing; got '12'"),
            ({"seed": True}, "`seed`: must be a whole number; got True"),
            ({"residual": "no"}, "`residual`: must be true or false, or a list of them; got 'no'"),
            ({"symmetry": 3}, "`symmetry`: must be a text or nothing; got 3"),
            ({"observables": 3}, "`observables`: must be some of length,"),
            ({"activation": 3}, "`activation`: must be a text, or a list of them; got 3"),
            ({"depth": True}, "`depth`: must be whole numbers; got True"),
            ({"weight_variance": [[1.0]]}, "`weight_variance`: must be finite numbers; got [1.0]"),
            ({"width": None}, "`width`: must be whole numbers; got None"),
            ({"leaves": 3}, "`leaves`: must be a mapping from paths; got 3"),
            (
                {"description": 3},
                "`description`: must be a description, its table or the name",
            ),
        ]
        code = """
import json, sys
from sigprop import Sweep
for fields in json.loads(sys.argv[1]):
    try:
        Sweep(**fields)
    except (TypeError, ValueError) as error:
        print(error)
"""
        argv = [sys.executable, "-c", code, json.dumps([fields for fields, _ in cases])]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        for line, (_, message) in zip(done.stdout.splitlines(), cases, strict=True):
            assert line.startswith(message)

    def test_one_address_whichever_door(self, tmp_path):
        erf = theory.activation("erf")
        options = {"activation": "erf", "width": 8, "replicas": 4}
        named = Sweep(**options, depth=3, weight_variance=(1.0, 2.0), bias_variance=0.1)
        rest = {"width": 8, "replicas": 4}
        layer = Sweep(
            description=theory.layer(erf, 5.0, 0.1), depth=3, weight_variance=(1.0, 2.0), **rest
        )
        theory.save_network(theory.feedforward(erf, 2.0, 0.1, depth=3), tmp_path / "deep.toml")
        (tmp_path / "sweep.toml").write_text('description = "deep.toml"\nwidth = 8\nreplicas = 4\n')
        deep = sigprop.read_sweep_file(tmp_path / "sweep.toml")
        assert (deep.values("depth"), deep.kept_layers) == ((3,), (0, 1, 2, 3))
        where = environment(named)
        addresses = [sweep.addresses(where) for sweep in (named, layer, deep)]
        assert np.array_equal(addresses[0], addresses[1])
        assert np.array_equal(addresses[0][1], addresses[2][0])
        assert not np.array_equal(addresses[0][0], addresses[2][0])
        # The same cells, so that results are taken over and not computed.
        run_sweep(named, tmp_path / "one.zarr")
        again = run_sweep(layer, tmp_path / "one.zarr")
        assert (again.computed, again.reused) == (0, 8)
        run_sweep(deep, tmp_path / "two.zarr")
        one, two = (sigprop.read_sweep(tmp_path / f"{name}.zarr") for name in ("one", "two"))
        assert np.array_equal(one["length"].values[1], two["length"].values)

    def test_one_address_in_single_precision(self):
        tanh = theory.activation("tanh")
        with jax.enable_x64(False):
            rest = {"depth": 2, "width": 8, "replicas": 2}
            doors = (
                Sweep(activation="tanh", weight_variance=1.3, bias_variance=0.0, **rest),
                Sweep(description=theory.layer(tanh, 1.3, 0.0), **rest),
                Sweep(description=theory.layer(tanh, 1.0), weight_variance=1.3, **rest),
                Sweep(description=theory.layer(tanh, 1.3), bias_variance=-0.0, **rest),
            )
            assert len({door.addresses({}).tobytes() for door in doors}) == 1

    def test_whole_networks_are_not_repeated(self):
        deep = theory.feedforward(theory.activation("tanh"), 1.5, depth=2)
        for network in (
            theory.Chain((theory.Normalise("rms"), *deep.parts)),
            theory.Chain(
                (
                    theory.affine(1.0),
                    *theory.layer(theory.activation("tanh"), 1.5).parts,
                    *deep.parts,
                )
            ),
        ):
            with pytest.raises(ValueError, match=r"^`depth`: must not be given with a whole"):
                Sweep(description=network, depth=5)
            assert Sweep(description=network).depth is None
            layer = theory.hidden_layer(network)
            assert jax.tree.structure(layer) == jax.tree.structure(theory.hidden_layer(deep))

    def test_any_number_may_be_an_axis(self, tmp_path):
        leaky = theory.activation("leaky_relu", negative_slope=0.5)
        norm = theory.Chain((theory.Normalise("rms"), theory.layer(leaky, 1.0, 0.1)))
        path = "parts[1].parts[0].activation.negative_slope"
        sweep = Sweep(
            description=norm,
            depth=2,
            width=64,
            leaves={path: [0.1, 0.9]},
            weight_variance="1:2:2",
            replicas=64,
        )
        assert sweep.axes == {"weight_variance": (1.0, 2.0), path: (0.1, 0.9)}
        run_sweep(sweep, tmp_path / "leaves.zarr")
        found = sigprop.summarise_sweep(tmp_path / "leaves.zarr")
        assert found["length"].dims == ("weight_variance", path, "layer", "input")
        for i in range(sweep.points):
            mean = found["length"].values.reshape(4, 3, 2)[i, -1, 0]
            error = found["length_standard_error"].values.reshape(4, 3, 2)[i, -1, 0]
            wanted = sweep_theory(sweep, "length", sweep.point(i))[-1, 0]
            assert abs(mean - wanted) < 5 * error + wanted / 64
            # Any other point of the plane is far off.
            others = [sweep_theory(sweep, "length", sweep.point(j))[-1, 0] for j in range(4)]
            assert np.argmin(np.abs(np.array(others) - mean)) == i
        assert _sweep_store.open_store(tmp_path / "leaves.zarr").sweep == sweep

    def test_the_content_of_a_function_is_part_of_its_address(self, tmp_path):
        file = tmp_path / "own.py"
        file.write_text("def mine(z):\n    return z\n")
        sweep = Sweep(activation=f"{file}:mine", depth=2, width=8)
        where = environment(sweep)
        before = sweep.addresses(where)
        moved = tmp_path / "other.py"
        moved.write_bytes(file.read_bytes())
        elsewhere = Sweep(activation=f"{moved}:mine", depth=2, width=8)
        assert np.array_equal(elsewhere.addresses(where), before)
        file.write_text("def mine(z):\n    return 2 * z\n")
        assert not np.array_equal(sweep.addresses(where), before)

    @pytest.mark.slow
    def test_symmetries_have_orthogonal_weights_too(self, tmp_path):
        options = {"symmetry": "U(1)", "activation": "tanh", "weight_variance": 2.25, "depth": 2}
        sweep = Sweep(weights="orthogonal", **options, width=32, replicas=64)
        run_sweep(sweep, tmp_path / "sweep.zarr")
        found = sigprop.summarise_sweep(tmp_path / "sweep.zarr")
        wanted = sweep_theory(sweep, "length", sweep.point(0))[-1, 0]
        error = float(found["length_standard_error"][-1, 0])
        assert abs(float(found["length"][-1, 0]) - wanted) < 5 * error + 2 * wanted / 32
        assert not np.array_equal(
            sweep.addresses({}), dataclasses.replace(sweep, weights="gaussian").addresses({})
        )

    @pytest.mark.parametrize(
        "fields, message",
        [
            (
                {"activation": "erf"},
                "`activation`: must not be given with a description; got",
            ),
            ({"leaves": {"parts[0]": 1.0}}, r"`leaves`: must be some of parts\[1\].bias_varian"),
            ({"leaves": {"parts[1].bias_variance": "x"}}, "`leaves`: must be numbers or start"),
            ({"depth": 0}, "`depth`: must be whole numbers of at least 1; got 0"),
            ({"weight_variance": -1.0}, "`weight_variance`: must be finite and at least 0"),
            (
                {"weight_variance": 1.0, "leaves": {"parts[1].weights.variance": 1.5}},
                "`leaves`: must not name a number that another field sets; got parts",
            ),
        ],
    )
    def test_bad_descriptions(self, fields, message):
        layer = theory.layer(theory.activation("tanh"), 1.0)
        with pytest.raises(ValueError, match=f"^{message}") as caught:
            Sweep(description=layer, **{"depth": 3, **fields})
        assert "\n" not in str(caught.value)
        with pytest.raises(ValueError, match=r"^`depth`: must not be given with a whole network"):
            Sweep(description=theory.feedforward(theory.activation("tanh"), 1.0, depth=2), depth=3)

    def test_bad_files(self, tmp_path):
        for text, message in (
            ("width = ", "must be a readable TOML file"),
            ("widht = 3", "`widht`: must be one of"),
            ('description = "none.toml"', "`description`: .*none.toml: must be a readable"),
            (
                'description = { build = "layer", activation = "tanh" }',
                "`description.weight_variance`: must be given; got none",
            ),
        ):
            file = tmp_path / "sweep.toml"
            file.write_text(text)
            with pytest.raises(ValueError, match=message):
                sigprop.read_sweep_file(file)

    def test_address_holds_everything_that_decides(self):
        here = environment(SMALL)
        address = lambda sweep, where=here: sweep.addresses(where)[0].tobytes()
        one = dataclasses.replace(SMALL, weight_variance=2.0, bias_variance=0.1)
        others = [
            {"activation": "relu"},
            {"weights": "orthogonal"},
            {"weights": "sparse:0.1"},
            {"residual": True},
            {"depth": 5},
            {"width": 9},
            {"weight_variance": np.nextafter(2.0, 3)},
            {"bias_variance": 0.2},
            {"input_length": 2.0},
            {"input_correlation": 0.1},
            {"symmetry": "O(1)", "activation": "tanh"},
            {"input_width": 32},
            {"observables": ("length", "correlation")},
            {"layers": (0, 1, 2, 3, 4)},
            {"seed": 1},
            {"dtype": "float64"},
            {"explicit_weights": False},
            {"precision": "default"},
        ]
        found = {address(one)} | {address(dataclasses.replace(one, **o)) for o in others}
        found |= {address(one, {**here, name: "other"}) for name in here}
        assert len(found) == 1 + len(others) + len(here)
        assert {"sigprop", "jax", "jaxlib", "device", "x64"} <= set(here)
        # A sweep fixes its precision: that of the process is nothing to it.
        with jax.default_matmul_precision("bfloat16"):
            assert address(one, environment(one)) == address(one, here)
        # The axes around a point and the number of replicas do not.
        assert address(dataclasses.replace(one, replicas=9)) == address(one)
        assert SMALL.addresses(here)[3].tobytes() == address(one)


class TestRun:
    def test_networks_are_those_of_an_ensemble(self, whole):
        found = sigprop.read_sweep(whole).sel(weight_variance=2.0, bias_variance=0.1)
        network = theory.feedforward(theory.activation("erf"), 2.0, 0.1, depth=4)
        signals = SMALL.signals(1.0, 0.5)
        drawn = sigprop.sample_ensemble(network, signals, width=8, replicas=4).samples.moments
        np.testing.assert_array_equal(found["length"], theory.length(drawn))
        np.testing.assert_array_equal(found["overlap"][..., 0], theory.overlap(drawn)[..., 0, 1])
        slope = jax.vmap(theory.growth)(drawn)
        # Powers of e of differences of logs that are known to single precision.
        np.testing.assert_allclose(found["slope"][:, 1:], slope, rtol=SINGLE)
        assert bool(found["slope"][:, 0].isnull().all())

    def test_a_store_is_plain_zarr(self, whole):
        with xr.open_zarr(whole, consolidated=False) as found:
            assert found["length"].dims == ("point", "replica", "layer", "input")
            assert found["length"].shape == (6, 4, 5, 2)

    def test_again_computes_nothing(self, whole):
        before = files(whole)
        run = run_sweep(SMALL, whole, progress=lambda p: pytest.fail("nothing to do"))
        assert (run.computed, run.reused) == (0, 24)
        assert files(whole) == before

    def test_damaged_cells_are_computed_again(self, whole, path):
        shutil.copytree(whole, path)
        chunks = sorted(p for p in (path / "length" / "c").rglob("*") if p.is_file())
        content = bytearray(chunks[0].read_bytes())
        content[len(content) // 2] ^= 1
        chunks[0].unlink()
        chunks[1].write_bytes(chunks[2].read_bytes())  # the numbers of another cell
        chunks[-1].with_name("torn.0123.partial").write_bytes(b"x")
        run = run_sweep(SMALL, path)
        assert (run.computed, run.reused) == (8, 16)
        assert files(path) == files(whole)

    def test_grown_sweeps_compute_only_what_is_new(self, whole, path):
        shutil.copytree(whole, path)
        larger = dataclasses.replace(
            SMALL, weight_variance=(0.5, 1.0, 2.0, 2.5, 3.0), bias_variance=(0.1, 0.0), replicas=6
        )
        run = run_sweep(larger, path, chunk=CHUNK)
        assert (run.computed, run.reused) == (60 - 24, 24)
        fresh = path.with_name("fresh.zarr")
        run_sweep(larger, fresh, chunk=CHUNK)
        assert files(path) == files(fresh)
        with pytest.raises(ValueError, match=r"`path`: .* got results at weight_variance 0.5"):
            run_sweep(SMALL, path)
        with pytest.raises(ValueError, match=r"`replicas`: must be at least the 6 of the store"):
            run_sweep(dataclasses.replace(larger, replicas=4), path)
        assert files(path) == files(fresh)

    def test_deeper_sweeps_keep_what_is_there(self, whole, path):
        shutil.copytree(whole, path)
        deeper = dataclasses.replace(SMALL, depth=(4, 6), weight_variance=(1.0, 2.0, 3.0))
        run = run_sweep(deeper, path, chunk=CHUNK)
        assert (run.computed, run.reused) == (24, 24)
        found, known = sigprop.read_sweep(path).sel(depth=4), sigprop.read_sweep(whole)
        np.testing.assert_array_equal(found["length"][..., :5, :], known["length"])
        assert bool(found["length"][..., 5:, :].isnull().all())

    def test_chunks_and_workers_change_no_bit(self, whole, path):
        said = []
        run_sweep(SMALL, path, chunk=10, workers=3, progress=said.append)
        assert files(path).keys() != files(whole).keys()
        assert numbers(path) == numbers(whole)
        assert said[0].done == 0
        assert "MB of memory" in said[0].what
        assert said[-1].done == said[-1].total == 24
        assert said[-1].remaining == 0

    def test_one_program_for_all_variances(self, path):
        before = _sweep_program._compiled.cache_info().misses
        sweep = dataclasses.replace(SMALL, weight_variance="1:2:10", width=(8, 7), replicas=2)
        run_sweep(sweep, path, chunk=CHUNK)
        assert _sweep_program._compiled.cache_info().misses - before <= 2

    @pytest.mark.slow
    def test_batches_on_a_device_are_padded(self, path):
        sweep = dataclasses.replace(SMALL, networks_at_once=3, replicas=2)
        run_sweep(sweep, path, chunk=8)
        found = sigprop.read_sweep(path)
        other = path.with_name("other.zarr")
        run_sweep(sweep, other, chunk=2)
        assert numbers(path) == numbers(other)
        assert bool(np.isfinite(found["length"]).all())

    def test_layers_from_the_end(self, whole, path):
        sweep = dataclasses.replace(SMALL, layers=(2, -1))
        run_sweep(sweep, path, chunk=CHUNK)
        known = sigprop.read_sweep(whole)["length"].isel(layer=[2, 4])
        np.testing.assert_allclose(sigprop.read_sweep(path)["length"], known, rtol=SINGLE_LAYERS)


class TestRefusals:
    def test_two_runs_at_a_time(self, whole):
        before = files(whole)
        with writing(whole):
            message = f"`path`: must not be written by two at a time; got process {os.getpid()} on"
            with pytest.raises(ValueError, match=message):
                run_sweep(SMALL, whole)
            with pytest.raises(ValueError, match="two at a time"):
                sigprop.merge_sweeps([whole], whole)
        assert files(whole) == before

    def test_lock_of_a_dead_process_is_none(self, whole):
        lock = whole.with_name(f".{whole.name}.lock")
        lock.write_text("process 1 on nowhere\n")
        run_sweep(SMALL, whole)
        assert not lock.exists()

    def test_disk_that_fills_up(self, whole, path):
        """Files larger than a limit fail, from the second chunk on, as on a full disk."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

        def fill(progress):
            if progress.done:
                resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))

        try:
            with pytest.raises(ValueError, match="`path`: must be writable; got File too large"):
                run_sweep(SMALL, path, chunk=CHUNK, workers=1, progress=fill)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        done = sigprop.sweep_status(path).done
        assert 0 < done < 24
        run = run_sweep(SMALL, path)
        assert (run.computed, run.reused) == (24 - done, done)
        assert files(path) == files(whole)

    def test_no_space_for_a_larger_sweep(self, whole, path, monkeypatch):
        shutil.copytree(whole, path)

        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(_sweep_store.SweepStore, "write", full)
        larger = dataclasses.replace(SMALL, replicas=9)
        with pytest.raises(ValueError, match="`path`: must be writable; got No space left"):
            run_sweep(larger, path)
        with pytest.raises(ValueError, match="`path`: must be writable; got No space left"):
            sigprop.merge_sweeps([path], path.with_name("merged.zarr"))
        assert files(path) == files(whole)
        assert [p.name for p in path.parent.iterdir()] == [path.name]

    def test_what_does_not_fit_leaves_nothing(self, path, monkeypatch):
        monkeypatch.setattr("sigprop.sweeps._sweep_run.memory_limit", lambda: 10**4)
        with pytest.raises(ValueError, match=r"`width`: must fit in memory; got a need of"):
            run_sweep(SMALL, path)
        assert list(path.parent.iterdir()) == []

    def test_read_only(self, whole, request):
        folder = Path(tempfile.mkdtemp())  # which other users can reach, for root to become one
        request.addfinalizer(lambda: shutil.rmtree(folder))
        store = folder / "sweep.zarr"
        shutil.copytree(whole, store)
        for place in (folder, *folder.rglob("*")):
            place.chmod(0o555 if place.is_dir() else 0o444)
        user, expected = os.geteuid(), numbers(whole)
        if user == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(ValueError, match="`path`: must be writable; got Permission denied"):
                run_sweep(dataclasses.replace(SMALL, replicas=9), store)
            assert numbers(store) == expected
            assert sigprop.sweep_status(store).done == 24
        finally:
            os.seteuid(user)
            for place in (folder, *folder.rglob("*")):
                place.chmod(0o755)
        assert files(store) == files(whole)

    def test_store_of_another_version(self, whole, path, monkeypatch):
        shutil.copytree(whole, path)
        here = environment(SMALL)
        monkeypatch.setattr(_sweep_store, "environment", lambda *_: {**here, "jax": "9.9.9"})
        message = rf"`path`: .* got results of jax {jax.__version__} \(now 9.9.9\)"
        with pytest.raises(ValueError, match=message):
            run_sweep(SMALL, path)
        monkeypatch.undo()
        assert files(path) == files(whole)
        content = json.loads((path / "zarr.json").read_text())
        content["attributes"]["sigprop_sweep"] = 99
        (path / "zarr.json").write_text(json.dumps(content))
        message = "`path`: must be a sweep's store of version 1; got version 99"
        for call in (lambda: run_sweep(SMALL, path), lambda: sigprop.read_sweep(path)):
            with pytest.raises(ValueError, match=message):
                call()

    def test_something_else_there(self, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(ValueError, match="`path`: must be the store of a sweep; got none"):
            run_sweep(SMALL, tmp_path)
        other = tmp_path / "other.zarr"
        sigprop.write_dataset(xr.Dataset({"a": 1}), other, provenance={})
        with pytest.raises(ValueError, match="`path`: must be the store of a sweep; got another"):
            run_sweep(SMALL, other)
        assert int(sigprop.read_dataset(other)["a"]) == 1

    def test_float64_needs_it(self, path):
        jax.config.update("jax_enable_x64", False)
        try:
            with pytest.raises(ValueError, match="`dtype`: must be float32 without jax_enable_x64"):
                run_sweep(dataclasses.replace(SMALL, dtype="float64"), path)
        finally:
            jax.config.update("jax_enable_x64", True)
        assert not path.exists()


class TestMerge:
    def test_shards_make_the_whole(self, whole, path):
        parts = [path.with_name(f"{i}.zarr") for i in range(3)]
        for i, part in enumerate(parts):
            run = run_sweep(SMALL, part, shard=(i, 3), chunk=CHUNK)
            assert (run.computed, run.elsewhere) == (8, 16)
        assert sigprop.merge_sweeps(parts[:2], path).done == 16
        assert sigprop.merge_sweeps([parts[2]], path).done == 24
        assert files(path) == files(whole)

    def test_parts_of_a_grid(self, whole, path):
        parts = [path.with_name(f"{i}.zarr") for i in range(2)]
        for part, values in zip(parts, [(2.0, 3.0), (1.0,)], strict=True):
            run_sweep(dataclasses.replace(SMALL, weight_variance=values), part, chunk=CHUNK)
        found = sigprop.merge_sweeps(parts, path)
        assert found[:4] == (24, 24, 6, 6)
        assert numbers(path) == numbers(whole)

    def test_stores_that_do_not_fit(self, whole, path, monkeypatch):
        other = path.with_name("other.zarr")
        run_sweep(dataclasses.replace(SMALL, seed=1), other, chunk=CHUNK)
        with pytest.raises(ValueError, match="`seed`: must be the same in all sweeps; got 0, 1"):
            sigprop.merge_sweeps([whole, other], path)
        # The same addresses with other numbers: a machine that computes wrongly.
        liar = path.with_name("liar.zarr")
        shutil.copytree(whole, liar)
        store = _sweep_store.open_store(liar)
        arrays, counts = store.read(2)
        arrays["length"] *= 1.03
        store.write(2, arrays, counts)
        with pytest.raises(ValueError, match="`paths`: must agree; got different numbers"):
            sigprop.merge_sweeps([whole, liar], path)
        assert not path.exists()


class TestSummary:
    def test_means_and_errors_are_those_of_a_comparison(self, whole):
        means = sigprop.summarise_sweep(whole).sel(weight_variance=2.0, bias_variance=0.1)
        network = theory.feedforward(theory.activation("erf"), 2.0, 0.1, depth=4)
        drawn = sigprop.sample_ensemble(network, SMALL.signals(1.0, 0.5), width=8, replicas=4)
        for observable in SMALL.records:
            each = contributions(observable, drawn.samples)
            own = means[observable.name][observable.first_layer :]
            error = means[f"{observable.name}_standard_error"][observable.first_layer :]
            np.testing.assert_allclose(own, each.mean(axis=0), rtol=SINGLE_LAYERS)
            # xarray's moments and the influence values are the same first order.
            np.testing.assert_allclose(
                error, each.std(axis=0, ddof=1) / 2, rtol=SINGLE_LAYERS, atol=FOLD
            )
        assert bool((means["networks"] == 4).all())

    def test_missing_networks(self, whole):
        found = sigprop.read_sweep(whole)
        there = found["measured"].copy()
        there[0, 0] = False
        there[1, 0, 1:] = False
        partly = found.where(there).assign(measured=there)
        means = summarised(SMALL, partly)
        assert means["networks"].values.tolist() == [[0, 4], [1, 4], [4, 4]]
        for name in ("length", "correlation"):
            assert bool(means[name][0, 0].isnull().all())
            assert bool(means[name][1, 0].notnull().all())
            assert bool(means[f"{name}_standard_error"][1, 0].isnull().all())

    @pytest.mark.slow
    def test_agrees_with_theory_and_would_not_with_another(self, path):
        sweep = Sweep(
            activation="erf",
            weight_variance=(1.5, 2.5),
            bias_variance=0.1,
            depth=3,
            width=4096,
            explicit_weights=False,
            layers=(-1,),
            replicas=100,
            observables=("length", "correlation"),
        )
        run_sweep(sweep, path)
        means = sigprop.summarise_sweep(path)

        def largest_z(factor):
            """Over two points and two observables."""
            z = []
            for i, variance in enumerate(sweep.values("weight_variance")):
                here = means.isel(weight_variance=i)
                for name in sweep.observables:
                    point = {**sweep.point(i), "weight_variance": variance * factor}
                    off = here[name] - sweep_theory(sweep, name, point)
                    z.append(np.abs(off / here[f"{name}_standard_error"]).max())
            return float(np.max(z))

        assert largest_z(1.0) < sigmas(6)
        assert min(largest_z(0.97), largest_z(1.03)) > sigmas(6)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def write_toml(sweep, path):
    """The sweep as a file."""
    lines = []
    for field in dataclasses.fields(sweep):
        value = getattr(sweep, field.name)
        if value is not None:
            value = list(value) if isinstance(value, tuple) else value
            lines.append(f"{field.name} = {json.dumps(value)}")
    path.write_text("\n".join(lines))
    return path


SCRIPT = [sys.executable, str(ROOT / "scripts" / "scan_depth.py")]


def environment_of(devices=1):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


DEVICES = """
import sys, jax
jax.config.update("jax_enable_x64", True)
import sigprop
from jax.sharding import AxisType
sweep = sigprop.read_sweep_file(sys.argv[1])
for shape in ((2,), (4,), (2, 4)):
    names = ("replicas", "cells")[: len(shape)]
    count = shape[0] * (shape[1] if len(shape) > 1 else 1)
    mesh = jax.make_mesh(shape, names, (AxisType.Auto,) * len(shape), devices=jax.devices()[:count])
    run = sigprop.run_sweep(sweep, f"{sys.argv[2]}/{count}.zarr", mesh=mesh, chunk=10 + count)
    assert run.computed == 24, run
"""


def hosts(sweep, path, count, devices):
    """Processes that work on one sweep, each with simulated devices."""
    file = write_toml(sweep, path.with_name("sweep.toml"))
    line = [*SCRIPT, file, "--output", path, "--coordinator", f"127.0.0.1:{free_port()}"]
    return [
        subprocess.Popen(
            [*map(str, line), "--processes", str(count), "--process", str(i)],
            env=environment_of(devices),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(count)
    ]


# Several seconds of work, so that hosts can be ended on their way.
MUCH = dataclasses.replace(SMALL, weight_variance="1:3:32", width=64, depth=20, replicas=64)


class TestManyDevices:
    @pytest.mark.slow
    def test_devices_change_no_bit(self, whole, tmp_path):
        """Two, four, and eight in two axes, all in one program."""
        file = write_toml(SMALL, tmp_path / "sweep.toml")
        argv = [sys.executable, "-c", DEVICES, file, tmp_path]
        subprocess.run(argv, check=True, env=environment_of(8), timeout=300)
        for count in (2, 4, 8):
            assert numbers(tmp_path / f"{count}.zarr") == numbers(whole)

    @pytest.mark.parametrize(
        "count, devices",
        [
            (2, 2),
            *(
                pytest.param(count, devices, marks=pytest.mark.slow)
                for count in (1, 2, 4)
                for devices in (1, 2, 4, 8)
                if (count, devices) != (2, 2)
            ),
        ],
    )
    def test_hosts_change_no_bit(self, whole, path, count, devices):
        """Processes that find each other over loopback, with several devices each."""
        processes = hosts(SMALL, path, count, devices)
        said = [p.communicate(timeout=300) for p in processes]
        assert [p.returncode for p in processes] == [0] * count, said
        computed = [int(out.partition("computed=")[2].partition(",")[0]) for out, _ in said]
        assert sum(computed) == 24
        assert min(computed) > 0
        assert numbers(path) == numbers(whole)

    @pytest.mark.slow
    @pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_hosts_that_are_ended_go_on(self, path, sent):
        """One that is killed is missed by the other; a signal to both ends both with a line."""
        processes = hosts(MUCH, path, 2, 2)
        until = time.monotonic() + 300
        while not list(path.glob("marker/c/*")):
            assert time.monotonic() < until
            time.sleep(0.05)
        start = time.monotonic()
        for process in processes if sent != signal.SIGKILL else processes[1:]:
            process.send_signal(sent)
        said = [p.communicate(timeout=120)[1] for p in processes]
        assert time.monotonic() - start < 60
        codes = [p.returncode for p in processes]
        if sent == signal.SIGKILL:
            assert codes == [-signal.SIGABRT, -signal.SIGKILL]  # as JAX ends a process
        else:
            assert codes == [128 + sent] * 2
            for i, text in enumerate(said):
                *_, line = text.splitlines()
                assert line.startswith(f"scan_depth: ended by {sent.name}; ")
                assert f" of {MUCH.points * MUCH.replicas} networks are in {path}" in line
                assert line.endswith(f"--processes 2 --process {i}")
        assert 0 < sigprop.sweep_status(path).done < MUCH.points * MUCH.replicas
        processes = hosts(MUCH, path, 2, 2)
        said = [p.communicate(timeout=300) for p in processes]
        assert [p.returncode for p in processes] == [0, 0], said
        undisturbed = path.with_name("undisturbed.zarr")
        run_sweep(MUCH, undisturbed)
        assert numbers(path) == numbers(undisturbed)
        left = {p.name for p in path.parent.iterdir()}
        assert left == {path.name, undisturbed.name, "sweep.toml"}

    @pytest.mark.slow
    def test_failure_of_one_host_ends_all(self, path):
        path.write_text("not a store")
        processes = hosts(SMALL, path, 2, 1)
        said = [p.communicate(timeout=300)[1].splitlines()[-1] for p in processes]
        assert [p.returncode for p in processes] == [1, 1]
        assert said[0].startswith("scan_depth: `path`: must be")
        assert said[1].startswith("scan_depth: `path`: must be writable by every host; process 0")


def scan_depth():
    spec = importlib.util.spec_from_file_location("scan_depth", SCRIPT[1])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_slurm_array_is_shards(monkeypatch):
    module = scan_depth()
    assert module.part_of(None) == (0, 1)
    with pytest.raises(ValueError, match="--parts: must be 1 outside of a Slurm array; got 4"):
        module.part_of(4)
    for name, value in (("ID", "7"), ("MIN", "7"), ("COUNT", "1")):  # submitted again alone
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert module.part_of(16) == (7, 16)
    for parts in (None, 7, 1):
        with pytest.raises(ValueError, match="--parts: must be the number of tasks of the whole"):
            module.part_of(parts)


# Enough networks, one to a file, that a run takes a second and can be killed on its way.
LONG = dataclasses.replace(SMALL, weight_variance="1:3:16", replicas=8)
KILLED = """
import sys, jax
jax.config.update("jax_enable_x64", True)
import sigprop
sweep = sigprop.read_sweep_file(sys.argv[1])
sigprop.run_sweep(sweep, sys.argv[2], chunk=1, progress=lambda p: print(p.done, flush=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_runs_end_with_the_same_bytes(kills, path):
    """kill -9 at random moments, once the first network is under way; then to the end."""
    file = write_toml(LONG, path.with_name("sweep.toml"))
    argv = [sys.executable, "-c", KILLED, str(file), str(path)]
    rng, done, moments = random.Random(5), 0, []
    for _ in range(kills):
        process = subprocess.Popen(argv, env=environment_of(), stdout=subprocess.PIPE, text=True)
        # A random number of networks further on, and then some.
        wanted = rng.randint(0, (LONG.points * LONG.replicas) // (kills + 1))
        for line in process.stdout:
            if int(line) >= wanted:
                break
        time.sleep(rng.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        before, done = done, sigprop.sweep_status(path).done
        moments.append(done)
        assert done >= before + wanted
    assert 0 < done < LONG.points * LONG.replicas
    run = run_sweep(LONG, path)
    assert (run.computed, run.reused) == (LONG.points * LONG.replicas - done, done)
    undisturbed = path.with_name("undisturbed.zarr")
    run_sweep(LONG, undisturbed, chunk=1)
    assert files(path) == files(undisturbed)


class TestCommands:
    @pytest.fixture
    def command(self, capsys, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sigprop.commands._output.DPI", 60)

        def run(*argv):
            code = _cli.main([str(part) for part in argv])
            out, err = capsys.readouterr()
            return code, out, err

        return run

    def test_run_status_merge_show(self, command, tmp_path):
        small = dataclasses.replace(SMALL, width=(8, 6), replicas=2)
        file = write_toml(small, tmp_path / "sweep.toml")
        for i in range(2):
            code, out, _ = command("sweep", "run", file, "--shard", f"{i}/2", "--json")
            found = json.loads(out)
            assert (code, found["computed"], found["elsewhere"]) == (0, 12, 12)
        parts = sorted((tmp_path / "runs").glob("*.zarr"))
        assert [p.name for p in parts] == ["sweep.0-of-2.zarr", "sweep.1-of-2.zarr"]
        code, out, _ = command("sweep", "status", parts[0], "--json")
        assert (code, json.loads(out)["done"]) == (0, 12)
        code, _, _ = command("sweep", "merge", *parts, "--output", "whole.zarr")
        assert code == 0
        view = ["--observable", "correlation", "--at", "bias-variance=0.1,layer=4"]
        code, out, _ = command("sweep", "show", "whole.zarr", *view, "--output", "fig", "--json")
        found = json.loads(out)
        view[-1] = "bias-variance=0.1,layer=-1"  # which is 4
        _, out, _ = command("sweep", "show", "whole.zarr", *view, "--output", "fig", "--json")
        assert json.loads(out)["view"] == found["view"]
        assert code == 0
        assert (found["view"]["against"], found["view"]["by"]) == ("weight_variance", "width")
        assert sorted(p.name for p in (tmp_path / "fig").iterdir()) == ["sweep.pdf", "sweep.png"]
        (one, other) = found["series"]
        assert (one["label"], other["label"]) == (8, 6)
        means = sigprop.summarise_sweep("whole.zarr").sel(width=8, bias_variance=0.1, layer=4)
        np.testing.assert_allclose(one["mean"], means["correlation"][:, 0])
        expected = sweep_theory(small, "correlation", {**small.point(1), "width": 8})
        assert one["theory"][0] == pytest.approx(expected[4, 0])

    def test_what_python_began_goes_on_here(self, command, tmp_path, whole):
        """The command line sets the precision of products of its process."""
        file = write_toml(SMALL, tmp_path / "sweep.toml")
        shutil.copytree(whole, tmp_path / "begun.zarr")
        code, out, _ = command("sweep", "run", file, "--output", "begun.zarr", "--json")
        assert (code, json.loads(out)["computed"], json.loads(out)["reused"]) == (0, 0, 24)

    def test_mistakes(self, command, tmp_path, whole):
        file = write_toml(SMALL, tmp_path / "sweep.toml")
        for argv, message in (
            (["run", "none.toml"], "none.toml: must be a readable TOML file; got No such file"),
            (["run", file, "--shard", "3/3"], "--shard: must be i/n"),
            (["run", file, "--devices", "99"], "--devices: must be from 1 to"),
            (["run", file, "--output", file], "--output: must be"),
            (["status", "none.zarr"], "STORE: must be the store of a sweep; got none"),
            (["show", whole, "--observable", "slop"], "--observable: must be one of length"),
            (["show", whole, "--against", "depth"], "--against: must be one of"),
            (["show", whole, "--at", "layer=9"], "--at: must have a layer of 0, 1"),
            (["show", whole, "--at", "layer=-9"], "--at: must have a layer of 0, 1"),
            (["show", whole, "--at", "layer"], "--at: must be axis=value"),
            (["show", whole, "--input", "5"], "--input: must be from 0 to 1"),
            (
                ["merge", "none.zarr", "--output", "o.zarr"],
                "STORES: must be the store of a sweep",
            ),
        ):
            code, out, err = command("sweep", *argv)
            assert (code, out) == (2, ""), argv
            assert message in err, err
            assert err.count("\n") == 1
        assert sorted(p.name for p in tmp_path.iterdir()) == ["sweep.toml"]
