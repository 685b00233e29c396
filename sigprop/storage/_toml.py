"""Files that describe a study or a sweep: TOML whose names are the fields of a dataclass."""

import dataclasses
import tomllib
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

Described = TypeVar("Described")


def read_toml(path: str | PathLike[str]) -> dict[str, Any]:
    """The tables and values of a file, or a `ValueError` in one line."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{path}: must be a readable TOML file; got {reason}") from error


def build(kind: Callable[..., Described], values: Mapping[str, Any]) -> Described:
    """A dataclass from the values of its fields, lists as tuples.

    Raises
    ------
    ValueError
        Names an unknown field, or one that the dataclass refuses.
    """
    fields: Any = kind
    known = {field.name for field in dataclasses.fields(fields) if field.init}
    for name in values:
        if name not in known:
            raise ValueError(f"`{name}`: must be one of {', '.join(sorted(known))}; got {name}")
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except TypeError as error:
        raise ValueError(str(error)) from error
