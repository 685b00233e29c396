"""Moments through depth: exact laws, published rates, and honest errors."""

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

import theory
from tests.compiling import hastily
from tests.tolerances import FOLD, LAYER, LAYERS, SLOPE
from theory import given_moments
from theory.description import along_depth
from theory.mean_field._moments import log_tangent

TANH = theory.activation("tanh")
RELU = theory.activation("relu")
# A few layers are read in NumPy: what runs once or twice costs more to compile than to run.
propagate = theory.propagate


def moments(gram):
    return given_moments(jnp.asarray(gram, float)[..., None, None])


def pair(q, c):
    return moments([[q, q * c], [q * c, q]])


def separated(q, x):
    """Two inputs at 1 − c = x, x below what a covariance can hold."""
    gap = jnp.array([[0.0, q * x], [q * x, 0.0]])[..., None, None]
    return given_moments(pair(q, 1 - x).covariance, gap)


def test_a_linear_network_multiplies_every_second_moment():
    network = theory.feedforward(theory.activation("linear"), 1.3, 0.2, depth=6)
    after = propagate(network, moments([[2.0, 0.3], [0.3, 0.5]])).value
    power, bias = 1.3 ** np.arange(1, 8), 0.2 * (1.3 ** np.arange(1, 8) - 1) / 0.3
    np.testing.assert_allclose(theory.length(after)[:, 0], 2 * power + bias, rtol=LAYERS)
    np.testing.assert_allclose(theory.overlap(after)[:, 0, 1], 0.3 * power + bias, rtol=LAYERS)
    np.testing.assert_allclose(theory.distance(after)[:, 0, 1], 0.95 * power, rtol=LAYERS)
    np.testing.assert_allclose(theory.growth(after), 1.3, rtol=LAYERS)


def test_relu_follows_the_arc_cosine_recursion_in_high_precision():
    """Cho and Saul 2009, eq. 6, iterated in 40 digits from unequal lengths."""
    depth, w, b = 12, 1.7, 0.1
    network = theory.feedforward(RELU, w, b, depth=depth)
    after = propagate(network, moments([[1.0, -0.4], [-0.4, 0.3]]))
    mp.mp.dps = 40
    w, b = mp.mpf(w), mp.mpf(b)
    k = {"a": w * 1 + b, "b": w * mp.mpf(0.3) + b, "c": -w * mp.mpf(0.4) + b}
    for _ in range(depth):
        norm = mp.sqrt(k["a"] * k["b"])
        angle = mp.acos(k["c"] / norm)
        dual = norm * (mp.sin(angle) + (mp.pi - angle) * mp.cos(angle)) / (2 * mp.pi)
        k = {"a": w * k["a"] / 2 + b, "b": w * k["b"] / 2 + b, "c": w * dual + b}
    value, error = after.value.covariance[-1], after.error.covariance[-1]
    truth = np.array([[k["a"], k["c"]], [k["c"], k["b"]]], float)
    np.testing.assert_allclose(value[..., 0, 0], truth, rtol=FOLD)
    assert np.all(np.abs(value[..., 0, 0] - truth) <= error[..., 0, 0])


def test_the_quadrature_agrees_with_closed_forms_through_depth():
    """The same network with the closed form hidden; errors must cover the difference."""
    erf = theory.activation("erf")
    plain = theory.componentwise(erf.fn, scale=erf.scale, parity="odd")
    start = moments([[1.0, 0.5, 0.1], [0.5, 2.0, -0.3], [0.1, -0.3, 0.7]])
    both = [propagate(theory.feedforward(a, 2.0, 0.1, depth=15), start) for a in (erf, plain)]
    difference = jax.tree.map(lambda x, y: np.abs(x - y), both[0].value, both[1].value)
    bound = jax.tree.map(jnp.add, both[0].error, both[1].error)
    for d, e in zip(jax.tree.leaves(difference), jax.tree.leaves(bound), strict=True):
        assert np.all(d <= e)
    assert np.max(both[1].error.covariance) < 1e-10


@pytest.mark.parametrize(("x", "equal", "tolerance"), [(1e-12, False, 1e-7), (1e-24, True, 1e-12)])
def test_one_minus_c_keeps_its_relative_accuracy_below_rounding(x, equal, tolerance):
    """Ordered tanh: 1 − c falls by χ per layer. Two lengths that differ by rounding are two
    lengths, so that only inputs known to have one length keep it all the way down."""
    chi = 0.938636268198851155
    network = theory.repeat(theory.layer(TANH, 1.5, 0.05), 40)
    start = separated(0.418037200533477854, x)
    zero = jax.tree.map(jnp.zeros_like, start)
    reading = theory.mean_field.MeanField(equal_lengths=equal, errors=False)
    fold = eqx.filter_jit(theory.description.interpret)
    _, notes = fold(network, reading, theory.mean_field.PreActivation(start, zero))
    gap = np.asarray(theory.distance(along_depth(notes).value)[:, 0, 1])
    np.testing.assert_allclose(gap[1:] / gap[:-1], chi, rtol=tolerance)


def at_one_length(body, depth, start, order=64):
    """The moments behind each of `depth` layers of a body, for inputs of one length."""
    reading = theory.mean_field.MeanField(order, equal_lengths=True, errors=False)
    state = theory.mean_field.PreActivation(start, jax.tree.map(jnp.zeros_like, start))
    _, notes = eqx.filter_jit(theory.description.interpret)(
        theory.repeat(body, depth), reading, state
    )
    return along_depth(notes).value


def limit(series, terms):
    """The coefficient of the first of several terms, from as many depths, each half the last."""
    places = len(series) // 2 ** np.arange(len(terms))
    matrix = np.stack([term(places.astype(float)) for term in terms], axis=1)
    return np.linalg.solve(matrix, np.asarray(series)[places - 1])[0]


ALGEBRAIC = [
    np.ones_like,
    lambda n: np.log(n) / n,
    lambda n: 1 / n,
    lambda n: np.log(n) ** 2 / n**2,
    lambda n: np.log(n) / n**2,
    lambda n: 1 / n**2,
]
"""How x' = x − a x² + b x³ + … decays: l x_l in powers of (log l)/l and of 1/l."""


def test_tanh_at_its_critical_point_without_bias_shrinks_as_one_over_twice_the_depth():
    after = at_one_length(theory.layer(TANH, 1.0), 2048, moments([[1.0]]))
    layer = np.arange(1.0, 2049.0)
    assert abs(limit(2 * layer * theory.length(after)[:, 0], ALGEBRAIC) - 1) < 1e-7


def test_tanh_on_its_critical_line_loses_angles_as_one_over_depth():
    """l (1 − c_l) -> κ = 6.17112614217."""
    q = 0.570047881640764
    after = at_one_length(theory.layer(TANH, 1.76095463960674, 0.05), 2048, pair(q, 0.5), 32)
    x = theory.distance(after)[:, 0, 1] / theory.length(after)[:, 0]
    assert abs(limit(np.arange(1.0, 2049.0) * x, ALGEBRAIC) / 6.17112614217 - 1) < 1e-4


def test_relu_at_its_critical_point_loses_angles_as_one_over_depth_squared():
    """1 − c_l -> 9π²/(2l²); .9711 of it at l = 1000."""
    network = theory.feedforward(RELU, 2.0, 0.0, depth=1000)
    after = propagate(network, pair(1.0, 0.0)).value
    x = theory.distance(after)[-1, 0, 1] / theory.length(after)[-1, 0]
    assert abs(x * 2 * 1000**2 / (9 * np.pi**2) - 0.9711) < 1e-4


@pytest.mark.parametrize(
    ("variances", "rate"), [((1.0, 0.0), 1.0638), ((1.0, 1.0), 0.75225), ((2.0, 0.5), 1.34567)]
)
def test_residual_tanh_grows_linearly_and_its_gradient_as_exp_root_depth(variances, rate):
    """q_l/l -> σ_w² + σ_b²; log(gradient gain)/√l -> (8/3) σ_w²/√(2π(σ_w² + σ_b²))."""
    body = theory.layer(TANH, *variances, residual=True)
    after = at_one_length(body, 16384, moments([[1.0]]))
    lengths = [lambda n: n, np.sqrt, np.log, np.ones_like]
    q = limit(theory.length(after)[:, 0], lengths)
    assert abs(q / sum(variances) - 1) < 1e-5
    gains = [np.sqrt, np.log, np.ones_like, lambda n: 1 / np.sqrt(n)]
    gain = limit(log_tangent(after)[:, 0], [*gains, lambda n: np.log(n) / np.sqrt(n)])
    assert abs(gain / (8 / 3 * variances[0] / np.sqrt(2 * np.pi * sum(variances))) - 1) < 1e-5
    assert abs(gain - rate) < 6e-5


def test_two_components_mix_only_where_the_weights_allow():
    """k = 2 with the identity table: component pairs follow the scalar recursion."""
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.normal(size=(2, 30, 2)))
    propagate = theory.propagate
    law = theory.affine(1.4, 0.1, components=2)
    body = theory.Chain((theory.Pointwise(TANH), law))
    double = propagate(theory.Chain((law, theory.repeat(body, 4))), inputs).value
    flat = jnp.moveaxis(inputs, -1, 1).reshape(4, 30, 1)
    single = propagate(theory.feedforward(TANH, 1.4, 0.1, depth=4), flat).value
    # Each component has its own bias, so only equal components share its variance.
    first = double.covariance[0]
    scalar = single.covariance[0, ..., 0, 0].reshape(2, 2, 2, 2)
    expected = jnp.swapaxes(scalar, 1, 2) - 0.1 * (1 - jnp.eye(2))[None, None]
    np.testing.assert_allclose(first, expected, rtol=FOLD, atol=LAYER)
    # and from there on two independent pairs of numbers agree with a direct evaluation
    cov = np.asarray(first[0, 0])
    z = rng.multivariate_normal(np.zeros(2), cov, size=400_000)
    products = np.tanh(z[:, 0]) * np.tanh(z[:, 1])
    seen = double.covariance[1, 0, 0, 0, 1] / 1.4
    assert abs(seen - products.mean()) < 5 * products.std() / np.sqrt(len(z))
    assert abs(products.mean()) > 10 * products.std() / np.sqrt(len(z))


def test_moments_are_differentiable_in_the_variances():
    def final(w, b):
        after = theory.propagate(theory.feedforward(TANH, w, b, depth=5), pair(1.0, 0.3))
        return theory.overlap(after.value)[-1, 0, 1]

    w, b, h = 1.8, 0.1, 1e-5
    gradient = hastily(jax.grad(final, argnums=(0, 1)))(w, b)
    by_w = (final(w + h, b) - final(w - h, b)) / (2 * h)
    by_b = (final(w, b + h) - final(w, b - h)) / (2 * h)
    np.testing.assert_allclose(gradient, (by_w, by_b), rtol=SLOPE)


class TestNormalisation:
    """Behind relu, against the closed form of Cho and Saul 2009 (eq. 5, n = 1)."""

    GRAM = np.array([[2.0, 0.6], [0.6, 0.5]])

    def moments(self, kind):
        relu = theory.Pointwise(theory.activation("relu"))
        node = theory.Normalise(kind, 0.1)
        network = theory.Chain((theory.affine(1.0), relu, node, theory.affine(1.0)))
        start = theory.given_moments(jnp.asarray(self.GRAM)[..., None, None])
        found = jax.tree.map(lambda leaf: leaf[-1], theory.propagate(network, start))
        one = lambda moments: jax.tree.map(lambda leaf: leaf[..., 0, 0], moments)
        drop = lambda moments: eqx.tree_at(lambda m: m.log_gain, moments, moments.tangent)
        return one(drop(found.value)), one(drop(found.error))

    def expected(self, kind):
        q = np.sqrt(np.diag(self.GRAM))
        angle = np.arccos(np.clip(self.GRAM / np.outer(q, q), -1, 1))
        product = np.sin(angle) + (np.pi - angle) * np.cos(angle)
        product *= np.outer(q, q) / (2 * np.pi)
        mean = q / np.sqrt(2 * np.pi) if kind == "layer" else 0 * q
        centred = product - np.outer(mean, mean)
        size = np.sqrt(np.diag(centred) + 0.1)
        return centred / np.outer(size, size), np.outer(size, size)

    @pytest.mark.parametrize("kind", ["layer", "rms"])
    def test_closed_form(self, kind):
        value, error = self.moments(kind)
        expected, _ = self.expected(kind)
        gap = np.abs(value.covariance - expected)
        assert np.all(gap <= error.covariance)
        assert np.all(error.covariance < 1e-10)
        own = np.diag(expected)
        apart = (own[:, None] + own[None]) / 2 - expected
        assert np.all(np.abs(value.separation - apart) <= error.separation + 1e-15)

    def test_a_generic_tangent_is_divided_by_sigma(self):
        value, _ = self.moments("rms")
        np.testing.assert_allclose(
            np.diag(value.tangent), 0.5 / np.diag(self.expected("rms")[1]), rtol=FOLD
        )

    def test_symmetry(self):
        """The mean over components is a direction that rotations move."""
        phi = theory.Pointwise(theory.radial("tanh"))
        for kind, group in (("rms", "O(3)"), ("layer", "1")):
            parts = (theory.affine(1.0, components=3), theory.Normalise(kind), phi)
            assert theory.symmetry(theory.Chain(parts)).group == group

    def test_jacobian_factors(self):
        parts = (theory.affine(1.0), theory.Normalise("rms", 0.0), theory.affine(3.0))
        found = theory.jacobian_factors(theory.Chain(parts), 2.0)
        np.testing.assert_allclose(found.log_variance, np.log(3.0 / 2.0), rtol=FOLD)
        assert found.independent == 2

    def test_bad_arguments(self):
        with pytest.raises(ValueError, match="`epsilon`"):
            theory.Normalise("rms", -1.0)
