"""Real images through critical networks: theory against simulation, layer by layer.

python docs/gallery/fashion_mnist.py FOLDER, where FOLDER holds the IDX files of Fashion-MNIST.
"""

import sys

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

import sigprop
import theory

IMAGES = ("#0072B2", "#D55E00", "#009E73")
PAIRS = ("#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "os^"


def main(
    folder: str,
    output: str = "docs/figures/fashion_mnist.png",
    depth: int = 50,
    widths: tuple[int, ...] = (64, 96, 128),
    replicas: int = 100,
) -> None:
    """Write the figure and print the verdict."""
    jax.config.update("jax_enable_x64", True)
    network = theory.feedforward(theory.activation("tanh"), 1.76095463960674, 0.05, depth=depth)
    images, _ = sigprop.idx_inputs(folder, 3, key=jax.random.key(1), length=1.0)
    comparison = sigprop.compare(
        network, images.astype(jnp.float32), widths=widths, replicas=replicas, gradients=False
    )
    verdict = comparison.verdict.name.lower().replace("_", " ")
    print(
        f"{verdict}: {comparison.tests} tests, |z| {comparison.largest_z:.2f}", comparison.threshold
    )
    data = sigprop.comparison.comparison_dataset(comparison)

    figure = Figure(figsize=(7.0, 2.9), layout="constrained")
    panels = figure.subplot_mosaic(
        [
            ["0", "length", "correlation"],
            ["1", "length", "correlation"],
            ["2", "length", "correlation"],
        ],
        width_ratios=(0.35, 1, 1),
    )
    for i, image in enumerate(images):
        panels[str(i)].imshow(image[:, 0].reshape(28, 28), cmap="gray_r")
        panels[str(i)].set(xticks=[], yticks=[])
        panels[str(i)].set_ylabel(str(i + 1), color=IMAGES[i], rotation=0, labelpad=8)
    draw(panels["length"], data, "length", "input", dict(zip("123", IMAGES, strict=True)))
    draw(
        panels["correlation"],
        data,
        "correlation",
        "pair",
        dict(zip(("1, 2", "1, 3", "2, 3"), PAIRS, strict=True)),
    )
    panels["length"].set_ylabel("length $q_l$")
    panels["correlation"].set_ylabel("correlation $c_l$")
    figure.savefig(output, dpi=200)


def draw(panel, data, name, kind, colours):
    """Lines: theory. Points: simulation extrapolated to infinite width, one standard error."""
    layers = data[f"{name}_layer"].values
    for i, (label, colour) in enumerate(colours.items()):
        panel.plot(layers, data[f"{name}_theory"].isel({kind: i}), color=colour, label=label)
        shown = slice(i, None, 4)
        panel.errorbar(
            layers[shown],
            data[f"{name}_extrapolated"].isel({kind: i})[shown],
            data[f"{name}_extrapolated_standard_error"].isel({kind: i})[shown],
            fmt=MARKERS[i],
            markersize=3,
            capsize=1.5,
            color=colour,
        )
    panel.set_xlabel("layer $l$")
    panel.legend(frameon=False)


if __name__ == "__main__":
    main(*sys.argv[1:3])
