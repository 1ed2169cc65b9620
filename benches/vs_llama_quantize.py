#!/usr/bin/env python3
"""Speed of every file type: rwkv-quant against llama-quantize, from one bf16 GGUF file, in one run, with 2 threads each.

    python benches/vs_llama_quantize.py --llama-bin DIR [--rounds 3] [--types q8_0,q4_k_m] [--record FILE.json]

The model is random, with the shape of the 0.4B release of RWKV-7 (24 layers, 1024 channels, vocabulary 65536). Both programs are
asked for the same types for the same tensors (`--mix llama.cpp`), and the two files are compared tensor by tensor: they must
be the same bytes. Inputs are in the page cache; wall time, CPU time and peak memory come from wait4.

Build first: cargo build --release --bins --examples. DIR is the folder of llama-quantize.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from vs_llama_cpp import ROOT, run

TYPES = "q8_0 q6_k q5_k_m q5_1 q5_0 q4_k_m q4_1 q4_0 q3_k_m q2_k iq4_nl iq4_xs".split()
THREADS = 2


def tensors(rwkv_quant, path):
    """{name: SHA-256 of the bytes} of a GGUF file; read piece by piece, since a child's peak memory starts at ours."""
    listing = subprocess.run([rwkv_quant, "--format", "json", "inspect", path], check=True, capture_output=True).stdout
    hashes = {}
    with path.open("rb") as file:
        for t in json.loads(listing)["tensors"]:
            file.seek(t["offset"])
            digest, left = hashlib.sha256(), t["bytes"]
            while left:
                piece = file.read(min(left, 1 << 20))
                digest.update(piece)
                left -= len(piece)
            hashes[t["name"]] = digest.hexdigest()
    return hashes


def measure(args, work):
    checkpoint, source = work / "model.pth", work / "bf16.gguf"
    subprocess.run([args.rwkv_quant.parent / "examples/gen_checkpoint", checkpoint, "0.4b"], check=True)
    run(args.rwkv_quant, "convert", checkpoint, source, "--type", "bf16")
    checkpoint.unlink()
    results = {}
    for kind in args.types:
        ours, theirs = work / "ours.gguf", work / "theirs.gguf"
        commands = {
            "rwkv-quant": [args.rwkv_quant, "convert", source, ours, "--type", kind, "--mix", "llama.cpp",
                           "--threads", THREADS, "--force"],
            "llama-quantize": [args.llama_bin / "llama-quantize", source, theirs, kind.upper(), THREADS],
        }  # fmt: skip
        runs = {name: [] for name in commands}
        for _ in range(args.rounds):
            for name, command in commands.items():
                runs[name].append(run(*command))
        if tensors(args.rwkv_quant, ours) != tensors(args.rwkv_quant, theirs):
            sys.exit(f"{kind}: the two files differ")
        results[kind] = {
            name: {"wall_s": [r[0] for r in rs], "cpu_s": [r[1] for r in rs], "peak_bytes": max(r[2] for r in rs)}
            for name, rs in runs.items()
        }
    return results


def markdown(results):
    lines = [
        "| type | rwkv-quant s | llama-quantize s | times as fast | CPU s | CPU s | peak MB | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, r in results.items():
        ours, theirs = r["rwkv-quant"], r["llama-quantize"]
        best = lambda x: min(x["wall_s"])
        cpu = lambda x: statistics.median(x["cpu_s"])
        lines.append(
            f"| {kind} | {best(ours):.2f} | {best(theirs):.2f} | {best(theirs) / best(ours):.1f} "
            f"| {cpu(ours):.2f} | {cpu(theirs):.2f} | {ours['peak_bytes'] / 1e6:.0f} | {theirs['peak_bytes'] / 1e6:.0f} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description="rwkv-quant against llama-quantize, type by type.")
    parser.add_argument("--llama-bin", type=Path, required=True)
    parser.add_argument("--rwkv-quant", type=Path, default=ROOT / "target/release/rwkv-quant")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--types", type=lambda t: t.split(","), default=TYPES)
    parser.add_argument("--work", type=Path, help="folder for about 4 GB of files (a temporary one)")
    parser.add_argument("--record", type=Path, help="write the measurements here as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        load_before = os.getloadavg()[0]
        results = measure(args, Path(work))
    print(markdown(results))
    if args.record:
        about = {
            "model": "RWKV-7, 24 x 1024, vocabulary 65536, bf16 GGUF, random",
            "threads": THREADS,
            "load_before": load_before,
            "load_after": os.getloadavg()[0],
            "rounds": args.rounds,
        }
        args.record.write_text(json.dumps(about | {"results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
