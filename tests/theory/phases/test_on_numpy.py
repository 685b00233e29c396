"""Single networks are read in NumPy and, inside programs, by XLA, by the same functions."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import theory
from theory.description._on_numpy import on_numpy
from theory.mean_field import _propagation
from theory.phases import _critical, _length_point, _prediction, _symmetry
from theory.spectrum import _edges, _jacobian_moments, _singular_values

TANH, ERF = theory.activation("tanh"), theory.activation("erf")
slow = pytest.mark.slow


def bent(z):
    return jnp.tanh(z - 0.3)


def bump(z):
    return z * jnp.exp(-z * z)


def layer(name, *variances, **how):
    return theory.layer(theory.activation(name), *variances, **how)


def units(name, *variances, **how):
    return theory.layer(theory.radial(name), *variances, **how)


BODIES = {
    "chaotic": layer("tanh", 2.5, 0.05),
    "ordered": layer("tanh", 1.5, 0.05),
    "symmetric": layer("tanh", 0.5),
    "relu": layer("relu", 1.5, 0.05),
    "residual": layer("gelu", 1.5, 0.05, residual=True),
    "underflow": layer("sin", 1800.0),
    "two layers": theory.Chain((layer("tanh", 2.5, 0.05), layer("erf", 2.5, 0.05))),
    "own": theory.layer(theory.componentwise(bent, kinks=[0.3]), 1.5, 0.05),
    "cycle": theory.layer(theory.componentwise(bump, parity="odd"), 40.0),
    "O(2)": units("tanh", 2.5, 0.0, components=2),
    "O(4), biased": units("tanh", 2.5, 0.05, components=4),
    "U(2), residual": units("tanh", 1.5, 0.05, components=4, algebra="complex", residual=True),
    "threshold": units("threshold", 2.5, 0.5, components=2),
}
QUICK = ("chaotic",)


def assert_same(here, there):
    """Equal but for rounding: values within both errors, errors within a factor of 30."""
    pairs = zip(
        jax.tree.leaves(here, is_leaf=is_estimate),
        jax.tree.leaves(there, is_leaf=is_estimate),
        strict=True,
    )
    for a, b in pairs:
        if not is_estimate(a):
            np.testing.assert_array_equal(a, b)
            continue
        assert (a.value.dtype, a.status.dtype) == (b.value.dtype, b.status.dtype)
        np.testing.assert_array_equal(a.status, b.status)
        known = np.isfinite(b.value) & np.isfinite(b.error)
        np.testing.assert_array_equal(np.asarray(a.value)[~known], np.asarray(b.value)[~known])
        apart = np.abs(np.asarray(a.value)[known] - np.asarray(b.value)[known])
        assert np.all(apart <= np.asarray(b.error)[known])
        assert np.all(np.asarray(a.error)[known] <= 30 * np.asarray(b.error)[known])
        assert np.all(np.asarray(b.error)[known] <= 30 * np.asarray(a.error)[known])


def is_estimate(node):
    return isinstance(node, theory.Estimate)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=slow) for name in BODIES]
)
def test_predictions(name):
    body = BODIES[name]
    assert_same(theory.predict(body), _prediction._predict.program(body, 1.0, 1e-10, 64))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chaotic", "residual", "O(4), biased"])
def test_fixed_points(name):
    body = BODIES[name]
    assert_same(theory.fixed_points(body), _length_point._fixed_points.program(body, 1e-10, 64))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tanh", "silu", "relu"])
def test_critical_points_and_lines(name):
    phi = theory.activation(name)
    target, rest = jnp.asarray(0.05), (1, 1e-10, 64)
    assert_same(
        theory.critical_points(phi, 0.05), _critical._search.program(phi, target, "bias", *rest)
    )
    q = jnp.geomspace(1e-3, 1e3, 20)
    assert_same(theory.critical_line(phi, q), _critical._line.program(phi, q, *rest))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["O(2)", "O(4), biased"])
def test_sectors(name, monkeypatch):
    body = BODIES[name]
    length = theory.predict(body).length
    here = theory.sectors(body, length)
    monkeypatch.setattr(_symmetry, "_sectors", _symmetry._sectors.program)
    assert_same(here, theory.sectors(body, length))


NETWORKS = {
    "Gaussian": theory.repeat(layer("tanh", 2.5, 0.05), 8),
    "relu, orthogonal": theory.repeat(layer("relu", 2.0, weights="orthogonal"), 4),
    "one layer": layer("tanh", 2.5, 0.05, weights="orthogonal"),
    "residual": theory.repeat(
        theory.Residual(
            theory.Chain((theory.affine(1.0, 0.05), theory.Pointwise(TANH), theory.affine(0.5)))
        ),
        6,
    ),
    "two different": theory.Chain((layer("tanh", 2.5, 0.05), layer("erf", 2.5, 0.05))),
    "units of O(4)": theory.repeat(units("tanh", 2.5, 0.05, components=4), 6),
}


QUICK_NETWORKS = ("Gaussian",)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [name if name in QUICK_NETWORKS else pytest.param(name, marks=slow) for name in NETWORKS],
)
def test_spectra(name):
    factors = theory.jacobian_factors(NETWORKS[name], 0.8)
    quantiles, law = theory.singular_value_quantiles, theory.singular_value_distribution
    fractions = jnp.linspace(0.05, 0.95, 7)
    assert_same(
        quantiles(factors, fractions), _singular_values._quantiles.program(factors, fractions, 1e-6)
    )
    if name in QUICK_NETWORKS:
        return
    points = jnp.linspace(-4.0, 2.0, 30)
    here, there = (
        law(factors, points),
        _singular_values._distribution.program(factors, points, 1e-6),
    )
    assert_same(here.cumulative, there.cumulative)
    if name != "one layer":  # which has no density that is known
        assert_same(here.density, there.density)
    t = jnp.linspace(0.0, 1.0, 5)
    exponents = theory.spectrum.lyapunov_quantiles
    assert_same(
        exponents(factors, t), _jacobian_moments._lyapunov_quantiles.program(factors, t, 1e-8)
    )
    edges = _edges._spectrum_edges.program(factors, 1e-6)
    assert_same(theory.spectrum.spectrum_edges(factors), edges)
    moments = _jacobian_moments._jacobian_moments.program(factors, 4, 1e-8)
    assert_same(theory.spectrum.jacobian_moments(factors), moments)


def test_arguments_may_be_named():
    body = BODIES["chaotic"]
    factors = theory.jacobian_factors(network=body, length=0.8)
    half = jnp.array([0.5])
    named = theory.singular_value_quantiles(factors=factors, fractions=half)
    assert_same(named, theory.singular_value_quantiles(factors, half))
    assert_same(theory.fixed_points(layer=body), theory.fixed_points(body))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_factors(name):
    """Equal layers are joined where they are known, and have the same spectrum where not."""
    points = jnp.linspace(-4.0, 2.0, 30)
    joined = theory.jacobian_factors(NETWORKS[name], 0.8)
    apart = jax.jit(lambda length: theory.jacobian_factors(NETWORKS[name], length))(0.8)
    assert joined.count.size <= apart.count.size
    found = [theory.singular_value_distribution(f, points) for f in (joined, apart)]
    assert_same(*(law.cumulative for law in found))
    if name != "one layer":
        assert_same(*(law.density for law in found))


@pytest.mark.parametrize(
    "network",
    [
        theory.feedforward(ERF, 2.0, 0.05, depth=5),
        pytest.param(theory.feedforward(TANH, 2.0, 0.05, depth=5, residual=True), marks=slow),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_propagation(network, dtype, monkeypatch):
    x = jax.random.normal(jax.random.key(0), (3, 6, 1)).astype(dtype)
    network = jax.tree.map(lambda leaf: leaf.astype(dtype), network)
    here = theory.propagate(network, x)
    monkeypatch.setattr(_propagation, "_FEW", -1)
    there = theory.propagate(network, x)
    eps = float(jnp.finfo(dtype).eps)
    for a, b in zip(jax.tree.leaves(here.value), jax.tree.leaves(there.value), strict=True):
        assert a.dtype == b.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=300 * eps, atol=30 * eps)


def test_a_loop_is_compiled_once_it_has_cost_as_much(monkeypatch):
    """However often a structure is asked for, with other variances and inputs."""
    here = []
    counted = lambda fn, *args: here.append(fn) or on_numpy(fn, *args)
    monkeypatch.setattr(_propagation, "on_numpy", counted)
    monkeypatch.setattr(_propagation, "_FEW", 3 * 4)
    monkeypatch.setattr(_propagation, "_seen", collections.Counter())
    for i in range(5):
        network = theory.feedforward(theory.activation("erf"), 1.5 + i, 0.05, depth=4)
        found = theory.propagate(network, jnp.full((1, 6, 1), 1.0 + i))
        assert found.value.covariance.shape == (5, 1, 1, 1, 1)
        assert len(here) == min(i + 1, 3)
    theory.propagate(theory.feedforward(TANH, 1.5, 0.05, depth=4), jnp.ones((1, 6, 1)))
    assert len(here) == 4
