"""Progress of a long computation: one message type for every function that reports it."""

import time
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from theory.numerics._arguments import check_callable


class Progress(NamedTuple):
    """Progress of a long computation. Its text is one line, so that `progress=print` works.

    Examples
    --------
    >>> print(Progress("networks of width 64", 30, 100, seconds=3.0, remaining=7.0))
    networks of width 64: 30 of 100, 7.0 s left
    """

    what: str
    """What is counted."""
    done: int
    total: int
    """0 where nothing is counted."""
    seconds: float
    """Seconds since the work began."""
    remaining: float
    """Estimated seconds until it ends; nan until something is done."""

    def __str__(self) -> str:
        if self.total == 0:  # not counted
            return self.what
        return f"{self.what}: {self.done} of {self.total}" + (self.left and f", {self.left}")

    @property
    def left(self) -> str:
        """The remaining time in words; empty before the work begins and when it is done."""
        return f"{clock(self.remaining)} left" if 0 < self.done < self.total else ""


Report: TypeAlias = Callable[[Progress], object]
"""The type of `progress` arguments: called before the work begins and after each piece of it."""


def counter(report: Report | None, what: str, total: int) -> Callable[..., None]:
    """Make a function that takes the amount done and reports it.

    Its second argument is the share of the work done, if pieces differ in size.
    """
    if report is not None:
        check_callable("progress", report, 1, "a Progress")
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
    """Format seconds for people."""
    if seconds != seconds:
        return "unknown"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
