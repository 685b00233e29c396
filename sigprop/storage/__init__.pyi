from ._store import (
    is_empty_folder,
    move_into_place,
    partial_name,
    provenance,
    read_dataset,
    write_dataset,
)
from ._toml import build, read_toml

__all__ = [
    "build",
    "is_empty_folder",
    "move_into_place",
    "partial_name",
    "provenance",
    "read_dataset",
    "read_toml",
    "write_dataset",
]
