"""SIGINT and SIGTERM end a command with one line and the usual exit code."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

import sigprop
from sigprop.commands import _cli
from sigprop.commands._stop import keeping, stoppable


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_says_what_is_kept_and_how_to_go_on(capsys, number, code):
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]

    @stoppable("sigprop", "sigprop sweep run s.toml")
    @keeping(lambda: "3 of 4 networks are in s.zarr")
    def work():
        os.kill(os.getpid(), number)
        time.sleep(60)

    with pytest.raises(SystemExit) as ended:
        work()
    assert ended.value.code == code
    said = capsys.readouterr().err
    assert said == (
        f"sigprop: ended by {signal.Signals(number).name}; 3 of 4 networks are in s.zarr; go on "
        f"with: sigprop sweep run s.toml\n"
    )
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


STUCK = """
import ctypes, signal
from sigprop.commands import _stop
with _stop.stoppable("sigprop", "sigprop again"):
    # As inside a compiled program: the main thread does not handle signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    print("begun", flush=True)
    ctypes.CDLL(None).sleep(60)
"""


def test_a_second_signal_ends_at_once_whatever_runs():
    command = [sys.executable, "-c", STUCK]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 143
    assert said == "sigprop: ended by SIGTERM; complete files are kept; go on with: sigprop again\n"


def test_a_sweep_goes_on_after_a_signal(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(
        'activation = "erf"\nweight_variance = [1.0, 2.0]\ndepth = 4\nwidth = 8\nreplicas = 4\n'
    )

    @contextmanager
    def ending(quiet):
        yield lambda progress: os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as first:
        first.setattr("sigprop.commands._output.progress_bars", ending)
        with pytest.raises(SystemExit) as ended:
            _cli.main(["sweep", "run", "s.toml", "--output", "s.zarr"])
    assert ended.value.code == 143
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("sigprop: ended by SIGTERM; ")
    assert line.endswith(
        " of 8 networks are in s.zarr; go on with: sigprop sweep run s.toml --output s.zarr"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.toml", "s.zarr"]
    assert _cli.main(["sweep", "run", "s.toml", "--output", "s.zarr"]) == 0
    assert sigprop.sweep_status("s.zarr").done == 8
