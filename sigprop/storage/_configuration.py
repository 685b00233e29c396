"""Configuration tables whose names are the fields of a dataclass, checked by its types."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import numpy as np

from theory.numerics import shown

Described = TypeVar("Described")
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
"""A whole number of at least 1, as a compiled program can count."""

_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
}
_EXPECTED = re.compile(r"Expected (?P<what>.+?)(?:, got .+?)?(?: - at `\$(?P<place>.*)`)?$")
_INVALID = re.compile(r"Invalid enum value .+?(?: - at `\$(?P<place>.*)`)?$")


def build(kind: Callable[..., Described], values: Mapping[str, Any]) -> Described:
    """Build a dataclass from the values of its fields.

    Raises
    ------
    ValueError
        If a field is unknown, missing, or refused by the dataclass. The message names it.
    """
    fields: Any = kind
    known = {field.name: field for field in dataclasses.fields(fields) if field.init}
    for name in values:
        if name not in known:
            where = name if isinstance(name, str) and name.isidentifier() else shown(name)
            raise ValueError(f"`{where}`: must be one of {', '.join(sorted(known))}; got another")
    for name, field in known.items():
        default = (field.default, field.default_factory)
        if name not in values and default == (dataclasses.MISSING, dataclasses.MISSING):
            raise ValueError(f"`{name}`: must be given; got none")
    return kind(**values)


def check_fields(record: Any, *names: str) -> None:
    """Convert every field of a frozen dataclass, or those named, to its annotated type.

    Lists become tuples; NumPy arrays and numbers become Python ones. Numbers must be finite.

    Raises
    ------
    ValueError
        If a value does not fit. The message names the field, what it must be, and what it is.
    """
    for name, hint in _hints(type(record)).items():
        if names and name not in names:
            continue
        value = getattr(record, name)
        plain = _plain(value)
        try:
            made = msgspec.convert(plain, hint, strict=True)
        except msgspec.ValidationError as error:
            what, place = _reason(str(error), hint)
            raise ValueError(f"`{name}{place}`: must be {what}; got {_brief(plain)}") from error
        if any(isinstance(x, float) and not math.isfinite(x) for x in _flat(made)):
            raise ValueError(f"`{name}`: must be finite; got {_brief(plain)}")
        object.__setattr__(record, name, made)


def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _brief(value: Any) -> str:
    """A value on one line; of a table its content, too."""
    return shown([value])[1:-1] if isinstance(value, dict) else shown(value)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return tuple(_plain(member) for member in value)
    return value


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for member in value:
            yield from _flat(member)
    else:
        yield value


def _reason(text: str, hint: Any) -> tuple[str, str]:
    """What a value must be, and where in the field it is wrong."""
    wrong_word = _INVALID.match(text)
    if wrong_word:
        return f"one of {', '.join(map(str, _choices(hint)))}", wrong_word["place"] or ""
    found = _EXPECTED.match(text)
    if not found:
        return text, ""
    what = re.sub(r"\w+", lambda m: _WORDS.get(m[0], m[0]), found["what"].replace("`", ""))
    return what.replace(" | ", " or "), found["place"] or ""


def _choices(hint: Any) -> list[Any]:
    """The words that a `Literal` allows, anywhere in a type."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [word for inner in get_args(hint) for word in _choices(inner)]
