#!/usr/bin/env python3
"""What branches of low rank (`convert --low-rank`) gain, and what the same bytes gain as finer types.

    python benches/low_rank.py [--types q2_k,q3_k_m,q4_k_m] [--models NAME,...] [--rank 8] [--calibration 32]
        [--windows 60] [--record FILE.json]

Every model and type is converted as it is (rounded), with branches (fitted to the weights), calibrated, calibrated with branches
(fitted to what meets the matrices), and calibrated with types chosen to fill the bytes that the latter takes with its adapter
(--target-size). Bytes are those of the file and its adapter. The models are those of testdata, and of version 7 one more that
computes the same with massive channels (made by the example massive_channel). Calibration is on the first 32 windows of 512
tokens of testdata/heldout.txt (--calibration), KL against the original on the last 60 (--windows), by `rwkv-quant eval-ppl` (weights as stored, arithmetic
in f32) with intervals of 95 %. `of_default` is the geometric mean over the matrices with branches of the output error on
held-out calibration tokens with the branch, as a part of that without it.

Build first: cargo build --release --bins --examples.
"""

import argparse
import json
import math
import os
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = Path(os.environ.get("RWKV_QUANT", ROOT / "target/release/rwkv-quant"))
EXAMPLES = Path(os.environ.get("EXAMPLES", ROOT / "target/release/examples"))
HELDOUT = ROOT / "testdata/heldout.txt"
WINDOW = 512


def run(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def ours(*command):
    return json.loads(run(PROGRAM, "--format", "json", *command))


def kept(said):
    """How many matrices have branches, and what these leave of their errors."""
    gains = [o["error"] / o["branch"]["error_without"] for o in said["calibrated"] if "branch" in o]
    if not gains:
        return {"branches": 0}
    return {"branches": len(gains), "of_default": math.exp(sum(map(math.log, gains)) / len(gains))}


def measure(args, name, checkpoint, kind, work, calibration, text):
    original = ROOT / f"testdata/{name.split('+')[0]}.pth"
    branch, calib = ["--low-rank", args.rank], ["--calib", calibration]
    variants = {
        "rounded": [],
        "rounded, branches": branch,
        "calibrated": calib,
        "calibrated, branches": calib + branch,
        "calibrated, finer types": calib,
    }
    row = {"model": name, "type": kind, "rank": args.rank, "calibration_windows": args.calibration, "variants": {}}
    for variant, flags in variants.items():
        out = work / f"{name}.{kind}.gguf"
        asked = ["--type", kind, *flags]
        if variant == "calibrated, finer types":
            asked = [*flags, "--target-size", row["variants"]["calibrated, branches"]["bytes"]]
        said = ours("convert", checkpoint, out, "--force", "--vocab", "bytes", *asked)
        size, adapter = out.stat().st_size, out.with_suffix(".lora.gguf")
        lora = []
        if "branches" in variant and adapter.exists():
            size += adapter.stat().st_size
            lora = ["--lora", adapter, "--adapt", "compared"]
        found = ours("eval-ppl", out, text, "--against", original, "--vocab", "bytes", *lora)
        against = found["candidates"][0]["against"]
        row["windows"] = found["scored"]["windows"]
        row["variants"][variant] = {"bytes": size, "kl": against["kl"], "top1": against["top1"]["value"]}
        if "branches" in variant:
            row["variants"][variant] |= kept(said)
    print(name, kind, {v: (r["bytes"], round(r["kl"]["value"], 5)) for v, r in row["variants"].items()}, flush=True)
    return row


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--types", default="q2_k,q3_k_m,q4_k_m")
    ap.add_argument("--models", default="rwkv7-bytes,rwkv7-bytes+massive,rwkv6-bytes")
    ap.add_argument("--rank", type=int, default=8)
    ap.add_argument("--calibration", type=int, default=32)
    ap.add_argument("--windows", type=int, default=60)
    ap.add_argument("--record", type=Path)
    args = ap.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = HELDOUT.read_bytes()
        calibration, text = work / "calibration.txt", work / "text.txt"
        calibration.write_bytes(data[: args.calibration * WINDOW])
        text.write_bytes(data[-args.windows * WINDOW :])
        rows = []
        for name in args.models.split(","):
            checkpoint = ROOT / f"testdata/{name}.pth"
            if name.endswith("+massive"):
                plain, checkpoint = ROOT / f"testdata/{name.split('+')[0]}.pth", work / f"{name}.pth"
                run(EXAMPLES / "massive_channel", plain, checkpoint)
            kinds = args.types.split(",")
            rows += [measure(args, name, checkpoint, kind, work, calibration, text) for kind in kinds]
    if args.record:
        args.record.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
