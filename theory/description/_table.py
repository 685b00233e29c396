"""Configuration tables: plain dictionaries and lists of numbers, words and tables.

A path locates an entry of a table: "parts[1].body.weights.variance".
"""

import tomllib
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from theory.numerics import as_path, shown

_DEEPEST = 50
"""Deepest nesting of tables."""


def read_toml(path: str | PathLike[str]) -> dict[str, Any]:
    """Read a TOML file, or raise a one-line `ValueError`."""
    file = as_path("path", path)
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise ValueError(f"{path}: must be a readable TOML file; got {reason}") from error


def plain(value: Any, path: str = "") -> Any:
    """Convert all mappings and sequences to dictionaries and lists."""
    if not _nests(value, _DEEPEST):
        raise ValueError(f"`{path or 'table'}`: must nest at most {_DEEPEST} tables and lists")
    return _plain(value, path)


def _nests(value: Any, levels: int) -> bool:
    if levels < 0:
        return False
    inside = value.values() if isinstance(value, Mapping) else value
    members = inside if isinstance(value, Mapping | list | tuple) else ()
    return all(_nests(member, levels - 1) for member in members)


def _plain(value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        for name in value:
            if not (isinstance(name, str) and name.isprintable()):
                where = path or "table"
                raise ValueError(f"`{where}`: must have printable names; got {shown(name)}")
        inner = lambda name, member: _plain(member, join(path, name))
        return {name: inner(name, member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member, f"{path}[{i}]") for i, member in enumerate(value)]
    if isinstance(value, np.ndarray | np.generic | jax.Array) and not isinstance(value, Tracer):
        return np.asarray(value).tolist()
    return value


def together(values: list[Any]) -> Any:
    """Merge the tables of several layers into one, with a list wherever numbers differ."""
    first = values[0]
    if isinstance(first, dict):
        names = dict.fromkeys(name for value in values for name in value)
        return {name: together([value[name] for value in values]) for name in names}
    if holds_tables(first):
        return [together(list(members)) for members in zip(*values, strict=True)]
    plain = not any(isinstance(value, list) for value in values)
    return first if plain and all(value == first for value in values) else values


def holds_tables(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(member, Mapping) for member in value)


def lists(table: Any, path: str) -> Iterator[tuple[str, list]]:
    """Yield the lists that contain one number per layer."""
    if isinstance(table, Mapping):
        for name, value in table.items():
            yield from lists(value, join(path, name))
    elif holds_tables(table):
        for index, value in enumerate(table):
            yield from lists(value, f"{path}[{index}]")
    elif isinstance(table, list):
        yield path, table


def at_layer(table: Any, index: int) -> Any:
    """Return the table of one layer."""
    if isinstance(table, Mapping):
        return {name: at_layer(value, index) for name, value in table.items()}
    if holds_tables(table):
        return [at_layer(value, index) for value in table]
    return table[index] if isinstance(table, list) else table


def join(path: str, field: str) -> str:
    return f"{path}.{field}" if path else field


def numbers_of(table: Any, path: str = "") -> dict[str, Any]:
    """The numbers of a table, and its lists of one number per layer, by path."""
    if isinstance(table, Mapping):
        found = (numbers_of(value, join(path, name)) for name, value in table.items())
    elif holds_tables(table):
        found = (numbers_of(value, f"{path}[{i}]") for i, value in enumerate(table))
    else:
        is_number = isinstance(table, int | float | list) and not isinstance(table, bool)
        return {path: table} if is_number else {}
    return {name: value for each in found for name, value in each.items()}


def with_numbers(table: Any, numbers: Mapping[str, Any], path: str = "") -> Any:
    """Return the table with the numbers at these paths replaced."""
    if path in numbers:
        return numbers[path]
    if isinstance(table, Mapping):
        inner = lambda name, value: with_numbers(value, numbers, join(path, name))
        return {name: inner(name, value) for name, value in table.items()}
    if holds_tables(table):
        return [with_numbers(value, numbers, f"{path}[{i}]") for i, value in enumerate(table)]
    return table
