"""Reduce finished studies of continuity to the small files in docs/data that the page shows.

    python docs/collect_continuity.py NAME FILE FOLDER [--depth 24]

NAME is the entry to write in docs/data/continuity.json, or for a study of transformers in
docs/data/projections.json; FILE and FOLDER are the input and output of `sigprop train`.
"""

import json
import time

from collect_training import DATA, asked_for, write

from sigprop.commands._continuity_study import study_rows
from sigprop.commands._projections_study import projection_rows


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
    name, study, found, command = asked_for((__doc__ or "").split("\n")[0], argv)
    if "projections" in study.measures:
        file, rows = "projections", projection_rows(study, found)
    else:
        file = "continuity"
        rows = [row | course(found, row) for row in study_rows(found)]
    path = DATA / f"{file}.json"
    content = json.loads(path.read_text()) if path.is_file() else {}
    date = time.strftime("%Y-%m-%d")
    content[name] = {"command": command, "date": date, "rows": [short(row) for row in rows]}
    write(file, content)
    print(f"{sum(row['networks'] for row in rows)} entries in {len(rows)} rows")


if __name__ == "__main__":
    main()
