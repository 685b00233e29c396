"""Diagrams point by point: each number is that of the prediction for a single network."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

import theory
from tests.honesty.campaign import Campaign
from theory import activation, componentwise

STEP = componentwise(lambda z: jnp.where(z > 1, jnp.ones_like(z), 0), kinks=[1.0], scale=1e9)


def make(phi, **how):
    return lambda weight_variance, bias_variance: theory.layer(
        phi, weight_variance, bias_variance, **how
    )


BUILDS = {
    "erf": make(activation("erf")),
    "tanh": make(activation("tanh")),
    "relu": make(activation("relu")),
    "sin": make(activation("sin")),
    "gelu": make(activation("gelu")),
    "step": make(STEP),
    "residual tanh": make(activation("tanh"), residual=True),
    "radial, five components": make(theory.radial("tanh"), components=5),
}


def axes(rng, weights, biases):
    """With a bias of zero, and values close to where a slope at the origin is one."""
    near = 1 + 10.0 ** rng.uniform(-12, -1, weights // 4) * rng.choice([-1, 1], weights // 4)
    wide = np.exp(rng.uniform(math.log(1e-3), math.log(1e3), weights - weights // 4))
    bias = np.exp(rng.uniform(math.log(1e-6), math.log(10), biases - 1))
    return np.append(near, wide), np.append(0.0, bias)


def compare(judge, label, diagram, names, alone, at):
    here = {name: np.asarray(diagram[name].values[at]) for name in diagram.data_vars}
    for name in names:
        one = getattr(alone, name)
        value, error = float(here[name]), float(here[f"{name}_error"])
        if math.isnan(value) or math.isnan(one.value):
            judge.claim(f"{label} {name}", int(here[f"{name}_status"]), int(one.status))
            continue
        judge.number(
            f"{label} {name}", value, error, float(one.value), truth_error=float(one.error)
        )


def campaign(cases, builds=tuple(BUILDS), seed=0):
    judge, rng = Campaign("diagrams"), np.random.default_rng(seed)
    each = max(cases // (8 * len(builds)), 8)  # a point has eight numbers
    for name in builds:
        build = BUILDS[name]
        biases = 4 if each < 100 else 8
        w, b = axes(rng, each // biases, biases)
        diagram = theory.phase_diagram(build, {"weight_variance": w, "bias_variance": b})
        names = [n for n in diagram.data_vars if f"{n}_status" in diagram]
        for i, j in np.ndindex(w.size, b.size):
            alone = theory.predict(build(w[i], b[j]))
            label = f"{name} ({w[i]!r}, {b[j]!r})"
            phase = int(diagram["phase"].values[i, j])
            judge.claim(f"{label} phase", phase, int(alone.phase))
            compare(judge, label, diagram, names, alone, (i, j))
    return judge


@pytest.mark.parametrize(
    ("cases", "builds"), [(64, ["erf"]), pytest.param(10_000, BUILDS, marks=pytest.mark.slow)]
)
def test_every_point_is_that_of_its_prediction(cases, builds):
    judge = campaign(cases, tuple(builds))
    judge.check(most_unknown=0.1)
    assert judge.cases >= cases / 2
