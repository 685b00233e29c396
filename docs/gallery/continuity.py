"""Coherent gradients at initialisation, and when a coherent update shows in the weights.

python docs/gallery/continuity.py
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import sigprop
import theory
from sigprop.figures._style import styled, write_caption

COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73")
MARKERS = "os^v"
DEPTH, WIDTH, NETWORKS = 12, 256, 100
SIZE, LAYERS, TARGET, SEEDS, STEPS, STOP = 128, 6, 2.5, 3, 250, 0.25


def by_distance(cosines):
    """The mean over pairs of layers at every distance; a last axis over distances."""
    places = np.arange(cosines.shape[-1])
    gap = np.abs(places[:, None] - places[None])
    return np.stack([cosines[..., gap == s].mean(axis=-1) for s in places[1:]], axis=-1)


def coherence_panel(panel):
    """Cosines of gradients of one input at initialisation: theory and networks."""
    x = sigprop.gram_inputs(jnp.eye(1), 16, key=jax.random.key(1))
    places = np.arange(1, DEPTH)
    names = ("linear", "tanh", "relu", "gelu")
    for name, colour, marker in zip(names, COLOURS, MARKERS, strict=True):
        network = theory.feedforward(theory.activation(name), 0.5, depth=DEPTH, residual=True)
        exact = theory.gradients.gradient_coherence(network, x).cosine.value
        drawn = sigprop.networks.sample_coherence(
            network, x.astype(jnp.float32), width=WIDTH, replicas=NETWORKS
        )
        each = by_distance(np.asarray(drawn, float))
        error = each.std(axis=0, ddof=1) / math.sqrt(NETWORKS)
        panel.plot(places, by_distance(np.asarray(exact)), color=colour, lw=0.9)
        style = {"fmt": marker, "ms": 3, "color": colour, "mfc": "white", "elinewidth": 0.7}
        panel.errorbar(places, each.mean(axis=0), error, label=name, **style)
    panel.set(xlabel="distance $|l-m|$", ylabel=r"$\cos(G_l,G_m)$", yscale="log")
    panel.legend(frameon=False)


def trained(noise, seed):
    """Alignment of neighbours over the training of a linear residual network with all entries."""
    rng = np.random.default_rng(seed)
    u = rng.normal(size=SIZE)
    u /= np.linalg.norm(u)
    goal = np.eye(SIZE) + (TARGET - 1) * np.outer(u, u)
    weights = noise * rng.normal(size=(LAYERS, SIZE, SIZE)) / math.sqrt(SIZE)
    found = []
    for step in range(STEPS + 1):
        if step % 25 == 0:
            right = np.linalg.svd(weights)[2][:, 0]
            found.append(np.mean(np.abs(np.sum(right[1:] * right[:-1], axis=1))))
        below = [np.eye(SIZE)]
        for w in weights:
            below.append(below[-1] + w @ below[-1])
        error = below[-1] - goal
        gradient = np.empty_like(weights)
        for layer in range(LAYERS - 1, -1, -1):
            gradient[layer] = error @ below[layer].T
            error = error + weights[layer].T @ error
        weights = weights - STOP / STEPS * gradient
    return found


def spike_panel(panel):
    """Alignment of neighbours over training, from the exact gain and the law of spikes."""
    times = np.linspace(0, STOP, 400)
    size = (
        np.asarray(theory.gradients.linear_residual_gain(TARGET, LAYERS, times).value)
        ** (1 / LAYERS)
        - 1
    )
    noises = (0.02, 0.05, 0.1, 0.3)
    for noise, colour, marker in zip(noises, COLOURS, MARKERS, strict=True):
        law = np.asarray(theory.gradients.spike_overlap(size / noise)[1].value)
        panel.plot(times, law, color=colour, lw=0.9)
        each = np.array([trained(noise, seed) for seed in range(SEEDS)])
        error = each.std(axis=0, ddof=1) / math.sqrt(SEEDS)
        style = {"fmt": marker, "ms": 3, "color": colour, "mfc": "white", "elinewidth": 0.7}
        at = np.linspace(0, STOP, each.shape[1])
        panel.errorbar(at, each.mean(axis=0), error, label=rf"$\sigma={noise}$", **style)
    chance = sigprop.alignment.cosine_null(SIZE)
    spread = 2 * chance.deviation / math.sqrt((LAYERS - 1) * SEEDS)
    panel.axhspan(chance.mean - spread, chance.mean + spread, color="0.88", lw=0)
    panel.set(xlabel="time $t$", ylabel=r"$|\langle v_1,v_1'\rangle|$ of $W$", ylim=(0, 1))
    panel.legend(frameon=False, loc="center right", bbox_to_anchor=(1.0, 0.36))


def main(output="docs/figures/continuity.png"):
    """Draw both panels."""
    jax.config.update("jax_enable_x64", True)
    with styled():
        figure = Figure(figsize=(7.0, 2.9), layout="constrained")
        panels = figure.subplots(1, 2)
        coherence_panel(panels[0])
        spike_panel(panels[1])
        for letter, panel in zip("ab", panels, strict=True):
            panel.set_title(f"({letter})", loc="left")
        write_caption(
            figure,
            f"(a) Gradients at initialisation, $\\sigma_w^2=0.5$: theory (lines), {NETWORKS} "
            f"residual networks of {WIDTH} units, one standard error. (b) Linear residual "
            f"networks, {LAYERS} layers of {SIZE}, target $\\mu={TARGET}$, trained by gradient "
            f"descent from noise: law (lines), {SEEDS} networks. Grey: chance, 2 deviations.",
        )
        figure.savefig(output, dpi=200)


if __name__ == "__main__":
    main()
