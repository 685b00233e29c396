"""How much of a sweep has been computed, read from its store without loading JAX programs."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr

from sigprop.storage import place_of, source_of

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

    The numbers themselves are not read: networks whose files were damaged later are counted, until
    a run computes them again.

    Parameters
    ----------
    path
        The store.

    Raises
    ------
    ValueError
        If there is no sweep store at `path`.
    """
    with reading(place_of(path), write=False) as (group, attributes):
        replicas = int(json.loads(attributes["sweep"])["replicas"])
        counts = all_counts(group["marker"], replicas, attributes["chunk"][1])
        done = counts.sum(axis=1)
        return SweepStatus(
            len(done) * replicas,
            int(done.sum()),
            len(done),
            int((done == replicas).sum()),
            replicas,
            dict(attributes["axes"]),
            json.loads(attributes["environment"]),
        )


def attributes_hash(attributes: Mapping[str, Any]) -> str:
    """Hash what a store says of itself, but for the date of its creation."""
    lasting = {name: value for name, value in attributes.items() if name != "date"}
    text = json.dumps(lasting, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def read_markers(marker: Any, rows: slice, block: int) -> np.ndarray:
    """The markers [points, 2] of some points and one block of replicas; zeros if damaged."""
    try:
        return np.asarray(marker[rows, block])
    except Exception:  # the codecs raise errors of many types
        return np.zeros((rows.stop - rows.start, 2), np.uint64)


def possible_counts(markers: np.ndarray, most: int) -> np.ndarray:
    """How many networks markers say are there; 0 where they say what cannot be."""
    counts = markers[..., 0]
    return np.where(counts <= most, counts, 0).astype(np.int64)


def all_counts(marker: Any, replicas: int, per_block: int) -> np.ndarray:
    """How many networks all markers say are there: [points, blocks of replicas]."""
    points, blocks = marker.shape[:2]
    step = marker.chunks[0]
    found = np.zeros((points, blocks), np.int64)
    for block in range(blocks):
        most = min(per_block, replicas - block * per_block)
        for start in range(0, points, step):
            rows = slice(start, min(start + step, points))
            found[rows, block] = possible_counts(read_markers(marker, rows, block), most)
    return found


@contextmanager
def reading(path: Path, *, write: bool) -> Iterator[tuple[zarr.Group, dict[str, Any]]]:
    """Open the group of a store and its attributes, with one-line errors.

    Raises
    ------
    ValueError
        If there is no sweep store, it has another schema, or it cannot be read.
    """
    try:
        source = source_of(path)
        if not (source / "zarr.json").is_file():
            raise ValueError(f"`path`: must be the store of a sweep; got none at {path}")
        group = zarr.open_group(source, mode="r+" if write else "r")
        attributes: dict[str, Any] = dict(group.attrs)
        schema = attributes.get("sigprop_sweep")
        if schema is None:
            raise ValueError(f"`path`: must be the store of a sweep; got another at {path}")
        if schema != SCHEMA:
            raise ValueError(
                f"`path`: must be a sweep's store of version {SCHEMA}; got version {schema}, {path}"
            )
        written = attributes.pop("hash", None)
        if written is not None and written != attributes_hash(attributes):
            raise ValueError(
                f"`path`: must be the store of a sweep; got damaged attributes, {path}"
            )
        yield group, attributes
    except Exception as error:  # zarr and its codecs raise errors of many types
        if str(error).startswith("`path`"):
            raise
        reason = error.strerror if isinstance(error, OSError) else "damaged metadata in zarr.json"
        raise ValueError(
            f"`path`: must be the readable store of a sweep; got {reason}, {path}"
        ) from error
