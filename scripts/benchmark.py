"""Speed as ratios, side by side in one run: the phase diagram, and the simulation.

    python scripts/benchmark.py [--points 24] [--repeats 5]

The diagram: q*, χ, c*, ξ of tanh on 64×64 points, σ_w² from .5 to 4 and σ_b² from .001 to .5,
against (a) a fixed-point loop with scipy's `quad` at each point, on a sample of the points,
and (b) a Gauss-Hermite grid of 128 nodes with Newton's method, for q* and χ. The simulation:
seconds per layer against the matrix product and the random numbers that it cannot do without.
"""

import argparse
import platform
import time

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from scipy import integrate

import sigprop
import theory

TANH = theory.activation("tanh")
WEIGHTS, BIASES = np.linspace(0.5, 4.0, 64), np.linspace(1e-3, 0.5, 64)


def build(weight_variance, bias_variance):
    """One turn of a tanh network."""
    return theory.layer(TANH, weight_variance, bias_variance)


def timed(fn, repeats):
    """The median of several timings in seconds, and the last result."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = jax.block_until_ready(fn())
        times.append(time.perf_counter() - start)
    return float(np.median(times)), result


def by_quad(w, b):
    """q* and χ the usual way: iterate the length map, with adaptive quadrature at each step."""

    def expectation(fn):
        weight = np.sqrt(2 * np.pi)
        return integrate.quad(lambda z: fn(z) * np.exp(-z * z / 2) / weight, -10, 10)[0]

    q = 1.0
    for _ in range(500):
        new = w * expectation(lambda z, q=q: np.tanh(np.sqrt(q) * z) ** 2) + b
        done, q = abs(new - q) < 1e-10 * q, new
        if done:
            break
    chi = w * expectation(lambda z: np.cosh(np.sqrt(q) * z) ** -4.0)
    return q, chi


def by_gauss_hermite(w, b, nodes=128, steps=8):
    """q* and χ on a whole grid with one fixed rule and Newton's method."""
    z, weight = np.polynomial.hermite_e.hermegauss(nodes)
    weight = weight / weight.sum()
    q = np.ones_like(w)
    for _ in range(steps):
        root = np.sqrt(q)[..., None]
        f = np.tanh(root * z)
        slope = 1 - f**2
        value = w * (f**2 @ weight) + b - q
        rate = w * ((f * slope * z) @ weight) / root[..., 0] - 1
        q = np.maximum(q - value / rate, 1e-12)
    slope = 1 - np.tanh(np.sqrt(q)[..., None] * z) ** 2
    return q, w * (slope**2 @ weight)


def diagram_rows(points, repeats):
    """Rows (what, seconds, ratio to ours) for the diagram."""
    axes = {"weight_variance": WEIGHTS, "bias_variance": BIASES}
    start = time.perf_counter()
    theory.phase_diagram(build, axes)
    cold = time.perf_counter() - start
    warm, diagram = timed(lambda: theory.phase_diagram(build, axes), repeats)
    w, b = np.meshgrid(WEIGHTS, BIASES, indexing="ij")

    chosen = np.random.default_rng(0).choice(w.size, points, replace=False)
    start = time.perf_counter()
    quad = np.array([by_quad(w.flat[i], b.flat[i]) for i in chosen])
    slow = (time.perf_counter() - start) * w.size / points
    fast, (q, chi) = timed(lambda: by_gauss_hermite(w, b), repeats)

    ours_q, ours_chi = diagram["length"].values, diagram["slope"].values
    error = lambda x, y: float(np.max(np.abs(x / y - 1)))
    print(
        f"largest relative error that our diagram reports: q* "
        f"{float((diagram['length_error'] / diagram['length']).max()):.1e}, c* "
        f"{float(diagram['correlation_error'].max()):.1e}"
    )
    print(
        f"against it: quad q* {error(quad[:, 0], ours_q.flat[chosen]):.1e}, χ "
        f"{error(quad[:, 1], ours_chi.flat[chosen]):.1e}; Gauss-Hermite q* "
        f"{error(q, ours_q):.1e}, χ {error(chi, ours_chi):.1e}"
    )
    return [
        ("our diagram, warm (q*, χ, c*, ξ, errors)", warm, 1.0),
        ("our diagram, first call with compilation", cold, cold / warm),
        (f"quad, q* and χ only (from {points} points)", slow, slow / warm),
        ("Gauss-Hermite 128, q* and χ only", fast, fast / warm),
    ]


def simulation_rows(repeats):
    """Rows (what, seconds per layer, ratio) for explicit weights, float32, two inputs."""
    rows = []
    x = sigprop.gram_inputs(jax.random.key(0), jnp.eye(2), 16).astype(jnp.float32)
    for width, replicas, depth in [(128, 64, 50), (256, 32, 50), (512, 16, 50), (1024, 8, 50)]:
        network = theory.feedforward(TANH, 1.76095463960674, 0.05, depth=depth)

        def simulate(network=network, width=width, replicas=replicas):
            return sigprop.sample_ensemble(network, x, width=width, replicas=replicas).samples

        keys = jax.random.split(jax.random.key(1), replicas * depth).reshape(replicas, depth)
        vectors = jnp.ones((width, 4), jnp.float32)

        @jax.jit
        def draw(keys, width=width):
            fn = lambda key: jnp.sum(jax.random.normal(key, (width, width), jnp.float32))
            return jax.lax.map(fn, keys.reshape(-1))

        @jax.jit
        def multiply(weights, vectors, count=replicas * depth):
            step = lambda _, v: jnp.matmul(weights, v, precision="highest") * 1e-3
            return jax.lax.fori_loop(0, count, step, vectors)

        weights = jax.random.normal(jax.random.key(2), (width, width), jnp.float32)
        for fn in (simulate, lambda: draw(keys), lambda: multiply(weights, vectors)):
            jax.block_until_ready(fn())
        layers = replicas * (depth + 1)
        total = timed(simulate, repeats)[0] / layers
        # The generator and the product run on one core here; the ensemble uses two.
        random = timed(lambda: draw(keys), repeats)[0] / (replicas * depth)
        matrix = timed(lambda: multiply(weights, vectors), repeats)[0] / (replicas * depth)
        rows.append((width, total, random, matrix, total / (random + matrix)))
    return rows


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=24, help="points for scipy's quad")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(argv)
    print(
        f"{platform.machine()}, {jax.devices()[0].device_kind}, jax {jax.__version__}, "
        f"Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
    )
    print("\n| diagram 64×64, tanh | seconds | ratio |\n|---|---|---|")
    for what, seconds, ratio in diagram_rows(options.points, options.repeats):
        print(f"| {what} | {seconds:.3g} | {ratio:.3g} |")
    print(
        "\n| width | simulation, µs per layer and network | random numbers | product "
        "| ratio to their sum |\n|---|---|---|---|---|"
    )
    for width, total, random, matrix, ratio in simulation_rows(options.repeats):
        print(
            f"| {width} | {total * 1e6:.0f} | {random * 1e6:.0f} | {matrix * 1e6:.0f} "
            f"| {ratio:.2f} |"
        )


if __name__ == "__main__":
    main()
