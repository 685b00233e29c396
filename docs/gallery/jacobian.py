"""Singular values of deep Jacobians: free probability on histograms of finite networks.

python docs/gallery/jacobian.py
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import sigprop
import theory

DEPTHS = {8: "#0072B2", 32: "#D55E00"}
# tanh at χ = 1 with σ_b² = 0.05; relu at σ_w² = 2.
NETWORKS = {"tanh": (1.76095463960674, 0.05, 0.570047881640764), "relu": (2.0, 0.0, 1.0)}
BINS = 36


def sampled(network, length, width, replicas):
    """log s of all networks, each with its own input."""
    x = np.sqrt(length) * jax.random.normal(jax.random.key(0), (replicas, 1, width, 1))
    sample = sigprop.sample_jacobians(network, x, width=width, replicas=replicas)
    return np.asarray(sample.log_singular_values)


def spectrum(panel, name, weights, width, replicas):
    """Densities of log s per layer at two depths: theory, and networks of one width."""
    variance, bias, length = NETWORKS[name]
    body = theory.layer(theory.activation(name), variance, bias, weights=weights)
    one = theory.jacobian_factors(body, length)
    for depth, colour in DEPTHS.items():
        factors = one.repeated(depth)
        edges = theory.spectrum.spectrum_edges(factors)
        mass = float(jnp.max(factors.law.mass_at_zero))
        top = float(edges.log_upper.value)
        ends = jnp.asarray([mass + 0.02 * (1 - mass)])
        low = float(theory.singular_value_quantiles(factors, ends).value[0])
        x = top - (top - low) * np.linspace(1, 0, 201) ** 2
        density = theory.singular_value_distribution(factors, jnp.asarray(x)).density
        panel.plot(x, np.asarray(density.value), color=colour, lw=1.2, label=f"$L={depth}$")
        logs = sampled(theory.repeat(body, depth), length, width, replicas)
        places = np.linspace(low, max(top, logs.max()), BINS + 1)
        size = places[1] - places[0]
        each = np.stack([np.histogram(row, places)[0] for row in logs]) / (width * size)
        mean, error = each.mean(axis=0), each.std(axis=0, ddof=1) / np.sqrt(replicas)
        middle = (places[1:] + places[:-1]) / 2
        panel.errorbar(
            middle, mean, error, fmt="o", ms=2, mew=0.6, mfc="white", color=colour, elinewidth=0.6
        )
        print(
            name, weights, depth, f"s_+ {np.exp(top):.4g}", f"zeros {np.isneginf(logs).mean():.3f}"
        )
    panel.set(xlabel=r"$\log s$", ylabel=r"density of $\log s$")
    panel.set_title(f"{name}, {weights}", fontsize=8)
    panel.set_ylim(bottom=0)


def main(output: str = "docs/figures/jacobian.png", width: int = 128, replicas: int = 8) -> None:
    """Write the figure."""
    jax.config.update("jax_enable_x64", True)
    figure = Figure(figsize=(7.0, 5.0), layout="constrained")
    panels = figure.subplots(2, 2)
    for row, name in zip(panels, NETWORKS, strict=True):
        for panel, weights in zip(row, ("gaussian", "orthogonal"), strict=True):
            spectrum(panel, name, weights, width, replicas)
    panels[0, 0].legend(frameon=False, fontsize=7)
    for panel, letter in zip(panels.flat, "abcd", strict=True):
        panel.set_title(letter, loc="left", fontweight="bold", fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=7)
        panel.xaxis.label.set_size(8)
        panel.yaxis.label.set_size(8)
    figure.savefig(output, dpi=200)


if __name__ == "__main__":
    main()
