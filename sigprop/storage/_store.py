"""Results as Zarr stores: written completely or not at all, each with its provenance."""

import dataclasses
import enum
import hashlib
import json
import math
import platform
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from sigprop.storage._places import (
    is_empty_folder,
    move_into_place,
    partial_name,
    partials,
    place_of,
    recover,
    source_of,
)
from theory.numerics import device_of

_PACKAGES = ("sigprop", "jax", "jaxlib", "numpy", "equinox")
_STALE_SECONDS = 3600


def provenance(*, seed: int | None = None, **parameters: Any) -> dict[str, str | int | None]:
    """Record where a result comes from: parameters, seed, versions, device, precision and date.

    Parameters
    ----------
    seed
        The seed of every key of the run, None if nothing is random.
    **parameters
        The arguments of the run. Arrays become lists, complex numbers their two parts, non-finite
        numbers their names, dataclasses their type and fields, functions their names.

    Returns
    -------
    attributes
        Flat, ready for `write_dataset`; ``parameters`` and ``versions`` are JSON texts.
    """
    device = device_of()
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    return {
        "parameters": json.dumps(_plain(parameters), allow_nan=False),
        "seed": seed,
        "versions": json.dumps({name: _version(name) for name in _PACKAGES} | _python()),
        "backend": device.platform,
        "device": device.device_kind,
        "dtype": str(jnp.result_type(float)),
        "matmul_precision": str(precision or "default"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_dataset(
    dataset: xr.Dataset, path: str | PathLike[str], *, provenance: Mapping[str, Any]
) -> None:
    """Write a data set as a Zarr store (format 3), replacing an existing store.

    The store is written next to `path` under another name and renamed when it is complete. If a
    run is killed, `read_dataset` finds the old store, the new one or none. Only one process at a
    time may write to a path.

    Parameters
    ----------
    dataset
        Numbers, truth values and texts, in NumPy or JAX arrays.
    path
        A folder; its parents are created. Only a Zarr store or an empty folder is replaced.
    provenance
        Added to the attributes of the data set; from `provenance`.

    Raises
    ------
    ValueError
        If `path` cannot be written, or is something other than a Zarr store, or is that of a sweep.
    """
    if not isinstance(dataset, xr.Dataset):
        raise TypeError(f"`dataset`: must be an xarray.Dataset; got {type(dataset).__name__}")
    if not isinstance(provenance, Mapping):
        raise TypeError(f"`provenance`: must be a mapping; got {type(provenance).__name__}")
    path = place_of(path)
    if path.exists() and not (path / "zarr.json").is_file() and not is_empty_folder(path):
        raise ValueError(f"`path`: must be free or a Zarr store; got something else at {path}")
    inside = next((p for p in path.parents if (p / "zarr.json").is_file()), None)
    if inside is not None:
        raise ValueError(f"`path`: must not lie inside another store; got one at {inside}")
    if _attributes(path).get("sigprop_sweep") is not None:
        raise ValueError(f"`path`: must not be the store of a sweep; got one at {path}")
    attributes = _plain({**dataset.attrs, **provenance})
    attributes.pop(_CHECKSUMS, None)
    dataset = _with_texts(dataset.drop_encoding().assign_attrs(attributes), "U", object)
    dataset.attrs[_CHECKSUMS] = json.dumps(_checksums(dataset))
    partial = partial_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        recover(path)
        _remove_stale(path)
        dataset.to_zarr(partial, mode="w-", zarr_format=3, consolidated=False)
        move_into_place(path, partial)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"`path`: must be writable; got {reason} for {path}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_dataset(path: str | PathLike[str]) -> xr.Dataset:
    """Load the data set in a Zarr store into memory.

    Parameters
    ----------
    path
        The store.

    Raises
    ------
    ValueError
        If there is no store at `path`, or it cannot be read, or it is not what was written.
    """
    path = place_of(path)
    source = source_of(path)
    if _attributes(source).get("sigprop_sweep") is not None:
        raise ValueError(
            f"`path`: must be a data set; got the store of a sweep (sigprop.read_sweep), {path}"
        )
    if not (source / "zarr.json").is_file():
        raise ValueError(f"`path`: must be a Zarr store; got none at {path}")
    try:
        with xr.open_zarr(source, chunks=None, consolidated=False) as dataset:
            dataset.load()
    except Exception as error:  # zarr and its codecs raise errors of many types
        reason = str(error).partition("\n")[0]
        raise ValueError(f"`path`: must be a readable Zarr store; got {reason}, {path}") from error
    written = dataset.attrs.pop(_CHECKSUMS, None)
    if written is not None:
        _check(dataset, json.loads(written), path)
    return _with_texts(dataset, "TO", str)


_CHECKSUMS = "sigprop_checksums"
"""The attribute with a hash of every variable and of the other attributes."""


def _checksums(dataset: xr.Dataset) -> dict[str, str]:
    found = {str(name): _hash_of(variable) for name, variable in dataset.variables.items()}
    others = {name: value for name, value in dataset.attrs.items() if name != _CHECKSUMS}
    text = json.dumps(_plain(others), sort_keys=True)
    return found | {"": hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}


def _hash_of(variable: xr.Variable) -> str:
    """Of what a variable holds, whatever the codec and the machine that read it."""
    values = np.asarray(variable.values)
    if values.dtype.kind in "OTU":
        kind, content = "text", json.dumps([str(text) for text in values.ravel()]).encode()
    else:
        little = values.astype(values.dtype.newbyteorder("<"))
        kind, content = little.dtype.str, np.ascontiguousarray(little).tobytes()
    words = _plain(variable.attrs)
    head = json.dumps([kind, list(variable.dims), list(values.shape), words], sort_keys=True)
    found = hashlib.blake2b(head.encode(), digest_size=16)
    found.update(content)
    return found.hexdigest()


def _check(dataset: xr.Dataset, written: Mapping[str, str], path: Path) -> None:
    """Raise a `ValueError` that names what is not as it was written."""
    found = _checksums(dataset)
    for name in sorted(found.keys() | written.keys()):
        if found.get(name) != written.get(name):
            what = f"the variable {name}" if name else "its attributes"
            raise ValueError(f"`path`: must be undamaged; got other bytes of {what}, {path}")


def _attributes(path: Path) -> dict[str, Any]:
    """Of the store that is there, as far as they can be read."""
    try:
        return dict(json.loads((path / "zarr.json").read_bytes())["attributes"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _remove_stale(path: Path) -> None:
    """Delete what killed runs have left; recent files may belong to another process."""
    for partial in partials(path):
        if time.time() - partial.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(partial, ignore_errors=True)


def _with_texts(dataset: xr.Dataset, kinds: str, dtype: type) -> xr.Dataset:
    """The data set with its texts in another type: Zarr has no fixed-width text as NumPy does."""
    texts = {
        name: (variable.dims, variable.values.astype(object).astype(dtype), variable.attrs)
        for name, variable in dataset.variables.items()
        if variable.dtype.kind in kinds
    }
    return dataset.assign(texts)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _python() -> dict[str, str]:
    return {"python": platform.python_version()}


def _plain(value: Any) -> Any:
    """The value in JSON types, which have no NaN or infinity."""
    match value:
        case enum.Enum():
            return value.name
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case complex():
            return {"real": _plain(value.real), "imag": _plain(value.imag)}
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case jax.Array() if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return _plain(jax.random.key_data(value))
        case np.ndarray() | np.generic() | jax.Array():
            return _plain(value.tolist())
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return {"type": type(value).__name__} | _plain(fields)
        case _:
            return getattr(value, "__qualname__", str(value))
