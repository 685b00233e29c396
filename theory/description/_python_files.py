"""Objects defined in a Python file, as "FILE.py:NAME"."""

import functools
import runpy
from os import PathLike
from pathlib import Path
from typing import Any

from theory.numerics import shown


def in_file(target: Any) -> bool:
    """Whether a text refers to an object in a Python file."""
    return isinstance(target, str) and ".py:" in target


def defined_in(target: str, folder: str | PathLike[str] = ".") -> Any:
    """Return the object NAME of a Python file; the file is run once until it changes.

    Parameters
    ----------
    target
        "FILE.py:NAME"; a relative FILE is looked up in `folder`.

    Raises
    ------
    ValueError
        If there is no such file, it does not run, or it does not define that name.
    """
    file, _, name = target.rpartition(":")
    path = Path(folder, file)
    try:
        path = path.resolve()
        absent = not path.is_file()
    except (OSError, RuntimeError, ValueError):  # no file can have that name
        absent = True
    if path.suffix != ".py" or not name:
        raise ValueError(f"must be FILE.py:NAME; got {shown(target)[1:-1]}")
    if absent:
        raise ValueError(f"must be FILE.py:NAME with an existing file; got {shown(target)[1:-1]}")
    state = path.stat()
    names = _names(path, state.st_mtime_ns, state.st_size)
    if name not in names:
        got, asked = (shown(text)[1:-1] for text in (name, target))
        raise ValueError(f"{got} must be a name in {path.name}; got {asked}")
    return names[name]


@functools.lru_cache(maxsize=128)
def _names(path: Path, *_state: int) -> dict[str, Any]:
    # A function defined again is another function, and everything compiled for it is lost.
    try:
        return runpy.run_path(str(path), run_name=path.stem)
    except (Exception, SystemExit) as error:  # a user's file can fail in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"{path.name} must run; {reason}") from error
