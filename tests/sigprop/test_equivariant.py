"""Finite networks of units with several components: equivariance, and agreement with theory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sigprop
import theory
from sigprop import FiniteNetwork, Signals
from theory import interpret

TANH = theory.radial("tanh")
KEY = jax.random.key(11)
GROUPS = [(2, "real"), (4, "real"), (2, "complex"), (4, "complex"), (4, "quaternion")]


def network(k, algebra, weight_variance=2.25, bias_variance=0.0, depth=8):
    return theory.feedforward(
        TANH, weight_variance, bias_variance, depth=depth, components=k, algebra=algebra
    )


def run(net, x, width):
    start = Signals(x, jnp.zeros((*x.shape, 1), x.dtype), jnp.zeros(len(x), x.dtype))
    return interpret(net, FiniteNetwork(KEY, width), start)[0].values


def rotation(k, algebra, seed):
    """A rotation that commutes with the weights: the polar factor of a random matrix that does."""
    table = theory.WeightLaw(1.0, "gaussian", k, algebra).table
    x = np.random.default_rng(seed).normal(size=(k, k))
    kept = np.einsum("aij,jk,alk->il", table, x, table)
    u, _, vt = np.linalg.svd(kept)
    return jnp.asarray(u @ vt)


@pytest.mark.parametrize(("k", "algebra"), GROUPS)
def test_rotated_inputs_give_rotated_outputs(k, algebra):
    x = jax.random.normal(jax.random.key(2), (1, 12, k))
    r = rotation(k, algebra, 3)
    turn = lambda z: jnp.einsum("ij,nuj->nui", r, z)
    net = network(k, algebra)
    out = run(net, x, 10)
    np.testing.assert_allclose(run(net, turn(x), 10), turn(out), atol=1e-12)
    # a rotation that the weights do not commute with, and a bias, break it
    if algebra != "real":
        other = rotation(k, "real", 4)
        wrong = jnp.einsum("ij,nuj->nui", other, x)
        assert jnp.max(jnp.abs(run(net, wrong, 10) - jnp.einsum("ij,nuj->nui", other, out))) > 0.1
    biased = network(k, algebra, bias_variance=0.1)
    broken = run(biased, turn(x), 10) - turn(run(biased, x, 10))
    assert jnp.max(jnp.abs(broken)) > 0.05


def test_radial_tangents_are_derivatives():
    z = jax.random.normal(KEY, (5, 3))
    t = jax.random.normal(jax.random.fold_in(KEY, 1), (5, 3, 2))
    value, pushed = TANH.push(z, t)
    for m in range(2):
        expected, moved = jax.jvp(TANH, (z,), (t[..., m],))
        np.testing.assert_allclose(value, expected, rtol=1e-14)
        np.testing.assert_allclose(pushed[..., m], moved, rtol=1e-12, atol=1e-14)
    # at the origin φ is g'(0) z
    _, at_zero = TANH.push(jnp.zeros((1, 3)), t[:1])
    np.testing.assert_allclose(at_zero, t[:1], rtol=1e-12)


def related_inputs(k, algebra, cross, width=32):
    """Two inputs with Σ = 1 and a given cross-covariance, exactly."""
    gram = jnp.eye(2)
    pair = sigprop.gram_inputs(jax.random.key(5), gram, width * k, components=k)
    one, other = pair[0], pair[1]
    rest = jnp.linalg.cholesky(jnp.eye(k) - cross.T @ cross)
    return jnp.stack([one, one @ cross + other @ rest.T])


@pytest.mark.parametrize(("k", "algebra"), [(2, "real"), (4, "quaternion")])
def test_finite_networks_agree_with_theory_and_no_neighbour_of_theirs_does(k, algebra):
    cross = 0.7 * rotation(k, algebra, 6)
    x = related_inputs(k, algebra, cross)
    moments = theory.signal_moments(x)
    np.testing.assert_allclose(moments.covariance[0, 1], cross, atol=1e-12)
    net = network(k, algebra, 2.0, 0.3, depth=4)
    comparison = sigprop.compare(
        net,
        x.astype(jnp.float32),
        widths=(16, 32, 64, 128),
        replicas=(12000, 12000, 12000, 8000),
        gradients=False,
        explicit_weights=False,
    )
    assert comparison.agrees, comparison.largest_z
    hidden = [p for p in comparison.power if "body" in p.leaf]
    assert len(hidden) == 2
    assert all(p.rejected for p in hidden), hidden


def test_the_relative_rotation_of_two_inputs_is_frozen_at_any_depth():
    """One network, 500 layers: x and R x keep their rotation, though the network is chaotic."""
    k, r = 4, rotation(4, "real", 8)
    x = jax.random.normal(jax.random.key(9), (1, 40, k))
    both = jnp.concatenate([x, jnp.einsum("ij,nuj->nui", r, x)])
    net = network(k, "real", 1.3**2, depth=500)
    moments = sigprop.sample_network(net, both, KEY, width=64, explicit_weights=False).moments
    cross = np.asarray(moments.covariance[:, 1, 0])
    u, _, vt = np.linalg.svd(cross)
    seen = np.abs(u @ vt - np.asarray(r)).max(axis=(1, 2))
    # rounding grows as the leading exponent lets it; here the network has a Goldstone window
    assert seen[-1] < 1e-9
    # a generic perturbation of the same network does not stay
    other = jnp.concatenate([x, x + 1e-3 * jax.random.normal(KEY, x.shape)])
    far = sigprop.sample_network(net, other, KEY, width=64, explicit_weights=False).moments
    assert theory.correlation(far)[-1, 0, 1] < 0.999
