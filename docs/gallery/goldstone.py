"""Goldstone modes: order parameter, multipliers by sector, and rotations through depth.

python docs/gallery/goldstone.py
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import sigprop
import theory

TANH = theory.radial("tanh")
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"


def phase(cross):
    """The angle of the rotation in cross-covariances [..., 2, 2]."""
    across, along = cross[..., 1, 0] - cross[..., 0, 1], cross[..., 0, 0] + cross[..., 1, 1]
    return -np.arctan2(across, along)


def phase_with_error(cross):
    """The angle of the mean over networks [networks, layers, 2, 2], and its standard error."""
    mean = cross.mean(axis=0)
    across, along = (
        np.stack([c[..., 1, 0] - c[..., 0, 1], c[..., 0, 0] + c[..., 1, 1]]) for c in (cross, mean)
    )
    change = (along[1] * across[0] - along[0] * across[1]) / np.sum(along**2, axis=0)
    return phase(mean), change.std(axis=0, ddof=1) / np.sqrt(len(cross))


@eqx.filter_jit
def profile_means(network, x, keys, width):
    """The mean of g(|z|) over the units of the last layer of each network."""

    def one(key):
        drawn = sigprop.networks.DrawnNetwork(network, key, width, explicit_weights=False)
        return jnp.mean(TANH.profile(jnp.linalg.norm(drawn(x), axis=-1)))

    return jax.lax.map(one, keys)


def order_parameter(panel, width, replicas, depth):
    """m = E g(|z|) against weight variance, for O(2) and O(4)."""
    fine, coarse = np.linspace(0.8, 2.5, 60), np.linspace(0.85, 2.45, 9)
    for k, colour, marker in ((2, BLUE, "o"), (4, VERMILLION, "s")):
        build = lambda weight_variance, k=k: theory.layer(TANH, weight_variance, components=k)
        diagram = theory.sector_diagram(build, {"weight_variance": fine})
        panel.plot(fine, diagram["order_parameter"], color=colour, label=f"O({k})")
        x = sigprop.networks.pair_inputs(np.zeros((k, k)), 16, key=jax.random.key(1))[:1].astype(
            jnp.float32
        )
        for w in coarse:
            network = theory.feedforward(TANH, w, components=k, depth=depth)
            keys = jax.random.split(jax.random.key(2), replicas)
            m = np.asarray(profile_means(network, x, keys, width))
            error = m.std(ddof=1) / np.sqrt(replicas)
            panel.errorbar(w, m.mean(), error, fmt=marker, ms=3, color=colour, mfc="white")
    panel.set(
        xlabel=r"weight variance $\sigma_w^2$", ylabel=r"order parameter $m=\mathrm{E}\,g(|z|)$"
    )
    panel.legend(frameon=False)


def multipliers(panel):
    """Multipliers by sector, for O(4) without a bias."""
    w = np.linspace(0.5, 4.0, 80)
    build = lambda weight_variance: theory.layer(TANH, weight_variance, components=4)
    diagram = theory.sector_diagram(build, {"weight_variance": w})
    for name, colour, style, label in (
        ("trace", VERMILLION, "-", r"distance, $\chi$"),
        ("symmetric_traceless", GREEN, "--", "shear"),
        ("goldstone", BLUE, "-", r"rotation, $\lambda_A$"),
    ):
        panel.plot(w, diagram[name], style, color=colour, label=label)
    panel.axvline(1.0, color="0.7", lw=0.8, zorder=0)
    panel.set(xlabel=r"weight variance $\sigma_w^2$", ylabel="multiplier per layer")
    panel.legend(frameon=False)


def through_depth(panels, width, replicas, depth):
    """Magnitude and angle of the cross-covariance of two inputs, U(1), with and without a bias."""
    angle = 0.8
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    x = sigprop.networks.pair_inputs(0.9 * rotation, 16, key=jax.random.key(1))
    for bias, colour, marker in ((0.0, BLUE, "o"), (0.045, VERMILLION, "s")):
        network = theory.feedforward(TANH, 2.25, bias, components=2, algebra="complex", depth=depth)
        exact = theory.propagate(network, x).value
        ensemble = sigprop.sample_ensemble(
            network, x.astype(jnp.float32), width=width, replicas=replicas, explicit_weights=False
        )
        drawn = np.asarray(ensemble.samples.moments.covariance, float)[:, :, 0, 1]
        expected = np.asarray(exact.covariance)[:, 0, 1]
        layers = np.arange(depth + 1)
        some = layers[:: max(1, depth // 12)]
        label = "no bias" if bias == 0 else rf"$\sigma_b^2={bias}$"
        size = np.hypot(drawn[..., 0, 0] + drawn[..., 1, 1], drawn[..., 1, 0] - drawn[..., 0, 1])
        error = size.std(axis=0, ddof=1) / np.sqrt(replicas) / 2
        mean = drawn.mean(axis=0)
        mean = np.hypot(mean[:, 0, 0] + mean[:, 1, 1], mean[:, 1, 0] - mean[:, 0, 1]) / 2
        line = np.hypot(
            expected[:, 0, 0] + expected[:, 1, 1], expected[:, 1, 0] - expected[:, 0, 1]
        )
        q = np.asarray(theory.length(exact))[:, 0]
        panels[0].plot(layers, line / 2 / q, color=colour, label=label)
        points = {"fmt": marker, "ms": 3, "color": colour, "mfc": "white"}
        panels[0].errorbar(some, (mean / q)[some], (error / q)[some], **points)
        seen, error = phase_with_error(drawn)
        panels[1].plot(layers, np.abs(phase(expected)), color=colour, label=label)
        some = some[np.abs(seen[some]) > 2 * error[some]]
        panels[1].errorbar(some, np.abs(seen[some]), error[some], **points)
        if bias:
            # Two inputs at the stable correlation c*, not at coincidence: 1 − σ_b²/(q* c*).
            body = theory.layer(TANH, 2.25, bias, components=2, algebra="complex")
            point = theory.predict(body)
            scale = -1 / np.log(1 - bias / (point.length.value * point.correlation.value))
            first = depth // 3
            guide = np.abs(phase(expected))[first] * np.exp(-(layers - first) / scale)
            panels[1].plot(layers, guide, ":", color="0.4", label=rf"$e^{{-l/{scale:.1f}}}$")
    panels[0].set(xlabel="layer $l$", ylabel=r"size $|C_l|$ of the overlap", yscale="log")
    panels[1].set(xlabel="layer $l$", ylabel=r"relative rotation (rad)", yscale="log")
    panels[1].set_ylim(bottom=1e-3)
    for panel in panels:
        panel.legend(frameon=False)


def main(
    output: str = "docs/figures/goldstone.png",
    width: int = 1024,
    replicas: int = 100,
    depth: int = 100,
) -> None:
    """Write the figure."""
    jax.config.update("jax_enable_x64", True)
    figure = Figure(figsize=(7.0, 5.0), layout="constrained")
    panels = figure.subplots(2, 2)
    order_parameter(panels[0, 0], width, max(4, replicas // 5), 2 * depth)
    multipliers(panels[0, 1])
    through_depth(panels[1], width, replicas, depth)
    for panel, letter in zip(panels.flat, "abcd", strict=True):
        panel.set_title(letter, loc="left", fontweight="bold", fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(output, dpi=200)


if __name__ == "__main__":
    main()
