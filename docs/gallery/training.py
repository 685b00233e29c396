"""Learning rates that train deep networks, and the window at finite width, from docs/data.

python docs/gallery/training.py
"""

import json
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure

import theory

DATA = Path(__file__).parent.parent / "data"
STYLE = {
    "U(1)": ("#D55E00", "s"),
    "O(4)": ("#0072B2", "o"),
    "dense": ("#009E73", "^"),
    "O(2)": ("#000000", "X"),
    "U(1) weights, elementwise tanh": ("#E69F00", "v"),
    "O(4) weights, elementwise tanh": ("#56B4E9", "D"),
    "dense, blocks of 2": ("#CC79A7", "P"),
}
CHANCE = 0.1


def read(name):
    """The contents of one file of docs/data."""
    return json.loads((DATA / f"{name}.json").read_text())


def select(networks, **where):
    """The networks with these values of the axes."""
    return [n for n in networks if all(n[key] == value for key, value in where.items())]


def mean_error(values):
    """Mean, and standard error where there is more than one."""
    values = np.array(values, float)
    if len(values) == 0:
        return np.nan, np.nan
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return values.mean(), error


def names(networks):
    """Architectures that have a style, in its order."""
    there = {n["architecture"] for n in networks}
    return [name for name in STYLE if name in there]


def rate_panel(panel, networks, chosen):
    """Final test accuracy over the learning rate."""
    rates = sorted({n["learning_rate"] for n in networks})
    for name in chosen:
        color, marker = STYLE[name]
        found = [
            [n["test_accuracy"][-1] for n in select(networks, architecture=name, learning_rate=r)]
            for r in rates
        ]
        mean, error = np.array([mean_error(f) for f in found]).T
        panel.errorbar(
            rates, mean, error, color=color, marker=marker, ms=3.5, lw=0.9, capsize=1.5, label=name
        )
    panel.axhline(CHANCE, color="0.6", lw=0.7, ls=":")
    panel.set(xscale="log", xlabel=r"learning rate $\eta$", ylabel="test accuracy", ylim=(0, 1))


def step_panel(panel, networks, chosen, rate, quantity, label):
    """A quantity over the first steps of training."""
    for name in chosen:
        color, marker = STYLE[name]
        members = select(networks, architecture=name, learning_rate=rate)
        if not members:
            continue
        values = np.array([m[quantity] for m in members], float)
        panel.plot(
            members[0]["step"], values.mean(axis=0), color=color, marker=marker, ms=3, lw=0.9
        )
    panel.set(xscale="symlog", xlabel="step", ylabel=label)
    panel.set_xlim(left=0)


def rates_figure(path):
    """Learning-rate curves of the groups and of the controls, and what the first steps do."""
    networks = read("digits_100")["networks"]
    groups = [name for name in ("U(1)", "O(2)", "O(4)", "dense") if name in names(networks)]
    controls = [name for name in names(networks) if name not in groups]
    figure = Figure(figsize=(7.0, 5.4), layout="constrained")
    a, b, c, d = figure.subplots(2, 2).flat
    rate_panel(a, networks, groups)
    rate_panel(b, networks, controls)
    a.legend(frameon=False, fontsize=7)
    b.legend(frameon=False, fontsize=6)
    step_panel(c, networks, groups, 1e-3, "similarity", "cosine of two inputs, last turn")
    step_panel(d, networks, groups, 1e-3, "gradient_ratio", "log gradient, last over first turn")
    for letter, panel in zip("abcd", (a, b, c, d), strict=True):
        panel.set_title(f"({letter})", loc="left")
    figure.savefig(path, dpi=150)


def window_figure(path):
    """Exponents of what no symmetry protects, where they become positive, and the cascade."""
    data = read("finite_width_window")
    figure = Figure(figsize=(7.0, 2.8), layout="constrained")
    a, b, c = figure.subplots(1, 3)
    cases = {"dense": (1, "real"), "U(1)": (2, "complex"), "O(4)": (4, "real")}
    for group, (k, algebra) in cases.items():
        color, marker = STYLE[group]
        rows = [row for row in data["windows"] if row["group"] == group]
        (row,) = [row for row in rows if row["numbers"] == 64]
        style = {"color": color, "marker": marker, "ms": 3, "ls": "none", "elinewidth": 0.7}
        a.errorbar(row["gains"], row["exponent"], row["standard_error"], label=group, **style)
        sizes = np.array([row["numbers"] for row in rows])
        edges = np.array([mean_error(row["edges"]) for row in rows])
        good = np.isfinite(edges[:, 0])
        b.errorbar(sizes[good], edges[good, 0] - 1, edges[good, 1], **style)
        if group != "O(4)":
            phi = theory.radial("tanh") if k > 1 else theory.activation("tanh")
            gains = np.linspace(1.02, 3.2, 80)
            found = [
                theory.generic_exponent(phi, g**2, components=k, algebra=algebra) for g in gains
            ]
            limit, coefficient = np.array(found, float).T
            line = limit + coefficient * k / 64
            shown = (gains > 1.06) & (gains < 2.2)
            a.plot(gains[shown], line[shown], color=color, lw=0.9)
            # λ = 0 at this number of real numbers in a layer.
            at = -coefficient * k / limit
            b.plot(at[at > 12], gains[at > 12] - 1, color=color, lw=0.9)
    a.axhline(0, color="0.6", lw=0.7)
    a.set(xlim=(1, 2.2), ylim=(-0.1, 0.2), xlabel=r"gain $\sigma_w$", ylabel=r"exponent $\lambda$")
    a.legend(frameon=False, fontsize=7)
    b.set(
        xscale="log",
        yscale="log",
        xlim=(11, 400),
        xlabel="real numbers in a layer $N$",
        ylabel=r"onset of chaos $\sigma_w-1$",
    )
    b.set_xticks([16, 32, 64, 128, 256], ["16", "32", "64", "128", "256"])
    b.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    gains = np.array(data["cascade"]["gains"])
    eigenvalues = np.array(data["cascade"]["eigenvalues"], float)
    ratio = np.maximum(eigenvalues / eigenvalues[..., :1], 1e-12)
    for i in range(1, 4):
        middle = np.exp(np.log(ratio[..., i]).mean(axis=0))
        color = ("#E69F00", "#56B4E9", "#000000")[i - 1]
        style = {"color": color, "marker": "o^s"[i - 1], "ms": 3, "lw": 0.9}
        c.semilogy(gains, middle, label=f"$i={i + 1}$", **style)
    c.set(xlabel=r"gain $\sigma_w$", ylabel=r"eigenvalue $i$ of $\langle z z^T\rangle$ / first")
    c.legend(frameon=False, fontsize=7)
    for letter, panel in zip("abc", (a, b, c), strict=True):
        panel.set_title(f"({letter})", loc="left")
    figure.savefig(path, dpi=150)


def main(folder="docs/figures"):
    jax.config.update("jax_enable_x64", True)
    window_figure(Path(folder) / "finite_width_window.png")
    rates_figure(Path(folder) / "training_rates.png")


if __name__ == "__main__":
    main()
