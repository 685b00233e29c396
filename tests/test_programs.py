"""How many programs public functions compile, and how large: a budget, so that it cannot rot."""

import json
import os
import subprocess
import sys
from pathlib import Path

BUDGET = {
    "predict": (20, 1000),
    "predict, another activation": (3, 1400),
    "predict, residual": (1, 30),
    "predict, closed form": (5, 250),
    "predict, O(4)": (2, 60),
    "sectors": (1, 30),
    "fixed_points": (4, 100),
    "critical_points": (3, 70),
    "critical_line": (5, 100),
    "stationary_state": (1, 30),
    "propagate": (5, 120),
    "length_correction": (3, 4650),
    "singular_value_quantiles": (10, 300),
    "phase_diagram": (6, 41000),
}
"""Programs, and the instructions they hold before XLA sees them, for the first call in this order;
another call with other numbers compiles none."""


def test_no_function_compiles_more_than_its_budget(tmp_path):
    script = Path(__file__).with_name("programs.py")
    environment = {**os.environ, "JAX_DUMP_IR_TO": str(tmp_path), "XLA_FLAGS": ""}
    run = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=True
    )
    seen = {name: rest for name, *rest in map(json.loads, run.stdout.splitlines())}
    assert seen.keys() == BUDGET.keys()
    over = {
        name: (found, BUDGET[name])
        for name, found in seen.items()
        if found[0] > BUDGET[name][0] or found[1] > BUDGET[name][1] or found[2]
    }
    assert not over
