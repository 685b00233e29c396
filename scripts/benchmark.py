"""Speed as ratios, side by side in one run: the phase diagram, and the simulation.

    python scripts/benchmark.py [--points 24] [--map-points 2] [--repeats 5] [--only spectra]

The diagram: q*, χ, c*, ξ of tanh on 64×64 points, σ_w² from .5 to 4 and σ_b² from .001 to .5,
against (a) a fixed-point loop with scipy's `quad` at each point and, for c*, with `dblquad`
(from c = 0, until c moves by less than 1e-8), both on a sample of the points, and (b) a
Gauss-Hermite grid of 128 nodes with Newton's method, for q* and χ. The simulation: seconds per
layer against the matrix product and the random numbers that it cannot do without. Wide: a layer of
a million units without weights against its random numbers, and the memory. Units:
networks of k components against the scalar one with as many real numbers, and a diagram of O(4).
Spectra: all singular values of deep products to full relative accuracy against the plain product
and one SVD, one matrix and many, with what was tried; the density at 100 depths.

Training: a step of Adam against the matrix products that it cannot do without, in the same shapes,
and against the same network in PyTorch where that is installed (`pip install torch==2.13.0`).
"""

import argparse
import functools
import importlib
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate
from threadpoolctl import threadpool_limits

import sigprop
import theory
from sigprop._random import normal
from theory._architecture import Algebra

TANH = theory.activation("tanh")
POOL = ThreadPoolExecutor(2)
WEIGHTS, BIASES = np.linspace(0.5, 4.0, 64), np.linspace(1e-3, 0.5, 64)


def build(weight_variance, bias_variance):
    """One turn of a tanh network."""
    return theory.layer(TANH, weight_variance, bias_variance)


def timed(fn, repeats):
    """The median of several timings in seconds, and the last result."""
    times: list[float] = []
    result: Any = None
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


def by_dblquad(w, b, q):
    """c* the usual way: iterate the correlation map from c = 0, with `dblquad` at each step."""
    c = 0.0
    for _ in range(500):
        a, s = math.sqrt(q), math.sqrt(max(1 - c * c, 0.0))

        def term(y, x, a=a, s=s, c=c):
            density = math.exp(-(x * x + y * y) / 2) / (2 * math.pi)
            return math.tanh(a * x) * math.tanh(a * (c * x + s * y)) * density

        product = integrate.dblquad(term, -8, 8, -8, 8, epsabs=1e-9, epsrel=1e-9)[0]
        new = (w * product + b) / q
        done, c = abs(new - c) < 1e-8, min(new, 1.0)
        if done:
            break
    return c


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


def diagram_rows(points, map_points, repeats):
    """Rows (what, seconds, ratio to ours) for the diagram."""
    axes = {"weight_variance": WEIGHTS, "bias_variance": BIASES}
    start = time.perf_counter()
    theory.phase_diagram(build, axes)
    cold = time.perf_counter() - start
    warm, diagram = timed(lambda: theory.phase_diagram(build, axes), repeats)
    lengths = lambda: theory.phase_diagram(build, axes, correlations=False)
    lengths()
    short, _ = timed(lengths, repeats)
    w, b = np.meshgrid(WEIGHTS, BIASES, indexing="ij")

    chosen = np.random.default_rng(0).choice(w.size, points, replace=False)
    start = time.perf_counter()
    quad = np.array([by_quad(w.flat[i], b.flat[i]) for i in chosen])
    slow = (time.perf_counter() - start) * w.size / points
    mapped, seconds = [], []
    for i in chosen[:map_points]:
        start = time.perf_counter()
        mapped.append(by_dblquad(w.flat[i], b.flat[i], diagram["length"].values.flat[i]))
        seconds.append(time.perf_counter() - start)
    slow_map = float(np.mean(seconds)) * w.size
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
    ours_c = diagram["correlation"].values.flat[chosen[:map_points]]
    print(
        f"dblquad at {map_points} points: c* off by {np.max(np.abs(mapped - ours_c)):.1e}; "
        f"{min(seconds):.3g} to {max(seconds):.3g} s for a point"
    )
    return [
        ("our diagram, warm (q*, χ, c*, ξ, errors)", warm, 1.0),
        ("our diagram, first call with compilation", cold, cold / warm),
        ("our diagram without correlations: q*, χ, λ, ξ_q, errors", short, short / warm),
        (f"quad, q* and χ only (from {points} points)", slow, slow / warm),
        (
            f"the same with dblquad for c* (from {map_points})",
            slow + slow_map,
            (slow + slow_map) / warm,
        ),
        ("Gauss-Hermite 128, q* and χ only", fast, fast / warm),
    ]


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
    x = sigprop.gram_inputs(jax.random.key(0), jnp.eye(2), 16).astype(jnp.float32)
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
    x = sigprop.gram_inputs(jax.random.key(0), jnp.eye(2), 16).astype(jnp.float32)
    tangents = jax.random.normal(jax.random.key(1), (*x.shape, 2), jnp.float32)
    start = sigprop.Signals(x, tangents, jnp.zeros(2, jnp.float32))
    reading = sigprop.FiniteNetwork(jax.random.key(2), width, None, "highest", False)
    cast = lambda leaf: leaf.astype(jnp.float32) if eqx.is_inexact_array(leaf) else leaf

    @eqx.filter_jit
    def run(network):
        return theory.along_depth(theory.interpret(network, reading, start)[1])

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
    cases: tuple[tuple[str, int, Algebra], ...] = (
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
        x = sigprop.gram_inputs(jax.random.key(0), gram, 4 * k + 12, components=k)
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


def sector_seconds(repeats):
    """A 256×256 diagram by sector of O(4): first call, and warm."""
    phi = theory.radial("tanh")

    def build(weight_variance, bias_variance):
        return theory.layer(phi, weight_variance, bias_variance, components=4)

    axes = {
        "weight_variance": np.linspace(0.5, 4.0, 256),
        "bias_variance": np.linspace(0.0, 0.5, 256),
    }
    start = time.perf_counter()
    theory.sector_diagram(build, axes)
    cold = time.perf_counter() - start
    return cold, timed(lambda: theory.sector_diagram(build, axes), repeats)[0]


def plain_values(factors):
    """The floor: the explicit product, rescaled at every layer, and one SVD."""

    def turn(product, factor):
        product = jnp.matmul(factor, product, precision="highest")
        size = jnp.max(jnp.abs(product))
        return product / size, jnp.log(size)

    product, logs = jax.lax.scan(turn, jnp.eye(factors.shape[1], dtype=factors.dtype), factors)
    return jnp.log(jnp.linalg.svd(product, compute_uv=False)) + jnp.sum(logs)


def forward_stages(block):
    """What keeps a product factored, without error estimate and final Jacobi rotations:
    a QR factorisation, or LU with partial pivoting, of every `block` layers."""

    def by(factorise, factors):
        layers, n, _ = factors.shape

        def turn(state, some):
            frame, logs, mix = state
            for factor in some:
                frame = jnp.matmul(factor, frame, precision="highest")
            frame, r = factorise(frame)
            size = jnp.abs(jnp.diagonal(r))
            gap = jnp.minimum(logs[None] - logs[:, None], 80.0)
            unit = jnp.triu(r / size[:, None] * jnp.exp(gap))
            return (frame, logs + jnp.log(size), unit @ mix), None

        eye = jnp.eye(n, dtype=factors.dtype)
        some = factors.reshape(layers // block, block, n, n)
        return jax.lax.scan(turn, (eye, jnp.zeros(n, factors.dtype), eye), some)[0]

    def by_lu(product):
        packed, _, order = jax.lax.linalg.lu(product)
        lower = jnp.tril(packed, -1) + jnp.eye(len(packed), dtype=packed.dtype)
        return jnp.zeros_like(lower).at[order].set(lower), jnp.triu(packed)

    return {
        f"QR of every {block}": jax.jit(lambda factors: by(jnp.linalg.qr, factors)),
        f"LU of every {block}": jax.jit(lambda factors: by(by_lu, factors)),
    }


def tanh_layers(width, depth, sigma, bias, weights, key):
    """W D of a tanh network along one trajectory."""

    def turn(z, key):
        w = jax.random.normal(key, (width, width)) / math.sqrt(width)
        if weights == "orthogonal":
            w = jnp.linalg.qr(w)[0]
        _, two = jax.random.split(key)
        factor = sigma * w / jnp.cosh(z)[None] ** 2
        return sigma * w @ jnp.tanh(z) + bias * jax.random.normal(two, (width,)), factor

    start = sigma * jax.random.normal(key, (width,))
    return jax.jit(lambda z: jax.lax.scan(turn, z, jax.random.split(key, depth))[1])(start)


def spectra_rows(repeats):
    """Rows (what, seconds, ratio to the plain product) for one product and for a batch."""
    rows = []
    for name, weights, sigma, bias in (
        ("Gaussian, chaotic", "gaussian", 1.5, 0.0),
        ("orthogonal, chaotic", "orthogonal", 1.5, 0.0),
        ("orthogonal, near critical", "orthogonal", 1.0, 0.05),
    ):
        factors = tanh_layers(256, 256, sigma, bias, weights, jax.random.key(0))
        plain = jax.jit(plain_values)
        jax.block_until_ready(plain(factors))
        with threadpool_limits(1, user_api="blas"):
            floor, _ = timed(lambda f=factors, g=plain: g(f), repeats)
            rows.append((f"{name}, 256 layers of 256: plain", floor, 1.0))
            sigprop.product_log_singular_values(factors)
            took, found = timed(lambda f=factors: sigprop.product_log_singular_values(f), repeats)
            error = float(found.error)
            rows.append((f"ours, error {error:.0e}", took, took / floor))
            for block in (1, 4) if weights == "orthogonal" else (1,):
                for what, stage in forward_stages(block).items():
                    jax.block_until_ready(stage(factors))
                    took, _ = timed(lambda f=factors, g=stage: g(f), repeats)
                    rows.append((f"{what}, no error or finish", took, took / floor))
    batch = jnp.stack(
        [tanh_layers(128, 256, 1.5, 0.0, "gaussian", jax.random.key(i)) for i in range(16)]
    )
    ours = lambda f: sigprop.product_log_singular_values(f).log_singular_values
    with threadpool_limits(1, user_api="blas"):
        floor = None
        for what, fn in (
            ("16 of 128, plain: lax.map", jax.jit(lambda f: jax.lax.map(plain_values, f))),
            ("16 of 128, ours: lax.map", jax.jit(lambda f: jax.lax.map(ours, f))),
            ("16 of 128, ours: vmap", jax.jit(jax.vmap(ours))),
        ):
            jax.block_until_ready(fn(batch))
            took, _ = timed(lambda g=fn: g(batch), repeats)
            floor = took if floor is None else floor
            rows.append((what, took, took / floor))
        one = jax.jit(ours)
        each = lambda: [jax.block_until_ready(x) for x in POOL.map(one, batch)]
        each()
        took, _ = timed(each, repeats)
        rows.append(("16 of 128, ours: two threads", took, took / floor))
    return rows


def density_rows(repeats):
    """Densities at 100 depths with 1000 points each: first call, warm, and largest error."""
    rows = []
    depths = jnp.linspace(4, 400, 100).round()
    for name, variance, bias, length in (
        ("linear", 1.0, 0.0, 1.0),
        ("relu", 2.0, 0.0, 1.0),
        ("tanh", 1.76095463960674, 0.05, 0.570047881640764),
    ):
        turn = theory.layer(theory.activation(name), variance, bias)
        one = theory.jacobian_factors(turn, length, order=64)

        @eqx.filter_jit
        def densities(depths, one=one):
            def at(depth):
                factors = one.repeated(depth)
                top = theory.spectrum_edges(factors).log_upper.value
                x = top - jnp.linspace(1e-3, 1.0, 1000) ** 2 * 3 * jnp.sqrt(depth)
                return theory.singular_value_distribution(factors, x).density

            return jax.lax.map(at, depths)

        start = time.perf_counter()
        jax.block_until_ready(densities(depths))
        cold = time.perf_counter() - start
        warm, found = timed(lambda f=densities: f(depths), repeats)
        rows.append((name, cold, warm, float(jnp.max(found.error))))
    return rows


def sweep_run(workers, mesh=None, points=100, replicas=4):
    """A sweep of small cells into an empty store."""
    sweep = sigprop.Sweep(
        weight_variance=np.linspace(0.5, 3, points),
        bias_variance=np.linspace(0, 0.5, points),
        width=32,
        depth=20,
        replicas=replicas,
        observables=("length", "correlation", "slope"),
    )
    with tempfile.TemporaryDirectory() as folder:
        return sigprop.run_sweep(sweep, f"{folder}/sweep.zarr", workers=workers, mesh=mesh)


def device_seconds(devices):
    """A sweep on some simulated devices of this machine, one chunk in work; in this process."""
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((devices,), ("d",), auto, devices=jax.devices()[:devices])
    return sweep_run(1, mesh).seconds


def scaling(repeats):
    """Seconds on one and on two simulated devices, side by side in one process."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import benchmark, jax; "
        "jax.config.update('jax_enable_x64', True); "
        "[print(*(benchmark.device_seconds(d) for d in (1, 2))) for _ in range(int(sys.argv[2]))]"
    )
    flags = "--xla_force_host_platform_device_count=2"
    argv = [sys.executable, "-c", code, os.path.dirname(__file__), str(repeats)]
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(argv, env=environment, check=True, capture_output=True, text=True)
    times = np.array([list(map(float, line.split())) for line in done.stdout.splitlines()])
    return np.median(times, axis=0)


CASES: dict[str, tuple[int, Any]] = {
    "dense": (1, "real"),
    "U(1)": (2, "complex"),
    "O(4)": (4, "real"),
}


def training_rows(depth, features, batch, steps, repeats):
    """Rows (name, milliseconds per step: ours, products alone, PyTorch or None)."""
    from sigprop.experiments import Architecture, Labelled, Study
    from sigprop.experiments._train import _advance, model_of, one_by_one, start

    rng = np.random.default_rng(0)
    count, pixels = batch * steps, 784
    data = Labelled(
        jnp.asarray(rng.random((count, pixels)), jnp.float32),
        jnp.asarray(rng.integers(0, 10, count), jnp.int32),
        jnp.zeros((batch, pixels), jnp.float32),
        jnp.zeros(batch, jnp.int32),
        classes=10,
        inputs=1,
    )
    seeds, rates = jnp.zeros(1, jnp.int32), jnp.full(1, 1e-4, jnp.float32)
    rows = []
    for name, (k, algebra) in CASES.items():
        architecture = Architecture(name, k, algebra)
        study = Study((architecture,), depth=depth, features=features, batch=batch)
        model = model_of(study, architecture, data)
        one = start(model, study, jnp.float32(1.2), seeds[0])
        states = jax.tree.map(lambda leaf: leaf[None], one)

        def ours(model=model, study=study, states=states):
            stop = jnp.int32(steps)
            return _advance(model, study, data, states, rates, seeds, stop, one_by_one)

        # Real weights act on whole units: as many columns as inputs times components.
        units = features // k if algebra == "real" else features
        columns = batch * features // units
        shape = (depth, units, units)
        weights = jax.random.normal(jax.random.key(0), shape, jnp.float32) / np.sqrt(units)
        x = jax.random.normal(jax.random.key(1), (units, columns), jnp.float32)
        first = jax.random.normal(jax.random.key(2), (features, pixels), jnp.float32)
        given = (weights, x, first, data.train[:batch].T)
        floor = lambda given=given: products(*given, steps)
        for run in (ours, floor):
            jax.block_until_ready(run())
        times = [timed(run, repeats)[0] / steps * 1e3 for run in (ours, floor)]
        rows.append((name, *times, torch_step(depth, features, batch, k, algebra, steps, repeats)))
    return rows


@functools.partial(jax.jit, static_argnums=4)
def products(weights, x, first, images, steps):
    """The matrix products of `steps` steps: forwards, for the states backwards, and for the
    weights; of the first layer, forwards and for the weights."""
    dot = functools.partial(jnp.matmul, precision="highest")

    def step(_, carry):
        weights, x, first = carry
        y, _ = jax.lax.scan(lambda y, w: (dot(w, y), None), x, weights)
        g, moved = jax.lax.scan(lambda g, w: (dot(w.T, g), dot(g, y.T)), y, weights)
        seen = dot(first, images)
        return weights - 1e-9 * moved, x + 1e-9 * g, first - 1e-9 * dot(seen, images.T)

    return jax.lax.fori_loop(0, steps, step, (weights, x, first))


def torch_step(depth, features, batch, k, algebra, steps, repeats):
    """Milliseconds of the same step in PyTorch, or None where it is not installed."""
    try:
        torch: Any = importlib.import_module("torch")
    except ModuleNotFoundError:
        return None
    torch.manual_seed(0)
    units = features // k
    shape = (depth, units, units) if algebra == "real" else (depth, 2, units, units)
    scale = 1.2 / math.sqrt(units if algebra == "real" else 2 * units)
    weights = torch.nn.Parameter(scale * torch.randn(shape))
    first, last = torch.nn.Linear(784, features), torch.nn.Linear(features, 10)
    parameters = [weights, *first.parameters(), *last.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=1e-4)
    images, labels = torch.rand(batch, 784), torch.randint(0, 10, (batch,))

    def phi(z):
        if k == 1:
            return torch.tanh(z)
        r = torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp_min(1e-19)
        return torch.tanh(r) / r * z

    def turn(w, z):
        if algebra == "real":
            return (w @ z.reshape(units, -1)).reshape(z.shape)
        top, bottom = torch.cat([w[0], -w[1]], 1), torch.cat([w[1], w[0]], 1)
        flat = torch.cat([top, bottom]) @ z.transpose(0, 1).reshape(features, -1)
        return flat.reshape(2, units, -1).transpose(0, 1)

    def step():
        z = first(images).T.reshape(units, k, batch)
        for w in weights:
            z = phi(turn(w, z))
        loss = torch.nn.functional.cross_entropy(last(z.reshape(features, -1).T), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def run():
        for _ in range(steps):
            step()
        return 0

    run()
    return timed(run, repeats)[0] / steps * 1e3


def continuity_rows(layers, width, batch, repeats):
    """Seconds: alignment of layers, one training step of the network that has them, numpy's
    singular value decompositions (from three layers), and the largest difference of the two."""
    shape = (layers, width, width)
    weights = jax.random.normal(jax.random.key(0), shape, jnp.float32) / math.sqrt(width)
    x = jax.random.normal(jax.random.key(1), (width, batch), jnp.float32)

    @jax.jit
    def step(weights):
        def loss(weights):
            turn = lambda h, w: (h + 0.1 * jnp.tanh(jnp.matmul(w, h, precision="highest")), None)
            return jnp.mean(jax.lax.scan(turn, x, weights)[0] ** 2)

        return weights - 1e-3 * jax.grad(loss)(weights)

    run = lambda: sigprop.continuity(weights).right.value
    jax.block_until_ready((run(), step(weights)))
    ours, found = timed(run, repeats)
    training, _ = timed(lambda: step(weights), repeats)
    start = time.perf_counter()
    first = [np.linalg.svd(np.asarray(w))[2][0] for w in weights[:3]]
    numpy = (time.perf_counter() - start) * layers / 3
    exact = np.abs([first[0] @ first[1], first[1] @ first[2]])
    difference = np.max(np.abs(np.diagonal(np.asarray(found), 1)[:2] - exact))
    return ours, training, numpy, float(difference)


def main(argv=None):
    parser = argparse.ArgumentParser(description="Speed as ratios, side by side in one run.")
    parser.add_argument("--points", type=int, default=24, help="points for scipy's quad")
    parser.add_argument("--map-points", type=int, default=2, help="points for scipy's dblquad")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--width", type=int, default=1_000_000, help="of the wide network")
    parser.add_argument("--depth", type=int, default=8, help="of the wide network, at least 2")
    parts = ("diagram", "simulation", "wide", "units", "spectra", "sweep", "training", "continuity")
    parser.add_argument("--only", choices=parts, help="one part instead of all")
    options = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    print(
        f"{platform.machine()}, {jax.devices()[0].device_kind}, jax {jax.__version__}, "
        f"Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
    )
    wanted = parts if options.only is None else (options.only,)
    if "diagram" in wanted:
        rows = diagram_rows(options.points, options.map_points, options.repeats)
        print("\n| diagram 64×64, tanh | seconds | ratio |\n|---|---|---|")
        for what, seconds, ratio in rows:
            print(f"| {what} | {seconds:.3g} | {ratio:.3g} |")
    if "simulation" in wanted:
        print(
            "\n| width | explicit weights, µs per layer and network | random numbers | product "
            "| ratio to their sum | without weights |\n|---|---|---|---|---|---|"
        )
        for width, replicas in [(128, 64), (256, 32), (512, 16), (1024, 8)]:
            total, free, random, matrix, ratio = simulation_row(
                width, replicas, 50, options.repeats
            )
            print(
                f"| {width} | {total * 1e6:.0f} | {random * 1e6:.0f} | {matrix * 1e6:.0f} "
                f"| {ratio:.2f} | {free * 1e6:.0f} |"
            )
    if "wide" in wanted:
        layer, theirs, ours, whole = wide_seconds(options.width, options.depth, options.repeats)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"\n| width {options.width} | seconds per layer | ratio to jax.random.normal |\n"
            f"|---|---|---|\n| without weights | {layer:.3g} | {layer / theirs:.2f} |\n"
            f"| its Gaussian numbers, jax.random.normal | {theirs:.3g} | 1 |\n"
            f"| the same, ours | {ours:.3g} | {ours / theirs:.2f} |\n\n{options.depth} layers: "
            f"{whole:.3g} s; peak memory of this process {memory:.2f} GiB; one weight matrix "
            f"in float32: {options.width**2 / 2**28:.3g} GiB and "
            f"{theirs * options.width / 6:.3g} s of random numbers"
        )
    if "continuity" in wanted:
        ours, training, numpy, difference = continuity_rows(100, 512, 256, options.repeats)
        print(
            f"\ncontinuity of 100 layers of 512×512: {ours:.3g} s, {ours / training:.2f} of a "
            f"training step with 256 inputs ({training:.3g} s); numpy.linalg.svd in a loop "
            f"{numpy:.3g} s, {numpy / ours:.0f} times as long; they differ by {difference:.1e}"
        )
    if "units" in wanted:
        print(
            "\n| 512 real numbers per layer | explicit weights, µs per layer and network "
            "| ratio to scalar | without weights | ratio |\n|---|---|---|---|---|"
        )
        rows = units_rows(512, 16, 50, options.repeats)
        for name, explicit, free in rows:
            ratios = explicit / rows[0][1], free / rows[0][2]
            print(
                f"| {name} | {explicit * 1e6:.0f} | {ratios[0]:.2f} | {free * 1e6:.0f} "
                f"| {ratios[1]:.2f} |"
            )
        cold, warm = sector_seconds(options.repeats)
        print(f"\nO(4), 256×256 points by sector: {warm:.2f} s warm, {cold:.1f} s at first")
    if "spectra" in wanted:
        print("\n| singular values, one core | seconds | ratio to plain |\n|---|---|---|")
        for what, seconds, ratio in spectra_rows(options.repeats):
            print(f"| {what} | {seconds:.3g} | {ratio:.3g} |")
        print("\n| density, 100 depths × 1000 points | first | warm | error |\n|---|---|---|---|")
        for what, cold, warm, error in density_rows(options.repeats):
            print(f"| {what} | {cold:.3g} | {warm:.3g} | {error:.1e} |")

    if "sweep" in wanted:
        runs = [sweep_run(None) for _ in range(options.repeats)]
        shares = [r.compute_seconds / (r.workers * r.seconds) for r in runs]
        best = runs[int(np.argsort([r.seconds for r in runs])[len(runs) // 2])]
        print(
            f"\nsweep of 10,000 cells of 4 networks: {best.seconds:.2f} s on {best.workers} cores, "
            f"{100 * np.median(shares):.0f} % of it in compiled programs, "
            f"{best.computed / best.seconds:.0f} networks a second"
        )
        one, two = scaling(options.repeats)
        print(f"two simulated devices against one: {one:.2f} s / {two:.2f} s = {one / two:.2f}")

    if "training" in wanted:
        print(
            "\n| 100 layers of 64, batch 256 | ms per step of Adam | its matrix products | ratio "
            "| PyTorch, ms | ratio |\n|---|---|---|---|---|---|"
        )
        for name, step, floor, other in training_rows(100, 64, 256, 10, options.repeats):
            torch = (
                "| not installed | |" if other is None else f"| {other:.1f} | {other / step:.1f} |"
            )
            print(f"| {name} | {step:.1f} | {floor:.1f} | {step / floor:.2f} {torch}")


if __name__ == "__main__":
    main()
