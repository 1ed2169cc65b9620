#!/usr/bin/env python3
"""What calibration costs: seconds, processor seconds and peak memory of `convert --calib` for RWKV-7 in the 0.4B shape.

    cargo build --release --bins --examples
    python benches/calibration_cost.py [--blocks 1,3] [--type q4_k_m] [--tokens 65536] [--record FILE.json]

Weights are random (the example gen_checkpoint), and so are the tokens, in sequences of 512: nothing of the work hangs on what they
are. The model is converted with so many of its 24 blocks; from the least and the most of them `all_blocks` is extrapolated, linear
in the number of blocks (what every block costs, and the head and the rest once). `--blocks 24` measures the whole. Processor
seconds over the number of threads are the least wall time; on a machine that has other work to do, only they say much.
"""

import argparse
import json
import os
import random
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = Path(os.environ.get("RWKV_QUANT", ROOT / "target/release/rwkv-quant"))
EXAMPLES = Path(os.environ.get("EXAMPLES", ROOT / "target/release/examples"))
ALL, THREADS = 24, 2


def measured(command):
    """Wall seconds, processor seconds and peak memory of a command."""
    start = time.monotonic()
    with subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} failed")
    return {
        "seconds": round(time.monotonic() - start, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_memory_mb": usage.ru_maxrss * 1024 // 1_000_000,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", default="1,3")
    parser.add_argument("--type", default="q4_k_m")
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--record", type=Path)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        tokens = work / "tokens.ids"
        rng = random.Random(0)
        tokens.write_text(" ".join(str(rng.randrange(65_530)) for _ in range(args.tokens)))
        for blocks in map(int, args.blocks.split(",")):
            model, out = work / "model.pth", work / "model.gguf"
            subprocess.run([EXAMPLES / "gen_checkpoint", model, "0.4b", str(blocks)], check=True)
            flags = ["--type", args.type, "--calib", tokens, "--calib-tokens", args.tokens, "--threads", THREADS]
            found = measured([PROGRAM, "convert", model, out, "--force", "--max-memory", "2GB", *flags])
            rows.append({"blocks": blocks, "tokens": args.tokens, "type": args.type, "threads": THREADS, **found})
            print(json.dumps(rows[-1]), flush=True)
    least, most = (f(rows, key=lambda r: r["blocks"]) for f in (min, max))
    record = {"runs": rows}
    if most["blocks"] > least["blocks"]:
        a_block = (most["processor_seconds"] - least["processor_seconds"]) / (most["blocks"] - least["blocks"])
        once = least["processor_seconds"] - least["blocks"] * a_block
        whole = once + ALL * a_block
        record["all_blocks"] = {
            "processor_seconds_a_block": round(a_block, 1),
            "processor_seconds": round(whole),
            "least_minutes": round(whole / THREADS / 60, 1),
        }
        print(json.dumps(record["all_blocks"]))
    if args.record:
        args.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
