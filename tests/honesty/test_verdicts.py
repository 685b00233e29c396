"""The verdict of `compare`: how often it blames a true theory, on samples with a known mean."""

import jax
import numpy as np
import pytest
from scipy import stats

import sigprop
import theory
from sigprop.comparison._scores import fit_of, judgeable, limit_of, next_order, score
from tests.honesty.campaign import Campaign

LAWS = {
    "normal": lambda rng, shape, s: rng.standard_normal(shape),
    "gamma": lambda rng, shape, s: rng.gamma(1 / s**2, s, shape) - 1 / s,
    "log-normal": lambda rng, shape, s: np.exp(s * rng.standard_normal(shape) - s * s / 2) - 1,
    "minus log-normal": lambda rng, shape, s: 1 - np.exp(s * rng.standard_normal(shape) - s**2 / 2),
    "Student, 5 degrees": lambda rng, shape, s: rng.standard_t(5, shape),
}
LEVEL = 4.0


def scores(law, spread, networks, widths, cells, seed):
    """z of cells whose limit is zero, and which are judged."""
    rng = np.random.default_rng(seed)
    narrow = [spread * np.sqrt(min(widths) / width) for width in widths]
    samples = [s * LAWS[law](rng, (n, cells), s) for s, n in zip(narrow, networks, strict=True)]
    found = limit_of(fit_of(widths, networks), samples)
    t = np.divide(found.value, found.error)
    return score(t, found), judgeable(found, np.full(cells, np.inf), LEVEL)


def campaign(cells, seed=0):
    """How many of `cells` true cells are beyond |z| = 4, in each of 100 groups."""
    found = Campaign("verdicts of true cells beyond 4 σ")
    nominal = 2 * stats.norm.sf(LEVEL)
    for i, law in enumerate(LAWS):
        for spread in (0.1, 0.5, 1.0, 2.0):
            for networks in ((16,) * 3, (40,) * 3, (200,) * 3, (400, 100, 30), (60,) * 4):
                widths = (8, 16, 32, 64)[: len(networks)]
                size = min(cells // 10, 2_000_000 // max(networks))
                beyond = trials = judged = 0
                for repeat in range(cells // size):
                    z, able = scores(law, spread, networks, widths, size, [seed, i, repeat])
                    trials, judged = trials + size, judged + able.sum()
                    beyond += np.sum(able & (np.abs(z) > LEVEL))
                # A rate above the nominal one is a lie, unless chance explains it (1e-4).
                chance = stats.binom.isf(1e-4, trials, nominal)
                label = f"{law}, {spread}, {networks}: {beyond} of {judged} judged"
                found.claim(label, bool(beyond > chance), False, unknown=judged == 0)
    return found


@pytest.mark.parametrize("cells", [2_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_true_cells_are_blamed_as_rarely_as_promised(cells):
    # 16 networks decide nothing, and no number of them where a few carry the mean.
    campaign(cells).check(most_unknown=0.5)


@pytest.mark.parametrize("networks", [100, 400])
def test_gaussian_cells_are_judged_and_seen(networks):
    """The screen costs little where there is nothing to screen."""
    z, able = scores("normal", 0.1, (networks,) * 3, (8, 16, 32), 10_000, 1)
    assert able.mean() > 0.998 * (1 - 1e-3)
    expected = 2 * stats.norm.sf(2)
    assert 0.75 * expected < np.mean(np.abs(z) > 2) < 1.1 * expected


def test_the_score_is_that_of_student_without_skewness():
    t = np.array([1.0, 3.0, 6.0])
    found = limit_of(fit_of((8, 16, 32), (50,) * 3), [np.arange(50.0)[:, None] + [0, 1, 2]] * 3)
    free = found._replace(skewness=np.full(3, 1e-9), freedom=np.full(3, 30.0))
    exact = stats.norm.isf(stats.t.sf(t, 30))
    np.testing.assert_allclose(score(t, free), exact, rtol=0, atol=3e-3)  # within: an approximation
    np.testing.assert_allclose(score(-t, free), -score(t, free))
    # Skewness only ever takes away.
    assert np.all(score(t, free._replace(skewness=np.full(3, 0.1))) < score(t, free))


@pytest.mark.parametrize("widths", [(8, 16, 32), (8, 16, 32, 64), (8, 16, 32, 64, 128)])
def test_a_form_that_does_not_fit_is_not_judged(widths):
    rng = np.random.default_rng(0)
    fit = fit_of(widths, (400,) * len(widths))
    noise = [rng.standard_normal((400, 500)) * 1e-3 for _ in widths]
    straight = limit_of(fit, [1 + 0.4 / w + n for w, n in zip(widths, noise, strict=True)])
    bent = limit_of(fit, [1 + np.exp(8 / w) + n for w, n in zip(widths, noise, strict=True)])
    assert np.mean(straight.fits) > 0.98
    assert not bent.fits.any()
    # What one order more would change is bounded where the series converges.
    curved = limit_of(fit, [np.exp(0.8 / w) + 0 * n for w, n in zip(widths, noise, strict=True)])
    off = np.abs(curved.value - 1)[None]
    per_layer = curved._replace(first=curved.first[None])
    assert np.all(off < next_order(fit, per_layer, np.ones((1, 500))))
    assert np.all(off > 1e-7)


def test_a_first_order_as_large_as_the_number_is_not_judged():
    fit = fit_of((8, 16, 32), (400,) * 3)
    noise = np.random.default_rng(0).standard_normal((3, 400, 50)) * 1e-3
    large = limit_of(fit, [1 + 10 / w + n for w, n in zip((8, 16, 32), noise, strict=True)])
    assert not judgeable(large, np.ones(50), 5.0).any()
    assert judgeable(large, np.full(50, 10.0), 5.0).mean() > 0.9


def runs():
    """Networks that are narrow for their depth, or whose moments are carried by a few."""
    cube = theory.componentwise(lambda z: z**3, scale=1e9, parity="odd", name="cube")
    erf, tanh = theory.activation("erf"), theory.activation("tanh")
    yield "erf, deeper than wide", theory.feedforward(erf, 0.8, 0.05, depth=60), (8, 16, 32)
    yield "cube", theory.feedforward(cube, 0.5, depth=3), (8, 16, 32)
    yield "tanh, chaotic", theory.feedforward(tanh, 2.5, 0.05, depth=30), (16, 32, 64)


@pytest.mark.slow
@pytest.mark.parametrize("networks", [10, 16, 50, 200, 1000])
def test_no_true_network_is_blamed(networks):
    """At 1e-6 each, none of these may disagree; few networks decide nothing."""
    found = Campaign(f"runs of {networks} networks")
    pair = sigprop.gram_inputs(sigprop.pair_gram(1.0, 0.5), key=jax.random.key(0), width=32)
    for name, network, widths in runs():
        for seed in range(5):
            comparison = sigprop.compare(
                network,
                pair,
                widths=widths,
                replicas=networks,
                seed=seed,
                gradients=False,
                explicit_weights=False,
            )
            unknown = comparison.verdict == sigprop.Verdict.NOT_JUDGED
            label = f"{name}, seed {seed}: |z| {comparison.largest_z:.2f}"
            found.claim(label, comparison.agrees, True, unknown=unknown)
    found.check()
    assert (found.unknown == found.cases) == (networks <= 16)
