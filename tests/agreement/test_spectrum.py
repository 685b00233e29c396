"""Singular values of finite networks' Jacobians against free probability, with power.

Networks are the independent samples: the singular values of one network repel each other, and
move together with its length.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import sigprop
import theory
from tests.compiling import hastily

TANH = theory.activation("tanh")
# χ = 1 at σ_b² = 0.05, from arbitrary precision.
CRITICAL, BIAS, LENGTH = 1.76095463960674, 0.05, 0.570047881640764

quantiles = theory.singular_value_quantiles
distribution = theory.singular_value_distribution


@hastily
def factors_of(body, length, depth):
    return theory.jacobian_factors(body, length, order=64).repeated(depth)


def critical_layer(weights, variance=CRITICAL):
    return theory.layer(TANH, variance, BIAS, weights=weights)


def fixed_point(body):
    return theory.predict(body).length.value


def fractions_below(body, length, places, *, depth, width, replicas):
    """The fraction of each network's singular values below given log s."""
    x = math.sqrt(length) * jax.random.normal(jax.random.key(1), (replicas, 1, width, 1))
    network = theory.repeat(body, depth)
    sample = sigprop.sample_jacobians(network, x, width=width, replicas=replicas)
    # Far below what a fraction resolves. One Gaussian matrix in hundreds is nearly singular.
    assert np.all(sample.error < 1e-6)
    logs = np.asarray(sample.log_singular_values)[:, ::-1]
    return np.stack([np.searchsorted(row, np.asarray(places)) for row in logs]) / width


def mean_and_error(each):
    return each.mean(axis=0), each.std(axis=0, ddof=1) / math.sqrt(len(each))


def extrapolated(body, length, places, depth, narrow, wide):
    """Mean at infinite width, linear in 1/N, from (width, replicas) and twice the width, and
    its covariance."""
    assert wide[0] == 2 * narrow[0]
    found = []
    for width, replicas in (narrow, wide):
        how = {"depth": depth, "width": width, "replicas": replicas}
        each = fractions_below(body, length, places, **how)
        found.append((each.mean(axis=0), np.cov(each.T) / replicas))
    (one, one_spread), (two, two_spread) = found
    return 2 * two - one, 4 * two_spread + one_spread


def chance(difference, covariance, replicas):
    """Hotelling's test: how likely so large a difference is by chance. All fractions move with
    the length of a network, which is far less likely to change the shape of its spectrum."""
    p = len(difference)
    t2 = difference @ np.linalg.solve(covariance, difference)
    return scipy.stats.f.sf(t2 * (replicas - p) / (p * (replicas - 1)), p, replicas - p)


def assert_agreement_with_power(weights, depth, narrow, wide, wrong):
    """Agreement of the fractions below predicted quantiles; a weight variance wrong by the
    factor given is rejected."""
    t = np.array([0.2, 0.5, 0.8, 0.95])
    body = critical_layer(weights)
    places = quantiles(factors_of(body, LENGTH, depth), jnp.asarray(t))
    assert np.all(places.error < 1e-6)
    mean, covariance = extrapolated(body, LENGTH, places.value, depth, narrow, wide)
    replicas = min(narrow[1], wide[1])
    assert chance(mean - t, covariance, replicas) > 1e-5, (mean - t, covariance)
    for variance in (CRITICAL * wrong, CRITICAL / wrong):
        other = critical_layer(weights, variance)
        expected = distribution(factors_of(other, fixed_point(other), depth), places.value)
        off = mean - np.asarray(expected.cumulative.value)
        seen = chance(off, covariance, replicas)
        assert seen < 1e-5, (variance, off, covariance)


@pytest.mark.slow
def test_deep_tanh_networks_have_the_predicted_quantiles():
    assert_agreement_with_power("gaussian", 8, (24, 300), (48, 450), 1.06)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["gaussian", "orthogonal"])
@pytest.mark.parametrize("depth", [16, 64, 512])
def test_256_units_have_the_predicted_quantiles(weights, depth):
    assert_agreement_with_power(weights, depth, (128, 60), (256, 30), 1.06)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["gaussian", "orthogonal"])
def test_distance_falls_with_width_at_fixed_depth_over_width(weights):
    """Depth = width/8. Exponents log s/L have a bulk of fixed width, which finite networks miss
    by O(1/N): the Kolmogorov-Smirnov distance falls about in proportion."""
    body = critical_layer(weights)
    t = (np.arange(63) + 1) / 64
    found = []
    for width, replicas in [(32, 200), (64, 100), (128, 50), (256, 20)]:
        depth = width // 8
        places = quantiles(factors_of(body, LENGTH, depth), jnp.asarray(t)).value
        how = {"depth": depth, "width": width, "replicas": replicas}
        each = fractions_below(body, LENGTH, places, **how)
        found.append(mean_and_error(np.max(np.abs(each - t), axis=1)))
    means, errors = (np.array(part) for part in zip(*found, strict=True))
    assert np.all(means[:-1] - means[1:] > 3 * np.hypot(errors[1:], errors[:-1])), means
    rate = np.log(means[0] / means[-1]) / np.log(8)
    assert 0.5 < rate < 1.2, (rate, means)
