"""Descriptions of networks in configurations, as text that does not depend on folders."""

import hashlib
import json
from os import PathLike
from pathlib import Path
from typing import Any


def network_text(
    given: Any, *, name: str = "description", folder: str | PathLike[str] = "."
) -> str:
    """Return the dictionary of a network as JSON, however a field specifies it.

    Parameters
    ----------
    given
        A part, its dictionary, the name of its file (see `theory.description.read_network`), or
        a result of this function.
    name
        The field, for errors.
    folder
        Where relative file names start.

    Raises
    ------
    ValueError, TypeError
        If there is no network that can be written down. The message names the field, and the
        place in it.
    """
    import theory
    from theory.description import read_network

    if isinstance(given, str) and given.startswith("{"):
        return given
    part = read_network(given, name=name, folder=folder)
    try:
        return json.dumps(theory.to_dict(part), sort_keys=True)
    except (TypeError, ValueError) as error:
        text = str(error).removeprefix("`network`: ")
        raise type(error)(f"`{name}`: {text}") from error


def portable(value: Any) -> Any:
    """The dictionary of a description with the contents of its files instead of their folders."""
    if isinstance(value, list):
        return [portable(member) for member in value]
    if not isinstance(value, dict):
        return value
    found = {name: portable(member) for name, member in value.items()}
    if "file" in found:
        file, _, name = found["file"].rpartition(":")
        content = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        found["file"] = f"{content}:{name}"
    return found
