"""Finite networks of units with several components: equivariance, and agreement with theory."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sigprop
import theory
from sigprop.networks import FiniteNetwork, Signals
from tests.tolerances import FOLD, LAYER, LAYERS, SLOPE
from theory.description import interpret

TANH = theory.radial("tanh")
KEY = jax.random.key(11)
GROUPS = [(2, "real"), (4, "real"), (2, "complex"), (4, "complex"), (4, "quaternion")]
FEW_GROUPS = [
    group if group == GROUPS[4] else pytest.param(*group, marks=pytest.mark.slow)
    for group in GROUPS
]


def network(k, algebra, weight_variance=2.25, bias_variance=0.0, depth=8, **how):
    how = {"depth": depth, "components": k, "algebra": algebra, **how}
    return theory.feedforward(TANH, weight_variance, bias_variance, **how)


@eqx.filter_jit
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


@pytest.mark.parametrize(
    ("k", "algebra"), [GROUPS[0], *(pytest.param(*g, marks=pytest.mark.slow) for g in GROUPS[1:])]
)
def test_rotated_inputs_give_rotated_outputs(k, algebra):
    x = jax.random.normal(jax.random.key(2), (1, 12, k))
    r = rotation(k, algebra, 3)
    rotate = lambda z: jnp.einsum("ij,nuj->nui", r, z)
    net = network(k, algebra)
    out = run(net, x, 10)
    np.testing.assert_allclose(run(net, rotate(x), 10), rotate(out), rtol=0, atol=FOLD)
    haar = network(k, algebra, weights="orthogonal")
    np.testing.assert_allclose(
        run(haar, rotate(x), 10), rotate(run(haar, x, 10)), rtol=0, atol=FOLD
    )
    # a rotation that the weights do not commute with, and a bias, break it
    if algebra != "real":
        other = rotation(k, "real", 4)
        wrong = jnp.einsum("ij,nuj->nui", other, x)
        assert jnp.max(jnp.abs(run(net, wrong, 10) - jnp.einsum("ij,nuj->nui", other, out))) > 0.1
    biased = network(k, algebra, bias_variance=0.1)
    broken = run(biased, rotate(x), 10) - rotate(run(biased, x, 10))
    assert jnp.max(jnp.abs(broken)) > 0.05


def test_radial_tangents_are_derivatives():
    z = jax.random.normal(KEY, (5, 3))
    t = jax.random.normal(jax.random.fold_in(KEY, 1), (5, 3, 2))
    value, pushed = TANH.push(z, t)
    for m in range(2):
        expected, moved = jax.jvp(TANH, (z,), (t[..., m],))
        np.testing.assert_allclose(value, expected, rtol=LAYER)
        np.testing.assert_allclose(pushed[..., m], moved, rtol=FOLD, atol=LAYER)
    # at the origin φ is g'(0) z
    _, at_zero = TANH.push(jnp.zeros((1, 3)), t[:1])
    np.testing.assert_allclose(at_zero, t[:1], rtol=FOLD)


@pytest.mark.slow
@pytest.mark.parametrize(("k", "algebra"), [(2, "real"), (4, "quaternion")])
def test_finite_networks_agree_with_theory_and_no_neighbour_of_theirs_does(k, algebra):
    cross = 0.7 * rotation(k, algebra, 6)
    x = sigprop.networks.pair_inputs(cross, 32, key=jax.random.key(5))
    moments = theory.mean_field.signal_moments(x)
    np.testing.assert_allclose(moments.covariance[0, 1], cross, rtol=0, atol=FOLD)
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


@pytest.mark.slow
@pytest.mark.parametrize(("k", "algebra"), [(2, "complex"), (4, "quaternion")])
def test_unitary_and_symplectic_weights_agree_with_theory(k, algebra):
    cross = 0.7 * rotation(k, algebra, 6)
    x = sigprop.networks.pair_inputs(cross, 32, key=jax.random.key(5))
    comparison = sigprop.compare(
        network(k, algebra, 2.0, 0.75, depth=4, weights="orthogonal"),
        x,
        widths=(12, 16, 24, 32),
        replicas=(160000, 120000, 80000, 60000),
        gradients=False,
        explicit_weights=False,
    )
    assert comparison.agrees, comparison.largest_z
    hidden = [p for p in comparison.power if "body" in p.leaf]
    assert len(hidden) == 2
    assert all(p.rejected for p in hidden), hidden


@pytest.mark.slow
def test_the_relative_rotation_of_two_inputs_is_frozen_at_any_depth():
    """One network, 500 layers: x and R x keep their rotation, though the network is chaotic."""
    k, r = 4, rotation(4, "real", 8)
    x = jax.random.normal(jax.random.key(9), (1, 40, k))
    both = jnp.concatenate([x, jnp.einsum("ij,nuj->nui", r, x)])
    net = network(k, "real", 1.3**2, depth=500)
    moments = sigprop.sample_network(net, both, key=KEY, width=64, explicit_weights=False).moments
    cross = np.asarray(moments.covariance[:, 1, 0])
    u, _, vt = np.linalg.svd(cross)
    seen = np.abs(u @ vt - np.asarray(r)).max(axis=(1, 2))
    # rounding grows as the leading exponent lets it; here the network has a Goldstone window
    assert seen[-1] < 1e-9
    # a generic perturbation of the same network does not stay
    other = jnp.concatenate([x, x + 1e-3 * jax.random.normal(KEY, x.shape)])
    far = sigprop.sample_network(net, other, key=KEY, width=64, explicit_weights=False).moments
    apart = 1 - theory.correlation(far)[:, 0, 1]
    assert apart[-1] > 100 * apart[0]


@pytest.mark.parametrize(("k", "algebra"), GROUPS)
def test_generators_span_the_algebra_and_commute_with_the_weights(k, algebra):
    net = network(k, algebra)
    a = theory.phases.generators(net)
    assert len(a) == theory.symmetry(net).dimension
    np.testing.assert_allclose(a, -np.swapaxes(a, 1, 2), rtol=0, atol=LAYER)
    gram = np.einsum("gij,hij->gh", a, a) / k
    np.testing.assert_allclose(gram, np.eye(len(a)), rtol=0, atol=FOLD)
    for e in theory.WeightLaw(1.0, "gaussian", k, algebra).table:
        np.testing.assert_allclose(a @ e, e @ a, rtol=0, atol=LAYERS)


def certificate(net, width=24, dtype=jnp.float64, x=None, seed=0):
    k = net.parts[0].weights.components
    x = jax.random.normal(jax.random.key(7), (1, width, k)) if x is None else x
    fn = sigprop.networks.DrawnNetwork(net, jax.random.fold_in(KEY, seed), width)
    return sigprop.certify(fn, x.astype(dtype), theory.phases.generators(net))


@pytest.mark.parametrize(("k", "algebra"), FEW_GROUPS)
def test_the_certificate_holds_for_equivariant_networks(k, algebra):
    found = certificate(network(k, algebra, 1.1**2, depth=50))
    assert np.all(found.holds)
    assert np.max(found.claim) < 1e-8
    np.testing.assert_allclose(found.gain, found.expected_gain, rtol=SLOPE)
    # isotropic weights keep the length, so that the gain is of order one at any depth
    assert np.all((found.gain > 1e-3) & (found.gain < 1e3))
    assert found.broken == theory.symmetry(network(k, algebra)).goldstone_modes()


@pytest.mark.parametrize("bias_variance", [1e-12, 1e-3])
def test_the_certificate_sees_a_bias(bias_variance):
    found = certificate(network(2, "real", 1.1**2, bias_variance, depth=10))
    assert not np.any(found.holds)
    assert np.all(found.residual > 1e-8)


def test_the_certificate_sees_an_activation_that_is_not_radial():
    def fn(x):
        return jnp.tanh(x)

    x = jax.random.normal(KEY, (1, 6, 2))
    found = sigprop.certify(fn, x, theory.phases.generators(network(2, "real")))
    assert not np.any(found.holds)


def test_the_certificate_of_a_function_of_ones_own():
    """Weights shared by all layers and a gate: equivariant, and no description made it."""
    rng = np.random.default_rng(0)
    first, second = (jnp.asarray(rng.normal(size=(12, 12)) / np.sqrt(12)) for _ in range(2))

    def fn(x, shift=0.0):
        for _ in range(6):
            gate = jax.nn.sigmoid(jnp.sum(jnp.einsum("ij,njc->nic", second, x) ** 2, -1))
            x = jnp.einsum("ij,njc->nic", first, x) * gate[..., None] + shift
        return x / jnp.sqrt(jnp.mean(x**2))

    x = jax.random.normal(KEY, (1, 12, 3))
    a = theory.phases.generators(network(3, "real"))
    found = sigprop.certify(fn, x, a)
    assert np.all(found.holds)
    assert np.max(found.claim) < 1e-12
    np.testing.assert_allclose(found.gain, found.expected_gain, rtol=FOLD)
    assert not np.any(sigprop.certify(lambda x: fn(x, 1e-9), x, a).holds)


@pytest.mark.parametrize(
    ("sigma", "depth"),
    [
        pytest.param(1.1, 30, marks=pytest.mark.slow),
        (1.5, 100),
        pytest.param(1.5, 500, marks=pytest.mark.slow),
    ],
)
def test_the_claim_is_honest_in_single_precision(sigma, depth):
    """The network amplifies its rounding: in float32 little is left after 500 layers."""
    net = network(3, "real", sigma**2, depth=depth)
    # A generic generator: those of the coordinate planes commute with the rounding too.
    mixed = np.einsum("g,gij->ij", [0.6, -0.48, 0.64], theory.phases.generators(net))[None]
    x = jax.random.normal(jax.random.key(3), (1, 32, 3))
    for seed in range(4):
        fn = sigprop.networks.DrawnNetwork(net, jax.random.fold_in(KEY, seed), 32)
        single = sigprop.certify(fn, x.astype(jnp.float32), mixed)
        double = sigprop.certify(fn, x, mixed)
        for found in (single, double):
            assert np.all(found.residual > 0)
            assert np.all(found.holds), (found.residual, found.claim)
            assert np.all(found.claim < 200 * found.residual)
        assert np.all(double.claim < 1e-7)
        assert np.all(single.claim > 1e-3) == (depth == 500)


def test_generators_of_coordinate_planes_survive_rounding_bit_for_bit():
    """Az is then a permutation of z with signs, and n·(Az) cancels exactly."""
    found = certificate(network(2, "real", depth=500), width=64, dtype=jnp.float32)
    np.testing.assert_array_equal(found.residual, 0.0)


def test_a_state_of_low_rank_breaks_fewer_generators():
    net = network(4, "real", depth=5)
    plane = jax.random.normal(KEY, (1, 24, 4)) * jnp.array([[[1.0, 1.0, 0.0, 0.0]]])
    found = certificate(net, x=plane)
    assert found.broken == theory.symmetry(net).goldstone_modes(2) == 5


def test_bfloat16_is_certified_to_what_it_holds():
    found = certificate(network(2, "real", 1.1**2, depth=5), dtype=jnp.bfloat16)
    assert np.all(found.holds)
    assert np.all((found.claim > 1e-3) & np.isfinite(found.residual))


def rotation_lost(k, algebra, sigma, width, dtype):
    """How far the relative rotation of x and R x is from R after 500 layers of one network."""
    r = rotation(k, algebra, 8)
    x = jax.random.normal(jax.random.key(9), (1, 40, k))
    both = jnp.concatenate([x, jnp.einsum("ij,nuj->nui", r, x)]).astype(dtype)
    net = network(k, algebra, sigma**2, depth=500)
    sample = sigprop.sample_ensemble(net, both, width=width, replicas=2, explicit_weights=False)
    cross = np.asarray(sample.samples.moments.covariance[:, -1, 1, 0], float)
    u, _, vt = np.linalg.svd(cross)
    return np.abs(u @ vt - np.asarray(r)).max()


@pytest.mark.slow
@pytest.mark.parametrize("width", [64, 256, 1024])
@pytest.mark.parametrize(("k", "algebra"), GROUPS)
def test_relative_rotations_are_conserved_to_rounding_in_every_group(k, algebra, width):
    """σ_w = 1.1: χ is at most 1.008, so that 500 layers amplify rounding about tenfold."""
    assert rotation_lost(k, algebra, 1.1, width, jnp.float64) < 1e-12
    assert rotation_lost(k, algebra, 1.1, width, jnp.float32) < 1e-4


@pytest.mark.slow
def test_the_length_sets_in_above_one():
    """Below σ_w² = 1 it decays at any width; above, networks agree with q* up to 1/N."""
    x = sigprop.networks.pair_inputs(jnp.zeros((2, 2)), 32, key=jax.random.key(5)).astype(
        jnp.float32
    )

    def length(weight_variance, width):
        net = network(2, "real", weight_variance, depth=200)
        sample = sigprop.sample_ensemble(net, x, width=width, replicas=40, explicit_weights=False)
        late = np.asarray(theory.length(sample.samples.moments), float)[:, -50:].mean(axis=(1, 2))
        return late.mean(), late.std(ddof=1) / np.sqrt(len(late))

    assert length(0.9, 256)[0] < 1e-7
    (wide, wide_error), (narrow, narrow_error) = length(1.2, 1024), length(1.2, 512)
    exact = float(theory.predict(theory.layer(TANH, 1.2, components=2)).length.value)
    error = np.hypot(2 * wide_error, narrow_error)
    assert abs(2 * wide - narrow - exact) < 5 * error
    assert 0.15 * exact > 5 * error  # a length 15 % off, or weights 2 % off, would be seen


@pytest.mark.parametrize(("k", "algebra"), FEW_GROUPS)
def test_the_backward_charge_is_the_same_in_every_layer(k, algebra):
    net = network(k, algebra, 1.3**2, depth=60)
    drawn = sigprop.networks.DrawnNetwork(net, KEY, 24)
    x = jax.random.normal(jax.random.key(7), (1, 16, k))
    gradient = jax.random.normal(jax.random.key(8), (1, 24, k))
    a = theory.phases.generators(net)
    charges = sigprop.jacobians.backward_charges(drawn, x, gradient, a)
    # at the output it is what its definition says
    exact = jnp.einsum("nui,gij,nuj->g", gradient, a, drawn(x))
    np.testing.assert_allclose(charges, jnp.broadcast_to(exact, charges.shape), rtol=SLOPE)
    # a bias lets it decay
    biased = sigprop.networks.DrawnNetwork(network(k, algebra, 1.3**2, 0.1, depth=60), KEY, 24)
    lost = sigprop.jacobians.backward_charges(biased, x, gradient, a)
    assert np.max(np.abs(lost / lost[-1:] - 1)) > 0.5


@pytest.mark.parametrize(("k", "algebra"), GROUPS)
def test_a_plane_generator_rotates_one_unit_vector(k, algebra):
    net = network(k, algebra)
    a = theory.phases.plane_generator(net)
    np.testing.assert_allclose(a @ a @ a, -a, rtol=0, atol=LAYER)
    basis = theory.phases.generators(net).reshape(-1, k * k)
    inside = basis.T @ (basis @ a.ravel()) / k
    np.testing.assert_allclose(inside.reshape(k, k), a, rtol=0, atol=LAYERS)
    with pytest.raises(ValueError, match="symmetry"):
        theory.phases.plane_generator(network(1, "real"))


def test_pairs_have_exactly_the_cross_covariance():
    r = rotation(3, "real", 1)
    for cross, width in ((0.4 * r, 6), (r, 3), (np.zeros((3, 3)), 6)):
        moments = theory.mean_field.signal_moments(
            sigprop.networks.pair_inputs(cross, width, key=KEY)
        )
        np.testing.assert_allclose(moments.covariance[0, 1], cross, rtol=0, atol=LAYERS)
        np.testing.assert_allclose(moments.covariance[1, 1], np.eye(3), rtol=0, atol=LAYERS)
    for cross, width, name in ((1.1 * r, 10, "cross"), (0.4 * r, 5, "width")):
        with pytest.raises(ValueError, match=name):
            sigprop.networks.pair_inputs(cross, width, key=KEY)
