"""Phases, critical lines and diagrams: published points, honest statuses, no lost points."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import theory
from tests.compiling import hastily
from tests.tolerances import FOLD, LAYER, LAYERS, SLOPE
from theory import Phase, Stability, Status
from theory.numerics import _compiled
from theory.numerics._compiled import hasty_options

TANH, ERF, RELU = (theory.activation(name) for name in ("tanh", "erf", "relu"))

# bias_variance -> q*, weight_variance on χ = 1: two independent high-precision computations.
CRITICAL = [
    ("tanh", 0.001, 0.107292356147532, 1.18918958523468),
    ("tanh", 0.01, 0.273300913458231, 1.42420529048860),
    ("tanh", 0.05, 0.570047881640764, 1.76095463960674),
    ("tanh", 0.2, 1.16449628745798, 2.28515247372019),
    ("erf", 0.05, 0.517176837980564, 1.37583900734668),
    ("hard_tanh", 0.05, 0.463863969432006, 1.16554468963588),
]


@pytest.mark.parametrize(("name", "bias_variance", "q", "w"), CRITICAL)
def test_published_critical_points(name, bias_variance, q, w):
    found = theory.critical_points(theory.activation(name), bias_variance)
    assert abs(found.length.value[0] - q) <= 2e-14 + found.length.error[0] < 1e-10 * q
    assert abs(found.weight_variance.value[0] - w) <= 2e-14 + found.weight_variance.error[0]
    assert found.weight_variance.error[0] < 1e-10 * w
    assert list(found.length.status) == [Status.OK, Status.ABSENT, Status.ABSENT]


@pytest.mark.parametrize(
    ("name", "q", "w", "b"),
    [
        ("gelu", 3.56155281281, 1.98305825744, 0.172922390756),
        ("silu", 14.320173618, 1.98800467827, 0.555143170722),
    ],
)
def test_published_half_stable_points(name, q, w, b):
    found = theory.phases.half_stable_points(theory.activation(name))
    np.testing.assert_allclose(found.length.value[0], q, rtol=2e-11)
    np.testing.assert_allclose(found.weight_variance.value[0], w, rtol=2e-11)
    np.testing.assert_allclose(found.bias_variance.value[0], b, rtol=2e-11)


def test_relu_and_tanh_have_no_half_stable_point():
    for phi in (RELU, TANH):
        assert np.all(np.isnan(theory.phases.half_stable_points(phi).length.value))


def test_the_critical_line_of_erf_in_closed_form():
    q = np.geomspace(1e-6, 1e4, 41)
    line = theory.critical_line(ERF, q)
    w = np.pi / 4 * np.sqrt(1 + 4 * q)
    b = q - w * 2 / np.pi * np.arcsin(2 * q / (1 + 2 * q))
    np.testing.assert_allclose(line.weight_variance.value, w, rtol=LAYERS)
    assert np.all(np.abs(line.bias_variance.value - b) <= line.bias_variance.error + 4e-16 * q)


def test_critical_points_of_erf_move_as_its_line_in_closed_form_does():
    """dq*/dσ_b² and dσ_w²/dσ_b² along χ = 1."""
    point = lambda b: theory.critical_points(ERF, b)
    both = lambda b: jnp.stack([point(b).length.value[0], point(b).weight_variance.value[0]])
    b = np.array([0.01, 0.05, 0.2])
    found = hastily(jax.vmap(jax.jacrev(both)))(b)
    q = np.array([float(point(v).length.value[0]) for v in b])
    w, dw = np.pi / 4 * np.sqrt(1 + 4 * q), np.pi / 2 / np.sqrt(1 + 4 * q)
    r, dr = 2 * q / (1 + 2 * q), 2 / (1 + 2 * q) ** 2
    db = 1 - 2 / np.pi * (dw * np.arcsin(r) + w * dr / np.sqrt(1 - r**2))
    np.testing.assert_allclose(found, np.stack([1 / db, dw / db], axis=1), rtol=1e-9)


def test_a_critical_point_at_a_node_of_the_search_is_found():
    """Every power of ten is a node, and next to it rounding hides the sign."""
    lengths = np.array([0.1, 1.0, np.nextafter(1.0, 2.0), 10.0, 10 * (1 + 1e-13)])
    for q, b in zip(lengths, theory.critical_line(TANH, lengths).bias_variance.value, strict=True):
        found = theory.critical_points(TANH, b).length
        assert abs(found.value[0] - q) <= found.error[0] < 1e-10 * q
        assert list(found.status) == [Status.OK, Status.ABSENT, Status.ABSENT]


@pytest.mark.parametrize(
    ("name", "w", "multiplier", "stability"),
    [
        ("silu", 2.72861153, 1.0998723, Stability.UNSTABLE),
        ("tanh", 1.76095464, 0.51818648, Stability.STABLE),
    ],
)
def test_a_critical_point_says_whether_it_attracts(name, w, multiplier, stability):
    phi = theory.activation(name)
    found = theory.critical_points(phi, 0.05)
    np.testing.assert_allclose(found.weight_variance.value[0], w, rtol=SLOPE)
    np.testing.assert_allclose(found.multiplier.value[0], multiplier, rtol=SLOPE)
    assert list(found.stability) == [stability, Stability.ABSENT, Stability.ABSENT]
    line = theory.critical_line(phi, found.length.value[:1])
    assert line.stability[0] == stability


@pytest.mark.parametrize(
    ("name", "w", "stability"),
    [
        ("tanh", 1.0, Stability.STABLE),
        ("erf", math.pi / 4, Stability.STABLE),
        ("gelu", 4.0, Stability.UNSTABLE),
        ("relu", 2.0, Stability.NEUTRAL),
    ],
)
def test_without_bias_the_first_critical_point_is_at_length_zero(name, w, stability):
    """σ_w² = 1/φ'(0)², and lengths just above 0 shrink, grow or stay by the next order of φ."""
    phi = theory.activation(name)
    found = theory.critical_points(phi, 0.0)
    assert found.length.value[0] == found.bias_variance.value[0] == 0
    assert abs(found.weight_variance.value[0] - w) <= found.weight_variance.error[0] < 1e-13
    assert (found.length.status[0], found.stability[0]) == (Status.OK, stability)
    line = theory.critical_line(phi, 0.0)
    assert (line.bias_variance.status[0], line.stability[0]) == (Status.OK, stability)


def test_a_function_that_is_not_zero_at_zero_has_no_point_there():
    found = theory.critical_points(theory.activation("sigmoid"), 0.0)
    assert found.length.value[0] > 1


@pytest.mark.slow
def test_points_with_and_without_bias_in_one_program():
    found = jax.vmap(lambda b: theory.critical_points(TANH, b))(jnp.array([0.0, 0.05]))
    np.testing.assert_allclose(
        found.weight_variance.value[:, 0], [1.0, 1.76095463960674], rtol=FOLD
    )


def test_stability_where_lengths_neither_grow_nor_shrink():
    assert np.all(theory.critical_line(RELU, [1e-6, 1.0, 1e6]).stability == Stability.NEUTRAL)
    half = theory.phases.half_stable_points(theory.activation("silu"))
    assert list(half.stability) == [Stability.HALF_STABLE, Stability.ABSENT, Stability.ABSENT]


def test_what_the_search_for_critical_points_does_not_see_is_not_called_absent():
    """σ_b² of erf on the line goes on with q, so 1e13 is reached beyond all lengths looked at;
    and in rounding, where it is 4q³/3, the error is as large as what it hides."""
    first = {-1.0: Status.INVALID, 0.05: Status.OK, 1e13: Status.NOT_CONVERGED}
    for target, status in first.items():
        found = theory.critical_points(ERF, target)
        assert found.length.status[0] == status
    assert theory.critical_points(ERF, 1e13).stability[0] == Stability.UNKNOWN
    small = theory.critical_points(ERF, 1e-24).length
    assert small.status[0] == Status.INACCURATE
    assert abs(small.value[0] - 0.75 ** (1 / 3) * 1e-8) <= small.error[0]
    assert theory.critical_points(ERF, 1e-31).length.status[1] == Status.NOT_CONVERGED


def test_the_rate_at_criticality_from_two_expectations():
    """κ = 2 E φ'² / (q E φ''²) = 6.17112614217 for tanh at σ_b² = .05."""
    q = theory.critical_points(TANH, 0.05).length.value[0]
    second = jax.vmap(jax.grad(jax.grad(jnp.tanh)))
    first = jax.vmap(jax.grad(jnp.tanh))
    top = theory.gaussian.gaussian_expectation(lambda z: first(z) ** 2, q).value
    bottom = theory.gaussian.gaussian_expectation(lambda z: second(z) ** 2, q).value
    np.testing.assert_allclose(2 * top / (q * bottom), 6.17112614217, rtol=1e-11)


@pytest.mark.parametrize(
    ("phi", "w", "b", "phase"),
    [
        (TANH, 1.5, 0.05, Phase.ORDERED),
        (TANH, 1.76095463960674, 0.05, Phase.CRITICAL),
        (TANH, 2.5, 0.05, Phase.CHAOTIC),
        (TANH, 1.0, 0.0, Phase.CRITICAL),
        (RELU, 1.2, 0.3, Phase.ORDERED),
        (RELU, 2.0, 0.0, Phase.CRITICAL),
        (RELU, 2.5, 0.1, Phase.DIVERGENT),
    ],
)
def test_phases(phi, w, b, phase):
    p = theory.predict(theory.layer(phi, w, b))
    assert p.phase == phase
    if phase == Phase.CRITICAL:
        assert p.depth_scale_correlation.status in (Status.INFINITE, Status.ABSENT)
    if phase == Phase.DIVERGENT:
        assert p.length.status == Status.INFINITE
        assert p.depth_scale_length.status == Status.ABSENT
        np.testing.assert_allclose(p.slope.value, w / 2, rtol=FOLD)


def test_depth_scales_are_those_of_the_maps():
    p = theory.predict(theory.layer(TANH, 1.5, 0.05))
    chi = 0.938636268198851155
    np.testing.assert_allclose(p.depth_scale_correlation.value, -1 / np.log(chi), rtol=FOLD)
    assert p.correlation.value == 1


def build(weight_variance, bias_variance):
    return theory.layer(ERF, weight_variance, bias_variance)


def test_a_diagram_holds_what_single_points_say_and_no_bad_point_costs_it():
    weights = np.array([0.5, 1.2, np.nan, 2.0, 3.0])
    biases = np.array([-0.1, 0.0, 0.1])
    diagram = theory.phase_diagram(build, {"weight_variance": weights, "bias_variance": biases})
    assert dict(diagram.sizes) == {"weight_variance": 5, "bias_variance": 3}
    bad = ~(weights >= 0)[:, None] | (biases < 0)[None]
    np.testing.assert_array_equal(diagram["length_status"] == Status.INVALID, bad)
    np.testing.assert_array_equal(diagram["phase"] == Phase.UNKNOWN, bad)
    assert np.all(np.isnan(diagram["length"].values[bad]))
    assert np.all(np.isfinite(diagram["slope"].values[~bad]))
    for i, j in [(0, 1), (1, 2), (3, 2), (4, 1)]:
        point = theory.predict(build(weights[i], biases[j]))
        for name in ("length", "slope", "correlation"):
            estimate = getattr(point, name)
            assert diagram[f"{name}_status"].values[i, j] == estimate.status
            if estimate.status == Status.ABSENT:  # the correlation at q* = 0
                continue
            gap = abs(diagram[name].values[i, j] - estimate.value)
            assert gap <= estimate.error + diagram[f"{name}_error"].values[i, j]
        assert diagram["phase"].values[i, j] == point.phase
    assert diagram["phase"].attrs["flag_meanings"].split()[Phase.CHAOTIC] == "chaotic"
    assert_short_diagram_is_part_of(diagram)


def assert_short_diagram_is_part_of(diagram):
    """Without correlations there is less in a diagram, and nothing else."""
    axes = {name: diagram[name].values for name in diagram.dims}
    short = theory.phase_diagram(build, axes, correlations=False)
    assert len(short) == 3 * 4 + 1
    for name in set(short) - {"length_error", "slope_error", "multiplier_error"}:
        np.testing.assert_allclose(short[name], diagram[name], rtol=FOLD, atol=LAYER)


def test_options_that_the_compiler_does_not_have_are_left_out(monkeypatch):
    monkeypatch.setattr(_compiled, "_HASTY", {**_compiled._HASTY, "xla_no_such_option": True})
    assert "xla_no_such_option" not in hasty_options()
    assert "xla_backend_optimization_level" in hasty_options()
    assert jax.jit(lambda x: x + 1, compiler_options=hasty_options())(1) == 2


def leaky(negative_slope, weight_variance):
    phi = theory.activation("leaky_relu", negative_slope=negative_slope)
    return theory.layer(phi, weight_variance, 0.0)


def test_a_parameter_of_the_activation_can_be_an_axis():
    """leaky relu: q'/q = χ = σ_w² (1 + a²)/2 at every length."""
    axes = {"negative_slope": [0.0, 0.3], "weight_variance": [1.0, 2.0, 2.2]}
    diagram = theory.phase_diagram(leaky, axes)
    a, w = np.meshgrid(*axes.values(), indexing="ij")
    np.testing.assert_allclose(diagram["slope"], w * (1 + a**2) / 2, rtol=FOLD)
    expected = np.where(w * (1 + a**2) / 2 > 1 + 1e-9, Phase.DIVERGENT, Phase.ORDERED)
    expected[0, 1] = Phase.CRITICAL
    np.testing.assert_array_equal(diagram["phase"], expected)


@pytest.mark.parametrize("axes", [{}, {"weight_variance": []}, {"weight_variance": [[1.0]]}])
def test_bad_axes_are_refused(axes):
    with pytest.raises(ValueError, match=r"axes|weight_variance"):
        theory.phase_diagram(build, axes)


def test_an_undeclared_kink_is_not_passed_off_as_a_fixed_point():
    """A quadrature that fails must say so, not give the start length back with error 0."""

    def bent(z):
        return jnp.where(z > 0.7, 2 * z - 0.7, z)

    def length(phi):
        return theory.predict(theory.layer(phi, 0.5, 0.1)).length

    truth = length(theory.componentwise(bent, kinks=(0.7,)))
    blind = length(theory.componentwise(bent, scale=1e9))
    assert truth.status == Status.OK
    assert abs(blind.value - truth.value) <= blind.error
    assert blind.status != Status.OK


@pytest.mark.parametrize(
    ("phi", "k", "w"),
    [
        (theory.activation("tanh"), 1, 0.023064580561538768),
        (theory.radial("tanh"), 5, 0.014813046656831662),
    ],
)
def test_small_weights_without_a_bias_leave_every_correlation_alone(phi, k, w):
    """The slope over the multiplier is 1 to rounding of that ratio, not of the slope."""
    found = theory.predict(theory.layer(phi, w, 0.0, components=k))
    assert found.correlation.status == Status.ABSENT
    assert found.correlation_slope.status == Status.ABSENT
