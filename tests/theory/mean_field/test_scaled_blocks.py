"""What is linear leaves moments Gaussian: scaled sums, norms behind a branch, blocks on inputs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sigprop
import theory
from theory.description._linearity import is_linear

ERF = theory.activation("erf")
HALF = theory.componentwise(lambda z: z / jnp.sqrt(2.0), parity="odd")
EPSILON = 1e-5


def square(q):
    """E erf(√q z)²."""
    return 2 / math.pi * math.asin(2 * q / (1 + 2 * q))


def gain(q):
    """E erf'(√q z)²."""
    return 4 / math.pi / math.sqrt(1 + 4 * q)


BRANCH = theory.Chain((theory.Pointwise(ERF), theory.affine(1.5, 0.05)))
MIXED = theory.Chain(
    (
        theory.Residual(theory.Chain((*BRANCH.parts, theory.Normalise("rms")))),  # as OLMo 2
        theory.Residual(theory.Chain((*BRANCH.parts, theory.Pointwise(HALF)))),
        theory.Pointwise(HALF),  # (x + f(x))/√2
    )
)
WHOLE = theory.Chain((theory.affine(1.0), theory.repeat(MIXED, 2)))


def recursion(q, layers):
    """The lengths of all sums, and the factor on the squares of tangents up to each."""
    factor = 1.0
    for _ in range(layers):
        f, df = 1.5 * square(q) + 0.05, 1.5 * gain(q)
        q, factor = q + f / (f + EPSILON), factor * (1 + df / (f + EPSILON))
        yield q, factor
        f, df = 1.5 * square(q) + 0.05, 1.5 * gain(q)
        q, factor = q + f / 2, factor * (1 + df / 2)
        yield q, factor
        q, factor = q / 2, factor / 2


def test_scaled_blocks_follow_their_recursion():
    found = theory.propagate(WHOLE, jnp.ones((1, 4, 1)))
    log_size = found.value.log_gain[:, 0] + jnp.log(found.value.tangent[:, 0, 0, 0, 0])
    lengths = theory.length(found.value)[:, 0], theory.length(found.error)[:, 0]
    for place, (q, factor) in enumerate(recursion(1.0, 2), start=1):
        assert abs(lengths[0][place] - q) <= lengths[1][place] < 1e-12
        assert abs(log_size[place] - math.log(factor)) < 1e-12


def numpy_networks(count, width):
    """Lengths behind all sums of WHOLE, of plain networks."""
    random, erf = np.random.default_rng(0), np.vectorize(math.erf)
    for _ in range(count):
        weigh = lambda x, v, b: (
            random.normal(size=(width, width)) @ x * math.sqrt(v / width)
            + random.normal(size=width) * math.sqrt(b)
        )
        z, seen = weigh(np.ones(width), 1.0, 0.0), []
        for _ in range(2):
            f = weigh(erf(z), 1.5, 0.05)
            z = z + f / np.sqrt(np.mean(f**2) + EPSILON)
            seen.append(np.mean(z**2))
            z = z + weigh(erf(z), 1.5, 0.05) / math.sqrt(2)
            seen.append(np.mean(z**2))
            z = z / math.sqrt(2)
        yield seen


@pytest.mark.slow
def test_networks_do_what_the_recursion_of_scaled_blocks_says():
    exact = np.array([q for q, _ in recursion(1.0, 2)])
    plain = np.array(list(numpy_networks(200, 128)))
    ours = {"numpy": plain}
    for explicit in (True, False):
        ensemble = sigprop.sample_ensemble(
            WHOLE, jnp.ones((1, 128, 1)), width=128, replicas=200, explicit_weights=explicit
        )
        ours[explicit] = theory.length(ensemble.samples.moments)[:, 1:, 0]
    for name, lengths in ours.items():
        error = np.std(lengths, axis=0) / math.sqrt(len(lengths))
        z = (np.mean(lengths, axis=0) - exact) / error
        assert np.all(np.abs(z) < 4.5), (name, z)
        wrong = (np.mean(lengths, axis=0) - 1.1 * exact) / error
        assert np.all(np.abs(wrong) > 4.5), (name, wrong)


ON_INPUTS = theory.Residual(
    theory.Chain((theory.affine(1.0), theory.Pointwise(ERF), theory.affine(1.5, 0.05)))
)


def after(q):
    return 1.5 * square(q) + 0.05


@pytest.mark.parametrize(
    ("block", "lengths"),
    [
        # a post-norm block at the beginning of a stack, and one of plain layers
        (theory.Chain((ON_INPUTS, theory.Normalise("rms", 0.0))), [2 + after(2.0), 1 + after(1.0)]),
        (ON_INPUTS.branch, [2.0, after(2.0), after(2.0), after(after(2.0))]),
    ],
)
def test_a_stack_may_begin_with_any_block_that_begins_with_weights(block, lengths):
    inputs = jnp.array([2.0, 0.0, 2.0, 0.0]).reshape(1, 4, 1)
    found = theory.propagate(theory.repeat(block, 2), inputs)
    value, error = theory.length(found.value)[:, 0], theory.length(found.error)[:, 0]
    assert value.shape == (len(lengths),)
    assert np.all(np.abs(value - np.array(lengths)) <= error)
    assert np.all(error < 1e-13)


@pytest.mark.slow
def test_the_spectrum_knows_scaled_sums():
    """m_1 = Π (1 + χ)/2, and a branch that begins with a nonlinearity behind a norm is refused."""
    weights = (theory.affine(1.0), theory.Pointwise(ERF), theory.affine(1.5))
    scaled = theory.Chain(
        (theory.Residual(theory.Chain((*weights, theory.Pointwise(HALF)))), theory.Pointwise(HALF))
    )
    moments = theory.spectrum.jacobian_moments(theory.jacobian_factors(scaled, 0.7))
    exact = math.log((1 + 1.5 * gain(0.7) / 2) / 2)
    assert abs(moments.log_mean.value - exact) <= moments.log_mean.error < 1e-9
    first = theory.Residual(theory.Chain((theory.Normalise(), *BRANCH.parts)))
    with pytest.raises(TypeError, match="branches that begin with a nonlinearity are not free"):
        theory.jacobian_factors(first, 0.7)


@pytest.mark.parametrize(
    "build",
    [
        lambda: theory.Residual(theory.Pointwise(HALF)),
        lambda: theory.Residual(theory.Chain((*BRANCH.parts, theory.Pointwise(ERF)))),
        lambda: theory.propagate(BRANCH, jnp.ones((1, 4, 1))),
        lambda: theory.propagate(theory.repeat(theory.Residual(BRANCH), 2), jnp.ones((1, 4, 1))),
        lambda: theory.propagate(
            theory.Chain(
                (theory.affine(1.0), theory.repeat(theory.Chain(ON_INPUTS.branch.parts[:2]), 2))
            ),
            jnp.ones((1, 4, 1)),
        ),
        lambda: jax.eval_shape(
            lambda x: sigprop.sample_network(ON_INPUTS, x, key=jax.random.key(0), width=8),
            jnp.ones((1, 4, 1)),
        ),
    ],
)
def test_refusals_are_one_sentence(build):
    with pytest.raises(TypeError) as refusal:
        build()
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 250


def test_only_what_is_linear_counts_as_linear():
    linear = [lambda z: z, lambda z: 0.5 * z, lambda z: z + z - 3 * z, lambda z: -z / jnp.sqrt(2.0)]
    other = [lambda z: z + 1.0, lambda z: jnp.abs(z), lambda z: z * z, lambda z: 1 / (2 + z * z)]
    assert all(is_linear(theory.componentwise(fn)) for fn in linear)
    assert not any(is_linear(theory.componentwise(fn)) for fn in other)
    assert [
        name for name in theory.description.ACTIVATION_NAMES if is_linear(theory.activation(name))
    ] == ["linear"]
    assert is_linear(theory.radial("linear"))
    assert not is_linear(theory.radial("tanh"))
