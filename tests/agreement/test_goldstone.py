"""What a continuous symmetry protects, held against finite networks with power."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sigprop
import theory
from sigprop.comparison._goldstone_study import measured_rotation
from tests.tolerances import FOLD

TANH = theory.radial("tanh")
GROUPS = [(2, "real"), (4, "real"), (2, "complex"), (4, "complex"), (4, "quaternion")]


def rotation_by(generator, angle):
    one = np.eye(len(generator))
    return one + np.sin(angle) * generator + (1 - np.cos(angle)) * generator @ generator


def rate_of_rotation(cross, generator, first, last):
    """−log of the angle's factor per layer between two layers, and its jackknife error."""

    def rate(cross):
        angle = measured_rotation(cross[:, [first, last]], generator).angle
        return np.log(np.abs(angle[0] / angle[1])) / (last - first)

    blocks = np.array_split(np.arange(len(cross)), 32)
    left = np.array([rate(np.delete(cross, block, axis=0)) for block in blocks])
    n = len(blocks)
    return rate(cross), np.sqrt((n - 1) / n * np.sum((left - left.mean()) ** 2))


@pytest.mark.parametrize(
    ("k", "algebra", "weight_variance", "bias_variance"),
    [
        (2, "real", 1.3, 0.01),
        (4, "quaternion", 1.2, 0.005),
    ],
)
@pytest.mark.slow
def test_a_bias_lets_the_rotation_decay_over_its_depth_scale(
    k, algebra, weight_variance, bias_variance
):
    """Ordered phase: 1/ξ_G is the rate, extrapolated to infinite width, and 10 % less or more
    bias would not be."""
    how = {"components": k, "algebra": algebra}
    first, last = 4, 34
    network = theory.feedforward(TANH, weight_variance, bias_variance, depth=last, **how)
    generator = theory.phases.plane_generator(network)

    @eqx.filter_jit
    def predicted(bias_variance):
        body = theory.layer(TANH, weight_variance, bias_variance, **how)
        length = theory.predict(body).length
        return length.value, theory.sectors(body, length).depth_scale_goldstone.value

    scale = lambda bias_variance: float(predicted(jnp.asarray(bias_variance))[1])
    # From the fixed point on, and so close that the correlation stays 1.
    q = predicted(jnp.asarray(bias_variance))[0]
    size = jnp.sqrt((q - bias_variance) / weight_variance)
    x = size * sigprop.networks.pair_inputs(
        rotation_by(generator, 0.05).T, 16, key=jax.random.key(1)
    )

    def measured(width, replicas):
        sample = sigprop.sample_ensemble(
            network, x, width=width, replicas=replicas, explicit_weights=False
        )
        cross = np.asarray(sample.samples.moments.covariance)[:, :, 0, 1]
        return rate_of_rotation(cross, generator, first, last)

    (narrow, narrow_error), (wide, wide_error) = measured(256, 1800), measured(512, 1800)
    rate, error = 2 * wide - narrow, np.hypot(2 * wide_error, narrow_error)
    exact = 1 / scale(bias_variance)
    assert abs(rate - exact) < 4 * error, (rate, exact, error)
    for changed in (0.9, 1.1):
        assert abs(rate - 1 / scale(changed * bias_variance)) > 4 * error


@pytest.mark.slow
def test_generic_differences_grow_while_rotations_stay():
    """O(4) without bias: χ = 1.065 for generic tangents, and exactly 1 along generators."""
    network = theory.feedforward(TANH, 2.25, components=4, depth=12)
    comparison = sigprop.compare(
        network,
        sigprop.gram_inputs(
            sigprop.pair_gram(1.0, 0.5), 16, key=jax.random.key(1), components=4
        ).astype(jnp.float32),
        widths=(24, 48, 96, 192),
        replicas=(4000, 3000, 2000, 1000),
        gradients=False,
        explicit_weights=False,
    )
    assert comparison.agrees, comparison.largest_z
    hidden = [p for p in comparison.power if "body" in p.leaf and "weights" in p.leaf]
    assert hidden
    assert all(p.rejected for p in hidden)
    slope = next(c for c in comparison.cells if c.observable.name == "slope")
    limit = slope.limit
    assert limit.value[-1, 0] - 1 > 10 * limit.error[-1, 0]

    a = theory.phases.generators(network)
    x = jax.random.normal(jax.random.key(2), (1, 24, 4))
    for seed in range(3):
        drawn = sigprop.networks.DrawnNetwork(network, jax.random.key(seed), 24)
        found = sigprop.certify(drawn, x, a)
        np.testing.assert_allclose(found.gain, found.expected_gain, rtol=FOLD)


@pytest.mark.slow
@pytest.mark.parametrize(("k", "algebra"), GROUPS)
def test_500_layers_agree_in_every_group(k, algebra):
    """Two generic inputs with a bias, at widths 64 to 1024: lengths, correlations, slopes."""
    network = theory.feedforward(TANH, 1.5, 0.02, components=k, algebra=algebra, depth=500)
    x = sigprop.gram_inputs(
        sigprop.pair_gram(1.0, 0.5), 16, key=jax.random.key(1), components=k
    ).astype(jnp.float32)
    comparison = sigprop.compare(
        network,
        x,
        widths=(64, 128, 256, 512, 1024),
        replicas=(1500, 1200, 800, 500, 250),
        gradients=False,
        explicit_weights=False,
    )
    assert comparison.agrees, comparison.largest_z
    hidden = [p for p in comparison.power if "body" in p.leaf]
    assert len(hidden) == 2
    assert all(p.rejected for p in hidden), hidden
