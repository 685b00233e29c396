"""A writer that is killed before any change of a file loses nothing and leaves nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import sigprop

SCRIPT = Path(__file__).with_name("kills.py")
SWEEP = sigprop.Sweep(
    activation="erf",
    weight_variance=(1.0, 2.0, 3.0),
    bias_variance=(0.0, 0.1),
    depth=4,
    width=8,
    replicas=4,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("kills") / "source.zarr"
    sigprop.run_sweep(SWEEP, path, chunk=4)
    return path


def kills(source, kind, step):
    """How often the script has killed; it ends with an error where something was lost."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "JAX_ENABLE_X64": "1",
    }
    command = [sys.executable, "-W", "ignore", str(SCRIPT), str(source), kind, str(step)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return int(run.stdout)


@pytest.mark.parametrize("kind, fewest", [("grow", 4), ("replace", 4)])
def test_a_kill_between_two_stores_loses_nothing(source, kind, fewest):
    assert kills(source, kind, 0) >= fewest


@pytest.mark.parametrize("kind", ["run", "checkpoint"])
def test_a_kill_before_some_changes_loses_nothing(source, kind):
    assert kills(source, kind, 150) >= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, fewest",
    [
        ("grow", 500),
        ("merge", 200),
        ("replace", 20),
        ("run", 200),
        ("study", 150),
        ("checkpoint", 200),
    ],
)
def test_a_kill_before_any_change_loses_nothing(source, kind, fewest):
    assert kills(source, kind, 1) >= fewest
