"""Units with several components: radial moments, the two-input map, symmetry and sectors."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from scipy import integrate, optimize

import theory
from tests.compiling import hastily
from tests.tolerances import (
    FOLD,
    LAYER,
    LAYERS,
    ROUNDING,
    SINGLE,
    SINGLE_LAYERS,
    SLOPE,
    SOLUTION,
    printed,
)
from theory import Status, WeightLaw
from theory.description._interpret import interpret
from theory.gaussian._radial_moments import cross_moments, radial_moments, series
from theory.mean_field._moments import PreActivation
from theory.mean_field._propagation import MeanField
from theory.phases._attractor import attractor
from theory.phases._symmetry import commutant_dimensions

TANH = theory.radial("tanh")
PROFILES = {
    "tanh": TANH,
    "erf": theory.radial("erf"),
    "hard_tanh": theory.radial("hard_tanh"),
    "threshold": theory.radial("threshold", threshold=0.7),
    "sin": theory.radial("sin"),
    "user": theory.radial(lambda r: r / (1 + r * r), scale=0.7),
}


def body(k, weight_variance, bias_variance=0.0, algebra="real", phi=TANH):
    return theory.layer(phi, weight_variance, bias_variance, components=k, algebra=algebra)


def at_the_fixed_point(layer):
    length = theory.predict(layer).length
    return length, theory.sectors(layer, length)


# components, σ_w → k q*, m, χ, symmetric traceless: computed twice in arbitrary precision.
BROKEN = [
    (2, 1.1, 0.1650082598, 0.33430537, 1.0077012776, 1.0038506388),
    (2, 1.5, 1.0872725328, 0.65849895, 1.1011526241, 1.0505763120),
    (2, 2.0, 2.7590050827, 0.80515796, 1.2459195300, 1.1229597650),
    (3, 1.5, 1.2359339066, 0.71866282, 1.0793993015, 1.0317597206),
    (4, 1.5, 1.3245524109, 0.75170124, 1.0653389549, 1.0217796516),
    (4, 2.5, 5.5689600115, 0.93983179, 1.2150696082, 1.0716898694),
    (8, 1.5, 1.4786884825, 0.80437236, 1.0382212128, 1.0076442426),
]


@pytest.mark.parametrize(
    ("k", "sigma", "whole", "m", "chi", "shear"),
    [case if case == BROKEN[0] else pytest.param(*case, marks=pytest.mark.slow) for case in BROKEN],
)
def test_published_fixed_points_and_multipliers(k, sigma, whole, m, chi, shear):
    length, found = at_the_fixed_point(body(k, sigma**2))
    assert abs(k * length.value - whole) < 6e-11
    assert abs(found.order_parameter.value - m) < 6e-9
    assert abs(found.trace.value - chi) < 6e-11
    assert abs(found.symmetric_traceless.value - shear) < 6e-11
    assert abs(found.goldstone.value - 1) <= found.goldstone.error < 1e-12
    assert found.depth_scale_goldstone.status == Status.INFINITE
    for e in (length, found.trace, found.symmetric_traceless, found.order_parameter):
        assert e.status == Status.OK


def test_a_bias_gives_the_goldstone_modes_a_depth_scale():
    length, found = at_the_fixed_point(body(2, 2.25, 0.045, "complex"))
    np.testing.assert_allclose(2 * length.value, 1.2501, rtol=0, atol=printed(4))
    np.testing.assert_allclose(found.goldstone.value, 0.92801, rtol=0, atol=printed(5))
    np.testing.assert_allclose(found.trace.value, 1.0369, rtol=0, atol=printed(4))
    np.testing.assert_allclose(found.goldstone.value, 1 - 0.045 / length.value, rtol=LAYERS)
    xi = -1 / np.log(1 - 0.045 / length.value)
    assert abs(found.depth_scale_goldstone.value - xi) <= found.depth_scale_goldstone.error
    # a single complex number has no shear
    assert found.symmetric_traceless.status == Status.ABSENT


def test_profiles_that_rise_and_fall_have_several_fixed_points():
    """g = 2r³/(1 + r⁴) has no slope at 0: zero is stable beside a finite length, and between
    them lies an unstable one. Roots and slopes of the map by scipy's adaptive quadrature."""
    k, weight_variance = 3, 6.0
    fn = lambda r: 2 * r**3 / (1 + r**4)

    def mapped(q):
        density = lambda r: (
            np.sqrt(2 / np.pi) * r**2 * np.exp(-(r**2) / 2) * fn(np.sqrt(q) * r) ** 2
        )
        return weight_variance * integrate.quad(density, 0, 40, epsabs=1e-14, limit=200)[0] / k

    found = theory.fixed_points(
        body(k, weight_variance, phi=theory.radial(fn, scale=0.5, name="rise and fall"))
    )
    stability = [theory.Stability(int(s)).name for s in found.stability[:3]]
    assert stability == ["STABLE", "UNSTABLE", "STABLE"]
    assert np.all(np.isnan(found.length.value[3:]))
    brackets = ((1e-3, 0.3), (0.3, 10.0))
    exact = [optimize.brentq(lambda q: mapped(q) - q, *pair, xtol=1e-14) for pair in brackets]
    for place, q in enumerate(exact, 1):
        assert abs(found.length.value[place] - q) <= found.length.error[place] + 1e-11 * q
        rate = (mapped(q * 1.0001) - mapped(q * 0.9999)) / (2e-4 * q)
        assert float(found.multiplier.value[place]) == pytest.approx(rate, rel=SINGLE_LAYERS)


def test_the_symmetric_phase_has_no_length_and_one_multiplier():
    length, found = at_the_fixed_point(body(3, 0.81))
    assert length.value == 0
    assert found.order_parameter.value == 0
    for e in (found.goldstone, found.trace, found.symmetric_traceless):
        assert abs(e.value - 0.81) <= e.error < 1e-12
    # onset: q* = (3/2)(σ_w² − 1)/(k + 2), to first order
    near, _ = at_the_fixed_point(body(3, 1 + 1e-4))
    assert abs(near.value / (1.5e-4 / 5) - 1) < 1e-3


def by_mpmath(fn, k, kinks=()):
    """E fn(ρ), ρ² ~ χ²_k, in 30 digits."""
    with mp.workdps(30):
        norm = mp.mpf(2) ** (1 - mp.mpf(k) / 2) / mp.gamma(mp.mpf(k) / 2)
        edges = sorted({0, *kinks, 1, 3, 6, 10, 16, 24})
        return norm * mp.quad(lambda x: fn(x) * x ** (k - 1) * mp.exp(-x * x / 2), edges)


MP = {
    "tanh": (mp.tanh, lambda r: 1 - mp.tanh(r) ** 2, ()),
    "sin": (mp.sin, mp.cos, ()),
    "hard_tanh": (lambda r: min(r, mp.mpf(1)), lambda r: mp.mpf(r < 1), (1,)),
    "threshold": (lambda r: max(r - mp.mpf(0.7), mp.mpf(0)), lambda r: mp.mpf(r > 0.7), (0.7,)),
    "user": (lambda r: r / (1 + r * r), lambda r: (1 - r * r) / (1 + r * r) ** 2, ()),
}


PLACES = [(1, 0.3), (2, 1.0), (4, 9.0), (64, 0.5)]
MOMENTS = [(name, *place) for name in MP for place in PLACES]


# Every profile and every place once or twice.
@pytest.mark.parametrize(
    ("name", "k", "q"),
    [
        # The quadrature of mpmath over 64 dimensions takes long where there is a kink.
        case
        if i % 3 == 0 and case[:2] != ("threshold", 64)
        else pytest.param(*case, marks=pytest.mark.slow)
        for i, case in enumerate(MOMENTS)
    ],
)
def test_radial_moments_in_high_precision(name, k, q):
    g, dg, kinks = MP[name]
    root = mp.sqrt(mp.mpf(q))
    places = [mp.mpf(kink) / root for kink in kinks]

    def mean(fn):
        return by_mpmath(lambda x: fn(root * x, x), k, places)

    a, b = (lambda r: dg(r)), (lambda r: g(r) / r)
    truth = [
        mean(lambda r, x: g(r)),
        mean(lambda r, x: g(r) ** 2) / k,
        mean(lambda r, x: r * g(r) * dg(r)) / (k * q),
        mean(lambda r, x: a(r) ** 2 + (k - 1) * b(r) ** 2) / k,
        mean(
            lambda r, x: (
                b(r) ** 2 + 2 * b(r) * (a(r) - b(r)) / k + 2 * (a(r) - b(r)) ** 2 / (k * (k + 2))
            )
        ),
        mean(lambda r, x: g(r) ** 2) / (k * q),
        mean(lambda r, x: g(r) ** 2 * x * x) / (k * (k + 2) * q),
    ]
    value, error = hastily(radial_moments)(PROFILES[name], q, k)
    for field, expected in zip(value.__dataclass_fields__, truth, strict=True):
        found, bound = float(getattr(value, field)), float(getattr(error, field))
        assert abs(found - float(expected)) <= bound, field
        assert bound <= 2e-10 * max(abs(float(expected)), 1e-3), field


@pytest.mark.slow
@pytest.mark.parametrize(("name", "q"), [("tanh", 0.4), ("user", 1.0), ("sin", 1.0)])
def test_for_one_component_the_series_is_mehlers(name, q):
    """k = 1: the radial network is the odd scalar one, whose pairs are done by quadrature."""
    phi = PROFILES[name]
    odd = theory.componentwise(
        lambda z: jnp.sign(z) * phi.profile(jnp.abs(z)), parity="odd", scale=phi.scale
    )
    a = series(phi, jnp.asarray(q), 1, terms=128)
    for x in (1e-6, 0.1, 0.8, 1.3):
        moved = cross_moments(a, a, jnp.array([[x]]))
        scalar = theory.gaussian.pair_moments(odd, q, q, x, equal_lengths=True)[0]
        np.testing.assert_allclose(moved.product[0, 0], scalar.product, rtol=SOLUTION, atol=LAYERS)
        np.testing.assert_allclose(moved.lost[0, 0], scalar.distance, rtol=SOLUTION)


def random_contraction(k, seed, largest=0.9):
    c = np.random.default_rng(seed).normal(size=(k, k))
    return largest * c / np.linalg.norm(c, 2)


@pytest.mark.parametrize("k", [3, *(pytest.param(k, marks=pytest.mark.slow) for k in (2, 4))])
def test_the_two_input_map_against_sampling(k):
    q, c = 0.8, random_contraction(k, k)
    a = series(TANH, jnp.asarray(q), k, terms=64)
    found = np.asarray(cross_moments(a, a, jnp.asarray(np.eye(k) - c)).product)
    rng = np.random.default_rng(1)
    u = rng.normal(size=(1_000_000, k))
    rest = np.linalg.cholesky(np.eye(k) - c.T @ c)
    v = u @ c + rng.normal(size=u.shape) @ rest.T
    fu, fv = (np.asarray(TANH(jnp.asarray(np.sqrt(q) * z))) for z in (u, v))
    products = np.einsum("si,sj->sij", fu, fv)
    error = products.std(axis=0) / np.sqrt(len(u))
    assert np.max(np.abs(products.mean(axis=0) - found) / error) < 5
    assert np.max(0.03 * np.abs(found) / error) > 8


@pytest.mark.parametrize("k", [3, *(pytest.param(k, marks=pytest.mark.slow) for k in (2, 8))])
def test_the_two_input_map_commutes_with_rotations_and_conserves_the_polar_factor(k):
    a = series(TANH, jnp.asarray(1.1), k, terms=64)
    product = lambda c: np.asarray(cross_moments(a, a, jnp.asarray(np.eye(k) - c)).product)
    c = random_contraction(k, 3)
    left, right = (np.linalg.qr(np.random.default_rng(s).normal(size=(k, k)))[0] for s in (4, 5))
    np.testing.assert_allclose(product(left @ c @ right), left @ product(c) @ right, atol=LAYER)

    def polar(m):
        u, _, vt = np.linalg.svd(m)
        return u @ vt

    # The smallest singular value, and with it the polar factor, is known to eps/σ_min.
    tolerance = 1e-14 / np.linalg.svd(c, compute_uv=False)[-1]
    np.testing.assert_allclose(polar(product(c)), polar(c), atol=tolerance)


@pytest.mark.parametrize("k", [3, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 2, 5))])
def test_near_coincidence_the_map_has_the_sectors_multipliers(k):
    """The slope of the series at C = 1 against the radial integrals: 1 − C of 1e-7."""
    q, small = 0.6, 1e-7
    a = series(TANH, jnp.asarray(q), k, terms=64)
    m, _ = radial_moments(TANH, q, k)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(k, k))
    whole = np.trace(x) / k * np.eye(k)
    antisymmetric = (x - x.T) / 2
    shear = x - whole - antisymmetric
    for direction, gain in [
        (whole, m.trace),
        (shear, m.symmetric_traceless),
        (antisymmetric, m.antisymmetric),
    ]:
        lost = np.asarray(cross_moments(a, a, jnp.asarray(small * direction)).lost) / small
        np.testing.assert_allclose(lost, q * gain * direction, atol=2e-6 * np.abs(x).max())


@pytest.mark.slow
def test_what_the_series_leaves_out_is_bounded_by_parseval():
    for name, phi in PROFILES.items():
        a = series(phi, jnp.asarray(2.0), 3, terms=128)
        m, e = radial_moments(phi, 2.0, 3)
        left = float(m.square - jnp.sum(a**2))
        assert -1e-14 <= left < 1e-3 * m.square, name
        if name in ("tanh", "erf", "sin"):
            assert left < 1e-13 + e.square


# components → the factor per layer of a small overlap without bias at σ_w = 1.5, its depth scale
FROZEN = [(2, 0.9565, 22.5), (4, 0.9704, 33.3), (24, 0.9930, 142)]


@pytest.mark.parametrize(
    ("k", "factor", "scale"),
    [FROZEN[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in FROZEN[1:])],
)
def test_small_overlaps_decay_as_a_whole_with_their_orientation_frozen(k, factor, scale):
    q = float(at_the_fixed_point(body(k, 2.25))[0].value)
    a = series(TANH, jnp.asarray(q), k, terms=64)
    small = 1e-6 * random_contraction(k, 1)
    after = 2.25 * np.asarray(cross_moments(a, a, jnp.asarray(np.eye(k) - small)).product) / q
    seen = np.sum(after * small) / np.sum(small**2)
    np.testing.assert_allclose(after, seen * small, rtol=0, atol=1e-9 * np.max(small))
    assert seen == pytest.approx(factor, abs=printed(4))
    assert -1 / np.log(seen) == pytest.approx(scale, abs=0.5 if scale == 142 else 0.05)
    # (σ_w E r g/(k q))²
    r = np.sqrt(q) * np.linalg.norm(np.random.default_rng(0).normal(size=(10**6, k)), axis=1)
    assert seen == pytest.approx(
        (1.5 * np.mean(r * np.tanh(r)) / (k * q)) ** 2, rel=5e-3
    )  # within: a mean of draws


@pytest.mark.parametrize(
    ("k", "algebra"),
    [
        pytest.param(3, "real", marks=pytest.mark.slow),
        pytest.param(4, "complex", marks=pytest.mark.slow),
        (4, "quaternion"),
    ],
)
def test_propagation_in_depth_conserves_the_relative_rotation(k, algebra):
    """Two inputs related by a generic C: its polar factor survives 60 layers, C itself decays."""
    law = WeightLaw(1.0, "gaussian", k, algebra)
    c = random_contraction(k, 9)
    # Only what commutes with the weights survives the first layer.
    c = np.einsum("aij,jk,alk->il", law.table, c, law.table) / (np.sum(law.table**2) / k)
    gram = np.zeros((2, 2, k, k))
    gram[0, 0] = gram[1, 1] = np.eye(k)
    gram[0, 1], gram[1, 0] = c, c.T
    network = theory.feedforward(TANH, 2.25, 0.0, components=k, algebra=algebra, depth=60)
    after = theory.propagate(network, theory.given_moments(jnp.asarray(gram)))
    cross = np.asarray(after.value.covariance[:, 0, 1])
    q = np.asarray(theory.length(after.value))[:, 0]
    u, s, vt = np.linalg.svd(cross / q[:, None, None])
    assert np.all(s[1:, 0] < s[:-1, 0])
    np.testing.assert_allclose(u[-1] @ vt[-1], u[0] @ vt[0], atol=SOLUTION)
    # at last all singular values shrink by σ_w² A_0²/q
    coefficient = series(TANH, jnp.asarray(q[-1]), k, terms=1)[0]
    np.testing.assert_allclose(
        s[-1] / s[-2], 2.25 * coefficient**2 / q[-1], rtol=1e-2
    )  # within: 60 layers


@pytest.mark.slow
def test_with_a_bias_the_rotation_of_two_inputs_decays_at_their_own_correlation():
    """1 − σ_b²/(q* c*) per layer: λ_A where the inputs merge (c* = 1), faster in chaos."""
    for w, b in ((2.25, 0.045), (1.3, 0.1)):
        layer = body(2, w, b, "complex")
        point = theory.predict(layer)
        angle = 0.3
        c = 0.9 * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        gram = np.zeros((2, 2, 2, 2))
        gram[0, 0] = gram[1, 1] = np.eye(2)
        gram[0, 1], gram[1, 0] = c, c.T
        network = theory.feedforward(TANH, w, b, components=2, algebra="complex", depth=400)
        after = theory.propagate(network, theory.given_moments(jnp.asarray(gram)))
        skew = np.asarray(after.value.covariance)[:, 0, 1, 0, 1]
        expected = 1 - b / (point.length.value * point.correlation.value)
        np.testing.assert_allclose(skew[-1] / skew[-2], expected, rtol=SINGLE)


@pytest.mark.parametrize("start", [1.0, 0.9])
def test_errors_of_pairs_grow_no_faster_than_the_network_lets_them(start):
    """By χ per layer, whatever k: after 200 layers of O(3) that is 4e6 times rounding."""
    c, s = np.cos(0.8), np.sin(0.8)
    cross = start * np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
    gram = np.stack([np.stack([np.eye(3), cross]), np.stack([cross.T, np.eye(3)])])
    network = theory.feedforward(TANH, 2.25, 0.0, components=3, depth=200)
    after = theory.propagate(network, theory.given_moments(jnp.asarray(gram)))
    found = np.asarray(after.value.covariance)[:, 0, 1]
    error = np.asarray(after.error.covariance)[:, 0, 1]
    assert np.max(error) < 1e-6
    # the rotation is conserved, so that the skew part is tan 0.8 times the plane's trace
    lost = (found[:, 0, 1] - found[:, 1, 0]) - np.tan(0.8) * (found[:, 0, 0] + found[:, 1, 1])
    assert np.all(np.abs(lost) <= 2 * (1 + np.tan(0.8)) * error[:, 0, 0])


@pytest.mark.slow
def test_rounding_never_leads_inputs_out_of_what_is_possible():
    """Five rotated copies of x in a thousand layers: chaos amplifies rounding until the reported
    error exceeds the overlaps, which stay below the lengths; outside they would diverge."""
    r = lambda t: np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    x = np.random.default_rng(5).normal(size=(16, 2))
    angles = 0.8 * np.arange(5)
    inputs = jnp.asarray(np.stack([x @ r(t).T for t in angles]))
    network = theory.feedforward(TANH, 2.25, components=2, algebra="complex", depth=1000)
    after = theory.propagate(network, inputs)
    found = np.asarray(after.value.covariance)
    error = np.asarray(after.error.covariance)
    q = found[:, :1, :1, :1, :1]
    assert np.max(np.linalg.norm(found / q, axis=(3, 4), ord=2)) < 1 + 1e-6
    expected = np.stack([np.stack([r(a - b) for b in angles]) for a in angles])
    off = np.linalg.norm(found - q * expected[None], axis=(3, 4))
    pairs = np.triu_indices(5, 1)
    assert np.all((off <= error[..., 0, 0] + 2e-15)[:, *pairs])
    assert np.max(error[100, *pairs]) < 1e-8
    assert np.min(error[-1, *pairs]) > 1


def test_an_input_that_is_not_isotropic_becomes_so_and_says_what_it_costs():
    lopsided = jnp.diag(jnp.array([1.3, 0.7]))[None, None]
    network = theory.feedforward(TANH, 2.25, 0.0, components=2, depth=30)
    after = theory.propagate(network, theory.given_moments(lopsided))
    own = np.asarray(after.value.covariance[:, 0, 0])
    bend = (own[:, 0, 0] - own[:, 1, 1]) / np.trace(own, axis1=1, axis2=2)
    assert np.all(np.diff(bend) < 0)
    assert np.all(bend > 0)
    # first layer: second order in the anisotropy, within the error
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2_000_000, 2)) * np.sqrt(own[0].diagonal())
    f = np.asarray(TANH(jnp.asarray(z)))
    sampled = 2.25 * np.mean(f**2, axis=0)
    error = np.asarray(after.error.covariance)[1, 0, 0].diagonal()
    assert np.all(np.abs(own[1].diagonal() - sampled) <= error + 0.005)
    assert np.all(error < 0.2)


@pytest.mark.parametrize(
    ("k", "algebra", "group", "dimension", "one"),
    [
        (1, "real", "O(1)", 0, 0),
        (2, "real", "O(2)", 1, 1),
        (5, "real", "O(5)", 10, 4),
        (2, "complex", "U(1)", 1, 1),
        (6, "complex", "U(3)", 9, 5),
        (4, "quaternion", "Sp(1)", 3, 3),
        (8, "quaternion", "Sp(2)", 10, 7),
        (4, "dense", "1", 0, 0),
    ],
)
def test_the_group_is_derived_from_the_description(k, algebra, group, dimension, one):
    network = theory.feedforward(TANH, 1.5, 0.1, components=k, algebra=algebra, depth=2)
    found = theory.symmetry(network)
    assert (found.group, found.dimension, found.explicit) == (group, dimension, True)
    assert found.goldstone_modes() == dimension
    assert found.goldstone_modes(1) == one
    # the dimension against the null space of [X, e_a] = 0, Xᵀ = −X
    table = WeightLaw(1.0, "gaussian", k, algebra).table
    eye = np.eye(k)
    equations = [np.kron(e, eye) - np.kron(eye, e.T) for e in table]
    transpose = np.eye(k * k).reshape(k, k, k, k).transpose(1, 0, 2, 3).reshape(k * k, k * k)
    rows = np.concatenate([*equations, np.eye(k * k) + transpose])
    assert k * k - np.linalg.matrix_rank(rows) == dimension
    symmetric = np.concatenate([*equations, np.eye(k * k) - transpose])
    both = (k * k - np.linalg.matrix_rank(symmetric), dimension)
    assert commutant_dimensions(WeightLaw(1.0, "gaussian", k, algebra)) == both


def test_layers_share_only_what_commutes_with_all_of_them():
    parts = [
        theory.affine(1.0, components=4, algebra=algebra) for algebra in ("real", "quaternion")
    ]
    mixed = theory.Chain((parts[0], theory.Pointwise(TANH), parts[1]))
    assert theory.symmetry(mixed).group == "Sp(1)"
    assert theory.symmetry(mixed).explicit is False
    scalar = theory.feedforward(theory.activation("relu"), 2.0, depth=2)
    assert theory.symmetry(scalar).group == "1"
    odd = theory.feedforward(theory.activation("tanh"), 2.0, depth=2)
    assert theory.symmetry(odd).group == "O(1)"


def test_tables_are_division_algebras():
    for algebra, size in (("complex", 2), ("quaternion", 4)):
        e = WeightLaw(1.0, "gaussian", size, algebra).table
        np.testing.assert_array_equal(e[0], np.eye(size))
        for i in range(1, len(e)):
            np.testing.assert_array_equal(e[i] @ e[i], -np.eye(size))
            for j in range(1, i):
                np.testing.assert_array_equal(e[i] @ e[j], -e[j] @ e[i])
        if algebra == "quaternion":
            np.testing.assert_array_equal(e[1] @ e[2], e[3])


@pytest.mark.slow
def test_predictions_of_equivariant_networks():
    """c* = 0 without bias, with the slope at which orientations are frozen; k = 1 is scalar."""
    predict = theory.predict
    p = predict(body(2, 2.25))
    assert abs(p.correlation.value) <= p.correlation.error < 1e-11
    np.testing.assert_allclose(p.correlation_slope.value, 0.9565, rtol=0, atol=printed(4))
    np.testing.assert_allclose(p.depth_scale_correlation.value, 22.5, rtol=0, atol=printed(1))
    one = predict(body(1, 3.0, 0.1))
    scalar = predict(theory.layer(theory.activation("tanh"), 3.0, 0.1))
    for field in ("length", "slope", "correlation", "multiplier", "correlation_slope"):
        a, b = getattr(one, field), getattr(scalar, field)
        assert abs(a.value - b.value) <= a.error + b.error, field


@pytest.mark.slow
@pytest.mark.parametrize("algebra", ["real", "quaternion"])
def test_one_component_stands_for_all_of_an_isotropic_unit(algebra):
    """Fixed points are found from 1×1 matrices: they say what 4×4 ones say."""
    k, q, x = 4, 0.6, 0.3
    layer = body(k, 2.0, 0.1, algebra)

    def after(size, components):
        covariance = jnp.array([[q, q - q * x], [q - q * x, q]])[..., None, None]
        moments = theory.given_moments(covariance * jnp.eye(size)[None, None])
        zero = jax.tree.map(jnp.zeros_like, moments)
        reading = MeanField(equal_lengths=True, components=components)
        return interpret(layer, reading, PreActivation(moments, zero))[0]

    whole, one = after(k, None), after(1, k)
    for name in ("covariance", "separation", "tangent"):
        expected = np.asarray(getattr(one.value, name)) * np.eye(k)
        np.testing.assert_allclose(getattr(whole.value, name), expected, rtol=LAYERS, atol=ROUNDING)
        assert np.all(getattr(one.error, name)[..., 0, 0] <= getattr(whole.error, name)[..., 0, 0])


@pytest.mark.slow
def test_64_components_are_as_accurate_as_one():
    layer = body(64, 2.25, 0.0, "complex")
    assert theory.symmetry(layer).group == "U(32)"
    point = theory.predict(layer)
    for name in ("length", "slope", "correlation", "correlation_slope", "depth_scale_correlation"):
        assert getattr(point, name).status == Status.OK, name
    found = theory.sectors(layer, point.length)
    # large k: φ is g(√(k q)) z/√(k q), up to 1/k
    assert abs(found.goldstone.value - 1) <= found.goldstone.error < 1e-12
    assert point.slope.value == pytest.approx(float(found.trace.value), rel=LAYERS)
    square = by_mpmath(lambda x: mp.tanh(mp.sqrt(point.length.value.item()) * x) ** 2, 64)
    assert abs(point.length.value - 2.25 * float(square) / 64) <= 3 * point.length.error


def test_the_chaos_line_of_an_equivariant_network():
    """σ_b²/q* = σ_w² E(a − b)²/k on χ = 1."""
    line = theory.critical_line(TANH, [0.1, 1.0], components=3)
    for i, q in enumerate((0.1, 1.0)):
        m, _ = radial_moments(TANH, q, 3)
        excess = line.weight_variance.value[i] * (m.trace - m.antisymmetric)
        np.testing.assert_allclose(line.bias_variance.value[i] / q, excess, rtol=FOLD)


def test_a_diagram_by_sector_holds_what_single_points_say():
    build = lambda weight_variance, bias_variance: body(3, weight_variance, bias_variance)
    axes = {"weight_variance": [0.81, 2.25, -1.0], "bias_variance": [0.0, 0.045]}
    found = theory.sector_diagram(build, axes)
    np.testing.assert_array_equal(found["symmetry_phase"][:2], [[0, 2], [1, 2]])
    assert np.all(found["symmetry_phase"][2] == theory.phases.SymmetryPhase.UNKNOWN)
    assert np.all(found["length_status"][2] == Status.INVALID)
    length, point = at_the_fixed_point(body(3, 2.25, 0.045))
    at = found.isel(weight_variance=1, bias_variance=1)
    np.testing.assert_allclose(at["length"], length.value, rtol=FOLD)
    for name in ("goldstone", "trace", "symmetric_traceless", "order_parameter"):
        np.testing.assert_allclose(at[name], getattr(point, name).value, rtol=FOLD)
        assert at[f"{name}_status"] == Status.OK
    assert found["depth_scale_goldstone_status"][1, 0] == Status.INFINITE
    assert found["phase"][1, 0] == theory.Phase.CHAOTIC


@pytest.mark.slow
def test_gradients_of_the_multipliers():
    def goldstone(b):
        layer = body(2, 2.25, b)
        return theory.sectors(layer, attractor(layer).point.length).goldstone.value

    slope = hastily(jax.grad(goldstone))(0.05)
    value = hastily(goldstone)
    h = 1e-5
    np.testing.assert_allclose(slope, (value(0.05 + h) - value(0.05 - h)) / (2 * h), rtol=SINGLE)


@pytest.mark.parametrize(
    ("build", "kind", "field"),
    [
        (lambda: theory.affine(1.0, components=0), ValueError, "components"),
        (lambda: theory.affine(1.0, components=3, algebra="complex"), ValueError, "components"),
        (lambda: theory.affine(1.0, components=6, algebra="quaternion"), ValueError, "components"),
        (
            lambda: theory.affine(1.0, components=2, algebra="dense", weights="orthogonal"),
            ValueError,
            "weights",
        ),
        (lambda: theory.layer(theory.activation("tanh"), 1.0, components=2), TypeError, "radial"),
        (lambda: theory.radial("sigmoid"), ValueError, "profile"),
        (lambda: theory.radial("threshold", threshold=-1), ValueError, "threshold"),
        (lambda: theory.radial(lambda r: r + 1), ValueError, "profile"),
        (lambda: theory.symmetry(body(2, 1.0)).goldstone_modes(0), ValueError, "rank"),
        (lambda: theory.symmetry(body(2, 1.0)).goldstone_modes(3), ValueError, "rank"),
        (
            lambda: theory.sectors(
                theory.layer(theory.activation("tanh"), 1.0), theory.predict(body(1, 1.5)).length
            ),
            TypeError,
            "radial",
        ),
    ],
)
def test_bad_descriptions_name_the_field(build, kind, field):
    with pytest.raises(kind, match=field):
        build()


@pytest.mark.parametrize(
    ("axis", "k"),
    [
        (-1, 1),
        (-2, 3),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((-1, 3), (-2, 1))),
    ],
)
def test_derivatives_by_hand(k, axis):
    """Of φ in z, twice along a line, and in a parameter of g(r) = tanh(a r); at z = 0 too."""
    rng = np.random.default_rng(k)
    z, t = rng.standard_normal((2, 5, k))
    z[0] = 0
    laid = lambda x: jnp.asarray(x if axis == -1 else x.T)

    def phi(z, a):
        profile = eqx.Partial(lambda r, a: jnp.tanh(a * r), a=a)
        return theory.radial(profile, name="g")(z, axis)

    def whole(z, a):
        r = np.linalg.norm(z, axis=-1, keepdims=True)
        return np.where(r > 0, np.tanh(a * r) / np.where(r > 0, r, 1), a) * z

    a, h = 0.7, 1e-4
    line = lambda s: phi(laid(z) + s * laid(t), a)

    @jax.jit
    def derivatives(a):
        first = jax.jvp(line, (0.0,), (1.0,))[1]
        second = jax.jvp(lambda s: jax.jvp(line, (s,), (1.0,))[1], (0.0,), (1.0,))[1]
        rate = jax.jvp(lambda a: phi(laid(z), a), (a,), (1.0,))[1]
        pull = jax.grad(lambda z: jnp.sum(phi(z, a) * laid(t)))(laid(z))
        return line(0.0), first, second, rate, pull

    value, first, second, rate, pull = (np.asarray(part) for part in derivatives(a))
    before, here, after = (whole(z + s * t, a) for s in (-h, 0, h))
    np.testing.assert_allclose(value, laid(here), rtol=LAYER)
    np.testing.assert_allclose(first, laid((after - before) / (2 * h)), atol=1e-7)
    np.testing.assert_allclose(second, laid((after - 2 * here + before) / h**2), atol=SINGLE)
    np.testing.assert_allclose(rate, laid((whole(z, a + h) - whole(z, a - h)) / (2 * h)), atol=1e-7)
    across = np.asarray(laid(t))
    np.testing.assert_allclose(np.sum(pull * across), np.sum(first * across), rtol=FOLD)


def test_the_threshold_is_a_parameter():
    """It is swept and differentiated as any other, with the kink where it is."""

    def moments(threshold, q=1.3, k=2):
        return radial_moments(theory.radial("threshold", threshold=threshold), q, k)

    at, h = jnp.asarray([0.4, 0.7, 2.5]), 1e-5
    values, errors = hastily(jax.vmap(moments))(at)
    jumps = hastily(jax.vmap(jax.jacfwd(lambda t: moments(t)[0])))(at)
    above, below = (hastily(jax.vmap(moments))(at + d)[0] for d in (h, -h))
    for i, t in enumerate(map(float, at)):
        survives = np.exp(-(t**2) / 2.6)  # P(r > t) for k = 2
        square = 1.3 * survives - t * np.sqrt(0.65 * np.pi) * math.erfc(t / np.sqrt(2.6))
        assert abs(values.square[i] - square) <= errors.square[i] + 1e-15
        assert errors.square[i] < 1e-11
    for name in ("mean", "square", "trace", "symmetric_traceless"):
        change = (getattr(above, name) - getattr(below, name)) / (2 * h)
        np.testing.assert_allclose(getattr(jumps, name), change, rtol=SLOPE)


@pytest.mark.slow
def test_predictions_are_differentiated_by_the_threshold():
    def length(threshold):
        phi = theory.radial("threshold", threshold=threshold)
        return theory.predict(body(2, 0.9, 0.5, phi=phi)).length.value

    value = hastily(jax.jacfwd(lambda t: (length(t),) * 2, has_aux=True))
    h = 1e-4
    rate, here = value(0.5)
    assert np.isfinite(here)
    np.testing.assert_allclose(rate, (value(0.5 + h)[1] - value(0.5 - h)[1]) / (2 * h), rtol=SINGLE)


def test_the_gain_of_a_rotation_does_not_cancel():
    """Truth by mpmath; terms of E b² + 2 E b(a − b)/k cancel to five digits here."""
    phi = theory.radial(lambda r: r / (1 + r * r), scale=0.7)
    found, error = hastily(radial_moments)(phi, 484994.2071567352, 2)
    truth = 3.1794647801083559231e-10 / 24.504613492335032
    assert abs(found.antisymmetric - truth) <= error.antisymmetric < 3e-13 * truth


def test_what_is_beyond_all_nodes_is_in_the_error():
    phi = theory.radial("threshold", threshold=0.7)  # 12.6 standard deviations
    found, error = hastily(radial_moments)(phi, 0.0030654005509415786, 2)
    # over σ_w²
    assert abs(found.trace - 1.5393100566378051e-38 / 0.0015813435462012193) <= error.trace < 1e-30
