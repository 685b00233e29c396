"""Whole numbers on the command line are taken as they are written, or refused."""

import re
from collections.abc import Sequence
from typing import Any, get_args

from cyclopts import Token, convert

from sigprop.commands._output import BadInput


def exactly(kind: Any, tokens: Sequence[Token]) -> Any:
    """What cyclopts makes of an option's words; it would round 1.5 to the whole number 2."""
    if int in (kind, *get_args(kind)):
        for token in tokens:
            if not re.fullmatch(r"[+-]?[0-9]+", token.value):
                raise BadInput(f"{token.keyword}: must be a whole number; got {token.value}")
    return convert(kind, tokens)
