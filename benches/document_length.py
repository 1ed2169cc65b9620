#!/usr/bin/env python3
"""Time a token and memory of `eval-ppl --document`, for documents of 1k to 64k tokens.

    python benches/document_length.py MODEL... [--tokens 1024,4096,16384,65536] [--threads 2] [--rounds 3] [--record OUT.json]

The state of RWKV has one size, so a token of a long document must cost what one of a short document costs. The text is
testdata/heldout.txt, repeated as often as needed. Every length is run in turn; the fastest round counts. The time of a round is
the wall time of the whole command less that of the same command on two tokens (start, opening the model, vocabulary). Prints a
table in Markdown.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = os.environ.get("RWKV_QUANT", ROOT / "target/release/rwkv-quant")


def run(*command):
    """Runs a command: its output, wall seconds, and peak resident bytes."""
    with tempfile.TemporaryFile() as out:
        start = time.perf_counter()
        process = subprocess.Popen([str(c) for c in command], stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read().decode()
    if process.returncode:
        raise SystemExit(f"{command} failed")
    return text, wall, usage.ru_maxrss * 1024


def documents(model, lengths, folder):
    """Files with the first tokens of the text, by number of tokens."""
    text = folder / "text.txt"
    held = (ROOT / "testdata/heldout.txt").read_bytes()
    text.write_bytes(held * (1 + 6 * max(lengths) // len(held)))
    ids = run(PROGRAM, "tokenize", "--model", model, "--file", text)[0].split()
    assert len(ids) >= max(lengths), f"{len(ids)} tokens of text are too few"
    files = {}
    for n in (2, *lengths):
        files[n] = folder / f"{n}.ids"
        files[n].write_text(" ".join(ids[:n]))
    return files


def measure(model, lengths, threads, rounds):
    with tempfile.TemporaryDirectory() as folder:
        files = documents(model, lengths, Path(folder))
        best = {}
        for _ in range(rounds):
            for n, file in files.items():
                command = [PROGRAM, "--format", "json", "eval-ppl", model, file, "--document", "--threads", threads]
                out, wall, peak = run(*command)
                assert json.loads(out)["scored"]["tokens"] == n - 1
                best[n] = min(best.get(n, (wall, peak)), (wall, peak))
    start = best[2][0]
    rows = [
        {"tokens": n, "seconds": best[n][0] - start, "us_per_token": 1e6 * (best[n][0] - start) / n, "peak_bytes": best[n][1]}
        for n in lengths
    ]
    return {"model": model.name, "start_seconds": start, "documents": rows}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("models", nargs="+", type=Path)
    ap.add_argument("--tokens", default="1024,4096,16384,65536", help="lengths, the shortest first")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--record", type=Path)
    args = ap.parse_args()
    lengths = [int(n) for n in args.tokens.split(",")]
    record = {"machine": platform.processor() or platform.machine(), "threads": args.threads, "rounds": args.rounds}
    record["models"] = [measure(model, lengths, args.threads, args.rounds) for model in args.models]
    print("| model | tokens | seconds | us a token | against the shortest | peak MB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for model in record["models"]:
        first = model["documents"][0]["us_per_token"]
        for row in model["documents"]:
            growth = row["us_per_token"] / first
            print(f"| {model['model']} | {row['tokens']} | {row['seconds']:.2f} | {row['us_per_token']:.1f} | {growth:.2f} | {row['peak_bytes'] / 1e6:.0f} |")
    if args.record:
        args.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
