"""Continuity of a trained study: alignments at the end, against chance, and over training."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from sigprop.alignment import cosine_null
from sigprop.commands import _output as out
from sigprop.commands._jax import set_up
from sigprop.commands._output import BadInput, checked
from sigprop.commands._projections_study import projection_figure, projection_rows, projection_table
from sigprop.commands._train_command import COLOURS, MARKERS, over_seeds
from sigprop.experiments import Study, read_study, study_dataset
from sigprop.figures import styled, write_caption

QUANTITIES = ("right", "left", "update_right", "update_left", "update_cosine", "gradient_cosine")
_SYMBOLS = {
    "right": r"$|\langle v_1,v_1'\rangle|$ of $W$",
    "left": r"$|\langle u_1,u_1'\rangle|$ of $W$",
    "update_right": r"$|\langle v_1,v_1'\rangle|$ of $\Delta W$",
    "update_left": r"$|\langle u_1,u_1'\rangle|$ of $\Delta W$",
}


def show_study(path: Path, output: Path | None, json: bool) -> int:
    """Show the continuity of a trained study that measures it."""
    set_up()
    with checked(path="TARGET"):
        study = read_study(path)
    by_projection = "projections" in study.measures
    if not by_projection and "continuity" not in study.measures:
        raise BadInput(
            f"TARGET: must be a study that measures continuity or projections; got {path}"
        )
    source = Path("runs") / path.stem if output is None else output
    with checked(folder="output"):
        found = study_dataset(study, source)
    folder = out.output_folder(source, "continuity", ["continuity"], [])
    if by_projection:
        rows = projection_rows(study, found)
        table, figure = projection_table(rows), projection_figure(study, found, rows)
    else:
        rows = study_rows(found)
        table, figure = _table(rows), continuity_curves(study, found)
    files = out.save_figure(figure, folder, "continuity")
    if json:
        out.print_json({"rows": rows, "files": files})
    else:
        out.show(table, f"written to {folder}")
    return 0


def study_rows(found: xr.Dataset, record: int = -1) -> list[dict[str, Any]]:
    """One row for every architecture, gain and learning rate.

    It has means over pairs of layers and then over seeds, with standard errors, and the values by
    chance.
    """
    rows = []
    names = [name for name in QUANTITIES if name in found]
    size = found.sizes.get("entry", 0)
    for architecture in found["architecture"].values:
        for gain in found["gain"].values:
            for rate in found["learning_rate"].values:
                here = {"architecture": architecture, "gain": gain, "learning_rate": rate}
                own = found.sel(here)
                if int(own["ready"].sum()) == 0:
                    continue
                row: dict[str, Any] = {
                    "architecture": str(architecture),
                    "gain": float(gain),
                    "learning_rate": float(rate),
                    "networks": int(own["ready"].sum()),
                }
                # Gradients vanish at the end, so use their coherence before training.
                for name in names:
                    at = 0 if name == "gradient_cosine" else record
                    each = own[name].isel(record=at).mean("pair")
                    mean, error = over_seeds(each)
                    row[name] = {
                        "mean": out.number(mean),
                        "standard_error": out.number(error),
                        "each": [out.number(v) for v in each.values],
                    }
                accuracy, _ = over_seeds(own["test_accuracy"].isel(record=record))
                row["test_accuracy"] = out.number(accuracy)
                entries = own["right_vector"].isel(record=0) if size else None
                if entries is not None:
                    width = int(entries.notnull().any(["seed", "layer"]).sum())
                    row["chance"] = cosine_null(width).mean if width else None
                rows.append(row)
    return rows


def _table(rows: list[dict[str, Any]]):
    names = [name for name in QUANTITIES if name in rows[0]]
    columns = ("architecture", "gain", "rate", "networks", *names, "chance")
    table = out.table("Means over neighbours, ± standard error over networks", *columns)
    for row in rows:
        texts = [row["architecture"], f"{row['gain']:g}", f"{row['learning_rate']:g}"]
        texts.append(str(row["networks"]))
        for name in names:
            texts.append(out.with_error(row[name]["mean"], row[name]["standard_error"]))
        chance = row.get("chance")
        table.add_row(*texts, "" if chance is None else f"{chance:.3f}")
    return table


def continuity_curves(study: Study, found: xr.Dataset) -> Figure:
    """Alignments over training, for every gain: of W and of its change during training."""
    gains = list(found["gain"].values)
    names = [name for name in _SYMBOLS if name in found]
    with styled():
        figure = Figure(figsize=(7.0, 0.9 + 1.7 * len(gains)), layout="constrained")
        panels = figure.subplots(len(gains), len(names), squeeze=False, sharex=True, sharey=True)
        for line, gain in zip(panels, gains, strict=True):
            for panel, name in zip(line, names, strict=True):
                for index, architecture in enumerate(found["architecture"].values):
                    here = {
                        "architecture": architecture,
                        "gain": gain,
                        "learning_rate": found["learning_rate"].values[0],
                    }
                    values = found[name].sel(here).mean("pair")
                    mean, error = over_seeds(values)
                    steps = found["record_step"].sel(here).max("seed")
                    panel.errorbar(
                        steps,
                        mean,
                        error,
                        color=COLOURS[index % len(COLOURS)],
                        marker=MARKERS[index % len(MARKERS)],
                        ls="-" if index < len(COLOURS) else "--",
                        ms=2.5,
                        lw=0.8,
                        elinewidth=0.6,
                        label=str(architecture),
                    )
                _band(panel, found, name)
                panel.set(xscale="symlog", ylim=(0, 1), xlim=(0, None))
            line[0].set_ylabel(f"alignment, $\\sigma_w={gain:g}$")
        for panel, name in zip(panels[0], names, strict=True):
            panel.set_title(_SYMBOLS[name], loc="left")
        for panel in panels[-1]:
            panel.set_xlabel("step")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=6)
        write_caption(
            figure,
            f"{Path(study.data).name}, depth {study.depth}, {study.features} features, "
            f"{study.optimiser}, {len(study.seeds)} networks each: means over neighbouring layers, "
            "and standard errors over networks. Grey: chance, mean and 2 deviations of the mean.",
        )
    return figure


def _band(panel, found: xr.Dataset, name: str) -> None:
    """Draw the range for independent random directions, if all networks have one width."""
    vectors = found["right_vector" if name.endswith("right") else "left_vector"]
    widths = (
        vectors.notnull().any(["seed", "layer", "record", "gain", "learning_rate"]).sum("entry")
    )
    width = int(widths.max())
    if width < 2:
        return
    law = cosine_null(width)
    spread = 2 * law.deviation / np.sqrt(found.sizes["pair"] * found.sizes["seed"])
    panel.axhspan(law.mean - spread, law.mean + spread, color="0.85", lw=0)
