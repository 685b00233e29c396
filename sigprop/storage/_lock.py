"""One writer at a time: a lock beside a store or a folder, which ends with its process."""

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sigprop.storage._places import partials, recover


@contextmanager
def writing(path: Path, name: str = "path") -> Iterator[None]:
    """Lock a store or a folder for writing, and remove what killed writers of it have left.

    The system releases the lock if the process dies.

    Parameters
    ----------
    path
        What is written. Its parents are created; the lock is a hidden file beside it.
    name
        The argument of the user, for errors.

    Raises
    ------
    ValueError
        If another process has the lock, with its number and host; or if nothing can be written.
    """
    lock = path.with_name(f".{path.name}.lock")
    handle = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _locked(lock)
        if handle is not None:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            recover(path)
            for left in partials(path):
                shutil.rmtree(left, ignore_errors=True)
        if path.is_dir() and not os.access(path, os.W_OK):
            raise PermissionError(13, os.strerror(13))
    except OSError as error:
        if handle is not None:
            _unlock(lock, handle)
        reason = error.strerror or error
        raise ValueError(f"`{name}`: must be writable; got {reason} for {path}") from error
    if handle is None:
        who = ""
        with suppress(OSError):  # the other process may just have ended
            who = lock.read_text("utf-8").strip()
        who = who or "another process"
        raise ValueError(f"`{name}`: must not be written by two at a time; got {who} at {path}")
    try:
        yield
    finally:
        _unlock(lock, handle)


def _unlock(lock: Path, handle: int) -> None:
    lock.unlink(missing_ok=True)
    os.close(handle)


def _locked(lock: Path) -> int | None:
    """An open file that is locked; None if another process has the lock."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder deletes the file, so the locked file must still be the one at the path.
            if lock.exists() and os.stat(lock).st_ino == os.fstat(handle).st_ino:
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        os.close(handle)
