"""Theory against simulation: agreement at false-alarm rate 1e-6, and the power to disagree.

Each case is held against theory after extrapolation in 1/N with fixed keys, and the same
check must reject the theory of every leaf of the description changed by 3 %.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sigprop
import theory
from tests.tolerances import SOLUTION

WIDTHS = (64, 128, 256, 512)
NARROW, MANY = (16, 32, 64), (9000, 12000, 8000)
GRAM = jnp.array([[9.0, 4.5, 0.0], [4.5, 9.0, 0.0], [0.0, 0.0, 0.01]])
"""Two inputs so long that the first weights show, and one so short that the first bias does."""


def inputs(gram=GRAM):
    return sigprop.gram_inputs(gram, 16, key=jax.random.key(1)).astype(jnp.float32)


def assert_agreement_with_power(comparison):
    for cells in comparison.cells:
        # NaN marks what is not judged: correlations close to 1 in the ordered phase.
        assert np.nanmax(np.abs(cells.z)) <= comparison.threshold, cells.observable.name
        assert abs(cells.pooled_z) <= comparison.threshold, cells.observable.name
    assert comparison.agrees
    for power in comparison.power:
        assert power.rejected, power
    assert comparison.powerful


def test_a_tanh_network_agrees_with_theory_and_no_neighbour_of_it_does():
    network = theory.feedforward(theory.activation("tanh"), 1.5, 0.8, depth=3)
    comparison = sigprop.compare(network, inputs(), widths=NARROW, replicas=MANY)
    assert_agreement_with_power(comparison)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "variances", "options"),
    [
        ("relu", (1.2, 0.5), {}),
        ("erf", (1.5, 0.5), {"weights": "orthogonal"}),
        ("gelu", (1.2, 0.5), {"residual": True}),
    ],
)
def test_other_architectures_agree_too(name, variances, options):
    network = theory.feedforward(theory.activation(name), *variances, depth=4, **options)
    comparison = sigprop.compare(
        network,
        inputs(),
        widths=WIDTHS,
        replicas=(30000, 30000, 25000, 20000),
        gradients=False,
        explicit_weights=False,
    )
    assert_agreement_with_power(comparison)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_normalised_branches_agree_too(kind):
    parts = (theory.Normalise(kind), theory.Pointwise(theory.activation("gelu")))
    branch = theory.Chain((*parts, theory.affine(1.2, 0.5)))
    network = theory.Chain((theory.affine(1.2, 0.5), theory.repeat(theory.Residual(branch), 4)))
    comparison = sigprop.compare(
        network,
        inputs(),
        widths=WIDTHS,
        replicas=(30000, 30000, 25000, 20000),
        gradients=False,
        explicit_weights=False,
    )
    assert_agreement_with_power(comparison)


SCALES = jnp.array([3.0, 3.0, 0.1])[:, None, None]


def digits():
    """Three handwritten digits, in contrasts that show the first weights and the first bias."""
    images, _ = sigprop.digits_inputs(3, key=jax.random.key(0), length=1.0)
    return (SCALES * images).astype(jnp.float32)


DEEP = [(1.5, inputs), (1.76095463960674, inputs), (2.5, inputs), (1.76095463960674, digits)]


@pytest.mark.slow
@pytest.mark.parametrize(("weight_variance", "data"), DEEP)
def test_tanh_of_200_layers_agrees_in_every_phase(weight_variance, data):
    """Eight minutes each on one core: as many networks as 3 % of the first bias needs."""
    network = theory.feedforward(theory.activation("tanh"), weight_variance, 0.05, depth=200)
    comparison = sigprop.compare(
        network,
        data(),
        widths=WIDTHS,
        replicas=(20000, 15000, 10000, 6000),
        gradients=False,
        explicit_weights=False,
    )
    assert_agreement_with_power(comparison)


@pytest.mark.slow
@pytest.mark.parametrize(("weight_variance", "data"), DEEP)
def test_explicit_weights_agree_too(weight_variance, data):
    """Four minutes each on one core; enough for 3 % of the hidden weights, not of a bias."""
    network = theory.feedforward(theory.activation("tanh"), weight_variance, 0.05, depth=200)
    comparison = sigprop.compare(
        network, data(), widths=WIDTHS, replicas=(4000, 3000, 1500, 400), gradients=False
    )
    assert comparison.agrees
    hidden = [p for p in comparison.power if "body" in p.leaf and "weights" in p.leaf]
    assert hidden
    assert all(p.rejected for p in hidden)


SIMULATED = theory.feedforward(theory.activation("tanh"), 1.03 * 1.5, 0.8, depth=3)


@pytest.fixture(scope="module")
def ensembles():
    """By the programs of the comparison above."""
    return [
        sigprop.sample_ensemble(SIMULATED, inputs(), width=w, replicas=r, gradients=True)
        for w, r in zip(NARROW, MANY, strict=True)
    ]


def test_a_wrong_simulation_is_caught(ensembles):
    """Theory of one description against networks of another: 3 % in a variance is seen."""
    simulated = SIMULATED
    described = theory.feedforward(theory.activation("tanh"), 1.5, 0.8, depth=3)
    x = inputs()
    expected = theory.propagate(described, x.astype(float))
    verdict = sigprop.comparison.judge(described, x.astype(float), expected, ensembles)
    assert not verdict.agrees
    right = theory.propagate(simulated, x.astype(float))
    assert sigprop.comparison.judge(simulated, x.astype(float), right, ensembles).agrees


def test_extrapolation_recovers_the_limit_of_a_known_series():
    widths = [32, 64, 128, 256]
    mean = np.array([[2 + 3 / w - 5 / w**2] for w in widths])
    limit, error, chi_square = sigprop.comparison.extrapolate(widths, mean, np.full((4, 1), 1e-6))
    np.testing.assert_allclose(limit, 2.0, rtol=0, atol=SOLUTION)
    assert chi_square < 1e-3
    # its standard error is that of the linear combination of the four means
    rng = np.random.default_rng(0)
    noisy = mean[None] + 1e-6 * rng.normal(size=(4000, 4, 1))
    limits = np.array(
        [sigprop.comparison.extrapolate(widths, m, np.full((4, 1), 1e-6))[0] for m in noisy]
    )
    assert abs(limits.std() / error - 1) < 0.06


def test_the_standard_error_of_a_ratio_counts_correlated_fluctuations(ensembles):
    """Influence values against the spread of the ratio itself over many batches."""
    ensemble = ensembles[0]
    observable = theory.OBSERVABLES["correlation"]
    values = sigprop.comparison.contributions(observable, ensemble.samples)
    covariance = np.asarray(ensemble.samples.moments.covariance, float)[..., 0, 0]
    batches = covariance.reshape(100, 90, *covariance.shape[1:]).mean(axis=1)
    ratios = batches[..., 0, 1] / np.sqrt(batches[..., 0, 0] * batches[..., 1, 1])
    predicted = values.std(axis=0, ddof=1)[:, 0] / np.sqrt(90)
    np.testing.assert_allclose(
        ratios.std(axis=0, ddof=1), predicted, rtol=0.3
    )  # within: 100 batches


@pytest.mark.slow
def test_means_that_a_few_networks_carry_are_not_judged():
    """Deep in the ordered phase 1 − c is nearly log-normal; lengths and slopes are not."""
    network = theory.feedforward(theory.activation("tanh"), 1.2, 0.05, depth=120)
    pair = sigprop.gram_inputs(sigprop.pair_gram(1.0, 0.5), 16, key=jax.random.key(1))
    comparison = sigprop.compare(network, pair, widths=(8, 12, 16), replicas=150, gradients=False)
    cells = {c.observable.name: c for c in comparison.cells}
    assert cells["length"].judged > 0.9
    assert cells["correlation"].judged < 0.5
    assert cells["correlation"].verdict(comparison.threshold) == sigprop.Verdict.NOT_JUDGED
    assert np.all(np.isnan(cells["correlation"].z) == ~cells["correlation"].resolved)


@pytest.mark.slow
@pytest.mark.parametrize("networks", [10, 100])
def test_a_verdict_needs_enough_that_can_be_judged(networks):
    """Ten networks decide nothing; of z³ a hundred hold neither the mean nor its error."""
    cube = theory.componentwise(lambda z: z**3, scale=1e9, parity="odd", name="cube")
    network = theory.feedforward(cube, 0.5, depth=3)
    pair = sigprop.gram_inputs(sigprop.pair_gram(1.0, 0.5), 16, key=jax.random.key(1))
    comparison = sigprop.compare(
        network, pair, widths=(8, 16, 32), replicas=networks, gradients=False
    )
    assert comparison.judged < 0.5
    assert comparison.verdict == sigprop.Verdict.NOT_JUDGED
    assert not comparison.agrees
    assert not comparison.powerful


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"widths": (8, 16)}, "widths"),
        ({"widths": (8, 8, 16)}, "widths"),
        ({"widths": (8, 16, 32), "replicas": (2, 3)}, "replicas"),
    ],
)
def test_bad_comparisons_name_the_field(arguments, field):
    network = theory.feedforward(theory.activation("tanh"), 1.5, depth=2)
    with pytest.raises(ValueError, match=field):
        sigprop.compare(network, inputs(), **arguments)
