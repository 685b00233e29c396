"""Learning rates, depths and gains that train deep and recurrent networks, from docs/data.

python docs/gallery/training.py
"""

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

DATA = Path(__file__).parent.parent / "data"
STYLE = {
    "U(1)": ("#D55E00", "s"),
    "O(2)": ("#000000", "X"),
    "O(4)": ("#0072B2", "o"),
    "O(8)": ("#56B4E9", "D"),
    "dense": ("#009E73", "^"),
    "U(1) weights, elementwise tanh": ("#E69F00", "v"),
    "O(4) weights, elementwise tanh": ("#009E73", ">"),
    "dense, blocks of 2": ("#CC79A7", "P"),
    "dense, blocks of 4": ("#7F7F7F", "p"),
    "dense, size of U(1)": ("#D55E00", "<"),
    "dense, size of O(4)": ("#0072B2", ">"),
    "dense, entries of U(1)": ("#E69F00", "v"),
    "dense, entries of O(4)": ("#009E73", "^"),
    "O(8) weights, elementwise tanh": ("#56B4E9", "<"),
    "dense, blocks of 8": ("#000000", "X"),
    "U(1) RNN": ("#D55E00", "s"),
    "RNN": ("#0072B2", "o"),
    "U(1) RNN, unitary": ("#E69F00", "D"),
    "RNN, orthogonal": ("#56B4E9", "^"),
    "U(1) GRU": ("#CC79A7", "P"),
    "GRU": ("#000000", "v"),
    "dense, orthogonal": ("#E69F00", "v"),
    "residual": ("#CC79A7", "P"),
    "residual, layer norm": ("#7F7F7F", "h"),
}
PANELS = (
    ("U(1)", "O(2)", "O(4)", "O(8)", "dense"),
    ("U(1) weights, elementwise tanh", "O(4) weights, elementwise tanh", "dense, blocks of 2",
     "dense, blocks of 4"),
    ("dense, size of U(1)", "dense, size of O(4)", "dense, orthogonal", "residual",
     "residual, layer norm"),
)  # fmt: skip
DEPTHS = {50: ("#56B4E9", "o"), 100: ("#E69F00", "s"), 200: ("#009E73", "^"), 500: ("#000000", "D")}
CHANCE, COPY_CHANCE = 0.1, 1 / 8
USABLE = 0.5
"""Test accuracy of a learning rate that counts as usable."""


def read(name):
    """The networks in one file of docs/data."""
    return json.loads((DATA / f"{name}.json").read_text())["networks"]


def over_seeds(values):
    """Mean over networks, and its standard error where there is more than one."""
    values = np.array(values, float)
    if len(values) == 0:
        return np.nan, np.nan
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return values.mean(axis=0), error


def select(networks, **where):
    """The networks with these values of the axes."""
    return [n for n in networks if all(n[key] == value for key, value in where.items())]


def accuracies(networks, axis, **where):
    """Final test accuracy along an axis: its values, means and standard errors."""
    at = sorted({n[axis] for n in networks})
    each = [select(networks, **where, **{axis: value}) for value in at]
    found = [over_seeds([n["test_accuracy"][-1] for n in some]) for some in each]
    mean, error = np.array(found, float).T
    return np.array(at), mean, error


def draw(panel, x, mean, error, style, **more):
    """A curve of points with error bars."""
    color, marker = style
    bars = None if np.all(np.isnan(error)) else error
    how = {"color": color, "marker": marker, "ms": 3.2, "lw": 0.9, "capsize": 1.5}
    panel.errorbar(x, mean, bars, **how | more)


def ticks(panel, at):
    """Ticks of a logarithmic axis only at these values."""
    panel.set_xticks(at, [f"{value:g}" for value in at])
    panel.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)


def rate_panel(panel, networks, names, chance=CHANCE):
    """Final test accuracy over the learning rate."""
    for name in names:
        draw(panel, *accuracies(networks, "learning_rate", architecture=name), STYLE[name],
             label=name)  # fmt: skip
    panel.axhline(chance, color="0.6", lw=0.7, ls=":")
    panel.set(xscale="log", xlabel=r"learning rate $\eta$", ylabel="test accuracy", ylim=(0, 1))


def step_panel(panel, networks, names, rate, quantity, label):
    """A quantity over the first steps of training."""
    for name in names:
        members = select(networks, architecture=name, learning_rate=rate)
        mean, error = over_seeds([m[quantity] for m in members])
        draw(panel, members[0]["step"], mean, error, STYLE[name])
    panel.set(xscale="symlog", xlabel="step", ylabel=label)
    panel.set_xlim(left=0)


def below(panel, by=0.22):
    """A legend under a panel."""
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -by)}
    panel.legend(frameon=False, fontsize=5.8, ncols=2, columnspacing=0.6, handlelength=1.2, **place)


def letters(panels):
    """(a), (b), … above the panels."""
    for panel, letter in zip(panels, "abcdefgh", strict=False):
        panel.set_title(f"({letter})", loc="left", fontsize=9)


def rates_figure(path):
    """Learning-rate curves, and what the first steps do to signals, gradients and the charge."""
    networks = read("digits_100")
    figure = Figure(figsize=(9.0, 6.2), layout="constrained")
    panels = figure.subplots(2, 3)
    whole = at_all_rates(100) + read("wide_controls_100")
    for panel, names in zip(panels[0], PANELS, strict=True):
        rate_panel(panel, whole, names)
        below(panel)
    groups, rate = PANELS[0], 1e-3
    text = "cosine of two inputs, last layer"
    step_panel(panels[1, 0], networks, groups, rate, "similarity", text)
    text = "log gradient, last over first layer"
    step_panel(panels[1, 1], networks, groups, rate, "gradient_ratio", text)
    charged = [name for name in (*groups[:4], *PANELS[1]) if name in STYLE]
    text = "variation of the charge over depth"
    step_panel(panels[1, 2], networks, charged, rate, "charge_drift", text)
    panels[1, 2].set_yscale("log")
    letters(panels.flat)
    figure.savefig(path, dpi=150)


def at_all_rates(depth):
    """The networks of depths.toml and those of wide_rates.toml."""
    return read(f"digits_{depth}") + read(f"wide_rates_{depth}")


def usable(networks, **where):
    """The rates around the best one at which the mean accuracy, interpolated, is above USABLE;
    and whether the lowest and the highest of them are the ends of the range tried."""
    rates, mean, _ = accuracies(select(networks, **where), "learning_rate")
    fine = np.linspace(np.log10(rates[0]), np.log10(rates[-1]), 4001)
    below = np.interp(fine, np.log10(rates), mean) <= USABLE
    best = np.searchsorted(fine, np.log10(rates[np.argmax(mean)]))
    if np.max(mean) <= USABLE:
        return np.nan, np.nan, False, False
    low = max(np.flatnonzero(below[:best]), default=-1) + 1
    high = min(np.flatnonzero(below[best:]), default=len(fine) - best) + best - 1
    return 10 ** fine[low], 10 ** fine[high], low == 0, high == len(fine) - 1


def depth_figure(path):
    """Learning-rate curves at every depth, and the range of usable rates."""
    found = {depth: at_all_rates(depth) for depth in DEPTHS}
    names = (*PANELS[0], *PANELS[2][2:])
    figure = Figure(figsize=(10.5, 5.0), layout="constrained")
    grid = figure.subplots(2, 5)
    panels, (width, best) = grid[:, :4].ravel(), grid[:, 4]
    for panel, name in zip(panels, names, strict=True):
        for depth, networks in found.items():
            if select(networks, architecture=name):
                points = accuracies(networks, "learning_rate", architecture=name)
                draw(panel, *points, DEPTHS[depth], label=f"$L={depth}$")
        panel.axhline(CHANCE, color="0.6", lw=0.7, ls=":")
        panel.set(xscale="log", ylim=(0, 1))
        panel.set_title(name, fontsize=9)
    panels[4].legend(frameon=False, fontsize=7, loc="upper right")
    for panel in panels[4:]:
        panel.set_xlabel(r"learning rate $\eta$")
    for panel in panels[::4]:
        panel.set_ylabel("test accuracy")
    for name in names:
        own = {d: n for d, n in found.items() if select(n, architecture=name)}
        color, marker = STYLE[name]
        how = {"color": color, "marker": marker, "ms": 3.2, "lw": 0.9, "label": name}
        ends = np.array([usable(n, architecture=name) for n in own.values()])
        decades = np.nan_to_num(np.log10(ends[:, 1] / ends[:, 0]))
        width.plot([*own], decades, **how)
        # Open where the range extends beyond the rates tried.
        least = ends[:, 2:].any(axis=1)
        width.plot(np.array([*own])[least], decades[least], **how | {"ls": "none", "mfc": "white"})
        chosen = [select(n, architecture=name) for n in own.values()]
        curves = [accuracies(n, "learning_rate")[1:] for n in chosen]
        tops = [(mean.max(), error[mean.argmax()]) for mean, error in curves]
        mean, error = np.array(tops).T
        draw(best, [*own], mean, error, STYLE[name], label=name)
    for panel in (width, best):
        panel.set_xscale("log")
        ticks(panel, [*found])
        panel.set_xlabel("depth $L$")
    width.set(ylabel="usable decades of $\\eta$", ylim=(-0.1, 5.1))
    best.set(ylabel="accuracy at the best rate", ylim=(0, 1))
    below(best, 0.3)
    figure.savefig(path, dpi=150)


def fashion_figure(path):
    """Figure 3 of Iqbal et al. 2026, and accuracy over the learning rate."""
    gains, rates = read("fashion_gains"), read("fashion_rates")
    names = [name for name in STYLE if select(gains, architecture=name)]
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    a, b, c = figure.subplots(1, 3)
    for name in names:
        draw(a, *accuracies(gains, "gain", architecture=name), STYLE[name], label=name)
        at = sorted({n["gain"] for n in gains})
        each = [select(gains, architecture=name, gain=g) for g in at]
        order = [over_seeds([n["order_parameter"][0] for n in some]) for some in each]
        mean, error = np.array(order, float).T
        draw(b, at, mean, error, STYLE[name])
    for panel in (a, b):
        panel.axvline(1, color="0.8", lw=0.7)
    a.axhline(CHANCE, color="0.6", lw=0.7, ls=":")
    a.set(xlabel=r"gain $\sigma_w$", ylabel=r"test accuracy, $\eta=10^{-3}$", ylim=(0, 1))
    below(a)
    b.set(xlabel=r"gain $\sigma_w$", ylabel="order parameter $m$", ylim=(0, 1))
    rate_panel(c, rates, names)
    c.set_ylabel(r"test accuracy, $\sigma_w=1.2$")
    letters((a, b, c))
    figure.savefig(path, dpi=150)


ORTHOGONAL = "dense, orthogonal"


def cause_figure(path):
    """500 layers: weights and units without the symmetry; all rates; a smaller gain."""
    controls, groups, weaker = read("controls_500"), at_all_rates(500), read("nonlinearity")
    near = read("critical_500") + read("critical_small_rates_500")
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    a, b, c = figure.subplots(1, 3)
    names = sorted({n["architecture"] for n in controls})
    rate_panel(a, read("digits_500") + controls, ("O(4)", "O(8)", *names))
    rate_panel(b, groups, ("O(4)", "O(8)", "U(1)", "dense", ORTHOGONAL, "residual, layer norm"))
    points = accuracies(near, "learning_rate", architecture=ORTHOGONAL, gain=1.05)
    label = rf"{ORTHOGONAL}, $\sigma_w=1.05$"
    draw(b, *points, STYLE[ORTHOGONAL], mfc="white", ls="--", label=label)
    rate_panel(c, weaker, ("U(1)", "O(2)", "dense"))
    rate_panel(c, read("digits_500"), ("O(8)",))
    c.set_title(r"$\sigma_w=1.1$, O(8): 1.2", loc="right", fontsize=8)
    for panel in (a, b, c):
        below(panel)
    letters((a, b, c))
    figure.savefig(path, dpi=150)


COPY_RATE = 3e-3
"""The best rate of the gated cells at a delay of 25, and the only one that all delays have."""


def recurrent_figure(path):
    """Digits pixel by pixel and the copy task over the learning rate; the latter over the delay."""
    parts = (("sequential_digits", "digits, pixel by pixel", CHANCE),
             ("permuted_digits", "permuted", CHANCE),
             ("copy_25", "copy, delays up to 25", COPY_CHANCE))  # fmt: skip
    figure = Figure(figsize=(9.0, 5.6), layout="constrained")
    panels = figure.subplots(2, 3)
    for panel, (name, title, chance) in zip(panels[0], parts, strict=True):
        networks = read(name)
        names = dict.fromkeys(n["architecture"] for n in networks)
        rate_panel(panel, networks, names, chance)
        panel.set_title(title, loc="right", fontsize=8)
        ticks(panel, sorted({n["learning_rate"] for n in networks}))
    found = {delay: read(f"copy_{delay}") for delay in (25, 100, 200)}
    long = {100: read("copy_long_100"), 200: read("copy_long_200")}
    labels = {"test_accuracy": "tokens that are right", "test_success": "sequences that are right"}
    for panel, (quantity, label) in zip(panels[1], labels.items(), strict=False):
        for name in dict.fromkeys(n["architecture"] for n in found[25]):
            at = {"architecture": name, "learning_rate": COPY_RATE}
            each = {d: [n[quantity][-1] for n in select(n, **at)] for d, n in found.items()}
            each = {d: over_seeds(values) for d, values in each.items() if len(values) >= 5}
            mean, error = np.array([*each.values()]).T
            draw(panel, [*each], mean, error, STYLE[name], label=name)
            longer = {d: [n[quantity][-1] for n in select(n, **at)] for d, n in long.items()}
            if longer[100]:
                mean, error = np.array([over_seeds(v) for v in longer.values()]).T
                draw(panel, [*longer], mean, error, STYLE[name], ls=":", mfc="white", ms=5)
        panel.set(xscale="log", xlabel="largest delay", ylabel=label, ylim=(0, 1))
        panel.set_title(r"copy, $\eta=0.003$", loc="right", fontsize=8)
        ticks(panel, [*found])
    panels[1, 0].axhline(COPY_CHANCE, color="0.6", lw=0.7, ls=":")
    panels[1, 2].axis("off")
    panels[1, 2].legend(*panels[1, 0].get_legend_handles_labels(), frameon=False, fontsize=8)
    letters(panels.flat[:5])
    figure.savefig(path, dpi=150)


def main(folder="docs/figures"):
    """Write the figures."""
    for name, figure in (
        ("training_rates", rates_figure),
        ("training_depths", depth_figure),
        ("training_fashion_mnist", fashion_figure),
        ("training_cause", cause_figure),
        ("training_recurrent", recurrent_figure),
    ):
        figure(Path(folder) / f"{name}.png")


if __name__ == "__main__":
    main()
