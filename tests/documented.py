"""The public names: those that docs/api.md documents, at the path where users find them."""

import functools
import importlib
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "api.md"


@functools.cache
def documented() -> dict[str, Any]:
    """Every name on the page, as `theory.phases.length_cycle`, and what it stands for."""
    names = re.findall(r"^::: ([\w.]+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    found = {}
    for name in names:
        module, _, last = name.rpartition(".")
        found[name] = getattr(importlib.import_module(module), last)
    assert len(found) == len(names)
    return found
