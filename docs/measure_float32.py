"""Measure what float32 leaves of the results of float64: the table of docs/batch.md.

python docs/measure_float32.py

Both run on this processor and draw the same numbers, those of float32. An accelerator rounds in
another order; the size of the errors is that of the dtype.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import sigprop
import theory
from sigprop.experiments import apply_parameters, draw_parameters
from sigprop.jacobians import certify, leading_singular_values, sample_exponents, sample_jacobian
from sigprop.networks import DrawnNetwork, network_coherence

WIDTH, DEPTH = 64, 30
TANH = theory.activation("tanh")
# Of this kind all of the library's generators take the numbers of `jax.random.normal`.
KEY = jax.random.key(0, impl="rbg")


def real(weights="gaussian", weight_variance=1.5):
    return theory.feedforward(TANH, weight_variance, 0.05, depth=DEPTH, weights=weights)


def units(algebra, weights):
    how = {"components": 4, "algebra": algebra, "weights": weights}
    return theory.feedforward(theory.radial("tanh"), 3.0, 0.0, depth=DEPTH, **how)


def inputs(n, k, dtype):
    return jnp.asarray(np.random.default_rng(0).normal(size=(n, WIDTH, k)), jnp.float32).astype(
        dtype
    )


def off(run, relative=True):
    """The largest difference: relative, or that of logarithms and cosines."""
    found, truth = (np.asarray(run(dtype), np.float64) for dtype in (jnp.float32, jnp.float64))
    return float(np.max(np.abs(found - truth) / (np.abs(truth) if relative else 1)))


def signals(network, k=1, **how):
    """Lengths, slopes and gradients through depth, of one network, as logarithms."""

    def run(dtype):
        sample = sigprop.sample_network(network, inputs(2, k, dtype), key=KEY, width=WIDTH, **how)
        found = [jnp.log(theory.length(sample.moments)), sample.moments.log_gain]
        if sample.gradient_growth is not None:
            found.append(jnp.log(sample.gradient_growth))
        return jnp.concatenate(found)

    return off(run, relative=False)


def drawn(network, dtype, k=1):
    return DrawnNetwork(network, KEY, WIDTH), inputs(1, k, dtype)


def jacobian(dtype):
    found = sample_jacobian(real(), inputs(1, 1, dtype), key=KEY, width=WIDTH)
    return found.log_singular_values


def exponents(dtype):
    found = sample_exponents(real(), inputs(1, 1, dtype), key=KEY, width=WIDTH, count=4)
    return found.values


def leading(dtype):
    fn, x = drawn(real(), dtype)
    return leading_singular_values(fn, x, key=KEY, count=4).log_singular_values


def residual(dtype):
    fn, x = drawn(units("complex", "orthogonal"), dtype, 4)
    return certify(fn, x, theory.phases.generators(fn.network)).residual


def coherence(dtype):
    return network_coherence(real(), inputs(2, 1, dtype), key=KEY, width=WIDTH)


def gradient(dtype):
    """The gradient of the mean square of the outputs with respect to all weights."""
    network = real()
    start = draw_parameters(network, KEY, fan_in=WIDTH, width=WIDTH, components=1)
    start = jax.tree.map(lambda x: x.astype(dtype), start)
    x = inputs(4, 1, dtype)
    loss = lambda p: jnp.mean(apply_parameters(network, p, x) ** 2)
    found = jax.tree.leaves(jax.jit(jax.grad(loss))(start))
    return jnp.stack([jnp.linalg.norm(leaf) for leaf in found])


def propagated(dtype):
    part = theory.numerics.cast(real(), dtype)
    return theory.length(theory.propagate(part, inputs(2, 1, dtype)).value)


MEASURED = {
    "networks, Gaussian weights": lambda: signals(real(), gradients=True),
    "networks, orthogonal weights": lambda: signals(real("orthogonal"), gradients=True),
    "networks, sparse weights": lambda: signals(real("sparse:0.5"), gradients=True),
    "networks, unitary weights": lambda: signals(units("complex", "orthogonal"), 4),
    "networks, symplectic weights": lambda: signals(units("quaternion", "orthogonal"), 4),
    "networks without matrices": lambda: signals(real(), explicit_weights=False, gradients=True),
    "coherence of gradients": lambda: off(coherence, relative=False),
    "Jacobians, log s": lambda: off(jacobian, relative=False),
    "exponents": lambda: off(exponents, relative=False),
    "leading log s, matrix-free": lambda: off(leading, relative=False),
    "certificates, residual": lambda: float(jnp.max(residual(jnp.float32))),
    "gradients in training": lambda: off(gradient),
    "`propagate`": lambda: off(propagated),
}
"""What differs, at most over layers, values and inputs: relative, or of logarithms and cosines."""


def same_draws():
    """Draw the numbers of float32 in every dtype."""
    for name in ("normal", "uniform"):
        own = getattr(jax.random, name)

        @functools.wraps(own)
        def drawn(key, shape=(), dtype=float, own=own, **how):
            return own(key, shape, jnp.float32, **how).astype(dtype)

        setattr(jax.random, name, drawn)


def main() -> dict[str, float]:
    """Print the column of the table; give it back by program."""
    jax.config.update("jax_enable_x64", True)
    same_draws()
    found = {}
    for name, measure in MEASURED.items():
        found[name] = measure()
        print(f"| {name} | {found[name]:.0e} |", flush=True)
    return found


if __name__ == "__main__":
    main()
