from ._configuration import Count, build, check_fields
from ._descriptions import network_text, portable
from ._environment import environment_of
from ._lock import writing
from ._places import (
    is_empty_folder,
    move_into_place,
    partial_name,
    partials,
    place_of,
    recover,
    source_of,
    tidy,
)
from ._store import provenance, read_dataset, write_dataset

__all__ = [
    "Count",
    "build",
    "check_fields",
    "environment_of",
    "is_empty_folder",
    "move_into_place",
    "network_text",
    "partial_name",
    "partials",
    "place_of",
    "portable",
    "provenance",
    "read_dataset",
    "recover",
    "source_of",
    "tidy",
    "write_dataset",
    "writing",
]
