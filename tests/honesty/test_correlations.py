"""c*, 1 − c*, the slope there, ξ_c and the phase, far from criticality and up to it."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

import theory
from tests.honesty.campaign import Campaign
from tests.honesty.pair_maps import DIGITS, ERF, RELU, SIGN, SIN, STEP
from theory import Phase

SIGNUM = theory.componentwise(jnp.sign, kinks=[0.0], scale=1e9, parity="odd")
HEAVISIDE = theory.componentwise(
    lambda z: jnp.where(z > 1, 1.0, 0.0), kinks=[1.0], scale=1e9, name="step"
)
# By quadrature, as a user would have it.
OWN_ERF = theory.componentwise(jax.lax.erf, scale=0.7, parity="odd", name="own erf")

MAPS = [
    (theory.activation("erf"), ERF, 0.4),
    (theory.activation("sin"), SIN, 0.15),
    (theory.activation("relu"), RELU, 0.05),
    (OWN_ERF, ERF, 0.25),
    (SIGNUM, SIGN, 0.1),
    (HEAVISIDE, STEP, 0.05),
]


def parameters(rng, pair_map):
    """(σ_w², σ_b²): anywhere, or 1e-14 to 1e-1 from criticality."""
    if pair_map is RELU:
        return 2 - 2 * 10 ** rng.uniform(-4, 0), 10 ** rng.uniform(-8, 1)
    if pair_map in (SIGN, STEP):
        low = 0.5 if pair_map is STEP else -8
        return 10 ** rng.uniform(low, 3), 10 ** rng.uniform(-1, 3)
    if rng.random() < 0.4:
        return 10 ** rng.uniform(-3, 2.5), 10 ** rng.uniform(-8, 3)
    q = mp.mpf(10 ** rng.uniform(-3, 1.5))
    w = 1 / pair_map.slope(q, 0)
    b = q - w * pair_map.length(q)
    distance = rng.choice([-1, 1]) * 10 ** rng.uniform(-14, -1)
    return float(w * (1 + distance)), max(float(b), 0.0)


def truth(pair_map, w, b):
    """χ, x = 1 − c*, S(x) and ξ_c."""
    w, b = mp.mpf(w), mp.mpf(b)
    q = pair_map.fixed_length(w, b)
    chi = w * pair_map.slope(q, mp.mpf(0))
    x = pair_map.fixed_separation(w, q) if chi > 1 else mp.mpf(0)
    slope = w * pair_map.slope(q, x)
    return chi, x, slope, -1 / mp.log(slope)


def campaign(cases, seed=0, maps=MAPS):
    """Five numbers and words for each of `cases`/5 layers."""
    mp.mp.dps = DIGITS
    rng, judge = np.random.default_rng(seed), Campaign("correlations")
    share = np.array([weight for _, _, weight in maps])
    for which in rng.choice(len(maps), max(cases // 5, 1), p=share / share.sum()):
        phi, pair_map, _ = maps[which]
        w, b = parameters(rng, pair_map)
        chi, x, slope, depth = truth(pair_map, w, b)
        found = theory.predict(theory.layer(phi, w, b))
        label = f"{phi.name}({w!r}, {b!r})"
        exact = {
            "separation": x,
            "correlation": 1 - x,
            "correlation_slope": slope,
            "depth_scale_correlation": depth,
        }
        for name, value in exact.items():
            estimate = getattr(found, name)
            value = np.longdouble(mp.nstr(value, 25))
            judge.number(f"{label} {name}", estimate.value, estimate.error, value)
        phase = Phase(int(found.phase))
        near = abs(float(chi - 1)) <= 1.01e-10 + 2 * float(found.slope.error)
        true = Phase.CHAOTIC if chi > 1 else Phase.ORDERED
        judge.claim(f"{label} phase", phase, phase if near else true, unknown=phase.value == 4)
    return judge


@pytest.mark.parametrize("cases", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_correlation_lies(cases):
    maps = MAPS if cases > 1000 else MAPS[:1]
    campaign(cases, maps=maps).check(most_unknown=0.05)
