"""Spectra of Jacobians at infinite width, against closed forms and finite networks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import binom, erf

import sigprop
import theory
from tests.compiling import hastily
from tests.tolerances import FOLD, SLOPE, SOLUTION
from theory import Chain, Pointwise, Residual, Status, repeat
from theory.spectrum._branch import log_lambda, look, negative_axis, nu_of, solve

# What runs once or twice costs more to compile than to run.
distribution = theory.singular_value_distribution
quantiles = theory.singular_value_quantiles
spectrum_edges = theory.spectrum.spectrum_edges
jacobian_moments = theory.spectrum.jacobian_moments

LINEAR, RELU, TANH = (theory.activation(name) for name in ("linear", "relu", "tanh"))
HARD_TANH = theory.activation("hard_tanh")
# bias_variance → weight_variance, q* where χ = 1, from arbitrary precision.
CRITICAL_TANH = {
    0.001: (1.18918958523468, 0.107292356147532, 0.044047469),
    0.01: (1.42420529048860, 0.273300913458231, 0.152539886),
    0.05: (1.76095463960674, 0.570047881640764, 0.342256078),
    0.2: (2.28515247372019, 1.16449628745798, 0.667081080),
}


def deep(phi, variance, bias=0.0, *, depth, length, weights="gaussian", order=64, **how):
    """`depth` nonlinearities and as many weight matrices."""
    layer = theory.layer(phi, variance, bias, weights=weights, **how)
    return theory.jacobian_factors(repeat(layer, depth), length, order=order)


def fuss_catalan(p, points):
    """log λ, density of log s and fraction above, for p square Gaussian matrices.

    With λ = sin^{p+1}((p+1)φ)/(sin φ sin^p(pφ)), 0 < φ < π/(p+1), and M + 1 =
    sin((p+1)φ)/sin(pφ) e^{iφ}.
    """
    phi = math.pi / (p + 1) * points
    one, more = np.sin(p * phi), np.sin((p + 1) * phi)
    log = (p + 1) * np.log(more) - np.log(np.sin(phi)) - p * np.log(one)
    return log, 2 / math.pi * more / one * np.sin(phi)


@pytest.mark.parametrize("p", [1, 2, 8, 32, 1024])
def test_linear_gaussian_density_is_fuss_catalan(p):
    factors = theory.jacobian_factors(theory.affine(1.0), 1.0).repeated(p)
    log, density = fuss_catalan(p, np.linspace(0.01, 0.99, 15))
    found = distribution(factors, jnp.asarray(log / 2))
    assert np.all(abs(found.density.value - density) <= found.density.error)
    assert np.all(found.density.error < 1e-11)
    assert np.all(found.density.status == Status.OK)
    fine, density = fuss_catalan(p, np.linspace(0, 1, 20003)[1:-1])
    above = -np.concatenate([[0], np.cumsum(np.diff(fine) * (density[1:] + density[:-1]) / 4)])
    np.testing.assert_allclose(
        np.interp(log[::-1], fine[::-1], above[::-1]),
        1 - found.cumulative.value[::-1],
        rtol=0,
        atol=3e-4,
    )


@pytest.mark.parametrize("depth", [1, 8, 32, 256])
def test_linear_gaussian_edges_and_moments(depth):
    factors = deep(LINEAR, 1.0, depth=depth, length=1.0)
    edges = spectrum_edges(factors)
    truth = ((depth + 1) * math.log(depth + 1) - depth * math.log(depth)) / 2
    assert abs(edges.log_upper.value - truth) <= edges.log_upper.error < 1e-11
    assert abs(edges.upper.value - math.exp(truth)) <= edges.upper.error
    assert edges.lower.value == 0
    # M ~ √(2x/bend) with x = (φ-curve) near φ = 0: x = p (p+1) φ²/2, Im M = φ (p+1)/p
    bend = depth**3 / (depth + 1)
    fluctuation = edges.fluctuation
    off = abs(fluctuation.value - np.cbrt(bend / 2) / 2)
    assert off <= fluctuation.error < 1e-6 * fluctuation.value
    assert fluctuation.status == Status.OK
    moments = jacobian_moments(factors, order=4)
    exact = np.array([binom(k * (depth + 1), k - 1) / k for k in range(1, 5)])
    assert np.all(abs(moments.ratios.value - exact) <= moments.ratios.error)
    assert np.all(moments.ratios.error < 1e-10 * exact)


def test_moments_themselves_and_their_overflow():
    for variance in (1.3, 1e30):
        factors = theory.jacobian_factors(theory.affine(variance), 1.0).repeated(9)
        found = jacobian_moments(factors, order=4).values
        log = [k * 9 * math.log(variance) + math.log(binom(k * 10, k - 1) / k) for k in range(1, 5)]
        with np.errstate(over="ignore"):
            exact = np.exp(log)
        fits = np.isfinite(exact)
        assert np.all(abs(found.value - exact)[fits] <= found.error[fits])
        assert np.all(found.error[fits] < 1e-10 * exact[fits])
        assert found.status.tolist() == [Status.OK if f else Status.INFINITE for f in fits]


def test_published_edges():
    for phi, law, variance, bias, length, expected, digits in [
        (LINEAR, "gaussian", 1.0, 0.0, 1.0, 23.092, 5e-4),
        (RELU, "gaussian", 2.0, 0.0, 1.0, 43.549, 5e-4),
        (RELU, "orthogonal", 2.0, 0.0, 1.0, 20.372, 5e-4),
        (HARD_TANH, "orthogonal", 1.16554468963588, 0.05, 0.463863969432006, 3.3725, 5e-5),
    ]:
        factors = deep(phi, variance, bias, depth=8, length=length, weights=law)
        upper = spectrum_edges(factors).upper
        assert abs(upper.value**2 - expected) < digits
        assert upper.status == Status.OK


def atoms_edge(p, depth, gaussian, variance):
    """λ_+ where D² is 1 with probability p, else 0: 1 = Σ m(1−p)/(m+p) + g m."""
    m = brentq(lambda m: depth * m * (1 - p) / (m + p) + gaussian * m - 1, 1e-12, 1e12)
    log = math.log((1 + m) / m) + depth * math.log((m + p) / (1 + m))
    return log + gaussian * math.log(1 + m) + variance


@pytest.mark.parametrize(("depth", "law"), [(4, "gaussian"), (16, "orthogonal"), (64, "gaussian")])
def test_edges_of_piecewise_linear_networks(depth, law):
    for phi, p in [(RELU, 0.5), (HARD_TANH, erf(1 / math.sqrt(2 * 0.8)))]:
        # at the fixed length 0.8 of one layer
        layer = theory.layer(phi, 1.3, weights=law)
        factors = theory.jacobian_factors(layer, 0.8).repeated(depth)
        upper = spectrum_edges(factors).log_upper
        gaussian = depth if law == "gaussian" else 0
        truth = atoms_edge(p, depth, gaussian, depth * math.log(1.3)) / 2
        assert abs(upper.value - truth) <= upper.error < 1e-9


def test_feedforward_has_one_weight_matrix_more():
    both = [
        theory.feedforward(RELU, 2.0, depth=8),
        repeat(theory.layer(RELU, 2.0), 8),
    ]
    one, other = (theory.jacobian_factors(network, 1.0) for network in both)
    assert (one.independent, other.independent) == (9, 8)
    assert one.count.tolist() == other.count.tolist() == [8]
    np.testing.assert_allclose(one.log_variance - other.log_variance, math.log(2), rtol=FOLD)
    for factors, g in [(one, 9), (other, 8)]:
        upper = spectrum_edges(factors).log_upper
        truth = atoms_edge(0.5, 8, g, g * math.log(2)) / 2
        assert abs(upper.value - truth) <= upper.error


def test_relu_orthogonal_spectrum_in_closed_form():
    """Two layers of projections onto half of the space: the arcsine law, and half zeros."""
    factors = deep(RELU, 1.0, depth=2, length=1.0, weights="orthogonal")
    s = np.linspace(0.02, 0.98, 9)
    found = distribution(factors, jnp.log(s))
    # λ = cos²θ with θ uniform on (0, π/2), half of all
    truth = 0.5 + 0.5 * (1 - np.arccos(s) * 2 / math.pi)
    assert np.all(abs(found.cumulative.value - truth) <= found.cumulative.error)
    density = s / (math.pi * np.sqrt(1 - s * s))
    assert np.all(abs(found.density.value - density) <= found.density.error)
    assert np.all(found.density.error < 1e-12)
    spectrum = theory.spectrum.jacobian_spectrum(repeat(theory.layer(RELU, 2.0), 4), 1.0)
    assert abs(spectrum.mass_at_zero.value - 0.5) <= spectrum.mass_at_zero.error < 1e-12


def test_orthogonal_linear_singular_values_are_all_equal():
    factors = deep(LINEAR, 1.21, depth=16, length=1.0, weights="orthogonal")
    edges = spectrum_edges(factors)
    for log in (edges.log_lower, edges.log_upper):
        assert abs(log.value - 8 * math.log(1.21)) <= log.error < 1e-10
    assert edges.fluctuation.status == Status.ABSENT
    np.testing.assert_allclose(jacobian_moments(factors).ratios.value, 1, rtol=FOLD)
    x = 8 * math.log(1.21)
    found = distribution(factors, jnp.array([x - 0.1, x + 0.1])).cumulative
    np.testing.assert_allclose(found.value, [0, 1], rtol=0, atol=FOLD)


def test_shallow_orthogonal_networks_keep_an_atom():
    """Of two layers with P(D = 1) = p, 2p − 1 of the directions pass through both."""
    factors = deep(HARD_TANH, 1.0, depth=2, length=0.5, weights="orthogonal")
    layer = theory.layer(HARD_TANH, 1.0, weights="orthogonal")
    factors = theory.jacobian_factors(layer, 0.5).repeated(2)
    p = erf(1.0)
    edge = spectrum_edges(factors).log_upper
    assert abs(edge.value) <= edge.error
    found = distribution(factors, jnp.array([-1e-3, 1e-3])).cumulative
    np.testing.assert_allclose(found.value, [2 * (1 - p), 1], rtol=0, atol=SOLUTION)


def test_a_gap_above_zero():
    """One dead-unit layer between square Gaussian matrices keeps the others from zero."""
    single = Chain((Pointwise(RELU), theory.affine(1.0)))
    edges = spectrum_edges(theory.jacobian_factors(single, 1.0))
    # Marchenko and Pastur of ratio 1/2: σ²(1 ± √p)²
    for found, truth in [(edges.lower, 1 - math.sqrt(0.5)), (edges.upper, 1 + math.sqrt(0.5))]:
        assert abs(found.value - truth) <= found.error < 1e-10
    assert spectrum_edges(deep(RELU, 2.0, depth=2, length=1.0)).lower.value == 0


@pytest.mark.parametrize("bias", CRITICAL_TANH)
def test_second_moment_on_the_critical_line(bias):
    variance, length, spread = CRITICAL_TANH[bias]
    for law, s1 in [("orthogonal", 0), ("gaussian", 1)]:
        layer = theory.jacobian_factors(theory.layer(TANH, variance, bias, weights=law), length)
        for depth in (1, 64):
            moments = jacobian_moments(layer.repeated(depth), order=2)
            assert abs(moments.ratios.value[1] - 1 - depth * (spread + s1)) < depth * 1e-9
            assert abs(moments.log_mean.value) <= moments.log_mean.error + depth * 1e-13


def radial_tanh_point(k, variance):
    """q* and χ of radial tanh without bias."""
    norm = 2 ** (1 - k / 2) / math.gamma(k / 2)

    def mean(fn):
        density = lambda x: norm * x ** (k - 1) * math.exp(-x * x / 2)
        return quad(lambda x: fn(x) * density(x), 0, 12, epsabs=1e-13)[0]

    excess = lambda q: variance * mean(lambda x: math.tanh(math.sqrt(q) * x) ** 2) / k - q
    q = brentq(excess, 1e-3, 10, xtol=1e-14)
    a = lambda r: 1 / math.cosh(r) ** 2
    b = lambda r: math.tanh(r) / r if r > 0 else 1.0
    slope = mean(lambda x: a(math.sqrt(q) * x) ** 2 + (k - 1) * b(math.sqrt(q) * x) ** 2) / k
    return q, variance * slope


@pytest.mark.slow
def test_equivariant_bulk_and_goldstone_gains():
    phi = theory.radial("tanh")
    for k, sigma, ratio in [(2, 1.2, 9.856), (4, 1.5, 10.986)]:
        q, slope = radial_tanh_point(k, sigma**2)
        factors = theory.jacobian_factors(theory.layer(phi, sigma**2, components=k), q)
        found = jacobian_moments(factors.repeated(8), order=2)
        assert abs(found.ratios.value[1] - ratio) < 5e-4
        assert abs(found.log_mean.value - 8 * math.log(slope)) < 1e-10
        top = theory.spectrum.lyapunov_quantiles(factors, jnp.array([1.0]))
        assert abs(top.value[0] - math.log(slope) / 2) < 1e-11
    network = theory.feedforward(phi, 1.5**2, depth=5, components=3)
    gains = theory.spectrum.goldstone_gains(network, theory.given_moments(jnp.eye(3)[None, None]))
    assert gains.value.shape == (3,)
    final = theory.propagate(network, theory.given_moments(jnp.eye(3)[None, None]))
    q = theory.length(final.value)[-1, 0]
    assert np.all(abs(gains.value - q) <= gains.error + 1e-14)
    # from the pre-activations of the first layer on, of length 1.5²
    layers = repeat(theory.layer(phi, 1.5**2, components=3), 5)
    rest = theory.spectrum.goldstone_gains(
        layers, theory.given_moments(1.5**2 * jnp.eye(3)[None, None])
    )
    np.testing.assert_allclose(rest.value * 1.5**2, gains.value, rtol=FOLD)
    biased = theory.feedforward(phi, 1.5**2, 0.1, depth=5, components=3)
    with pytest.raises(ValueError, match="bias"):
        theory.spectrum.goldstone_gains(biased, theory.given_moments(jnp.eye(3)[None, None]))


def test_exponents_of_linear_and_relu_networks():
    t = jnp.array([1e-3, 0.25, 0.5, 0.75, 1.0])
    linear = theory.spectrum.lyapunov_quantiles(theory.jacobian_factors(theory.affine(1.0), 1.0), t)
    assert np.all(abs(linear.value - np.log(t) / 2) <= linear.error)
    layer = theory.jacobian_factors(theory.layer(RELU, 2.0), 1.0)
    relu = theory.spectrum.lyapunov_quantiles(layer, t)
    # 1/S = σ² (1 + m)(m + p)/(1 + m)
    with np.errstate(invalid="ignore", divide="ignore"):
        truth = np.log(2 * np.maximum(np.asarray(t) - 0.5, 0)) / 2
    alive = np.isfinite(truth)
    np.testing.assert_allclose(relu.value[alive], truth[alive], rtol=0, atol=FOLD)
    assert np.all(relu.value[~alive] == -np.inf)
    # a deep network's quantiles approach them like log(depth)/depth
    deep = quantiles(layer.repeated(1000), jnp.array([0.75, 0.9]))
    np.testing.assert_allclose(
        deep.value / 1000, np.log(2 * (np.array([0.75, 0.9]) - 0.5)) / 2, rtol=0, atol=0.01
    )


def linear_skip(variance, weights="gaussian"):
    """z ↦ z + W z."""
    return Residual(theory.affine(variance, weights=weights))


def skip(phi, variance, weights="gaussian"):
    """z ↦ z + W' φ(W z + b)."""
    parts = theory.affine(1.0, 0.05, weights=weights), Pointwise(phi)
    return Residual(Chain((*parts, theory.affine(variance, weights=weights))))


@pytest.mark.parametrize("variance", [0.25, 0.9, 2.0])
def test_one_linear_layer_with_a_skip_connection_in_closed_form(variance):
    """1 + W, whose Cauchy transform G solves G (s − σ²G)² − (s − σ²G) − G = 0: the semicircle
    law and that of ±1 add up freely. Its ends are critical points of s(G)."""
    factors = theory.jacobian_factors(linear_skip(variance), 1.0)
    # s = σ²G + (√(1 + 4G²) ± 1)/(2G)
    g = np.exp(np.linspace(-14, 14, 400001))
    upper = np.min(variance * g + (np.sqrt(1 + 4 * g * g) + 1) / (2 * g))
    lower = np.max((np.sqrt(1 + 4 * g * g) - 1) / (2 * g) - variance * g) if variance < 1 else 0.0
    edges = spectrum_edges(factors)
    np.testing.assert_allclose([edges.lower.value, edges.upper.value], [lower, upper], rtol=SLOPE)
    s = lower + (upper - lower) * np.linspace(0.05, 0.95, 9)
    found = distribution(factors, jnp.log(s))

    def density(s):
        v = variance
        roots = np.roots([v * v, -2 * v * s, s * s + v - 1, -s])
        return -2 * min(roots.imag) / math.pi

    truth = np.array([s * density(s) for s in s])
    assert np.all(abs(found.density.value - truth) <= found.density.error + 1e-12)
    assert np.all(found.density.error < 1e-11)
    below = [quad(density, lower, s, limit=200, epsabs=1e-11)[0] for s in s[::4]]
    np.testing.assert_allclose(found.cumulative.value[::4], below, atol=SLOPE)
    moments = jacobian_moments(factors).values
    if variance == 2.0:
        at = quantiles(factors, found.cumulative.value[1:])
        np.testing.assert_allclose(at.value, np.log(s)[1:], atol=SOLUTION)
    # sums over non-crossing pairings, by hand
    v = variance
    by_hand = np.array([1 + v, 1 + 4 * v + 2 * v**2, 1 + 9 * v + 15 * v**2 + 5 * v**3])
    assert np.all(abs(moments.value[:3] - by_hand) <= moments.error[:3])


def test_moments_of_layers_with_skip_connections():
    """m_1 = Π (1 + χ_l) and m_2/m_1² = 1 + Σ (m_2/m_1² − 1)_l with m_2 = 1 + 4χ + E |a|⁴."""
    for weights, gaussian in [("gaussian", 2), ("orthogonal", 0)]:
        layer = skip(TANH, 0.6, weights)
        factors = theory.jacobian_factors(layer, 0.8)
        mean, square = (
            theory.gaussian.gaussian_expectation(lambda z, p=p: jnp.cosh(z) ** -p, 0.85).value
            for p in (4, 8)
        )
        chi, fourth = 0.6 * mean, 0.36 * (square + gaussian * mean**2)
        ratio = (1 + 4 * chi + fourth) / (1 + chi) ** 2
        found = jacobian_moments(factors.repeated(7), order=2)
        assert abs(found.log_mean.value - 7 * math.log1p(chi)) < 1e-12
        assert abs(found.ratios.value[1] - (1 + 7 * (ratio - 1))) < 1e-10
        top = theory.spectrum.lyapunov_quantiles(factors, jnp.array([1.0])).value[0]
        assert abs(top - math.log1p(chi) / 2) < 1e-12


def test_layers_with_skip_connections_keep_away_from_zero_while_branches_are_small():
    for weights, variance, gap in [
        ("gaussian", 0.9, True),
        ("gaussian", 1.1, False),
        ("orthogonal", 1.1, True),
    ]:
        factors = theory.jacobian_factors(linear_skip(variance, weights), 1.0).repeated(3)
        assert (spectrum_edges(factors).lower.value > 0) == gap


def residual_moments_by_sampling(weights, variance, depth, width, replicas):
    network = repeat(theory.layer(TANH, variance, weights=weights, residual=True), depth)
    x = jax.random.normal(jax.random.key(5), (replicas, 1, width, 1))
    sample = sigprop.sample_jacobians(network, x, width=width, replicas=replicas)
    squares = np.exp(2 * np.asarray(sample.log_singular_values))
    return np.mean(squares, axis=1), np.mean(squares**2, axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["gaussian", "orthogonal"])
def test_branches_that_begin_with_a_nonlinearity_are_not_free(weights):
    """The second moment agrees with networks; that of free layers does not."""
    depth, variance, width = 6, 1.0, 128
    layer = theory.layer(TANH, variance, weights=weights, residual=True)
    found = theory.spectrum.residual_moments(layer, 1.0, depth)
    assert found.ratios.status.tolist() == [Status.OK] * 2
    first, second = residual_moments_by_sampling(weights, variance, depth, width, 120)
    ratio = second / first**2
    error = ratio.std(ddof=1) / math.sqrt(ratio.size)
    # 1/N: the lengths of single networks fluctuate.
    bound = 4 * error + 4 / width
    assert abs(ratio.mean() - found.ratios.value[1]) < bound
    q, free = 1.0, 1.0
    for _ in range(depth):
        mean, square = (
            theory.gaussian.gaussian_expectation(lambda z, p=p: jnp.cosh(z) ** -p, q).value
            for p in (4, 8)
        )
        fourth = square + (mean**2 if weights == "gaussian" else 0.0)
        free += (1 + 4 * mean + fourth) / (1 + mean) ** 2 - 1
        q = q + theory.gaussian.gaussian_expectation(lambda z: jnp.tanh(z) ** 2, q).value
    assert abs(ratio.mean() - free) > 2 * bound


@pytest.mark.slow
def test_linear_residual_layers_have_the_moments_of_free_ones():
    for weights in ("gaussian", "orthogonal"):
        layer = theory.layer(LINEAR, 0.7, weights=weights, residual=True)
        found = theory.spectrum.residual_moments(layer, 1.0, 5)
        free = jacobian_moments(theory.jacobian_factors(layer, 1.0).repeated(5), order=2)
        np.testing.assert_allclose(found.ratios.value, free.ratios.value, rtol=FOLD)
        np.testing.assert_allclose(found.log_mean.value, free.log_mean.value, rtol=FOLD)


CASES = {
    "tanh off its fixed point": (theory.feedforward(TANH, 1.5, 0.05, depth=3), 4.0),
    "gelu": (theory.feedforward(theory.activation("gelu"), 1.8, 0.1, depth=3), 1.0),
    "orthogonal relu": (theory.feedforward(RELU, 1.5, 0.05, depth=6, weights="orthogonal"), 1.0),
    "orthogonal elu": (
        theory.feedforward(theory.activation("elu"), 1.5, 0.05, depth=6, weights="orthogonal"),
        2.0,
    ),
}
QUICK = ("orthogonal relu",)


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
def test_solutions_are_physical_and_the_distribution_consistent(name):
    """Every solution is in the half-plane, density integrates to the cumulative, whose
    quantiles are the places themselves, and moments are integrals of the density."""
    network, length = CASES[name]
    factors = theory.jacobian_factors(network, length)
    top = spectrum_edges(factors).log_upper.value
    nodes, weights = np.polynomial.legendre.leggauss(60)
    x = np.asarray(top) - 3 * (nodes[::-1] + 1) ** 2  # the root at the edge is smooth in these
    measure = weights[::-1] * 6 * (nodes[::-1] + 1)
    found = jax.tree.map(np.asarray, distribution(factors, x))
    assert np.all(found.density.status == Status.OK)
    bottom = distribution(factors, jnp.asarray([top - 12.0])).cumulative
    assert abs(np.sum(measure * found.density.value) + bottom.value[0] - 1) < 1e-7
    for k in (1, 2):
        moments = jacobian_moments(factors, order=2)
        direct = np.sum(measure * found.density.value * np.exp(2 * k * x))
        truth = moments.ratios.value[k - 1] * math.exp(k * moments.log_mean.value)
        assert abs(direct / truth - 1) < 1e-7
    inner = (found.density.value > 1e-3) & (found.cumulative.value < 1 - 1e-6)
    fractions = found.cumulative.value[inner][::8]
    quantile = quantiles(factors, fractions)
    assert np.all(abs(quantile.value - x[inner][::8]) <= quantile.error + 1e-12)
    assert np.median(quantile.error) < 1e-8
    places = 2 * x[inner][::8]
    at = hastily(solve)(factors, negative_axis(factors), places)
    assert np.all(at.found)
    assert np.all(at.error < 1e-9)
    assert np.all((at.branch.omega.imag > 0) & (at.branch.omega.imag < math.pi))
    back, seen = hastily(
        lambda branch: (log_lambda(factors, branch), nu_of(look(factors.law, branch.omega)))
    )(at.branch)
    assert np.all(abs(np.asarray(back) - np.asarray(places)) < 1e-10)
    assert np.all(abs(np.asarray(seen) - np.asarray(at.branch.nu)[None]) < 1e-10)


def test_errors_are_honest_where_the_quadrature_is_coarse():
    """A shallow orthogonal network resolves the law of D² finely."""
    layer = theory.layer(TANH, 1.5, weights="orthogonal")
    x = jnp.linspace(-2.0, 0.5, 23)
    few, many = (
        distribution(theory.jacobian_factors(layer, 1.0, order=order).repeated(2), x)
        for order in (12, 512)
    )
    for coarse, fine in [(few.density, many.density), (few.cumulative, many.cumulative)]:
        assert np.all(abs(coarse.value - fine.value) <= coarse.error + fine.error)
        assert np.any(coarse.status == Status.INACCURATE)
        assert np.median(fine.error) < 1e-6


def test_sweeps_over_depth_and_variance_compile_once():
    def one(variance, depth):
        layer = theory.jacobian_factors(theory.layer(TANH, variance, 0.05), 0.5)
        return theory.spectrum.spectrum_summary(layer.repeated(depth), moments=2)

    swept = hastily(jax.vmap(one))(jnp.array([1.2, 1.8]), jnp.array([4.0, 300.0]))
    alone = hastily(one)(jnp.asarray(1.8), 300.0)
    for name in ("lower", "upper", "log_lower", "log_upper", "fluctuation"):
        a, b = getattr(swept.edges, name), getattr(alone.edges, name)
        assert a.status[1] == b.status
        np.testing.assert_allclose(a.value[1], b.value, rtol=1e-9, atol=1e-9)
        # Rounding is a part of an error, and differs between two programs.
        np.testing.assert_allclose(a.error[1], b.error, rtol=0.5)  # within: errors, not values


def test_what_cannot_be_predicted_is_refused():
    with pytest.raises(TypeError, match="begin with a nonlinearity"):
        theory.jacobian_factors(theory.feedforward(TANH, 1.5, depth=2, residual=True), 1.0)
    with pytest.raises(TypeError, match="no other branch"):
        theory.jacobian_factors(Residual(Chain((linear_skip(1.0), theory.affine(1.0)))), 1.0)
    with pytest.raises(TypeError, match="`layer`"):
        theory.spectrum.residual_moments(theory.layer(TANH, 1.5), 1.0, 2)
    with pytest.raises(ValueError, match="`length`"):
        theory.spectrum.residual_moments(theory.layer(TANH, 1.5, residual=True), 0.0, 2)
    with pytest.raises(ValueError, match="length"):
        theory.jacobian_factors(theory.affine(1.0), -1.0)
    with pytest.raises(ValueError, match="width"):
        theory.jacobian_factors(theory.affine(1.0, width=3), 1.0)
    factors = theory.jacobian_factors(theory.affine(1.0), 1.0)
    bad = quantiles(factors, jnp.array([0.0, 0.5, 1.5]))
    assert bad.status.tolist() == [Status.INVALID, Status.OK, Status.INVALID]


@pytest.mark.slow
def test_edges_of_unequal_layers_are_where_the_density_ends():
    elu = theory.activation("elu")
    network = theory.feedforward(elu, 1.5, 0.05, depth=3, weights="orthogonal")
    factors = theory.jacobian_factors(network, 2.0, order=64)
    top = spectrum_edges(factors).log_upper
    assert top.error < 1e-10
    found = distribution(factors, top.value + jnp.array([-1e-3, -1e-5, 1e-5, 1e-3]))
    assert np.all(found.density.value[:2] > 1e-4)
    assert np.all(found.density.value[2:] < 1e-10)


def test_dead_networks_are_all_zeros():
    spectrum = theory.spectrum.spectrum_summary(theory.jacobian_factors(theory.affine(0.0), 1.0))
    assert spectrum.mass_at_zero.value == 1
    assert spectrum.edges.upper.status == Status.ABSENT


def measured(network, length, *, width, replicas, components=1):
    x = jax.random.normal(jax.random.key(7), (1, width, components))
    x = x * jnp.sqrt(length / jnp.mean(x**2))
    sample = sigprop.sample_jacobians(network, x, width=width, replicas=replicas, seed=3)
    return np.asarray(sample.log_singular_values)


NETWORKS = {
    "tanh": lambda v: theory.feedforward(TANH, 1.5 * v, 0.05, depth=4),
    "relu, orthogonal": lambda v: theory.feedforward(
        RELU, 2.0 * v, 0.1, depth=4, weights="orthogonal"
    ),
    "tanh with skip connections": lambda v: Chain(
        (theory.affine(v), repeat(skip(TANH, 0.8 * v), 3))
    ),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n != "relu, orthogonal")) for n in NETWORKS],
)
def test_finite_networks_have_these_singular_values(name):
    """Fractions below given places: agreement within what N = 96 leaves, and power: a weight
    variance wrong by 6 % is rejected by the same bound."""
    width, replicas = 96, 96
    factors = [theory.jacobian_factors(NETWORKS[name](v), 1.0) for v in (1.0, 1.06)]
    t = jnp.array([0.62, 0.7, 0.8, 0.9])
    places = quantiles(factors[0], t).value
    found = measured(NETWORKS[name](1.0), 1.0, width=width, replicas=replicas)
    fractions = np.mean(found[:, :, None] < np.asarray(places)[None, None], axis=1)
    mean, error = fractions.mean(axis=0), fractions.std(axis=0, ddof=1) / math.sqrt(replicas)
    bound = 5 * error + 0.2 / width
    wrong = distribution(factors[1], places).cumulative.value
    assert np.all(abs(mean - t) < bound)
    assert np.any(abs(mean - wrong) > bound)


@pytest.mark.slow
def test_finite_networks_end_where_airy_says():
    """log s_max of linear networks: the edge, less 1.2065 widths of its fluctuation."""
    network, width = repeat_linear(2), 96
    found = measured(network, 1.0, width=width, replicas=48)[:, 0]
    edges = spectrum_edges(theory.jacobian_factors(network, 1.0))
    scale = float(edges.fluctuation.value) * width ** (-2 / 3)
    error = found.std(ddof=1) / math.sqrt(found.size)
    predicted = float(edges.log_upper.value) - 1.2065 * scale
    assert abs(found.mean() - predicted) < 4 * error + scale * width ** (-1 / 3)
    assert abs(found.mean() - float(edges.log_upper.value)) > 5 * error
    assert 0.6 < found.std(ddof=1) / (1.268 * scale) < 1.4


def repeat_linear(depth):
    return theory.feedforward(LINEAR, 1.0, depth=depth)


@pytest.mark.parametrize("q", [1e-6, 0.8])
def test_slopes_without_a_smallest_one_have_no_lower_edge(q):
    """Gaussian inputs reach every z, and so every slope down to 0."""
    body = theory.layer(theory.activation("tanh"), 1.7, weights="orthogonal")
    edges = theory.spectrum.spectrum_edges(theory.jacobian_factors(body, q).repeated(6))
    assert edges.log_lower.error == np.inf
    assert edges.lower.value - edges.lower.error <= 0
    leaky = theory.activation("leaky_relu", negative_slope=0.1)
    body = theory.layer(leaky, 1.7, weights="orthogonal")
    edges = theory.spectrum.spectrum_edges(theory.jacobian_factors(body, q).repeated(6))
    assert edges.log_lower.error < 1e-12


def slopes_of_clip(z):
    return 1 + ((z > 0.3) & (z < 1.3))


@pytest.mark.parametrize(
    ("fn", "slope", "kinks", "pieces"),
    [
        (lambda z: jnp.exp(-(z**2)), lambda z: -2 * z * np.exp(-(z**2)), (), None),
        (
            lambda z: z + jnp.tanh(z) ** 3,
            lambda z: 1 + 3 * np.tanh(z) ** 2 / np.cosh(z) ** 2,
            (0.0,),
            None,
        ),
        (lambda z: z + jnp.clip(z - 0.3, 0, 1), slopes_of_clip, (), None),
        (lambda z: z + jnp.clip(z - 0.3, 0, 1), slopes_of_clip, (0.0,), None),
        (lambda z: z + jnp.clip(z - 0.3, 0, 1), slopes_of_clip, (0.3, 1.3), 3),
        (
            lambda z: jnp.where(z > 0, 2.0 * z, jnp.abs(z) / 3),
            lambda z: 2 * (z > 0) + (z < 0) / 3,
            (0.0,),
            2,
        ),
        (lambda z: 2 * z, lambda z: 2 + 0 * z, (), 1),
        (lambda z: 2 * z + 1, lambda z: 2 + 0 * z, (), None),
    ],
)
def test_only_a_program_of_straight_pieces_has_atoms_of_slopes(fn, slope, kinks, pieces):
    """E φ'² by scipy's `quad`; equal slopes at a few places are no proof."""
    phi = theory.componentwise(fn, kinks=kinks)
    factors = theory.jacobian_factors(theory.layer(phi, 1.0), 1.0)
    if pieces is None:
        assert factors.law.square.shape[1] > 64
    else:
        assert factors.law.square.shape[1] == pieces
    e = jacobian_moments(factors).log_mean
    density = lambda z: slope(z) ** 2 * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    exact = math.log(quad(density, -12, 12, points=[0, 0.3, 1.3], epsabs=1e-13, limit=200)[0])
    assert abs(float(e.value) - exact) <= float(e.error) + 1e-13
    assert e.error < 0.1


@pytest.mark.parametrize(
    "variance",
    [
        1e-10,
        0.999999,
        2.0,
        *(pytest.param(v, marks=pytest.mark.slow) for v in (1e-20, 1e-8, 0.3, 1.001, 1e12)),
    ],
)
def test_edges_that_are_limits_of_the_search(variance):
    """|1 + √v e^{iθ}| of orthogonal layers is between |1 − √v| and 1 + √v."""
    skip = Residual(theory.affine(variance, weights="orthogonal"))
    behind = Chain((skip, theory.affine(2.0, weights="orthogonal")))
    root = math.sqrt(variance)
    for network, extra in [(skip, 0.0), (behind, math.log(2) / 2)]:
        edges = spectrum_edges(theory.jacobian_factors(network, 1.0))
        lower = math.log1p(-root) if root < 1 else math.log(root - 1)
        for e, exact in [(edges.log_lower, lower), (edges.log_upper, math.log1p(root))]:
            # Of |1 − √v| itself the closed form has lost digits.
            assert abs(e.value - exact - extra) <= e.error + 1e-15 / abs(1 - root)
            assert e.error < 1e-12 / min(abs(1 - root), 1)
        assert edges.fluctuation.status == Status.ABSENT


@pytest.mark.slow
@pytest.mark.parametrize("pair", [(1e-12, 0.5), (0.5, 1e-6)])
def test_a_layer_close_to_the_identity_moves_edges_little(pair):
    """Between smallest times smallest and largest times largest singular values."""
    orthogonal = lambda variance: Residual(theory.affine(variance, weights="orthogonal"))
    network = Chain(tuple(map(orthogonal, pair)))
    edges = spectrum_edges(theory.jacobian_factors(network, 1.0))
    for e, sign in [(edges.log_lower, -1), (edges.log_upper, 1)]:
        near = 1 + sign * math.sqrt(0.5)
        assert abs(e.value - math.log(near)) <= 1.001 * math.sqrt(min(pair))
        assert e.error < 1e-11
    # Not by more than the law of the larger layer alone ends.
    assert edges.log_lower.value < math.log(1 - math.sqrt(0.5))
    assert edges.log_upper.value > math.log(1 + math.sqrt(0.5))


def test_edges_of_two_layers_with_skip_connections_by_their_matrices():
    """Haar rotations with N = 1024: edges are off by N^(−2/3) at most."""
    rng = np.random.default_rng(0)
    draw = lambda: np.linalg.qr(rng.standard_normal((1024, 1024)))[0]
    product = np.eye(1024)
    for variance in (0.01, 0.5):
        q = draw()
        product = (np.eye(1024) + math.sqrt(variance) * q) @ product
    s = np.linalg.svd(product, compute_uv=False)
    layers = [Residual(theory.affine(v, weights="orthogonal")) for v in (0.01, 0.5)]
    edges = spectrum_edges(theory.jacobian_factors(Chain(tuple(layers)), 1.0))
    assert abs(math.log(s[-1]) - edges.log_lower.value) < 0.01
    assert abs(math.log(s[0]) - edges.log_upper.value) < 0.01


def test_what_is_no_number_has_no_answer():
    factors = theory.jacobian_factors(theory.layer(RELU, 2.0), 1.0)
    for depth in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"^`depth`: must be finite and at least 0"):
            factors.repeated(depth)
    nan = jnp.array([jnp.nan, 0.7])
    for e in (theory.spectrum.lyapunov_quantiles(factors, nan), quantiles(factors, nan)):
        assert e.status[0] == Status.INVALID
        assert np.isnan(e.value[0])
        assert e.status[1] != Status.INVALID
    for e in (lambda d: (d.density, d.cumulative))(distribution(factors, nan)):
        assert e.status[0] == Status.INVALID
        assert np.isnan(e.value[0])
