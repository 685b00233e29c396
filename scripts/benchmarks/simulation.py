"""Finite networks beside what they cannot do without."""

from concurrent.futures import ThreadPoolExecutor

import equinox as eqx
import jax
import jax.numpy as jnp

import sigprop
import theory
from sigprop.networks._random import normal
from theory.description import AlgebraName

from .timing import timed

TANH = theory.activation("tanh")


POOL = ThreadPoolExecutor(2)


@eqx.filter_jit
def draw(keys, width):
    """Only the random numbers of the weights, network after network."""
    fn = lambda key: jnp.sum(jax.random.normal(key, (width, width), jnp.float32))
    return jax.lax.map(fn, keys)


@eqx.filter_jit
def multiply(weights, vectors, count):
    """Only the products with the weights."""
    step = lambda _, v: jnp.matmul(weights, v, precision="highest") * 1e-3
    return jax.lax.fori_loop(0, count, step, vectors)


def simulation_row(width, replicas, depth, repeats):
    """Seconds per layer and network: simulation with and without weights, random numbers,
    product, and the ratio of the first to the sum of the last two."""
    x = sigprop.gram_inputs(jnp.eye(2), 16, key=jax.random.key(0)).astype(jnp.float32)
    network = theory.feedforward(TANH, 1.76095463960674, 0.05, depth=depth)
    keys = jax.random.split(jax.random.key(1), replicas * depth)
    weights = jax.random.normal(jax.random.key(2), (width, width), jnp.float32)
    vectors = jnp.ones((width, 4), jnp.float32)
    sample = lambda explicit: (
        sigprop.sample_ensemble(
            network, x, width=width, replicas=replicas, explicit_weights=explicit
        ).samples
    )
    runs = (
        lambda: sample(True),
        lambda: sample(False),
        # Two threads, as the ensemble has them.
        lambda: list(POOL.map(lambda k: jax.block_until_ready(draw(k, width)), jnp.split(keys, 2))),
        lambda: multiply(weights, vectors, replicas * depth),
    )
    for run in runs:
        jax.block_until_ready(run())
    layers = (replicas * (depth + 1),) * 2 + (replicas * depth,) * 2
    total, free, random, matrix = (
        timed(run, repeats)[0] / count for run, count in zip(runs, layers, strict=True)
    )
    return total, free, random, matrix, total / (random + matrix)


def wide_seconds(width, depth, repeats):
    """Seconds per layer for two inputs and four tangents without weights (with all its noise), for
    the Gaussian numbers that it needs, by `jax.random.normal` and by ours, and for a whole run."""
    x = sigprop.gram_inputs(jnp.eye(2), 16, key=jax.random.key(0)).astype(jnp.float32)
    tangents = jax.random.normal(jax.random.key(1), (*x.shape, 2), jnp.float32)
    start = sigprop.networks.Signals(x, tangents, jnp.zeros(2, jnp.float32))
    reading = sigprop.networks.FiniteNetwork(jax.random.key(2), width, None, "highest", False)
    cast = lambda leaf: leaf.astype(jnp.float32) if eqx.is_inexact_array(leaf) else leaf

    @eqx.filter_jit
    def run(network):
        return theory.description.along_depth(
            theory.description.interpret(network, reading, start)[1]
        )

    @eqx.filter_jit
    def numbers(draw, keys):
        return jax.lax.map(lambda key: jnp.sum(draw(key, (6, width), jnp.float32)), keys)

    build = lambda depth: jax.tree.map(
        cast, theory.feedforward(TANH, 1.76095463960674, 0.05, depth=depth)
    )
    shallow, deep = build(1), build(depth)
    keys = jax.random.split(jax.random.key(3), 4)
    times = [
        timed(fn, repeats + 1)[0]
        for fn in (
            lambda: run(shallow),
            lambda: run(deep),
            lambda: numbers(jax.random.normal, keys),
            lambda: numbers(normal, keys),
        )
    ]
    return (times[1] - times[0]) / (depth - 1), times[2] / 4, times[3] / 4, times[1]


def units_rows(size, replicas, depth, repeats):
    """Microseconds per layer and network, with and without weights, for units of several
    components and the same number of real numbers in a layer."""
    cases: tuple[tuple[str, int, AlgebraName], ...] = (
        ("scalar", 1, "real"),
        ("O(2)", 2, "real"),
        ("U(1)", 2, "complex"),
        ("O(4)", 4, "real"),
        ("Sp(1)", 4, "quaternion"),
        ("O(16)", 16, "real"),
    )
    rows = []
    for name, k, algebra in cases:
        phi = theory.radial("tanh") if k > 1 else TANH
        network = theory.feedforward(phi, 2.0, components=k, algebra=algebra, depth=depth)
        gram = jnp.eye(2)
        x = sigprop.gram_inputs(gram, 4 * k + 12, key=jax.random.key(0), components=k)
        x = x.astype(jnp.float32)

        def run(explicit, network=network, x=x, width=size // k):
            return sigprop.sample_ensemble(
                network, x, width=width, replicas=replicas, explicit_weights=explicit
            ).samples

        times = []
        for explicit in (True, False):
            run(explicit)
            seconds, _ = timed(lambda e=explicit: run(e), repeats)
            times.append(seconds / (replicas * (depth + 1)))
        rows.append((name, *times))
    return rows
