"""Where stores are: the path that a user names, and what stands beside it while it is written.

Nothing here imports JAX: the state of a sweep is told without it.
"""

import glob
import secrets
import shutil
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

# A store ``results.zarr`` has three names, all in one folder, so that renaming is atomic:
#   results.zarr                  always complete;
#   .results.zarr.former          its complete predecessor, only while the two change places;
#   .results.zarr.TOKEN.partial   being written or being deleted, never read.


def _former(path: Path) -> Path:
    return path.with_name(f".{path.name}.former")


def source_of(path: Path) -> Path:
    """Where the complete store is: a writer may have been killed between two renamings."""
    former = _former(path)
    return former if former.exists() and (not path.exists() or is_empty_folder(path)) else path


def recover(path: Path) -> None:
    """End what a killed writer has begun; for the only writer there is."""
    former = _former(path)
    if source_of(path) == former:
        if path.exists():
            path.rmdir()
        former.rename(path)
    _discard(former)


def partial_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def move_into_place(path: Path, complete: Path) -> None:
    """Put a complete store at a path; at every moment `path` or its former is complete."""
    former = _former(path)
    if path.exists() and not is_empty_folder(path):
        _discard(former)
        path.rename(former)
    complete.replace(path)
    _discard(former)


def _discard(former: Path) -> None:
    """Delete a store that is not needed, under a name that nobody reads."""
    if former.exists():
        doomed = former.with_suffix(f".{secrets.token_hex(4)}.partial")
        former.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def partials(path: Path) -> Iterator[Path]:
    """The stores at a path that are being written or deleted, or were left by killed writers."""
    return path.parent.glob(f".{glob.escape(path.name)}.*.partial")


def tidy(folder: Path) -> None:
    """End what killed writers of the stores in a folder have begun; for the only writer of all."""
    for former in folder.glob(".*.former"):
        recover(former.with_name(former.name[1 : -len(".former")]))
    for left in folder.glob(".*.partial"):
        shutil.rmtree(left, ignore_errors=True)


def is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def place_of(path: str | PathLike[str], name: str = "path") -> Path:
    """The absolute path of a store that a user names.

    Raises
    ------
    TypeError, ValueError
        If it is no path, empty, the current folder, too long, or leads in a circle.
    """
    if not isinstance(path, str | PathLike):
        raise TypeError(f"`{name}`: must be a path; got {type(path).__name__}")
    if not str(path):
        raise ValueError(f"`{name}`: must name a folder; got ''")
    if not str(path).isprintable():
        raise ValueError(f"`{name}`: must have a printable name; got {str(path)!r:.80}")
    try:
        found = Path(path).resolve()
        found.with_name(f".{found.name}.00000000.partial").exists()  # the longest name in use
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a loop of links
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"`{name}`: must name a folder; got {reason}, {str(path)[:80]}") from error
    if found == Path.cwd():
        raise ValueError(f"`{name}`: must be another folder than the current one; got {found}")
    return found
