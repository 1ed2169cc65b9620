"""Counts of a release, against which the checks of this folder hold what was made.

python3 count.py PROGRAM RELEASE WHAT prints one of
  cells    cells of the testdata job, as `batch --list` lists them: all of them must be in the release's summary
  good     those that were made
  absent   those whose target cannot hold the model
  last     those of the last model that were made
  plots    plots of the report: two for each model with quantized files
"""

import json
import subprocess
import sys

program, release, what = sys.argv[1:]
listed = subprocess.check_output([program, "--format", "json", "batch", "testdata/release.toml", "--list"])
listed = sorted(path for row in json.loads(listed)["include"] for path in row["artifacts"])
with open(f"{release}/summary.json") as file:
    cells = json.load(file)["cells"]
assert sorted(c["path"] for c in cells) == listed, "the summary is not of the cells that are listed"
good = [c for c in cells if c["fate"] in ("made", "kept")]
absent = [c for c in cells if c["fate"] == "inapplicable"]
assert len(good) + len(absent) == len(cells), "some cells were not made"
for model in {c["model"] for c in cells}:
    assert sum(c["model"] == model for c in good) >= 6, f"{model} has too few artifacts"
print({
    "cells": len(cells),
    "good": len(good),
    "absent": len(absent),
    "last": sum(c["model"] == cells[-1]["model"] for c in good),
    "plots": 2 * len({c["model"] for c in good if c["type"] not in ("f32", "f16", "bf16")}),
}[what])
