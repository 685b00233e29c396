"""A table of bad input: every field of every door, with a value of every kind.

A door is what a user can reach: the documented functions, the files and the command line. A case
fails if it ends in anything but a result, or one line that names the user's field. Print the table
with ``python -m tests.honesty.bad_input [STEP] [DOOR...]``.
"""

import functools
import inspect
import io
import itertools
import math
import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

REFUSED, ACCEPTED, WORKS = "refused", "accepted", "works"
SECONDS = 0.1
"""Of the processor, after which a case is taken to work on what it accepted."""

VALUES: dict[str, Any] = {
    "None": None,
    "text": "nonsense",
    "empty text": "",
    "NUL": "a\0b",
    "long text": "x" * 5000,
    "lines": "one\ntwo",
    "bytes": b"x",
    "list": [],
    "list of texts": ["a", "b"],
    "ragged": [[1.0], [1.0, 2.0]],
    "table": {},
    "table with a number": {"a": 1},
    "nan": float("nan"),
    "inf": float("inf"),
    "minus one": -1,
    "zero": 0,
    "half": 0.5,
    "huge": 10**12,
    "beyond 64 bits": 10**30,
    "huge real": 1e300,
    "True": True,
    "complex": 1j,
    "object": object(),
    "class": int,
    "lambda": lambda: None,
    "array of another shape": np.ones((2, 3, 4, 5)),
    "empty array": np.zeros(0),
    "array of truth values": np.array([True, False]),
    "array of texts": np.array(["a"]),
    "array of nan": np.full((2, 2), np.nan),
    "array of complex": np.ones((2, 2), complex),
    "missing file": "no/such/file",
    "folder": ".",
}


@dataclass(frozen=True)
class Case:
    """One value in one field."""

    door: str
    of: str
    field: str
    kind: str
    ask: Callable[[], Any]
    names: tuple[str, ...]
    """Words of which a refusal must contain one."""

    @property
    def label(self) -> str:
        return f"{self.of} {self.field} = {self.kind}"


class _Working(BaseException):
    """The time of a case is over."""


_until = math.inf


def _stop(*_: Any, **__: Any) -> None:
    """JAX calls this when it has traced or compiled a program: the checks are over long ago."""
    if time.process_time() > _until:
        raise _Working


jax.monitoring.register_event_duration_secs_listener(_stop)


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    global _until
    _until = time.process_time() + seconds
    try:
        yield
    finally:
        _until = math.inf


def outcome(case: Case, seconds: float = SECONDS) -> str:
    """`REFUSED`, `ACCEPTED`, `WORKS`, or what is wrong with the answer."""
    try:
        with warnings.catch_warnings(), _within(seconds), jax.numpy_dtype_promotion("standard"):
            warnings.simplefilter("ignore")
            case.ask()
    except _Working:
        return WORKS
    except (ValueError, TypeError, FileNotFoundError) as error:
        return judged(str(error), case.names)
    except BaseException as error:
        return f"raises {type(error).__name__}: {str(error)[:200]!r}"
    return ACCEPTED


def judged(said: str, names: tuple[str, ...]) -> str:
    """Whether a refusal is one line that begins with the field and gives the allowed range."""
    if "\n" in said or "\0" in said or not said.isprintable():
        return f"more than one line: {said[:200]!r}"
    if not any(
        re.search(rf"(?<!\w){re.escape(name)}(?!\w)", said.partition("; got")[0]) for name in names
    ):
        return f"names another field: {said[:200]!r}"
    if not re.search(r"must|only|takes|which has|not a recognized", said):
        return f"gives no range: {said[:200]!r}"
    if len(said) > 1000:
        return f"long: {len(said)} characters"
    return REFUSED


def calls(*, cheap: bool = False) -> Iterator[Case]:
    """Every parameter of every documented function; or of those with cheap arguments."""
    from tests.documented import documented
    from tests.honesty.bad_calls import CALLS, DEAR, FREE

    for of, make in CALLS.items():
        if cheap and of in DEAR:
            continue
        function = documented()[of]
        parameters = inspect.signature(function).parameters.values()
        fields = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
        good = make()
        for field in fields:
            for kind, value in VALUES.items():
                if (of, field) in FREE:
                    continue
                ask = partial(function, **{**good, field: value})
                names = (field, *INSIDE.get((of, field), ()))
                if isinstance(value, str):  # a file says its own name
                    names = (*names, f"{value}:")
                yield Case("function", of, field, kind, ask, names)


INSIDE = {
    ("theory.from_dict", "table"): ("node",),
    ("sigprop.experiments.load_images", "source"): ("path",),
}
"""Other names that a refusal of a parameter may have: those of fields inside it."""


def commands() -> Iterator[Case]:
    """Every option of every command."""
    from tests.honesty.bad_commands import lines

    folder = _folder()
    for of, field, kind, words, names in lines():
        yield Case("command", of, field, kind, partial(_line, folder, words), names)


def files(*doors: str) -> Iterator[Case]:
    """Every field of the files of sweeps, studies and networks."""
    import tomli_w

    from tests.honesty.bad_commands import files

    folder = _folder()
    for door, field, kind, table, words, names in files():
        if door not in doors:
            continue

        def ask(table=table, words=words, door=door):
            (folder / "case.toml").write_text(tomli_w.dumps(table))
            store = [] if door == "network file" else ["--output", "out"]
            _line(folder, [*words, "case.toml", *store])

        yield Case(door, "", field, kind, ask, names)


@functools.cache
def _folder() -> Path:
    from tests.honesty.bad_commands import prepare

    folder = Path(tempfile.mkdtemp(prefix="sigprop-lines-"))
    prepare(folder)
    return folder


def _line(folder: Path, words: list[str]) -> None:
    """Run a command; a refusal with all that belongs to it is raised as a `ValueError`."""
    from sigprop.commands import main

    for name in ("out", "out.zarr", "runs"):
        shutil.rmtree(folder / name, ignore_errors=True)
    before = _content(folder)
    here = Path.cwd()
    out, err = io.StringIO(), io.StringIO()
    os.chdir(folder)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main(words)
    finally:
        os.chdir(here)
    if code in (0, 1, 3):
        return
    *said, last = err.getvalue().splitlines() or [""]
    if any(not line.startswith("sigprop: ") for line in said):
        raise ValueError("\n".join((*said, last)))
    assert code == 2, f"exit code {code}"
    assert not out.getvalue(), f"printed {out.getvalue()[:100]!r}"
    assert last.startswith("sigprop: "), last
    assert _content(folder) == before, f"wrote {_content(folder) ^ before}, {last}"
    raise ValueError(last)


def _content(folder: Path) -> set[tuple[str, int]]:
    own = ("case.toml", "__pycache__")
    found = (p for p in folder.rglob("*") if not set(own) & set(p.parts))
    return {(str(p.relative_to(folder)), p.stat().st_mtime_ns) for p in found}


DOORS = {
    "function": calls,
    "command": commands,
    "sweep file": partial(files, "sweep file"),
    "study file": partial(files, "study file"),
    "network file": partial(files, "network file"),
}


def main() -> None:
    """Print failures, and the table: of the doors that are named, by default all.

    A number before them takes only every so many cases of each.
    """
    words = sys.argv[1:]
    step = int(words.pop(0)) if words and words[0].isdecimal() else 1
    rows = {}
    for door in words or DOORS:
        counts: Counter[str] = Counter()
        for case in itertools.islice(DOORS[door](), 0, None, step):
            found = outcome(case)
            counts[found if found in (REFUSED, ACCEPTED, WORKS) else "failed"] += 1
            if found not in (REFUSED, ACCEPTED, WORKS):
                print(f"{case.label}: {found}", flush=True)
        rows[door] = counts
    print("| door | cases | refused | accepted | failed |\n|---|---|---|---|---|")
    for door, counts in rows.items():
        good = counts[ACCEPTED] + counts[WORKS]
        print(f"| {door} | {counts.total()} | {counts[REFUSED]} | {good} | {counts['failed']} |")


if __name__ == "__main__":
    import tests.conftest  # noqa: F401  (configures JAX as in the tests)

    main()
