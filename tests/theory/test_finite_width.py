"""The first correction in 1/N to the length, against laws known at finite width."""

import numpy as np
import pytest

import theory


@pytest.mark.parametrize(("name", "variance", "growth"), [("linear", 1.0, 2.0), ("relu", 2.0, 5.0)])
def test_fluctuations_of_homogeneous_networks_grow_linearly(name, variance, growth):
    """Var Q_l = 2 l/N and 5 l/N to first order, exactly; the mean is not shifted."""
    network = theory.feedforward(theory.activation(name), variance, depth=6)
    found = theory.length_correction(network, 1.0)
    q = np.asarray(found.length.value)
    layers = np.arange(7)
    assert np.all(np.abs(found.variance.value - growth * layers * q**2) <= found.variance.error)
    assert np.all(np.abs(found.correction.value) <= found.correction.error + 1e-300)
    assert np.all(found.variance.error < 1e-7)


def test_only_chains_of_plain_layers_have_it():
    tanh = theory.activation("tanh")
    for options in ({"residual": True}, {"weights": "orthogonal"}):
        with pytest.raises(TypeError, match="network"):
            theory.length_correction(theory.feedforward(tanh, 1.0, depth=2, **options), 1.0)


@pytest.mark.parametrize("length", [-1.0, np.nan, np.inf, [1.0, 2.0]])
def test_a_length_that_is_none_is_refused(length):
    network = theory.feedforward(theory.activation("tanh"), 1.5, depth=1)
    with pytest.raises(ValueError, match=r"^`length`: must be"):
        theory.length_correction(network, length)
