"""Leading Lyapunov exponents, and which of them the symmetry protects."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import digamma
from scipy.stats import ks_2samp

import sigprop
import theory
from tests.tolerances import LIMIT

TANH = theory.radial("tanh")
KEY = jax.random.key(3)


@eqx.filter_jit
def exponents(network, x, key, count, width, explicit=False):
    return sigprop.jacobians.sample_exponents(
        network, x, key=key, width=width, count=count, explicit_weights=explicit
    )


def inputs(width, k):
    return jax.random.normal(jax.random.key(1), (1, width, k))


@pytest.mark.parametrize("explicit", [pytest.param(True, marks=pytest.mark.slow), False])
def test_linear_gaussian_networks_have_the_exact_exponents(explicit):
    """Newman 1986: ½[ψ((N − i + 1)/2) + log(2σ_w²/N)], at any width."""
    width, weight_variance = 12, 1.09  # the signals neither over- nor underflow
    network = theory.feedforward(theory.activation("linear"), weight_variance, depth=9000)
    found = exponents(network, inputs(width, 1), KEY, width, width, explicit)
    index = np.arange(1, width + 1)
    exact = (digamma((width - index + 1) / 2) + np.log(2 * weight_variance / width)) / 2
    z = (found.values - exact) / found.standard_error
    assert np.all(np.abs(z) < 6)
    # variances 3 % off, or a rank off by one, would be seen
    assert np.max(np.log(1.03) / 2 / found.standard_error) > 6
    assert np.min(np.abs(np.diff(exact)) / found.standard_error[1:]) > 6


@pytest.mark.slow
def test_the_standard_error_is_the_spread_over_networks():
    """256 networks: the ratio has a standard deviation of about 18 % / √256 per exponent."""
    network = theory.feedforward(theory.activation("linear"), 1.0, depth=320)
    x = inputs(6, 1)
    fn = lambda key: exponents(network, x, key, 4, 6)
    found = jax.lax.map(fn, jax.random.split(KEY, 256))
    spread = np.std(found.values, axis=0, ddof=1)
    claimed = np.sqrt(np.mean(found.standard_error**2, axis=0))
    np.testing.assert_allclose(claimed / spread, 1, atol=0.2)  # within: a spread of few networks


@pytest.mark.parametrize(
    ("k", "protected", "weight_variance"),
    [
        (2, 1, 2.25),
        pytest.param(3, 3, 2.25, marks=pytest.mark.slow),
        pytest.param(4, 6, 2.0, marks=pytest.mark.slow),
    ],
)
def test_zero_exponents_are_told_by_alignment_and_not_by_size(k, protected, weight_variance):
    """32 units. Another exponent can be so close to zero by chance that 4000 layers mix it with
    those that are protected, on one machine and not on another: their number is the sum."""
    network = theory.feedforward(TANH, weight_variance, components=k, depth=4000)
    found = exponents(network, inputs(32, k), KEY, 12, 32, explicit=True)
    own = np.asarray(found.alignment)
    near = np.abs(found.values) < 5e-3
    np.testing.assert_allclose(np.sum(own), protected, rtol=0, atol=LIMIT)
    assert np.sum(own[~near]) < 0.01
    assert abs(np.sum(own * found.values)) < 1e-3 * protected
    assert np.max(found.outside) < 1e-3
    assert np.max(np.abs(found.expected)) < 1e-3
    if k == 2:
        assert np.sum(near) > protected


SLOW_UNITS = [pytest.param(*u, marks=pytest.mark.slow) for u in ((2, "complex"), (4, "quaternion"))]


@pytest.mark.slow
@pytest.mark.parametrize(("k", "algebra"), [(1, "real"), *SLOW_UNITS])
def test_products_alone_have_the_law_of_weight_matrices(k, algebra):
    """Three leading exponents of 800 networks each way: means, variances, and their laws."""
    phi = TANH if k > 1 else theory.activation("tanh")
    x = inputs(16, k)

    def draw(explicit, weight_variance, seed):
        network = theory.feedforward(
            phi, weight_variance, 0.1, components=k, algebra=algebra, depth=96
        )
        fn = lambda key: exponents(network, x, key, 3, 16, explicit).values
        keys = jax.random.split(jax.random.key(seed), 800)
        return np.asarray(jax.jit(lambda keys: jax.lax.map(fn, keys, batch_size=100))(keys))

    def z(a, b):
        """Of the means, and of the variances with their own standard errors."""
        first = [a - a.mean(axis=0), b - b.mean(axis=0)]
        found = [(a.mean(axis=0) - b.mean(axis=0), [v.var(axis=0) for v in first])]
        squares = [v**2 for v in first]
        means = [v.mean(axis=0) for v in squares]
        found.append((means[0] - means[1], [v.var(axis=0) for v in squares]))
        return np.array([d / np.sqrt(sum(v) / len(a)) for d, v in found])

    with_matrices, without = draw(True, 1.8, 0), draw(False, 1.8, 1)
    assert np.max(np.abs(z(with_matrices, without))) < 5
    laws = [ks_2samp(with_matrices[:, i], without[:, i]).pvalue for i in range(3)]
    assert min(laws) > 1e-6
    # 3 % of the weight variance would be seen
    assert np.max(np.abs(z(with_matrices, draw(False, 1.8 * 1.03, 1)))) > 5


@pytest.mark.slow
def test_a_first_layer_that_widens_gives_the_generators_no_growth():
    """From 12 units to 192: of sums over units it would be log(16)/200 = 0.014 more."""
    network = theory.feedforward(TANH, 1.21, components=2, depth=100)
    x = inputs(12, 2)
    found = exponents(network, x, KEY, 2, 192)
    length = 0.1650082598 / 2  # at the fixed point
    np.testing.assert_allclose(
        found.expected, np.log(length / np.mean(x**2)) / 200, atol=4e-3
    )  # within: one network


def test_a_bias_leaves_no_exponent_at_zero():
    """Pseudo-Goldstone directions decay: nothing is aligned with the generators."""
    network = theory.feedforward(TANH, 2.25, 0.1, components=3, depth=1000)
    found = exponents(network, inputs(32, 3), KEY, 12, 32)
    assert np.max(found.alignment) < 0.1
    assert np.max(found.residual) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "bound"), [(jnp.float64, 1e-10), (jnp.float32, 1e-1)])
def test_the_identity_survives_chaos_outside_the_leading_directions(dtype, bound):
    """500 layers at σ_w = 1.5: a plain derivative is 1e-9 wrong in float64, 3 in float32."""
    for k, algebra in ((2, "real"), (4, "real"), (4, "quaternion")):
        network = theory.feedforward(TANH, 2.25, components=k, algebra=algebra, depth=500)
        found = exponents(network, inputs(32, k).astype(dtype), KEY, 6, 64)
        assert np.min(found.outside) > 0.05
        assert np.max(found.residual) < bound * np.min(found.outside)
        # and where the symmetry is broken, the same number is of order one
    biased = theory.feedforward(TANH, 2.25, 0.05, components=2, depth=500)
    broken = exponents(biased, inputs(32, 2).astype(dtype), KEY, 6, 64)
    assert np.max(broken.residual) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("k", "algebra", "count"),
    [
        (2, "real", 160),
        (2, "complex", 160),
        (4, "real", 128),
        (4, "complex", 128),
        (4, "quaternion", 128),
    ],
)
def test_wide_networks_need_as_many_directions_as_grow(k, algebra, count):
    """Width 1024, 500 layers, float64: 1e-9 once every growing direction is taken out."""
    network = theory.feedforward(TANH, 2.25, components=k, algebra=algebra, depth=500)
    found = exponents(network, inputs(256, k), KEY, count, 1024)
    assert np.max(found.residual) < 1e-9
    few = exponents(network, inputs(256, k), KEY, 1, 1024)
    assert np.max(few.residual) > 1e-9


@pytest.mark.parametrize(
    ("change", "message"),
    [({"count": 0}, "`count`"), ({"count": 24}, "`count`"), ({"discard": 50}, "`discard`")],
)
def test_impossible_requests_name_the_field(change, message):
    network = theory.feedforward(TANH, 1.5, components=2, depth=50)
    how = {"width": 12, "count": 3, **change}
    with pytest.raises(ValueError, match=message):
        sigprop.jacobians.sample_exponents(network, inputs(12, 2), key=KEY, **how)
