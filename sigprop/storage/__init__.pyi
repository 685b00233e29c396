from ._configuration import build, check_fields, read_toml
from ._store import (
    is_empty_folder,
    move_into_place,
    partial_name,
    provenance,
    read_dataset,
    write_dataset,
)

__all__ = [
    "build",
    "check_fields",
    "is_empty_folder",
    "move_into_place",
    "partial_name",
    "provenance",
    "read_dataset",
    "read_toml",
    "write_dataset",
]
