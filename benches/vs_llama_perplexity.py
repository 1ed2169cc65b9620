#!/usr/bin/env python3
"""Speed of `eval-ppl` against llama-perplexity, on the same file, on the same machine, in turn.

    python benches/vs_llama_perplexity.py --llama-bin DIR --text FILE MODEL.gguf... [--threads 2] [--rounds 3] [--record OUT.json]

Each model is scored with windows of 512 tokens by llama-perplexity (its default batch of 2048 tokens, four windows side by side),
by `rwkv-quant eval-ppl --protocol llama.cpp`, and by the same with --fast. The best round counts. Tokens a second are those run:
llama-perplexity's are 2048 over the "seconds per pass" that it prints, ours 512 times the windows over the wall time of the whole
command with the start of the program, the reading of the text and the check of --fast left in.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = os.environ.get("RWKV_QUANT", ROOT / "target/release/rwkv-quant")
CTX, WINDOWS = 512, 16


def run(*command):
    """Runs a command: its output, wall seconds, and peak resident bytes."""
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        process = subprocess.Popen([str(c) for c in command], stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        text = log.read().decode(errors="replace")
    if process.returncode:
        raise SystemExit(f"{command} failed:\n{text}")
    return text, wall, usage.ru_maxrss * 1024


def llama(binaries, model, text, threads):
    out, _, peak = run(binaries / "llama-perplexity", "-m", model, "-f", text, "-c", CTX, "--chunks", WINDOWS, "-t", threads)
    return 4 * CTX / float(re.search(r"([\d.]+) seconds per pass", out)[1]), peak


def ours(model, text, threads, *more):
    command = [PROGRAM, "--format", "json", "eval-ppl", model, text, "--protocol", "llama.cpp", "--ctx", CTX]
    out, wall, peak = run(*command, "--windows", WINDOWS, "--threads", threads, *more)
    return CTX * WINDOWS / wall, peak, json.loads(out)["arithmetic_kl"]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("models", nargs="+", type=Path)
    ap.add_argument("--llama-bin", type=Path, required=True)
    ap.add_argument("--text", type=Path, required=True)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--record", type=Path)
    args = ap.parse_args()
    record = {"machine": platform.processor() or platform.machine(), "threads": args.threads, "models": []}
    for model in args.models:
        rounds = [
            (llama(args.llama_bin, model, args.text, args.threads), ours(model, args.text, args.threads), ours(model, args.text, args.threads, "--fast"))
            for _ in range(args.rounds)
        ]
        theirs, exact, fast = (max(r[i][0] for r in rounds) for i in range(3))
        row = {
            "model": model.name,
            "llama_perplexity": theirs,
            "exact": exact,
            "fast": fast,
            "exact_ratio": exact / theirs,
            "fast_ratio": fast / theirs,
            "fast_kl": rounds[0][2][2],
            "exact_peak_bytes": max(r[1][1] for r in rounds),
        }
        record["models"].append(row)
        print(json.dumps(row, indent=1))
    if args.record:
        args.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
