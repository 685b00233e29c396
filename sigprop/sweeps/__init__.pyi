from ._own_observables import Absent
from ._plan import Outcome, Pilot, Plan, outcome, plan
from ._sweep import AXES, Sweep
from ._sweep_files import read_sweep_file
from ._sweep_run import (
    SweepRun,
    merge_sweeps,
    read_sweep,
    run_sweep,
)
from ._sweep_status import SweepStatus, sweep_status
from ._sweep_store import dataset_of, open_store
from ._sweep_summary import summarise_sweep, summarised, sweep_theory

__all__ = [
    "AXES",
    "Absent",
    "Outcome",
    "Pilot",
    "Plan",
    "Sweep",
    "SweepRun",
    "SweepStatus",
    "dataset_of",
    "merge_sweeps",
    "open_store",
    "outcome",
    "plan",
    "read_sweep",
    "read_sweep_file",
    "run_sweep",
    "summarise_sweep",
    "summarised",
    "sweep_status",
    "sweep_theory",
]
