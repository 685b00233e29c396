"""Steps of training, and the alignment of layers."""

import functools
import importlib
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import sigprop

from .timing import timed

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
        weights = jax.random.normal(jax.random.key(0), shape, jnp.float32) / math.sqrt(units)
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
        # three times as fast as torch.linalg.vector_norm over an axis in the middle
        r = (z * z).sum(1, keepdim=True).clamp_min(1e-37).sqrt()
        return torch.tanh(r) / r * z

    def layer(w, z):
        if algebra == "real":
            return (w @ z.reshape(units, -1)).reshape(z.shape)
        top, bottom = torch.cat([w[0], -w[1]], 1), torch.cat([w[1], w[0]], 1)
        flat = torch.cat([top, bottom]) @ z.transpose(0, 1).reshape(features, -1)
        return flat.reshape(2, units, -1).transpose(0, 1)

    def step():
        z = first(images).T.reshape(units, k, batch)
        for w in weights:
            z = phi(layer(w, z))
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
    """Seconds: alignment of layers, the same five training steps later from what was found, one
    training step of the network that has them, numpy's singular value decompositions (from
    three layers), and the largest difference of the two."""
    shape = (layers, width, width)
    weights = jax.random.normal(jax.random.key(0), shape, jnp.float32) / math.sqrt(width)
    x = jax.random.normal(jax.random.key(1), (width, batch), jnp.float32)

    @jax.jit
    def step(weights):
        def loss(weights):
            layer = lambda h, w: (h + 0.1 * jnp.tanh(jnp.matmul(w, h, precision="highest")), None)
            return jnp.mean(jax.lax.scan(layer, x, weights)[0] ** 2)

        return weights - 1e-3 * jax.grad(loss)(weights)

    later = weights
    for _ in range(5):
        later = step(later)
    before = sigprop.continuity(weights)
    again = lambda: sigprop.continuity(later, start=before).right.value
    run = lambda: sigprop.continuity(weights).right.value
    jax.block_until_ready((run(), again(), step(weights)))
    ours, found = timed(run, repeats)
    warm, _ = timed(again, repeats)
    training, _ = timed(lambda: step(weights), repeats)
    start = time.perf_counter()
    first = [np.linalg.svd(np.asarray(w))[2][0] for w in weights[:3]]
    numpy = (time.perf_counter() - start) * layers / 3
    exact = np.abs([first[0] @ first[1], first[1] @ first[2]])
    difference = np.max(np.abs(np.diagonal(np.asarray(found), 1)[:2] - exact))
    return ours, warm, training, numpy, float(difference)
