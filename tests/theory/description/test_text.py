"""Descriptions as dictionaries and TOML files: the same network comes back, bit for bit."""

import dataclasses
import re
import textwrap
import tomllib
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import theory
from tests.networks import NETWORKS, TANH
from theory.description import read_activation, read_network
from theory.description._text import from_dict, load_network, save_network, to_dict


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_comes_back_bit_for_bit(name, tmp_path):
    network = NETWORKS[name]
    assert_same(from_dict(to_dict(network)), network)
    save_network(network, tmp_path / "network.toml")
    assert_same(load_network(tmp_path / "network.toml"), network)
    assert not list(tmp_path.glob(".*"))


def test_a_network_comes_back_in_single_precision():
    with jax.enable_x64(False):
        network = theory.layer(theory.activation("elu", alpha=1 / 3), 1 / 3, 0.1)
        assert_same(from_dict(to_dict(network)), network)


def test_builders_may_be_named():
    table = {"build": "feedforward", "activation": "tanh", "weight_variance": 1.5, "depth": 4}
    assert_same(from_dict(table), theory.feedforward(TANH, 1.5, depth=4))
    body = {"build": "layer", "activation": "tanh", "weight_variance": (1.0, 2.0)}
    table = {"node": "repeat", "depth": 2, "body": body}
    layers = jax.vmap(lambda v: theory.layer(TANH, v))(jnp.array([1.0, 2.0]))
    assert_same(from_dict(table), theory.Repeat(layers, 2))


def test_the_file_of_the_documentation_is_read():
    text = (Path(__file__).parents[3] / "docs" / "description.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    phi = theory.activation("leaky_relu", negative_slope=0.2)
    network = theory.feedforward(phi, 1.9, 0.05, depth=30)
    assert_same(from_dict(tomllib.loads(block)), network)


def test_uniform_layers_are_one_number():
    table = to_dict(NETWORKS["deep"])
    affine = table["parts"][1]["body"]["parts"][1]
    assert affine == {"node": "affine", "weights": {"variance": 1.5}, "bias_variance": 0.05}


@pytest.fixture
def functions(tmp_path):
    text = """
        import jax.numpy as jnp

        import theory

        def cubic(z):
            return z - z**3 / 10

        STEEP = theory.componentwise(lambda z: jnp.tanh(10 * z), scale=0.1, parity="odd")
        SHORT = theory.radial(lambda r: r * jnp.exp(-(r**2)), name="short")
        NETWORK = theory.layer(STEEP, 1.5)
        NUMBER = 3
    """
    path = tmp_path / "functions.py"
    path.write_text(textwrap.dedent(text))
    (tmp_path / "broken.py").write_text("1 / 0\n")
    return path


@pytest.mark.parametrize("name, k", [("cubic", 1), ("STEEP", 1), ("SHORT", 2)])
def test_own_functions_are_named_by_their_file(functions, name, k, tmp_path):
    phi = read_activation(f"{functions}:{name}")
    network = theory.layer(phi, 1.5, components=k)
    (tmp_path / "sub").mkdir()
    target = tmp_path / "sub" / "network.toml"
    save_network(network, target)
    assert f"../functions.py:{name}" in target.read_text()
    assert_same(load_network(target), network)
    assert phi.source == f"{functions.resolve()}:{name}"


def test_a_file_is_run_once(functions):
    first = read_activation(f"{functions}:cubic")
    again = read_activation({"file": "functions.py:cubic"}, folder=functions.parent)
    assert jax.tree.structure(first) == jax.tree.structure(again)
    functions.write_text("def cubic(z):\n    return z\n")
    changed = read_activation(f"{functions}:cubic")
    assert jax.tree.structure(first) != jax.tree.structure(changed)


def test_a_network_is_read_from_python(functions):
    network = load_network(f"{functions}:NETWORK")
    assert network.parts[0].activation.scale == 0.1


def test_own_functions_without_a_file_are_refused():
    mine = theory.layer(theory.componentwise(lambda z: z**3), 1.0)
    with pytest.raises(
        ValueError, match=r"^`activation`: must be one from theory.activation, or r"
    ):
        to_dict(mine)
    # Neither may a function borrow a name.
    named = theory.layer(theory.componentwise(lambda z: z**3, name="tanh"), 1.0)
    with pytest.raises(ValueError, match="got another function, tanh"):
        to_dict(named)


def test_what_is_no_longer_what_its_file_makes_is_refused(functions):
    functions.write_text(
        functions.read_text()
        + """
import equinox as eqx
import jax

class Bent(eqx.Module):
    upper: jax.Array

    def __call__(self, z):
        return jnp.where(z > 0, self.upper * z, z)

BENT = theory.componentwise(Bent(jnp.asarray(0.2)), kinks=[0.0], scale=1e9)
"""
    )
    network = theory.layer(theory.activation(f"{functions}:BENT"), 1.5)
    assert_same(from_dict(to_dict(network)), network)
    other = eqx.tree_at(lambda p: p.parts[0].activation.fn.upper, network, jnp.asarray(0.9))
    kinked = dataclasses.replace(network.parts[0].activation, kinks=(0.5,))
    for changed in (other, theory.layer(kinked, 1.5)):
        with pytest.raises(
            ValueError, match=r"^`activation`: must equal what .*functions.py:BENT def"
        ):
            to_dict(changed)


def test_traced_numbers_are_refused():
    with pytest.raises(ValueError, match=r"^`network`: must have known numbers"):
        jax.jit(lambda v: to_dict(theory.layer(TANH, v)) and v)(1.0)
    with pytest.raises(TypeError, match=r"^`network`: must be a part"):
        to_dict(3)


LAYER = {"build": "layer", "activation": "tanh", "weight_variance": 1.0}


def deep_table(levels):
    table = {"node": "residual", "branch": LAYER}
    for _ in range(levels):
        table = {"node": "chain", "parts": [table]}
    return table


@pytest.mark.parametrize(
    "table, message",
    [
        (5, "`table`: must be a table of a part; got 5"),
        ({}, "`node`: must be one of node = affine, pointwise, normalise,"),
        ({"node": "dropout"}, "`node`: must be one of affine, pointwise, normalise,"),
        ({"node": "chain", "build": "layer"}, "`node`: must be one of node ="),
        ({"build": "attention"}, "`build`: must be one of affine, layer, feedforward, recurrent"),
        ({"node": "chain", "parts": []}, "`parts`: a chain must have at least one part"),
        ({"node": "chain", "parts": "ab"}, "`parts`: must be a part such as theory.layer"),
        ({"node": "chain", "parts": [LAYER, 1]}, "`parts[1]`: must be a table of a part; got 1"),
        ({**LAYER, "activation": 3}, "`activation`: must be a name or a table with one; got 3"),
        ({**LAYER, "activation": "tan"}, "`activation`: must be one of elu, erf,"),
        ({**LAYER, "activation": "no.py:x"}, "`activation`: must be FILE.py:NAME with"),
        ({**LAYER, "activation": {"name": "elu", "a": 1}}, "`activation.a`: not a parameter of"),
        ({**LAYER, "activation": {"radial": "cos"}}, "`activation`: must be one of elu, erf,"),
        ({**LAYER, "activation": {}}, "`activation`: must have one of name, radial and file"),
        (
            {**LAYER, "weight_variance": "1"},
            "`weight_variance`: must contain real numbers; got '1'",
        ),
        (
            {**LAYER, "weight_variance": True},
            "`weight_variance`: must contain real numbers; got Tr",
        ),
        ({**LAYER, "weight_variance": -1}, "`weight_variance`: must be finite and at least 0"),
        ({**LAYER, "weight_variance": [1, 2]}, "`weight_variance`: must be one value outside of a"),
        ({**LAYER, "bias_variance": []}, "`bias_variance`: must be one value outside of a repeat"),
        (
            {**LAYER, "build": "feedforward", "depth": 10**30},
            "`depth`: must be a whole number from 1 to 2147483647; got 1",
        ),
        (
            {"node": "affine", "weights": {"variance": [1, 2]}, "bias_variance": 0},
            "`weights.variance`: must be one value outside of a repeat; got a list of 2",
        ),
        ({**LAYER, "weights": "cauchy"}, "`weights`: must be"),
        ({**LAYER, "residual": "no"}, "`residual`: must be True or False; got 'no'"),
        ({**LAYER, "gain": 2}, "`gain`: not a field of layer, which has activation,"),
        ({"build": "layer", "activation": "tanh"}, "`weight_variance`: must be given; got none"),
        ({**LAYER, "build": "feedforward"}, "`depth`: must be given; got none"),
        ({**LAYER, "build": "feedforward", "depth": 1.7}, "`depth`: must be a whole number of at"),
        ({**LAYER, "build": "feedforward", "depth": True}, "`depth`: must be a whole number of"),
        (
            {"node": "affine", "weights": {"variance": -1}, "bias_variance": 0},
            "`weights.variance`: must be finite and at least 0",
        ),
        ({"node": "affine", "weights": 3, "bias_variance": 0}, "`weights`: must be a table with a"),
        ({"node": "repeat", "depth": "2", "body": LAYER}, "`depth`: must be a whole number"),
        (
            {"node": "repeat", "depth": 2, "body": {**LAYER, "weight_variance": [1, 2, 3]}},
            "`body.weight_variance`: must be one number, or one for each of 2 layers; got 3",
        ),
        (
            {"node": "repeat", "depth": 2, "body": {**LAYER, "weight_variance": [1, "2"]}},
            "`body.weight_variance`: must contain real numbers; got '2'",
        ),
        (
            {"node": "repeat", "depth": 2, "body": {**LAYER, "activation": ["tanh", "relu"]}},
            "`body`: only numbers may differ between layers",
        ),
        ({**LAYER, "format": True}, "`format`: must be 1; got True"),
        (deep_table(60), "`table`: must nest at most 50 tables and lists"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(table, message):
    with pytest.raises((ValueError, TypeError)) as caught:
        from_dict(table)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    if isinstance(table, dict):
        with pytest.raises((ValueError, TypeError)) as caught:
            read_network(table, name="field")
        place = re.sub("^`(table`|)", lambda m: "`field`" if m[1] else "`field.", message)
        assert str(caught.value).startswith(place)


@pytest.mark.parametrize(
    "name, message",
    [
        ("functions.py:absent", "`activation`: absent must be a name in functions.py"),
        ("functions.py:NUMBER", "`activation`: must name a function or an activation; got 3"),
        ("broken.py:x", "`activation`: broken.py must run; ZeroDivisionError: division by"),
    ],
)
def test_files_of_functions_are_checked(functions, name, message):
    with pytest.raises(ValueError, match=r"^`activation`: ") as caught:
        from_dict({**LAYER, "activation": name}, folder=functions.parent)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "text, message",
    [
        ("node = ", ": must be a readable TOML file; got Invalid value"),
        ("format = 2\nnode = 'affine'", ": `format`: must be 1; got 2"),
        ("a = " + "[" * 5000, ": must be a readable TOML file; got"),
        ("node = 'pointwise'\nactivation = 1", ": `activation`: must be a name or a table"),
    ],
)
def test_files_of_networks_are_checked(text, message, tmp_path):
    path = tmp_path / "network.toml"
    path.write_text(text)
    with pytest.raises((ValueError, TypeError)) as caught:
        load_network(path)
    assert str(caught.value).startswith(f"{path}{message}")
    with pytest.raises(ValueError, match=r"absent.toml: must be a readable TOML file; got No such"):
        load_network(tmp_path / "absent.toml")


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "folder.toml").mkdir()
    for name, why in (
        ("folder.toml", "a file, not a folder"),
        ("absent/network.toml", "writable"),
    ):
        with pytest.raises(ValueError, match=rf"^`path`: must be {why}; got .*{name}"):
            save_network(NETWORKS["layer"], tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.toml"]
    save_network(theory.affine(jnp.array([1.0, 2.0])), tmp_path / "schedule.toml")


def test_writing_keeps_what_was_there_until_it_is_done(tmp_path):
    path = tmp_path / "network.toml"
    save_network(NETWORKS["layer"], path)
    before = path.read_text()
    with pytest.raises(ValueError, match="own"):
        save_network(theory.layer(theory.componentwise(lambda z: z**3), 1.0), path)
    assert path.read_text() == before
