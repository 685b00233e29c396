"""Measure the singular values of deep products: accuracy, honesty of the error, and time.

python docs/measure_singular_values.py
"""

import time

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

import sigprop

# Name, σ_w, σ_b, orthogonal weights.
NETWORKS = [
    ("Gaussian, ordered", 0.9, 0.0, False),
    ("Gaussian, near critical", 1.0, 0.05, False),
    ("Gaussian, chaotic", 1.5, 0.0, False),
    ("Gaussian, saturated", 4.0, 0.0, False),
    ("orthogonal, near critical", 1.0, 0.05, True),
    ("orthogonal, chaotic", 1.5, 0.0, True),
    ("orthogonal, saturated", 4.0, 0.0, True),
]


def layer_jacobians(width, depth, sigma, bias, orthogonal, seed=0):
    """D W of a tanh network along one trajectory."""
    rng = np.random.default_rng(seed)
    z, layers = sigma * rng.standard_normal(width), []
    for _ in range(depth):
        w = rng.standard_normal((width, width)) / np.sqrt(width)
        if orthogonal:
            q, r = np.linalg.qr(w)
            w = q * np.sign(np.diag(r))
        z = sigma * w @ np.tanh(z) + bias * rng.standard_normal(width)
        layers.append(sigma * w / np.cosh(z)[:, None] ** 2)
    return np.array(layers)


def exact_logs(factors):
    """In arithmetic of 60 digits more than the factors can spread."""
    mpmath.mp.dps = 60 + int(sum(np.log10(np.linalg.cond(a)) for a in factors))
    product = mpmath.matrix(factors[0].tolist())
    for a in factors[1:]:
        product = mpmath.matrix(a.tolist()) * product
    values = mpmath.svd_r(product, compute_uv=False)
    return np.array(sorted((float(mpmath.log(s)) for s in values), reverse=True))


@jax.jit
def plain(factors):
    """The explicit product, rescaled at every layer, and its singular values."""

    def step(product, factor):
        product = factor @ product
        size = jnp.max(jnp.abs(product))
        return product / size, jnp.log(size)

    product, logs = jax.lax.scan(step, jnp.eye(factors.shape[1]), factors)
    return jnp.log(jnp.linalg.svd(product, compute_uv=False)) + jnp.sum(logs)


def seconds(fn, factors, repeats=5):
    jax.block_until_ready(fn(factors))
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        jax.block_until_ready(fn(factors))
        times.append(time.process_time() - begin)
    return min(times)


def main(sizes=((16, 64), (32, 128)), timed=((256, 256),)):
    """Print both tables; give back whether every error was at least the true one."""
    jax.config.update("jax_enable_x64", True)
    honest = True
    print(
        "| layers D W of tanh | width | depth | decades | float64, true error | reported | "
        "float32, true error | reported |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for width, depth in sizes:
        for name, *law in NETWORKS:
            # Numbers that are exact in single precision, so both dtypes have the same factors.
            factors = layer_jacobians(width, depth, *law).astype(np.float32)
            exact = exact_logs(factors.astype(float))
            cells = []
            for dtype in (float, np.float32):
                found = sigprop.jacobians.product_log_singular_values(
                    jnp.asarray(factors.astype(dtype))
                )
                off = np.max(np.abs(found.log_singular_values - exact))
                rounding = np.max(np.abs(exact)) * float(jnp.finfo(dtype).eps)
                honest &= bool(off <= found.error + rounding)
                cells += [f"{off:.0e}", f"{found.error:.0e}"]
            decades = (exact[0] - exact[-1]) / np.log(10)
            print(f"| {name} | {width} | {depth} | {decades:.0f} | {' | '.join(cells)} |")
    print("\n| layers D W of tanh | width | depth | plain, CPU s | graded, CPU s | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for width, depth in timed:
        for name, *law in NETWORKS:
            factors = jnp.asarray(layer_jacobians(width, depth, *law))
            floor = seconds(plain, factors)
            took = seconds(sigprop.jacobians.product_log_singular_values, factors)
            print(f"| {name} | {width} | {depth} | {floor:.2f} | {took:.2f} | {took / floor:.1f} |")
    return honest


if __name__ == "__main__":
    main()
