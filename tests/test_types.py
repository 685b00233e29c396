"""Shapes and types in signatures hold while a part of the tests runs. Checks at every call make
tests several times as slow, so that the others run without."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = (
    "theory/phases/test_on_numpy.py",
    "theory/mean_field/test_two_times.py",
    "sigprop/networks/test_recurrent.py",
    "sigprop/storage/test_store.py",
)
CHECKS = "--jaxtyping-packages=theory,sigprop,beartype.beartype"


@pytest.mark.slow
def test_annotations_hold():
    paths = [f"tests/{name}" for name in FILES]
    command = [sys.executable, "-m", "pytest", "-x", CHECKS, *paths]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:]


def test_wrong_shapes_are_noticed():
    """The checks are on: without them this would come to an end of another kind."""
    code = (
        "import jaxtyping; jaxtyping.install_import_hook(['theory'], 'beartype.beartype'); "
        "import numpy as np; from theory.mean_field._propagation import input_state; "
        "input_state(np.ones(3))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "TypeCheckError" in run.stderr
