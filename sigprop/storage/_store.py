"""Results as Zarr stores: written completely or not at all, each with its provenance."""

import dataclasses
import enum
import glob
import json
import math
import platform
import secrets
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
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    return {
        "parameters": json.dumps(_plain(parameters), allow_nan=False),
        "seed": seed,
        "versions": json.dumps({name: _version(name) for name in _PACKAGES} | _python()),
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
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
        If `path` cannot be written, or is something other than a Zarr store.
    """
    path = Path(path).resolve()
    if path.exists() and not (path / "zarr.json").is_file() and not is_empty_folder(path):
        raise ValueError(f"`path`: must be free or a Zarr store; got something else at {path}")
    attributes = _plain({**dataset.attrs, **provenance})
    dataset = dataset.drop_encoding().assign_attrs(attributes)
    dataset = _with_texts(dataset, "U", object)
    partial = partial_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
        If there is no store at `path`, or it cannot be read.
    """
    path = Path(path).resolve()
    source = path
    if not path.exists() and _former(path).exists():
        source = _former(path)  # a run was killed between the two renamings of `move_into_place`
    if not (source / "zarr.json").is_file():
        raise ValueError(f"`path`: must be a Zarr store; got none at {path}")
    try:
        with xr.open_zarr(source, chunks=None, consolidated=False) as dataset:
            dataset.load()
    except Exception as error:  # zarr and its codecs raise errors of many types
        reason = str(error).partition("\n")[0]
        raise ValueError(f"`path`: must be a readable Zarr store; got {reason}, {path}") from error
    return _with_texts(dataset, "TO", str)


# A store ``results.zarr`` has three names, all in one folder, so that renaming is atomic:
#   results.zarr                  always complete;
#   .results.zarr.former          its complete predecessor, only while the two change places;
#   .results.zarr.TOKEN.partial   being written or deleted, never read.


def _former(path: Path) -> Path:
    return path.with_name(f".{path.name}.former")


def partial_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def move_into_place(path: Path, complete: Path) -> None:
    """Move a complete store to a path; at every moment `path` or its former is complete."""
    former = _former(path)
    if path.exists() and not is_empty_folder(path):
        _discard(former)
        path.rename(former)
    complete.replace(path)
    _discard(former)


def _discard(former: Path) -> None:
    """Delete a store that is no longer needed, under a name that is never read."""
    if former.exists():
        doomed = former.with_suffix(f".{secrets.token_hex(4)}.partial")
        former.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _remove_stale(path: Path) -> None:
    """Delete what killed runs have left; recent files may belong to another process."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        if time.time() - partial.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(partial, ignore_errors=True)


def is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


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
