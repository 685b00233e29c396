"""The description, the fold over it, and what it refuses."""

import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

import theory
from theory import Chain, Pointwise, Repeat, Residual
from theory.description import Reading, along_depth, interpret

TANH = theory.activation("tanh")


class Trace(Reading[jax.Array]):
    """A reading that multiplies by the weight variance and notes what it sees."""

    path: jax.Array

    def affine(self, node, state):
        state = state * node.weights.variance
        return state, state

    def pointwise(self, node, state):
        return state + 1, None

    def normalise(self, node, state):
        return state, None

    def noise(self, node, state):
        return state, None

    def add(self, skip, branch):
        return skip + branch, skip + branch

    def through_time(self, step, state, steps):
        for _ in range(steps - 1):
            state, note = step(self, state, jnp.array(0.0))
        return state, note

    def child(self, index):
        return Trace(self.path * 10 + index)

    def layers(self, depth):
        return Trace(self.path * 10 + jnp.arange(depth))


def test_the_fold_visits_parts_in_order_and_repeats_a_schedule():
    variances = jnp.array([2.0, 3.0, 5.0])
    body = eqx.filter_vmap(lambda v: Chain((Pointwise(TANH), theory.affine(v))))(variances)
    network = Chain((theory.affine(7.0), Repeat(body, 3)))
    state, notes = interpret(network, Trace(jnp.array(0)), jnp.array(1.0))
    series = along_depth(notes)
    assert series.tolist() == [7.0, 16.0, 51.0, 260.0]
    assert state == 260.0


def test_a_repeat_equals_the_chain_of_its_layers():
    body = Chain((Pointwise(TANH), theory.affine(1.5)))
    reading, start = Trace(jnp.array(0)), jnp.array(1.0)
    repeated, series = interpret(theory.repeat(body, 4), reading, start)
    chained, notes = interpret(Chain((body,) * 4), reading, start)
    assert repeated == chained
    np.testing.assert_array_equal(along_depth(series), along_depth(notes))


def test_notes_inside_a_residual_come_in_order_of_depth():
    network = theory.repeat(Residual(theory.affine(2.0)), 2)
    _, notes = interpret(network, Trace(jnp.array(0)), jnp.array(1.0))
    assert along_depth(notes).tolist() == [2.0, 3.0, 6.0, 9.0]


def test_nothing_noted_gives_no_series():
    _, notes = interpret(theory.repeat(Pointwise(TANH), 2), Trace(jnp.array(0)), jnp.array(1.0))
    assert along_depth(notes) is None


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: theory.affine(-1.0), "weight_variance"),
        (lambda: theory.affine(float("nan")), "weight_variance"),
        (lambda: theory.affine(1.0, -0.1), "bias_variance"),
        (lambda: theory.affine(1.0, float("inf")), "bias_variance"),
        (lambda: theory.affine("much"), "weight_variance"),
        (lambda: theory.affine(1.0, None), "bias_variance"),
        (lambda: theory.predict(theory.affine(1.0), start=-1.0), "start"),
        (lambda: theory.predict(theory.affine(1.0), tolerance=float("nan")), "tolerance"),
        (lambda: theory.predict(theory.affine(1.0), order=0), "order"),
        (lambda: inspect.unwrap(theory.propagate)(theory.affine(1.0), jnp.ones((2, 8))), "inputs"),
        (lambda: theory.affine(1.0, components=0), "components"),
        (lambda: theory.affine(1.0, width=0), "width"),
        (lambda: theory.repeat(theory.affine(1.0), 0), "depth"),
        (lambda: theory.feedforward(TANH, 1.0, depth=0), "depth"),
        (lambda: Chain(()), "parts"),
        (lambda: Repeat(theory.affine(1.0), 3), "body"),
        (lambda: theory.activation("tahn"), "tanh"),
    ],
)
def test_bad_descriptions_name_the_field_in_one_line(build, field):
    with pytest.raises(ValueError, match=field) as caught:
        build()
    assert "\n" not in str(caught.value)


class Cauchy:
    """A law that nobody has written a sampler for, whatever it says of itself."""

    name = "Gaussian"
    independent = rotation_invariant = True
    excess_kurtosis = 0.0


@pytest.mark.parametrize("weights", ["cauchy", "sparse", "gaussian:1", "", Cauchy(), Cauchy, None])
def test_an_unknown_weight_law_is_refused(weights):
    # Through __wrapped__, since the annotations would refuse it first in this test run.
    make = inspect.unwrap(theory.affine)
    with pytest.raises((ValueError, TypeCheckError), match="gaussian, orthogonal or") as caught:
        make(1.0, weights=weights)
    assert isinstance(caught.value, TypeCheckError) or "\n" not in str(caught.value)


def test_words_stand_for_weight_laws():
    known = {
        "gaussian": theory.GaussianWeights(),
        "orthogonal": theory.OrthogonalWeights(),
        "sparse:0.25": theory.SparseWeights(0.25),
    }
    for word, family in known.items():
        by_word, by_law = (theory.affine(1.5, weights=weights) for weights in (word, family))
        assert by_word.weights.family == family
        assert jax.tree.structure(by_word) == jax.tree.structure(by_law)
        assert len(jax.tree.leaves(by_law)) == 2  # the variances; the law is static
    laws = {theory.WeightLaw(1.0, family).family for family in known.values()}
    assert laws == set(known.values())
    structures = {jax.tree.structure(theory.affine(1.0, weights=word)) for word in known}
    assert len(structures | {jax.tree.structure(theory.affine(1.0, weights="sparse:0.3"))}) == 4


@pytest.mark.parametrize("density", [0, -0.1, 1.01, np.nan, True, "0.1", None])
def test_a_density_is_above_0_and_at_most_1(density):
    make = inspect.unwrap(theory.SparseWeights)
    with pytest.raises((ValueError, TypeCheckError), match="density") as caught:
        make(density)
    assert isinstance(caught.value, TypeCheckError) or "\n" not in str(caught.value)
    assert theory.SparseWeights(1).density == 1.0


def test_sparse_weights_do_not_meet_inputs_of_finite_width():
    """Their units would not be Gaussian; moments are those of infinitely many units."""
    sparse = theory.affine(1.5, weights="sparse:0.1")
    with pytest.raises(TypeError, match="`network`: must have Gaussian or orthogonal") as caught:
        theory.propagate(sparse, jnp.ones((1, 9, 1)))
    assert "\n" not in str(caught.value)
    moments = theory.given_moments(jnp.ones((1, 1, 1, 1)))
    found = theory.propagate(sparse, moments)
    assert theory.length(found.value)[0, 0] == 1.5
    deep = theory.feedforward(TANH, 1.5, 0.05, depth=3, weights="sparse:0.1")
    x = jnp.ones((1, 9, 1))
    gaussian = theory.feedforward(TANH, 1.5, 0.05, depth=3)
    one, other = (theory.propagate(network, x).value for network in (deep, gaussian))
    np.testing.assert_array_equal(one.covariance, other.covariance)


def test_only_a_description_is_interpreted():
    with pytest.raises((TypeError, TypeCheckError), match="part"):
        inspect.unwrap(interpret)(TANH, Trace(jnp.array(0)), jnp.array(1.0))


def test_a_residual_branch_must_end_in_an_affine():
    with pytest.raises(TypeError, match="Affine"):
        Residual(Pointwise(TANH))


def test_a_repeated_body_must_give_back_its_kind_of_state():
    network = Chain((theory.affine(1.0), theory.repeat(Pointwise(TANH), 2)))
    with pytest.raises(TypeError, match="body of a Repeat"):
        theory.propagate(network, jnp.ones((1, 3, 1)))


def test_a_nonlinearity_on_moments_that_are_not_gaussian_is_refused():
    with pytest.raises(TypeError, match="Gaussian"):
        theory.propagate(Chain((Pointwise(TANH), theory.affine(1.0))), jnp.ones((1, 3, 1)))


def test_weights_for_another_number_of_components_are_refused():
    with pytest.raises(TypeError, match="components"):
        theory.propagate(theory.affine(1.0, components=2), jnp.ones((1, 3, 1)))
