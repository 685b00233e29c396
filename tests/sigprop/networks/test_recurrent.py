"""Finite recurrent networks: weights held, known by their products, and dynamic mean field."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sigprop
import theory
from sigprop.networks._weights import draw_weights
from tests.tolerances import FOLD

ERF = theory.activation("erf")
KEY = jax.random.key(11)
STEPS = 5


def sequences(steps=STEPS, width=16, dtype=float, k=1):
    """Two correlated starts, of which the second meets one more input."""
    three = sigprop.gram_inputs(jnp.eye(3) + 0.3, width * k, key=KEY).astype(dtype)
    three = three.reshape(3, width, k)
    x = jnp.zeros((2 * steps, width, k), dtype)
    return x.at[0].set(three[0]).at[steps].set(three[1]).at[steps + 2].set(three[2])


def network(steps=STEPS, **how):
    return theory.recurrent(ERF, 2.0, 0.2, steps=steps, **how)


def test_every_step_has_the_same_weights_and_biases():
    x = sequences()
    drawn = sigprop.networks.DrawnNetwork(network(), KEY, 12)
    z = drawn(x)[..., 0].reshape(2, STEPS, 12)
    at = lambda *path: _folded(jax.random.fold_in(KEY, 0), *path)
    law = lambda variance: theory.WeightLaw(variance)
    read_in = draw_weights(law(1.0), at(0, 0), 12, 16, float)[..., 0]
    weights = draw_weights(law(2.0), at(1, 0, 1, 0), 12, 12, float)[..., 0]
    bias = np.sqrt(0.2) * jax.random.normal(at(1, 0, 1, 1), (12,))
    u = (x[..., 0] @ read_in.T).reshape(2, STEPS, 12)
    np.testing.assert_allclose(z[:, 0], u[:, 0], rtol=0, atol=FOLD)
    expected = u[:, 1:] + jax.vmap(lambda z: ERF(z) @ weights.T + bias[None])(z[:, :-1])
    np.testing.assert_allclose(z[:, 1:], expected, rtol=0, atol=FOLD)


def _folded(key, *path):
    for index in path:
        key = jax.random.fold_in(key, index)
    return key


def statistics(samples, steps):
    """Two-time moments and their squares, log growth of tangents and of gradients."""
    last = jax.tree.map(lambda x: jnp.asarray(x[:, -1]), samples.moments)
    c = np.asarray(last.covariance[..., 0, 0]).reshape(len(samples.gradient_growth), -1)
    tangents = np.log(np.asarray(theory.mean_field.step_growth(last, steps))).reshape(len(c), -1)
    gradients = np.log(np.asarray(samples.gradient_growth)).reshape(len(c), -1)
    numbers = np.concatenate([c, tangents, gradients], axis=1)
    return np.concatenate([numbers, numbers**2, numbers * numbers[:, ::-1]], axis=1)


def same_law(network, x, steps, width, replicas, power):
    """Held weights against products alone, z by z, and against weights with 3 % more variance."""
    draw = lambda net, explicit, seed=0: statistics(
        sigprop.sample_ensemble(
            net,
            x,
            width=width,
            replicas=replicas,
            seed=seed,
            gradients=True,
            explicit_weights=explicit,
        ).samples,
        steps,
    )
    held, free = draw(network, True), draw(network, False)
    scores = lambda a, b: (
        np.abs(a.mean(axis=0) - b.mean(axis=0))
        / (np.sqrt((a.var(axis=0) + b.var(axis=0)) / replicas) + 1e-13)
    )
    assert np.max(scores(held, free)) < 5.5
    if power:
        body = network.parts[1].body
        other = theory.Chain(
            (network.parts[0], theory.Recurrent(_scaled(body, 1.03), network.parts[1].steps))
        )
        assert np.max(scores(held, draw(other, False, 1))) > 5.5


def _scaled(body, factor):
    phi, law = body.parts
    return theory.Chain(
        (phi, eqx.tree_at(lambda a: a.weights.variance, law, replace_fn=lambda v: v * factor))
    )


HAAR = [(2, "complex"), pytest.param(4, "quaternion", marks=pytest.mark.slow)]


def rotating(k, algebra):
    how = {"components": k, "algebra": algebra, "weights": "orthogonal"}
    return theory.recurrent(theory.radial("tanh"), 2.0, 0.2, steps=3, **how)


@pytest.mark.slow
def test_products_alone_have_the_law_of_held_weights():
    same_law(network(), sequences(), STEPS, 12, 2500, power=False)


@pytest.mark.slow
@pytest.mark.parametrize(("k", "algebra"), HAAR)
def test_products_with_unitary_and_symplectic_weights(k, algebra):
    same_law(rotating(k, algebra), sequences(3, k=k), 3, 20, 2500, power=False)


@pytest.mark.slow
@pytest.mark.parametrize(("k", "algebra"), [(2, "complex"), (4, "quaternion")])
def test_products_with_unitary_and_symplectic_weights_with_power(k, algebra):
    same_law(rotating(k, algebra), sequences(3, k=k), 3, 48, 20000, power=True)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["gaussian", "orthogonal"])
def test_products_alone_have_the_law_of_held_weights_with_power(weights):
    same_law(network(weights=weights), sequences(), STEPS, 64, 20000, power=True)


@pytest.mark.slow
def test_products_alone_have_the_law_of_held_weights_over_fifty_steps():
    same_law(network(50), sequences(50), 50, 150, 3000, power=True)


@pytest.mark.slow
def test_finite_networks_agree_with_dynamic_mean_field_theory():
    """Lengths, correlations at two times, slopes and gradients, extrapolated in 1/N."""
    deep = theory.recurrent(ERF, 2.0, 0.5, steps=3, input_variance=1.0)
    x = sequences(3).astype(jnp.float32)
    comparison = sigprop.compare(deep, x, widths=(32, 64, 128), replicas=(6000, 4000, 3000))
    assert comparison.agrees
    assert comparison.explicit_weights == (True, True, True)
    (shared,) = [p for p in comparison.power if ".body" in p.leaf and "weights" in p.leaf]
    assert shared.rejected


def by_qr(z, weights, count):
    """Exponents of z ↦ W φ(z) + b along a trajectory, by brute force in NumPy."""
    frame = np.linalg.qr(np.random.default_rng(1).normal(size=(len(weights), count)))[0]
    logs = []
    for state in z[:-1]:
        slope = 2 / np.sqrt(np.pi) * np.exp(-(state**2))
        frame, r = np.linalg.qr(weights @ (slope[:, None] * frame))
        logs.append(np.log(np.abs(np.diag(r))))
    return np.mean(logs[len(logs) // 10 :], axis=0)


def test_exponents_are_those_of_brute_force():
    steps, width = 400, 24
    net = theory.recurrent(ERF, 3.0, 0.05, steps=steps)
    x = jnp.zeros((steps, 16, 1)).at[0].set(sequences()[0])
    found = sigprop.jacobians.sample_exponents(net, x, key=KEY, width=width, count=3)
    z = sigprop.networks.DrawnNetwork(net, KEY, width)(x)[..., 0]
    weights = draw_weights(theory.WeightLaw(3.0), _folded(KEY, 0, 1, 0, 1, 0), width, width, float)[
        ..., 0
    ]
    expected = by_qr(np.asarray(z), np.asarray(weights), 3)
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=3e-2)  # within: 400 steps


@pytest.mark.slow
def test_the_largest_exponent_goes_to_that_of_theory():
    """Width 1000, tanh, on both sides of the transition and beyond: λ = ½ log χ."""
    phi = theory.activation("tanh")
    steps = 300
    for gain in (0.9, 1.2, 1.6):
        net = theory.recurrent(phi, gain**2, steps=steps)
        x = jnp.zeros((steps, 16, 1)).at[0].set(sequences()[0])
        found = sigprop.jacobians.sample_exponents(net, x, key=KEY, width=1000, count=1)
        state = theory.phases.stationary_state(theory.layer(phi, gain**2))
        assert abs(found.values[0] - state.exponent.value) < 0.02
