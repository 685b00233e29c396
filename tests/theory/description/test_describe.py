"""The recursion in words says what the mean field does."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import theory
from tests.tolerances import FOLD
from theory import Chain, Normalise, Pointwise, Repeat

TANH = theory.activation("tanh")


def lines(network, **options):
    return theory.describe(network, **options).splitlines()


def test_a_deep_network_is_its_first_affine_map_and_one_layer():
    assert lines(theory.feedforward(TANH, 1.5, 0.05, depth=50)) == [
        "z = W x + b",
        "q = 1.5 |x|²/N + 0.05",
        "50 times:",
        "  z' = W tanh(z) + b",
        "  q' = 1.5 E tanh(√q ζ)² + 0.05",
        "  χ = 1.5 E tanh'(√q ζ)²",
        "W: Gaussian weights, E |W_ij|² = σ_w²/N",
    ]


def test_factors_of_one_and_missing_biases_are_left_out():
    network = theory.feedforward(TANH, 1.0, depth=3, residual=True, weights="orthogonal")
    assert lines(network, latex=True) == [
        "z = W x",
        "q = |x|^2/N",
        "3 times:",
        r"  z' = z + W \tanh(z)",
        r"  q' = q + \mathbb{E}\,\tanh(\sqrt{q}\,\zeta)^2",
        r"  \chi = 1 + \mathbb{E}\,\tanh'(\sqrt{q}\,\zeta)^2",
        r"W: orthogonal weights, \mathbb{E}\,|W_{ij}|^2 = \sigma_w^2/N",
    ]


def test_a_schedule_shows_its_ends_and_a_read_out_follows():
    body = theory.layer(TANH, jnp.linspace(1.2, 2.4, 7), jnp.full(7, 0.05))
    read_out = (Pointwise(theory.activation("relu")), theory.affine(2.0, width=10))
    told = lines(Chain((theory.affine(1.2), Repeat(body, 7), *read_out)))
    assert told[2:4] == ["7 times, at first:", "  z' = W tanh(z) + b"]
    assert "and at last:" in told
    assert "  q' = 2.4 E tanh(√q ζ)² + 0.05" in told
    assert told[-4:-1] == ["z' = W relu(z)", "q' = 2 E relu(√q ζ)²", "χ = 2 E relu'(√q ζ)²"]


def test_units_of_several_components_share_their_length():
    phi = theory.radial("tanh")
    told = lines(theory.layer(phi, 2.0, 0.1, components=4, algebra="quaternion"))
    assert told[1] == "q' = 2 E |tanh(√q ζ)|²/4 + 0.1"
    assert told[-1].startswith("W: quaternion Gaussian weights between units of 4 real components")


def test_sparse_weights_say_their_density_and_leave_the_inputs_to_gaussian_ones():
    network = theory.feedforward(TANH, 1.5, 0.05, depth=50, weights="sparse:0.1")
    assert lines(network)[-2:] == [
        "W: Gaussian weights, E |W_ij|² = σ_w²/N",
        "W: sparse (density 0.1) weights, E |W_ij|² = σ_w²/N",
    ]
    gaussian = theory.feedforward(TANH, 1.5, 0.05, depth=50)
    assert lines(network)[:-2] == lines(gaussian)[:-1]


def test_a_recurrent_network_is_its_drive_and_one_step():
    assert lines(theory.recurrent(TANH, 1.5, 0.05, steps=9, input_variance=0.3))[:-1] == [
        "u = W x",
        "p = 0.3 |x|²/N",
        "9 steps, W and b shared:",
        "  z' = u + W tanh(z) + b",
        "  q' = p + 1.5 E tanh(√q ζ)² + 0.05",
        "  χ = 1.5 E tanh'(√q ζ)²",
    ]


def test_layer_norm_takes_out_the_mean_that_there_is():
    gelu = Pointwise(theory.activation("gelu"))
    after = Chain((gelu, Normalise("layer", 0.0), theory.affine(1.5)))
    square = "(E gelu(√q ζ)² − (E gelu(√q ζ))²)"
    assert lines(after)[:3] == [
        "z' = W LN(gelu(z))",
        "q' = 1.5",
        f"χ = 1.5 E gelu'(√q ζ)²/{square}",
    ]
    before = Chain((Normalise("layer", 0.0), gelu, theory.affine(1.5)))
    assert lines(before)[1] == "q' = 1.5 E gelu(√(1) ζ)²"


BODIES = [
    theory.layer(TANH, 1.5, 0.05),
    theory.layer(TANH, 1.5, 0.05, residual=True),
    Chain((*theory.layer(TANH, 1.3, 0.2).parts, theory.affine(0.7, 0.1))),
    Chain((Pointwise(TANH), Normalise("rms", 0.3), theory.affine(1.3, 0.2))),
]


@pytest.mark.parametrize("body", BODIES)
def test_the_formula_of_the_length_gives_what_the_mean_field_gives(body):
    """The text is evaluated, with a Gauss-Legendre rule that the library does not have."""
    (formula,) = (line for line in lines(body) if line.startswith("q' = "))
    z, weight = np.polynomial.legendre.leggauss(200)
    z, weight = 10 * z, 10 * weight * np.exp(-50 * z**2) / np.sqrt(2 * np.pi)
    code = re.sub(r"E tanh\(√q ζ\)²", "square", formula.removeprefix("q' = "))
    code = re.sub(r"(?<=\d) (?=[(s])", " * ", code)
    q = 0.8
    square = float(np.sum(weight * np.tanh(np.sqrt(q) * z) ** 2))
    told = eval(code, {"q": q, "square": square})
    start = theory.given_moments(jnp.full((1, 1, 1, 1), q))
    zero = jax.tree.map(jnp.zeros_like, start)
    state = theory.mean_field.PreActivation(start, zero)
    after, _ = theory.description.interpret(body, theory.mean_field.MeanField(errors=False), state)
    np.testing.assert_allclose(told, theory.length(after.value)[0], rtol=FOLD)
