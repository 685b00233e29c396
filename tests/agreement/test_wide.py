"""The first correction in 1/N to the length, in networks of a hundred units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sigprop
import theory


@pytest.mark.slow
def test_the_mean_length_of_narrow_tanh_networks_is_shifted_as_predicted():
    """Not by nothing, and by what theory says."""
    width, replicas, depth = 100, 10000, 15
    network = theory.feedforward(theory.activation("tanh"), 1.5, depth=depth)
    x = sigprop.gram_inputs(jnp.ones((1, 1)), 32, key=jax.random.key(0)).astype(jnp.float32)
    expected = theory.finite_width.length_correction(network, 1.0)
    q, shift, variance = (
        float(part.value[-1]) for part in (expected.length, expected.correction, expected.variance)
    )
    sample = sigprop.sample_ensemble(
        network, x, width=width, replicas=replicas, explicit_weights=False
    ).samples
    measured = np.asarray(theory.length(sample.moments), float)[:, -1, 0]
    error = width * measured.std() / replicas**0.5
    assert abs(width * (measured.mean() - q) - shift) < 4 * error
    assert abs(shift) > 5 * error
    # A mean over the units of one network fluctuates about Q, which fluctuates itself.
    assert abs(width * measured.var() / (variance + 2 * q**2) - 1) < 0.15
