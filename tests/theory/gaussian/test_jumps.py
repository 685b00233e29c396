"""Activations that jump: infinite slopes at c = 1, and what jumps add to every derivative."""

import math

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

import theory
from tests.tolerances import FOLD, SOLUTION
from theory import Phase, Status
from theory.gaussian._moments import pair_moments, single_moments
from theory.gaussian._radial_moments import radial_moments


def plus_sign(z):
    return z + jnp.sign(z)


@pytest.mark.slow
def test_moments_of_an_activation_with_a_jump():
    """φ = z + sign z, for which E φ(u)φ(v) = qc + 2c √(2q/π) + (2/π) asin c."""
    phi = theory.componentwise(plus_sign, kinks=[0.0], scale=1e9)
    assert set(phi.jumps) == {0.0}

    @jax.jit
    @jax.vmap
    def look(q, x):
        pair = pair_moments(phi, q, q, x, equal_lengths=True, order=24)
        return *pair, single_moments(phi, q, order=24)[0]

    q = np.array([0.3, 1.0, 7.0, 1.0, 1.0, 1.0])
    x = np.array([0.4, 1e-2, 1.0, 1e-12, 1.7, 1e-20])
    value, error, own = look(q, x)
    mp.mp.dps = 40
    for i in range(q.size):
        at, c = mp.mpf(q[i]), 1 - mp.mpf(x[i])
        root = 2 * mp.sqrt(2 / (mp.pi * at))
        product = at * c + at * c * root + 2 / mp.pi * mp.asin(c)
        slope = float(1 + root + 2 / mp.pi / (at * mp.sqrt(1 - c * c)))
        assert abs(value.product[i] - float(product)) <= error.product[i]
        assert abs(value.slope[i] - slope) <= error.slope[i] < 1e-9 * slope
        # Both lengths at once: ∂product/∂q.
        rate = value.product_rate_a[i] + value.product_rate_b[i]
        np.testing.assert_allclose(rate, float(c + c * root / 2), rtol=SOLUTION, atol=FOLD)
        np.testing.assert_allclose(own.square_rate[i], float(1 + root / 2), rtol=FOLD)
    assert np.all(np.isposinf(own.derivative_square))


@pytest.mark.slow
def test_pairs_of_two_lengths_cross_a_jump_away_from_zero():
    """1[z > 1] at lengths q_a, q_b: the slope is the density of both at 1."""
    phi = theory.componentwise(lambda z: jnp.where(z > 1, 1.0, 0.0), kinks=[1.0], scale=1e9)
    assert phi.jumps == (1.0,)
    a, b, x = 0.7, 1.9, 0.05
    value, error = jax.jit(lambda x: pair_moments(phi, a, b, x, order=24))(x)
    c = (1 - x) * math.sqrt(a * b)
    det = a * b - c * c
    expected = math.exp(-(a + b - 2 * c) / (2 * det)) / (2 * math.pi * math.sqrt(det))
    assert abs(value.slope - expected) <= error.slope < 1e-9 * expected
    own, _ = jax.jit(lambda q: single_moments(phi, q))(0.7)
    rate = math.exp(-1 / 1.4) / math.sqrt(2 * math.pi * 0.7) / 1.4
    np.testing.assert_allclose(own.square_rate, rate, rtol=FOLD)


@pytest.mark.parametrize(
    ("fn", "jumps"),
    [
        (lambda z: jnp.where(z > 1, 1.0, 0.0), True),
        (lambda z: jnp.tanh(1e7 * (z - 0.3)), True),
        (lambda z: jax.nn.relu(z - 1), False),
        pytest.param(jnp.sign, True, marks=pytest.mark.slow),
        pytest.param(lambda z: jnp.exp(z / 2), False, marks=pytest.mark.slow),
    ],
    ids=["step", "steep", "hinge", "sign", "smooth"],
)
def test_a_jump_that_is_not_declared_is_noticed_and_a_kink_is_not_taken_for_one(fn, jumps):
    value, error = jax.jit(lambda q: single_moments(theory.componentwise(fn), q))(1.3)
    if jumps:
        assert np.isinf(error.derivative_square)
        assert np.isfinite(error.square)
    else:
        assert error.derivative_square < value.derivative_square


def test_where_a_jump_may_be_is_known_from_the_function_alone():
    assert theory.activation("hard_tanh").jumps == ()
    assert theory.componentwise(jax.nn.relu, kinks=[0.0]).jumps == ()
    assert theory.componentwise(lambda z: jnp.tanh(1e6 * z), kinks=[0.0], scale=1e-6).jumps == ()
    shifted = theory.componentwise(lambda z: jnp.where(z > 2, 1.0, z), kinks=[2.0, -2.0])
    assert shifted.jumps == (2.0,)

    def traced(height):
        phi = theory.componentwise(lambda z: jnp.where(z > 1, z + height, z), kinks=[1.0])
        return jnp.asarray(len(phi.jumps)), phi.steps(jnp.result_type(float))[0]

    places, steps = jax.jit(traced)(0.0)
    assert places == 2  # nobody can tell yet
    np.testing.assert_array_equal(steps, 0.0)
    np.testing.assert_allclose(jax.jit(traced)(0.5)[1], [0.0, 0.5], rtol=FOLD)


def test_moments_of_a_radial_profile_with_a_jump():
    g = lambda r: jnp.where(r > 1.2, jnp.tanh(r), 0.5 * r)
    phi = theory.radial(g, kinks=[1.2])
    assert phi.jumps == (1.2,)
    h = 1e-3
    lengths = 0.8 + h * np.arange(-2, 3)
    value, _ = jax.jit(jax.vmap(lambda q: radial_moments(phi, q, 3)))(lengths)
    near = value.square
    rate = (near[0] - 8 * near[1] + 8 * near[3] - near[4]) / (12 * h)
    np.testing.assert_allclose(value.square_rate[2], rate, rtol=1e-9)
    np.testing.assert_allclose(value.antisymmetric, value.square / lengths, rtol=FOLD)
    assert np.all(np.isposinf(value.trace))
    assert np.all(np.isposinf(value.symmetric_traceless))


def test_what_a_jump_leaves_no_answer_for_is_refused_or_absent():
    phi = theory.componentwise(jnp.sign, kinks=[0.0], scale=1e9, parity="odd")
    with pytest.raises(ValueError, match="jumps at 0"):
        theory.jacobian_factors(theory.layer(phi, 1.0, 0.1), 1.1)
    line = theory.critical_line(phi, [0.1, 1.0])
    assert np.all(np.asarray(line.weight_variance.status) == Status.ABSENT)


@pytest.mark.parametrize(
    ("w", "b", "c", "slope"),
    [
        (1.0, 0.1, 0.21823803250227388, 0.59304014294157775),
        pytest.param(1.5, 0.05, 0.084183755777025268, 0.61827838607373755, marks=pytest.mark.slow),
    ],
)
def test_a_network_of_signs_is_chaotic(w, b, c, slope):
    """c' = (σ_w² (2/π) asin c + σ_b²)/q: a slope without bound at c = 1 (40 digits)."""
    phi = theory.componentwise(jnp.sign, kinks=[0.0], scale=1e9, parity="odd")
    found = theory.predict(theory.layer(phi, w, b))
    assert found.phase == Phase.CHAOTIC
    assert found.slope.status == Status.INFINITE
    assert abs(found.correlation.value - c) <= found.correlation.error < 1e-12
    assert abs(found.correlation_slope.value - slope) <= found.correlation_slope.error < 1e-12
