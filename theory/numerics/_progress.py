"""How far a long computation is: one kind of message for every function that reports progress."""

import time
from collections.abc import Callable
from typing import NamedTuple, TypeAlias


class Progress(NamedTuple):
    """How far a long computation is. As text it is a line, so that `progress=print` shows it.

    Examples
    --------
    >>> print(Progress("networks of width 64", 30, 100, seconds=3.0, remaining=7.0))
    networks of width 64: 30 of 100, 7.0 s left
    """

    what: str
    """What is counted."""
    done: int
    total: int
    seconds: float
    """Since the work began."""
    remaining: float
    """Estimated seconds until it ends; nan until something is done."""

    def __str__(self) -> str:
        if self.total == 1:
            return self.what
        left = f", {clock(self.remaining)} left" if 0 < self.done < self.total else ""
        return f"{self.what}: {self.done} of {self.total}{left}"


Report: TypeAlias = Callable[[Progress], object]
"""What a `progress` argument takes: called before the work begins and after each piece of it."""


def counter(report: Report | None, what: str, total: int) -> Callable[..., None]:
    """A function of what is done that reports it.

    Its second argument is the share of the work that this is, where pieces differ in size.
    """
    start = time.perf_counter()

    def count(done: int, share: float | None = None) -> None:
        if report is None:
            return
        seconds = time.perf_counter() - start
        share = done / max(total, 1) if share is None else share
        remaining = seconds * (1 - share) / share if share > 0 else float("nan")
        report(Progress(what, done, total, seconds, remaining))

    return count


def clock(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds != seconds:
        return "unknown"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
