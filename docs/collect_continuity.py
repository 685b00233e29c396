"""Reduce finished studies of continuity to the small files in docs/data that the page shows.

    python docs/collect_continuity.py NAME FILE FOLDER [--depth 24]

NAME is the entry to write in docs/data/continuity.json, or for a study of transformers in
docs/data/projections.json; FILE and FOLDER are what `sigprop train` was given and wrote.
"""

import argparse
import json
import time
from pathlib import Path

from sigprop.experiments import read_study, study_dataset
from sigprop.experiments._continuity_study import study_rows
from sigprop.experiments._projections_study import projection_rows


def short(x):
    """Numbers to four digits; without the single networks."""
    if isinstance(x, dict):
        return {k: short(v) for k, v in x.items() if k != "each"}
    return float(f"{x:.4g}") if isinstance(x, float) else x


def course(found, row):
    """What a row says of the end, over training: the peaks and their steps, the overlap of the
    leading direction with the mean input, and the certificate where there is one."""
    here = {k: row[k] for k in ("architecture", "gain", "learning_rate")}
    own = found.sel(here).dropna("seed", how="all")
    result = {}
    for side in ("right", "left"):
        mean = own[side].mean(["pair", "seed"])
        top = int(mean.argmax("record"))
        result[f"{side}_peak"] = {
            "mean": float(mean[top]),
            "step": int(own["record_step"].isel(record=top).max()),
        }
    if "right_on_mean_input" in own:
        each = own["right_on_mean_input"].isel(record=-1).mean("layer")
        count = int(each.notnull().sum())
        error = float(each.std(ddof=1)) / count**0.5 if count > 1 else None
        result["right_on_mean_input"] = {"mean": float(each.mean()), "standard_error": error}
    if "certificate_residual" in own and bool(own["certificate_residual"].notnull().any()):
        result["certificate_residual_at_most"] = float(own["certificate_residual"].max())
        result["certificate_claim_at_least"] = float(own["certificate_claim"].min())
    return result


def main(argv=None):
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name")
    parser.add_argument("study", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--depth", type=int)
    options = parser.parse_args(argv)
    instead = {} if options.depth is None else {"depth": options.depth}
    study = read_study(options.study, **instead)
    found = study_dataset(study, options.folder)
    if "projections" in study.measures:
        file, rows = "projections", projection_rows(study, found)
    else:
        file = "continuity"
        rows = [row | course(found, row) for row in study_rows(found)]
    asked = "" if options.depth is None else f" --depth {options.depth}"
    path = Path(__file__).parent / "data" / f"{file}.json"
    content = json.loads(path.read_text()) if path.is_file() else {}
    content[options.name] = {
        "command": f"sigprop train scripts/studies/{options.study.name}{asked}",
        "date": time.strftime("%Y-%m-%d"),
        "rows": [short(row) for row in rows],
    }
    text = json.dumps(content).replace('{"architecture"', '\n{"architecture"')
    path.write_text(text + "\n")
    print(f"{sum(row['networks'] for row in rows)} entries in {len(rows)} rows")


if __name__ == "__main__":
    main()
