"""Continuity of trained transformers, projection by projection, against chance."""

from typing import Any

import jax
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from sigprop.alignment import Null, cosine_null
from sigprop.commands import _output as out
from sigprop.commands._train_command import COLOURS, MARKERS, over_seeds
from sigprop.experiments import PROJECTIONS, Study, Transformer
from sigprop.figures import BLUE, VERMILLION, WIDTH, styled, write_caption

SIDES = {"right": ("$v_1$ (inputs)", BLUE), "left": ("$u_1$ (outputs)", VERMILLION)}
LABELS = ("Q", "K", "V", "O", "Gate", "Up", "Down")
WRITE = ("out", "down")
"""Projections whose outputs are in the residual stream; the others take their inputs from it."""


def nulls(study: Study, architecture: str) -> dict[tuple[str, str], Null]:
    """The alignment of one pair by chance, by projection and side."""
    (own,) = (a for a in study.architectures if a.name == architecture)
    model = Transformer(own.features or study.features, study.depth)
    parts = jax.eval_shape(lambda: model.projections(model.draw(jax.random.key(0))))
    sizes = {size for part in parts.values() for size in part.shape[1:]}
    laws = {size: cosine_null(size) for size in sizes}
    return {
        (name, side): laws[size]
        for name, part in parts.items()
        for side, size in zip(("left", "right"), part.shape[1:], strict=True)
    }


def projection_rows(study: Study, found: xr.Dataset, record: int = -1) -> list[dict[str, Any]]:
    """One row for every architecture, gain, learning rate and projection.

    It has means over pairs of layers and then over seeds, with standard errors, the largest of the
    means over records, and the mean by chance with its deviation.
    """
    rows = []
    axes = ("architecture", "gain", "learning_rate")
    stacked = found.stack(at=axes)
    chances = {str(name): nulls(study, str(name)) for name in found["architecture"].values}
    for i in range(stacked.sizes["at"]):
        own = stacked.isel(at=i)
        if int(own["ready"].sum()) == 0:
            continue
        here = {axis: own[axis].item() for axis in axes}
        accuracy, _ = over_seeds(own["test_accuracy"].isel(record=record))
        chance = chances[str(here["architecture"])]
        for name in PROJECTIONS:
            row: dict[str, Any] = {**here, "projection": name}
            row["networks"] = networks = int(own["ready"].sum())
            row["test_accuracy"] = out.number(accuracy)
            for side in SIDES:
                each = own[f"{name}_{side}"].mean("pair")
                mean, error = over_seeds(each.isel(record=record))
                course, _ = over_seeds(each)
                peak = int(course.fillna(-1).argmax("record"))
                row[side] = {
                    "mean": out.number(mean),
                    "standard_error": out.number(error),
                    "each": [out.number(v) for v in each.isel(record=record).values],
                    "chance": chance[name, side].mean,
                    "deviation": chance[name, side].deviation
                    / np.sqrt(networks * found.sizes["pair"]),
                    "largest": out.number(course[peak]),
                    "largest_at": out.number(own["record_step"].isel(record=peak).max("seed")),
                }
            rows.append(row)
    return rows


def projection_table(rows: list[dict[str, Any]]):
    columns = ("gain", "rate", "", "v", "chance", "peak, step", "u", "chance", "peak, step")
    title = "Means over neighbours, ± standard error over networks, and their peak over training"
    table = out.table(title, *columns)
    for row in rows:
        texts = [f"{row['gain']:g}", f"{row['learning_rate']:g}", row["projection"]]
        for side in SIDES:
            one = row[side]
            texts.append(out.with_error(one["mean"], one["standard_error"]))
            texts.append(f"{one['chance']:.2f}")
            peak = one["largest"]
            texts.append("" if peak is None else f"{peak:.2f}, {one['largest_at']:g}")
        table.add_row(*texts)
    return table


def projection_figure(study: Study, found: xr.Dataset, rows: list[dict[str, Any]]) -> Figure:
    """Draw the first architecture of `projection_rows`.

    Bars show every projection at the end, for every gain and rate; curves show the course of
    training in the space that the projection shares with the residual stream.
    """
    architecture = rows[0]["architecture"]
    rows = [row for row in rows if row["architecture"] == architecture]
    gains = sorted({row["gain"] for row in rows})
    rates = sorted({row["learning_rate"] for row in rows})
    middle = rates[len(rates) // 2]
    places = np.arange(len(PROJECTIONS))
    with styled():
        figure = Figure(figsize=(WIDTH, 0.8 + 2.0 * len(gains)), layout="constrained")
        grid = figure.subplots(len(gains), len(rates) + 1, squeeze=False, sharey=True)
        for line, gain in zip(grid, gains, strict=True):
            for panel, rate in zip(line, rates, strict=False):
                own = [r for r in rows if (r["gain"], r["learning_rate"]) == (gain, rate)]
                _bars(panel, own, places)
                panel.set_title(rf"$\eta={rate:g}$", loc="right", fontsize=7)
            course = line[-1]
            for i, (name, label) in enumerate(zip(PROJECTIONS, LABELS, strict=True)):
                side = "left" if name in WRITE else "right"
                here = {"architecture": architecture, "gain": gain, "learning_rate": middle}
                mean, error = over_seeds(found[f"{name}_{side}"].sel(here).mean("pair"))
                steps = found["record_step"].sel(here).max("seed")
                letter = f"$u$ of {label}" if side == "left" else f"$v$ of {label}"
                how = {"color": COLOURS[i], "marker": MARKERS[i], "ms": 2.5, "lw": 0.8}
                course.errorbar(steps, mean, error, elinewidth=0.6, label=letter, **how)
            course.set(xscale="symlog", xlim=(0, None), xlabel="step")
            course.set_title(rf"$\eta={middle:g}$", loc="right", fontsize=7)
            line[0].set_ylabel(rf"alignment, gain ${gain:g}$")
        grid[0, 0].set_ylim(0, 1)
        grid[0, 0].legend(frameon=False, fontsize=6, loc="upper right")
        handles, labels = grid[0, -1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=6)
        for letter, panel in zip("abcdefghijkl", grid.flat, strict=False):
            panel.set_title(f"({letter})", loc="left")
        networks = sorted({row["networks"] for row in rows})
        count = "–".join(map(str, networks if len(networks) < 3 else (networks[0], networks[-1])))
        write_caption(
            figure,
            f"{architecture}, {study.depth} layers of {study.features}, {study.data}, "
            f"{study.optimiser}, {count} networks each: means over neighbouring layers, standard "
            "errors over networks. Grey: chance, mean and 2 deviations of the mean.",
        )
    return figure


def _bars(panel, rows: list[dict[str, Any]], places: np.ndarray) -> None:
    for row, place in zip(rows, places, strict=False):
        for shift, (side, (label, colour)) in zip((-0.2, 0.2), SIDES.items(), strict=True):
            one, name = row[side], label if place == 0 else None
            if one["mean"] is None:
                continue
            how = {"width": 0.38, "color": colour, "ecolor": "0.2"}
            bars = {"elinewidth": 0.7, "capsize": 1.2}
            panel.bar(
                place + shift,
                one["mean"],
                yerr=one["standard_error"],
                error_kw=bars,
                label=name,
                **how,
            )
            low, high = (one["chance"] + sign * 2 * one["deviation"] for sign in (-1, 1))
            at = [place + shift - 0.19, place + shift + 0.19]
            panel.fill_between(at, low, high, color="0.6", alpha=0.7, lw=0, zorder=3)
    panel.set_xticks(places, LABELS, fontsize=6, rotation=60)
