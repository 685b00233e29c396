"""Ending by SIGINT or SIGTERM: one line that says what is kept and how to go on."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sigprop.commands._hosts import LINGER_SECONDS, leave_hosts

GRACE_SECONDS = 10.0 + LINGER_SECONDS
"""How long a command may take to end: batches in progress, files that are being written."""


class Stopped(KeyboardInterrupt):
    """A signal that ends the command, raised in its main thread."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


_kept: list[Callable[[], str]] = []


@contextmanager
def keeping(said: Callable[[], str]) -> Iterator[None]:
    """Say what is kept if a signal ends the work inside.

    Parameters
    ----------
    said
        Words for the line, such as "12 of 24 networks are in sweep.zarr"; called at the end.
    """
    _kept.append(said)
    try:
        yield
        _kept.pop()
    except Stopped:
        raise  # `stoppable` says the line, when all is written
    except BaseException:
        _kept.pop()
        raise


@contextmanager
def stoppable(name: str, command: str) -> Iterator[None]:
    """Let SIGINT and SIGTERM raise `Stopped`; the process ends 15 s later, or at a second signal.

    The exit code is then 128 + the number of the signal, 130 or 143. Nothing is done outside of
    the main thread.

    Parameters
    ----------
    name
        The name of the program, with which the line begins.
    command
        The line that goes on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _kept.clear()

    def line(number: int) -> str:
        try:
            kept = _kept[-1]() if _kept else "complete files are kept"
        except Exception:  # a store that is being made
            kept = "complete files are kept"
        return f"{name}: ended by {signal.Signals(number).name}; {kept}; go on with: {command}"

    def leave(number: int) -> None:
        shown = "\x1b[?25h" if sys.stderr.isatty() else ""  # the cursor, which bars hide
        print(shown + line(number), file=sys.stderr, flush=True)
        os._exit(128 + number)

    def watch() -> None:
        """Runs also while the main thread is inside a compiled program, which no signal ends."""
        timer = None
        while (byte := os.read(reader, 1)) and byte[0]:
            if byte[0] in numbers and timer is not None:
                leave(byte[0])
            elif byte[0] in numbers:
                timer = threading.Timer(GRACE_SECONDS, leave, byte)
                timer.daemon = True
                timer.start()
        if timer is not None:
            timer.cancel()

    def stop(number: int, _: object) -> None:
        for one in numbers:
            signal.signal(one, lambda *_: None)  # `watch` has seen it
        raise Stopped(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {number: signal.signal(number, stop) for number in numbers}
    wakeup = signal.set_wakeup_fd(writer)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except Stopped as stopped:
        print(line(stopped.number), file=sys.stderr, flush=True)
        leave_hosts(128 + stopped.number)
        raise SystemExit(128 + stopped.number) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.write(writer, b"\0")
        watcher.join()
        os.close(reader)
        os.close(writer)
