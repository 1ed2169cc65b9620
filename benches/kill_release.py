#!/usr/bin/env python3
"""Kills the release of testdata/release.toml at random moments and runs it again: what is it in the end?

    python benches/kill_release.py [--program FILE] [--kills 20] [--seed 1] [--record benches/record/kill_release.json]

Each time the release starts in an empty folder, gets SIGKILL at a moment spread evenly over the time that a whole run
takes, and is run again to its end. Then every file but the summaries, which tell of a run, must have the bytes of a
release that was never killed, and nothing else may be left.
"""

import argparse
import hashlib
import json
import os
import pathlib
import platform
import random
import shutil
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def files(folder):
    """The SHA-256 of every file of a release."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    named = {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}
    return {name: digest for name, digest in named.items() if not name.startswith("summary")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default=str(ROOT / "target/release/rwkv-quant"))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", type=pathlib.Path)
    args = parser.parse_args()
    work = pathlib.Path(tempfile.mkdtemp())
    command = [args.program, "--format", "quiet", "batch", str(ROOT / "testdata/release.toml"), "--shard", "1/1", "--out"]
    start = time.monotonic()
    subprocess.run([*command, str(work / "whole")], check=True)
    took = time.monotonic() - start
    whole = files(work / "whole")
    moments = random.Random(args.seed)
    runs = []
    for number in range(args.kills):
        out = work / "killed"
        moment = moments.uniform(0, took)
        child = subprocess.Popen([*command, str(out)])
        time.sleep(moment)
        child.kill()
        was_killed = child.wait() == -9
        left = len(files(out)) if out.exists() else 0
        subprocess.run([*command, str(out)], check=True)
        same = files(out) == whole
        runs.append({"moment": round(moment, 2), "killed": was_killed, "files_left": left, "same_in_the_end": same})
        print(f"{number + 1}: killed after {moment:.2f} s with {left} files there, in the end {'the same' if same else 'OTHER'}")
        shutil.rmtree(out)
    shutil.rmtree(work)
    record = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "seconds_of_a_whole_run": round(took, 2),
        "files": len(whole),
        "killed": sum(run["killed"] for run in runs),
        "same_in_the_end": sum(run["same_in_the_end"] for run in runs),
        "runs": runs,
    }
    if args.record:
        args.record.write_text(json.dumps(record, indent=1) + "\n")
    if not all(run["same_in_the_end"] for run in runs):
        raise SystemExit("a release that was killed and run again is not the same")


if __name__ == "__main__":
    main()
