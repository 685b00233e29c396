"""Protection by a symmetry: growth of differences, decay by a bias, edges of chaos, rounding.

python docs/gallery/protection.py
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

import sigprop
import theory

TANH = theory.radial("tanh")
BLACK, BLUE, VERMILLION, GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"
STYLE = {"ms": 3, "mfc": "white", "elinewidth": 0.7, "linestyle": "none"}


def rotation_by(generator, angle):
    """exp(θA) of a plane generator."""
    one = np.eye(len(generator))
    return one + np.sin(angle) * generator + (1 - np.cos(angle)) * generator @ generator


def growth(panel, width, replicas, depth):
    """O(4) without bias: distances from one input to a rotated copy and to a generic neighbour."""
    network = theory.feedforward(TANH, 2.25, components=4, depth=depth)
    small = 1e-4
    r = rotation_by(theory.phases.plane_generator(network), small)
    x = sigprop.networks.pair_inputs(np.zeros((4, 4)), 16, key=jax.random.key(0))
    inputs = jnp.stack([x[0], x[0] @ jnp.asarray(r.T), x[0] + small * x[1]])
    exact = theory.propagate(network, inputs).value
    drawn = sigprop.sample_ensemble(
        network, inputs, width=width, replicas=replicas, explicit_weights=False
    ).samples.moments
    layers = np.arange(depth + 1)
    some = layers[:: depth // 10]
    for other, color, marker, label in (
        (2, VERMILLION, "s", "generic"),
        (1, BLUE, "o", "rotated copy"),
    ):
        line = np.asarray(theory.distance(exact))[:, 0, other]
        points = np.asarray(theory.distance(drawn))[:, :, 0, other]
        mean, error = points.mean(axis=0), points.std(axis=0, ddof=1) / np.sqrt(replicas)
        panel.semilogy(layers, line / line[0], color=color, label=label)
        at = (mean[some] / line[0], error[some] / line[0])
        panel.errorbar(some, *at, marker=marker, color=color, **STYLE)
    panel.set(xlabel="layer $l$", ylabel="distance to the neighbour, $d_l/d_0$")


def rate(cross, generator, first, last):
    """−log of the skew part's factor per layer, and its standard error by the jackknife."""
    skew = np.einsum("nlij,ij->nl", cross, generator)[:, [first, last]]
    ratio = lambda skew: np.log(np.abs(skew[:, 0].mean() / skew[:, 1].mean())) / (last - first)
    blocks = np.array_split(np.arange(len(skew)), 25)
    left = np.array([ratio(np.delete(skew, block, axis=0)) for block in blocks])
    return ratio(skew), np.sqrt(24 / 25 * np.sum((left - left.mean()) ** 2))


def decay(panel, width, replicas):
    """The rate at which a small relative rotation decays in the ordered phase, against bias."""
    weight = 1.3
    for k, algebra, color, marker, label in (
        (2, "complex", GREEN, "^", "U(1)"),
        (2, "real", BLUE, "o", "O(2), the same line"),
        (4, "quaternion", VERMILLION, "s", "Sp(1)"),
    ):
        build = lambda bias_variance, k=k, algebra=algebra: theory.layer(
            TANH, weight, bias_variance, components=k, algebra=algebra
        )
        bias = np.geomspace(0.005, 0.3, 40)
        diagram = theory.sector_diagram(build, {"bias_variance": bias})
        panel.loglog(
            bias,
            1 / diagram["depth_scale_goldstone"],
            "--" if k == 2 and algebra == "real" else "-",
            color=color,
            label=label,
        )
        for at in (6, 18, 30):
            b, q = bias[at], float(diagram["length"][at])
            last = 4 + round(1.5 * float(diagram["depth_scale_goldstone"][at]))
            network = theory.feedforward(TANH, weight, b, components=k, algebra=algebra, depth=last)
            generator = theory.phases.plane_generator(network)
            x = sigprop.networks.pair_inputs(
                rotation_by(generator, 0.02).T, 16, key=jax.random.key(1)
            )
            cross = sigprop.sample_ensemble(
                network,
                np.sqrt((q - b) / weight) * x,
                width=width,
                replicas=replicas,
                explicit_weights=False,
            ).samples.moments.covariance[:, :, 0, 1]
            panel.errorbar(
                b, *rate(np.asarray(cross), generator, 2, last), marker=marker, color=color, **STYLE
            )
    panel.set(xlabel=r"bias variance $\sigma_b^2$", ylabel=r"decay per layer, $1/\xi_G$")
    panel.set_yticks([0.05, 0.1, 0.2, 0.5], ["0.05", "0.1", "0.2", "0.5"])
    panel.yaxis.set_minor_formatter("")


def edges(panel):
    """The edge of chaos in the plane of variances, for several k."""
    lengths = np.geomspace(1e-6, 30, 200)
    for k, shade in zip((1, 2, 4, 8, 64), np.linspace(0, 0.75, 5), strict=True):
        phi = TANH if k > 1 else theory.activation("tanh")
        line = theory.critical_line(phi, lengths, components=k)
        color = (shade * 0.9, 0.45 * shade + 0.2, 0.7 - 0.6 * shade)
        panel.plot(
            line.weight_variance.value, line.bias_variance.value, color=color, label=f"$k={k}$"
        )
    panel.set(
        xlim=(0.9, 4),
        ylim=(0, 0.6),
        xlabel=r"weight variance $\sigma_w^2$",
        ylabel=r"bias variance $\sigma_b^2$",
    )
    panel.text(1.75, 0.42, "ordered")
    panel.text(3.2, 0.04, "chaotic")


def rounding(panel, width):
    """The residual of J(Ax) = A f(x) against depth, with and without a projection."""
    depths = (32, 64, 128, 256, 512)
    mixed = np.einsum(
        "g,gij->ij",
        [0.6, -0.48, 0.64],
        theory.phases.generators(theory.layer(TANH, 2.25, components=3)),
    )
    follow = eqx.filter_jit(sigprop.jacobians.sample_exponents)
    x = jax.random.normal(jax.random.key(1), (1, 32, 3))
    for dtype, color, marker, label in (
        (jnp.float32, VERMILLION, "s", "float32"),
        (jnp.float64, BLUE, "o", "float64"),
    ):
        plain, kept = [], []
        for depth in depths:
            network = theory.feedforward(TANH, 2.25, components=3, depth=depth)
            key = jax.random.key(2)
            found = sigprop.certify(
                sigprop.networks.DrawnNetwork(network, key, width), x.astype(dtype), mixed[None]
            )
            plain.append(float(found.residual[0]))
            frame = follow(
                network, x.astype(dtype), key=key, width=width, count=6, explicit_weights=True
            )
            kept.append(float(np.max(frame.residual)))
        panel.loglog(depths, plain, marker + "-", color=color, ms=3, label=f"{label}, plain")
        panel.loglog(
            depths,
            kept,
            marker + "--",
            color=color,
            ms=3,
            mfc="white",
            label=f"{label}, 6 directions taken out",
        )
    panel.axhline(1.0, color="0.7", lw=0.8, zorder=0)
    panel.set(xlabel="layers $L$", ylabel=r"$|J(Ax)-Af(x)|/|Af(x)|$", ylim=(1e-16, 1e9))
    panel.set_xticks(depths, [str(depth) for depth in depths], minor=False)
    panel.minorticks_off()


def main(
    output: str = "docs/figures/protection.png", width: int = 512, replicas: int = 400
) -> None:
    """Write the figure."""
    jax.config.update("jax_enable_x64", True)
    with rc_context({"font.size": 8}):
        draw(output, width, replicas)


def draw(output: str, width: int, replicas: int) -> None:
    """Draw all panels and write the file."""
    figure = Figure(figsize=(7.0, 5.2), layout="constrained")
    panels = figure.subplots(2, 2)
    growth(panels[0, 0], width, replicas // 4, 100)
    decay(panels[0, 1], width, replicas)
    edges(panels[1, 0])
    rounding(panels[1, 1], 64)
    for panel, letter in zip(panels.flat, "abcd", strict=True):
        panel.set_title(letter, loc="left", fontweight="bold", fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=7)
    figure.savefig(output, dpi=200)


if __name__ == "__main__":
    main()
