"""Which of several fixed points a length reaches, from where it starts.

Oracle: exact maps of the length, followed layer by layer in extended precision.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_ndtr, ndtr

import theory
from tests.honesty.campaign import Campaign
from theory import Status
from theory.numerics._compiled import hasty_options


def window(q):
    """E φ² for φ = 1 beyond |z| = 1 and 0 within."""
    return 2 * np.exp(log_ndtr(-1 / np.sqrt(q)))


def hinge(q):
    """E φ² for φ = max(|z| − 1, 0) up to |z| = 3, constant beyond."""
    s = np.sqrt(q)
    a, b = 1 / s, 3 / s
    density = lambda t: np.exp(-t * t / 2) / np.sqrt(2 * np.pi)
    mass = ndtr(-a) - ndtr(-b)
    first = density(a) - density(b)
    second = mass + a * density(a) - b * density(b)
    return 2 * (q * second - 2 * s * first + mass + 4 * ndtr(-b))


STARTS = (1e-3, 0.3, 3.0, 1e3)

CASES = {
    "window": (
        theory.componentwise(
            lambda z: jnp.where(jnp.abs(z) > 1, jnp.ones_like(z), 0),
            kinks=[1.0],
            scale=1e9,
            parity="even",
        ),
        window,
    ),
    "hinge": (
        theory.componentwise(
            lambda z: jnp.clip(jnp.abs(z) - 1, 0, 2), kinks=[1.0, 3.0], scale=1e9, parity="even"
        ),
        hinge,
    ),
}


def limit(square, w, b, start):
    """Where q ↦ w E φ² + b ends, and how far one layer still moves it relative to 1 − λ."""
    after = lambda q: w * square(q) + b
    q = start
    for _ in range(3000):
        new = after(q)
        if np.all(np.abs(new - q) <= 1e-16 * q):
            break
        q = new
    rate = (after(q * (1 + 1e-5)) - after(q * (1 - 1e-5))) / (2e-5 * q)
    return q, np.abs(after(q) - q) / q, rate


def campaign(cases, names=tuple(CASES), seed=0):
    judge, rng = Campaign("starts between several fixed points"), np.random.default_rng(seed)
    for name in names:
        phi, square = CASES[name]
        each = cases // len(names)
        # Around the onset of a second stable fixed point, and beyond.
        w = 10 ** rng.uniform(0, 2, each)
        b = 10 ** rng.uniform(-3, 0, each)
        start = np.resize(STARTS, each)
        find = lambda w, b, s, phi=phi: theory.predict(theory.layer(phi, w, b), start=s).length
        if each < 100:  # no program is worth its compilation
            each_found = [find(*one) for one in zip(w, b, start, strict=True)]
            found = jax.tree.map(lambda *parts: np.array(parts), *each_found)
        else:
            found = jax.jit(jax.vmap(find), compiler_options=hasty_options())(w, b, start)
        values, errors, status = found.value, found.error, found.status
        q, moved, rate = limit(square, w, b, start)
        ends = [limit(square, w, b, np.full(each, s))[0] for s in (1e-4, 1e4)]
        several = np.sum(np.abs(np.log(ends[0] / ends[1])) > 1e-6)
        for i in range(each):
            if not (moved[i] < 1e-14 and abs(rate[i]) < 1 - 1e-3):
                continue
            label = f"{name} w={w[i]!r} b={b[i]!r} start={start[i]!r}"
            if status[i] not in (Status.OK, Status.INACCURATE):
                judge.claim(f"{label} status {status[i]}", False, True)
                continue
            slack = 1e-13 * q[i] / (1 - abs(rate[i]))
            judge.number(label, values[i], errors[i], q[i], truth_error=slack)
        assert several > each / 20, "cases with two stable fixed points"
    return judge


@pytest.mark.parametrize(
    ("cases", "names"),
    [(10, ["hinge"]), pytest.param(10_000, list(CASES), marks=pytest.mark.slow)],
)
def test_the_right_one_of_several_fixed_points_is_reached(cases, names):
    campaign(cases, names).check(most_unknown=0.05)
