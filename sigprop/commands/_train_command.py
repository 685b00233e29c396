"""The command `train`: train the missing part of a study, and show the results."""

import json as json_text
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from sigprop.commands import _output as out
from sigprop.commands._jax import set_up
from sigprop.commands._output import BadInput, checked
from sigprop.commands._stop import keeping
from sigprop.experiments import REASONS, Study, read_study, study_dataset, train
from sigprop.figures import styled, write_caption
from sigprop.storage import provenance, write_dataset

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The palette of Okabe and Ito 2008, which colour-blind readers can distinguish."""
MARKERS = "os^vDPXp*"


def train_study(
    path: Path, instead: dict[str, Any], output: Path | None, only_show: bool, json: bool
) -> int:
    """Train the study in a TOML file, with some of its fields overridden."""
    set_up()
    chosen = {name: value for name, value in instead.items() if value is not None}
    try:
        with checked(path="STUDY"):
            study = read_study(path, **chosen)
    except BadInput as error:
        # What an option says instead of the file is wrong in the option.
        field = re.match(rf"{re.escape(str(path))}: `(\w+)`", str(error))
        if field is None or field[1] not in chosen:
            raise
        raise BadInput(f"--{field[1]}{str(error)[field.end() :]}") from error
    if output is None:
        output = Path("runs") / path.stem  # the same for every run, so that a study resumes
    folder = out.output_folder(output, "train", ["study"], ["study"])
    with checked(folder="output", path="output", source="data"):
        if only_show:
            found = study_dataset(study, folder)
        else:
            with (
                keeping(lambda: _kept(study, folder)),
                out.progress_bars(json) as progress,
                out.fields_of(path, Study, *chosen),
            ):
                found = train(study, folder, progress=progress)
        store = folder / "study.zarr"
        write_dataset(found, store, provenance=provenance(study=study))
    figure = study_figure(study, found)
    files = [str(store), *out.save_figure(figure, folder, "study")]
    rows = best_rates(found)
    if json:
        whole = json_text.loads(json_text.dumps(asdict(study)))
        out.print_json({"study": whole, "best": rows, "files": files})
    else:
        out.show(_table(rows), *failures(study, found), f"written to {folder}")
    return 0


def _kept(study: Study, folder: Path) -> str:
    """How far training has come, for a run that is ended."""
    members = study.members
    there = sum((folder / "networks" / f"{member.key}.zarr").exists() for member in members)
    return f"{there} of {len(members)} networks are in {folder}, with checkpoints of others"


def over_seeds(accuracy: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Mean and standard error over the available seeds."""
    count = accuracy.notnull().sum("seed")
    error = accuracy.std("seed", ddof=1) / np.sqrt(count)
    return accuracy.mean("seed"), error.where(count > 1)


def best_rates(found: xr.Dataset) -> list[dict[str, Any]]:
    """For every architecture and gain, the best and the worst learning rate."""
    mean, error = over_seeds(found["test_accuracy"].isel(record=-1))
    rows = []
    for architecture in found["architecture"].values:
        for gain in found["gain"].values:
            here = {"architecture": architecture, "gain": gain}
            means, errors = mean.sel(here), error.sel(here)
            if not bool(means.notnull().any()):
                continue
            row: dict[str, Any] = {"architecture": str(architecture), "gain": float(gain)}
            row["networks"] = int(found["ready"].sel(here).sum())
            row["failed"] = int((found["failed"].sel(here).isel(record=-1) > 0).sum())
            values = np.asarray(means)
            for name, place in (("best", np.nanargmax(values)), ("worst", np.nanargmin(values))):
                row[name] = {
                    "learning_rate": float(means["learning_rate"][place]),
                    "accuracy": out.number(values[place]),
                    "standard_error": out.number(errors[place]),
                }
            rows.append(row)
    return rows


def failures(study: Study, found: xr.Dataset) -> list[str]:
    """One line for every network whose training stopped, with the reason."""
    failed = found["failed"].isel(record=-1)
    lines = []
    for member in study.members:
        here = {
            "architecture": member.architecture.name,
            "gain": member.gain,
            "learning_rate": member.learning_rate,
            "seed": member.seed,
        }
        reason = failed.sel(here).item()
        if np.isfinite(reason) and reason > 0:
            step = int(found["record_step"].sel(here).isel(record=-1))
            place = f"gain {member.gain:g}, rate {member.learning_rate:g}, seed {member.seed}"
            lines.append(
                f"stopped at step {step}: {member.architecture.name}, {place}: "
                f"{REASONS[int(reason)]}"
            )
    return lines


def _table(rows: list[dict[str, Any]]):
    columns = (
        "architecture",
        "gain",
        "networks",
        "best rate",
        "accuracy",
        "worst rate",
        "accuracy",
    )
    table = out.table("Test accuracy, mean ± standard error over seeds", *columns)
    for row in rows:
        parts = [row["architecture"], f"{row['gain']:g}", str(row["networks"])]
        for name in ("best", "worst"):
            one = row[name]
            accuracy = out.with_error(one["accuracy"], one["standard_error"], digits=3)
            parts += [f"{one['learning_rate']:g}", accuracy]
        table.add_row(*parts)
    return table


def study_figure(study: Study, found: xr.Dataset) -> Figure:
    """Accuracy against learning rate and gain, and the effect of the first steps."""
    accuracy = found["test_accuracy"].isel(record=-1)
    mean, error = over_seeds(accuracy)
    best = mean.max("learning_rate")
    with styled():
        figure = Figure(figsize=(7.0, 5.4), layout="constrained")
        rates, gains, learning, collapse = figure.subplots(2, 2).flat
        middle = study.gains[len(study.gains) // 2]
        for index, name in enumerate(found["architecture"].values):
            style: dict[str, Any] = {
                "color": COLOURS[index % len(COLOURS)],
                "marker": MARKERS[index % len(MARKERS)],
                "ms": 3.5,
                "lw": 0.9,
                "capsize": 1.5,
            }
            here = mean.sel(architecture=name)
            if not bool(here.notnull().any()):
                continue
            own = here.sel(gain=middle)
            spread = error.sel(architecture=name, gain=middle)
            rates.errorbar(study.learning_rates, own, spread, label=str(name), **style)
            place = here.fillna(-1).argmax("learning_rate")
            spread = error.sel(architecture=name).isel(learning_rate=place)
            gains.errorbar(study.gains, best.sel(architecture=name), spread, **style)
            rate = study.learning_rates[int(np.nanargmax(np.asarray(own)))]
            at = {"architecture": name, "gain": middle, "learning_rate": rate}
            _curve(learning, found, at, "test_loss", None, style)
            largest = {**at, "learning_rate": max(study.learning_rates)}
            _curve(collapse, found, largest, "similarity", -1, style)
        rates.set(xscale="log", xlabel=r"learning rate $\eta$", ylabel="test accuracy")
        gains.set(xlabel=r"gain $\sigma_w$", ylabel="test accuracy, best rate")
        learning.set(xscale="symlog", xlabel="step", ylabel="test loss, best rate")
        collapse.set(
            xscale="symlog",
            xlabel="step",
            ylabel=f"cosine of two inputs, $\\eta={max(study.learning_rates):g}$",
        )
        for panel in (rates, gains):
            panel.set_ylim(0, 1)
            if study.chance is not None:
                panel.axhline(study.chance, color="0.6", lw=0.7, ls=":")
        for panel in (learning, collapse):
            panel.set_xlim(left=0)
        rates.legend(frameon=False, fontsize=7)
        for letter, panel in zip("abcd", (rates, gains, learning, collapse), strict=True):
            panel.set_title(f"({letter})", loc="left")
        write_caption(
            figure,
            f"{Path(study.data).name}, depth {study.depth}, {study.features} features, "
            f"{study.epochs} epochs of {study.optimiser}, batch {study.batch}, "
            f"{len(study.seeds)} seeds: mean and standard error. (a), (c), (d) at gain "
            f"{middle:g}. (d) States after the last layer. "
            + ("" if study.chance is None else f"Dotted: chance, {study.chance:g}."),
        )
    return figure


def _curve(panel, found: xr.Dataset, at: dict, name: str, layer: int | None, style: dict) -> None:
    if name not in found:
        return  # the study does not measure it
    values = found[name].sel(at)
    values = values if layer is None else values.isel(layer=layer)
    mean, error = over_seeds(values)
    steps = found["record_step"].sel(at).max("seed")
    panel.errorbar(steps, mean, error, **style)
