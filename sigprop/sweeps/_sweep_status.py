"""How much of a sweep has been computed, read from its store without loading JAX programs."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr

SCHEMA = 1
"""Version of the store, and of the meaning of its numbers."""


class SweepStatus(NamedTuple):
    """How much of a sweep has been computed."""

    networks: int
    """Total number of networks."""
    done: int
    points: int
    finished_points: int
    replicas: int
    """Networks of each point."""
    axes: dict[str, int]
    """The number of values on each axis."""
    environment: dict[str, Any]
    """What the numbers depend on besides the sweep: versions, device, configuration."""


def sweep_status(path: str | PathLike[str]) -> SweepStatus:
    """Count the computed networks of a sweep, from its markers; nothing is locked or changed.

    Parameters
    ----------
    path
        The store.

    Raises
    ------
    ValueError
        If there is no sweep store at `path`.
    """
    with reading(Path(path).resolve(), write=False) as (group, attributes):
        marker: Any = group["marker"]
        done = np.asarray(marker[...])[..., 0].astype(np.int64).sum(axis=1)
        replicas = int(json.loads(attributes["sweep"])["replicas"])
        return SweepStatus(
            len(done) * replicas,
            int(done.sum()),
            len(done),
            int((done == replicas).sum()),
            replicas,
            dict(attributes["axes"]),
            json.loads(attributes["environment"]),
        )


@contextmanager
def reading(path: Path, *, write: bool) -> Iterator[tuple[zarr.Group, dict[str, Any]]]:
    """Open the group of a store and its attributes, with one-line errors.

    Raises
    ------
    ValueError
        If there is no sweep store, it has another schema, or it cannot be read.
    """
    try:
        if not (path / "zarr.json").is_file():
            raise ValueError(f"`path`: must be the store of a sweep; got none at {path}")
        group = zarr.open_group(path, mode="r+" if write else "r")
        attributes: dict[str, Any] = dict(group.attrs)
        schema = attributes.get("sigprop_sweep")
        if schema is None:
            raise ValueError(f"`path`: must be the store of a sweep; got another at {path}")
        if schema != SCHEMA:
            raise ValueError(
                f"`path`: must be a sweep's store of version {SCHEMA}; got version {schema}, {path}"
            )
        yield group, attributes
    except (ValueError, KeyError, TypeError, OSError) as error:
        if str(error).startswith("`path`"):
            raise
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"`path`: must be the readable store of a sweep; got {reason}, {path}"
        ) from error
