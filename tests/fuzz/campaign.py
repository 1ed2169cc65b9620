#!/usr/bin/env python3
"""Runs the targets under libFuzzer, guided by coverage, and keeps what it learns.

    python tests/fuzz/campaign.py [--minutes N] [--only TARGET] [--slice SECONDS]

A target is done after 2 million executions, or 10 minutes without new coverage. Each run of this program goes on where
the last one ended, with the target that had the fewest seconds: inputs are kept in corpus/TARGET.tar.gz, minimized, and
figures in benches/record/fuzz.json, with a table in benches/record/fuzz.md. A finding is written to crashes/, and the
program ends with 1.
"""

import argparse
import gzip
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
RECORD = HERE.parents[1] / "benches/record/fuzz.json"
EXECUTIONS, QUIET_SECONDS = 2_000_000, 600
# Longest input, and most bytes of a target's corpus: 30 of them stay below 5 MB.
LONGEST, CORPUS_BYTES = 8192, 150_000
FLAGS = ["-Cpasses=sancov-module", "-Ccodegen-units=1", "-Cllvm-args=-sanitizer-coverage-level=3",
         "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters", "-Cllvm-args=-sanitizer-coverage-pc-table",
         "-Cllvm-args=-sanitizer-coverage-trace-compares"]


def build():
    """The program under libFuzzer, and the names of its targets."""
    host = re.search(r"host: (\S+)", subprocess.run(["rustc", "-vV"], capture_output=True, text=True).stdout)[1]
    environment = {**os.environ, "RUSTFLAGS": " ".join(FLAGS), "CARGO_PROFILE_RELEASE_LTO": "off"}
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", "--features", "coverage", "--bin", "coverage",
                    "--target", host], cwd=HERE, env=environment, check=True)
    program = HERE / f"target/{host}/release/coverage"
    listed = subprocess.run([program], env={**os.environ, "FUZZ_TARGET": "?"}, capture_output=True, text=True)
    return program, listed.stdout.split()


def unpack(target, folder):
    """Puts the inputs of earlier runs into a folder."""
    archive = HERE / f"corpus/{target}.tar.gz"
    folder.mkdir(parents=True)
    if archive.exists():
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")


def pack(target, folder):
    """Keeps the inputs of a folder, the shortest first; the same bytes for the same inputs."""
    inputs = sorted((path.read_bytes() for path in folder.iterdir()), key=lambda b: (len(b), b))
    plain, total = io.BytesIO(), 0
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, data in enumerate(inputs):
            total += len(data)
            if total > CORPUS_BYTES:
                break
            entry = tarfile.TarInfo(f"{number:04}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    (HERE / "corpus").mkdir(exist_ok=True)
    (HERE / f"corpus/{target}.tar.gz").write_bytes(gzip.compress(plain.getvalue(), mtime=0))


def fuzz(program, target, seconds, row):
    """Runs a target for so long, and adds to its figures; true if nothing was found."""
    with tempfile.TemporaryDirectory() as work:
        corpus, merged = pathlib.Path(work, "corpus", target), pathlib.Path(work, "merged")
        unpack(target, corpus)
        merged.mkdir()
        (HERE / "crashes").mkdir(exist_ok=True)
        environment = {**os.environ, "FUZZ_TARGET": target}
        options = [f"-max_len={LONGEST}", "-timeout=60", "-rss_limit_mb=2048"]
        run = subprocess.Popen([program, *options, f"-max_total_time={seconds}", "-print_final_stats=1", "-verbosity=1",
                                f"-artifact_prefix={HERE}/crashes/{target}-", corpus],
                               cwd=work, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                               errors="replace")
        start = last = time.monotonic()
        started, tail = False, []
        for line in run.stderr:
            tail = [*tail[-15:], line]
            started |= "INITED" in line
            if coverage := re.search(r"(\S+)\s+cov: (\d+) ft: (\d+)", line):
                what, edges, features = coverage[1], int(coverage[2]), int(coverage[3])
                # Features, which count how often edges are taken, grow for ever; edges are what is new.
                if started and what in ("NEW", "REDUCE") and edges > row["edges"]:
                    last = time.monotonic()
                row["edges"], row["features"] = max(row["edges"], edges), max(row["features"], features)
            if units := re.search(r"stat::number_of_executed_units:\s+(\d+)", line):
                row["executions"] += int(units[1])
        sound = run.wait() == 0
        now = time.monotonic()
        row["seconds"] += round(now - start)
        row["quiet_seconds"] = round(now - last) + (row["quiet_seconds"] if last == start else 0)
        if not sound:
            print("".join(tail))
            return False
        subprocess.run([program, *options, "-merge=1", merged, corpus], cwd=work, env=environment, capture_output=True,
                       check=True)
        row["inputs"] = len(list(merged.iterdir()))
        pack(target, merged)
    return True


def is_done(row):
    """True if there is no more to be learnt."""
    return row["executions"] >= EXECUTIONS or row["quiet_seconds"] >= QUIET_SECONDS


def write(rows):
    """Writes the figures, and a table of them."""
    RECORD.write_text(json.dumps(rows, indent=1) + "\n")
    lines = [f"| {name} | {row['executions']:,} | {row['seconds'] / 60:.0f} | {row['quiet_seconds']} | {row['edges']:,} | "
             f"{row['features']:,} | {row['inputs']} | {'yes' if is_done(row) else 'no'} |" for name, row in rows.items()]
    done, executions = sum(map(is_done, rows.values())), sum(row["executions"] for row in rows.values())
    RECORD.with_suffix(".md").write_text(
        "# Fuzzing guided by coverage\n\n`python tests/fuzz/campaign.py`: each target until 2 million executions or 10 minutes "
        f"without a new edge. {executions:,} executions so far, {done} of {len(rows)} targets done.\n\n"
        "| target | executions | minutes | seconds without a new edge | edges | features | inputs kept | done |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n" + "\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="how long to go on, in all")
    parser.add_argument("--slice", type=int, default=120, help="seconds with a target at a time")
    parser.add_argument("--only", help="one target, even if it is done")
    args = parser.parse_args()
    program, targets = build()
    rows = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    none = {"executions": 0, "seconds": 0, "quiet_seconds": 0, "edges": 0, "features": 0, "inputs": 0}
    rows = {name: rows.get(name, dict(none)) for name in targets if args.only in (None, name) or name in rows}
    end = time.monotonic() + 60 * args.minutes
    while time.monotonic() < end:
        left = [name for name, row in rows.items() if args.only == name or (not args.only and not is_done(row))]
        if not left:
            break
        name = min(left, key=lambda name: rows[name]["seconds"])
        sound = fuzz(program, name, args.slice, rows[name])
        write(rows)
        print(f"{name}: {rows[name]}", flush=True)
        if not sound:
            sys.exit(f"{name}: something was found: see tests/fuzz/crashes")


if __name__ == "__main__":
    main()
