"""The first correction in 1/N to the length, against laws known at finite width."""

import numpy as np
import pytest

import theory
from tests.tolerances import SOLUTION


@pytest.mark.parametrize(("name", "variance", "growth"), [("linear", 1.0, 2.0), ("relu", 2.0, 5.0)])
def test_fluctuations_of_homogeneous_networks_grow_linearly(name, variance, growth):
    """Var Q_l = 2 l/N and 5 l/N to first order, exactly; the mean is not shifted."""
    network = theory.feedforward(theory.activation(name), variance, depth=6)
    found = theory.finite_width.length_correction(network, 1.0)
    q = np.asarray(found.length.value)
    layers = np.arange(7)
    assert np.all(np.abs(found.variance.value - growth * layers * q**2) <= found.variance.error)
    assert np.all(np.abs(found.correction.value) <= found.correction.error + 1e-300)
    assert np.all(found.variance.error < 1e-7)


def test_only_chains_of_plain_layers_have_it():
    tanh = theory.activation("tanh")
    for options in ({"residual": True}, {"weights": "orthogonal"}):
        with pytest.raises(TypeError, match="network"):
            theory.finite_width.length_correction(
                theory.feedforward(tanh, 1.0, depth=2, **options), 1.0
            )


def test_sparse_weights_shift_the_mean_by_their_fourth_cumulant():
    """φ = z²: E Q_2 = σ_w⁶ q⁴ (27 + (288 + 105 κ)/N) exactly, from the moments of z_0 and W."""
    square = theory.componentwise(lambda z: z * z, parity="even", scale=1e9)
    for weights, kurtosis in (("gaussian", 0.0), (theory.SparseWeights(0.25), 9.0)):
        network = theory.feedforward(square, 0.7, depth=2, weights=weights)
        found = theory.finite_width.length_correction(network, 1.3)
        exact = 0.7**3 * (0.7 * 1.3) ** 4 * (288 + 105 * kurtosis)
        error = found.correction.error[2]
        assert abs(found.correction.value[2] - exact) <= error < 1e-8 * exact


@pytest.mark.parametrize("weights", ["gaussian", "sparse:0.25"])
def test_two_affine_maps_in_a_row_are_those_around_a_linear_function(weights):
    last = theory.affine(1.3, 0.1, weights=weights)
    cubic = theory.componentwise(lambda z: z + z**3, parity="odd", scale=1e9)
    behind = (theory.Pointwise(cubic), last)
    linear = theory.Pointwise(theory.activation("linear"))
    one, other = (
        theory.finite_width.length_correction(
            theory.Chain((theory.affine(1.0), *between, last, *behind)), 0.8
        )
        for between in ((), (linear,))
    )
    for name in ("length", "correction", "variance"):
        found = [getattr(correction, name).value for correction in (one, other)]
        np.testing.assert_allclose(*found, rtol=SOLUTION, err_msg=name)
    assert one.variance.value[1] > 2


def test_sparse_weights_that_meet_the_input_are_refused():
    with pytest.raises(TypeError, match="`network`: must have Gaussian or orthogonal weights"):
        theory.finite_width.length_correction(theory.affine(1.0, weights="sparse:0.1"), 1.0)


@pytest.mark.parametrize("length", [-1.0, np.nan, np.inf, [1.0, 2.0]])
def test_a_length_that_is_none_is_refused(length):
    network = theory.feedforward(theory.activation("tanh"), 1.5, depth=1)
    with pytest.raises(ValueError, match=r"^`length`: must be"):
        theory.finite_width.length_correction(network, length)
