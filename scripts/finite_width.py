"""How networks of finite width approach theory: deviations in the last layer against 1/N.

python scripts/finite_width.py
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

import sigprop
import theory


def main(
    folder: str = "runs/finite-width",
    activation: str = "tanh",
    depth: int = 20,
    widths: Sequence[int] = (32, 64, 128, 256),
    replicas: int = 400,
) -> None:
    """Write finite_width.zarr and finite_width.png to a folder, and print the verdict."""
    jax.config.update("jax_enable_x64", True)
    seed = 0

    # One description: theory integrates it, the simulation samples it.
    network = theory.feedforward(theory.activation(activation), 1.5, 0.05, depth=depth)
    gram = sigprop.pair_gram(length=1.0, correlation=0.5)
    inputs = sigprop.gram_inputs(gram, key=jax.random.key(seed), width=widths[0])
    comparison = sigprop.compare(
        network, inputs.astype(jnp.float32), widths=widths, replicas=replicas, seed=seed
    )
    verdict = comparison.verdict.name.lower().replace("_", " ")
    print(
        f"verdict: {verdict}, {comparison.judged:.0%} judged; largest |z| "
        f"{comparison.largest_z:.2f}, threshold {comparison.threshold:.2f}"
    )

    data = sigprop.comparison.comparison_dataset(comparison)
    figure = Figure(figsize=(6.8, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw(left, data.isel(length_layer=-1, input=0), "length")
    draw(right, data.isel(correlation_layer=-1, pair=0), "correlation")
    left.set_ylabel(r"length $q_L(N)-q_L$")
    right.set_ylabel(r"correlation $c_L(N)-c_L$")
    left.legend()

    origin = sigprop.storage.provenance(seed=seed, network=network, depth=depth)
    sigprop.write_dataset(data, Path(folder) / "finite_width.zarr", provenance=origin)
    figure.savefig(Path(folder) / "finite_width.png", dpi=300)


def draw(panel, data, name):
    """Means over networks less theory, with standard errors, and the limit N → ∞."""
    expected = data[f"{name}_theory"]
    mean, error = data[f"{name}_mean"] - expected, data[f"{name}_standard_error"]
    limit, limit_error = data[f"{name}_extrapolated"], data[f"{name}_extrapolated_standard_error"]
    panel.axhline(0, color="black", linewidth=0.8, label="theory")
    panel.errorbar(1 / data["width"], mean, error, fmt="o", capsize=2, label="simulation")
    panel.errorbar(0, limit - expected, limit_error, fmt="D", capsize=2, label="extrapolated")
    panel.set_xlabel("1 / width $N$")


if __name__ == "__main__":
    main()
