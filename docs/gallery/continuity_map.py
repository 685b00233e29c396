"""Where layers align: over scales and learning rates, depths and widths, from docs/data.

python docs/gallery/continuity_map.py
"""

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sigprop.alignment._alignment_null import cosine_null
from sigprop.figures._style import styled, write_caption

DATA = Path(__file__).parent.parent / "data" / "continuity.json"
STYLE = {
    "linear": ("#000000", "o"),
    "tanh": ("#0072B2", "s"),
    "relu": ("#D55E00", "^"),
    "radial tanh": ("#009E73", "v"),
}
RATES = {3e-4: ":", 1e-3: "-", 3e-3: "--"}
SCALES = {0.05: "full", 0.577: "none"}
WIDTHS, DEPTHS = (32, 64, 128), (4, 8, 24)


def points(rows, quantity, axis, **where):
    """Values of an axis, means and standard errors."""
    own = [r for r in rows if all(r[key] == value for key, value in where.items())]
    own.sort(key=lambda row: row[axis])
    numbers = [(r[axis], r[quantity]["mean"], r[quantity]["standard_error"]) for r in own]
    return np.array(numbers, float).T


def scale_panel(panel, rows, quantity):
    """Over the scale of the weights, a line for every learning rate."""
    for name, (colour, marker) in STYLE.items():
        for rate, line in RATES.items():
            x, mean, error = points(rows, quantity, "gain", architecture=name, learning_rate=rate)
            how = {"color": colour, "marker": marker, "ls": line, "ms": 3, "lw": 0.8}
            label = name if rate == 1e-3 else None
            panel.errorbar(x, mean, error, elinewidth=0.6, label=label, **how)
    chance = cosine_null(64)
    panel.axhline(chance.mean, color="0.6", lw=0.7, ls="-.")
    panel.set(xscale="log", ylim=(0, 1), xlabel=r"scale $\sigma_w$ before training")


def size_panel(panel, content, over):
    """Over depth at one width, or over width at one depth; both scales."""
    rows = []
    for depth in DEPTHS:
        for row in content[f"sizes_{depth}"]["rows"]:
            name, _, width = row["architecture"].rpartition(", ")
            rows.append(row | {"architecture": name, "width": int(width), "depth": depth})
    fixed = {"width": 64} if over == "depth" else {"depth": 8}
    for name, (colour, marker) in STYLE.items():
        for gain, fill in SCALES.items():
            x, mean, error = points(rows, "right", over, architecture=name, gain=gain, **fixed)
            how = {"color": colour, "marker": marker, "fillstyle": fill, "ms": 3.5, "lw": 0.8}
            panel.errorbar(x, mean, error, elinewidth=0.6, **how)
    ticks = DEPTHS if over == "depth" else WIDTHS
    chance = [cosine_null(64 if over == "depth" else width).mean for width in ticks]
    panel.plot(ticks, chance, color="0.6", lw=0.7, ls="-.")
    panel.set(xscale="log", ylim=(0, 1), xlabel="depth $L$" if over == "depth" else "width $N$")
    panel.set_xticks(ticks, [str(t) for t in ticks])
    panel.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)


def main(output="docs/figures/continuity_map.png"):
    """Draw the four panels."""
    content = json.loads(DATA.read_text())
    rows = content["map"]["rows"]
    with styled():
        figure = Figure(figsize=(7.0, 5.2), layout="constrained")
        panels = figure.subplots(2, 2, sharey=True)
        scale_panel(panels[0, 0], rows, "right")
        scale_panel(panels[0, 1], rows, "update_right")
        size_panel(panels[1, 0], content, "depth")
        size_panel(panels[1, 1], content, "width")
        of = (r"$|\langle v_1,v_1'\rangle|$ of $W$", r"$|\langle v_1,v_1'\rangle|$ of $\Delta W$")
        for panel, text in zip(panels.flat, (of[0], of[1], of[0], of[0]), strict=True):
            panel.set_ylabel(text)
        panels[0, 1].legend(frameon=False, loc="lower left")
        for letter, panel in zip("abcd", panels.flat, strict=True):
            panel.set_title(f"({letter})", loc="left")
        write_caption(
            figure,
            "Residual layers on digits, Adam, 1650 steps: means over neighbours, standard errors "
            "over networks. (a), (b) 8 layers of 64, five networks; dotted, solid, dashed: "
            r"$\eta=3\cdot10^{-4},10^{-3},3\cdot10^{-3}$. (c) $N=64$, (d) $L=8$, three networks, "
            r"$\eta=10^{-3}$; full: $\sigma_w=0.05$, open: 0.577. Dash-dotted: chance.",
        )
        figure.savefig(output, dpi=200)


if __name__ == "__main__":
    main()
