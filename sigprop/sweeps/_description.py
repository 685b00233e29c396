"""The description of the networks of a sweep: with numbers inserted, and hashed."""

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sigprop.storage import portable
from theory.numerics import shown

if TYPE_CHECKING:
    from theory import Part


def built(text: str, numbers: Mapping[str, Any], depth: int | None) -> "Part":
    """Insert these numbers into a network, or into a layer that is repeated `depth` times."""
    import theory
    from theory.description import deep_network, repeats_layers, with_numbers

    part = theory.from_dict(with_numbers(json.loads(text), numbers))
    if depth is None:
        return part
    if repeats_layers(part):
        raise ValueError(f"`depth`: must not be given with a whole network; got {depth}")
    return deep_network(part, depth)


def places(text: str, name: str) -> list[str]:
    """The paths of the numbers that a field sets.

    `weight_variance` and `bias_variance` apply to all hidden layers, that is to whatever is
    repeated if anything is; other fields are paths themselves.

    Raises
    ------
    ValueError
        If there is no number that may vary.
    """
    from theory.description import numbers_of

    found = [path for path in numbers_of(json.loads(text)) if _may_vary(path)]
    ends = {"weight_variance": "weights.variance", "bias_variance": "bias_variance"}
    if name in ends:
        here = [path for path in found if path.endswith(ends[name])]
        return [path for path in here if "body." in path] or here
    if name not in found:
        raise ValueError(f"`leaves`: must be some of {', '.join(found)}; got {shown(name)}")
    return [name]


def _may_vary(path: str) -> bool:
    return path.rpartition(".")[2] in ("variance", "bias_variance") or ".activation." in path


def numbered(networks: Iterable["Part"]) -> tuple[Any, list[dict[str, Any]]]:
    """The common dictionary of networks that differ only in numbers, and the numbers of each."""
    import theory
    from theory.description import numbers_of, with_numbers

    tables = [portable(theory.to_dict(network)) for network in networks]
    numbers = [numbers_of(table) for table in tables]
    return with_numbers(tables[0], dict.fromkeys(numbers[0])), numbers
