"""Checkpoints: their bytes are checked before training goes on from them."""

import hashlib
import logging
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from theory.numerics import as_path

_SEAL = "sigprop.blake2b"
"""The file in a checkpoint that holds a hash of all others; the last that is written."""


def read_checkpoint(path: Path) -> Any:
    """Read the arrays in the folder of an Orbax checkpoint, as nested dictionaries.

    Parameters
    ----------
    path
        The folder.
    """
    path = as_path("path", path)
    try:
        with ocp.StandardCheckpointer() as reader:
            return reader.restore(path.resolve())
    except Exception as error:  # of any type, in a damaged one
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"`path`: must be the folder of an Orbax checkpoint; got {path} ({reason})"
        ) from error


def write_checkpoint(manager: ocp.CheckpointManager, step: int, arrays: Any) -> None:
    """Write arrays; if the system cannot, raise an `OSError` without the tracebacks of Orbax."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        manager.save(step, args=ocp.args.StandardSave(arrays))
    except ValueError as error:  # TensorStore's, with the number of the system's
        number = re.search(r"os_error_code='(\d+)'", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
    finally:
        log.setLevel(level)


def seal(folder: Path, environment: str) -> None:
    """Say that a checkpoint is complete, with a hash of its files and of what made them."""
    (folder / _SEAL).write_text(_hash_of(folder, environment))


def forget_damaged(folder: Path, environment: str) -> None:
    """Delete the checkpoints that do not have the bytes and the environment of their seal.

    A checkpoint is a short cut: without it training goes on from an earlier one, or begins again,
    and ends with the same numbers.
    """
    for step in folder.glob("*") if folder.is_dir() else ():
        try:
            good = (step / _SEAL).read_text() == _hash_of(step, environment)
        except (OSError, UnicodeDecodeError):  # no seal: killed while it was written, or damaged
            good = False
        if not good:
            what = "is incomplete, or of another environment; going on without it"
            message = f"the checkpoint {step} {what}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
            shutil.rmtree(step) if step.is_dir() else step.unlink()


def _hash_of(folder: Path, environment: str) -> str:
    found = hashlib.blake2b(environment.encode(), digest_size=16)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / _SEAL:
            name = path.relative_to(folder).as_posix()
            found.update(f"{len(name)} {name} {path.stat().st_size} ".encode())
            found.update(path.read_bytes())
    return found.hexdigest()
