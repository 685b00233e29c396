"""The exponent of generic perturbations at finite width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import theory
from tests.tolerances import FOLD, LIMIT, SOLUTION
from theory import Status, radial
from theory.finite_width import generic_exponent

TANH, RELU = theory.radial("tanh"), theory.activation("relu")


def simulated(k, algebra, gain, width, chains, steps=150, discard=50):
    """Mean and standard error, from the exact law of one layer given the last.

    Given the second moments of φ(z) and Dt over the units of a layer, averaged over what commutes
    with the weights, the next z and t are Gaussian. What has mean zero by itself, functions of
    the unit normal numbers of a layer, is taken out by regression over the chains.
    """
    rng = np.random.default_rng([k, width])
    law = theory.WeightLaw(1.0, components=k, algebra=algebra)
    generators = orbit(k, law.table) if algebra != "dense" else np.zeros((0, k, k))
    trace = lambda x: np.trace(x, axis1=-2, axis2=-1)
    swapped = lambda x: x.transpose(0, 2, 1)
    moments = np.zeros((chains, 2 * k, 2 * k)) + np.diag([0.5] * k + [1.0] * k)
    expected = [scipy.stats.chi(k).moment(p) for p in range(4)]
    total, known = np.zeros(chains), 0.0
    for step in range(steps):
        x = rng.standard_normal((chains, width, 2 * k))
        y = x @ swapped(np.linalg.cholesky(moments))
        z, t = y[..., :k], y[..., k:]
        r = np.linalg.norm(z, axis=2, keepdims=True)
        n, g = z / r, np.tanh(r)
        radial = np.sum(n * t, axis=2, keepdims=True) * n
        y = np.concatenate([g * n, (1 - g**2) * radial + g / r * (t - radial)], axis=2)
        sums = gain**2 / width * (swapped(y) @ y)
        if algebra == "dense":
            average = lambda x: trace(x)[:, None, None] / k * np.eye(k)
        else:
            average = lambda x: np.mean([e @ x @ e.T for e in law.table], axis=0)
        zz, tz, tt = (average(m) for m in (sums[:, :k, :k], sums[:, k:, :k], sums[:, k:, k:]))
        # What lies along the orbit: the antisymmetric R, in their span, of smallest E |t − R z|².
        gram = np.einsum("apq,cqr,bpr->cab", generators, zz, generators)
        overlap = np.einsum("apq,cpq->ca", generators, tz)
        rotation = np.linalg.solve(gram, overlap[..., None])[..., 0] @ generators.reshape(-1, k * k)
        rotation = rotation.reshape(chains, k, k)
        crossed = tz @ swapped(rotation)
        tt = tt - crossed - swapped(crossed) + rotation @ zz @ swapped(rotation)
        tz = tz - rotation @ zz
        growth = (trace(tt) / k)[:, None, None]
        tt, tz = tt / growth, tz / np.sqrt(growth)
        moments = np.block([[zz, swapped(tz)], [tz, tt]])
        if step >= discard:
            total += np.log(growth[:, 0, 0]) / 2
            known += mean_zero(x[..., :k], x[..., k:], expected)
    regressors = np.column_stack([np.ones(chains), known])
    each = total / (steps - discard)
    found, residual = np.linalg.lstsq(regressors, each)[:2]
    inverse = np.linalg.inv(regressors.T @ regressors)
    freedom = chains - regressors.shape[1]
    return found[0], np.sqrt(inverse[0, 0] * residual[0] / freedom)


def mean_zero(x, t, expected):
    """Means over units of functions of two standard Gaussian vectors; `expected` is E |x|^p."""
    k = x.shape[2]
    rho = np.linalg.norm(x, axis=2)
    along = (np.sum(x * t, axis=2) / rho) ** 2
    rest = np.sum(t * t, axis=2) - along
    found = [rho**p * (along - 1) for p in range(3)]
    found += [rho**p - expected[p] for p in (1, 2, 3)]
    found += [rho**p * (rest - (k - 1)) for p in range(3) if k > 1]
    return np.stack([f.mean(axis=1) for f in found], axis=1)


def orbit(k, table):
    """A basis of the antisymmetric matrices that commute with the weights."""
    rows, columns = np.triu_indices(k, 1)
    basis = np.zeros((len(rows), k, k))
    basis[np.arange(len(rows)), rows, columns] = 1
    basis -= basis.transpose(0, 2, 1)
    averaged = np.mean([e @ basis @ e.T for e in table], axis=0).reshape(len(rows), k * k)
    values, vectors = np.linalg.svd(averaged)[1:]
    return vectors[: np.sum(values > 1e-9)].reshape(-1, k, k)


@pytest.mark.parametrize(
    "k, algebra, gain, chains, wrong",
    [
        (1, "real", 1.6, 500, 1.1),
        pytest.param(2, "complex", 1.6, 300, 1.1, marks=pytest.mark.slow),
        pytest.param(4, "quaternion", 1.6, 250, 1.1, marks=pytest.mark.slow),
        pytest.param(2, "dense", 1.6, 400, 1.1, marks=pytest.mark.slow),
        pytest.param(4, "real", 2.5, 500, 1.2, marks=pytest.mark.slow),
        pytest.param(4, "complex", 2.5, 500, 1.2, marks=pytest.mark.slow),
        pytest.param(8, "quaternion", 2.5, 250, 1.2, marks=pytest.mark.slow),
        pytest.param(4, "real", 2.5, 5000, 1.1, marks=pytest.mark.slow),
    ],
)
def test_first_order_in_the_width(k, algebra, gain, chains, wrong):
    """Within the noise of the exact chain, which a coefficient that is 10 or 20 % off is not.

    With several numbers in a unit the smaller the gain, the larger are higher orders, for the
    tangent's anisotropy is then forgotten within tens of layers only.
    """
    found = generic_exponent(TANH, gain**2, components=k, algebra=algebra)
    scaled = []
    for width in (64, 128):
        value, error = simulated(k, algebra, gain, width, chains)
        scaled.append((width * (value - float(found.limit.value)), width * error))
    # Two widths take out the next order.
    coefficient = 2 * scaled[1][0] - scaled[0][0]
    error = np.hypot(2 * scaled[1][1], scaled[0][1])
    first = float(found.coefficient.value)
    assert abs(coefficient - first) < 4 * error
    assert abs(coefficient - wrong * first) > 4 * error
    for n, (value, noise) in zip((64, 128), scaled, strict=True):
        law = found.at(n)
        off = abs(value / n + float(found.limit.value) - float(law.value))
        assert off < law.error + 4 * noise / n


@pytest.mark.parametrize(
    "k, algebra, closed",
    [
        (1, "real", -1 / 2),
        (2, "real", 0),
        (4, "real", 1 / 4),
        (8, "real", 3 / 8),
        (2, "complex", -1 / 2),
        (4, "complex", -1 / 4),
        (8, "quaternion", -3 / 8),
        (4, "dense", -1 / 8),
    ],
)
@pytest.mark.parametrize(
    "phi", [TANH, pytest.param(theory.radial(jnp.arctan), marks=pytest.mark.slow)]
)
def test_at_the_onset(k, algebra, closed, phi):
    """1/d − 1/2 − 1/k and −1/(2k): all terms expanded in σ_w² − 1 by computer algebra."""
    distance = np.array([1e-3, 2e-3])
    found = [generic_exponent(phi, 1 + e, components=k, algebra=algebra) for e in distance]
    limit, coefficient = np.array([(e.limit.value, e.coefficient.value) for e in found]).T
    # Two distances take out the next order.
    assert 2 * coefficient[0] - coefficient[1] == pytest.approx(closed, abs=2e-4)
    scaled = limit / distance**2
    assert 2 * scaled[0] - scaled[1] == pytest.approx(1 / (2 * (k + 2)), rel=LIMIT)


def test_an_odd_function_is_radial_with_one_component():
    one = generic_exponent(theory.activation("tanh"), 2.0)
    two = generic_exponent(TANH, 2.0)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=FOLD, atol=FOLD)


def test_the_limit_is_half_log_chi():
    """χ by scipy's `quad` at the root of the length map that its `brentq` finds."""
    found = generic_exponent(TANH, 1.5**2)
    assert float(found.limit.value) == pytest.approx(0.5 * np.log(1.1393232249854865), rel=SOLUTION)


def test_there_is_none_without_a_stable_length():
    cycle = radial(lambda r: r * jnp.exp(-(r**2)))  # has a 2-cycle of lengths at 20
    for phi, variance, k in [(TANH, 0.9, 4), (radial(lambda r: r), 1.5, 2), (cycle, 20.0, 8)]:
        found = generic_exponent(phi, variance, components=k)
        for e in (found.limit, found.coefficient, found.at(64)):
            assert np.isnan(e.value)
            assert e.status == Status.ABSENT


@pytest.mark.parametrize("distance", [1e-3, 1e-6, 1e-9, 1e-12, 1e-14])
def test_the_error_is_honest_close_to_the_onset(distance):
    """There all small differences cancel, and ¼ + O(distance) is left for O(4)."""
    e = generic_exponent(TANH, 1 + distance, components=4).coefficient
    assert abs(float(e.value) - 0.25) <= float(e.error) + 2 * distance
    assert (e.status == Status.OK) == (distance > 1e-8)


def test_the_expansion_says_where_it_does_not_hold():
    """n λ of the exact chain of O(4) and of dense units, simulated apart from the library."""
    for k, gain, n, exact in [(4, 1.5, 16, -0.00995), (4, 2.2, 16, 0.0166), (1, 1.8, 16, 0.041)]:
        e = generic_exponent(TANH, gain**2, components=k).at(n)
        assert abs(float(e.value) - exact) <= e.error
        assert e.status == Status.INACCURATE
    assert generic_exponent(theory.activation("relu"), 2.0).at(64).status == Status.OK


@pytest.mark.parametrize(
    "n, slope, growth",
    [
        (16, 1.0, -0.0638000637242),
        (16, 0.1, -0.169336420974),
        (16, 0.0, -0.176397324407),
        (64, 0.0, -0.0401085988357),
        (100, 0.01, -0.0254144292484),
    ],
)
def test_piecewise_linear_networks_have_an_exact_law(n, slope, growth):
    """E log of the growth of squares: by mpmath, and by brute networks to .004."""
    phi = theory.activation("leaky_relu", negative_slope=slope) if slope else RELU
    variance = 2 / (1 + slope**2)
    found = generic_exponent(theory.activation("linear") if slope == 1 else phi, variance)
    e = found.at(n)
    assert abs(2 * float(e.value) - growth) < 2 * e.error + 1e-12
    assert e.error < 1e-13
    assert abs(float(found.limit.value)) < 1e-15
    many = found.at([10**5, 10**6])
    scaled = np.array([1e5, 1e6]) * many.value
    np.testing.assert_allclose(scaled, found.coefficient.value, rtol=1e-4)


@pytest.mark.parametrize("n", [1, 7, 300, 600, 2000, 1e5, 1e6, 1e9, 1e12, 1e16])
def test_relu_networks_of_any_width(n):
    """½ (log(2v/n) + E ψ(J/2)) with J > 0 of n units alive; its expansion where n is large."""
    e = generic_exponent(RELU, 2.0).at(n)
    if n <= 2000:
        alive = np.arange(1, n + 1)
        chance = scipy.stats.binom.pmf(alive, n, 0.5)
        mean = np.sum(chance * scipy.special.digamma(alive / 2)) / np.sum(chance)
        exact = 0.5 * (np.log(4 / n) + mean)
    else:
        exact = -1.25 / n - 49 / 24 / n**2
    assert abs(e.value - exact) <= e.error + 1e-14 * (n <= 2000)
    assert e.error < 1e-13


def test_lengths_with_several_fixed_points_have_no_answer():
    """σ_w² E g²/q is .95 for q → 0 and for q → ∞, and above 1 between."""
    phi = theory.componentwise(lambda z: z + jnp.tanh(z) ** 3, parity="odd")
    both = theory.radial(lambda r: r * (1 + r**2 / (1 + r**2)) / (1 + (r / 30) ** 2))
    assert np.isnan(generic_exponent(phi, 0.95).limit.value)
    assert np.isnan(generic_exponent(both, 0.95).limit.value)
    assert generic_exponent(both, 1.05).limit.status == Status.OK


def test_bad_arguments():
    with pytest.raises(ValueError, match="`components`: complex weights act on"):
        generic_exponent(TANH, 2.0, components=3, algebra="complex")
    with pytest.raises(ValueError, match="`activation`: must be radial, or odd with one component"):
        generic_exponent(theory.activation("gelu"), 2.0)
    # tanh of the real and of the imaginary part does not commute with U(1).
    with pytest.raises(ValueError, match="got tanh with 2"):
        generic_exponent(theory.activation("tanh"), 2.0, components=2, algebra="complex")
