"""Programs that public functions compile in a fresh process: run with the folder that JAX writes
them to, `JAX_DUMP_IR_TO`. Prints a line of JSON per function: its name, how many programs it
compiled and their instructions, and how many it compiled again with other numbers."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import theory

jax.config.update("jax_enable_x64", True)
FOLDER = Path(os.environ["JAX_DUMP_IR_TO"])


def layer(name, *variances, **how):
    return theory.layer(theory.activation(name), *variances, **how)


def units(w):
    return theory.layer(theory.radial("tanh"), w, 0.05, components=4)


def signals(a):
    return jnp.asarray(np.array([[[a], [0.5]], [[0.3], [1.0]]]))


def network(w):
    return theory.feedforward(theory.activation("tanh"), w, 0.05, depth=20)


def quantiles(w):
    factors = theory.jacobian_factors(layer("tanh", w, 0.05), 1.0).repeated(8)
    return theory.singular_value_quantiles(factors, jnp.linspace(0.1, 0.9, 9))


LENGTH = theory.Estimate(*map(jnp.asarray, (0.7, 1e-14, np.int8(0))))
CALLS = {
    "predict": lambda a: theory.predict(layer("tanh", 1.5 * a, 0.05), start=a),
    "predict, another activation": lambda a: theory.predict(layer("gelu", 1.5 * a, 0.05)),
    "predict, residual": lambda a: theory.predict(layer("tanh", 1.5 * a, 0.05, residual=True)),
    "predict, closed form": lambda a: theory.predict(layer("relu", 1.5 * a, 0.05)),
    "predict, O(4)": lambda a: theory.predict(units(2 * a)),
    "sectors": lambda a: theory.sectors(units(2 * a), LENGTH, tolerance=1e-10 * a),
    "fixed_points": lambda a: theory.fixed_points(layer("tanh", 1.5 * a, 0.05)),
    "critical_points": lambda a: theory.critical_points(theory.activation("tanh"), 0.05 * a),
    "critical_line": lambda a: theory.critical_line(theory.activation("tanh"), [a, 2 * a]),
    "stationary_state": lambda a: theory.phases.stationary_state(layer("tanh", 1.5, 0.05), 0.1 * a),
    "propagate": lambda a: theory.propagate(network(1.5 * a), signals(a)),
    "length_correction": lambda a: theory.finite_width.length_correction(network(1.5 * a), a),
    "singular_value_quantiles": lambda a: quantiles(1.5 * a),
    "phase_diagram": lambda a: theory.phase_diagram(
        built, {"weight_variance": np.linspace(a, 3, 8)}, tolerance=1e-10 * a
    ),
}


def built(weight_variance):
    return layer("tanh", weight_variance, 0.05)


def programs():
    return set(FOLDER.glob("*.mlir"))


def instructions(paths):
    return sum(line.count(" = ") for path in paths for line in path.read_text().splitlines())


if __name__ == "__main__":
    for name, call in CALLS.items():
        before = programs()
        jax.block_until_ready(jax.tree.leaves(call(1.0)))
        first = programs() - before
        jax.block_until_ready(jax.tree.leaves(call(1.01)))
        again = programs() - before - first
        print(json.dumps([name, len(first), instructions(first), len(again)]), flush=True)
