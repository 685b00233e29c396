"""Finite networks with multiplicative noise: a mask for every input, and theory's moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sigprop
import theory
from tests.tolerances import FOLD, ROUNDING, SOLUTION
from theory import Chain, Noise, Pointwise, Residual

KEY = jax.random.key(5)
TANH, LINEAR = theory.activation("tanh"), theory.activation("linear")


def noisy(phi, weight_variance, bias_variance, variance, depth, *, residual=False, **options):
    affine = theory.affine(weight_variance, bias_variance, **options)
    body = Chain((Pointwise(phi), Noise(variance), affine))
    first = theory.affine(weight_variance, bias_variance, **options)
    return Chain((first, theory.repeat(Residual(body) if residual else body, depth)))


def drawn(network, width=40, key=KEY):
    return sigprop.networks.DrawnNetwork(network, key, width)


def test_every_input_and_every_unit_has_its_own_normal_number():
    n, width, v = 4, 20000, 0.3
    x = jnp.broadcast_to(jnp.array([1.0, -2.0, 3.0]), (n, width, 3))
    factor = np.asarray(drawn(Noise(v))(x) / x)
    np.testing.assert_allclose(
        factor, np.broadcast_to(factor[..., :1], factor.shape), rtol=ROUNDING
    )
    g = (factor[..., 0] - 1) / np.sqrt(v)
    error = 5 / np.sqrt(width)
    np.testing.assert_allclose(g.mean(axis=1), 0, rtol=0, atol=error)
    np.testing.assert_allclose(g @ g.T / width, np.eye(n), rtol=0, atol=np.sqrt(2) * error)
    np.testing.assert_allclose((g**4).mean(axis=1), 3, rtol=0, atol=np.sqrt(96) * error)


def test_layers_draw_anew_and_one_network_is_one_function():
    x = jnp.ones((1, 12, 1))
    twice = drawn(theory.repeat(Noise(0.3), 2))(x)
    first = drawn(theory.repeat(Noise(0.3), 1))(x)
    second = twice / first
    assert jnp.all(jnp.abs(first - second) > 1e-6)
    np.testing.assert_array_equal(twice, drawn(theory.repeat(Noise(0.3), 2))(x))


def test_weights_do_not_depend_on_noise():
    """In its place in the chain it might be any node."""
    x = jax.random.normal(KEY, (2, 12, 1))
    still = noisy(TANH, 1.5, 0.1, 0.0, 3)
    identity = Pointwise(LINEAR)
    plain = Chain((Pointwise(TANH), identity, theory.affine(1.5, 0.1)))
    plain = Chain((theory.affine(1.5, 0.1), theory.repeat(plain, 3)))
    np.testing.assert_array_equal(drawn(still)(x), drawn(plain)(x))
    assert jnp.max(jnp.abs(drawn(noisy(TANH, 1.5, 0.1, 0.2, 3))(x) - drawn(plain)(x))) > 0.1


@pytest.mark.parametrize("residual", [pytest.param(False, marks=pytest.mark.slow), True])
def test_jacobians_are_those_under_the_same_noise(residual):
    network = noisy(TANH, 1.5, 0.1, 0.2, 3, residual=residual)
    x = jax.random.normal(KEY, (1, 9, 1))
    jacobian = jax.jit(jax.jacobian(lambda x: drawn(network, 9)(x)))(x).reshape(9, 9)
    values = np.log(np.linalg.svd(jacobian, compute_uv=False))
    sample = sigprop.sample_jacobian(network, x, key=KEY, width=9)
    np.testing.assert_allclose(sample.log_singular_values, values, rtol=0, atol=FOLD)


def test_an_equivariant_network_stays_so_under_its_noise():
    network = noisy(theory.radial("tanh"), 2.25, 0.0, 0.2, 4, components=3)
    x = jax.random.normal(KEY, (1, 12, 3))
    certificate = sigprop.certify(drawn(network, 12), x, theory.phases.generators(network))
    assert jnp.all(certificate.holds)
    assert jnp.all(certificate.claim < 1e-10)
    rotated = x @ jnp.linalg.qr(jax.random.normal(KEY, (3, 3)))[0].T
    first, other = drawn(network, 12)(x), drawn(network, 12)(rotated)
    np.testing.assert_allclose(jnp.sum(first**2, -1), jnp.sum(other**2, -1), rtol=SOLUTION)


GRAM = jnp.array([[9.0, 9.0, 0.0], [9.0, 9.0, 0.0], [0.0, 0.0, 0.01]])
"""Two inputs that are one, and so short a third one that the first bias shows."""


@pytest.mark.slow
def test_finite_networks_have_the_moments_of_theory():
    """And of no theory with a variance that is wrong by 3 %, that of the noise among them."""
    network = noisy(TANH, 0.9, 0.5, 0.5, 4)
    x = sigprop.gram_inputs(GRAM, 16, key=jax.random.key(1)).astype(jnp.float32)
    comparison = sigprop.compare(
        network,
        x,
        widths=(24, 48, 96, 192),
        replicas=(8000, 14000, 10000, 3000),
        gradients=False,
    )
    assert comparison.agrees
    assert any("parts[1].variance" in power.leaf for power in comparison.power)
    assert all(power.rejected for power in comparison.power), comparison.power


def test_networks_that_train_refuse_noise():
    from sigprop.experiments import apply_parameters, draw_parameters

    network = noisy(TANH, 1.5, 0.1, 0.2, 3)
    parameters = draw_parameters(network, KEY, fan_in=5, width=6, components=1)
    with pytest.raises(TypeError, match=r"`network`: .*got a Noise"):
        apply_parameters(network, parameters, jnp.ones((2, 5, 1), jnp.float32))
