#!/usr/bin/env python3
"""Time that checksums (one SHA-256 a tensor) add to a plain conversion.

    python benches/checksums.py MODEL [--pairs 11] [--type q8_0] [--record benches/record/checksums.json]

Converts the model with and without --no-checksums, in turns, and compares wall and processor time within each pair. MODEL may be
synthetic: `cargo run --release --example gen_checkpoint -- MODEL 0.4b`. The output goes to a folder in memory if there is one.
The program is target/release/rwkv-quant, or the one that RWKV_QUANT names.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = os.environ.get("RWKV_QUANT", ROOT / "target/release/rwkv-quant")


def seconds(command):
    """Wall time and processor time of a command."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True)
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--type", default="q8_0")
    parser.add_argument("--record", type=Path)
    args = parser.parse_args()
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as work:
        plain = [PROGRAM, "--format", "quiet", "convert", args.model, Path(work, "out.gguf"), "--type", args.type, "--force"]
        seconds(plain)  # so that the model is in memory
        pairs = [[seconds(plain), seconds([*plain, "--no-checksums"])] for _ in range(args.pairs)]
        ratios = [[with_[i] / without[i] for with_, without in pairs] for i in range(2)]
        found = {
            "model_bytes": args.model.stat().st_size, "output_bytes": Path(work, "out.gguf").stat().st_size,
            "type": args.type, "pairs": args.pairs,
            "wall_ratio_median": statistics.median(ratios[0]), "processor_ratio_median": statistics.median(ratios[1]),
            "seconds_with_median": statistics.median(p[0][0] for p in pairs),
            "seconds_without_median": statistics.median(p[1][0] for p in pairs),
        }
    print(json.dumps(found, indent=1))
    if args.record:
        args.record.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
