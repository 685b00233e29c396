"""The window of gains in which only protected directions survive, from docs/data.

python docs/gallery/window.py
"""

import json
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure

import theory

DATA = Path(__file__).parent.parent / "data" / "finite_width_window.json"
STYLE = {"U(1)": ("#D55E00", "s"), "O(4)": ("#0072B2", "o"), "dense": ("#009E73", "^")}


def mean_error(values):
    """Mean, and standard error where there is more than one."""
    values = np.array(values, float)
    if len(values) == 0:
        return np.nan, np.nan
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return values.mean(), error


def main(path="docs/figures/finite_width_window.png"):
    """Exponents of unprotected directions, where they become positive, and ranks of the state."""
    jax.config.update("jax_enable_x64", True)
    data = json.loads(DATA.read_text())
    figure = Figure(figsize=(7.0, 2.8), layout="constrained")
    a, b, c = figure.subplots(1, 3)
    cases = {"dense": (1, "real"), "U(1)": (2, "complex"), "O(4)": (4, "real")}
    for group, (k, algebra) in cases.items():
        color, marker = STYLE[group]
        rows = [row for row in data["windows"] if row["group"] == group]
        style = {"color": color, "marker": marker, "ms": 3, "ls": "none", "elinewidth": 0.7}
        sizes = np.array([row["numbers"] for row in rows])
        edges = np.array([mean_error(row["edges"]) for row in rows])
        good = np.isfinite(edges[:, 0])
        b.errorbar(sizes[good], edges[good, 0] - 1, edges[good, 1], **style)
        phi = theory.radial("tanh") if k > 1 else theory.activation("tanh")
        gains = np.linspace(1.02, 3.4, 120)
        found = [
            theory.finite_width.generic_exponent(phi, g**2, components=k, algebra=algebra)
            for g in gains
        ]
        limit = np.array([e.limit.value for e in found])
        coefficient = np.array([e.coefficient.value for e in found])
        looks = ((64, "-", color), (256, "--", "white"))
        for numbers, dashes, face in looks if group == "O(4)" else looks[:1]:
            (row,) = [row for row in rows if row["numbers"] == numbers]
            values, errors = (np.array(row[name], float) for name in ("exponent", "standard_error"))
            label = f"{group}, $N={numbers}$"
            a.errorbar(row["gains"], values, errors, label=label, mfc=face, **style)
            shown = (gains > 1.06) & (gains < 2.2)
            line = (limit + coefficient * k / numbers)[shown]
            a.plot(gains[shown], line, color=color, lw=0.9, ls=dashes)
        # λ = 0 at this number of real numbers in a layer. For O(4) there is none above 81.
        at = -coefficient * k / limit
        shown = (at > 12) & (gains > (1.2 if group == "O(4)" else 1))
        b.plot(at[shown], gains[shown] - 1, color=color, lw=0.9)
    a.axhline(0, color="0.6", lw=0.7)
    a.set(
        xlim=(1, 2.2), ylim=(-0.03, 0.17), xlabel=r"gain $\sigma_w$", ylabel=r"exponent $\lambda$"
    )
    a.legend(frameon=False, fontsize=6.5, loc="upper left")
    b.set(
        xscale="log",
        yscale="log",
        xlim=(11, 1400),
        xlabel="real numbers in a layer $N$",
        ylabel=r"onset of chaos $\sigma_w-1$",
    )
    ticks = [16, 64, 256, 1024]
    b.set_xticks(ticks, [str(tick) for tick in ticks])
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


if __name__ == "__main__":
    main()
