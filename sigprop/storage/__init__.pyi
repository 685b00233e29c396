from ._configuration import Count, build, check_fields
from ._descriptions import network_text, portable
from ._store import (
    is_empty_folder,
    move_into_place,
    partial_name,
    provenance,
    read_dataset,
    write_dataset,
)

__all__ = [
    "Count",
    "build",
    "check_fields",
    "is_empty_folder",
    "move_into_place",
    "network_text",
    "partial_name",
    "portable",
    "provenance",
    "read_dataset",
    "write_dataset",
]
