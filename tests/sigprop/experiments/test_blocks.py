"""Layers h + φ(W norm(h)), and what a study measures of their alignment."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import theory
from sigprop.alignment._alignment_null import cosine_null
from sigprop.alignment._weight_sequences import weight_sequences
from sigprop.commands._cli import main
from sigprop.commands._projections_study import projection_rows
from sigprop.experiments import Architecture, Study, load_images, read_study, train
from sigprop.experiments._blocks import BlockClassifier
from sigprop.experiments._continuity_measure import alignments
from sigprop.experiments._data import python_sources
from sigprop.experiments._transformer import PROJECTIONS, Transformer
from tests.tolerances import FOLD, SLOPE, SOLUTION

KEY = jax.random.key(2)


def block(activation="tanh", **how):
    kind, _, profile = activation.partition(" ")
    phi = theory.radial(profile) if kind == "radial" else theory.activation(activation)
    return BlockClassifier(phi, 64, 12, 10, 3, **how)


@pytest.mark.parametrize("normalisation", ["none", "layer", "rms"])
def test_written_out(normalisation):
    model = block(normalisation=normalisation)
    parameters = model.draw(KEY, 0.7, dtype=float)
    x = load_images("digits").test[:4].astype(float)
    (into, bias), (out, last) = parameters["read_in"], parameters["read_out"]

    def norm(h):
        if normalisation == "layer":
            h = h - h.mean(axis=1, keepdims=True)
        scale = np.sqrt((h**2).mean(axis=1, keepdims=True) + 1e-5)
        return h if normalisation == "none" else h / scale

    h = np.asarray(x @ into.T + bias[None])
    for w in np.asarray(parameters["blocks"]):
        h = h + np.tanh(norm(h) @ w.T)
    np.testing.assert_allclose(
        model.logits(parameters, x), norm(h) @ out.T + last[None], rtol=SOLUTION
    )


def test_shared_weights_commute_with_rotations_of_a_unit_and_dense_ones_do_not():
    turn = jnp.linalg.qr(jax.random.normal(KEY, (4, 4)))[0]
    z = jax.random.normal(jax.random.key(1), (2, 3, 4))
    for shared in (True, False):
        model = block("radial tanh", components=4, shared=shared)
        parameters = model.draw(KEY, 1.5, dtype=float)
        gap = model.inside(parameters, z @ turn.T) - model.inside(parameters, z) @ turn.T
        assert (np.max(np.abs(gap)) < 1e-13) == shared


def test_alignments_by_numpy():
    weights = jax.random.normal(KEY, (4, 12, 10))
    found = alignments(weights)
    u, s, vt = np.linalg.svd(np.asarray(weights))
    right = [abs(vt[i, 0] @ vt[i + 1, 0]) for i in range(3)]
    np.testing.assert_allclose(found["right"], right, rtol=SLOPE)
    frame = [np.sum((u[i, :, :4].T @ u[i + 1, :, :4]) ** 2) / 4 for i in range(3)]
    np.testing.assert_allclose(found["left_frame"], frame, rtol=SLOPE)
    p = s[0] ** 2 / np.sum(s[0] ** 2)
    assert float(found["effective_rank"][0]) == pytest.approx(
        np.exp(-np.sum(p * np.log(p))), rel=FOLD
    )
    nothing = alignments(weights.at[1].set(0.0))
    np.testing.assert_array_equal(np.isnan(nothing["right"]), [True, True, False])


def test_a_study_of_equivariant_blocks(tmp_path):
    architecture = Architecture("O(4)", 4, residual=True, cell="block")
    study = Study(
        (architecture,),
        depth=3,
        features=12,
        gains=(0.5,),
        learning_rates=(1e-2,),
        seeds=(0,),
        epochs=1,
        records=3,
        measures=("continuity",),
        train_count=512,
    )
    found = train(study, tmp_path).squeeze()
    assert found["right"].dims == ("record", "pair")
    assert found.sizes["pair"] == 2
    # Before training nothing has been added, and nothing has a direction.
    assert np.all(np.isnan(found["update_right"][0]))
    assert np.all(np.isfinite(found["update_right"][-1]))
    assert np.all(found["certificate_residual"] <= found["certificate_claim"])
    assert float(found["gradient_cosine"][0].mean()) > 0.3


STUDY = """
data = "python"
depth = 2
features = 16
learning_rates = [1e-2]
gains = [1.0]
seeds = [0, 1]
epochs = 1
batch = 16
records = 3
measures = ["projections"]
train_count = 160

[[architecture]]
name = "transformer"
cell = "transformer"
"""


class TestTransformer:
    model = Transformer(16, 2)

    def test_no_byte_sees_what_follows_it(self):
        parameters = self.model.draw(KEY, 10.0)
        x = jax.random.randint(KEY, (1, 8), 0, 256).astype(jnp.float32)
        plain = self.model.logits(parameters, x)
        other = self.model.logits(parameters, x.at[0, 5].set(0.0))
        np.testing.assert_array_equal(plain[0, :5], other[0, :5])
        assert np.max(np.abs(plain[0, 5:] - other[0, 5:])) > 1e-4

    def test_projections_are_the_matrices_of_the_layers(self):
        parameters = self.model.draw(KEY)
        found = self.model.projections(parameters)
        assert {n: w.shape for n, w in found.items() if n in ("query", "up", "down")} == {
            "query": (2, 16, 16),
            "up": (2, 42, 16),
            "down": (2, 16, 42),
        }
        named = weight_sequences(parameters)
        np.testing.assert_array_equal(jnp.stack(named["layers/*/up/kernel"]), found["up"])

    @pytest.mark.slow
    def test_a_study_of_projections(self, tmp_path, capsys):
        path = tmp_path / "study.toml"
        path.write_text(STUDY)
        study = read_study(path)
        found = train(study, tmp_path)
        rows = projection_rows(study, found)
        assert [row["projection"] for row in rows] == list(PROJECTIONS)
        gate = rows[4]
        assert gate["right"]["chance"] == cosine_null(16).mean
        assert gate["left"]["chance"] == cosine_null(42).mean
        each = found["gate_right"].values[0, 0, 0, :, :, 0]
        row = gate["right"]
        assert row["mean"] == pytest.approx(each[:, -1].mean(), rel=FOLD)
        assert row["standard_error"] == pytest.approx(
            each[:, -1].std(ddof=1) / math.sqrt(2), rel=FOLD
        )
        assert row["largest"] == pytest.approx(each.mean(axis=0).max(), rel=FOLD)
        assert main(["continuity", str(path), "--output", str(tmp_path), "--json"]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed["rows"][4]["right"]["mean"] == row["mean"]
        assert (tmp_path / "continuity.png").stat().st_size > 10_000

    def test_text(self):
        data = python_sources(50, 16)
        np.testing.assert_array_equal(data.train[:, 1:], data.train_labels[:, :-1])
        assert data.test.shape == (360, 16)
        with pytest.raises(ValueError, match="`train_count`"):
            python_sources(10**9)
