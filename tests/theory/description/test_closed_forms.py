"""Closed forms against the definitions, and against themselves in arbitrary precision."""

import functools
import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from mpmath import mp, mpf

from tests.tolerances import FOLD, LAYERS, ROUNDING, SINGLE_LAYERS
from theory.description._closed_forms import ErfForm, PiecewiseLinearForm, SinForm

SLOPES = (0.0, 0.01, 0.3, -0.7, -1.0, 1.0, -1e-3, 40.0)

single = jax.jit(lambda form, q: form.single(q))
pair = jax.jit(lambda form, a, b, x: form.pair(a, b, x))
# (form and q by point) -> values; one compilation for each kind of form
pairs = jax.jit(jax.vmap(lambda form, a, b, x: form.pair(a, b, x), in_axes=(None, 0, 0, 0)))
singles = jax.jit(jax.vmap(lambda form, q: form.single(q), in_axes=(None, 0)))


def array(value):
    return jnp.asarray(value, jnp.float64)


def leaky(slope):
    return PiecewiseLinearForm(array(slope))


@pytest.fixture(autouse=True)
def precision():
    with mp.workdps(30):
        yield


def relative(got, true):
    return float(abs(mpf(float(got)) - true) / max(abs(true), mpf("1e-300")))


# --- the definition, by quadrature ------------------------------------------------------------


def functions(kind, slope=None):
    """φ and φ' in arbitrary precision."""
    if kind == "erf":
        return mpmath.erf, lambda z: 2 * mpmath.exp(-z * z) / mpmath.sqrt(mp.pi)
    if kind == "sin":
        return mpmath.sin, mpmath.cos
    slope = mpf(slope)
    return (lambda z: z if z >= 0 else slope * z), (lambda z: mpf(1) if z >= 0 else slope)


def by_definition_smooth(phi, derivative, q_a, q_b, x, step):
    """A lattice sum over u and then v given u: exponentially accurate for entire functions."""
    c = 1 - x
    spread = mpmath.sqrt(q_b * x * (2 - x))
    root_a, root_b = mpmath.sqrt(q_a), mpmath.sqrt(q_b)
    reach = int(9.5 / step)
    nodes = [k * mpf(step) for k in range(-reach, reach + 1)]
    weights = [step * mpmath.exp(-s * s / 2) / mpmath.sqrt(2 * mp.pi) for s in nodes]
    result = [mpf(0)] * 3
    for s, w_s in zip(nodes, weights, strict=True):
        f, df = phi(root_a * s), derivative(root_a * s)
        centre = c * root_b * s
        for t, w_t in zip(nodes, weights, strict=True):
            w = w_s * w_t
            if w < 1e-22:
                continue
            v = centre + spread * t
            g = phi(v)
            result[0] += w * f * g
            result[1] += w * (f - g) ** 2 / 2
            result[2] += w * df * derivative(v)
    return result


def by_definition_linear(phi, derivative, q_a, q_b, x):
    """Polar coordinates of the plane: the kinks are rays, and the panels end there."""
    c = 1 - x
    sine = mpmath.sqrt(x * (2 - x))
    root_a, root_b = mpmath.sqrt(q_a), mpmath.sqrt(q_b)
    along = mpmath.atan2(sine, c)  # v = root_b r cos(w - along), u = root_a r cos w
    half = mp.pi / 2
    rays = {-mp.pi, -half, half, mp.pi, along - half, along + half, along - 3 * half}
    panels = sorted(ray for ray in rays if -mp.pi <= ray <= mp.pi)

    def moments(w):
        u, v = root_a * mpmath.cos(w), root_b * mpmath.cos(w - along)
        return phi(u) * phi(v), (phi(u) - phi(v)) ** 2 / 2, derivative(u) * derivative(v)

    # the integral over r of r · r² exp(-r²/2) is 2, of r exp(-r²/2) it is 1
    radial = (mpf(2), mpf(2), mpf(1))
    return [
        radial[k] * mpmath.quad(lambda w, k=k: moments(w)[k], panels, maxdegree=4) / (2 * mp.pi)
        for k in range(3)
    ]


@pytest.mark.parametrize("slope", (0.0, 0.3, -0.7, 1.0))
@pytest.mark.parametrize("point", ((1.0, 1.0, 0.25), (0.5, 3.0, 1.4), (2.0, 2.0, 1e-4)))
def test_piecewise_linear_against_the_definition(slope, point):
    got = pair(leaky(slope), *map(array, point))
    true = by_definition_linear(*functions("leaky", slope), *map(mpf, point))
    assert max(map(relative, got, true)) < 1e-14


@pytest.mark.parametrize(
    ("kind", "form", "step"), (("erf", ErfForm(), 0.2), ("sin", SinForm(), 0.3))
)
@pytest.mark.parametrize("point", ((1.2, 1.2, 0.25), (0.5, 1.4, 1.4)))
def test_smooth_forms_against_the_definition(kind, form, step, point):
    with mp.workdps(18):
        true = by_definition_smooth(*functions(kind), *map(mpf, point), mpf(step))
    assert max(map(relative, pair(form, *map(array, point)), true)) < 1e-14


@pytest.mark.parametrize(
    ("kind", "form"), (("erf", ErfForm()), ("sin", SinForm()), ("leaky", leaky(0.3)))
)
def test_one_variable_against_the_definition(kind, form):
    phi, derivative = functions(kind, 0.3)
    q = 1.7

    def mean(f):
        density = lambda z: mpmath.npdf(z) * f(mpmath.sqrt(mpf(q)) * z)
        return mpmath.quad(density, [-12, -6, -2, 0, 2, 6, 12])

    true = mean(phi), mean(lambda z: phi(z) ** 2), mean(lambda z: derivative(z) ** 2)
    got = single(form, array(q))
    assert abs(float(got[0]) - true[0]) < 1e-15
    assert max(map(relative, got[1:], true[1:])) < 1e-15


# --- the textbook formula, with digits to spare -----------------------------------------------


def erf_formula(a, b, c):
    n_a, n_b = 1 + 2 * a, 1 + 2 * b
    cross = 2 * c * mpmath.sqrt(a * b)
    product = 2 / mp.pi * mpmath.asin(cross / mpmath.sqrt(n_a * n_b))
    return product, 4 / mp.pi / mpmath.sqrt(n_a * n_b - cross**2)


def sin_formula(a, b, c):
    decay, cross = mpmath.exp(-(a + b) / 2), c * mpmath.sqrt(a * b)
    return decay * mpmath.sinh(cross), decay * mpmath.cosh(cross)


def leaky_formula(slope, a, b, c):
    def degree_one(c):
        return (mpmath.sqrt(1 - c * c) + (mp.pi - mpmath.acos(c)) * c) / (2 * mp.pi)

    s, angle = mpf(slope), mpmath.acos(c)
    product = mpmath.sqrt(a * b) * ((1 + s * s) * degree_one(c) - 2 * s * degree_one(-c))
    return product, ((1 + s * s) * (mp.pi - angle) + 2 * s * angle) / (2 * mp.pi)


LENGTHS = (1e-30, 1e-12, 1e-3, 0.4, 3.0, 30.0, 1e3, 1e6)
RATIOS = (1.0, 1 + 1e-9, 2.0, 1e-6)
GAPS = (0.0, 1e-30, 1e-16, 1e-9, 1e-3, 0.3, 0.49999, 0.7, 1 - 1e-9, 1.0)
GAPS += (1 + 1e-6, 1.3, 1.50001, 1.9, 2 - 1e-9, 2.0)
GRID = tuple((q, r * q, x) for q, r, x in itertools.product(LENGTHS, RATIOS, GAPS))
COLUMNS = tuple(map(array, zip(*GRID, strict=True)))


def worst(form, formula, points, tolerance):
    """The worst relative errors of the three moments, in units of tolerance(a, b, x)."""
    a, b, x = (column[jnp.asarray(points)] for column in COLUMNS)
    got = np.asarray(pairs(form, a, b, x))
    result = np.zeros(3)
    with mp.workdps(150):
        square = functools.cache(lambda q: formula(q, q, mpf(1))[0])
        for j, i in enumerate(points):
            a, b, x = map(mpf, GRID[i])
            product, slope = formula(a, b, 1 - x)
            distance = (square(a) + square(b)) / 2 - product
            errors = map(relative, got[:, j], (product, distance, slope))
            result = np.maximum(result, np.array(list(errors)) / tolerance(a, b, x))
    return result


def test_erf_to_rounding_everywhere():
    assert worst(ErfForm(), erf_formula, range(len(GRID)), lambda *_: 3e-15).max() < 1


def test_sin_to_rounding_everywhere():
    def tolerance(a, b, x):
        return 2e-15 * (1 + min((a + b) / 2, 700))

    assert worst(SinForm(), sin_formula, range(len(GRID)), tolerance).max() < 1


@pytest.mark.parametrize("slope", SLOPES)
def test_piecewise_linear_to_rounding_everywhere(slope):
    points = [i for i, (q, _, _) in enumerate(GRID) if q in (1e-30, 0.4, 1e6)]
    formula = functools.partial(leaky_formula, slope)
    assert worst(leaky(slope), formula, points, lambda *_: 2e-14).max() < 1


@pytest.mark.parametrize(
    ("form", "formula"),
    ((ErfForm(), erf_formula), (SinForm(), sin_formula))
    + tuple((leaky(s), functools.partial(leaky_formula, s)) for s in (0.0, -0.7)),
    ids=("erf", "sin", "relu", "leaky"),
)
def test_single_is_the_pair_at_equal_inputs(form, formula):
    _, squares, slopes = singles(form, array(LENGTHS))
    with mp.workdps(60):
        for q, square, slope in zip(LENGTHS, squares, slopes, strict=True):
            true_square, true_slope = formula(mpf(q), mpf(q), mpf(1))
            assert relative(square, true_square) < 1e-15
            assert relative(slope, true_slope) < 1e-15


def test_zero_length():
    zero = array(0.0)
    for form in (leaky(0.3), ErfForm(), SinForm()):
        assert float(single(form, zero)[1]) == 0
        product, distance, slope = pair(form, zero, zero, array(0.3))
        assert (float(product), float(distance)) == (0, 0)
        assert np.isfinite(slope)
        _, distance, _ = pair(form, zero, array(1.3), array(0.3))
        assert relative(distance, mpf(float(single(form, array(1.3))[1])) / 2) < 1e-14


# --- derivatives, types, transformations ------------------------------------------------------


def moments(q, form, ratio, x):
    return jnp.stack(form.pair(q, ratio * q, x))


forward, backward = jax.jit(jax.jacfwd(moments)), jax.jit(jax.jacrev(moments))
rate = jax.jit(jax.grad(lambda x, form, a, b: form.pair(a, b, x)[0]))

FORMS = {"relu": leaky(0.0), "leaky": leaky(0.3), "erf": ErfForm(), "sin": SinForm()}


@pytest.mark.parametrize("kind", FORMS)
def test_price_theorem(kind):
    """The derivative of E φ(u)φ(v) in the correlation is √(q_a q_b) E φ'(u)φ'(v)."""
    form, a, b = FORMS[kind], array(0.7), array(1.6)
    for x, other in itertools.product((0.0, 1e-8, 0.3, 1.0, 1.6, 2.0), (a, b)):
        slope = pair(form, a, other, array(x))[2]
        np.testing.assert_allclose(
            -rate(array(x), form, a, other), jnp.sqrt(a * other) * slope, rtol=LAYERS, atol=ROUNDING
        )


@pytest.mark.parametrize("kind", FORMS)
def test_derivatives_in_the_length(kind):
    """At fixed correlation, against differences of the formula in arbitrary precision."""
    form = FORMS[kind]
    formula = {"erf": erf_formula, "sin": sin_formula}.get(
        kind, functools.partial(leaky_formula, 0.3 if kind == "leaky" else 0.0)
    )

    for q, ratio, x in ((0.7, 1.0, 0.3), (2.0, 0.4, 1.5), (1e-3, 1.0, 1e-9), (0.7, 1.0, 1.0)):
        point = array(q), form, array(ratio), array(x)
        got = forward(*point)
        np.testing.assert_allclose(got, backward(*point), rtol=FOLD, atol=ROUNDING)
        with mp.workdps(80):
            r, c = mpf(ratio), 1 - mpf(x)

            def distance(q, r=r, c=c):
                squares = formula(q, q, mpf(1))[0] + formula(r * q, r * q, mpf(1))[0]
                return squares / 2 - formula(q, r * q, c)[0]

            true = (
                mpmath.diff(lambda q, r=r, c=c: formula(q, r * q, c)[0], mpf(q)),
                mpmath.diff(distance, mpf(q)),
                mpmath.diff(lambda q, r=r, c=c: formula(q, r * q, c)[1], mpf(q)),
            )
            for value, expected in zip(got, true, strict=True):
                assert abs(float(value) - expected) < 1e-12 * abs(expected) + 1e-18

    for q, x in itertools.product((1e-30, 1e-12, 1.0, 1e6), (0.0, 1e-12, 1.0, 2.0)):
        point = array(q), form, array(1.0), array(x)
        assert np.isfinite(forward(*point)).all()
        assert np.isfinite(backward(*point)).all()


@pytest.mark.parametrize("kind", FORMS)
def test_single_precision_stays(kind):
    form = FORMS[kind]
    rounded = [column.astype(jnp.float32) for column in COLUMNS]
    keep = (COLUMNS[0] > 1e-13) & (COLUMNS[0] < 1e2)
    got = pairs(form, *rounded)
    true = pairs(form, *(column.astype(jnp.float64) for column in rounded))
    for value, reference in zip(got, true, strict=True):
        assert value.dtype == jnp.float32
        assert np.isfinite(value).all()
        np.testing.assert_allclose(value[keep], reference[keep], rtol=SINGLE_LAYERS, atol=1e-30)
    assert {moment.dtype for moment in single(form, rounded[0][0])} == {jnp.dtype("float32")}


def test_negative_slope_is_swept_and_differentiated():
    slopes = array([0.0, 0.3, -0.7])
    point = array(0.8), array(1.1), array(0.6)
    swept = jax.jit(jax.vmap(lambda s: PiecewiseLinearForm(s).pair(*point)))(slopes)
    for i, slope in enumerate(slopes):
        for row, value in zip(swept, pair(leaky(slope), *point), strict=True):
            np.testing.assert_allclose(row[i], value, rtol=ROUNDING)
    rate = jax.jit(jax.grad(lambda s: PiecewiseLinearForm(s).pair(*point)[0]))(array(0.3))
    with mp.workdps(40):
        a, b, x = map(mpf, map(float, point))
        true = mpmath.diff(lambda s: leaky_formula(s, a, b, 1 - x)[0], mpf(0.3))
    assert relative(rate, true) < 1e-14
