"""One table of networks: every kind of node, law, algebra and activation, alone and in others."""

import jax
import jax.numpy as jnp

import theory

TANH = theory.activation("tanh")
LEAKY = theory.activation("leaky_relu", negative_slope=1 / 3)


def rising(phi):
    """A layer whose variances are 1/3, 2/3, 1."""
    return jax.vmap(lambda v: theory.layer(phi, v, v / 7))(jnp.arange(1.0, 4.0) / 3)


def sloped(slope):
    phi = theory.activation("elu", alpha=slope)
    return theory.repeat(theory.layer(phi, slope, 0.1), 2)


NETWORKS = {
    "affine": theory.affine(1 / 3, 0.1, width=10),
    "layer": theory.layer(TANH, 1.5, 0.05),
    "orthogonal": theory.layer(TANH, 1.5, weights="orthogonal"),
    "parameter": theory.layer(LEAKY, 1.5),
    "residual": theory.layer(theory.activation("gelu"), 0.7, 0.1, residual=True),
    "radial": theory.layer(theory.radial("tanh"), 2.25, components=3),
    "threshold": theory.layer(theory.radial("threshold", threshold=0.3), 2.25, components=2),
    "complex": theory.layer(theory.radial("elu", alpha=0.2), 2.25, components=4, algebra="complex"),
    "quaternion": theory.layer(theory.radial("erf"), 2.25, components=4, algebra="quaternion"),
    "dense": theory.layer(theory.radial("sin"), 2.25, components=2, algebra="dense"),
    "rms": theory.Chain((theory.layer(TANH, 1.5), theory.Normalise("rms", 1e-6))),
    "norm": theory.Chain((theory.Normalise(), theory.layer(TANH, 1.5))),
    "sparse": theory.layer(TANH, 1.5, weights=theory.SparseWeights(1 / 3)),
    "noise": theory.Chain((theory.Pointwise(TANH), theory.Noise(1 / 3), theory.affine(1.5))),
    "deep": theory.feedforward(TANH, 1.5, 0.05, depth=20),
    "deep residual": theory.feedforward(LEAKY, 1.5, 0.05, depth=3, residual=True),
    "recurrent": theory.recurrent(TANH, 1.2, 0.1, steps=5),
    "schedule": theory.Chain((theory.affine(1.0), theory.Repeat(rising(TANH), 3))),
    "nested": theory.repeat(theory.repeat(theory.layer(TANH, 1.5), 2), 3),
    "schedule inside": theory.repeat(theory.Repeat(rising(LEAKY), 3), 2),
    "schedule outside": theory.Repeat(jax.vmap(sloped)(jnp.arange(1.0, 4.0) / 3), 3),
    "two of them": theory.Chain(
        (theory.repeat(theory.layer(LEAKY, 1.5), 2), theory.Repeat(rising(LEAKY), 3))
    ),
}
