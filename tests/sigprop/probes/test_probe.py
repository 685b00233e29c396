"""The probe of other people's networks, against plain NumPy and dense decompositions."""

import itertools
import json

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from flax import nnx

import sigprop
import theory
from sigprop.commands import _cli, _output
from tests.tolerances import FOLD, SINGLE, SINGLE_LAYERS, SOLUTION
from theory import Status

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (3, 6))
SIZES = (6, 8, 8, 5)


def weights(sizes=SIZES, variance=1.5, index=0, dtype=np.float64):
    """Matrices [out, in] and biases of a network, in NumPy."""
    rng = np.random.default_rng(index)
    matrices = [
        (rng.normal(size=(b, a)) * np.sqrt(variance / a)).astype(dtype)
        for a, b in itertools.pairwise(sizes)
    ]
    return matrices, [(0.3 * rng.normal(size=len(w))).astype(dtype) for w in matrices]


def by_hand(parameters, x):
    """Pre-activations of a tanh network, and its Jacobian, for one input."""
    h, jacobian, seen = np.asarray(x), np.eye(len(x)), []
    for i, (w, b) in enumerate(zip(*parameters, strict=True)):
        if i > 0:
            jacobian = (1 - np.tanh(h) ** 2)[:, None] * jacobian
            h = np.tanh(h)
        h, jacobian = w @ h + b, w @ jacobian
        seen.append(h)
    return seen, jacobian


class Dense(eqx.Module):
    matrix: jax.Array
    bias: jax.Array

    def __call__(self, x):
        return jnp.matmul(self.matrix, x, precision="highest") + self.bias


class Gain(eqx.Module):
    gain: jax.Array

    def __call__(self, x):
        return self.gain * x


def as_layers(parameters):
    layers = []
    for w, b in zip(*parameters, strict=True):
        layers += [jnp.tanh, Dense(jnp.asarray(w), jnp.asarray(b))]
    return layers[1:]


def compose(layers):
    def fn(x):
        for layer in layers:
            x = layer(x)
        return x

    return fn


def as_mlp(parameters):
    mlp = eqx.nn.MLP(6, 5, 8, 2, jnp.tanh, key=KEY)
    where = lambda m: [leaf for layer in m.layers for leaf in (layer.weight, layer.bias)]
    values = [jnp.asarray(v) for pair in zip(*parameters, strict=True) for v in pair]
    return eqx.tree_at(where, mlp, values)


def as_sequential(parameters):
    layers = []
    for w, b in zip(*parameters, strict=True):
        linear = eqx.nn.Linear(w.shape[1], w.shape[0], key=KEY)
        where = lambda m: (m.weight, m.bias)
        linear = eqx.tree_at(where, linear, (jnp.asarray(w), jnp.asarray(b)))
        layers += [eqx.nn.Lambda(jnp.tanh), linear]
    return eqx.nn.Sequential(layers[1:])


def linen_dense(size):
    return nn.Dense(size, dtype=jnp.float64, param_dtype=jnp.float64)


def as_linen_sequential(parameters):
    matrices, biases = parameters
    parts = [linen_dense(len(w)) for w in matrices]
    module = nn.Sequential([parts[0], jnp.tanh, parts[1], jnp.tanh, parts[2]])
    values = {
        f"layers_{2 * i}": {"kernel": jnp.asarray(w.T), "bias": jnp.asarray(b)}
        for i, (w, b) in enumerate(zip(matrices, biases, strict=True))
    }
    return module, {"params": values}


class Compact(nn.Module):
    sizes: tuple

    @nn.compact
    def __call__(self, x):
        for i, size in enumerate(self.sizes):
            x = linen_dense(size)(x if i == 0 else jnp.tanh(x))
        return x


def as_compact(parameters):
    values = {
        f"Dense_{i}": {"kernel": jnp.asarray(w.T), "bias": jnp.asarray(b)}
        for i, (w, b) in enumerate(zip(*parameters, strict=True))
    }
    return Compact(tuple(len(w) for w in parameters[0])), {"params": values}


def nnx_dense(w, b):
    linear = nnx.Linear(w.shape[1], w.shape[0], param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    linear.kernel[...] = jnp.asarray(w.T)
    linear.bias[...] = jnp.asarray(b)
    return linear


def as_nnx_sequential(parameters):
    a, b, c = (nnx_dense(*pair) for pair in zip(*parameters, strict=True))
    return nnx.Sequential(a, jnp.tanh, b, jnp.tanh, c)


class OwnModule(nnx.Module):
    def __init__(self, parameters):
        a, b, c = (nnx_dense(*pair) for pair in zip(*parameters, strict=True))
        self.a, self.b, self.c = a, b, c

    def __call__(self, x):
        return self.c(jnp.tanh(self.b(jnp.tanh(self.a(x)))))


# what it is, its method, and which of its layers are the pre-activations
CASES = {
    "mlp": (as_mlp, "product", (1, 3, 5)),
    "equinox sequential": (as_sequential, "product", (1, 3, 5)),
    "linen sequential": (as_linen_sequential, "product", (1, 3, 5)),
    "nnx sequential": (as_nnx_sequential, "product", (1, 3, 5)),
    "linen compact": (as_compact, "dense", (1, 2, 3)),
    "nnx module": (OwnModule, "dense", None),
    "function": (lambda p: compose(as_layers(p)), "dense", None),
}


@pytest.mark.parametrize(
    "case",
    [
        # Lists of layers are read alike, and so are functions that are no such list.
        pytest.param(case, marks=pytest.mark.slow)
        if case in ("equinox sequential", "linen sequential")
        else case
        for case in CASES
    ],
)
def test_every_kind_of_network(case):
    build, method, places = CASES[case]
    parameters = weights()
    found = sigprop.probe(build(parameters), X)
    hands = [by_hand(parameters, x) for x in X]
    last = np.array([seen[-1] for seen, _ in hands])
    gram = last @ last.T / 5
    size = np.sqrt(np.diag(gram))
    np.testing.assert_allclose(found.length, size**2, rtol=FOLD)
    np.testing.assert_allclose(found.correlation, gram / np.outer(size, size), rtol=0, atol=FOLD)

    assert found.jacobian.method == method
    assert (found.jacobian.rows, found.jacobian.columns) == (5, 6)
    exact = np.array([np.log(np.linalg.svd(j, compute_uv=False)) for _, j in hands])
    error = np.abs(found.jacobian.log_singular_values - exact)
    assert np.all(error <= found.jacobian.error + 1e-14)
    assert np.all(found.jacobian.error < 1e-11)
    assert np.all(found.jacobian.status == Status.OK)

    assert (found.layers is None) == (places is None)
    if places is None:
        assert any(note.startswith("layers: none") for note in found.notes)
        return
    for place, i in zip(places, range(3), strict=True):
        lengths = [np.mean(seen[i] ** 2) for seen, _ in hands]
        np.testing.assert_allclose(found.layers.length[place], lengths, rtol=FOLD)
    assert found.layers.names[0] == "input"
    np.testing.assert_allclose(found.layers.length[0], np.mean(X**2, axis=1), rtol=FOLD)
    assert (found.layers.log_gradient is None) == (method == "dense")


class TestLayers:
    def test_gradients(self):
        """Against one backward pass by hand, with the loss that is found to be behind them."""
        parameters = weights()
        layers = as_layers(parameters)
        found = sigprop.probe(compose(layers), X, layers=layers)
        assert found.layers.names == ("input", "Dense", "tanh", "Dense", "tanh", "Dense")
        # From the last layer backward all follows from the direction g: |Wᵀg|² is a Rayleigh
        # quotient, and with one output the direction is no matter.
        one = (*parameters[0][:2], parameters[0][2][:1]), (*parameters[1][:2], parameters[1][2][:1])
        layers = as_layers(one)
        found = sigprop.probe(compose(layers), X, layers=layers)
        for a, x in enumerate(X):
            seen, jacobian = by_hand(one, x)
            g = one[0][2].T
            behind = g * (1 - np.tanh(seen[1])[:, None] ** 2)
            exact = [np.sum(v**2) for v in (jacobian, behind, g)]
            rows = [0, 3, 4]
            np.testing.assert_allclose(
                found.layers.log_gradient[jnp.array(rows), a],
                np.log(exact),
                rtol=SOLUTION,
                atol=FOLD,
            )

    def test_gradients_beyond_the_range_of_numbers(self):
        scale = [Dense(1e-30 * jnp.eye(6, dtype="float32"), jnp.zeros(6, "float32"))] * 12
        x = X.astype("float32")
        found = sigprop.probe(compose(scale), x, layers=scale)
        exact = -2 * 30 * np.log(10) * np.arange(12, -1, -1)
        np.testing.assert_allclose(
            found.layers.log_gradient[:, 0], exact, rtol=SINGLE_LAYERS, atol=SINGLE_LAYERS
        )
        logs = found.jacobian.log_singular_values
        np.testing.assert_allclose(logs, exact[0] / 2, rtol=SINGLE_LAYERS)

    def test_layers_of_another_dtype(self):
        """Parameters in float64, inputs in float32, as a script with mixed precision has them."""
        layers = [lambda x: 3 * x.astype(jnp.float64), lambda x: x / 2]
        found = sigprop.probe(compose(layers), X.astype("float32"), layers=layers)
        exact = np.log([2.25, 0.25, 1.0])
        np.testing.assert_allclose(found.layers.log_gradient[:, 0], exact, rtol=0, atol=SINGLE)

    def test_layers_that_are_another_network(self):
        layers = as_layers(weights())
        with pytest.raises(ValueError, match="`layers`: must compose to `fn`"):
            sigprop.probe(compose(layers), X, layers=layers[:-1])
        with pytest.raises(ValueError, match="`layers`: must contain at least one"):
            sigprop.probe(compose(layers), X, layers=[])

    def test_a_layers_attribute_is_not_believed(self):
        class Skips(eqx.Module):
            layers: list

            def __call__(self, x):
                return x + self.layers[1](jnp.tanh(self.layers[0](x)))

        square = weights((6, 6, 6))
        module = Skips(
            [Dense(jnp.asarray(w), jnp.asarray(b)) for w, b in zip(*square, strict=True)]
        )
        found = sigprop.probe(module, X)
        assert found.layers is None
        assert found.notes == ("`layers` of the module do not compose to the module",)


class TestJacobian:
    @pytest.mark.slow
    def test_deep_values_against_many_digits(self):
        """Twelve layers, each followed by gains from 1 to 1e-4: float64 alone loses most."""
        matrices, biases = weights((6, *[8] * 12, 5))
        gain = np.logspace(0, -4, 8)
        layers = []
        for w, b in zip(matrices, biases, strict=True):
            layers += [Gain(jnp.asarray(gain)), Dense(jnp.asarray(w), jnp.asarray(b))]
        layers = layers[1:]
        found = sigprop.probe(compose(layers), X[:1], layers=layers)
        with mpmath.workdps(60):
            product = mpmath.matrix(matrices[0].tolist())
            for w in matrices[1:]:
                product = mpmath.matrix(w.tolist()) * mpmath.diag(gain.tolist()) * product
            values = sorted(mpmath.svd_r(product, compute_uv=False), reverse=True)
            exact = np.array([float(mpmath.log(v)) for v in values])
        assert exact[0] - exact[-1] > 40
        error = np.abs(found.jacobian.log_singular_values[0] - exact)
        assert np.all(error <= found.jacobian.error[0] + 1e-14)
        assert np.all(found.jacobian.error < 1e-9)
        # The whole function by itself leaves some of them unresolved, and says how many.
        whole = sigprop.probe(compose(layers), X[:1]).jacobian
        resolved = np.isfinite(whole.log_singular_values[0])
        gap = np.abs(whole.log_singular_values[0] - exact)[resolved]
        assert np.all(gap <= whole.error[0][resolved])
        assert whole.unresolved[0] == 5 - resolved.sum() > 0

    def test_dense_error_is_honest_in_single_precision(self):
        """Against the same network, its numbers rounded to float32, in float64."""
        for index in range(5):
            parameters = weights((6, *[8] * 6, 5), 1.5, index, np.float32)
            fn = compose(as_layers(parameters))
            found = sigprop.probe(fn, X.astype("float32")).jacobian
            wide = [[np.asarray(p, np.float64) for p in part] for part in parameters]
            inputs = np.asarray(X.astype("float32"), np.float64)
            for a, x in enumerate(inputs):
                exact = np.log(np.linalg.svd(by_hand(wide, x)[1], compute_uv=False))
                error = np.abs(found.log_singular_values[a] - exact)
                # The signals are rounded too, which makes it the derivative elsewhere.
                assert np.all(error <= found.error[a] + 2e-5)
                assert np.all(found.error[a] < 1e-2)

    @pytest.mark.parametrize("known", [True, False])
    def test_matrix_free(self, known):
        layers = as_layers(weights())
        found = sigprop.probe(
            compose(layers), X, layers=layers if known else None, dense_limit=7
        ).jacobian
        assert found.method == "matrix-free" if known else "dense"
        exact = [np.linalg.svd(by_hand(weights(), x)[1], compute_uv=False) for x in X]
        error = np.abs(found.log_singular_values - np.log(exact))
        assert np.all(error <= found.error + 1e-14)
        if known:
            mean = np.log(np.mean(np.square(exact), axis=1))
            z = (found.estimate.log_mean - mean) / found.estimate.log_mean_standard_error
            assert np.all(np.abs(z) < 6)

    def test_dead_relu(self):
        """A layer whose units are all off, and one of which one is on."""
        (w, v, u), _ = weights()
        off = jnp.full(8, -100.0)
        for bias, zeros in ((off, 5), (off.at[2].set(100.0), 4)):
            parts = [
                Dense(jnp.asarray(w), bias),
                jax.nn.relu,
                Dense(jnp.asarray(v), jnp.full(8, 50.0)),
                jax.nn.relu,
                Dense(jnp.asarray(u), jnp.zeros(5)),
            ]
            for layers in (parts, None):
                found = sigprop.probe(compose(parts), X, layers=layers)
                report = found.jacobian
                assert np.all(report.zeros + report.unresolved == zeros)
                assert np.all(np.isneginf(report.log_singular_values).sum(1) == report.zeros)
                assert np.all(np.isnan(report.log_singular_values).sum(1) == report.unresolved)
                assert np.all(report.status != Status.INVALID)
                if zeros == 5:
                    assert np.all(report.zeros == 5)
            layered = sigprop.probe(compose(parts), X, layers=parts)
            np.testing.assert_allclose(
                layered.layers.zeros[2], 1 if zeros == 5 else 7 / 8, rtol=FOLD
            )

    def test_nan(self):
        layers = [lambda x: jnp.log(x), lambda x: 2 * x]
        x = jnp.abs(X).at[1, 2].set(-1.0)
        for how in (layers, None):
            found = sigprop.probe(compose(layers), x, layers=how)
            assert list(found.finite) == [1, 0, 1]
            status = [Status.OK, Status.INVALID, Status.OK]
            assert list(found.jacobian.status) == status
            assert np.all(np.isnan(found.jacobian.log_singular_values[1]))
            exact = np.log(np.sort(2 / x[0])[::-1])
            np.testing.assert_allclose(
                found.jacobian.log_singular_values[0], exact, rtol=0, atol=FOLD
            )
            assert "1 of 3 inputs have outputs that are NaN or infinite" in found.notes


class TestDescription:
    WIDTH = 24

    def check(self, variance, index, networks=99):
        """A tanh network with three hidden layers, biases of variance 0.09."""
        layers = as_layers(weights((6, *[self.WIDTH] * 4), variance, index))
        description = theory.feedforward(theory.activation("tanh"), 1.5, 0.09, depth=3)
        fn = compose(layers)
        return sigprop.probe(fn, X, layers=layers, description=description, networks=networks).check

    @pytest.mark.slow
    def test_agreement_and_power(self):
        """Of networks from the description one in a hundred has p ≤ 0.01; another has it."""
        own = [float(self.check(1.5, index).p_value) for index in range(5)]
        assert sum(p <= 0.01 for p in own) <= 1
        assert 0.1 < np.median(own) < 0.97
        assert self.check(4.5, 0).p_value <= 0.01

    @pytest.mark.slow
    def test_prediction(self):
        found = self.check(1.5, 0, networks=0)
        assert found.layers == (1, 3, 5, 7)
        assert found.p_value is None
        assert found.length_z is None
        description = theory.feedforward(theory.activation("tanh"), 1.5, 0.09, depth=3)
        exact = theory.propagate(description, X[..., None]).value
        np.testing.assert_allclose(found.length, theory.length(exact), rtol=FOLD)
        np.testing.assert_allclose(found.correlation, theory.correlation(exact), rtol=0, atol=FOLD)

    def test_outputs_alone(self):
        description = theory.feedforward(theory.activation("tanh"), 1.5, 0.09, depth=3)
        found = sigprop.probe(compose(as_layers(weights())), X, description=description)
        assert found.check.length.shape == (1, 3)
        np.testing.assert_allclose(found.check.measured_length[0], found.length, rtol=FOLD)
        assert "description: compared with the outputs only" in found.notes

    def test_another_number_of_layers(self):
        layers = as_layers(weights())
        description = theory.feedforward(theory.activation("tanh"), 1.5, 0.09, depth=3)
        with pytest.raises(ValueError, match="`description`: must have as many affine layers"):
            sigprop.probe(compose(layers), X, layers=layers, description=description)


@pytest.mark.parametrize(
    "fn, x, message",
    [
        (3, X, "`fn`: must be a function"),
        (jnp.tanh, X[0], "`x`: must contain floating-point numbers with a leading axis"),
    ],
)
def test_bad_input(fn, x, message):
    with pytest.raises((TypeError, ValueError), match=message):
        sigprop.probe(fn, x)


class TestCommand:
    FILE = """
import jax.numpy as jnp
import numpy as np
import theory

rng = np.random.default_rng(0)
W = [jnp.asarray(rng.normal(size=(64, 64)) * np.sqrt(1.5 / 64), "float32") for _ in range(2)]
layers = [lambda x: W[0] @ x, lambda x: W[1] @ jnp.tanh(x)]
fn = lambda x: layers[1](layers[0](x))
law = theory.feedforward(theory.activation("tanh"), 1.5, 0.0, depth=1)
number = 3
fails = lambda x: x @ jnp.ones((3, 3))
"""

    @pytest.fixture
    def command(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(_output, "DPI", 60)
        (tmp_path / "network.py").write_text(self.FILE)
        np.save("inputs.npy", np.random.default_rng(1).normal(size=(3, 64)))
        (tmp_path / "broken.py").write_text("1 / 0")

        def run(*argv):
            code = _cli.main(["probe", *argv])
            return code, *capsys.readouterr()

        with jax.numpy_dtype_promotion("standard"):
            yield run

    def test_contract(self, command, tmp_path):
        code, text, err = command("network.py:fn", "--inputs", "inputs.npy", "--json")
        assert (code, err) == (0, "")
        found = json.loads(text)
        assert found["jacobian"]["method"] == "dense"
        assert np.shape(found["jacobian"]["log_singular_values"]) == (3, 64)
        # The least of 64 in single precision, without the layers.
        assert set(found["jacobian"]["status"]) <= {"ok", "inaccurate"}
        assert found["layers"] is None
        assert found["check"] is None

    @pytest.mark.slow
    def test_contract_with_layers_and_a_description(self, command, tmp_path):
        how = ("--inputs", "inputs.npy", "--layers", "layers", "--description", "law")
        code, text, err = command("network.py:fn", *how, "--output", "here", "--json")
        assert (code, err) == (0, "")
        found = json.loads(text)
        assert found["jacobian"]["method"] == "product"
        assert np.shape(found["jacobian"]["log_singular_values"]) == (3, 64)
        assert found["jacobian"]["status"] == ["ok"] * 3
        assert len(found["layers"]["names"]) == 3
        assert found["check"]["networks"] == 200
        assert 0.01 < found["check"]["p_value"] <= 1
        assert (tmp_path / "here" / "probe.png").is_file()
        stored = sigprop.read_dataset("here/probe.zarr")
        np.testing.assert_allclose(
            stored["log_singular_value"], found["jacobian"]["log_singular_values"], rtol=SINGLE
        )
        code, text, err = command("network.py:fn", "--inputs", "inputs.npy", "--output", "here")
        assert (code, err) == (0, "")
        assert "Jacobian (64 x 64, dense)" in text

    @pytest.mark.parametrize(
        "argv, message",
        [
            (["network.py"], "TARGET: must be FILE.py:NAME"),
            (["absent.py:fn"], "TARGET: must be FILE.py:NAME with an existing file"),
            (["broken.py:fn"], "TARGET: broken.py must run; got ZeroDivisionError"),
            (["network.py:gn"], "TARGET: must be a name in network.py; got gn"),
            (["network.py:number"], "TARGET: must"),
            (["network.py:fails"], "TARGET: must take one input"),
            (["network.py:fn", "--inputs", "no.npy"], "--inputs: must be gram, digits, or a .npy"),
            (["network.py:fn", "--layers", "no"], "--layers: must be a name"),
            (["network.py:fn", "--input-count", "0"], "--input-count: must be"),
        ],
    )
    def test_bad_input(self, command, argv, message):
        code, text, err = command(*argv)
        assert (code, text) == (2, "")
        assert message in err
        assert err.count("\n") == 1
