"""Sweeps from files and from records, and the union of several."""

import dataclasses
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from sigprop.storage import build, network_text
from sigprop.sweeps._own_observables import read
from sigprop.sweeps._sweep import AXES, Sweep
from sigprop.sweeps._values import COUNTS, FLOATS
from theory.description import read_toml


def read_sweep_file(path: str | PathLike[str]) -> Sweep:
    """Read a sweep from a TOML file, whose names are the fields of `Sweep`.

    `description` is the name of a file, relative to the folder of this one, or a table.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    ValueError
        If the file cannot be read, or a field is unknown or out of range. The message names it.
    """
    content = read_toml(path)
    folder = Path(path).parent
    try:
        if "description" in content:
            content["description"] = network_text(content["description"], folder=folder)
        return build(Sweep, content)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def from_fields(values: Mapping[str, Any]) -> Sweep:
    """The sweep with these `Sweep.fields`."""
    observables = [o if isinstance(o, str) else read(o) for o in values["observables"]]
    return build(Sweep, {**values, "observables": observables})


def union(sweeps: Sequence[Sweep]) -> Sweep:
    """The smallest sweep that contains all of these.

    Raises
    ------
    ValueError
        If they differ in more than axes and replicas.
    """
    first, *rest = sweeps
    changes: dict[str, Any] = {"replicas": max(s.replicas for s in sweeps)}
    for name in AXES:
        together = list(dict.fromkeys(v for s in sweeps for v in s.values(name)))
        if name in FLOATS or name in COUNTS:
            together.sort()
        if any(getattr(s, name) != getattr(first, name) for s in rest):
            changes[name] = tuple(together)
    for field in dataclasses.fields(Sweep):
        if field.name in AXES or field.name == "replicas":
            continue
        for other in rest:
            one, two = getattr(first, field.name), getattr(other, field.name)
            if one != two:
                raise ValueError(
                    f"`{field.name}`: must be the same in all sweeps; got {one}, {two}"
                )
    return dataclasses.replace(first, **changes)
