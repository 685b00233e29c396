"""The output of the command line: folders, figures, tables, progress bars, JSON."""

import json
import math
import os
import re
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from theory.numerics import Progress, Report

SUFFIXES = (".png", ".pdf")
"""The formats of every figure."""
DPI = 300
"""Pixels per inch of PNG files."""
_PATIENCE = 1.0
"""Seconds before a command says that it is loading."""
_SILENT = 2.0
_EVERY = 30.0
"""Seconds before the first line of progress, and between two, if there is no terminal."""


class BadInput(ValueError):
    """A command cannot do what was requested; the message is one line for the user."""


_LONGEST = 600
"""Characters of a message."""


def printable(text: str) -> str:
    """The text on one line, without what a terminal would obey, and not endless."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 63]} ... {line[-58:]}"


@contextmanager
def checked(**options: str) -> Iterator[None]:
    """Turn a `ValueError`, `TypeError` or `OSError` raised inside into `BadInput` about options.

    Messages of the library begin with the field, as in "`weight_variance`: must be ..."; the
    field becomes the option of the same name, or the one given by keyword. An argument without
    an option is given in capitals, as help shows it. The keyword `anything` is for messages that
    begin with no field.
    """

    def as_option(match: re.Match[str]) -> str:
        name = options.get(match[1], match[1])
        return name if name.isupper() else "--" + name.replace("_", "-")

    try:
        yield
    except BadInput:
        raise
    except (ValueError, TypeError, OSError) as error:
        said = str(error)
        named = said.startswith(("`", "--"))
        if isinstance(error, TypeError) and not named and "anything" not in options:
            raise  # not about an option
        if "anything" in options and not named:
            said = f"`{options['anything']}`: {said}"
        raise BadInput(re.sub(r"^`(\w+)`", as_option, said)) from error


@contextmanager
def fields_of(path: Path, kind: type, *options: str) -> Iterator[None]:
    """Name the file in errors about a field of it, unless it is also an option of the command."""
    try:
        yield
    except (ValueError, TypeError) as error:
        field = re.match(r"`(\w+)`", str(error))
        if field and field[1] in kind.__dataclass_fields__.keys() - set(options):
            raise BadInput(f"{path}: {error}") from error
        raise


def output_folder(output: Path | None, command: str, figures: list[str], stores: list[str]) -> Path:
    """Create the folder that a command will write to; leave nothing behind if that fails.

    Raises
    ------
    BadInput
        If the folder cannot be created or written to, or if something else is in the place of a
        figure or a store.
    """
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = Path("runs") / f"{command}-{stamp}" if output is None else output
    try:
        os.lstat(folder)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # too long a name, a loop of links, NUL
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"--output: must be a writable folder; got {reason}, {folder}") from error
    for path in [folder / f"{name}{suffix}" for name in figures for suffix in SUFFIXES]:
        if path.is_dir():
            raise BadInput(f"--output: must not contain a folder named {path.name}; got {folder}")
    for path in [folder / f"{name}.zarr" for name in stores]:
        free = not path.exists() or (path / "zarr.json").is_file()
        if not free:
            raise BadInput(f"--output: must not contain another {path.name}; got {folder}")
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise BadInput(f"--output: must be a writable folder; got {folder} ({reason})") from error
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()
    return folder


def save_figure(figure: "Figure", folder: Path, name: str) -> list[str]:
    """Write a figure in every format, each file completely or not at all; return the paths."""
    from sigprop.figures import styled

    figure.set_dpi(DPI)
    with styled():
        figure.draw_without_rendering()
    figure.set_layout_engine("none")  # keeps the layout, which takes most of the time to compute
    paths = []
    for suffix in SUFFIXES:
        path = folder / f"{name}{suffix}"
        partial = folder / f".{name}.{secrets.token_hex(4)}{suffix}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with styled():
                figure.savefig(partial, dpi=DPI)
            os.replace(partial, path)
        except OSError as error:
            reason = error.strerror or error
            raise BadInput(f"--output: must be writable; got {reason} for {path}") from error
        finally:
            partial.unlink(missing_ok=True)
        paths.append(str(path))
    return paths


def store(
    dataset: "xr.Dataset",
    draw: Callable[[], "Figure"],
    folder: Path,
    name: str,
    origin: Mapping[str, Any],
) -> list[str]:
    """Write the data, and then the figure, of a command; return the paths."""
    from sigprop.storage import write_dataset

    path = folder / f"{name}.zarr"
    with checked(path="output"):
        write_dataset(dataset, path, provenance=origin)
    return [str(path), *save_figure(draw(), folder, name)]


def number(value: Any) -> float | None:
    """Convert a number for strict JSON: null if it is infinite or not a number."""
    value = float(value)
    return value if math.isfinite(value) else None


def with_error(value: float | None, error: float | None, digits: int = 2) -> str:
    """A cell of a table; empty if there is no value."""
    if value is None:
        return ""
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout; a NaN or an infinity in it is an error."""
    print(json.dumps(value, allow_nan=False))


def table(title: str, *columns: str) -> Table:
    """An empty table with right-aligned numbers."""
    made = Table(title=title, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        made.add_column(column, justify="left" if i == 0 else "right")
    return made


def show(*items: Any) -> None:
    """Print tables and lines on stdout, as plain text unless it is a terminal."""
    _speak()
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=100)
    for item in items:
        console.print(item, markup=False, soft_wrap=isinstance(item, str))


def report(
    found: Mapping[str, Any],
    files: list[str],
    asked: Mapping[str, Any],
    shown: Callable[[], list[Any]],
    folder: Path,
    as_json: bool,
) -> None:
    """Report the results and the files written: as JSON, or in tables and lines."""
    if as_json:
        print_json({**found, "files": files, "parameters": asked})
    else:
        show(*shown(), f"written to {folder}")


@contextmanager
def explained(text: str) -> Iterator[None]:
    """Print a line on stderr if what runs inside has said nothing after a moment."""
    global _explanation
    stream = sys.stderr
    _explanation = threading.Timer(
        _PATIENCE, lambda: print(f"sigprop: {text}", file=stream, flush=True)
    )
    _explanation.daemon = True
    _explanation.start()
    try:
        yield
    finally:
        _explanation.cancel()


_explanation: threading.Timer | None = None


def _speak() -> None:
    """Before anything else is printed: nothing needs to be explained any more."""
    if _explanation is not None:
        _explanation.cancel()


@contextmanager
def progress_bars(quiet: bool) -> Iterator["Report"]:
    """Yield a `progress` argument that draws on stderr: bars on a terminal, otherwise lines.

    Nothing is drawn if `quiet`.
    """
    if quiet:
        yield lambda p: None
    elif sys.stderr.isatty():
        with _bars() as update:
            yield update
    else:
        yield _lines()


def _lines() -> "Report":
    """Print a line now and then, for logs; short tasks print nothing."""
    due = time.monotonic() + _SILENT

    def line(p: "Progress") -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + _EVERY
            print(f"sigprop: {p}", file=sys.stderr, flush=True)

    return line


@contextmanager
def _bars() -> Iterator["Report"]:
    _speak()
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    left = TextColumn("{task.fields[left]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), left)
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def update(p: "Progress") -> None:
            if p.what not in tasks:
                tasks[p.what] = bars.add_task(p.what, total=p.total, left="")
            bars.update(tasks[p.what], completed=p.done, total=p.total, left=p.left)

        yield update
