"""Finite networks and factorisations at any scale of their numbers.

The oracle is a law of scale: what is made of signals of 2ʲ times the size by maps φ(s z) = sᵖ φ(z)
has sizes that are powers of two of those at size 1, without any rounding.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import theory
from sigprop import gram_inputs, pair_gram, sample_network
from sigprop.networks._digits import layer_status
from sigprop.networks._weights import factored
from tests.honesty.campaign import Campaign
from theory import Status
from theory.mean_field._moments import log_tangent

KEY = jax.random.key(11)
TYPES = (jnp.float32, jnp.float64)
KINDS = {
    "relu": (theory.activation("relu"), 1),
    "linear": (theory.activation("linear"), 1),
    "leaky": (theory.activation("leaky_relu", negative_slope=0.3), 1),
    "cube": (theory.componentwise(lambda z: z**3, parity="odd"), 3),
    "relu cubed": (theory.componentwise(lambda z: jnp.maximum(z, 0) ** 3, kinks=[0.0]), 3),
    "tenth power": (theory.componentwise(lambda z: z**10), 10),
}


def sizes(rng, dtype, shape):
    """Powers of two over the whole range of a type in which numbers near 1 keep their digits."""
    info = jnp.finfo(dtype)
    return rng.integers(info.minexp + info.nmant + 4, info.maxexp - 8, shape)


def frames(said, rng, dtype, count):
    """QᵀQ = 1 and Q R = X for columns of very different scales, some nearly parallel."""
    x = rng.normal(size=(count, 24, 3))
    x[:, :, 1] = np.where(rng.random((count, 1)) < 0.3, x[:, :, 0] + 1e-5 * x[:, :, 1], x[:, :, 1])
    power = sizes(rng, dtype, (count, 1, 3))
    x = np.ldexp(np.asarray(x, dtype), power.astype(np.int32))
    q, r = jax.jit(jax.vmap(factored))(x)
    eps, q = float(jnp.finfo(dtype).eps), np.asarray(q, float)
    unit = np.ldexp(np.asarray(x, np.longdouble), -power)
    back = np.einsum("nij,njk->nik", q, np.ldexp(np.asarray(r, np.longdouble), -power))
    length = np.linalg.norm(np.asarray(unit, float), axis=1)
    off = np.abs(np.einsum("nij,nik->njk", q, q) - np.eye(3)).max(axis=(1, 2))
    left = np.max(np.linalg.norm(np.asarray(back - unit, float), axis=1) / length, axis=1)
    for i in range(count):
        said.number(f"frame {dtype.__name__} {power[i, 0]}", off[i], 300 * eps, 0.0)
        said.number(f"factors {dtype.__name__} {power[i, 0]}", left[i], 20 * eps, 0.0)


def covariances(said, rng, dtype, count):
    """Moments of pairs of signals, and what the status says of them."""
    eps, tiny = (float(x) for x in (jnp.finfo(dtype).eps, jnp.finfo(dtype).tiny))
    x = rng.normal(size=(count, 2, 16, 1))
    near = x[:, 0] + 10 ** rng.uniform(-6, 0, (count, 1, 1)) * x[:, 1]
    alike = rng.random(count) < 0.5
    x[alike, 1] = near[alike]
    power = np.repeat(sizes(rng, dtype, (count, 1, 1, 1)), 2, 1)
    power[~alike, 1] = sizes(rng, dtype, (count, 1, 1))[~alike]
    x = np.ldexp(np.asarray(x, dtype), power.astype(np.int32))

    def measured(x):
        m = theory.mean_field.signal_moments(x)
        return m, layer_status(x, m, jnp.zeros(2, bool))[0], theory.correlation(m)

    found, status, c = jax.tree.map(np.asarray, jax.jit(jax.vmap(measured))(x))
    exact = np.asarray(x[..., 0], np.longdouble)
    gram = np.einsum("nau,nbu->nab", exact, exact) / 16
    apart = exact[:, 0] - exact[:, 1]
    gap = np.einsum("nu,nu->n", apart, apart) / 32
    own = np.sqrt(np.einsum("naa->na", gram))
    root = own[:, :, None] * own[:, None]
    values = np.asarray(found.covariance[..., 0, 0], np.longdouble)
    for i in range(count):
        label = f"pair {dtype.__name__} {power[i, :, 0, 0]}"
        if status[i] != Status.OK:
            large = gap.max() > jnp.finfo(dtype).max or root[i].max() > jnp.finfo(dtype).max
            few = min(root[i].min(), gap[i]) * eps < tiny
            said.claim(label, bool(few or large), True)
            continue
        said.number(label, values[i] / root[i], 32 * eps, gram[i] / root[i])
        said.number(label, float(found.separation[i, 0, 1, 0, 0] / gap[i]), 32 * eps, 1.0)
        said.number(label, c[i, 0, 1], 64 * eps, (gram / root)[i, 0, 1])
        said.claim(label, bool(np.all(np.abs(c[i]) <= 1 + 4 * eps)), True)


def networks(said, rng, kind, dtype, explicit, count, width=12):
    """Moments, growths and statuses of one network whose inputs are scaled by powers of two."""
    phi, degree = KINDS[kind]
    depth = {1: 5, 3: 2, 10: 1}[degree]
    info = jnp.finfo(dtype)
    eps = float(info.eps)
    network = theory.feedforward(phi, 1.0, 0.0, depth=depth)
    x = jnp.asarray(gram_inputs(pair_gram(1.0, 0.6), width, key=KEY), dtype)
    lowest = (info.minexp + 6) if degree == 1 else info.minexp // degree**2
    power = rng.integers(lowest, -lowest // 2, count)
    power[0] = 0
    how = {"width": width, "gradients": True, "explicit_weights": explicit}

    def one(scale):
        return sample_network(network, x * scale, key=jax.random.fold_in(KEY, 1), **how)

    found = jax.jit(lambda s: jax.lax.map(one, s))(np.ldexp(dtype(1), power.astype(np.int32)))
    c = np.asarray(theory.correlation(found.moments))[..., 0, 1]
    logs = np.asarray(log_tangent(found.moments), float)
    with np.errstate(invalid="ignore"):
        logs = logs[:, 1:] - logs[:, :-1]
    exact = np.asarray(found.moments.covariance[0, ..., 0, 0], np.longdouble)
    each = np.asarray(found.moments.covariance[..., 0, 0], np.longdouble)
    status, slopes = np.asarray(found.status), np.asarray(found.tangent_status)
    assert np.all(status[0] == Status.OK)
    name = lambda i: f"{kind} {dtype.__name__} explicit {explicit} 2^{power[i]}"
    for i, layer in np.ndindex(count, depth + 1):
        label = f"{name(i)} layer {layer}"
        known = status[i, layer] == Status.OK
        kept = 2 * abs(int(power[i])) * degree**layer < 0.6 * info.maxexp
        said.claim(label, bool(known or not kept), True)
        root = np.sqrt(exact[layer, 0, 0] * exact[layer, 1, 1])
        scaled = np.ldexp(each[i, layer], -2 * int(power[i]) * degree**layer)
        scaled = scaled if known else np.nan
        said.number(label, scaled / root, 64 * eps, exact[layer] / root)
        said.number(label, c[i, layer] if known else np.nan, 64 * eps, c[0, layer])
        if layer:
            known = slopes[i, layer - 1] == slopes[i, layer] == Status.OK
            law = 2 * np.log(2) * (degree - 1) * power[i] * float(degree) ** (layer - 1)
            error = 64 * eps * (1 + abs(law))
            law = law + logs[0, layer - 1]
            said.number(label, logs[i, layer - 1] if known else np.nan, error, law)
    if kind == "linear" and not explicit:
        return  # equal columns: rounding chooses what is drawn, of the same law
    backward = np.asarray(found.gradient_growth)
    for i, boundary in np.ndindex(count, depth - 1):
        if found.gradient_status[i, boundary] == Status.OK and degree == 1:
            label = f"{name(i)} backward {boundary}"
            said.number(label, backward[i, boundary] / backward[0, boundary], 256 * eps, 1.0)


def campaign(cases: int, seed: int = 0) -> Campaign:
    said = Campaign("scales")
    rng = np.random.default_rng(seed)
    few = cases < 1000
    for dtype in TYPES[:1] if few else TYPES:
        frames(said, rng, dtype, cases // 10)
        covariances(said, rng, dtype, cases // 10)
    for kind in ("relu cubed",) if few else KINDS:
        for dtype in TYPES[:1] if few else TYPES:
            for explicit in (False,) if few else (False, True):
                networks(said, rng, kind, dtype, explicit, cases // (25 if few else 100))
    return said


@pytest.mark.parametrize("cases", [60, pytest.param(10_000, marks=pytest.mark.slow)])
def test_numbers_at_any_scale_are_right_or_say_so(cases):
    campaign(cases).check(most_unknown=0.3)
