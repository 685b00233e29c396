"""Reduce finished studies to the small files in docs/data that the pages show.

    python docs/collect_training.py NAME STUDY.toml FOLDER [--depth 100] [--data FOLDER]

NAME is the file to write. STUDY and FOLDER are the input and output of `sigprop train`. Missing
networks are left out; the file records how many there are.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from sigprop.experiments import read_study, study_dataset

DATA = Path(__file__).parent / "data"
LAST_TURN = ("similarity", "spread")
EXPONENTS = (
    "free_exponents",
    "free_standard_error",
    "free_alignment",
    "free_length",
    "held_exponents",
    "held_standard_error",
    "held_alignment",
)
"""Of a recurrent network behind training, from the first test sequence on."""


def networks(found) -> list[dict]:
    """One entry for every architecture, gain, rate and seed that is ready."""
    rows = []
    axes = ("architecture", "gain", "learning_rate", "seed")
    # Without a symmetry there is no generator, and xarray does not stack empty variables.
    found = found.drop_dims([dim for dim, size in found.sizes.items() if size == 0])
    stacked = found.stack(network=axes)
    for i in range(stacked.sizes["network"]):
        one = stacked.isel(network=i)
        if not int(one["ready"]):
            continue
        number = lambda x: [None if not np.isfinite(v) else float(f"{v:.4g}") for v in np.ravel(x)]
        row = {axis: one[axis].item() for axis in axes}
        row["parameters"] = int(one["parameters"])
        row["failed"] = int(one["failed"].isel(record=-1))
        row["step"] = number(one["record_step"])
        for name in ("test_accuracy", "test_success", "test_loss", "order_parameter"):
            row[name] = number(one[name])
        for name in LAST_TURN:
            row[name] = number(one[name].isel(layer=-1))
        # Log ratio of the gradient at the last layer to that at the first.
        row["gradient_ratio"] = number(
            one["log_gradient"].isel(layer=-1) - one["log_gradient"].isel(layer=0)
        )
        if "charge_drift" in one:
            row["charge_drift"] = number(one["charge_drift"].max("generator"))
        for name in (n for n in EXPONENTS if n in one):
            row[name] = number(one[name].isel(record=-1, input=0))
        if "class_similarity" in one:
            row["class_similarity"] = number(one["class_similarity"].isel(layer=-1))
        rows.append(row)
    return rows


def asked_for(description, argv=None):
    """A name, a study, what is ready of it, and the command that trained it."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("name")
    parser.add_argument("study", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--depth", type=int)
    parser.add_argument("--delay", type=int)
    parser.add_argument("--permuted", action="store_true", default=None)
    parser.add_argument("--data")
    options = parser.parse_args(argv)
    instead = {"depth": options.depth, "delay": options.delay, "permuted": options.permuted}
    instead["data"] = options.data
    study = read_study(options.study, **{k: v for k, v in instead.items() if v is not None})
    asked = "".join(f" --{k} {v}" for k, v in instead.items() if k in ("depth", "delay") and v)
    asked += " --permuted" if options.permuted else ""
    asked += " --data FOLDER" if options.data else ""
    command = f"sigprop train scripts/studies/{options.study.name}{asked}"
    return options.name, study, study_dataset(study, options.folder), command


def write(name, content):
    """A file in docs/data, with a line for every row."""
    text = json.dumps(content).replace('{"architecture"', '\n{"architecture"')
    (DATA / f"{name}.json").write_text(text + "\n")


def main(argv=None):
    name, study, found, command = asked_for((__doc__ or "").split("\n")[0], argv)
    rows = networks(found)
    content = {
        "command": command,
        "depth": study.depth,
        "epochs": study.epochs,
        "batch": study.batch,
        "optimiser": study.optimiser,
        "ready": len(rows),
        "of": len(study.members),
        "date": time.strftime("%Y-%m-%d"),
        "networks": rows,
    }
    write(name, content)
    print(f"{len(rows)} of {len(study.members)} networks")


if __name__ == "__main__":
    main()
