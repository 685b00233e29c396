"""The plane of variances: depth scale of the correlation, and the edge of chaos.

python scripts/phase_diagram.py
"""

from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure

import sigprop
import theory


def main(folder: str = "runs/phase-diagram", activation: str = "tanh", points: int = 64) -> None:
    """Write depth_scale.zarr and depth_scale.png to a folder."""
    jax.config.update("jax_enable_x64", True)
    phi = theory.activation(activation)

    # One function of two numbers describes the network at every point of the plane.
    def one_layer(weight_variance, bias_variance):
        return theory.layer(phi, weight_variance, bias_variance)

    axes = {
        "weight_variance": np.linspace(0.5, 4.0, points),
        "bias_variance": np.linspace(0.005, 0.5, points),
    }
    plane = theory.phase_diagram(one_layer, axes)

    # On the edge of chaos, χ = 1, both variances are functions of the length.
    edge = theory.critical_line(phi, np.geomspace(1e-4, 10.0, 200))

    figure = Figure(figsize=(3.4, 2.8), layout="constrained")
    panel = figure.subplots()
    image = panel.pcolormesh(
        plane.weight_variance,
        plane.bias_variance,
        plane.depth_scale_correlation.where(np.isfinite).T,
        norm="log",
        rasterized=True,
    )
    panel.plot(edge.weight_variance.value, edge.bias_variance.value, "k", label=r"$\chi=1$")
    panel.set(xlim=(0.5, 4.0), ylim=(0.005, 0.5))
    panel.set_xlabel(r"weight variance $\sigma_w^2$")
    panel.set_ylabel(r"bias variance $\sigma_b^2$")
    panel.legend(loc="upper left")
    figure.colorbar(image, label=r"depth scale $\xi_c$ (layers)")

    origin = sigprop.storage.provenance(activation=activation, points=points)
    sigprop.write_dataset(plane, Path(folder) / "depth_scale.zarr", provenance=origin)
    figure.savefig(Path(folder) / "depth_scale.png", dpi=300)


if __name__ == "__main__":
    main()
