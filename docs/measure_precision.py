"""Measure the Gaussian integrals against closed forms: the table of docs/precision.md.

python docs/measure_precision.py
"""

import jax
import jax.numpy as jnp
import numpy as np

import theory

LENGTHS = (1e-8, 1e-2, 1.0, 30.0, 1e3, 1e6)
SEPARATIONS = (1e-11, 1e-4, 0.3, 1.0)
# Each function twice: from the table, with a closed form, and as a user would define it.
PAIRS = {
    "erf": theory.componentwise(jax.lax.erf, scale=0.7, parity="odd"),
    "relu": theory.componentwise(jax.nn.relu, kinks=[0.0], scale=1e9),
    "sin": theory.componentwise(jnp.sin, scale=1e9, parity="odd"),
}


def moments(phi, lengths, separations):
    """Covariance, distance, slope of φ of two inputs of length q at 1 − c = x; their errors."""
    network = theory.Chain((theory.affine(1.0), theory.Pointwise(phi), theory.affine(1.0)))

    def at(q, x):
        s = q * x
        covariance = jnp.array([[q, q - s], [q - s, q]])[..., None, None]
        separation = jnp.array([[0 * s, s], [s, 0 * s]])[..., None, None]
        last = jax.tree.map(
            lambda leaf: leaf[-1],
            theory.propagate(network, theory.given_moments(covariance, separation)),
        )

        def three(m):
            return jnp.stack([m.covariance[0, 1], m.separation[0, 1], m.tangent[0, 1]])[:, 0, 0]

        # Errors are relative: of distances to themselves, of the others to their value at c = 1.
        own = last.value
        size = jnp.stack([own.covariance[0, 0], own.separation[0, 1], own.tangent[0, 0]])[:, 0, 0]
        return three(own), three(last.error), size

    q, x = (jnp.asarray(grid.ravel()) for grid in np.meshgrid(lengths, separations, indexing="ij"))
    found = jax.jit(jax.vmap(at))(q, x)
    return [np.asarray(a).reshape(len(lengths), len(separations), 3) for a in found]


def main(lengths=LENGTHS, separations=SEPARATIONS) -> list[tuple[str, float, float, float, bool]]:
    """Print the table; give back name, q, worst true and reported error, and honesty."""
    jax.config.update("jax_enable_x64", True)
    rows = []
    print("| φ | q | true error | reported error |\n| --- | --- | --- | --- |")
    for name, integrated in PAIRS.items():
        truth, truth_error, size = moments(theory.activation(name), lengths, separations)
        value, error, _ = moments(integrated, lengths, separations)
        for i, q in enumerate(lengths):
            off = np.max(np.abs(value - truth)[i] / size[i])
            told = np.max(error[i] / size[i])
            honest = bool(np.all(np.abs(value - truth)[i] <= error[i] + truth_error[i]))
            print(
                f"| {name} | {q:g} | {off:.0e} | {told:.0e} |" + ("" if honest else " too small!")
            )
            rows.append((name, q, float(off), float(told), honest))
    return rows


if __name__ == "__main__":
    main()
