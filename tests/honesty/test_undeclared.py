"""Moments of functions whose kinks and jumps nobody has declared.

φ(z) = (z − k) for z > k, with a step of size j there and slope s below. Truth: closed forms of one
variable; of two, the inner integral in closed form and the outer by Gauss–Legendre between
declared ends, by NumPy alone.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

import theory
from tests.honesty.campaign import Campaign
from theory.gaussian._moments import pair_moments, single_moments


def bent(z, k, below, step):
    return jnp.where(z > k, z - k + step, below * (z - k))


def of_one(q, k, below, step):
    """E φ, E φ², E φ'² of the pieces a + b z below and above k."""
    s = np.sqrt(q)
    tail, density = ndtr(-k / s), np.exp(-((k / s) ** 2) / 2) / np.sqrt(2 * np.pi)
    above = (tail, s * density, q * tail + k * s * density)  # E 1, z, z² beyond k
    whole = (1.0, 0.0, q)
    pieces = [(below * -k, below, [w - a for w, a in zip(whole, above, strict=True)])]
    pieces += [(step - k, 1.0, above)]
    mean = sum(a * m[0] + b * m[1] for a, b, m in pieces)
    square = sum(a * a * m[0] + 2 * a * b * m[1] + b * b * m[2] for a, b, m in pieces)
    return mean, square, sum(b * b * m[0] for _, b, m in pieces)


NODES, WEIGHTS = np.polynomial.legendre.leggauss(40)


def of_two(q, x, k, below, step):
    """E φ(u)φ(v) and E φ'(u)φ'(v) at equal lengths and correlation 1 − x."""
    s, c = np.sqrt(q), 1 - x
    narrow = s * np.sqrt(x * (2 - x))
    # The inner mean changes within `narrow`/|c| of where c u = k.
    around = [k / c + narrow / abs(c) * t for t in range(-9, 10)] if c else []
    ends = np.unique(np.clip([*np.linspace(-9.5 * s, 9.5 * s, 40), k, *around], -9.5 * s, 9.5 * s))
    a, b = ends[:-1, None], ends[1:, None]
    u = ((a + b) / 2 + (b - a) / 2 * NODES).ravel()
    weight = ((b - a) / 2 * WEIGHTS).ravel() * np.exp(-((u / s) ** 2) / 2) / np.sqrt(2 * np.pi) / s
    far = (k - c * u) / narrow
    tail, density = ndtr(-far), np.exp(-(far**2) / 2) / np.sqrt(2 * np.pi)
    lift = (c * u - k) * tail + narrow * density  # E (v − k)₊ given u
    inner = (1 - below) * lift + below * (c * u - k) + step * tail
    slope = below + (1 - below) * tail
    value = np.where(u > k, u - k + step, below * (u - k))
    return weight @ (value * inner), weight @ (np.where(u > k, 1.0, below) * slope)


@functools.cache
def by_library(pair):
    def each(numbers):
        q, x, k, below, step = numbers
        phi = theory.componentwise(lambda z: bent(z, k, below, step))
        if pair:
            return pair_moments(phi, q, q, x, equal_lengths=True)
        return single_moments(phi, q)

    return eqx.filter_jit(lambda numbers: jax.lax.map(each, tuple(numbers)))


def drawn(rng, cases):
    q = 10 ** rng.uniform(-4, 4, cases)
    x = np.where(rng.random(cases) < 0.5, 10 ** rng.uniform(-8, 0, cases), rng.uniform(0, 2, cases))
    k = rng.choice([-1, 1], cases) * np.sqrt(q) * 10 ** rng.uniform(-6, 0.4, cases)
    below = rng.choice([0.0, 0.3, -1.0], cases)
    step = np.sqrt(q) * rng.normal(size=cases) * (rng.random(cases) < 0.3)
    return np.stack([q, x, k, below, step])


def campaign(cases, pair, seed=0):
    kind = "two variables" if pair else "one variable"
    said = Campaign(f"moments with undeclared kinks, {kind}")
    rng = np.random.default_rng(seed)
    numbers = drawn(rng, cases)
    values, errors = by_library(pair)(jnp.asarray(numbers))
    for i, (q, x, k, below, step) in enumerate(numbers.T):
        label = f"q={float(q)!r} x={float(x)!r} k={float(k)!r} {below} step {float(step)!r}"
        if pair:
            truth = dict(zip(("product", "slope"), of_two(q, x, k, below, step), strict=True))
            square = of_one(q, k, below, step)[1]
            truth["distance"] = square - truth["product"]
            scale = {"product": square, "slope": 1.0, "distance": 3 * square}
            if step:  # what two inputs meet of the jump is in no rule
                unknown = bool(np.isinf(errors.slope[i]))
                said.claim(f"slope {label}", unknown, True)
                del truth["slope"]
        else:
            names = ("mean", "square", "derivative_square")
            truth = dict(zip(names, of_one(q, k, below, step), strict=True))
            if step:  # φ' is not integrable in square
                truth["derivative_square"] = np.inf
            size = of_one(q, k, below, step)[1]
            scale = {"mean": np.sqrt(size), "square": size, "derivative_square": 1.0}
        for name, exact in truth.items():
            value, error = getattr(values, name)[i], getattr(errors, name)[i]
            slack = 3e-15 * scale[name] if np.isfinite(exact) else 0.0
            said.number(f"{name} {label}", value, error, exact, truth_error=slack)
    return said


@pytest.mark.parametrize("cases", [150, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("pair", [False, True])
def test_undeclared_kinks_show_in_the_error(cases, pair):
    campaign(cases, pair).check(most_unknown=0.5)
