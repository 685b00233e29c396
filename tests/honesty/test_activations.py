"""Values and slopes of the named activations against arbitrary precision, in both precisions.

The truth is that at the float that goes in. What `activation` promises stands as the error.
"""

import math
from statistics import NormalDist

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from mpmath import mp, mpf

import theory
from tests.honesty.campaign import Campaign
from tests.tolerances import FOLD
from theory import activation
from theory.description import ACTIVATION_NAMES

_DIGITS = 50
_ROUNDINGS = 8


def sigmoid(z):
    return 1 / (1 + mpmath.exp(-z))


def bump(z):
    return 1 / (4 * mpmath.cosh(z / 2) ** 2)


def elu(z, alpha, scale=1):
    if z > 0:
        return scale * z, mpf(scale)
    return scale * alpha * mpmath.expm1(z), scale * alpha * mpmath.exp(z)


def gelu(z):
    below, density = mpmath.erfc(-z / mpmath.sqrt(2)) / 2, mpmath.npdf(z)
    return z * below, below + z * density, below + abs(z) * density


def exponent(z):
    """The argument of the sigmoid in gelu_tanh."""
    return 2 * mpmath.sqrt(2 / mp.pi) * (z + mpf("0.044715") * z**3)


def gelu_tanh(z):
    twice = exponent(z)
    rate = 2 * mpmath.sqrt(2 / mp.pi) * (1 + 3 * mpf("0.044715") * z**2)
    below, by_hand = sigmoid(twice), z * rate * bump(twice)
    return z * below, below + by_hand, below + abs(by_hand)


def silu(z):
    below, by_hand = sigmoid(z), z * bump(z)
    return z * below, below + by_hand, below + abs(by_hand)


SELU = mpf("1.6732632423543772848170429916717"), mpf("1.0507009873554804934193349852946")

EXACT = {
    "elu": lambda z: elu(z, 1),
    "erf": lambda z: (mpmath.erf(z), 2 / mpmath.sqrt(mp.pi) * mpmath.exp(-z * z)),
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "hard_tanh": lambda z: (min(max(z, mpf(-1)), mpf(1)), mpf(abs(z) < 1)),
    "leaky_relu": lambda z: (z, mpf(1)) if z >= 0 else (z / 100, mpf(1) / 100),
    "linear": lambda z: (z, mpf(1)),
    "relu": lambda z: (max(z, mpf(0)), mpf(z > 0)),
    "selu": lambda z: elu(z, *SELU),
    "sigmoid": lambda z: (sigmoid(z), bump(z)),
    "silu": silu,
    "sin": lambda z: (mpmath.sin(z), mpmath.cos(z)),
    "softplus": lambda z: (mpmath.log1p(mpmath.exp(z)), sigmoid(z)),
    "tanh": lambda z: (mpmath.tanh(z), 1 / mpmath.cosh(z) ** 2),
}
"""z ↦ φ, φ' and, where φ' has a zero between terms of both signs, the sum of their sizes."""


def draw(rng, cases, dtype):
    """±[1e-8, 1e3], and as many where saturated slopes are still above the smallest number."""
    far = np.exp(rng.uniform(np.log(1e-8), np.log(1e3), cases - cases // 2))
    near = rng.uniform(0, 40, cases // 2)
    z = np.concatenate([far, near]) * rng.choice([-1, 1], cases)
    return z.astype(dtype)


def campaign(cases, seed=0):
    """`cases` points for every activation and precision."""
    rng = np.random.default_rng(seed)
    found = Campaign("slopes of activations")
    for name in ACTIVATION_NAMES:
        phi = activation(name)
        for dtype in (np.float32, np.float64):
            z = draw(rng, cases, dtype)
            both = jax.jit(lambda z, phi=phi: phi.with_slope(z))(jnp.asarray(z))
            value, slope = map(np.asarray, both)
            kind = np.finfo(dtype)
            assert value.dtype == slope.dtype == dtype
            with mp.workdps(_DIGITS):
                exact = [EXACT[name](mpf(float(x))) for x in z]
                roundings = np.full(cases, float(_ROUNDINGS))
                if name == "gelu_tanh":
                    roundings += [2 * float(abs(exponent(mpf(float(x))))) for x in z]
            size = [np.asarray([float(e[i]) for e in exact]) for i in (0, 1, -1)]
            least = 1e4 * kind.tiny
            for what, got, truth, scale in (
                ("value", value, size[0], np.abs(size[0])),
                ("slope", slope, size[1], np.abs(size[2])),
            ):
                error = roundings * kind.eps * scale + least
                for x, *number in zip(z, got, error, truth, strict=True):
                    found.number(f"{name}({x!r}) {what}", *number)
    return found


@pytest.mark.parametrize("cases", [40, pytest.param(10_000, marks=pytest.mark.slow)])
def test_values_and_slopes_have_relative_accuracy(cases):
    campaign(cases).check(most_unknown=0)


def quantiles(fractions, q, weight_variance):
    """log s of one layer of tanh with orthogonal weights: σ_w/cosh² of a normal quantile."""
    x = [math.sqrt(q) * NormalDist().inv_cdf(1 - f / 2) for f in fractions]
    with mp.workdps(30):
        return [float(mpmath.log(weight_variance) / 2 - 2 * mpmath.log(mpmath.cosh(y))) for y in x]


FRACTIONS = (0.02, 0.1, 0.2, 0.3, 0.5, 0.9)


@pytest.mark.parametrize(
    ("q", "most_unknown"),
    [(400.0, 0.2), pytest.param(1e4, 0.2, marks=pytest.mark.slow), (1e5, 0.9)],
)
def test_saturated_units_are_not_dead(q, most_unknown):
    """Also where their slopes are below the smallest number, beyond z = 372."""
    found = Campaign("saturated spectra")
    layer = theory.layer(activation("tanh"), 400.0, 0.0, weights="orthogonal")
    factors = theory.jacobian_factors(layer, q)
    assert factors.law.mass_at_zero == factors.check.mass_at_zero == 0
    at = theory.singular_value_quantiles(factors, jnp.asarray(FRACTIONS))
    truth = quantiles(FRACTIONS, q, 400)
    if q == 400:
        np.testing.assert_allclose(
            truth[:4], [-88.67, -61.41, -46.88, -37.08], rtol=0, atol=0.006
        )  # within: printed
    found.number(f"quantiles at {q}", at.value, at.error, truth)
    there = theory.singular_value_distribution(factors, jnp.asarray(truth)).cumulative
    shares = Campaign("saturated spectra, cumulative")
    shares.number(f"cumulative at {q}", there.value, there.error, FRACTIONS)
    shares.check(most_unknown=0)
    found.check(most_unknown=most_unknown)


def test_a_slope_that_lost_its_digits_leaves_the_mass_at_zero_open():
    """jnp.tanh itself, whose derivative is 1 − tanh², and the dead units of a clipped line."""
    fractions = jnp.asarray(FRACTIONS)
    user = theory.componentwise(jnp.tanh, parity="odd")
    for phi, mass in ((user, None), (activation("hard_tanh"), math.erfc(-1 / math.sqrt(800)) - 1)):
        layer = theory.layer(phi, 400.0, 0.0, weights="orthogonal")
        found = theory.spectrum.jacobian_spectrum(layer, 400.0).mass_at_zero
        if mass is None:
            assert abs(found.value) <= found.error
            assert found.status != theory.Status.OK
            at = theory.singular_value_quantiles(theory.jacobian_factors(layer, 400.0), fractions)
            assert np.all(np.isinf(at.error[:4]))
        else:
            np.testing.assert_allclose(found.value, 1 - mass, rtol=FOLD)
            assert found.status == theory.Status.OK
