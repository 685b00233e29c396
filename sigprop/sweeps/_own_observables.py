"""A user's observables in a sweep: how they are recorded, and found again."""

import dataclasses
import hashlib
import inspect
import sys
from collections.abc import Mapping
from typing import Any

from theory import Moments, Observable

_PLAIN = ("name", "symbol", "words", "axis", "first_layer", "ratio_of_means", "gradients")


@dataclasses.dataclass(frozen=True)
class Absent:
    """Replaces a function that this process does not have."""

    place: str
    text: str

    def __call__(self, moments: Moments) -> Any:
        raise ValueError(
            "`observables`: must have their functions imported first, as when the sweep "
            f"was run; got no such {self.place}"
        )


def written(observable: Observable) -> dict[str, Any]:
    """Record an observable in plain words.

    These are its fields, and for its function the place and a hash of the source text.

    Raises
    ------
    ValueError
        If the function has no place and source text.
    """
    of: Any = observable.of
    if not isinstance(of, Absent):
        of = _place(of)
        if of is None or _found(of.place) is not observable.of:
            raise ValueError(
                "`observables`: must have functions defined in a module by name, not lambdas, "
                f"local functions or parts of others; got the one of {observable.name}"
            )
    plain = {name: getattr(observable, name) for name in _PLAIN}
    return {**plain, "of": of.place, "text": of.text}


def read(values: Mapping[str, Any]) -> Observable:
    """Restore an observable from its record.

    Nothing is imported: a function that is not loaded, or whose text has changed, is `Absent`.
    """
    values = dict(values)
    absent = Absent(values.pop("of"), values.pop("text"))
    of = _found(absent.place)
    return Observable(of=of if _place(of) == absent else absent, **values)


def _place(of: Any) -> Absent | None:
    try:
        text = inspect.getsource(of)
        place = f"{of.__module__}:{of.__qualname__}"
    except (TypeError, OSError, AttributeError):
        return None
    return Absent(place, hashlib.sha256(text.encode()).hexdigest())


def _found(place: str) -> Any:
    module, _, name = place.partition(":")
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found
