"""Formulas of finite width, and of linear residual networks: closed forms in many digits."""

import math

import mpmath as mp
import numpy as np
import pytest

import theory
from tests.honesty.campaign import Campaign

SIZES = [60, pytest.param(10_000, marks=pytest.mark.slow)]


def time_of_gain(y, target, depth):
    """∫ dv v^{2/L − 2}/(L (μ − v)) from 1 to y, by hypergeometric functions."""
    if depth == 1:
        return mp.log((target - 1) / (target - y))
    p = 2 - mp.mpf(2) / depth
    if depth == 2:
        return mp.log(y * (target - 1) / (target - y)) / (2 * target)
    if target < 1:
        whole = lambda v: v**-p / p * mp.hyp2f1(1, p, 1 + p, target / v)
    else:
        whole = lambda v: v ** (1 - p) / ((1 - p) * target) * mp.hyp2f1(1, 1 - p, 2 - p, v / target)
    return (whole(y) - whole(mp.mpf(1))) / depth


def gains(cases, seed=0):
    campaign = Campaign("linear residual gains")
    rng = np.random.default_rng(seed)
    while campaign.cases < cases:
        target = float(10 ** rng.uniform(-8, 12))
        depth = int(rng.choice([1, 2, 3, round(10 ** rng.uniform(0, 4))]))
        with mp.workdps(60):
            mu, s = mp.mpf(target), mp.mpf(10) ** rng.uniform(-12, 1.8)
            y = mu - (mu - 1) * mp.exp(-s)
            t = float(time_of_gain(y, mu, depth))
            if not (0 < t < math.inf):
                continue
            for _ in range(4):  # to the rounded time, which may be far away in y
                rate = depth * y ** (2 - mp.mpf(2) / depth) * (mu - y)
                step = (time_of_gain(y, mu, depth) - t) * rate
                y, slack = y - step, abs(step)
        found = theory.gradients.linear_residual_gain(target, depth, t)
        label = f"target {target!r} depth {depth} time {t!r}"
        campaign.number(label, found.value, found.error, float(y), truth_error=float(slack))
    return campaign


@pytest.mark.parametrize("cases", SIZES)
def test_linear_residual_gains(cases):
    gains(cases).check(most_unknown=0.0)


def test_gains_of_extreme_targets():
    found = theory.gradients.linear_residual_gain(1e9, 1, 1e-9)
    assert abs(float(found.value[0]) - 1.9999999985) <= found.error[0] < 1e-13
    for target in (5e-324, 1e-300, 1.0, math.nextafter(1, 2), 1e300, 1.7e308):
        for depth in (1, 2, 7, 10**6):
            found = theory.gradients.linear_residual_gain(target, depth, [0.0, 1e-300, 1.0, 1e300])
            assert np.all(np.isfinite(found.value) & np.isfinite(found.error))
            assert found.value[0] == 1
            ends = sorted([1.0, target])
            assert np.all(found.value >= ends[0] - found.error)
            assert np.all(found.value <= ends[1] + found.error)
            if target >= 1 or depth == 1:  # otherwise y falls like a power of time
                assert abs(float(found.value[3]) - target) <= found.error[3]


def overlaps(cases, seed=0):
    campaign = Campaign("overlaps of spikes")
    rng = np.random.default_rng(seed)
    while campaign.cases < cases:
        aspect = float(10 ** rng.uniform(-12, 12))
        away = rng.choice([10 ** rng.uniform(-14, 2), 10 ** rng.uniform(0, 200)])
        strength = float(aspect**0.25 * (1 + away * rng.choice([1, 1, 1, -0.5])))
        if strength < 0:
            continue
        with mp.workdps(700):
            c, theta = mp.mpf(aspect), mp.mpf(strength)
            left = 1 - c * (1 + theta**2) / (theta**2 * (theta**2 + c)) if theta else 0
            right = 1 - (c + theta**2) / (theta**2 * (theta**2 + 1)) if theta else 0
            if theta**4 <= c:
                left = right = mp.mpf(0)
        for name, e, truth in zip(
            "uv", theory.gradients.spike_overlap(strength, aspect), (left, right), strict=True
        ):
            label = f"{name} strength {strength!r} aspect {aspect!r}"
            campaign.number(label, e.value, e.error, float(truth))
    return campaign


@pytest.mark.parametrize("cases", SIZES)
def test_overlaps_of_spikes(cases):
    overlaps(cases).check(most_unknown=0.0)


def test_overlaps_of_the_strongest_spikes():
    for strength in (1e160, 1e308, math.inf):
        for aspect in (1e-300, 1.0, 1e300):
            for e in theory.gradients.spike_overlap(strength, aspect):
                assert abs(e.value - 1) <= e.error
