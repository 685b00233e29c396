"""One layer of several layers: repeats, chains and schedules are one and the same."""

import math

import jax
import jax.numpy as jnp
import pytest

import theory
from theory import Phase
from theory.phases._one_layer import one_layer

ERF = theory.activation("erf")
LAYERS = [(0.8, 0.05), (1.2, 0.1)]


def stacked(layers):
    weights, biases = jnp.array(layers).T
    return theory.Repeat(theory.layer(ERF, weights, biases), len(layers))


def lengths(q, layers):
    """After each layer, in closed form."""
    for w, b in layers:
        q = w * (2 / math.pi) * math.asin(2 * q / (1 + 2 * q)) + b
        yield q


def slope(q, layers):
    """Π σ_w² E φ'²."""
    each = [q, *lengths(q, layers)]
    gains = [
        w * (4 / math.pi) / math.sqrt(1 + 4 * q) for (w, _), q in zip(layers, each, strict=False)
    ]
    return math.prod(gains)


def settled(layers):
    q = 1.0
    for _ in range(400):
        *_, q = lengths(q, layers)
    return q


def test_the_slope_of_a_nest_of_repeats_is_that_of_all_layers():
    value, error = one_layer(theory.repeat(stacked(LAYERS), 2), jnp.asarray(0.7), errors=True)
    assert abs(value.slope - slope(0.7, LAYERS * 2)) <= error.slope < 1e-13
    *_, end = lengths(0.7, LAYERS * 2)
    assert abs(value.length - end) <= error.length < 1e-13


def test_inside_of_a_branch_no_scale_is_taken_out_and_around_it_all_of_it_is():
    branch = theory.Chain((theory.affine(1.0), stacked(LAYERS)))
    value, error = one_layer(
        theory.repeat(theory.Residual(branch), 2), jnp.asarray(0.7), errors=True
    )
    *_, end = lengths(0.7, LAYERS)
    both = (1 + slope(0.7, LAYERS)) * (1 + slope(0.7 + end, LAYERS))
    assert abs(value.slope - both) <= error.slope < 1e-12


@pytest.mark.slow
def test_every_way_to_write_several_layers_gives_one_layer():
    q, x = jnp.asarray(0.7), jnp.asarray(0.1)
    run = lambda body: one_layer(body, q, x, errors=True)
    layers = [theory.layer(ERF, *each) for each in LAYERS]
    chain, error = run(theory.Chain((*layers, *layers)))
    for body in (theory.repeat(stacked(LAYERS), 2), theory.repeat(theory.Chain(tuple(layers)), 2)):
        nested, _ = run(body)
        for one, other in zip(jax.tree.leaves(chain), jax.tree.leaves(nested), strict=True):
            assert abs(one - other) <= 1e-14 * abs(one)
    assert abs(chain.slope - slope(0.7, LAYERS * 2)) <= error.slope < 1e-13


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_the_prediction_of_a_repeat_is_that_of_its_layers(times):
    body = stacked(LAYERS)
    body = body if times == 1 else theory.repeat(body, times)
    found = theory.predict(body)
    q = settled(LAYERS)
    assert abs(found.length.value - q) <= found.length.error + 1e-15
    chi = slope(q, LAYERS * times)
    assert abs(found.slope.value - chi) <= found.slope.error < 1e-12
    assert found.phase == Phase.ORDERED
    scale = -1 / math.log(chi)
    assert abs(found.depth_scale_correlation.value - scale) <= 1e-11 * scale


@pytest.mark.slow
def test_sectors_of_two_layers_are_those_of_one_squared():
    layer = theory.layer(theory.radial("tanh"), 2.25, 0.045, components=3)
    length = theory.predict(layer).length
    one, two = theory.sectors(layer, length), theory.sectors(theory.repeat(layer, 2), length)
    for sector in ("goldstone", "trace", "symmetric_traceless"):
        single, double = getattr(one, sector), getattr(two, sector)
        assert abs(double.value - single.value**2) <= double.error + 2 * single.error < 1e-11


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (stacked(LAYERS).body, r"`weight_variance`: must be one number, .* got the shape \[2\]"),
        (
            theory.feedforward(ERF, 1.5, 0.05, depth=3),
            "`(layer|body)`: must be one layer, .* whole network",
        ),
        (
            theory.recurrent(ERF, 1.5, 0.05, steps=3),
            "`(layer|body)`: must be one layer without a Recurrent",
        ),
    ],
)
@pytest.mark.parametrize(
    "ask", [theory.predict, theory.fixed_points, theory.phases.stationary_state]
)
def test_what_is_not_one_layer_is_refused_in_one_line(ask, body, message):
    with pytest.raises((TypeError, ValueError), match=message) as refusal:
        ask(body)
    assert "\n" not in str(refusal.value)
