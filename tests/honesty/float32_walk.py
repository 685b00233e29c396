"""Run in a process of its own, which knows float32 alone, as JAX does by default.

Prints one line of JSON: for every question asked, what came back.
"""

import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np

import sigprop
import theory
from theory import Estimate, Status

ERF = theory.activation("erf")
TANH = theory.activation("tanh")
RADIAL = theory.radial("tanh")
LAYER = theory.layer(ERF, 3.0, 0.05)
ROTATING = theory.layer(RADIAL, 2.25, 0.045, components=3)
DEEP = theory.feedforward(ERF, 1.5, 0.05, depth=20)
KEY = jax.random.key(0)


def known(value):
    value = jnp.asarray(value)
    return Estimate(value, jnp.zeros_like(value), jnp.asarray(Status.OK, jnp.int8))


def law(*square):
    one = jnp.asarray(square)[None]
    return theory.spectrum.SlopeLaw(one, jnp.full_like(one, 1 / len(square)))


FACTORS = theory.spectrum.JacobianFactors(
    jnp.zeros(()), jnp.ones(()), jnp.full(1, 3.0), law(0.5, 1.5), law(0.5, 1.5)
)
GRID = {"weight_variance": np.array([1.5, 2.0])}
build = lambda weight_variance: theory.layer(ERF, weight_variance, 0.05)
rotating = lambda weight_variance: theory.layer(RADIAL, weight_variance, 0.05, components=2)

REFUSED = {
    "predict": lambda: theory.predict(LAYER),
    "fixed_points": lambda: theory.fixed_points(LAYER),
    "length_cycle": lambda: theory.phases.length_cycle(LAYER),
    "critical_line": lambda: theory.critical_line(ERF, 1.0),
    "critical_points": lambda: theory.critical_points(ERF, 0.05),
    "half_stable_points": lambda: theory.phases.half_stable_points(TANH),
    "phase_diagram": lambda: theory.phase_diagram(build, GRID),
    "sector_diagram": lambda: theory.sector_diagram(rotating, GRID),
    "stationary_state": lambda: theory.phases.stationary_state(LAYER, 0.1),
    "sectors": lambda: theory.sectors(ROTATING, known(0.5)),
    "generic_exponent": lambda: theory.finite_width.generic_exponent(RADIAL, 1.5, components=2),
    "length_correction": lambda: theory.finite_width.length_correction(DEEP, 1.0),
    "residual_moments": lambda: theory.spectrum.residual_moments(
        theory.layer(TANH, 1.0, residual=True), 1.0, 3
    ),
    "jacobian_factors": lambda: theory.jacobian_factors(LAYER, 1.0),
    "jacobian_spectrum": lambda: theory.spectrum.jacobian_spectrum(LAYER, 1.0),
    "jacobian_moments": lambda: theory.spectrum.jacobian_moments(FACTORS),
    "lyapunov_quantiles": lambda: theory.spectrum.lyapunov_quantiles(FACTORS, jnp.array([0.5])),
    "spectrum_edges": lambda: theory.spectrum.spectrum_edges(FACTORS),
    "spectrum_summary": lambda: theory.spectrum.spectrum_summary(FACTORS),
    "singular_value_distribution": lambda: theory.singular_value_distribution(
        FACTORS, jnp.zeros(1)
    ),
    "singular_value_quantiles": lambda: theory.singular_value_quantiles(FACTORS, jnp.array([0.5])),
}
"""What must say that it needs float64."""


def erf_lengths(w, b, q, layers):
    for _ in range(layers):
        q = w * (2 / math.pi) * math.asin(2 * q / (1 + 2 * q)) + b
    return q


def propagated():
    inputs = jnp.stack([jnp.ones((4, 1)), jnp.array([1.0, 1, 1, -1]).reshape(4, 1)])
    found = theory.propagate(DEEP, inputs)
    truth = erf_lengths(1.5, 0.05, 1.55, 20)
    at = lambda moments: theory.length(moments)[-1, 0]
    return at(found.value), at(found.error), truth


def correlated():
    """Far in the chaotic phase, 1 − c from 1e-6 on."""
    q, x, w = 1.0, 1e-6, 1.5
    pair = q * np.array([[1, 1 - x], [1 - x, 1]])
    apart = np.array([[0, q * x], [q * x, 0]])
    four = lambda matrix: jnp.asarray(matrix)[..., None, None]
    moments = theory.given_moments(four(pair), four(apart))
    found = theory.propagate(DEEP, moments)
    q, s = 1.55, w * x
    for _ in range(20):
        square = math.asin(2 * q / (1 + 2 * q))
        # asin a − asin b = asin(a √(1−b²) − b √(1−a²)), a − b small
        a, b = 2 * q / (1 + 2 * q), 2 * (q - s) / (1 + 2 * q)
        root = lambda y: math.sqrt((1 - y) * (1 + y))
        gap = math.asin((2 * s / (1 + 2 * q)) * (a + b) / (a * root(b) + b * root(a)))
        q, s = w * (2 / math.pi) * square + 0.05, w * (2 / math.pi) * gap
    at = lambda moments: theory.distance(moments)[-1, 0, 1]
    return at(found.value), at(found.error), s


def estimated(estimate, truth, place=()):
    return estimate.value[place], estimate.error[place], truth


def gains():
    network = theory.feedforward(RADIAL, 1.0, depth=2, components=2)
    found = theory.spectrum.goldstone_gains(network, jnp.eye(8).reshape(1, 32, 2))
    return found.value[0], found.error[0], None


def cosine():
    found = theory.gradients.gradient_coherence(
        theory.feedforward(theory.activation("linear"), 1.0, depth=3, residual=True),
        jnp.ones((1, 4, 1)),
    )
    # E h_l h_m ∝ 2^l and E δ_l δ_m ∝ 2^−m for l ≤ m: each has the cosine 2^((l − m)/2).
    return found.cosine.value[0, 2], found.cosine.error[0, 2], 0.25


def singular_values():
    factors = jnp.stack([jnp.diag(jnp.array([4.0, 1.0, 0.25]))] * 30)
    found = sigprop.jacobians.product_log_singular_values(factors)
    return found.log_singular_values[2], found.error, -30 * math.log(4)


def one_jacobian():
    affine = theory.affine(4.0, weights="orthogonal")
    found = sigprop.sample_jacobian(theory.repeat(affine, 3), jnp.ones((1, 8, 1)), key=KEY, width=8)
    return found.log_singular_values[0], found.error, 3 * math.log(2)


def leading_value():
    slopes = jnp.array([3.0, 1, 1, 1])
    found = sigprop.jacobians.leading_singular_values(
        lambda x: slopes * x, jnp.ones(4), key=KEY, count=1
    )
    return found.log_singular_values[0], found.error[0], math.log(3)


def leading_vector():
    angle = 0.3
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    found = sigprop.alignment.leading_vectors(jnp.asarray(rotation @ np.diag([3.0, 1.0]))[None], 1)
    left = found.left[0, :, 0]
    sine = left[0] * math.sin(angle) - left[1] * math.cos(angle)
    return sine, found.error[0], 0.0


ANSWERED = {
    "propagate": propagated,
    "distance": correlated,
    "gaussian_expectation": lambda: estimated(
        theory.gaussian.gaussian_expectation(lambda z: z**4, 2.0), 12.0
    ),
    "gaussian_pair_expectation": lambda: estimated(
        theory.gaussian.gaussian_pair_expectation(lambda u, v: u * v, 2.0, 0.5, 0.3), 0.3
    ),
    "gradient_coherence": cosine,
    "goldstone_gains": gains,
    "linear_residual_gain": lambda: estimated(
        theory.gradients.linear_residual_gain(3.0, 1, 0.7), 3 - 2 * math.exp(-0.7), (0,)
    ),
    "spike_overlap": lambda: estimated(theory.gradients.spike_overlap(2.0)[0], 0.75),
    "product_log_singular_values": singular_values,
    "sample_jacobian": one_jacobian,
    "leading_singular_values": leading_value,
    "leading_vectors": leading_vector,
}
"""Value, error and truth; a truth of None asks for a finite error alone."""


def main(names):
    assert not jax.config.jax_enable_x64  # type: ignore
    told = {}
    for name in names:
        ask = REFUSED.get(name) or ANSWERED[name]
        try:
            value, error, truth = ask()  # type: ignore
            told[name] = [float(value), float(error), truth]
        except Exception as refusal:
            told[name] = f"{type(refusal).__name__}: {refusal}"
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1:] or [*REFUSED, *ANSWERED])
