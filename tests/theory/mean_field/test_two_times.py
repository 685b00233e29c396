"""Dynamic mean-field theory of recurrent networks, against closed forms of erf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import theory
from tests.tolerances import FOLD, LAYERS, SOLUTION
from theory import Chain, Pointwise, Recurrent

ERF = theory.activation("erf")
STEPS = 6
WEIGHTS, BIAS, READ_IN = 2.0, 0.1, 1.3


def arcsine(a, b, c):
    """σ_w² E φ(u) φ(v) + σ_b² for erf, variances a and b, covariance c."""
    return WEIGHTS * 2 / np.pi * np.arcsin(2 * c / np.sqrt((1 + 2 * a) * (1 + 2 * b))) + BIAS


def sequences():
    """One that starts and is left alone, one with noise at every step; correlated at first."""
    x = np.random.default_rng(0).normal(size=(2 * STEPS, 20, 1))
    x[1:STEPS] = 0
    x[STEPS] += x[0]
    return jnp.asarray(x)


def by_hand(x):
    u = READ_IN * np.einsum("aui,bui->ab", x, x) / x.shape[1]
    t = np.arange(len(x)) % STEPS
    c = u.copy()
    for now in range(1, STEPS):
        for a in np.flatnonzero(t == now):
            for b in np.flatnonzero((t > 0) & (t <= now)):
                value = u[a, b] + arcsine(c[a - 1, a - 1], c[b - 1, b - 1], c[a - 1, b - 1])
                c[a, b] = c[b, a] = value
    return c


@pytest.fixture(scope="module")
def states():
    network = theory.recurrent(ERF, WEIGHTS, BIAS, steps=STEPS, input_variance=READ_IN)
    found = theory.propagate(network, sequences())
    return jax.tree.map(lambda x: x[-1], found)


def test_moments_at_two_times_follow_the_closed_form(states):
    c = by_hand(np.asarray(sequences()))
    off = np.abs(states.value.covariance[..., 0, 0] - c)
    assert np.max(off) < 1e-13
    assert np.all(off <= states.error.covariance[..., 0, 0])
    own = np.diag(c)
    apart = (own[:, None] + own[None]) / 2 - c
    np.testing.assert_allclose(states.value.separation[..., 0, 0], apart, atol=LAYERS)
    two_times = theory.mean_field.autocorrelation(states.value, STEPS)
    np.testing.assert_allclose(two_times[0, 1], c[:STEPS, STEPS:], atol=LAYERS)


def test_a_perturbation_of_the_first_input_grows_by_the_slope(states):
    own = np.asarray(theory.length(states.value)).reshape(2, STEPS)
    slope = WEIGHTS * 4 / np.pi / np.sqrt(1 + 4 * own[:, :-1])
    np.testing.assert_allclose(
        theory.mean_field.step_growth(states.value, STEPS), slope.T, rtol=FOLD
    )


def test_the_stationary_state_of_erf_with_noise_and_static_bias():
    noise = 0.4
    q = c = 1.0
    for _ in range(500):
        q = arcsine(q, q, q) + noise
    for _ in range(500):
        c = arcsine(q, q, c)
    state = theory.phases.stationary_state(theory.layer(ERF, WEIGHTS, BIAS), noise)
    slope = WEIGHTS * 4 / np.pi / np.sqrt(1 + 4 * q)
    expected = (q, c / q, 1 - c / q, slope, np.log(slope) / 2)
    for estimate, value in zip(jax.tree.leaves(state, is_leaf=_estimate), expected, strict=False):
        assert abs(estimate.value - value) <= estimate.error + 1e-14
        assert estimate.error < 1e-9
        assert estimate.status == theory.Status.OK
    alone = theory.phases.stationary_state(theory.layer(ERF, WEIGHTS, BIAS))
    # The same variance as a static bias: the same slope, and a larger part that stays.
    static = theory.phases.stationary_state(theory.layer(ERF, WEIGHTS, BIAS + noise))
    assert static.exponent.value == state.exponent.value < alone.exponent.value
    assert static.correlation.value > state.correlation.value


def _estimate(node):
    return isinstance(node, theory.Estimate)


@pytest.mark.parametrize("gain", [0.98, 1.02])
def test_chaos_begins_at_unit_gain(gain):
    """Without bias: λ = log σ_w φ'(0) below the transition, where the state dies out."""
    slope = 2 / np.sqrt(np.pi)  # of erf at 0
    state = theory.phases.stationary_state(theory.layer(ERF, (gain / slope) ** 2))
    if gain < 1:
        assert state.length.value == 0
        np.testing.assert_allclose(state.exponent.value, np.log(gain), rtol=FOLD)
    else:
        assert 0 < state.exponent.value < np.log(gain)
        np.testing.assert_allclose(state.correlation.value, 0, rtol=0, atol=SOLUTION)


def test_sequences_must_be_whole_and_bodies_end_in_weights():
    network = theory.recurrent(ERF, 1.0, steps=4)
    with pytest.raises(ValueError, match="sequences of 4 steps"):
        theory.propagate(network, jnp.ones((6, 5, 1)))
    with pytest.raises(TypeError, match="end in an Affine"):
        Recurrent(Pointwise(ERF), 3)
    with pytest.raises(ValueError, match="steps"):
        theory.recurrent(ERF, 1.0, steps=0)
    two = Chain((network, network.parts[1].__class__(network.parts[1].body, 3)))
    with pytest.raises(ValueError, match="number of steps"):
        theory.propagate(two, jnp.ones((12, 5, 1)))
    with pytest.raises(TypeError, match="Recurrent"):
        theory.jacobian_factors(network, 1.0)
