"""Networks with sparse weights: the sampler, its limit, and where it is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import sigprop
import theory
from sigprop.networks._weights import draw_weights, draws_matrices
from tests.tolerances import SINGLE
from theory import SparseWeights, WeightLaw

KEY = jax.random.key(5)
TANH = theory.activation("tanh")


@pytest.mark.parametrize(("k", "algebra"), [(1, "real"), (2, "complex")])
def test_variance_kurtosis_and_density_of_the_sampler(k, algebra):
    """Within five standard errors; what 3 % more of each would be is seen."""
    p, fan_out, fan_in = 0.2, 800, 1000
    law = WeightLaw(1.3, SparseWeights(p), k, algebra)
    weights = np.asarray(draw_weights(law, KEY, fan_out, fan_in, jnp.float64))
    entries = weights * np.sqrt(fan_in / np.asarray(law.entry_variance))
    size = fan_out * fan_in  # numbers of one weight come and go together
    found = np.array([np.mean(entries**2), np.mean(entries**4), np.mean(entries[..., 0] != 0)])
    expected = np.array([1.0, 3 / p, p])
    error = np.sqrt(np.array([3 / p - 1, 105 / p**3 - 9 / p**2, p * (1 - p)]) / size)
    assert np.max(np.abs(found - expected) / error) < 5
    assert np.all(0.03 * expected / error > 3)
    there = entries != 0
    np.testing.assert_array_equal(there, there[..., :1] & np.ones(there.shape, bool))
    assert stats.kstest(np.sqrt(p) * entries[there], "norm").pvalue > 1e-6


def test_an_ensemble_has_the_predicted_length_and_no_neighbour_of_it():
    """The limit, with the first correction in 1/N: that of Gaussian weights is too small, and 3 %
    more variance too large."""
    width, q = 128, 1.0
    build = lambda variance, weights: theory.feedforward(
        TANH, variance, 0.05, depth=2, weights=weights
    )
    network = build(3.0, SparseWeights(0.1))
    x = sigprop.gram_inputs(jnp.full((1, 1), q), 32, key=KEY).astype(jnp.float32)
    samples = sigprop.sample_ensemble(network, x, width=width, replicas=3000).samples
    lengths = np.asarray(theory.length(samples.moments)[:, -1, 0], float)
    error = lengths.std(ddof=1) / np.sqrt(len(lengths))

    def distance(network):
        found = theory.finite_width.length_correction(network, q)
        expected = found.length.value[-1] + found.correction.value[-1] / width
        return abs(lengths.mean() - float(expected)) / error

    assert distance(network) < 4
    assert distance(build(3.0, "gaussian")) > 5
    assert distance(build(3.09, SparseWeights(0.1))) > 5


def test_singular_values_of_one_large_matrix_have_the_law_of_marchenko_and_pastur():
    """The quarter circle law; Kolmogorov's distance sees 3 % more variance."""
    n = 800
    law = WeightLaw(1.0, SparseWeights(0.3))
    values = np.linalg.svd(draw_weights(law, KEY, n, n, jnp.float64)[..., 0], compute_uv=False)
    quarter = lambda s: 2 * stats.semicircular.cdf(s / 2) - 1
    place = (np.arange(n) + 0.5) / n
    distance = lambda s: np.max(np.abs(quarter(np.sort(s)) - place))
    assert distance(values) < 0.005
    assert distance(np.sqrt(1.03) * values) > 0.005
    # and theory says the same of it
    factors = theory.jacobian_factors(theory.affine(1.0, weights=law.family), 1.0)
    quantiles = theory.singular_value_quantiles(factors, [0.2, 0.5, 0.8]).value
    np.testing.assert_allclose(quarter(np.exp(quantiles)), [0.2, 0.5, 0.8], rtol=0, atol=SINGLE)


def test_theory_of_sparse_jacobians_is_that_of_gaussian_ones():
    found = [
        theory.jacobian_factors(theory.layer(TANH, 1.5, weights=weights), 0.5)
        for weights in ("sparse:0.1", "gaussian")
    ]
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), *found))
    bodies = [
        theory.layer(TANH, 1.0, residual=True, weights=weights)
        for weights in ("sparse:0.1", "gaussian", "orthogonal")
    ]
    ratios = [theory.spectrum.residual_moments(body, 1.0, 2).ratios.value[1] for body in bodies]
    assert ratios[0] == ratios[1] != ratios[2]


def test_weights_are_drawn_unless_that_is_refused():
    """Products with sparse weights have no known law: nothing takes that of Gaussian ones."""
    network = theory.feedforward(TANH, 1.5, depth=2, weights="sparse:0.1")
    assert draws_matrices(None, 2000, 4, network)
    assert not draws_matrices(None, 2000, 4, theory.feedforward(TANH, 1.5, depth=2))
    x = sigprop.gram_inputs(jnp.ones((1, 1)), 8, key=KEY)
    loop = theory.recurrent(TANH, 1.5, steps=3, weights="sparse:0.1")
    sequence = jnp.tile(x, (3, 1, 1))
    for refused in (
        lambda: sigprop.sample_network(network, x, key=KEY, width=9, explicit_weights=False),
        lambda: sigprop.networks.DrawnNetwork(network, KEY, 9, explicit_weights=False)(x),
        lambda: sigprop.sample_network(loop, sequence, key=KEY, width=9, explicit_weights=False),
    ):
        with pytest.raises(ValueError, match="`explicit_weights`: must be True with") as caught:
            refused()
        assert "\n" not in str(caught.value)
    held = sigprop.networks.DrawnNetwork(loop, KEY, 9)(sequence)
    assert held.shape == (3, 9, 1)
