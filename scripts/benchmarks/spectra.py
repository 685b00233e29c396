"""Singular values of deep products, and densities."""

import math
import time
from concurrent.futures import ThreadPoolExecutor

import equinox as eqx
import jax
import jax.numpy as jnp

import sigprop
import theory
from sigprop.networks._lapack import one_thread
from theory.numerics import plain_options

from .timing import timed

POOL = ThreadPoolExecutor(2)


def plain_values(factors):
    """The floor: the explicit product, rescaled at every layer, and one SVD."""

    def step(product, factor):
        product = jnp.matmul(factor, product, precision="highest")
        size = jnp.max(jnp.abs(product))
        return product / size, jnp.log(size)

    product, logs = jax.lax.scan(step, jnp.eye(factors.shape[1], dtype=factors.dtype), factors)
    return jnp.log(jnp.linalg.svd(product, compute_uv=False)) + jnp.sum(logs)


def forward_stages(block):
    """What keeps a product factored, without error estimate and final Jacobi rotations:
    a QR factorisation, or LU with partial pivoting, of every `block` layers."""

    def by(factorise, factors):
        layers, n, _ = factors.shape

        def step(state, some):
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
        return jax.lax.scan(step, (eye, jnp.zeros(n, factors.dtype), eye), some)[0]

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

    def step(z, key):
        w = jax.random.normal(key, (width, width)) / math.sqrt(width)
        if weights == "orthogonal":
            w = jnp.linalg.qr(w)[0]
        _, two = jax.random.split(key)
        factor = sigma * w / jnp.cosh(z)[None] ** 2
        return sigma * w @ jnp.tanh(z) + bias * jax.random.normal(two, (width,)), factor

    start = sigma * jax.random.normal(key, (width,))
    return jax.jit(lambda z: jax.lax.scan(step, z, jax.random.split(key, depth))[1])(start)


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
        with one_thread():
            floor, _ = timed(lambda f=factors, g=plain: g(f), repeats)
            rows.append((f"{name}, 256 layers of 256: plain", floor, 1.0))
            sigprop.jacobians.product_log_singular_values(factors)
            took, found = timed(
                lambda f=factors: sigprop.jacobians.product_log_singular_values(f), repeats
            )
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
    ours = lambda f: sigprop.jacobians.product_log_singular_values(f).log_singular_values
    with one_thread():
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
        one = jax.jit(ours, compiler_options=plain_options())  # as in ensembles
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
        body = theory.layer(theory.activation(name), variance, bias)
        one = theory.jacobian_factors(body, length, order=64)

        @eqx.filter_jit
        def densities(depths, one=one):
            def at(depth):
                factors = one.repeated(depth)
                top = theory.spectrum.spectrum_edges(factors).log_upper.value
                x = top - jnp.linspace(1e-3, 1.0, 1000) ** 2 * 3 * jnp.sqrt(depth)
                return theory.singular_value_distribution(factors, x).density

            return jax.lax.map(at, depths)

        start = time.perf_counter()
        jax.block_until_ready(densities(depths))
        cold = time.perf_counter() - start
        warm, found = timed(lambda f=densities: f(depths), repeats)
        rows.append((name, cold, warm, float(jnp.max(found.error))))
    return rows
