"""Coherence of gradients and spikes of weights: closed forms, and an independent integration."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import theory
from tests.tolerances import FOLD, LIMIT, SLOPE, SOLUTION
from theory import Status

DEPTH = 5
ONE = theory.given_moments(jnp.full((1, 1, 1, 1), 0.7))


def found(name, variance, bias=0.0, *, residual=True, inputs=ONE, **how):
    phi = theory.activation(name)
    network = theory.feedforward(phi, variance, bias, depth=DEPTH, residual=residual)
    return theory.gradients.gradient_coherence(network, inputs, **how)


def lags():
    return np.abs(np.subtract.outer(np.arange(DEPTH), np.arange(DEPTH)))


class TestClosedForms:
    def test_linear(self):
        """Without bias (1 + σ_w²)^{−|l − m|}; with one the forward factor is √(K_l/K_m)."""
        w = 0.4
        exact = (1 + w) ** -lags().astype(float)
        cosine = found("linear", w).cosine
        assert np.all(np.abs(cosine.value - exact) <= np.asarray(cosine.error) + 1e-15)
        assert np.max(cosine.error) < 1e-12
        lengths = [0.7 * w + 0.3]  # behind the first layer, which has no skip connection
        for _ in range(DEPTH - 1):
            lengths.append(lengths[-1] * (1 + w) + 0.3)
        ratio = np.divide.outer(lengths, lengths)
        exact = (1 + w) ** (-lags() / 2) * np.sqrt(np.minimum(ratio, 1 / ratio))
        np.testing.assert_allclose(found("linear", w, 0.3).cosine.value, exact, rtol=FOLD)

    def test_relu(self):
        """The arc-cosine kernel of two layers whose pre-activations correlate by √(K_l/K_m)."""
        w = 1.3
        step = (1 + w / 2) ** -lags().astype(float)
        c = np.sqrt(step)
        forward = (np.sqrt(1 - c**2) + c * (math.pi - np.arccos(c))) / math.pi
        cosine = found("relu", w).cosine
        np.testing.assert_allclose(cosine.value, forward * c, rtol=SOLUTION)

    def test_without_skip_connections_there_is_none(self):
        result = found("relu", 2.0, residual=False)
        np.testing.assert_array_equal(result.cosine.value, np.eye(DEPTH))
        # The activations do overlap, by their means: 1/π of the mean square.
        forward = np.asarray(result.forward)[..., 0, 0]
        assert forward[0, 1] / math.sqrt(forward[0, 0] * forward[1, 1]) == pytest.approx(
            1 / math.pi, rel=FOLD
        )

    def test_linear_batch(self):
        """Of independent gradients at inputs with the Gram matrix K, the inputs drop out."""
        gram = jnp.array([[1.0, 0.3], [0.3, 2.0]])
        inputs = theory.given_moments(gram[:, :, None, None])
        w = 0.4
        for loss in (None, jnp.eye(2), jnp.array([[1.0, -0.9], [-0.9, 1.0]])):
            cosine = found("linear", w, inputs=inputs, loss_gram=loss).cosine
            np.testing.assert_allclose(cosine.value, (1 + w) ** -lags().astype(float), rtol=FOLD)

    @pytest.mark.parametrize(
        "algebra, k",
        [
            ("complex", 2),
            pytest.param("real", 3, marks=pytest.mark.slow),
            pytest.param("dense", 2, marks=pytest.mark.slow),
        ],
    )
    def test_a_radial_identity_is_linear(self, algebra, k):
        network = theory.feedforward(
            theory.radial("linear"), 0.4, depth=DEPTH, residual=True, components=k, algebra=algebra
        )
        inputs = theory.given_moments(0.7 * jnp.eye(k)[None, None])
        cosine = theory.gradients.gradient_coherence(network, inputs).cosine
        np.testing.assert_allclose(cosine.value, 1.4 ** -lags().astype(float), rtol=SLOPE)

    def test_an_activation_at_the_end_counts(self):
        """relu behind the last layer halves the backward signal, at equal inputs alone."""
        gram = jnp.array([[1.0, 0.2], [0.2, 1.0]])
        inputs = theory.given_moments(gram[:, :, None, None])
        phi = theory.activation("relu")
        plain = theory.feedforward(phi, 0.5, depth=DEPTH, residual=True)
        tailed = theory.Chain((*plain.parts, theory.Pointwise(phi)))
        one, two = (
            theory.gradients.gradient_coherence(n, inputs).backward[-1, -1] for n in (plain, tailed)
        )
        # Relative to the first input: E φ'φ' = (π − arccos c)/2π of 1/2.
        last = theory.propagate(plain, inputs).value
        c = float(theory.correlation(last)[-1, 0, 1])
        np.testing.assert_allclose(two[0, 1] / one[0, 1], 1 - math.acos(c) / math.pi, rtol=SOLUTION)


@pytest.mark.parametrize(
    "network, loss, error, message",
    [
        (theory.layer(theory.activation("relu"), 1.0), None, TypeError, "`network`"),
        (
            theory.feedforward(theory.activation("relu"), 1.0, depth=2),
            jnp.ones((2, 2)),
            ValueError,
            "`loss_gram`: must have shape",
        ),
        (
            theory.feedforward(theory.activation("relu"), 1.0, depth=2),
            jnp.full((1, 1), jnp.nan),
            ValueError,
            "`loss_gram`: must be finite",
        ),
    ],
)
def test_mistakes(network, loss, error, message):
    with pytest.raises(error, match=message):
        theory.gradients.gradient_coherence(network, ONE, loss)


class TestLinearResidual:
    @pytest.mark.parametrize("target, depth", [(3.0, 8), (0.3, 5), (50.0, 100), (1.0, 3)])
    def test_against_runge_kutta(self, target, depth):
        times = np.array([0.0, 0.01, 0.05]) * 8 / depth
        flow = lambda y: depth * y ** (2 - 2 / depth) * (target - y)
        exact, y, steps = [1.0], 1.0, 4000
        for start, stop in itertools.pairwise(times):
            h = (stop - start) / steps
            for _ in range(steps):
                a = flow(y)
                b = flow(y + h / 2 * a)
                c = flow(y + h / 2 * b)
                y += h / 6 * (a + 2 * b + 2 * c + flow(y + h * c))
            exact.append(y)
        gain = theory.gradients.linear_residual_gain(target, depth, times)
        assert np.all(np.asarray(gain.status) == Status.OK)
        np.testing.assert_allclose(gain.value, exact, rtol=SOLUTION)

    def trained(self, size, depth, target, noise, stop, steps):
        """A network with all its entries, trained by small steps of gradient descent."""
        rng = np.random.default_rng(4)
        u = rng.normal(size=size)
        u /= np.linalg.norm(u)
        weights = noise * rng.normal(size=(depth, size, size)) / math.sqrt(size)
        one, goal = np.eye(size), np.eye(size) + (target - 1) * np.outer(u, u)
        first = weights.copy()
        for _ in range(steps):
            below = [one]
            for w in weights:
                below.append(below[-1] + w @ below[-1])
            above = below[-1] - goal
            gradient = np.empty_like(weights)
            for layer in range(depth - 1, -1, -1):
                gradient[layer] = above @ below[layer].T
                above = above + weights[layer].T @ above
            weights = weights - stop / steps * gradient
        return u, first, weights

    def test_without_noise_a_trained_network_has_the_gain(self):
        u, _, weights = self.trained(4, 6, 2.5, 0.0, 0.05, 2000)
        gain = float(theory.gradients.linear_residual_gain(2.5, 6, 0.05).value[0])
        assert (1 + u @ weights[2] @ u) ** 6 == pytest.approx(gain, rel=LIMIT)
        np.testing.assert_allclose(weights[0], weights[5], rtol=0, atol=FOLD)

    @pytest.mark.slow
    @pytest.mark.parametrize("noise, above", [(0.04, True), (0.08, True), (0.3, False)])
    def test_continuity_sets_in_where_the_update_leaves_the_noise(self, noise, above):
        """v_1 of neighbours over training, from the exact gain and the law of spikes."""
        size, depth, target, stop = 200, 6, 2.5, 0.2
        _, _, weights = self.trained(size, depth, target, noise, stop, 200)
        w = (
            float(theory.gradients.linear_residual_gain(target, depth, stop).value[0])
            ** (1 / depth)
            - 1
        )
        predicted = float(theory.gradients.spike_overlap(w / noise)[1].value)
        right = np.linalg.svd(weights)[2][:, 0]
        measured = np.mean(np.abs(np.sum(right[1:] * right[:-1], axis=1)))
        if above:
            assert measured == pytest.approx(
                predicted, abs=0.06
            )  # within: one network of finite width
        else:
            assert predicted == 0
            assert measured < 0.2

    @pytest.mark.parametrize(
        "arguments, field",
        [((0.0, 3, 1.0), "target"), ((1.0, 0, 1.0), "depth"), ((1.0, 3, -1.0), "time")],
    )
    def test_mistakes(self, arguments, field):
        with pytest.raises(ValueError, match=f"`{field}`"):
            theory.gradients.linear_residual_gain(*arguments)


class TestSpikes:
    @pytest.mark.parametrize("m, n, strength", [(300, 300, 1.6), (150, 300, 1.6), (300, 150, 2.2)])
    def test_against_drawn_matrices(self, m, n, strength):
        rng, draws = np.random.default_rng(2), 40
        drawn = []
        for _ in range(draws):
            w = rng.normal(size=(m, n)) / math.sqrt(n)
            w[0, 0] += strength
            _, u = scipy.linalg.eigh(w @ w.T, subset_by_index=[m - 1, m - 1])
            v = w.T @ u[:, 0]
            drawn.append((u[0, 0] ** 2, v[0] ** 2 / (v @ v)))
        mean, error = np.mean(drawn, axis=0), np.std(drawn, axis=0, ddof=1) / math.sqrt(draws)
        law = [float(e.value) for e in theory.gradients.spike_overlap(strength, m / n)]
        assert np.all(np.abs(mean - law) < 5 * error + 2 / n)
        for wrong in (0.9, 1.1):
            off = [float(e.value) for e in theory.gradients.spike_overlap(wrong * strength, m / n)]
            assert np.any(np.abs(mean - off) > 5 * error + 2 / n)

    def test_below_the_threshold(self):
        for side in theory.gradients.spike_overlap(np.array([0.0, 0.5, 1.0, 2.0])):
            np.testing.assert_allclose(side.value, [0, 0, 0, 0.75], rtol=FOLD)
