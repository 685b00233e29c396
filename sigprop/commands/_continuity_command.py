"""The command `continuity`: read weights, align their layers, show the result."""

import fnmatch
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.commands import _output as out
from sigprop.commands._jax import set_up
from sigprop.commands._output import BadInput, checked
from sigprop.commands._probe_command import find_name, load_names

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from sigprop.alignment import Continuity

MOST_MAPS = 8
"""Largest number of sequences in the figure."""
LEVEL = 0.99
_SIDES = ("right", "left", "right_frame", "left_frame")


def show_continuity(
    target: str, names: str, rank: int, tolerance: float, output: Path | None, json: bool
) -> int:
    """Align the layers of a checkpoint or a model."""
    set_up()
    from sigprop.alignment import continuity, layer_remarks, weight_sequences
    from sigprop.storage import provenance

    if rank < 1:
        raise BadInput(f"--rank: must be at least 1; got {rank}")
    if not 0 < tolerance < 1:
        raise BadInput(f"--tolerance: must be between 0 and 1; got {tolerance}")
    tree = load_weights(target)
    with checked(model="TARGET"):
        sequences = weight_sequences(tree)
    chosen = {n: w for n, w in sequences.items() if fnmatch.fnmatchcase(n.replace("*", "#"), names)}
    if not chosen:
        known = ", ".join(sequences)
        raise BadInput(f"--names: must fit one of {known}; got {names}")
    folder = out.output_folder(output, "continuity", ["continuity"], ["continuity"])
    found = {}
    for name, weights in chosen.items():
        smaller = min(min(w.shape) for w in weights)
        with checked(weights="TARGET"):
            found[name] = continuity(weights, min(rank, smaller), tolerance=tolerance)
    rows = [_row(name, each) for name, each in found.items()]
    remarks = [f"{n}: {line}" for n, each in found.items() for line in layer_remarks(each)]
    asked = {"target": target, "names": names, "rank": rank, "tolerance": tolerance}
    dataset, origin = continuity_dataset(found), provenance(command="continuity", **asked)
    files = out.store(dataset, lambda: continuity_figure(found), folder, "continuity", origin)
    whole = {row["name"]: row | {"maps": _maps(found[row["name"]])} for row in rows}
    answer = {"sequences": whole, "remarks": remarks}
    out.report(answer, files, asked, lambda: [_table(rows), *remarks], folder, json)
    return 0


def load_weights(target: str) -> Any:
    """A tree of arrays from .npz, .npy, an Orbax checkpoint, or FILE.py:NAME."""
    path = Path(target)
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                return dict(stored)
        if path.suffix == ".npy":
            return {"weights": np.load(path, allow_pickle=False)}
        if path.is_dir():
            return _checkpoint(path)
    except BadInput:
        raise
    except Exception as error:  # a user's file can fail in any way
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"TARGET: must be readable; got {target} ({reason})") from error
    if ".py:" not in target:
        raise BadInput(
            "TARGET: must be a .npz or .npy file, the folder of an Orbax checkpoint, or "
            f"FILE.py:NAME; got {target}"
        )
    file, names = load_names(target)
    return find_name(names, "TARGET", target.rpartition(":")[2], file)


def _checkpoint(path: Path) -> Any:
    try:
        from sigprop.experiments import read_checkpoint
    except ModuleNotFoundError as error:
        raise BadInput(
            f"TARGET: a checkpoint needs the extra packages of sigprop[train]; got none named "
            f"{error.name}"
        ) from error
    return read_checkpoint(path)


def chance(found: "Continuity", side: str) -> dict[str, float | None]:
    """The mean by chance for one pair, and the quantile of the mean over all pairs."""
    from sigprop.alignment import cosine_null, overlap_null

    axis = 1 if side.startswith("right") else 0
    sizes = {shape[axis] for shape in found.shapes}
    pairs = len(found.shapes) - 1
    if len(sizes) > 1 or pairs < 1:
        return {"mean": None, "deviation": None, "quantile": None}
    size = sizes.pop()
    law = overlap_null(size, found.rank) if side.endswith("frame") else cosine_null(size)
    # Neighbours along a chain of independent directions are independent.
    high = law.mean + NormalDist().inv_cdf(LEVEL) * law.deviation / np.sqrt(pairs)
    quantile = law.quantile if pairs == 1 else high
    return {"mean": law.mean, "deviation": law.deviation, "quantile": min(quantile, 1.0)}


def _row(name: str, found: "Continuity") -> dict[str, Any]:
    import theory
    from sigprop.alignment import mean_alignment

    row: dict[str, Any] = {"name": name, "layers": len(found.shapes), "rank": found.rank}
    row["shapes"] = [list(shape) for shape in dict.fromkeys(found.shapes)]
    for side in _SIDES:
        mean, count = mean_alignment(getattr(found, side))
        row[side] = {
            "value": out.number(mean.value),
            "error": out.number(mean.error),
            "status": theory.Status(int(mean.status)).name.lower(),
            "pairs": count,
            "chance": chance(found, side),
        }
    return row


def _maps(found: "Continuity") -> dict[str, Any]:
    plain = lambda x: [[out.number(v) for v in line] for line in np.asarray(x)]
    result: dict[str, Any] = {}
    for side in _SIDES:
        map_ = getattr(found, side)
        result[side] = {
            "value": plain(map_.value),
            "error": plain(map_.error),
            "status": [[int(v) for v in line] for line in np.asarray(map_.status)],
        }
    return result


def _table(rows: list[dict[str, Any]]):
    columns = ("weights", "layers", "shape", "v", "chance", "u", "chance", "pairs", "status")
    title = f"Alignment of neighbours, |cos| of leading vectors; chance: mean, {LEVEL:.0%} quantile"
    table = out.table(title, *columns)
    for row in rows:
        shape = " ".join("×".join(map(str, s)) for s in row["shapes"])
        texts = [row["name"], str(row["layers"]), shape]
        for side in ("right", "left"):
            one, law = row[side], row[side]["chance"]
            value = "" if one["value"] is None else f"{one['value']:.3f}"
            band = "" if law["mean"] is None else f"{law['mean']:.3f}, {law['quantile']:.3f}"
            texts += [value, band]
        texts += [str(row["right"]["pairs"]), row["right"]["status"]]
        table.add_row(*texts)
    return table


def continuity_dataset(found: "dict[str, Continuity]") -> "xr.Dataset":
    """All maps, with values and statuses, by name of the weights."""
    import xarray as xr

    data: dict[str, Any] = {}
    for index, each in enumerate(found.values()):
        layer, other = f"layer_{index}", f"other_layer_{index}"
        for side in _SIDES:
            map_ = getattr(each, side)
            for name in ("value", "error", "status"):
                suffix = "" if name == "value" else f"_{name}"
                data[f"{side}_{index}{suffix}"] = ((layer, other), np.asarray(getattr(map_, name)))
        data[f"singular_value_{index}"] = ((layer, f"index_{index}"), np.asarray(each.values))
        data[f"status_{index}"] = (layer, np.asarray(each.status))
    return xr.Dataset(data, {"sequence": list(found)})


def continuity_figure(found: "dict[str, Continuity]") -> "Figure":
    """Layer×layer maps of the leading vectors, and neighbours compared with chance."""
    from matplotlib.figure import Figure

    from sigprop.figures import BLUE, VERMILLION, WIDTH, styled, write_caption

    shown = dict(list(found.items())[:MOST_MAPS])
    with styled():
        count = len(shown)
        figure = Figure(figsize=(WIDTH, 1.2 + 1.75 * count), layout="constrained")
        panels = figure.subplots(count, 3, squeeze=False)
        image = None
        for line, (name, each) in zip(panels, shown.items(), strict=True):
            for panel, side in zip(line, ("right", "left"), strict=False):
                values = np.ma.masked_invalid(np.asarray(getattr(each, side).value))
                image = panel.imshow(values, vmin=0, vmax=1, cmap="viridis", origin="lower")
                letter = (
                    r"$|\langle v_1,v_1'\rangle|$"
                    if side == "right"
                    else (r"$|\langle u_1,u_1'\rangle|$")
                )
                panel.set(xlabel="layer $l$", ylabel="layer $m$", title=f"{letter}, {name}")
                panel.set_facecolor("0.8")
            last = line[2]
            for side, colour, marker, letter in (
                ("right", BLUE, "o", "$v_1$"),
                ("left", VERMILLION, "s", "$u_1$"),
            ):
                near = np.diagonal(np.asarray(getattr(each, side).value), 1)
                style = {"color": colour, "marker": marker, "ms": 3, "lw": 0.8}
                last.plot(np.arange(len(near)) + 0.5, near, label=letter, **style)
                law = chance(each, side)
                if law["mean"] is not None:
                    last.axhline(law["mean"], color=colour, lw=0.7, ls=":")
            last.set(xlabel="between layers", ylabel="neighbours", ylim=(0, 1.02))
            last.legend(frameon=False)
        if image is not None:
            figure.colorbar(image, ax=panels[:, :2], shrink=0.6, label="alignment")
        write_caption(
            figure,
            "Alignment of the leading right (inputs) and left (outputs) singular vectors of any "
            "two layers, and of neighbours. Grey: no leading direction. Dotted: mean by chance.",
        )
    return figure
