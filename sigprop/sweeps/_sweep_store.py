"""The Zarr store of a sweep: chunks with markers, one writer at a time, import by address.

A store contains, for every observable, an array [point, replica, layer, input or pair]. A *cell*
is one point and one block of replicas; a chunk of the arrays is some cells of one block. After
its data the markers of its cells are written: how many of its networks are complete, and a hash
of their numbers. Files are replaced as a whole, and a cell counts only if its hash is right.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from sigprop.storage import (
    is_empty_folder,
    move_into_place,
    partial_name,
    provenance,
)
from sigprop.sweeps._environment import environment
from sigprop.sweeps._own_observables import Absent
from sigprop.sweeps._ratios import PARTS, of_networks
from sigprop.sweeps._sweep import AXES, Sweep
from sigprop.sweeps._sweep_files import from_fields
from sigprop.sweeps._sweep_status import (
    SCHEMA,
    all_counts,
    attributes_hash,
    possible_counts,
    read_markers,
    reading,
)
from theory import Observable

Arrays = dict[str, np.ndarray]


class SweepStore:
    """An existing store, open for reading or writing."""

    def __init__(self, path: Path, group: zarr.Group, sweep: Sweep, attributes: dict[str, Any]):
        self.path, self.group, self.sweep, self.attributes = path, group, sweep, attributes
        self.environment: dict[str, Any] = json.loads(attributes["environment"])
        self.points_per_chunk, self.replicas_per_chunk = attributes["chunk"]
        self.names = [stored.name for stored in sweep.stored]
        self.arrays = {name: _array(group, name) for name in self.names}
        self.marker = _array(group, "marker")
        size = (sweep.points, sweep.replicas)
        shapes = {name: array.shape[:2] for name, array in self.arrays.items()}
        shapes["marker"] = (self.marker.shape[0], sweep.replicas)
        for name, shape in shapes.items():
            if shape != size or self.marker.shape[1] != self._across:
                raise ValueError(
                    f"`path`: must be the store of a sweep; got another shape of {path / name}"
                )

    @property
    def chunks(self) -> int:
        """The number of chunks."""
        return self._down * self._across

    @property
    def _down(self) -> int:
        return -(-self.sweep.points // self.points_per_chunk)

    @property
    def _across(self) -> int:
        return -(-self.sweep.replicas // self.replicas_per_chunk)

    def region(self, chunk: int) -> tuple[slice, slice]:
        """The points and replicas of a chunk; chunks of one point follow each other."""
        down, across = divmod(chunk, self._across)
        start, first = down * self.points_per_chunk, across * self.replicas_per_chunk
        return (
            slice(start, min(start + self.points_per_chunk, self.sweep.points)),
            slice(first, min(first + self.replicas_per_chunk, self.sweep.replicas)),
        )

    def read(self, chunk: int) -> tuple[Arrays, np.ndarray]:
        """The data of a chunk, and how many of its networks are complete at every point.

        A cell whose data cannot be read, or do not match the hash of its marker, has none.
        """
        rows, replicas = self.region(chunk)
        markers = read_markers(self.marker, rows, chunk % self._across)
        counts = possible_counts(markers, replicas.stop - replicas.start)
        arrays = self.empty(chunk)
        try:
            for name in self.names:
                arrays[name] = np.array(self.arrays[name][rows, replicas])
        except Exception:  # a file that is damaged; the codecs raise errors of many types
            counts[:] = 0
        for row in map(int, np.flatnonzero(counts)):
            if _digest(arrays, row, int(counts[row])) != markers[row, 1]:
                counts[row] = 0
        for row, count in enumerate(counts):
            for values in arrays.values():
                values[row, count:] = np.nan
        return arrays, counts

    def write(self, chunk: int, arrays: Arrays, counts: np.ndarray) -> None:
        """Write the data of a chunk, then the markers."""
        rows, replicas = self.region(chunk)
        for name in self.names:
            arrays[name][np.isnan(arrays[name])] = np.nan  # one bit pattern for all NaN
            self._put(self.arrays[name], (rows, replicas), arrays[name])
        digests = [_digest(arrays, row, int(count)) for row, count in enumerate(counts)]
        marker = np.stack([counts.astype(np.uint64), np.array(digests, np.uint64)], axis=-1)
        self._put(self.marker, (rows, chunk % self._across), marker)

    def _put(self, array: Any, where: Any, values: np.ndarray) -> None:
        """Write a file; a folder in its place is damage, and makes room."""
        try:
            array[where] = values
        except IsADirectoryError as error:
            place = Path(error.filename2 or error.filename)
            if not place.resolve().is_relative_to(self.path.resolve()):
                raise
            shutil.rmtree(place)
            array[where] = values

    def counts(self) -> np.ndarray:
        """The number of complete networks according to the markers: [points, replica blocks]."""
        return all_counts(self.marker, self.sweep.replicas, self.replicas_per_chunk)

    def networks(self, chunk: int) -> int:
        """The number of networks that a chunk has when complete."""
        rows, replicas = self.region(chunk)
        return (rows.stop - rows.start) * (replicas.stop - replicas.start)

    def counted(self, chunk: int, counts: np.ndarray) -> int:
        """The number of networks of a chunk among the `counts` of all."""
        rows, _ = self.region(chunk)
        return int(counts[rows, chunk % self._across].sum())

    def stored_addresses(self) -> np.ndarray:
        """The addresses of the points, as computed when the store was created."""
        try:
            return np.asarray(_array(self.group, "address")[...])
        except Exception as error:  # the codecs raise errors of many types
            where = self.path / "address"
            raise ValueError(
                f"`path`: must be the store of a sweep; got a damaged file in {where}"
            ) from error

    def empty(self, chunk: int) -> Arrays:
        """Arrays of the size of a chunk without any data."""
        rows, replicas = self.region(chunk)
        lead = (rows.stop - rows.start, replicas.stop - replicas.start)
        return {
            name: np.full((*lead, *array.shape[2:]), np.nan, array.dtype)
            for name, array in self.arrays.items()
        }


def _digest(arrays: Arrays, row: int, count: int) -> int:
    """64 bits of the numbers of the first `count` networks of a cell; 0 for none."""
    if count == 0:
        return 0
    found = hashlib.blake2b(count.to_bytes(8, "little"), digest_size=8)
    for name in sorted(arrays):
        found.update(np.ascontiguousarray(arrays[name][row, :count]).tobytes())
    return int.from_bytes(found.digest(), "little")


def _array(group: zarr.Group, name: str) -> Any:
    try:
        return group[name]
    except Exception as error:  # damaged metadata; zarr raises errors of many types
        where = f"{group.store_path}/{name}/zarr.json".removeprefix("file://")
        raise ValueError(
            f"`path`: must be the store of a sweep; got a damaged file {where}"
        ) from error


def create_store(
    sweep: Sweep,
    path: Path,
    *,
    chunk: tuple[int, int],
    fill: Callable[[SweepStore], None] | None = None,
    where: dict[str, Any] | None = None,
) -> SweepStore:
    """Create a store without data and move it to the path; `fill` may add data before that.

    `where` is the environment of the data, by default that of this process.
    """
    if path.exists() and not (path / "zarr.json").is_file() and not is_empty_folder(path):
        raise ValueError(f"`path`: must be free or the store of a sweep; got {path}")
    where = environment(sweep) if where is None else where
    addresses = sweep.addresses(where)
    attributes = {
        **provenance(seed=sweep.seed, sweep=sweep.fields()),
        "backend": where["platform"],
        "device": where["device"],
        "sigprop_sweep": SCHEMA,
        "sweep": json.dumps(sweep.fields(), sort_keys=True),
        "environment": json.dumps(where, sort_keys=True),
        "axes": {name: len(values) for name, values in sweep.axes.items()},
        "chunk": list(chunk),
    }
    attributes["hash"] = attributes_hash(attributes)
    partial = partial_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        group = zarr.open_group(partial, mode="w-", zarr_format=3)
        group.attrs.update(attributes)
        _make_arrays(group, sweep, chunk, addresses)
        if fill is not None:
            fill(open_store(partial))
        move_into_place(path, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_store(path)


def _make_arrays(group: Any, sweep: Sweep, chunk: tuple[int, int], addresses: np.ndarray) -> None:
    for stored in sweep.stored:
        tail = (len(sweep.kept_layers), sweep.cells(stored))
        group.create_array(
            stored.name,
            shape=(sweep.points, sweep.replicas, *tail),
            chunks=(*chunk, *tail),
            dtype=sweep.dtype,
            fill_value=np.nan,
            dimension_names=("point", "replica", "layer", stored.dimension),
        )
    blocks = -(-sweep.replicas // chunk[1])
    group.create_array(
        "marker",
        shape=(sweep.points, blocks, 2),
        chunks=(chunk[0], 1, 2),
        dtype="uint64",
        fill_value=0,
        dimension_names=("point", "block", "count_and_hash"),
    )
    address = group.create_array(
        "address", shape=addresses.shape, dtype="uint8", dimension_names=("point", "byte")
    )
    address[...] = addresses
    layer = group.create_array(
        "layer", shape=(len(sweep.kept_layers),), dtype="int64", dimension_names=("layer",)
    )
    layer[...] = np.array(sweep.kept_layers)


def open_store(path: Path, *, write: bool = True) -> SweepStore:
    """Open an existing sweep store.

    Raises
    ------
    ValueError
        If there is none, or it has another schema.
    """
    with reading(path, write=write) as (group, attributes):
        return SweepStore(path, group, from_fields(json.loads(attributes["sweep"])), attributes)


def clean(path: Path) -> None:
    """Delete what killed writers have left inside a store."""
    for partial in path.rglob("*.partial"):
        partial.unlink(missing_ok=True)


def prepare(sweep: Sweep, path: Path, chunk: int | None = None, device: Any = None) -> SweepStore:
    """The store at the path with all the cells of a sweep, including known results.

    A store of a sweep with fewer values or replicas is replaced by a larger one with its data.

    Raises
    ------
    ValueError
        If something else is there, or a store with results that are not in this sweep.
    """
    where = environment(sweep, device)
    if not path.exists() or is_empty_folder(path):
        return create_store(sweep, path, chunk=sweep.chunk(chunk), where=where)
    old = open_store(path)
    clean(path)
    addresses = sweep.addresses(where)
    same = old.sweep == sweep and np.array_equal(old.stored_addresses(), addresses)
    if same:
        return old
    known = {bytes(a) for a in addresses}
    counts = old.counts()
    filled = counts.any(axis=1)
    there = old.stored_addresses()
    outside = [int(i) for i in np.flatnonzero(filled) if bytes(there[i]) not in known]
    if outside:
        what = _difference(old, sweep, outside[0], where)
        raise ValueError(
            f"`path`: must be free or contain a part of this sweep; got results {what}, {path}"
        )
    if sweep.replicas < old.sweep.replicas and filled.any():
        raise ValueError(
            f"`replicas`: must be at least the {old.sweep.replicas} of the store; "
            f"got {sweep.replicas}"
        )
    return create_store(
        sweep,
        path,
        chunk=nested(sweep, [old], chunk),
        where=where,
        fill=lambda new: gather(new, [old]),
    )


def _difference(old: SweepStore, sweep: Sweep, index: int, here: dict[str, Any]) -> str:
    """How a point of a store differs from a sweep on a device, in words."""
    for name, value in old.environment.items():
        if here.get(name) != value:
            return f"of {name} {value} (now {here.get(name)})"
    for field in dataclasses.fields(Sweep):
        one, two = getattr(old.sweep, field.name), getattr(sweep, field.name)
        if field.name not in (*AXES, "replicas") and one != two:
            return f"with {field.name} {one} (now {two})"
    for name, value in old.sweep.point(index).items():
        if value not in sweep.values(name):
            return f"at {name} {value}"
    return "of other data"


def nested(sweep: Sweep, sources: Sequence[SweepStore], chunk: int | None = None) -> Any:
    """A chunk size whose blocks of replicas lie within those of the sources."""
    sizes = {(s.points_per_chunk, s.replicas_per_chunk) for s in sources}
    if chunk is None and len(sizes) == 1 and all(s.sweep == sweep for s in sources):
        return sizes.pop()
    points, replicas = sweep.chunk(chunk)
    fewest = min([replicas, *(source.replicas_per_chunk for source in sources)])
    return min(points * (replicas // fewest), sweep.points), fewest


def gather(new: SweepStore, sources: Sequence[SweepStore]) -> None:
    """Copy cells of a store from other stores that have them, found by their address.

    Raises
    ------
    ValueError
        If two of them have different numbers for one cell.
    """
    places: dict[bytes, list[tuple[int, int]]] = {}
    for number, source in enumerate(sources):
        for row, address in enumerate(source.stored_addresses()):
            places.setdefault(bytes(address), []).append((number, row))
    counts = [source.counts() for source in sources]

    @lru_cache(maxsize=2 * len(sources) + 2)
    def read(number: int, chunk: int) -> tuple[Arrays, np.ndarray]:
        return sources[number].read(chunk)

    addresses = new.stored_addresses()
    for chunk in range(new.chunks):
        rows, replicas = new.region(chunk)
        arrays, found = new.empty(chunk), np.zeros(rows.stop - rows.start, np.int64)
        for row, address in enumerate(addresses[rows]):
            for number, there in places.get(bytes(address), []):
                source = sources[number]
                block, first = divmod(replicas.start, source.replicas_per_chunk)
                if block >= counts[number].shape[1] or counts[number][there, block] <= first:
                    continue
                across = counts[number].shape[1]
                at, inside = divmod(there, source.points_per_chunk)
                data, known = read(number, at * across + block)
                count = min(int(known[inside]) - first, replicas.stop - replicas.start)
                common = max(0, min(count, int(found[row])))
                for name in new.names:
                    piece = data[name][inside, first : first + max(count, 0)]
                    layers = piece.shape[1]  # all of them, up to the deepest of the source
                    here = arrays[name][row, :, :layers]
                    if piece[:common].tobytes() != here[:common].tobytes():
                        point = new.sweep.point(rows.start + row)
                        raise ValueError(
                            f"`paths`: must agree; got different numbers for one cell, {point}"
                        )
                    if count > common:
                        here[:count] = piece
                found[row] = max(count, found[row])
        if found.any():
            new.write(chunk, arrays, found)


def ratios(sweep: Sweep) -> list[Observable]:
    """The ratios of means that this process can compute."""
    return [o for o in sweep.records if o.ratio_of_means and not isinstance(o.of, Absent)]


def dataset_of(store: SweepStore) -> xr.Dataset:
    """The arrays of a store with the axes of its sweep, and which networks are `measured`."""
    sweep = store.sweep
    lead = {name: list(values) for name, values in sweep.axes.items()}
    data = {}
    for stored in sweep.stored:
        array = store.arrays[stored.name]
        dims = (*lead, "replica", "layer", stored.dimension)
        data[stored.name] = (dims, np.empty(array.shape, array.dtype))
    there = np.zeros((sweep.points, sweep.replicas), bool)
    data["measured"] = ((*lead, "replica"), there)
    for chunk in range(store.chunks):
        rows, replicas = store.region(chunk)
        arrays, counts = store.read(chunk)
        there[rows, replicas] = np.arange(replicas.stop - replicas.start) < counts[:, None]
        for name in store.names:
            data[name][1][rows, replicas] = arrays[name]
    for ratio in ratios(sweep):
        values = of_networks(ratio, *(data[name][1] for name in PARTS))
        data[ratio.name] = (
            (*lead, "replica", "layer", ratio.dimension),
            values.astype(sweep.dtype),
        )
    shape = [len(values) for values in lead.values()]
    data = {n: (dims, whole.reshape(*shape, *whole.shape[1:])) for n, (dims, whole) in data.items()}
    single = {name: sweep.values(name)[0] for name in sweep.axis_names if not sweep.is_axis(name)}
    rest = {name: value for name, value in single.items() if value is not None}
    coordinates = {**lead, "layer": list(sweep.kept_layers), **rest}
    keep = ("versions", "backend", "device", "date", "sweep", "environment", "seed")
    attributes = {name: store.attributes[name] for name in keep}
    return xr.Dataset(data, coordinates, attributes)
