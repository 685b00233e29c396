"""Stored results of trained networks and of a study."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Int

from sigprop.experiments._measures import Measured
from sigprop.experiments._study import Member, Study
from sigprop.storage import read_dataset
from theory.numerics import as_path, check_kind

REASONS = {0: "", 1: "the loss was not finite", 2: "a gradient was not finite"}


class Record(eqx.Module):
    """Measurements of a network at one step."""

    step: Int[Array, ""]
    failed: Int[Array, ""]
    batch_loss: Float[Array, ""]
    test_loss: Float[Array, ""]
    test_accuracy: Float[Array, ""]
    """Number of right answers."""
    test_success: Float[Array, ""]
    """Number of inputs all of whose answers are right."""
    measured: dict[str, Measured]


def member_store(folder: Path, member: Member) -> Path:
    return folder / "networks" / f"{member.key}.zarr"


def finished(study: Study, folder: Path, environment: Mapping[str, Any]) -> set[str]:
    """The keys of the networks whose results are there, and as they were written.

    Raises
    ------
    ValueError
        If one of them has another environment.
    """
    keys = set()
    for member in study.members:
        found = _read_member(folder, member)
        if found is None:
            continue
        before = json.loads(found.attrs.get("environment", "{}"))
        for name, value in environment.items():
            if before.get(name) != value:
                then = before.get(name, "that nobody recorded")
                must = "must be free or contain networks of the same versions, device and data"
                raise ValueError(
                    f"`folder`: {must}; got some of {name} {then} (now {value}), {folder}"
                )
        keys.add(member.key)
    return keys


def _read_member(folder: Path, member: Member) -> xr.Dataset | None:
    try:
        return read_dataset(member_store(folder, member))
    except ValueError:
        return None


def member_dataset(records: Record, parameters: int) -> xr.Dataset:
    measured = {
        name: (("record", *one.axes), np.asarray(one.values))
        for name, one in records.measured.items()
    }
    sizes = {
        axis: size
        for axes, values in measured.values()
        for axis, size in zip(axes[1:], values.shape[1:], strict=True)
    }
    return xr.Dataset(
        {
            "failed": ("record", np.asarray(records.failed)),
            "batch_loss": ("record", np.asarray(records.batch_loss)),
            "test_loss": ("record", np.asarray(records.test_loss)),
            "test_accuracy": ("record", np.asarray(records.test_accuracy)),
            "test_success": ("record", np.asarray(records.test_success)),
            "parameters": ((), parameters),
            **measured,
        },
        {
            "step": ("record", np.asarray(records.step)),
            **{axis: np.arange(size) for axis, size in sizes.items()},
        },
    )


def study_dataset(study: Study, folder: str | Path) -> xr.Dataset:
    """Collect the results of a study, with axes architecture, gain, learning_rate, seed and record.

    Missing networks are NaN, with `ready` 0. Axes of measurements have the size of the largest;
    values are NaN where a network has fewer.

    Parameters
    ----------
    study
        The study.
    folder
        The folder in which it was trained.
    """
    check_kind("study", study, Study, "a Study")
    folder = as_path("folder", folder).resolve()
    axes = {
        "architecture": [a.name for a in study.architectures],
        "gain": list(study.gains),
        "learning_rate": list(study.learning_rates),
        "seed": list(study.seeds),
    }
    pieces, sizes = [], {}
    for member in study.members:
        place = (member.architecture.name, member.gain, member.learning_rate, member.seed)
        here = {name: [value] for name, value in zip(axes, place, strict=True)}
        found = _read_member(folder, member)
        if found is None:
            continue
        own = found.drop_vars("step").assign(ready=((), 1), record_step=found["step"].variable)
        for axis, size in own.sizes.items():
            sizes[axis] = max(size, sizes.get(axis, 0))
        pieces.append(own.drop_attrs().expand_dims(here))
    if not pieces:
        raise ValueError(f"`folder`: must contain networks of this study; got none in {folder}")
    del sizes["record"]
    whole = {axis: np.arange(size) for axis, size in sizes.items()}
    joined = xr.combine_by_coords(
        [piece.reindex(whole) for piece in pieces],
        join="outer",
        combine_attrs="drop",
        coords="minimal",
        compat="no_conflicts",
    )
    assert isinstance(joined, xr.Dataset)
    joined = joined.reindex(axes)
    return joined.assign(ready=joined["ready"].fillna(0).astype(int))
