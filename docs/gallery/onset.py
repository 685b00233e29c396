"""The onset of the broken phase at finite width: one curve for all widths.

python docs/gallery/onset.py
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import sigprop
import theory

TANH = theory.radial("tanh")
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00")
MARKERS = "os^vDP*"
DEPTH, FROM = 8, 3
"""Layers over N, and where the average begins; networks start at the length that is expected."""


def measure(k, algebra, width, x, replicas):
    """Mean of α N q over layers and networks at N t = x, and its standard error; likewise of
    the relative variance."""
    size = width * k
    network = theory.feedforward(
        TANH, 1 + x / size, components=k, algebra=algebra, depth=DEPTH * size
    )
    alpha = float(theory.finite_width.onset_curvature(TANH, k))
    start = jax.random.normal(jax.random.key(1), (1, 16, k)) * np.sqrt(max(x, 1.0) / alpha / size)
    x = start.astype(jnp.float32)
    sample = sigprop.sample_ensemble(
        network, x, width=width, replicas=replicas, explicit_weights=False
    )
    y = alpha * size * np.asarray(theory.length(sample.samples.moments), float)
    y = y[:, FROM * size :, 0]
    each, squares = y.mean(axis=1), ((y - y.mean()) ** 2).mean(axis=1)
    spread = lambda values: values.std(ddof=1) / np.sqrt(replicas)
    mean = each.mean()
    return mean, spread(each), squares.mean() / mean**2, spread(squares) / mean**2


def scalar(panels, k, algebra, widths, points, networks):
    """Mean and relative variance of the length against N t, with the Gamma law."""
    lines = np.linspace(1.0, max(points), 200)
    panels[0].plot([0, 1, *lines], [0, 0, *(lines - 1)], color="0.5", label="Gamma law, $Nt-1$")
    panels[1].plot(lines[10:], 1 / (lines[10:] - 1), color="0.5", label="$1/(Nt-1)$")
    for width, colour, marker in zip(widths, COLOURS, MARKERS, strict=False):
        replicas = max(8, networks // width)
        found = np.array([measure(k, algebra, width, x, replicas) for x in points])
        style = {"fmt": marker, "ms": 3, "color": colour, "mfc": "white", "elinewidth": 0.7}
        panels[0].errorbar(points, found[:, 0], found[:, 1], label=f"$n={width}$", **style)
        above = np.array(points) > 1.2
        at = np.array(points)[above]
        panels[1].errorbar(at, found[above, 2], found[above, 3], **style)
    panels[0].set(ylabel=r"$\alpha N\langle q\rangle$")
    panels[1].set(ylabel=r"$\mathrm{Var}\,q/\langle q\rangle^2$", yscale="log", xlim=(1.0, None))


def matrices(panel, k, widths, points, networks):
    """The mean length where the state of a unit is a k×k covariance."""
    for width, colour, marker in zip(widths, COLOURS[1:], MARKERS[1:], strict=False):
        replicas = max(8, networks // (width * k))
        found = np.array([measure(k, "real", width, x, replicas) for x in points])
        style = {"fmt": marker, "ms": 3, "color": colour, "mfc": "white", "elinewidth": 0.7}
        panel.errorbar(points, found[:, 0], found[:, 1], label=f"$n={width}$", **style)
    panel.plot([0, *points], [0, *points], ":", color="0.5", label="mean field")
    panel.set(ylabel=r"$\alpha N\langle q\rangle$")


def exponents(panel):
    """Mean-field theory: q* and m above the onset."""
    t = np.geomspace(1e-4, 1.0, 40)
    for k, colour in ((1, "#000000"), (2, "#0072B2"), (4, "#D55E00")):
        build = lambda weight_variance, k=k: theory.layer(TANH, weight_variance, components=k)
        found = theory.sector_diagram(build, {"weight_variance": 1 + t})
        panel.loglog(t, found["length"], color=colour, label=f"$q^*$, $k={k}$")
        panel.loglog(t, found["order_parameter"], "--", color=colour, label=f"$m$, $k={k}$")
    for power, place, text in ((1.0, 0.12, r"$\propto t$"), (0.5, 2.5, r"$\propto t^{1/2}$")):
        panel.loglog(t[:20], place * t[:20] ** power, color="0.6", lw=0.8)
        panel.text(t[3], (0.25 if power == 1 else 1.9) * place * t[3] ** power, text, color="0.4")
    panel.set(xlabel=r"$t=\sigma_w^2-1$", ylabel=r"length $q^*$, order parameter $m$")


def main(
    output: str = "docs/figures/onset.png",
    widths: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048),
    networks: int = 16384,
) -> None:
    """Write the figure; `networks` is the number of networks times their width."""
    jax.config.update("jax_enable_x64", True)
    figure = Figure(figsize=(7.0, 5.0), layout="constrained")
    panels = figure.subplots(2, 2)
    exponents(panels[0, 0])
    points = [0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0]
    scalar((panels[0, 1], panels[1, 0]), 2, "complex", widths, points, networks)
    matrices(panels[1, 1], 2, widths[:5], [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0], networks)
    for panel, letter in zip(panels.flat, "abcd", strict=True):
        if panel is not panels[0, 0]:
            panel.set_xlabel(r"$Nt$")
        panel.set_title(letter, loc="left", fontweight="bold", fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=7)
    figure.savefig(output, dpi=200)


if __name__ == "__main__":
    main()
