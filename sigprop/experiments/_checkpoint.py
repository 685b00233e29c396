"""Checkpoints of existing models."""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp


def read_checkpoint(path: Path) -> Any:
    """Read the arrays in the folder of an Orbax checkpoint, as nested dictionaries.

    Parameters
    ----------
    path
        The folder.
    """
    with ocp.StandardCheckpointer() as reader:
        return reader.restore(path.resolve())
