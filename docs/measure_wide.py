"""Measure a U(1) network of a million units and a thousand layers, and compare with theory.

python docs/measure_wide.py
"""

import resource
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import sigprop
import theory

ANGLE = 0.8


def measure(k, algebra, weight_variance, bias_variance, width, depth, count):
    """Rows (what, measured, its standard error or None, theory) of one network in float32."""
    phi = theory.radial("tanh")
    network = theory.feedforward(
        phi, weight_variance, bias_variance, components=k, algebra=algebra, depth=depth
    )
    layer = theory.layer(phi, weight_variance, bias_variance, components=k, algebra=algebra)
    found = theory.predict(layer)
    sectors = theory.sectors(layer, found.length)
    # x, x rotated by an element of the symmetry, and an independent input
    generator = np.asarray(theory.phases.generators(layer))[0]
    rotation = jax.scipy.linalg.expm(ANGLE * jnp.asarray(generator))
    x, other = jax.random.normal(jax.random.key(1), (2, 1, 16, k))
    inputs = jnp.concatenate([x, jnp.einsum("ij,nuj->nui", rotation, x), other])
    expected = jax.tree.map(lambda m: m[-1], theory.propagate(network, inputs).value)
    small = jnp.float32
    single = jax.tree.map(
        lambda leaf: leaf.astype(small) if eqx.is_inexact_array(leaf) else leaf, network
    )
    sample = eqx.filter_jit(sigprop.sample_network)(
        single, inputs.astype(small), key=jax.random.key(2), width=width, explicit_weights=False
    )
    last = jax.tree.map(lambda m: m[-1].astype(float), sample.moments)
    polar = lambda cross: (lambda u, _, vt: u @ vt)(*np.linalg.svd(np.asarray(cross)))
    angles = [polar(m.covariance[1, 0]) for m in (last, expected)]
    rows = [("length", float(theory.length(last)[0]), None, float(theory.length(expected)[0]))]
    off = float(np.max(np.abs(angles[0] - angles[1])))
    rows.append(("rotation of the rotated input, largest deviation", off, None, 0.0))
    if bias_variance > 0:
        both = [float(theory.correlation(m)[2, 0]) for m in (last, expected)]
        rows.append(("correlation with an input of its own", both[0], None, both[1]))
    exponents = eqx.filter_jit(sigprop.jacobians.sample_exponents)(
        network,
        x.astype(small),
        key=jax.random.key(3),
        width=width,
        count=count,
        explicit_weights=False,
    )
    generic = 0.5 * float(jnp.log(sectors.trace.value))
    for i, (value, error) in enumerate(
        zip(exponents.values, exponents.standard_error, strict=True)
    ):
        rows.append((f"exponent {i + 1}", float(value), float(error), generic))
    if bias_variance == 0:
        grown = 0.5 * float(jnp.log(theory.length(expected)[0] / jnp.mean(x * x))) / depth
        rows.append(("exponent of the generator", float(exponents.expected[0]), None, grown))
    return rows


def main(width: int = 1_000_000, depth: int = 1000, biases: tuple[float, ...] = (0.0,)) -> None:
    """Print a table for U(1) at every bias variance."""
    jax.config.update("jax_enable_x64", True)
    for bias in biases:
        start = time.perf_counter()
        rows = measure(2, "complex", 1.21, bias, width, depth, 4)
        print(f"U(1), σ_w² = 1.21, σ_b² = {bias}: {width} units, {depth} layers")
        print("| | measured | theory |\n| --- | --- | --- |")
        for what, value, error, exact in rows:
            spread = "" if error is None else f" ± {error:.1g}"
            print(f"| {what} | {value:.7g}{spread} | {exact:.7g} |")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{time.perf_counter() - start:.0f} s, {peak:.2f} GiB at most\n", flush=True)


if __name__ == "__main__":
    main()
