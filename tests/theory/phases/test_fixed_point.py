"""Fixed points: the published numbers, all branches, and their derivatives."""

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

import theory
from tests.compiling import hastily
from tests.tolerances import FOLD, SLOPE, SOLUTION
from theory import Stability, Status

# weight_variance, bias_variance, q*, χ: two independent arbitrary-precision computations.
FIXED_POINTS = [
    ("tanh", 1.5, 0.05, 0.418037200533477854, 0.938636268198851155),
    ("tanh", 3.0, 0.1, 1.50763177020827506, 1.18211563358655073),
    ("tanh", 10.0, 0.5, 7.77544581393845935, 1.86944343073592645),
    ("tanh", 1.05, 2e-5, 0.025918765115353514, 1.000003875137032),
    ("erf", 2.0, 0.1, 1.04625536012143254, 1.1183167661184481),
    ("silu", 2.0, 0.2, 0.566209062260015065, 0.684245005383839031),
    # σ_w² erf(1/√(2 q*)), by mpmath
    ("hard_tanh", 2.5, 0.1, 1.61406563815647727, 1.42196684983064843),
    ("sin", 2.2, 0.1, 1.07078190272340183, 1.22921809727659817),
    ("relu", 1.2, 0.3, 0.75, 0.6),
]


# What runs once or twice costs more to compile than to run.


def body(name, weight_variance, bias_variance):
    return theory.layer(theory.activation(name), weight_variance, bias_variance)


@pytest.mark.parametrize(("name", "w", "b", "q", "chi"), FIXED_POINTS)
def test_published_fixed_points(name, w, b, q, chi):
    found = theory.fixed_points(body(name, w, b))
    assert found.stability[0] == Stability.STABLE
    assert found.length.status[0] == Status.OK
    assert abs(found.length.value[0] - q) <= found.length.error[0] < 1e-10 * q
    assert abs(found.slope.value[0] - chi) <= found.slope.error[0] < 1e-10 * chi
    # silu has an unstable point above, beyond which lengths diverge; the others have none.
    others = [Stability.UNSTABLE] if name == "silu" else []
    assert [s for s in found.stability[1:] if s != Stability.ABSENT] == others
    assert found.divergent == (name == "silu")


@pytest.mark.parametrize(
    ("name", "w", "b", "lengths", "stability", "divergent"),
    [
        ("tanh", 0.5, 0.0, [0.0], [Stability.STABLE], False),
        ("tanh", 1.0, 0.0, [0.0], [Stability.STABLE], False),
        ("tanh", 2.0, 0.0, [0.0, 0.617964772], [Stability.UNSTABLE, Stability.STABLE], False),
        ("relu", 1.0, 0.0, [0.0], [Stability.STABLE], False),
        ("relu", 2.0, 0.0, [0.0], [Stability.NEUTRAL], False),
        ("relu", 2.5, 0.0, [0.0], [Stability.UNSTABLE], True),
        ("relu", 2.0, 0.1, [], [], True),
    ],
)
def test_every_branch_of_the_length_map(name, w, b, lengths, stability, divergent):
    found = theory.fixed_points(body(name, w, b))
    present = np.asarray(found.stability) != Stability.ABSENT
    np.testing.assert_allclose(found.length.value[present], lengths, rtol=SLOPE)
    assert list(found.stability[present]) == stability
    assert found.divergent == divergent
    assert np.all(found.length.status[~present] == Status.ABSENT)


@pytest.mark.slow
def test_two_close_fixed_points_are_told_apart():
    """A bistable map: an activation whose square has a plateau gives three finite points."""
    step = theory.componentwise(
        lambda z: 0.3 * jnp.tanh(z) + jnp.tanh((z / 3) ** 5), parity="odd", scale=0.5
    )
    found = theory.fixed_points(theory.layer(step, 9.0, 0.0))
    present = np.asarray(found.stability) != Stability.ABSENT
    q = np.asarray(found.length.value)[present]
    assert np.all(np.diff(q) > 0)
    kinds = np.asarray(found.stability)[present]
    # Stable and unstable points alternate on a line.
    assert np.all(kinds[1:] != kinds[:-1])
    after = np.array([_second_moment(step, v) * 9.0 for v in q])
    np.testing.assert_allclose(after, q, rtol=SOLUTION)


def _second_moment(phi, q):
    z, w = np.polynomial.legendre.leggauss(4000)
    z = 12 * z
    density = 12 * w * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return float(np.sum(density * np.asarray(phi(jnp.asarray(np.sqrt(q) * z))) ** 2))


@pytest.mark.slow
def test_a_half_stable_point_is_one_point_or_two_or_none():
    """Around GELU's half-stable parameters the double root splits or vanishes."""
    point = theory.phases.half_stable_points(theory.activation("gelu"))
    q, w, b = (
        float(v.value[0]) for v in (point.length, point.weight_variance, point.bias_variance)
    )
    assert abs(q - 3.56155281281) < 1e-11 * 5
    assert abs(w - 1.98305825744) < 1e-11
    assert abs(b - 0.172922390756) < 1e-12
    # λ = 1 and χ = 1 there, so a smaller bias lets the length through only one way.
    kinds = {}
    for shift in (-1e-3, 1e-3):
        found = theory.fixed_points(body("gelu", w, b + shift))
        kinds[shift] = int(np.sum(np.asarray(found.stability) != Stability.ABSENT))
        assert found.length.status[0] in (Status.OK, Status.INACCURATE)
    assert kinds[-1e-3] >= 1
    assert kinds[1e-3] >= 1


def test_correlation_fixed_point_of_erf_against_high_precision():
    """c* and its slope from the closed form (Williams 1997), solved in 40 digits."""
    mp.mp.dps = 40
    q, c, xi = erf_in_high_precision(mp.mpf(2), mp.mpf(0.1))
    slope = mp.exp(-1 / xi)
    for phi in (theory.activation("erf"), _without_closed_form("erf")):
        p = theory.predict(theory.layer(phi, 2.0, 0.1))
        assert abs(p.length.value - float(q)) <= p.length.error < 1e-10
        assert abs(p.correlation.value - float(c)) <= p.correlation.error < 1e-10
        assert abs(p.correlation_slope.value - float(slope)) <= p.correlation_slope.error < 1e-10
        assert abs(p.depth_scale_correlation.value - float(xi)) <= p.depth_scale_correlation.error


def _without_closed_form(name):
    phi = theory.activation(name)
    return theory.componentwise(phi.fn, kinks=phi.kinks, scale=phi.scale, parity=phi.parity)


def test_the_depth_scale_of_a_slope_that_underflows():
    """sin at σ_w² = 1800: c* = 0, where the slope is 1800 e^−900."""
    found = theory.predict(body("sin", 1800.0, 0.0))
    depth = found.depth_scale_correlation
    assert abs(depth.value - -1 / (np.log(1800) - 900)) <= depth.error < 1e-10 * depth.value


@pytest.mark.slow
def test_just_above_the_edge_of_chaos_one_minus_c_is_resolved():
    """1 − c* ~ κ(χ − 1) at (1.05, 2e-5), 3e-3 here, and an error that says what is lost."""
    p = theory.predict(body("tanh", 1.05, 2e-5))
    assert 0 < p.separation.error < 1e-7 * p.separation.value
    # the secant slope of the correlation map at c* is 1: checked by one more layer
    start = theory.given_moments(
        _pairs(p.length.value, p.length.value * (1 - p.separation.value)),
        _pairs(0.0, p.length.value * p.separation.value),
    )
    network = theory.Chain((theory.affine(1.0), theory.repeat(body("tanh", 1.05, 2e-5), 1)))
    after = theory.propagate(network, start).value
    assert abs(theory.distance(after)[1, 0, 1] / theory.distance(after)[0, 0, 1] - 1) < 1e-11


def _pairs(diagonal, other):
    m = jnp.array([[diagonal, other], [other, diagonal]])
    return m[..., None, None]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "w", "b"),
    [("tanh", 3.0, 0.1), ("relu", 1.2, 0.3)],
)
def test_fixed_points_differentiate_implicitly(name, w, b):
    def numbers(w, b):
        p = theory.predict(theory.layer(theory.activation(name), w, b))
        return jnp.stack(
            [p.length.value, p.slope.value, p.separation.value, p.correlation_slope.value]
        )

    jacobian = hastily(jax.jacfwd(numbers, argnums=(0, 1)))(w, b)
    h = 1e-5
    for i, (dw, db) in enumerate([(h, 0.0), (0.0, h)]):
        by_difference = (numbers(w + dw, b + db) - numbers(w - dw, b - db)) / (2 * h)
        np.testing.assert_allclose(jacobian[i], by_difference, rtol=2e-8, atol=1e-9)


def erf_in_high_precision(w, b):
    """q*, c* and ξ_c from the closed form (Williams 1997)."""
    dual = lambda q, c: w * 2 / mp.pi * mp.asin(2 * q * c / (1 + 2 * q)) + b
    q = mp.findroot(lambda q: dual(q, 1) - q, 1.0)
    slope = lambda c: w * 4 / mp.pi / (1 + 2 * q) / mp.sqrt(1 - (2 * q * c / (1 + 2 * q)) ** 2)
    # Deflated by the root at c = 1.
    chaotic = slope(1) > 1
    c = mp.findroot(lambda c: (dual(q, c) - q * c) / (1 - c), 0.5) if chaotic else mp.mpf(1)
    return q, c, -1 / mp.log(slope(c))


@pytest.mark.slow
def test_derivatives_in_both_variances_agree_with_high_precision():
    """Forward and reverse mode, mapped over ordered and chaotic points."""
    phi = theory.activation("erf")

    def numbers(w, b):
        p = theory.predict(theory.layer(phi, w, b))
        return jnp.stack([p.length.value, p.correlation.value, p.depth_scale_correlation.value])

    w = [1.2, 1.8, 2.5]
    both = (jnp.array(w), jnp.full(3, 0.1))
    modes = jax.jacfwd(numbers, (0, 1)), jax.jacrev(numbers, (0, 1))
    forward, reverse = hastily(jax.vmap(lambda w, b: [mode(w, b) for mode in modes]))(*both)
    mp.mp.dps = 40
    for place in (0, 1):
        order = (1, 0) if place == 0 else (0, 1)
        truth = [
            [
                float(mp.diff(lambda w, b, i=i: erf_in_high_precision(w, b)[i], (v, 0.1), order))
                for i in range(3)
            ]
            for v in w
        ]
        np.testing.assert_allclose(forward[place], truth, rtol=1e-9, atol=FOLD)
        np.testing.assert_allclose(reverse[place], truth, rtol=1e-9, atol=FOLD)


def test_the_identity_of_stein_holds_at_every_fixed_point():
    """χ = 1 − σ_b²/q* + σ_w² E[(φ' − φ/z)²] for φ(0) = 0: a check without any table."""
    for name, w, b in [("tanh", 3.0, 0.1), ("silu", 1.9, 0.15)]:
        phi = theory.activation(name)
        found = theory.fixed_points(theory.layer(phi, w, b))
        q, chi = found.length.value[0], found.slope.value[0]

        def gap(z, phi=phi):
            value, slope = jax.jvp(phi, (z,), (jnp.ones_like(z),))
            return (slope - value / z) ** 2

        right = 1 - b / q + w * theory.gaussian.gaussian_expectation(gap, q).value
        np.testing.assert_allclose(chi, right, rtol=1e-11)


def test_a_map_that_does_not_return_to_preactivations_is_refused():
    with pytest.raises(TypeError, match="pre-activations"):
        theory.fixed_points(theory.Pointwise(theory.activation("tanh")))
    assert eqx.is_array(theory.fixed_points(body("relu", 1.2, 0.3)).divergent)


@pytest.mark.parametrize(
    ("w", "b", "start", "q"),
    [
        (7.055040129735886, 0.30025799387514, 1e-3, 0.4322476282732107),
        (3.870280383405878, 0.007963572982615179, 1e3, 3.793684790515591),
    ],
)
def test_the_nearer_of_two_roots_between_nodes_is_found(w, b, start, q):
    """Behind the root the growth turns back; truth by following the exact map."""
    phi = theory.componentwise(
        lambda z: jnp.clip(jnp.abs(z) - 1, 0, 2), kinks=[1.0, 3.0], scale=1e9, parity="even"
    )
    length = theory.predict(theory.layer(phi, w, b), start=start).length
    assert abs(length.value - q) <= length.error + 1e-14 * q
    assert length.error < 1e-11
