"""Gradient coherence: theory against ensembles, with the power to disagree; frames."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sigprop
import theory
from tests.tolerances import sigmas


def over_pairs(cosines):
    """Of every network the cosines of all pairs of layers, and their means at one distance."""
    depth = cosines.shape[-1]
    rows, columns = np.triu_indices(depth, 1)
    each = np.asarray(cosines, float)[..., rows, columns]
    lags = columns - rows
    means = [each[..., lags == lag].mean(axis=-1) for lag in range(1, depth)]
    return np.concatenate([each, np.stack(means, axis=-1)], axis=-1)


def statistics(drawn):
    return drawn.mean(axis=0), drawn.std(axis=0, ddof=1) / np.sqrt(len(drawn))


def compare(network, inputs, width, replicas, loss_gram=None):
    """Agreement at one width so large that 1/N is below the errors, and the power against 3 % in
    the variance of the hidden weights."""
    how = {"loss_gram": loss_gram, "explicit_weights": False}
    inputs_32 = inputs.astype(jnp.float32)
    drawn = sigprop.networks.sample_coherence(
        network, inputs_32, width=width, replicas=replicas, **how
    )
    mean, error = statistics(over_pairs(drawn))
    predict = eqx.filter_jit(
        lambda n: theory.gradients.gradient_coherence(n, inputs, loss_gram).cosine.value
    )
    hidden = lambda n: n.parts[1].body.branch.parts[1].weights.variance
    largest = []
    for factor in (1.0, 0.97, 1.03):
        other = eqx.tree_at(hidden, network, factor * hidden(network))
        z = (mean - over_pairs(predict(other))) / np.hypot(error, 2 / width)
        largest.append(float(np.max(np.abs(z))))
    assert largest[0] <= sigmas(mean.size), largest
    assert min(largest[1:]) > sigmas(mean.size), largest


def pair(k=1):
    return sigprop.gram_inputs(sigprop.pair_gram(1.0, 0.5), 16, key=jax.random.key(1), components=k)


def test_a_tanh_residual_network_agrees_and_no_neighbour_of_it_does():
    network = theory.feedforward(theory.activation("tanh"), 0.8, 0.1, depth=4, residual=True)
    compare(network, pair(), 8192, 300)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [8, 30, 100])
@pytest.mark.parametrize("name", ["linear", "tanh", "relu", "gelu"])
def test_residual_networks_agree(name, depth):
    """The branch's variance scales with the depth, so that every distance counts."""
    phi = theory.activation(name)
    network = theory.feedforward(phi, 4.0 / depth, depth=depth, residual=True)
    compare(network, pair()[:1], 16384, 200)


@pytest.mark.slow
@pytest.mark.parametrize("name, depth", [("linear", 8), ("tanh", 8), ("relu", 30), ("relu", 100)])
def test_explicit_weights_of_modest_width_agree(name, depth):
    """Extrapolated in 1/N from widths 64 to 512."""
    phi = theory.activation(name)
    network = theory.feedforward(phi, 4.0 / depth, depth=depth, residual=True)
    inputs, widths, replicas = pair()[:1], (64, 128, 256, 512), (2000, 1500, 800, 300)
    drawn = [
        statistics(
            over_pairs(
                sigprop.networks.sample_coherence(
                    network, inputs.astype(jnp.float32), width=w, replicas=r
                )
            )
        )
        for w, r in zip(widths, replicas, strict=True)
    ]
    mean, error = (np.stack(columns) for columns in zip(*drawn, strict=True))
    limit, limit_error, _ = sigprop.comparison.extrapolate(widths, mean, error)
    expected = over_pairs(theory.gradients.gradient_coherence(network, inputs).cosine.value)
    z = np.abs(limit - expected) / limit_error
    assert np.max(z) <= sigmas(z.size)


@pytest.mark.slow
def test_a_batch_agrees():
    network = theory.feedforward(theory.activation("relu"), 0.8, 0.2, depth=8, residual=True)
    loss = jnp.array([[1.0, -0.6], [-0.6, 1.0]])
    compare(network, pair(), 8192, 400, loss)


@pytest.mark.slow
@pytest.mark.parametrize("algebra", ["real", "complex", "dense"])
def test_radial_units_agree(algebra):
    network = theory.feedforward(
        theory.radial("tanh"), 0.8, depth=8, residual=True, components=2, algebra=algebra
    )
    compare(network, pair(2)[:1], 8192, 300)


def test_plain_networks_have_none():
    """Zero to the chance of two independent matrices, at any activation."""
    network = theory.feedforward(theory.activation("relu"), 2.0, depth=4)
    cosine = sigprop.networks.sample_coherence(network, pair(), width=64, replicas=400)
    off = np.asarray(cosine)[:, *np.triu_indices(4, 1)]
    error = off.std(axis=0, ddof=1) / np.sqrt(400)
    assert np.all(np.abs(off.mean(axis=0)) < 5 * error)


class TestFrames:
    """Which rotations of the layers leave a network, and how training moves along them."""

    size = 6

    def network(self, residual, radial):
        norm = lambda h: jnp.sqrt(jnp.sum(h * h, axis=0, keepdims=True))
        phi = (lambda h: jnp.tanh(norm(h)) / norm(h) * h) if radial else jnp.tanh

        def run(weights, h):
            for w in weights:
                h = h + phi(w @ h) if residual else phi(w @ h)
            return h

        return run

    @pytest.mark.parametrize("residual", [False, True])
    def test_what_leaves_the_function(self, residual):
        weights = jax.random.normal(jax.random.key(0), (3, self.size, self.size))
        x = jax.random.normal(jax.random.key(1), (self.size, 5))
        rotations = jnp.linalg.qr(jax.random.normal(jax.random.key(2), (4, self.size, self.size)))[
            0
        ]
        for radial in (True, False):
            run = self.network(residual, radial)
            plain = run(weights, x)
            each = rotations[3].T @ run(
                sigprop.alignment.rotate_weights(weights, rotations), rotations[0] @ x
            )
            common = rotations[0].T @ run(
                sigprop.alignment.rotate_weights(weights, rotations[:1]), rotations[0] @ x
            )
            alike = lambda a, b: bool(np.max(np.abs(a - b)) < 1e-12)
            assert alike(each, plain) == (radial and not residual)
            assert alike(common, plain) == radial

    @pytest.mark.parametrize("radial", [True, False])
    def test_gradients_have_no_part_in_them(self, radial):
        """The derivative of any loss by a rotation of a frame between two layers."""
        weights = jax.random.normal(jax.random.key(0), (3, self.size, self.size))
        x = jax.random.normal(jax.random.key(1), (self.size, 5))
        run = self.network(False, radial)
        gradient = jax.grad(lambda w: jnp.sum(jnp.sin(run(w, x))))(weights)
        transposed = lambda a: jnp.swapaxes(a, 1, 2)
        inner = gradient[:-1] @ transposed(weights[:-1]) - transposed(weights[1:]) @ gradient[1:]
        size = np.max(np.abs(inner - transposed(inner)))
        assert (size < 1e-12) == radial

    def test_a_change_of_frames_is_found_whole(self):
        weights = jax.random.normal(jax.random.key(0), (3, self.size, self.size))
        a = jax.random.normal(jax.random.key(3), (4, self.size, self.size))
        a = a - jnp.swapaxes(a, 1, 2)
        change = a[1:] @ weights - weights @ a[:-1]
        assert float(sigprop.alignment.frame_drift(weights, change).along) == pytest.approx(1)
        assert float(sigprop.alignment.frame_drift(weights, change, "common").along) < 0.9
        common = a[:1] @ weights - weights @ a[:1]
        assert float(
            sigprop.alignment.frame_drift(weights, common, "common").along
        ) == pytest.approx(1)

    def test_chance(self):
        keys = jax.random.split(jax.random.key(4), 40)
        weights = jax.random.normal(jax.random.key(0), (3, self.size, self.size))
        draw = lambda key: jax.random.normal(key, weights.shape)
        found = jax.lax.map(lambda key: sigprop.alignment.frame_drift(weights, draw(key)), keys)
        error = float(jnp.std(found.along)) / np.sqrt(40)
        assert abs(float(jnp.mean(found.along) - found.chance[0])) < 5 * error
