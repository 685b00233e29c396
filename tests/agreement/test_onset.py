"""The onset of the broken phase: its exponents, and what finite width makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sigprop
import theory
from tests.tolerances import FOLD, LIMIT

TANH = theory.radial("tanh")


@pytest.mark.slow
def test_mean_field_exponents():
    """q* = t/α to first order, so that m ∝ √q has exponent ½."""
    k = 4
    build = lambda weight_variance: theory.layer(TANH, weight_variance, components=k)
    t = np.array([1e-4, 2e-4, 4e-4])
    diagram = theory.sector_diagram(build, {"weight_variance": 1 + t})
    alpha = float(theory.finite_width.onset_curvature(TANH, k))
    np.testing.assert_allclose(diagram["length"] * alpha / t, 1, rtol=0, atol=LIMIT)
    for name, exponent in (("length", 1.0), ("order_parameter", 0.5)):
        slopes = np.diff(np.log(diagram[name])) / np.log(2)
        np.testing.assert_allclose(slopes, exponent, rtol=0, atol=LIMIT)


def test_the_curvature_is_what_the_length_map_has():
    q = 1e-4
    for k in (1, 2, 8):
        square = theory.gaussian._radial_moments.radial_moments(TANH, q, k)[0].square
        assert (1 - square / q) / q == pytest.approx(
            float(theory.finite_width.onset_curvature(TANH, k)), rel=LIMIT
        )
    # E erf(z)² = (2/π) asin(2q/(1 + 2q)) = (4/π)(q − 2q² + …)
    assert theory.finite_width.onset_curvature(theory.activation("erf")) == pytest.approx(
        2, rel=FOLD
    )
    for wrong in (theory.activation("relu"), theory.activation("gelu"), theory.radial("threshold")):
        with pytest.raises(ValueError, match="`activation`"):
            theory.finite_width.onset_curvature(wrong)


def lengths(k, algebra, width, x, replicas):
    """α N q per network and layer of an ensemble at N t = x, after 4 N layers of 24 N."""
    size = width * k
    network = theory.feedforward(TANH, 1 + x / size, components=k, algebra=algebra, depth=24 * size)
    alpha = float(theory.finite_width.onset_curvature(TANH, k))
    start = jax.random.normal(jax.random.key(1), (1, 16, k)) * np.sqrt(x / (alpha * size))
    sample = sigprop.sample_ensemble(
        network,
        start.astype(jnp.float32),
        width=width,
        replicas=replicas,
        explicit_weights=False,
    )
    q = np.asarray(theory.length(sample.samples.moments), float)[:, 4 * size :, 0]
    return alpha * size * q


@pytest.mark.slow
@pytest.mark.parametrize(("k", "algebra"), [(1, "real"), (2, "complex")])
def test_finite_networks_follow_the_gamma_law(k, algebra):
    """Extrapolated in 1/N: mean and variance of α N q are both N t − 1."""
    x = 6.0
    widths = (48 // k, 96 // k)
    law = theory.finite_width.onset_law(
        TANH, 1 + x / 48, width=widths[0], components=k, algebra=algebra
    )
    alpha = float(theory.finite_width.onset_curvature(TANH, k))
    expected = {"mean": law.mean * alpha * 48, "variance": (law.deviation * alpha * 48) ** 2}
    assert expected["mean"] == pytest.approx(x - 1, rel=FOLD)
    found = {}
    for width in widths:
        y = lengths(k, algebra, width, x, 192)
        squares = (y - y.mean()) ** 2
        found[width] = {"mean": y.mean(axis=1), "variance": squares.mean(axis=1)}
    for name, exact in expected.items():
        narrow, wide = (found[width][name] for width in widths)
        spread = lambda each: each.std(ddof=1) / np.sqrt(len(each))
        error = np.hypot(2 * spread(wide), spread(narrow))
        z = (2 * wide.mean() - narrow.mean() - exact) / error
        assert abs(z) < 5, (name, z)
        assert 1.0 / error > 5  # without the shift by 1/N it would be rejected


@pytest.mark.slow
def test_other_groups_collapse_too():
    """N q is one function of N t, not that of the scalar law: ranks set in one by one."""
    k, x = 2, 8.0
    narrow, wide = (lengths(k, "real", n, x, 96).mean(axis=1) for n in (24, 48))
    error = np.hypot(*(each.std(ddof=1) / np.sqrt(len(each)) for each in (narrow, wide)))
    assert abs(wide.mean() - narrow.mean()) < 5 * error + 0.05 * wide.mean()
    assert wide.mean() < x - 1 - 5 * error


def test_below_the_onset_width_forgets():
    law = theory.finite_width.onset_law(TANH, 1 + 0.5 / 64, width=64)
    assert (law.mean, law.deviation) == (0, 0)
    y = lengths(1, "real", 32, 0.3, 32)
    assert np.median(y[:, -1]) < 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [({"components": 2}, "`components`"), ({"width": 0}, "`width`")],
)
def test_impossible_requests_name_the_field(change, message):
    with pytest.raises(ValueError, match=message):
        theory.finite_width.onset_law(TANH, 1.1, **{"width": 8, **change})
