"""Networks with weights that are kept, and their training."""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from flax import nnx

import sigprop
import theory
from sigprop.experiments import (
    MEASURES,
    Architecture,
    Classifier,
    SequenceClassifier,
    Study,
    apply_parameters,
    copy_task,
    cross_entropy,
    diagnose,
    draw_parameters,
    load_images,
    parameter_count,
    permuted,
    read_study,
    rotations,
    study_dataset,
    to_nnx,
    train,
)
from sigprop.experiments._checkpoint import write_checkpoint
from sigprop.experiments._environment import environment
from sigprop.experiments._map_exponents import map_exponents
from sigprop.experiments._measures import class_similarity
from sigprop.experiments._results import finished
from sigprop.experiments._train import _Job, advance, model_of, start
from sigprop.storage import writing
from tests.tolerances import FOLD, SINGLE, SINGLE_LAYERS, SOLUTION

KEY = jax.random.key(3)
TANH = theory.activation("tanh")
RADIAL = theory.radial("tanh")

CASES = {
    "scalar": lambda: theory.feedforward(TANH, 1.5, 0.1, depth=3),
    "orthogonal": lambda: theory.feedforward(TANH, 1.5, depth=3, weights="orthogonal"),
    "residual": lambda: theory.feedforward(TANH, 1.5, 0.1, depth=3, residual=True),
    "normalised": lambda: Architecture(
        "n", activation="tanh", residual=True, normalisation="layer"
    ).interior(4),
    "O(3)": lambda: theory.feedforward(RADIAL, 1.5, depth=3, components=3),
    "U(2)": lambda: theory.feedforward(RADIAL, 1.5, depth=3, components=4, algebra="complex"),
    "Sp(1)": lambda: theory.feedforward(RADIAL, 1.5, depth=3, components=4, algebra="quaternion"),
    "dense": lambda: theory.feedforward(RADIAL, 1.5, 0.1, depth=3, components=2, algebra="dense"),
}


class TestHeldWeights:
    @pytest.mark.parametrize(
        "name",
        [
            "orthogonal",
            "normalised",
            "U(2)",
            "dense",
            *(
                pytest.param(name, marks=pytest.mark.slow)
                for name in ("scalar", "residual", "O(3)", "Sp(1)")
            ),
        ],
    )
    def test_the_network_that_the_sampler_draws(self, name):
        network = CASES[name]()
        k = theory.description.components(network)
        x = jax.random.normal(jax.random.key(1), (3, 5, k))
        drawn = sigprop.networks.DrawnNetwork(network, KEY, 6)
        how = {"fan_in": 5, "width": 6, "components": k, "dtype": x.dtype}
        parameters = draw_parameters(network, KEY, **how)
        np.testing.assert_allclose(apply_parameters(network, parameters, x), drawn(x), rtol=FOLD)

    def test_no_bias_where_the_description_has_none(self):
        how = {"fan_in": 5, "width": 6, "components": 1}
        for bias, count in ((0.0, 30 + 3 * 36), (0.1, 36 + 3 * 42)):
            network = theory.feedforward(TANH, 1.5, bias, depth=3)
            assert parameter_count(draw_parameters(network, KEY, **how)) == count

    def test_equivariance_survives_any_weights(self):
        network = CASES["U(2)"]()
        parameters = draw_parameters(network, KEY, fan_in=5, width=6, components=4, dtype=float)
        parameters = jax.tree.map(lambda w: w + jnp.sin(1e3 * w), parameters)
        x = jax.random.normal(jax.random.key(1), (3, 5, 4))
        turns = jax.vmap(jax.scipy.linalg.expm)(jnp.asarray(theory.phases.generators(network)))
        plain = apply_parameters(network, parameters, x)
        for turn in turns:
            turned = apply_parameters(network, parameters, x @ turn.T)
            np.testing.assert_allclose(turned, plain @ turn.T, rtol=0, atol=FOLD)


def classifier(architecture, depth=6, features=12):
    return Classifier(architecture.interior(depth), 64, features, 10)


O2 = Architecture("O(2)", 2)
DENSE = Architecture("dense", 2, "dense")


class TestDiagnostics:
    def found(self, architecture, count=8):
        images = load_images("digits")
        built = classifier(architecture)
        parameters = built.draw(KEY, 1.5, dtype=jnp.float64)
        x = images.test[:count].astype(float)
        labels = images.test_labels[:count]
        every = rotations(built.components)
        return built, parameters, x, labels, diagnose(built, parameters, x, labels, every)

    @pytest.mark.slow
    def test_against_explicit_sums(self):
        built, parameters, x, labels, found = self.found(O2)
        last, kept = built.hidden(parameters, x, keep=True)
        states = np.asarray(kept)[1:].reshape(5, 8, 12)
        cosines = []
        for state in states:
            unit = state / np.linalg.norm(state, axis=1, keepdims=True)
            pairs = [unit[a] @ unit[b] for a in range(8) for b in range(a)]
            cosines.append(np.mean(pairs))
        np.testing.assert_allclose(found.similarity, cosines, rtol=SOLUTION)
        np.testing.assert_allclose(
            found.order_parameter, np.mean(np.linalg.norm(last, axis=2)), rtol=FOLD
        )

        # The gradient at the last turn, by the layers that follow it.
        def behind(z, label):
            logits = built.read_out(parameters, RADIAL(z[None]))
            return cross_entropy(logits, label[None])[0]

        gradients = jax.vmap(jax.grad(behind))(kept[-1], labels)
        sizes = np.linalg.norm(gradients.reshape(8, -1), axis=1)
        np.testing.assert_allclose(found.log_gradient[-1], np.log(sizes.mean()), rtol=SOLUTION)
        charges = jnp.einsum("nup,pq,nuq->n", gradients, rotations(2)[0], kept[-1])
        np.testing.assert_allclose(found.charge[0], np.sqrt(np.mean(charges**2)), rtol=SOLUTION)

    @pytest.mark.slow
    def test_charge_is_conserved_by_symmetry_alone(self):
        """For every generator, and for any weights whatever."""
        o4, dense = Architecture("O(4)", 4), Architecture("dense", 4, "dense")
        for architecture, conserved in ((o4, True), (dense, False)):
            built, parameters, x, labels, _ = self.found(architecture)
            moved = jax.tree.map(lambda w: w + 0.1 * jnp.sin(1e3 * w), parameters)
            for given in (parameters, moved):
                drift = diagnose(built, given, x, labels, rotations(4)).charge_drift
                assert drift.shape == (6,)
                assert np.all(drift < 1e-14 if conserved else drift > 0.05)

    @pytest.mark.slow
    @pytest.mark.parametrize(("mixing", "conserved"), [("real", True), ("dense", False)])
    def test_charge_of_a_hundred_layers_before_and_after_training(self, mixing, conserved):
        """In float64, of a network that ten epochs of Adam in float32 have trained."""
        data, exact = load_images("digits"), lambda leaf: leaf.astype(float)
        study = Study((Architecture("O(4)", 4, mixing),), depth=100, features=32, batch=128)
        model = Classifier(study.architectures[0].interior(100), 64, 32, 10)
        seed, rate = jnp.int32(0), jnp.float32(1e-4)

        @jax.jit
        def loss(parameters):
            return jnp.mean(cross_entropy(model.logits(parameters, data.test), data.test_labels))

        @jax.jit
        def epoch(state):
            return advance(model, study, data, state, rate, seed, state.step + 11)

        state = start(model, study, jnp.float32(1.2), seed)
        trained = state
        for _ in range(10):
            trained = epoch(trained)
        assert loss(trained.parameters) < loss(state.parameters) - 0.1
        for parameters in (state.parameters, trained.parameters):
            known = jax.tree.map(exact, parameters)
            x, labels = exact(data.test[:8]), data.test_labels[:8]
            drift = diagnose(model, known, x, labels, rotations(4)).charge_drift
            assert np.all(drift < 1e-13 if conserved else drift > 0.05)

    def test_class_similarity_against_explicit_sums(self):
        states = jax.random.normal(KEY, (2, 6, 4, 1))
        labels = jnp.array([0, 0, 2, 2, 2, 3])
        means = [np.mean(states[:, labels == c], axis=1).reshape(2, 4) for c in (0, 2, 3)]
        cosine = lambda a, b: (
            np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        )
        pairs = [(0, 1), (0, 2), (1, 2)]
        expected = np.mean([cosine(means[i], means[j]) for i, j in pairs], axis=0)
        np.testing.assert_allclose(class_similarity(states, labels, 5), expected, rtol=FOLD)

    @pytest.mark.slow
    def test_jacobian(self):
        """Against the Jacobian of all turns at once, and the identity that a dense net breaks."""
        for architecture in (O2, DENSE):
            built, parameters, x, labels, _ = self.found(architecture)
            found = MEASURES["jacobian"](built, parameters, parameters, x, labels)
            layers, held = built.layers(parameters)
            start = built.hidden(parameters, x, keep=True)[1][0, 0]
            whole = lambda z, t=layers, h=held: apply_parameters(t, h, z[None])[0]
            jacobian = jax.jacfwd(whole)(start).reshape(12, 12)
            values = np.linalg.svd(jacobian, compute_uv=False)
            logs = found["log_singular_values"].values[0]
            np.testing.assert_allclose(logs, np.log(values), atol=1e-9)
            share = values**2 / np.sum(values**2)
            rank = np.exp(-np.sum(share * np.log(share)))
            assert float(found["effective_rank"].values[0]) == pytest.approx(rank, rel=1e-9)
            residual = found["certificate_residual"].values
            holds = residual <= found["certificate_claim"].values
            assert np.all(holds == (architecture is O2))


@pytest.mark.slow
def test_the_same_network_in_flax():
    built = classifier(O2)
    parameters = built.draw(KEY, 1.5)
    module = to_nnx(built, parameters)
    x = load_images("digits").test[:3]
    np.testing.assert_array_equal(module(x), built.logits(parameters, x))
    state = nnx.state(module, nnx.Param)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == parameter_count(parameters)
    slopes = nnx.grad(lambda module: jnp.sum(module(x) ** 2))(module)
    expected = jax.grad(lambda p: jnp.sum(built.logits(p, x) ** 2))(parameters)
    for one, two in zip(
        sorted(jax.tree.leaves(slopes), key=jnp.sum),
        sorted(jax.tree.leaves(expected), key=jnp.sum),
        strict=True,
    ):
        np.testing.assert_allclose(one, two, rtol=SINGLE)


STUDY = Study(
    (O2, Architecture("scalar", activation="tanh")),
    depth=5,
    features=12,
    gains=(1.2,),
    learning_rates=(1e-3, 1e-2),
    seeds=(0, 1),
    epochs=12,
    records=4,
    train_count=512,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, train(STUDY, folder)


class TestTraining:
    def test_it_learns(self, trained):
        _, found = trained
        assert found["test_accuracy"].dims == (
            "architecture",
            "gain",
            "learning_rate",
            "seed",
            "record",
        )
        assert np.all(found["ready"] == 1)
        assert np.all(found["failed"] == 0)
        last = found["test_accuracy"].isel(record=-1).sel(learning_rate=1e-2)
        assert np.all(last > 0.5)
        assert np.all(found["test_accuracy"].isel(record=0) < 0.3)
        assert np.all(found["charge"].sel(architecture="O(2)").notnull())
        assert np.all(found["charge"].sel(architecture="scalar").isnull())
        np.testing.assert_array_equal(found["record_step"][0, 0, 0, 0], [0, 1, 5, 24])

    def test_first_step_by_hand(self):
        """One Adam step moves every parameter by the learning rate against its gradient's sign."""
        images = load_images("digits", 512)
        built = classifier(O2, 5)
        state = start(built, STUDY, jnp.float32(1.2), jnp.int32(0))
        after = advance(built, STUDY, images, state, jnp.float32(1e-3), jnp.int32(0), jnp.int32(1))
        assert int(after.step) == 1
        moved = jax.tree.map(lambda a, b: np.asarray(b) - a, state.parameters, after.parameters)
        weights = moved["read_in"][0]
        np.testing.assert_allclose(
            np.abs(weights[weights != 0]), 1e-3, rtol=2e-2
        )  # within: Adam's ε
        # Against the gradient on the batch whose loss it reports.
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), 0), 0)
        chosen = jax.random.permutation(key, 512)[:256]

        def loss_of(parameters):
            logits = built.logits(parameters, images.train[chosen])
            return jnp.mean(cross_entropy(logits, images.train_labels[chosen]))

        loss, gradient = jax.jit(jax.value_and_grad(loss_of))(state.parameters)
        assert float(after.loss) == pytest.approx(float(loss), rel=SINGLE_LAYERS)
        clear = np.abs(gradient["read_out"][0]) > 1e-5
        signs = -np.sign(gradient["read_out"][0])
        np.testing.assert_array_equal(np.sign(moved["read_out"][0])[clear], signs[clear])

    def test_extension_reuses_what_is_ready(self, trained):
        folder, found = trained
        stores = {p: p.stat().st_mtime_ns for p in (folder / "networks").iterdir()}
        wider = dataclasses.replace(STUDY, seeds=(0, 1, 2), architectures=(O2,))
        seen = []
        more = train(wider, folder, progress=lambda p: seen.append((p.done, p.total)))
        assert all(p.stat().st_mtime_ns == then for p, then in stores.items())
        assert len(list((folder / "networks").iterdir())) == len(stores) + 2
        xr.testing.assert_identical(
            more.sel(seed=[0, 1], architecture=["O(2)"]), found.sel(architecture=["O(2)"])
        )
        assert seen[-1] == (6 * 24, 6 * 24)

    def test_other_data_or_versions_are_refused(self, trained, tmp_path):
        """A folder of data may have the same name and other images."""
        folder, _ = trained
        images = load_images("digits", 512)
        here = environment(images, 1)
        assert len(finished(STUDY, folder, here)) == 8
        labels = images.train_labels.at[0].add(1)
        others = (environment(images._replace(train_labels=labels), 1), {**here, "optax": "0"})
        for other, name in zip(others, ("data", "optax"), strict=True):
            message = f"`folder`: must be free or contain .*; got some of {name} {here[name]} "
            with pytest.raises(ValueError, match=message):
                finished(STUDY, folder, other)
        before = shutil.copytree(folder, tmp_path / "before")
        store = before / "networks" / f"{STUDY.members[0].key}.zarr"
        found = sigprop.read_dataset(store)
        del found.attrs["environment"]
        sigprop.write_dataset(found, store, provenance={})
        with pytest.raises(ValueError, match="got some of sigprop that nobody recorded"):
            finished(STUDY, before, here)
        assert bool((study_dataset(STUDY, before)["ready"] == 1).all())

    def test_two_do_not_train_in_one_folder(self, trained):
        folder, _ = trained
        with writing(folder / "networks"):
            message = f"`folder`: must not be written by two at a time; got process {os.getpid()} "
            with pytest.raises(ValueError, match=message):
                train(STUDY, folder)

    def test_a_full_disk_is_named_whoever_writes(self):
        """TensorStore raises a ValueError with the system's number in its text."""

        class Full:
            def save(self, step, args):
                raise ValueError("RESOURCE_EXHAUSTED: Error writing [os_error_code='28']")

        manager: Any = Full()
        with pytest.raises(OSError, match="No space left on device"):
            write_checkpoint(manager, 3, [np.zeros(2)])

    def test_checkpoints_are_of_exactly_these_networks(self):
        one, two, three = STUDY.members[:3]
        jobs = [_Job(Path(), chunk, 3, False, "") for chunk in ([one, two, three], [one, three])]
        assert jobs[0].checkpoints != jobs[1].checkpoints

    def test_a_network_that_fails_leaves_the_others(self, tmp_path):
        study = dataclasses.replace(
            STUDY,
            architectures=(Architecture("relu", activation="relu"),),
            learning_rates=(1e-3, 1e18),
            optimiser="sgd",
            seeds=(0,),
        )
        found = train(study, tmp_path)
        failed = found["failed"].values[0, 0, :, 0]
        assert np.all(failed[0] == 0)
        assert failed[1, -1] > 0
        # It stays where it was before the step that failed.
        assert found["record_step"].values[0, 0, 1, 0, -1] < 24
        assert np.all(np.isfinite(found["test_loss"].values[0, 0, 0]))

    def test_nothing_is_there(self, tmp_path):
        with pytest.raises(ValueError, match="`folder`: must contain networks of this study"):
            study_dataset(STUDY, tmp_path)
        with pytest.raises(ValueError, match="`measures`: must be some of signals, classes"):
            train(dataclasses.replace(STUDY, measures=("everything",)), tmp_path)
        cell = Architecture("rnn", cell="rnn")
        with pytest.raises(ValueError, match="`measures`: jacobian is of deep networks"):
            train(Study((cell,), measures=("jacobian",)), tmp_path)
        with pytest.raises(ValueError, match=r"`data`: must be a folder with .*apt install"):
            train(dataclasses.replace(STUDY, data=str(tmp_path / "none")), tmp_path)


KILLED = """
import sys
from sigprop.experiments import Architecture, Study, train
study = Study((Architecture("O(2)", 2),), depth=5, features=12, learning_rates=(1e-2,), seeds=(0,),
              epochs=20, batch=64, records=6)
note = lambda p: print(p.done, flush=True)
train(study, sys.argv[1], checkpoint_seconds=0, progress=note)
"""


@pytest.mark.slow
def test_a_killed_study_resumes_with_the_same_bits(tmp_path):
    def printed(folder, enough=None):
        """What a run prints, killed once `enough` steps are done."""
        command = [sys.executable, "-W", "ignore", "-c", KILLED, str(folder)]
        lines = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(int(line))
                if enough is not None and lines[-1] >= enough:
                    process.send_signal(signal.SIGKILL)
                    break
        return lines

    ready = lambda name: list((tmp_path / name / "networks").glob("*.zarr"))
    printed(tmp_path / "whole")
    printed(tmp_path / "cut", enough=200)
    assert not ready("cut")
    assert printed(tmp_path / "cut")[1] >= 100  # it went on from a checkpoint
    one, two = (sigprop.read_dataset(*ready(name)) for name in ("whole", "cut"))
    xr.testing.assert_identical(one.drop_attrs(), two.drop_attrs())


def changed(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
def test_damaged_checkpoints_are_left_out(tmp_path):
    """Whatever became of a checkpoint, the network ends with the same numbers."""
    study = Study(
        (O2,), depth=5, features=12, learning_rates=(1e-2,), seeds=(0,), epochs=6, batch=64
    )

    def cut(progress):
        if progress.done > 80:
            raise KeyboardInterrupt

    def run(folder, **how):
        return train(study, folder, checkpoint_seconds=0, **how)

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", progress=cut)
    (place,) = (tmp_path / "cut" / "checkpoints").iterdir()
    files = [p for p in place.rglob("*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size).relative_to(place.parent)
    for damage in (changed, Path.unlink, lambda path: path.write_bytes(b"")):
        folder = tmp_path / "again"
        shutil.copytree(tmp_path / "cut", folder)
        damage(folder / "checkpoints" / largest)
        (folder / "checkpoints" / place.name / "999").mkdir()
        with pytest.warns(RuntimeWarning, match="incomplete, or of another environment"):
            found = run(folder)
        xr.testing.assert_identical(found.drop_attrs(), whole.drop_attrs())
        shutil.rmtree(folder)


class TestSequences:
    def cell(self, kind, components=2, mixing="complex", activation="radial tanh"):
        architecture = Architecture("cell", components, mixing, activation, cell=kind)
        return SequenceClassifier(*architecture.recurrence, kind, 3, 8, 5, answers=2)

    @pytest.mark.parametrize("kind", ["rnn", "gru"])
    def test_a_rotation_of_the_state_goes_through_a_step(self, kind):
        """Without input. Of the dense cell it does not."""
        turn = jnp.array([[0.6, -0.8], [0.8, 0.6]])
        h = jax.random.normal(KEY, (4, 4, 2))
        silence = jnp.zeros((4, 3))
        for mixing, kept in (("complex", True), ("dense", False)):
            model = self.cell(kind, mixing=mixing)
            parameters = model.draw(KEY, 1.5, dtype=float)
            weights, bias = parameters["read_in"]
            parameters["read_in"] = (weights, jnp.zeros_like(bias))
            step = lambda h, m=model, p=parameters: m.step(p, h, silence)
            gap = np.max(np.abs(step(h @ turn.T) - step(h) @ turn.T))
            assert (gap < 1e-14) == kept

    def test_scalar_gru_written_out(self):
        """Gates of the state itself, as in Cho et al. 2014 (whose z is 1 − u)."""
        architecture = Architecture("gru", activation="tanh", cell="gru")
        model = SequenceClassifier(*architecture.recurrence, "gru", 3, 8, 5)
        parameters = model.draw(KEY, dtype=float)
        h, x = jax.random.normal(KEY, (4, 8)), jax.random.normal(jax.random.key(9), (4, 3))
        found = model.step(parameters, h[..., None], x)[..., 0]
        gates, gate_bias = parameters["gates"]
        into, bias = parameters["read_in"]
        sigmoid = jax.nn.sigmoid
        u, r = jnp.split(sigmoid(jnp.concatenate([h, x], 1) @ gates.T + gate_bias[None]), 2, 1)
        new = jnp.tanh((r * h) @ parameters["recurrent"][..., 0].T + x @ into.T + bias[None])
        np.testing.assert_allclose(found, (1 - u) * h + u * new, rtol=FOLD)

    def test_probes_hold_the_gradient_of_every_step(self):
        model = self.cell("rnn")
        parameters = model.draw(KEY, 1.5, dtype=float)
        x = jax.random.normal(KEY, (2, 12))
        read, states = model.hidden(parameters, x, keep=True)
        assert states.shape == (5, 2, 4, 2)
        np.testing.assert_array_equal(read, jnp.moveaxis(states[-2:], 0, 1))
        nudge = jnp.zeros_like(states[1:]).at[1, 0, 2, 1].set(1e-6)
        loss = lambda probes: jnp.sum(jnp.sin(model.hidden(parameters, x, probes)[0]))
        slope = jax.grad(loss)(jnp.zeros_like(nudge))[1, 0, 2, 1]
        assert float(loss(nudge) - loss(-nudge)) / 2e-6 == pytest.approx(float(slope), rel=SINGLE)

    def test_copy_task(self):
        data = copy_task(7, 50, 20)
        steps = np.argmax(np.asarray(data.train).reshape(50, 27, 10), axis=2)
        for row, answer in zip(steps, np.asarray(data.train_labels), strict=True):
            (shown,) = np.nonzero(row < 8)
            np.testing.assert_array_equal(row[shown], answer)
            assert np.all(np.diff(shown) == 1)
            assert row[17] == 9
            assert np.sum(row == 9) == 1
        waits = 16 - np.array([np.nonzero(row < 8)[0][-1] for row in steps])
        assert set(waits) == set(range(1, 8))
        with pytest.raises(ValueError, match="`delay`"):
            copy_task(0)

    def test_pixels_in_another_order_are_the_same_pixels(self):
        plain = load_images("digits", 20)
        mixed = permuted(plain)
        assert np.any(np.asarray(mixed.train) != np.asarray(plain.train))
        np.testing.assert_array_equal(np.sort(mixed.test, axis=1), np.sort(plain.test, axis=1))

    @pytest.mark.slow
    def test_learning(self, tmp_path):
        study = Study(
            (Architecture("gru", activation="tanh", cell="gru"),),
            data="copy",
            delay=1,
            features=48,
            gains=(1.0,),
            learning_rates=(1e-2,),
            seeds=(0,),
            epochs=3,
            batch=64,
            records=3,
            train_count=3200,
        )
        found = train(study, tmp_path)["test_accuracy"].values.ravel()
        assert found[0] < 0.2
        assert found[-1] > 0.3  # chance is 1/8


class TestMapExponents:
    """Of the map that a recurrent network iterates by itself."""

    def recurrent(self, components, gain, features=16):
        architecture = Architecture("rnn", components, cell="rnn")
        model = SequenceClassifier(*architecture.recurrence, "rnn", 3, features, 5)
        parameters = model.draw(jax.random.key(1), gain, dtype=float)
        weights, bias = parameters["read_in"]
        deaf = parameters | {"read_in": (0 * weights, 0 * bias)}
        return model, parameters, deaf

    def follow(self, model, parameters, drive=0.0, **how):
        x = jnp.full((1, 3), drive)
        turn = lambda h: model.step(parameters, h[None], x)[0]
        start = jax.random.normal(KEY, (model.width, model.components))
        generators = jnp.asarray(rotations(model.components))
        return jax.jit(lambda h: map_exponents(turn, h, generators, **how))(start)

    def test_below_the_transition_the_eigenvalues_of_the_weights(self):
        """The state dies out, so that every step is W itself: log|det W| to rounding."""
        model, _, deaf = self.recurrent(2, 0.6)
        found = self.follow(model, deaf, count=16)
        exact = np.log(np.abs(np.linalg.eigvals(np.kron(deaf["recurrent"][..., 0], np.eye(2)))))
        assert float(jnp.sum(found.values)) == pytest.approx(exact.sum(), rel=SOLUTION)
        np.testing.assert_allclose(
            np.sort(found.values), np.sort(exact), rtol=0, atol=5e-3
        )  # within: a finite window
        assert float(found.length) < 1e-100

    @pytest.mark.parametrize(
        ("components", "zeros"),
        [
            pytest.param(1, 0, marks=pytest.mark.slow),
            (2, 1),
            pytest.param(4, 6, marks=pytest.mark.slow),
        ],
    )
    def test_zeros_are_counted_by_what_protects_them(self, components, zeros):
        model, parameters, deaf = self.recurrent(components, 1.6, 64)
        found = self.follow(model, deaf, count=16)
        protected = np.asarray(found.alignment) > 0.5
        assert protected.sum() == zeros
        assert np.all(np.abs(np.asarray(found.values)[protected]) < 4e-3)
        if zeros:
            driven = self.follow(model, parameters, drive=1.0, count=16)
            assert not np.any(np.asarray(driven.alignment) > 0.5)

    def test_the_logistic_map(self):
        """4 h (1 − h) is conjugate to a tent of slope 2."""
        turn = lambda h: 4 * h * (1 - h)
        found = map_exponents(
            turn, jnp.array([[0.3]]), jnp.zeros((0, 1, 1)), count=1, discard=100, steps=20_000
        )
        deviation = abs(float(found.values[0]) - np.log(2))
        assert deviation < 5 * float(found.standard_error[0])
        assert float(found.standard_error[0]) < 0.01

    @pytest.mark.slow
    def test_a_study(self, tmp_path):
        architectures = (
            Architecture("U(1)", 2, "complex", cell="gru"),
            Architecture("RNN", activation="tanh", cell="rnn"),
        )
        how = {"data": "copy", "delay": 2, "features": 8, "gains": (1.6,), "epochs": 1}
        study = Study(
            architectures,
            learning_rates=(1e-3,),
            seeds=(0,),
            batch=32,
            records=2,
            train_count=64,
            measures=("exponents",),
            **how,
        )
        found = train(study, tmp_path)
        assert found["free_exponents"].sizes["direction"] == 8
        np.testing.assert_array_equal(found["record_step"].values.reshape(2, 2), [[0, 2]] * 2)
        for name in ("free_exponents", "held_exponents", "held_standard_error", "free_length"):
            assert np.all(np.isfinite(found[name]))
        dense = found["free_alignment"].sel(architecture="RNN")
        assert np.all(dense == 0)


OWN = """
import jax.numpy as jnp

def bend(z):
    return jnp.tanh(z) + 0.1 * z

def half(z):
    return z / jnp.sqrt(2.0)
"""
DESCRIBED = """
depth = 3
features = 4
learning_rates = [1e-2]
seeds = [0]
epochs = 1
records = 2
measures = []
train_count = 512

[[architecture]]
name = "scaled branches of one's own activation, with a schedule"
[architecture.description]
node = "chain"
[[architecture.description.parts]]
build = "affine"
weight_variance = 1.0
bias_variance = 0.1
[[architecture.description.parts]]
node = "repeat"
depth = 2
[architecture.description.parts.body]
node = "chain"
[[architecture.description.parts.body.parts]]
build = "layer"
activation = "nets/own.py:bend"
weight_variance = [1.0, 2.0]
residual = true
[[architecture.description.parts.body.parts]]
node = "pointwise"
activation = "nets/own.py:half"
"""


def scaled(folder):
    """(h + W tanh(h))/√2, with the factor a function in a file."""
    half = theory.Pointwise(theory.activation(f"{folder}/own.py:half"))
    return theory.Chain((theory.layer(TANH, 1.0, residual=True), half))


class TestDescriptions:
    def test_what_the_shorthand_cannot_say_is_trained(self, tmp_path):
        (tmp_path / "nets").mkdir()
        (tmp_path / "nets" / "own.py").write_text(OWN)
        (tmp_path / "study.toml").write_text(DESCRIBED)
        found = train(read_study(tmp_path / "study.toml"), tmp_path / "run").squeeze()
        assert int(found["ready"]) == 1
        np.testing.assert_array_equal(found["failed"], [0, 0])
        np.testing.assert_array_equal(found["record_step"], [0, 2])
        # Read-in and read-out; three matrices, and the one bias that is there.
        assert int(found["parameters"]) == 65 * 4 + 5 * 10 + 3 * 16 + 4
        assert abs(np.diff(found["test_loss"])[0]) > 1e-3

    def test_one_key_whichever_door(self, tmp_path):
        layer, deep = theory.layer(TANH, 1.0), theory.feedforward(TANH, 1.0, depth=4)
        theory.save_network(layer, tmp_path / "layer.toml")
        (tmp_path / "made.py").write_text(
            "import theory\nmade = theory.feedforward(theory.activation('tanh'), 1.0, depth=4)\n"
        )
        (tmp_path / "study.toml").write_text(
            """
depth = 5
[[architecture]]
name = "words"
activation = "tanh"
[[architecture]]
name = "table"
[architecture.description]
build = "layer"
activation = "tanh"
weight_variance = 1
[[architecture]]
name = "file"
network = "layer.toml"
[[architecture]]
name = "python"
network = "made.py:made"
"""
        )
        read = read_study(tmp_path / "study.toml").architectures
        whole = Architecture("words", activation="tanh").interior(5)
        given = [Architecture("p", description=d) for d in (layer, deep, whole)]
        studies = [Study((own,), depth=5) for own in (*read, *given)]
        assert len({study.members[0].key for study in studies}) == 1
        for other in (theory.layer(TANH, 1.01), theory.layer(TANH, 1.0, 0.01)):
            study = Study((Architecture("p", description=other),), depth=5)
            assert study.members[0].key != studies[0].members[0].key
        cells = [Architecture("c", activation="tanh", cell="rnn")]
        cells += [Architecture("c", description=layer, cell=cell) for cell in ("rnn", "gru")]
        keys = [Study((cell,)).members[0].key for cell in cells]
        assert keys[0] == keys[1] != keys[2]

    def test_the_file_of_the_page(self, tmp_path):
        page = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
        (block,) = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
        (tmp_path / "study.toml").write_text(block)
        words, described = read_study(tmp_path / "study.toml").architectures
        assert words == Architecture("tanh", activation="tanh")
        leaky = theory.activation("leaky_relu", negative_slope=0.2)
        layer = theory.layer(leaky, 0.1, 0.01, residual=True)
        assert described == Architecture("residual, leaky", description=layer)

    def test_one_key_in_single_precision(self):
        layer = theory.layer(TANH, 1.3, 0.1)
        keys = {Study((Architecture("a", description=layer),), depth=3).members[0].key}
        with jax.enable_x64(False):
            same = theory.layer(TANH, 1.3, 0.1)
            keys |= {Study((Architecture("b", description=same),), depth=3).members[0].key}
        assert len(keys) == 1

    def test_the_content_of_a_function_is_part_of_the_key(self, tmp_path):
        keys = []
        for name, text in (("one", OWN), ("two", OWN), ("three", OWN.replace("0.1", "0.2"))):
            (tmp_path / name).mkdir()
            (tmp_path / name / "own.py").write_text(text)
            own = Architecture("own", description=scaled(tmp_path / name))
            keys.append(Study((own,), depth=3).members[0].key)
        assert keys[0] == keys[1] != keys[2]

    @pytest.mark.parametrize(
        "layer, kinds",
        [
            (theory.layer(TANH, 1.0), ["Pointwise"]),
            (theory.layer(TANH, 1.0, residual=True), ["Pointwise"]),
            (
                theory.Residual(
                    theory.Chain(
                        (theory.Normalise(), theory.affine(1.0), *theory.layer(TANH, 1.0).parts)
                    )
                ),
                ["Normalise"],
            ),
            (theory.Chain((theory.affine(1.0), theory.Pointwise(TANH))), []),
        ],
    )
    def test_the_read_out_takes_what_the_next_weights_would(self, layer, kinds):
        parts = Architecture("a", description=layer).interior(4).parts
        assert [type(part).__name__ for part in parts] == ["Affine", "Repeat", *kinds]
        whole = theory.Chain((*parts, theory.Pointwise(TANH)))
        assert Architecture("a", description=whole).interior(4).parts[-1] == whole.parts[-1]

    def test_states_and_gradients_are_those_behind_turns(self, tmp_path):
        """Also where a turn goes on behind its sum."""
        (tmp_path / "own.py").write_text(OWN)
        own = Architecture("scaled", description=scaled(tmp_path))
        model = classifier(own, 3, 4)
        parameters = model.draw(KEY, dtype=float)
        x = jax.random.normal(KEY, (2, 64))
        last, kept = model.hidden(parameters, x, keep=True)
        first, turns, _ = parameters["interior"]
        weights, bias = parameters["read_in"]
        z = (x @ weights.T + bias[None]) @ first.weights[..., 0].T
        states = [z]
        for w in turns.notes[0][0][1].weights[..., 0]:
            z = (z + jnp.tanh(z) @ w.T) / jnp.sqrt(2.0)
            states.append(z)
        np.testing.assert_allclose(kept[..., 0], jnp.stack(states), rtol=FOLD)
        np.testing.assert_allclose(last[..., 0], jnp.tanh(z), rtol=FOLD)
        probes = jnp.zeros_like(kept[1:]).at[1].set(0.5)
        moved, _ = model.hidden(parameters, x, probes)
        np.testing.assert_allclose(moved[..., 0], jnp.tanh(z + 0.5), rtol=FOLD)

    @pytest.mark.parametrize("cell", ["deep", "rnn", "gru", "block"])
    def test_the_gain_is_a_factor_of_every_hidden_weight(self, cell):
        body = theory.layer(TANH, jnp.array([1.0, 2.0]), jnp.array([0.1, 0.2]))
        network = theory.Chain((theory.affine(1.5, 0.1), theory.Repeat(body, 2)))
        how = {"description": network} if cell == "deep" else {"activation": "tanh"}
        study = Study((Architecture("a", cell=cell, **how),), depth=3, features=4)
        model = model_of(study, study.architectures[0], load_images("digits", 8))
        one, two = (
            jax.tree.leaves_with_path(model.draw(KEY, gain, dtype=float)) for gain in (1.0, 3.0)
        )
        hidden = ("weights", "recurrent", "blocks")
        count = 0
        for (path, before), (_, after) in zip(one, two, strict=True):
            words = jax.tree_util.keystr(path)
            factor = 3.0 if any(word in words for word in hidden) else 1.0
            count += factor == 3.0
            np.testing.assert_allclose(after, factor * before, rtol=FOLD)
        assert count == (2 if cell == "deep" else 1)

    @pytest.mark.parametrize(
        "table, message",
        [
            ("description = { node = 'affine' }", "`description.weights`: must be given; got none"),
            (
                "description = { build = 'layer', activation = 'tanj', weight_variance = 1.0 }",
                "`description.activation`: must be one of elu, ",
            ),
            (
                "description = 3",
                "`description`: must be a description, its table or the name",
            ),
            ("network = 'none.toml'", "`network`: .*none.toml: must be a readable TOML file"),
            ("network = 'none.py:net'", "`network`: must be FILE.py:NAME with an existing file"),
            (
                "network = 'none.toml'\ndescription = { node = 'affine' }",
                "`network`: must not be given with a description",
            ),
            ("LAYER\nactivation = 'radial tanh'", "`activation`: must not be given with a desc"),
            ("LAYER\nresidual = false", "`residual`: must not be given with a description; got F"),
            ("LAYER\ncell = 'block'", "`description`: must not be given with cell block"),
            ("LAYER\ncell = 'transformer'", "`description`: must not be given with cell transf"),
            (
                "cell = 'rnn'\ndescription = { build = 'layer', activation = 'tanh', "
                "weight_variance = 1.0, bias_variance = 0.1 }",
                "`description`: must be a Pointwise and an Affine without bias",
            ),
            ("cell = 'rnn'\nresidual = true", "`residual`: must not be given with cell rnn; got T"),
            (
                "description = { build = 'feedforward', activation = 'tanh', "
                "weight_variance = 1.0, depth = 4 }",
                "`depth`: must be 5, one above that of the Repeat of the description; got 100,",
            ),
            (
                "description = { node = 'chain', parts = [{ node = 'noise', variance = 0.1 }, "
                "{ build = 'affine', weight_variance = 1.0 }] }",
                "`description`: networks that train must have no noise; got a Noise, of a",
            ),
            (
                "description = { build = 'affine', weight_variance = 1.0, width = 9 }",
                r"`description`: must end with units and components \[64, 1\]; got \[9, 1\]",
            ),
            (
                "description = { node = 'chain', parts = [{ node = 'pointwise', activation = "
                "'tanh' }] }",
                "`description`: must contain an Affine; got none, of a",
            ),
            (
                "description = { build = 'recurrent', activation = 'tanh', weight_variance = 1.0, "
                "steps = 4 }",
                "`description`: must contain one Repeat; got 0, of a",
            ),
            (
                "description = { build = 'layer', activation = 'tanh', weight_variance = [1, 2] }",
                "`description.weight_variance`: must be one value outside of a repeat",
            ),
        ],
    )
    def test_mistakes(self, tmp_path, table, message):
        layer = "description = { build = 'layer', activation = 'tanh', weight_variance = 1.0 }"
        path = tmp_path / "study.toml"
        path.write_text(f"[[architecture]]\nname = 'a'\n{table.replace('LAYER', layer)}\n")
        with pytest.raises(ValueError, match=f"^{path}: {message}") as caught:
            read_study(path)
        assert "\n" not in str(caught.value)


class TestStudy:
    def test_toml(self, tmp_path):
        path = tmp_path / "study.toml"
        path.write_text(
            'depth = 20\ngains = [1.2, 1.5]\n[[architecture]]\nname = "O(4)"\ncomponents = 4\n'
        )
        study = read_study(path)
        assert study.depth == 20
        assert study.gains == (1.2, 1.5)
        assert study.architectures == (Architecture("O(4)", 4),)
        assert len(study.members) == 2 * 3 * 3

    @pytest.mark.parametrize(
        "text, message",
        [
            ("depht = 3", "`depht`: must be one of"),
            ("depth = 1\n[[architecture]]\nname = 'a'", "`depth`: must be"),
            (
                "gains = [-1.0]\n[[architecture]]\nname = 'a'",
                r"`gains\[0\]`: must be a number > 0.0; got \(-1.0,\)",
            ),
            ("", "`architecture`: must contain at least one"),
            ("data = 'copy'\n[[architecture]]\nname = 'a'", "`data`: must be images"),
            ("depth = ", "must be a readable TOML file"),
            ("architecture = [1]", "`architecture`: must be tables"),
            ("[[architecture]]\nname = 'a'\ncomponents = 3", "`features`: must be a multiple"),
        ],
    )
    def test_mistakes(self, tmp_path, text, message):
        path = tmp_path / "study.toml"
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_study(path)

    def test_mistakes_of_kind(self, tmp_path):
        """In a process of its own, where no hook checks the types before the study does."""
        architecture = "\n[[architecture]]\nname = 'a'\n"
        cases = [
            ("gains = ['x']" + architecture, "`gains[0]`: must be a number; got ('x',)"),
            ("gains = 1.2" + architecture, "`gains`: must be a list; got 1.2"),
            (
                "learning_rates = [true]" + architecture,
                "`learning_rates[0]`: must be a number; got (True,)",
            ),
            (
                "seeds = [0.5]" + architecture,
                "`seeds[0]`: must be a whole number; got (0.5,)",
            ),
            ("seeds = [1, 1]" + architecture, "`seeds`: must contain at least one, each once;"),
            ("measures = 'signals'" + architecture, "`measures`: must be a list; got 'signals'"),
            ("epochs = 1.5" + architecture, "`epochs`: must be a whole number; got 1.5"),
            ("precision = 'exact'" + architecture, "`precision`: must be one of highest, high,"),
            ("seeds = [-1]" + architecture, "`seeds[0]`: must be a whole number >= 0; got (-1,)"),
            ("gains = [[1.0]]" + architecture, "`gains[0]`: must be a number; got ((1.0,),)"),
            ("gains = [inf]" + architecture, "`gains`: must be finite; got (inf,)"),
            (architecture + "residual = 'no'", "`residual`: must be true or false or nothing;"),
            (architecture + "activation = 3", "`activation`: must be a text or nothing; got 3"),
            (architecture[:-11], "`name`: must be given; got none"),
            (architecture + "cell = 'lstm'", "`cell`: must be one of deep, rnn, gru,"),
            (
                architecture + "features = 1.5",
                "`features`: must be a whole number or nothing; got 1.5",
            ),
            (architecture + "activation = 'x'", "`activation`: must be one of elu, erf,"),
            (architecture + "activation = 'radial x'", "`activation`: must be one of"),
            (
                architecture + "mixing = 'complex'",
                "`components`: complex weights act on a multiple",
            ),
        ]
        paths = [tmp_path / f"{i}.toml" for i in range(len(cases))]
        for path, (text, _) in zip(paths, cases, strict=True):
            path.write_text(text)
        code = """
import sys
from sigprop.experiments import read_study
for path in sys.argv[1:]:
    try:
        read_study(path)
    except ValueError as error:
        print(error)
"""
        command = [sys.executable, "-c", code, *map(str, paths)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        lines = done.stdout.splitlines()
        for path, (_, message), line in zip(paths, cases, lines, strict=True):
            assert line.startswith(f"{path}: {message}")

    def test_names_depend_on_the_result_alone(self):
        one = STUDY.members[0]
        wider = dataclasses.replace(STUDY, gains=(1.2, 1.4), seeds=(0, 5))
        assert wider.members[0].key == one.key
        assert dataclasses.replace(STUDY, depth=6).members[0].key != one.key
        # Of a folder of data its name counts, not where it lies.
        here, there = (dataclasses.replace(STUDY, data=f"{p}/mnist") for p in ("/a", "/b"))
        assert here.members[0].key == there.members[0].key != one.key
        assert len({m.key for m in STUDY.members}) == len(STUDY.members)
