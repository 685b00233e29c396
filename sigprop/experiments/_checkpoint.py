"""Checkpoints of somebody else's training."""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp


def read_checkpoint(path: Path) -> Any:
    """The arrays in the folder of an Orbax checkpoint, as nested dictionaries."""
    with ocp.StandardCheckpointer() as reader:
        return reader.restore(path.resolve())
