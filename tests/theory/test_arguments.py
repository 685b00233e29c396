"""A bad argument is answered in one line: its name, what it must be, what was given."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import theory
from tests.documented import documented
from tests.tolerances import FOLD
from theory import Chain, Pointwise, Residual

TANH = theory.activation("tanh")
LAYER = theory.layer(TANH, 1.5, 0.05)
ROTATING = theory.layer(theory.radial("tanh"), 2.25, 0.05, components=3)
NETWORK = theory.feedforward(TANH, 1.5, 0.05, depth=3)
FACTORS = theory.jacobian_factors(theory.affine(1.0), 1.0)
ONE = jnp.ones((1, 4, 1))
AT = theory.Estimate(jnp.asarray(0.5), jnp.asarray(1e-12), jnp.asarray(0, jnp.int8))


def build(weight_variance, bias_variance):
    return theory.layer(TANH, weight_variance, bias_variance)


def deep(depth):
    return theory.repeat(LAYER, depth)


# Every function with a quadrature, as a function of its order.
WITH_ORDER = {
    "predict": lambda order: theory.predict(LAYER, order=order),
    "fixed_points": lambda order: theory.fixed_points(LAYER, order=order),
    "length_cycle": lambda order: theory.phases.length_cycle(LAYER, order=order),
    "stationary_state": lambda order: theory.phases.stationary_state(LAYER, order=order),
    "critical_points": lambda order: theory.critical_points(TANH, 0.05, order=order),
    "critical_line": lambda order: theory.critical_line(TANH, 0.05, order=order),
    "half_stable_points": lambda order: theory.phases.half_stable_points(TANH, order=order),
    "propagate": lambda order: theory.propagate(NETWORK, ONE, order=order),
    "gaussian_expectation": lambda order: theory.gaussian.gaussian_expectation(
        jnp.sin, 1.0, order=order
    ),
    "gaussian_pair_expectation": lambda order: theory.gaussian.gaussian_pair_expectation(
        jnp.multiply, 1.0, 1.0, 0.5, order=order
    ),
    "gradient_coherence": lambda order: theory.gradients.gradient_coherence(
        NETWORK, ONE, order=order
    ),
    "generic_exponent": lambda order: theory.finite_width.generic_exponent(TANH, 1.5, order=order),
    "jacobian_factors": lambda order: theory.jacobian_factors(LAYER, 1.0, order=order),
    "jacobian_spectrum": lambda order: theory.spectrum.jacobian_spectrum(LAYER, 1.0, order=order),
    "length_correction": lambda order: theory.finite_width.length_correction(
        NETWORK, 1.0, order=order
    ),
    "sectors": lambda order: theory.sectors(ROTATING, AT, order=order),
}


def test_every_function_with_an_order_is_in_the_list():
    functions = {n: f for n, f in documented().items() if inspect.isfunction(f)}
    taken = {
        name.rpartition(".")[2]
        for name, function in functions.items()
        if name.startswith("theory.") and "order" in inspect.signature(function).parameters
    }
    # Its `order` is that of the moments.
    assert taken - {"jacobian_moments"} == set(WITH_ORDER)


@pytest.mark.parametrize("order", [0, 2, -1, 10**6, 64.0, True, None, "64"])
@pytest.mark.parametrize("name", WITH_ORDER)
def test_an_order_that_no_quadrature_can_have_is_refused(name, order):
    message = f"`order`: must be a whole number from 8 to 1024; got {order!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        WITH_ORDER[name](order)


# Functions of positive numbers, finite numbers, and counts.
POSITIVE = {
    "predict, start": ("start", lambda x: theory.predict(LAYER, start=x)),
    "predict": ("tolerance", lambda x: theory.predict(LAYER, tolerance=x)),
    "fixed_points": ("tolerance", lambda x: theory.fixed_points(LAYER, tolerance=x)),
    "length_cycle": ("start", lambda x: theory.phases.length_cycle(LAYER, start=x)),
    "critical_points": ("tolerance", lambda x: theory.critical_points(TANH, 0.1, tolerance=x)),
    "critical_line": ("tolerance", lambda x: theory.critical_line(TANH, 0.1, tolerance=x)),
    "half_stable_points": (
        "tolerance",
        lambda x: theory.phases.half_stable_points(TANH, tolerance=x),
    ),
    "length_correction": (
        "tolerance",
        lambda x: theory.finite_width.length_correction(NETWORK, 1.0, tolerance=x),
    ),
    "sectors": ("tolerance", lambda x: theory.sectors(ROTATING, AT, tolerance=x)),
    "jacobian_moments": (
        "tolerance",
        lambda x: theory.spectrum.jacobian_moments(FACTORS, tolerance=x),
    ),
    "spectrum_edges": ("tolerance", lambda x: theory.spectrum.spectrum_edges(FACTORS, tolerance=x)),
    "quantiles": (
        "tolerance",
        lambda x: theory.singular_value_quantiles(FACTORS, [0.5], tolerance=x),
    ),
    "gaussian_expectation": (
        "scale",
        lambda x: theory.gaussian.gaussian_expectation(jnp.sin, 1.0, scale=x),
    ),
    "phase_diagram": (
        "start",
        lambda x: theory.phase_diagram(
            build, {"weight_variance": [1.0], "bias_variance": [0.1]}, start=x
        ),
    ),
    "residual_moments": (
        "length",
        lambda x: theory.spectrum.residual_moments(theory.layer(TANH, 1.0, residual=True), x, 2),
    ),
    "linear_residual_gain": ("target", lambda x: theory.gradients.linear_residual_gain(x, 2, 1.0)),
    "spike_overlap": ("aspect", lambda x: theory.gradients.spike_overlap(1.0, x)),
}


@pytest.mark.parametrize("value", [0.0, -1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", POSITIVE)
def test_what_must_be_above_0_is(name, value):
    field, ask = POSITIVE[name]
    with pytest.raises(ValueError, match=f"^`{field}`: must be finite and above 0; got {value}$"):
        ask(value)


@pytest.mark.parametrize("value", [None, "a", 1j, True, [1.0, 2.0], [1.0, [2.0]], TANH])
@pytest.mark.parametrize("name", POSITIVE)
def test_what_must_be_one_number_is(name, value):
    field, ask = POSITIVE[name]
    with pytest.raises(ValueError, match=f"^`{field}`: must be one number, .*; got .*$") as caught:
        ask(value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [0, -1, 2.5, None, "a"])
@pytest.mark.parametrize(
    "ask",
    [
        lambda k: theory.critical_points(TANH, 0.05, components=k),
        lambda k: theory.critical_line(TANH, 0.05, components=k),
        lambda k: theory.phases.half_stable_points(TANH, components=k),
        lambda k: theory.affine(1.0, components=k),
        lambda k: theory.finite_width.onset_curvature(TANH, k),
    ],
)
def test_components_are_counted(ask, count):
    message = f"`components`: must be a whole number of at least 1; got {count!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ask(count)


BAD = [
    # counts
    (
        lambda: theory.spectrum.jacobian_spectrum(LAYER, 1.0, moments=0),
        "`moments`: must be a whole number",
    ),
    (
        lambda: theory.spectrum.spectrum_summary(FACTORS, moments=0),
        "`moments`: must be a whole number",
    ),
    (
        lambda: theory.mean_field.autocorrelation(None, 3),
        "`moments`: must be Moments, .*; got None",
    ),
    (lambda: theory.mean_field.step_growth(None, 3), "`moments`: must be Moments, .*; got None"),
    (lambda: FACTORS.repeated(2.5), "`depth`: must be .*, a whole number; got 2.5"),
    (lambda: FACTORS.repeated(None), "`depth`: must be one number, .*; got None"),
    (lambda: FACTORS.repeated("3"), "`depth`: must be one number, .*; got '3'"),
    # numbers
    (lambda: theory.critical_points(TANH, "0.05"), "`bias_variance`: must be one .*; got '0.05'"),
    (lambda: theory.critical_points(TANH, None), "`bias_variance`: must be one .*; got None"),
    (lambda: theory.critical_points(TANH, [0.0, 0.1]), "`bias_variance`: must be one number"),
    (lambda: theory.critical_line(TANH, None), "`lengths`: must contain real numbers; got None"),
    (lambda: theory.critical_line(TANH, "a"), "`lengths`: must contain real numbers; got 'a'"),
    (lambda: theory.jacobian_factors(LAYER, None), "`length`: must be one number, .*; got None"),
    (
        lambda: theory.jacobian_factors(LAYER, AT),
        r"`length`: must be .*; got an Estimate \(pass its",
    ),
    (lambda: theory.jacobian_factors(LAYER, -1.0), "`length`: must be finite and at least 0"),
    (lambda: theory.finite_width.length_correction(NETWORK, [1.0]), "`length`: must be one number"),
    (
        lambda: theory.phases.stationary_state(LAYER, "a"),
        "`noise_variance`: must be one .*; got 'a'",
    ),
    (lambda: theory.gradients.spike_overlap(-1.0, 1.0), "`strength`: must be at least 0; got -1.0"),
    (
        lambda: theory.gradients.linear_residual_gain(2.0, 3, -1.0),
        "`time`: must be .* at least 0; got -1",
    ),
    (
        lambda: theory.spectrum.lyapunov_quantiles(FACTORS, None),
        "`fractions`: must be a number or a row",
    ),
    (lambda: theory.singular_value_quantiles(FACTORS, [[0.5]]), "`fractions`: must be a number"),
    (lambda: theory.singular_value_distribution(FACTORS, "a"), "`log_singular_values`: must be a"),
    (lambda: theory.gaussian.gaussian_expectation(jnp.sin, None), "`variance`: must be one number"),
    (
        lambda: theory.gaussian.gaussian_expectation(jnp.sin, [1.0, 2.0]),
        "`variance`: must be one number",
    ),
    (
        lambda: theory.gaussian.gaussian_pair_expectation(jnp.add, 1, 1, "a"),
        "`correlation`: must be one",
    ),
    *(
        (
            lambda k=k: theory.gaussian.gaussian_expectation(jnp.sin, 1.0, kinks=k),
            "`kinks`: must be a seq",
        )
        for k in (0.7, None, ["a"], "a", [float("nan")])
    ),
    (
        lambda: theory.layer(TANH, 1.5 + 1j, 0.05),
        "`weight_variance`: must contain real numbers; got",
    ),
    (
        lambda: theory.layer(TANH, True, 0.05),
        "`weight_variance`: must contain real numbers; got True",
    ),
    (lambda: theory.affine(1.0, [1.0, [2.0]]), "`bias_variance`: must contain real numbers; got"),
    (lambda: theory.layer(TANH, 1.5, residual="no"), "`residual`: must be True or False; got 'no'"),
    # descriptions
    (lambda: theory.layer("tanh", 1.5), "`activation`: must be made by .*; got 'tanh'"),
    (lambda: theory.critical_points("tanh", 0.05), "`activation`: must be made by .*; got 'tanh'"),
    (lambda: theory.critical_points(jnp.tanh, 0.05), "`activation`: must be made by"),
    (lambda: theory.critical_points(LAYER, 0.05), "`activation`: must be made by .*; got Chain"),
    (
        lambda: theory.phases.half_stable_points("gelu"),
        "`activation`: must be made by .*; got 'gelu'",
    ),
    (lambda: theory.finite_width.onset_law("tanh", 1.1, width=8), "`activation`: must be made by"),
    (lambda: theory.finite_width.generic_exponent("tanh", 1.1), "`activation`: must be made by"),
    (lambda: theory.repeat(None, 3), "`body`: must be a part such as theory.layer; got None"),
    (
        lambda: theory.repeat(TANH, 3),
        r"`body`: must be a part .*; got Componentwise \(wrap it in theory.Poi",
    ),
    (lambda: Chain((TANH, theory.affine(1.0))), "`parts`: must be a part .*; got Componentwise"),
    (lambda: Chain(LAYER), "`parts`: must be a sequence of parts; got Chain"),
    (lambda: Residual(None), "`branch`: must be a part such as theory.layer; got None"),
    (lambda: theory.describe(None), "`network`: must be a part such as theory.layer; got None"),
    (lambda: theory.propagate(None, ONE), "`network`: must be a part .*; got None"),
    (lambda: theory.jacobian_factors(None, 1.0), "`network`: must be a part .*; got None"),
    (lambda: theory.jacobian_factors(TANH, 1.0), "`network`: must be a part .*; got Componentwise"),
    (lambda: theory.symmetry(None), "`network`: must be a part .*; got None"),
    (
        lambda: theory.finite_width.length_correction(None, 1.0),
        "`network`: must be a part .*; got None",
    ),
    (lambda: theory.fixed_points(None), "`layer`: must be a part .*; got None"),
    (lambda: theory.phases.length_cycle(NETWORK), "`layer`: must be one layer, .* whole network"),
    # what other functions return
    (lambda: theory.sectors(ROTATING, 0.5), "`length`: must be an Estimate, .*; got 0.5"),
    (lambda: theory.spectrum.spectrum_edges(LAYER), "`factors`: must be made by .*; got Chain"),
    (lambda: theory.spectrum.spectrum_summary(LAYER), "`factors`: must be made by .*; got Chain"),
    (lambda: theory.spectrum.jacobian_moments(None), "`factors`: must be made by .*; got None"),
    (lambda: theory.singular_value_quantiles(LAYER, [0.5]), "`factors`: must be made by"),
    (lambda: theory.spectrum.lyapunov_quantiles(LAYER, [0.5]), "`factors`: must be made by"),
    (lambda: theory.singular_value_distribution(LAYER, [0.5]), "`factors`: must be made by"),
    (lambda: theory.length([1, 2]), r"`moments`: must be Moments, .*; got \[1, 2\]"),
    (lambda: theory.correlation(None), "`moments`: must be Moments, .*; got None"),
    (lambda: theory.growth(ONE), "`moments`: must be Moments, .*; got an array"),
    # arrays
    (lambda: theory.given_moments(jnp.eye(2)), r"`covariance`: must have the shape .*; got \[2, 2"),
    (lambda: theory.given_moments(None), "`covariance`: must contain real numbers; got None"),
    (lambda: theory.given_moments([[1.0]]), r"`covariance`: must have the shape .*; got \[1, 1\]"),
    (
        lambda: theory.mean_field.signal_moments(None),
        "`signals`: must contain real numbers; got None",
    ),
    (lambda: theory.propagate(NETWORK, None), "`inputs`: must contain real numbers; got None"),
    (lambda: theory.propagate(NETWORK, "x"), "`inputs`: must contain real numbers; got 'x'"),
    (lambda: theory.propagate(NETWORK, ONE * jnp.nan), "`inputs`: must be finite; got an infinite"),
    (lambda: theory.propagate(NETWORK, ONE * jnp.inf), "`inputs`: must be finite; got an infinite"),
    (lambda: theory.propagate(LAYER, ONE), r"`network`: must begin with an Affine, .*affine\(1.0"),
    (
        lambda: theory.propagate(theory.repeat(LAYER, 3), theory.mean_field.signal_moments(ONE)),
        r"`network`: must begin with an Affine, .*theory.affine\(1.0\) before it",
    ),
    # functions
    (
        lambda: theory.gaussian.gaussian_expectation(None, 1.0),
        "`fn`: must be a function of an array; got N",
    ),
    (
        lambda: theory.gaussian.gaussian_expectation("tanh", 1.0),
        "`fn`: must be a function of an array; got",
    ),
    (
        lambda: theory.gaussian.gaussian_expectation(lambda u: 1.0, 1.0),
        "`fn`: must return an array of sha",
    ),
    (
        lambda: theory.gaussian.gaussian_expectation(jnp.sum, 1.0),
        "`fn`: must return an .*one of shape",
    ),
    (
        lambda: theory.gaussian.gaussian_pair_expectation(lambda u: u, 1.0, 1.0, 0.5),
        "`fn`: must be a function of 2 arrays; got one that takes u",
    ),
    (lambda: theory.radial(None), "`profile`: must be a name or a function; got None"),
    (lambda: theory.radial(jnp.sum), "`profile`: must keep the shape of its argument"),
    (lambda: theory.componentwise(None), "`fn`: must be callable on an array; got None"),
    # diagrams
    (lambda: theory.phase_diagram(lambda w: None, {"w": [1.0]}), "`build`: must be .*; got None"),
    (lambda: theory.phase_diagram(build, "ab"), "`axes`: must be a mapping .*; got 'ab'"),
    (lambda: theory.phase_diagram(build, [[1.0]]), r"`axes`: must be a mapping .*; got \[\[1.0\]"),
    (lambda: theory.phase_diagram(build, {"w": [1.0]}), "`axes`: must name .*; got w$"),
    (
        lambda: theory.phase_diagram(build, {"weight_variance": [1.0]}),
        "`axes`: must name .*, bias_variance; got weight_variance$",
    ),
    (
        lambda: theory.phase_diagram(LAYER, {"w": [1.0]}),
        "`build`: must be a function .*; got Chain",
    ),
    (
        lambda: theory.phase_diagram(build, {"weight_variance": "ab", "bias_variance": [0.0]}),
        "`weight_variance`: must contain real numbers; got 'ab'",
    ),
    (
        lambda: theory.phase_diagram(
            build, {"weight_variance": [1.0], "bias_variance": [0.0]}, progress=3
        ),
        "`progress`: must be a function of .*; got 3",
    ),
    (
        lambda: theory.phase_diagram(deep, {"depth": [1, 2]}),
        "`depth`: must be a whole number that is known .* axis of a diagram",
    ),
]


@pytest.mark.parametrize(("ask", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_arguments_are_named_in_one_line(ask, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}") as caught:
        ask()
    assert "\n" not in str(caught.value)


def test_numbers_of_any_kind_are_taken():
    for start in (1, np.float32(1.0), np.int64(1), np.asarray(1.0), jnp.asarray(1.0)):
        assert theory.predict(theory.affine(0.5, 1.0), start=start).length.status == 0
    some = [0.2, 0.7]
    row = theory.singular_value_quantiles(FACTORS.repeated(4), jnp.asarray(some))
    listed = theory.singular_value_quantiles(FACTORS.repeated(np.int64(4)), some)
    single = theory.singular_value_quantiles(FACTORS.repeated(4.0), 0.7)
    np.testing.assert_array_equal(row.value, listed.value)
    assert single.value.shape == ()
    assert abs(single.value - row.value[1]) <= single.error + row.error[1]
    assert theory.spectrum.lyapunov_quantiles(FACTORS, (0, 1)).value.shape == (2,)
    assert theory.spectrum.lyapunov_quantiles(FACTORS, some).value.shape == (2,)
    assert theory.singular_value_distribution(FACTORS, 0.0).density.value.shape == ()


def test_what_is_traced_passes():
    def ask(length, tolerance):
        factors = theory.jacobian_factors(LAYER, length).repeated(length)
        found = theory.spectrum.jacobian_moments(factors, tolerance=tolerance).log_mean.value
        return (
            found
            + theory.gaussian.gaussian_expectation(jnp.sin, length, kinks=[length], order=8).value
        )

    jax.eval_shape(jax.vmap(ask), jnp.ones(3), jnp.ones(3))


def test_a_linear_beginning_is_none_of_a_nonlinearity():
    network = Chain((Pointwise(theory.activation("linear")), theory.affine(2.0)))
    found = theory.propagate(network, ONE)
    np.testing.assert_allclose(theory.length(found.value), 2.0, rtol=FOLD)
    after = theory.propagate(Chain((theory.affine(1.0), LAYER)), ONE)
    assert theory.length(after.value).shape == (2, 1)
