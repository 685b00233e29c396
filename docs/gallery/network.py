"""A network to probe: twenty tanh layers as Equinox initialises them.

    sigprop probe docs/gallery/network.py:network --description law --dtype float64

`eqx.nn.Linear` draws weights and biases uniformly from ±1/√N, so σ_w² = 1/3 and
σ_b² = 1/(3N): deep in the ordered phase.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

import theory

WIDTH, DEPTH = 64, 20

network = eqx.nn.MLP(
    WIDTH, WIDTH, WIDTH, DEPTH, activation=jnp.tanh, dtype=jnp.float64, key=jax.random.key(0)
)
law = theory.feedforward(theory.activation("tanh"), 1 / 3, 1 / (3 * WIDTH), depth=DEPTH)
