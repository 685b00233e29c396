"""Files of configuration: every field has the type that its annotation says, or is named."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pytest
from msgspec import Meta

from sigprop.storage import build, check_fields


@dataclass(frozen=True)
class Inner:
    name: str

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class Record:
    count: Annotated[int, Meta(ge=2)]
    values: float | str | tuple[float, ...] = 1.0
    word: Literal["a", "b"] | None = "a"
    flag: bool = False
    inner: tuple[Inner, ...] = ()

    def __post_init__(self):
        check_fields(self)


def test_values_become_those_of_python():
    made = build(Record, {"count": np.int64(3), "values": np.array([1, 2.5]), "word": None})
    assert made == Record(3, (1.0, 2.5), None)
    assert (type(made.count), type(made.values)) == (int, tuple)
    assert build(Record, {"count": 3, "values": [1, 2], "inner": [Inner("x")]}).values == (1.0, 2.0)
    assert Record(3, "0:1:5").values == "0:1:5"


@pytest.mark.parametrize(
    "values, message",
    [
        ({}, "`count`: must be given; got none"),
        ({"count": 3, "cuont": 3}, "`cuont`: must be one of count, flag, inner, values, word;"),
        ({"count": 1}, "`count`: must be a whole number >= 2; got 1"),
        ({"count": 2.5}, "`count`: must be a whole number; got 2.5"),
        ({"count": True}, "`count`: must be a whole number; got True"),
        ({"count": 3, "values": [1, "x"]}, "`values[1]`: must be a number; got (1, 'x')"),
        ({"count": 3, "values": {}}, "`values`: must be a number or a text or a list; got {}"),
        ({"count": 3, "values": [1.0, np.nan]}, "`values`: must be finite; got (1.0, nan)"),
        ({"count": 3, "word": "c"}, "`word`: must be one of a, b; got 'c'"),
        ({"count": 3, "flag": "no"}, "`flag`: must be true or false; got 'no'"),
        ({"count": 3, "inner": [{"name": 3}]}, "`inner[0].name`: must be a text; got ({'name': 3}"),
    ],
)
def test_what_is_wrong_is_named(values, message):
    with pytest.raises(ValueError, match=r"^`") as caught:
        build(Record, values)
    assert str(caught.value).startswith(message)
