"""The table of observables: every row on random moments against NumPy."""

import dataclasses

import jax
import numpy as np
import pytest

import theory
from tests.tolerances import FOLD, LAYER
from theory import OBSERVABLES, Observable
from theory.mean_field import chosen_observables

LAYERS, INPUTS, COMPONENTS = 4, 3, 2
PAIRS = [(0, 1), (0, 2), (1, 2)]


@pytest.fixture(scope="module")
def signals():
    return np.random.default_rng(0).normal(size=(LAYERS, INPUTS, 7, COMPONENTS))


@pytest.fixture(scope="module")
def moments(signals):
    """Of these signals, with tangents that are another set of them over a scale."""
    each = [theory.mean_field.signal_moments(layer) for layer in signals]
    found = jax.tree.map(lambda *x: np.stack(x), *each)
    gains = np.random.default_rng(1).normal(size=(LAYERS, INPUTS))
    return theory.Moments(found.covariance, found.separation, found.covariance[::-1], gains)


def size(signals, layer, a, b):
    """u_a·u_b per unit and component."""
    return np.mean(signals[layer, a] * signals[layer, b])


def gain(signals, moments, layer, a):
    return size(signals[::-1], layer, a, a) * np.exp(moments.log_gain[layer, a])


def correlation(signals, layer, a, b):
    ratio = size(signals, layer, a, a) * size(signals, layer, b, b)
    return size(signals, layer, a, b) / np.sqrt(ratio)


def each_input(of):
    return lambda s, m: [[of(s, m, i, a) for a in range(INPUTS)] for i in range(LAYERS)]


def each_pair(of):
    return lambda s, m: [[of(s, i, a, b) for a, b in PAIRS] for i in range(LAYERS)]


def grown(signals, moments):
    gains = np.array(each_input(gain)(signals, moments))
    return gains[1:] / gains[:-1]


def participation(signals, layer):
    """By the eigenvalues of the matrix of overlaps."""
    each = [[size(signals, layer, a, b) for b in range(INPUTS)] for a in range(INPUTS)]
    values = np.linalg.eigvalsh(each)
    return values.sum() ** 2 / (INPUTS * (values**2).sum())


DIRECT = {
    "length": each_input(lambda s, m, i, a: size(s, i, a, a)),
    "overlap": each_pair(size),
    "correlation": each_pair(correlation),
    "distance": each_pair(lambda s, i, a, b: np.mean((s[i, a] - s[i, b]) ** 2) / 2),
    "slope": grown,
    "log_gain": each_input(lambda s, m, i, a: np.log(gain(s, m, i, a))),
    "gradient_growth": lambda s, m: grown(s, m)[1:],
    "participation_ratio": lambda s, m: [[participation(s, i)] for i in range(LAYERS)],
}


@pytest.mark.parametrize("name", OBSERVABLES)
def test_every_row_is_what_it_says(name, signals, moments):
    row = OBSERVABLES[name]
    assert row.name == name
    expected = np.array(DIRECT[name](signals, moments))
    found = row.values(moments)
    np.testing.assert_allclose(found, expected, rtol=FOLD)
    np.testing.assert_allclose(jax.jit(row.values)(moments), expected, rtol=FOLD)
    assert row.cells(INPUTS, COMPONENTS) == expected.shape[1]
    assert row.first_layer + len(expected) <= LAYERS
    scales = np.asarray(row.scales(moments))
    assert scales.shape == expected.shape
    assert np.all(scales > 0)
    assert row.label.count("$") == 2


@pytest.mark.parametrize("correlation", [-1.0, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("size", [1e-290, 1.0, 1e290])
def test_participation_ratio_in_closed_form(correlation, size):
    """Of n inputs of one length and correlation: n/(n + n (n − 1) c²)."""
    for n in (1, 2, 5):
        gram = np.where(np.eye(n) > 0, 1.0, correlation) * size
        found = theory.mean_field.participation_ratio(theory.given_moments(gram[..., None, None]))
        assert found == pytest.approx(1 / (1 + (n - 1) * correlation**2), rel=LAYER)
    assert np.isnan(
        theory.mean_field.participation_ratio(theory.given_moments(np.zeros((2, 2, 1, 1))))
    )


def test_participation_ratio_through_theory():
    """Of two inputs of one length it is 1/(1 + c²) in every layer."""
    gram = np.array([[1.0, 0.5], [0.5, 1.0]])[..., None, None]
    network = theory.feedforward(theory.activation("erf"), 1.5, 0.1, depth=4)
    moments = theory.propagate(network, theory.given_moments(gram)).value
    c, found = jax.jit(
        lambda m: (
            theory.correlation(m)[:, 0, 1],
            OBSERVABLES["participation_ratio"].values(m),
        )
    )(moments)
    np.testing.assert_allclose(found[:, 0], 1 / (1 + c**2), rtol=LAYER)


def of_all_layers(moments):
    return theory.length(moments).sum(axis=-1)


def sorted_lengths(moments):
    return theory.length(moments)[1:, :2]


def test_own_observables(moments):
    total = Observable("total", "Q_l", of_all_layers, "inputs")
    np.testing.assert_allclose(
        total.values(moments)[:, 0], theory.length(moments).sum(axis=-1), rtol=FOLD
    )
    assert (total.cells(3), total.dimension, total.label) == (1, "inputs", "total $Q_l$")
    first = Observable("first_two", "q", sorted_lengths, "rank", first_layer=1)
    assert (first.cells(3), first.dimension) == (2, "first_two_rank")
    assert chosen_observables(("slope", total)) == (OBSERVABLES["slope"], total)


@pytest.mark.parametrize(
    "chosen",
    [
        (),
        3,
        ("entropy",),
        ({"name": "length"},),
        ("length", "length"),
        (dataclasses.replace(OBSERVABLES["slope"], name="length"),),
    ],
)
def test_what_is_not_in_the_table_is_refused_in_one_line(chosen):
    with pytest.raises(ValueError, match="`observables`: must be some of length, ") as caught:
        chosen_observables(chosen)
    assert "own observables are given from Python" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field, value", [("name", "two words"), ("axis", ""), ("of", 3)])
def test_fields_that_make_no_sense(field, value):
    with pytest.raises(ValueError, match=f"`{field}`: must be a "):
        dataclasses.replace(OBSERVABLES["slope"], **{field: value})
