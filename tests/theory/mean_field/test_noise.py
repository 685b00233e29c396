"""Multiplicative noise: its moments, where the correlation ends, and what refuses it."""

import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import theory
from tests.tolerances import FOLD, LAYER, LAYERS, ROUNDING, SOLUTION
from theory import Chain, Noise, Pointwise, Repeat, Residual

LINEAR, RELU, TANH = (theory.activation(name) for name in ("linear", "relu", "tanh"))
V = 0.2


def noisy_layer(phi, weight_variance, bias_variance=0.0, variance=V, **options):
    affine = theory.affine(weight_variance, bias_variance, **options)
    return Chain((Pointwise(phi), Noise(variance), affine))


def near(estimate, exact, rtol=1e-12):
    """The value within its own error, which is small."""
    value, error = float(estimate.value), float(estimate.error)
    assert abs(value - float(exact)) <= error <= 1e-8
    np.testing.assert_allclose(value, float(exact), rtol=rtol, atol=LAYER)


def test_own_moments_grow_and_those_of_pairs_stay():
    """The recursions of a linear network, with one noise for each layer and an even input."""
    w, b, schedule = 0.9, 0.3, np.array([0.5, 0.0, 0.1])
    body = eqx.filter_vmap(lambda v: noisy_layer(LINEAR, w, b, v))(jnp.asarray(schedule))
    network = Chain((theory.affine(1.0), Repeat(body, 3)))
    start = jnp.array([[2.0, 1.2, 2.0], [1.2, 1.5, 1.2], [2.0, 1.2, 2.0]])[..., None, None]
    after = theory.propagate(network, theory.given_moments(start)).value
    expected = np.asarray(start[..., 0, 0])
    own = np.eye(3)
    tangent = np.ones((3, 3))
    for v, moments in zip(schedule, range(1, 4), strict=True):
        expected = w * (1 + v * own) * expected + b
        tangent = w * (1 + v * own) * tangent
        lengths = np.diag(expected)
        apart = (lengths[:, None] + lengths[None]) / 2 - expected
        at = jax.tree.map(lambda x, i=moments: x[i], after)
        np.testing.assert_allclose(at.covariance[..., 0, 0], expected, rtol=LAYER)
        np.testing.assert_allclose(at.separation[..., 0, 0], apart, rtol=LAYERS, atol=ROUNDING)
        np.testing.assert_allclose(at.whole_tangent[..., 0, 0], tangent, rtol=LAYER)


@pytest.mark.parametrize("v", [0.2, 1e-12])
def test_linear_networks_end_at_the_correlation_in_closed_form(v):
    """q* = σ_b²/(1 − σ_w²(1 + v)) and q* c* = σ_b²/(1 − σ_w²)."""
    w, b = 0.6, 0.3
    found = theory.predict(noisy_layer(LINEAR, w, b, v))
    near(found.length, b / (1 - w * (1 + v)))
    near(found.separation, w * v / (1 - w))
    near(found.slope, w * (1 + v))
    near(found.multiplier, w * (1 + v))
    near(found.correlation_slope, w)
    near(found.depth_scale_correlation, -1 / np.log(w))


def test_relu_networks_end_at_the_root_of_their_kernel():
    w, b = 1.2, 0.3
    found = theory.predict(noisy_layer(RELU, w, b))
    with mpmath.workdps(30):
        w, b, v = mpmath.mpf("1.2"), mpmath.mpf("0.3"), mpmath.mpf("0.2")
        q = b / (1 - w * (1 + v) / 2)
        kernel = lambda c: (mpmath.sqrt(1 - c * c) + c * (mpmath.pi - mpmath.acos(c))) / mpmath.pi
        c = mpmath.findroot(lambda c: w / 2 * kernel(c) + b / q - c, (0.3, 0.99), "anderson")
        slope = w / 2 * (mpmath.pi - mpmath.acos(c)) / mpmath.pi
    near(found.length, q)
    near(found.separation, 1 - c, 1e-11)
    near(found.correlation_slope, slope, 1e-11)
    assert found.phase == theory.Phase.ORDERED
    assert found.correlation.value < 1


def test_directions_are_forgotten_where_lengths_shrink_to_zero():
    """Of a linear network without a bias c' = c/(1 + v), at any length."""
    found = theory.predict(noisy_layer(LINEAR, 0.6))
    assert found.length.value == 0
    near(found.correlation, 0.0)
    near(found.correlation_slope, 1 / (1 + V))


def test_no_noise_is_none():
    plain, still = theory.layer(TANH, 1.5, 0.05), noisy_layer(TANH, 1.5, 0.05, 0.0)
    for one, other in zip(
        jax.tree.leaves(theory.predict(plain)), jax.tree.leaves(theory.predict(still)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=SOLUTION, atol=FOLD)


@pytest.mark.slow
def test_a_compiled_sweep_is_the_points_of_it():
    variances = jnp.array([0.0, 0.05, 0.5])
    swept = jax.jit(
        jax.vmap(lambda v: theory.predict(noisy_layer(TANH, 1.5, 0.05, v)).separation.value)
    )
    alone = [theory.predict(noisy_layer(TANH, 1.5, 0.05, v)).separation.value for v in variances]
    np.testing.assert_allclose(swept(variances), jnp.stack(alone), rtol=SOLUTION, atol=FOLD)


NETWORK = Chain((theory.affine(1.0, 0.1), theory.Normalise(), *noisy_layer(TANH, 1.5, 0.05).parts))
LEAVES = range(len(jax.tree.leaves(NETWORK)))


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -1.0])
@pytest.mark.parametrize("leaf", LEAVES)
def test_no_variance_is_taken_on_trust(leaf, bad):
    """Of any node, where it is traced and cannot be refused."""
    from theory.phases._prediction import is_allowed

    leaves, structure = jax.tree.flatten(NETWORK)
    assert is_allowed(NETWORK)
    leaves[leaf] = jnp.asarray(bad)
    assert not is_allowed(jax.tree.unflatten(structure, leaves))


def test_units_may_still_rotate():
    phi = theory.radial("tanh")
    plain = theory.layer(phi, 2.25, components=3)
    noisy = noisy_layer(phi, 2.25, components=3)
    assert theory.symmetry(noisy) == theory.symmetry(plain)
    assert theory.symmetry(noisy_layer(TANH, 1.5)) == theory.symmetry(theory.layer(TANH, 1.5))


def test_the_recursion_is_told():
    told = theory.describe(noisy_layer(TANH, 1.5, 0.05, 0.1)).splitlines()
    assert told[:3] == [
        "z' = W (1 + √0.1 g) tanh(z) + b",
        "q' = 1.5·1.1 E tanh(√q ζ)² + 0.05",
        "χ = 1.5·1.1 E tanh'(√q ζ)²",
    ]
    latex = theory.describe(noisy_layer(TANH, 1.5, 0.0, 0.1), latex=True)
    assert r"(1 + \sqrt{0.1}\,g)\,\tanh(z)" in latex
    assert theory.describe(noisy_layer(TANH, 1.5, 0.05, 0.0)) == theory.describe(
        theory.layer(TANH, 1.5, 0.05)
    )


DEEP = Chain((theory.affine(1.0), theory.repeat(noisy_layer(TANH, 1.5), 3)))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Noise(-0.1), ValueError, "`variance`: must be finite and at least 0"),
        (lambda: Noise(None), ValueError, "`variance`"),
        (
            lambda: theory.propagate(Noise(jnp.ones(2)), jnp.ones((1, 3, 1))),
            ValueError,
            "`variance`: must be one number",
        ),
        (lambda: theory.Recurrent(noisy_layer(TANH, 1.5), 3), TypeError, "`body`: .*got a Noise"),
        (
            lambda: theory.phases.stationary_state(noisy_layer(TANH, 1.5)),
            TypeError,
            "`body`: .*got a Noise",
        ),
        (lambda: theory.jacobian_factors(DEEP, 1.0), TypeError, "`network`: .*got a Noise"),
        (
            lambda: theory.finite_width.length_correction(DEEP, 1.0),
            TypeError,
            "`network`: .*got a Noise",
        ),
        (lambda: Residual(Chain((theory.affine(1.0), Noise(V)))), TypeError, "got Noise"),
        (
            lambda: theory.predict(Chain((Noise(V), Pointwise(TANH), theory.affine(1.0)))),
            TypeError,
            "must act on Gaussian moments",
        ),
        (
            lambda: theory.predict(Chain((Pointwise(TANH), theory.affine(1.0), Noise(V)))),
            TypeError,
            "ends in PostActivation",
        ),
    ],
)
def test_what_has_no_theory_is_refused_in_one_line(build, error, message):
    with pytest.raises(error, match=message) as caught:
        inspect.unwrap(build)()
    assert "\n" not in str(caught.value)
