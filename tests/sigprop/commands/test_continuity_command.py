"""Weights of other people's models, by name and in order, and the command that aligns them."""

import json

import equinox as eqx
import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigprop.alignment._weight_sequences import weight_sequences
from sigprop.commands._cli import main

KEY = jax.random.key(0)


class TestSequences:
    def test_equinox(self):
        model = eqx.nn.MLP(3, 2, 5, 3, key=KEY)
        found = weight_sequences(model)
        assert list(found) == ["layers/*/weight"]
        assert [w.shape for w in found["layers/*/weight"]] == [(5, 3), (5, 5), (5, 5), (2, 5)]
        np.testing.assert_array_equal(found["layers/*/weight"][1], model.layers[1].weight)

    def test_linen_kernels_are_transposed(self):
        class Net(flax.linen.Module):
            @flax.linen.compact
            def __call__(self, x):
                for size in (5, 4):
                    x = flax.linen.Dense(size)(x)
                return x

        variables = Net().init(KEY, jnp.ones((1, 3), jnp.float32))
        found = weight_sequences(variables)
        assert [w.shape for w in found["Dense_*/kernel"]] == [(5, 3), (4, 5)]

    def test_nnx(self):
        class Net(flax.nnx.Module):
            def __init__(self, rngs):
                self.layers = flax.nnx.List([flax.nnx.Linear(4, 4, rngs=rngs) for _ in range(3)])

        model = Net(flax.nnx.Rngs(0))
        (weights,) = weight_sequences(model).values()
        assert len(weights) == 3
        np.testing.assert_array_equal(weights[2], model.layers[2].kernel.get_value().T)

    def test_checkpoints_by_number_not_by_letter(self):
        names = {
            f"model.layers.{i}.self_attn.q_proj.weight": np.full((2, 2), float(i + 1))
            for i in range(12)
        }
        names |= {"model.embed.weight": np.ones((7, 2)), "norm.3.weight": np.ones(2)}
        (found,) = weight_sequences(names).items()
        assert found[0] == "model.layers.*.self_attn.q_proj.weight"
        assert [float(w[0, 0]) for w in found[1]] == list(range(1, 13))

    def test_one_array_for_all_layers(self):
        stack = np.arange(12.0).reshape(3, 2, 2)
        (weights,) = weight_sequences({"w": stack}).values()
        np.testing.assert_array_equal(np.stack(weights), stack)

    def test_nothing(self):
        with pytest.raises(ValueError, match="`model`: must contain a matrix"):
            weight_sequences({"a": np.ones((2, 2)), "b": np.ones(3)})


class TestCommand:
    def layers(self, folder, **others):
        rng = np.random.default_rng(0)
        common = np.outer(rng.normal(size=8), rng.normal(size=6))
        made = {f"layer.{i}.weight": common + 0.1 * rng.normal(size=(8, 6)) for i in range(4)}
        path = folder / "weights.npz"
        np.savez(path, **(made | others))
        return path

    def test_a_checkpoint(self, tmp_path, capsys):
        path = self.layers(tmp_path, **{"layer.4.weight": np.zeros((8, 6))})
        output = tmp_path / "out"
        assert main(["continuity", str(path), "--output", str(output), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        one = found["sequences"]["layer.*.weight"]
        assert one["right"]["value"] > 0.95
        assert one["right"]["pairs"] == 3  # of four: the last layer is zero
        assert one["right"]["chance"]["mean"] == pytest.approx(0.339, abs=0.01)  # within: printed
        assert one["maps"]["right"]["value"][0][4] is None
        assert found["remarks"] == [
            "layer.*.weight: layer 4: all weights are zero, there is no leading direction"
        ]
        for name in ("continuity.png", "continuity.pdf", "continuity.zarr"):
            assert (output / name).exists()

    @pytest.mark.parametrize(
        "arguments, message",
        [
            (["nothing.npz"], "TARGET: must be readable"),
            (["nothing"], "TARGET: must be a .npz"),
            (["FILE", "--rank", "0"], "--rank: must be at least 1"),
            (["FILE", "--names", "x"], "--names: must fit one of layer.*.weight"),
            (["FILE", "--tolerance", "2"], "--tolerance: must be between"),
        ],
    )
    def test_mistakes(self, tmp_path, capsys, monkeypatch, arguments, message):
        monkeypatch.chdir(tmp_path)
        path = self.layers(tmp_path)
        before = set(tmp_path.iterdir())
        words = [str(path) if a == "FILE" else a for a in arguments]
        assert main(["continuity", *words]) == 2
        line = capsys.readouterr().err
        assert message in line
        assert line.count("\n") == 1
        assert set(tmp_path.iterdir()) == before
