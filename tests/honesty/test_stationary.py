"""The stationary state of recurrent networks under noise of any size."""

import mpmath as mp
import numpy as np
import pytest

import theory
from tests.honesty.campaign import Campaign
from tests.honesty.pair_maps import DIGITS
from tests.honesty.test_correlations import MAPS, parameters


def campaign(cases, seed=0, maps=MAPS):
    """Five numbers for each of `cases`/5 networks."""
    mp.mp.dps = DIGITS
    rng, judge = np.random.default_rng(seed), Campaign("stationary states")
    share = np.array([weight for _, _, weight in maps])
    for which in rng.choice(len(maps), max(cases // 5, 1), p=share / share.sum()):
        phi, pair_map, _ = maps[which]
        w, b = parameters(rng, pair_map)
        noise = 10 ** rng.uniform(-14, 2)
        weight, added = mp.mpf(w), mp.mpf(noise)
        q = pair_map.fixed_length(weight, mp.mpf(b) + added)
        x = pair_map.fixed_separation(weight, q, added)
        chi = weight * pair_map.slope(q, mp.mpf(0))
        found = theory.phases.stationary_state(theory.layer(phi, w, b), noise)
        exact = {
            "length": q,
            "correlation": 1 - x,
            "separation": x,
            "slope": chi,
            "exponent": mp.log(chi) / 2,
        }
        for name, value in exact.items():
            estimate = getattr(found, name)
            value = np.longdouble(mp.nstr(value, 25))
            label = f"{phi.name}({w!r}, {b!r}), noise {noise!r}: {name}"
            judge.number(label, estimate.value, estimate.error, value)
    return judge


@pytest.mark.parametrize("cases", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_stationary_state_lies(cases):
    maps = MAPS if cases > 1000 else MAPS[:1]
    campaign(cases, maps=maps).check(most_unknown=0.05)
