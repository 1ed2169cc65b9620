#!/usr/bin/env python3
"""What exact rescaling of channels (`convert --equalize`) gains, on models with and without a massive channel.

    python benches/equalize.py --llama-bin DIR [--types q4_k_m,q3_k_m,q2_k] [--models NAME,...] [--record FILE.json]

The models are those of testdata, and of version 7 one more that computes the same with massive channels (made by the example
massive_channel: 2^11 in the input of blocks.0.att.output, 2^10 in that of blocks.0.ffn.value). Importance is measured by
llama-imatrix on the first 64 windows of 512 tokens of testdata/heldout.txt, KL against the original model on the last 80, by
`rwkv-quant eval-ppl` (weights as stored, arithmetic in f32) with intervals of 95 %, and of the massive channels in the first type by
llama-perplexity on the last 20 as well (which quantizes activations too, and keeps its base in 16 bits).

Build first: cargo build --release --bins --examples. DIR is the folder of llama-imatrix and llama-perplexity.
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = Path(os.environ.get("RWKV_QUANT", ROOT / "target/release/rwkv-quant"))
HOLDOUT = ROOT / "testdata/heldout.txt"
WINDOW, CALIBRATION, TEXT, LLAMA_TEXT = 512, 64, 80, 20
VARIANTS = {"rounded": [], "importance": ["--imatrix"], "equalized": ["--imatrix", "--equalize"]}


def run(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def llama_kl(args, reference, model, text, work):
    """Mean divergence and its standard error as llama-perplexity sees them."""
    base = work / f"{reference.stem}.base"
    common = ["-c", WINDOW, "-t", 2, "-ngl", 0, "--kl-divergence-base", base]
    if not base.exists():
        run(args.llama_bin / "llama-perplexity", "-m", reference, "-f", text, *common)
    for _ in range(10):  # the program may end before all that it says is printed
        out = run(args.llama_bin / "llama-perplexity", "-m", model, "--kl-divergence", *common)
        if mean := re.search(r"Mean +KLD: +([-\d.]+) ± +([\d.]+)", out):
            return [float(mean[1]), float(mean[2])]
    raise SystemExit(f"llama-perplexity does not say how far {model} is from its base")


def measure(args, name, checkpoint, work, calibration, text, short):
    original = ROOT / f"testdata/{name.split('+')[0]}.pth"
    full, imatrix = work / f"{name}.f32.gguf", work / f"{name}.imatrix.gguf"
    run(PROGRAM, "convert", checkpoint, full, "--type", "f32", "--vocab", "bytes")
    run(args.llama_bin / "llama-imatrix", "-m", full, "-f", calibration, "-o", imatrix, "-c", WINDOW, "-t", 2, "-ngl", 0)
    rows = []
    for number, kind in enumerate(args.types.split(",")):
        files = {}
        for variant, flags in VARIANTS.items():
            files[variant] = out = work / f"{name}.{kind}.{variant}.gguf"
            flags = [part for flag in flags for part in ([flag, imatrix] if flag == "--imatrix" else [flag])]
            said = run(PROGRAM, "--format", "json", "convert", checkpoint, out, "--type", kind, "--vocab", "bytes", *flags)
            equalized = json.loads(said)["equalized"]
        first, *others = files.values()
        found = json.loads(
            run(PROGRAM, "--format", "json", "eval-ppl", first, text, "--against", original, "--candidate", *others, "--vocab", "bytes")
        )
        by_path = {Path(c["path"]).name: c["against"] for c in found["candidates"]}
        row = {"model": name, "type": kind, "windows": found["scored"]["windows"], "equalized": equalized, "variants": {}}
        for variant, path in files.items():
            against = by_path[path.name]
            row["variants"][variant] = {
                "bytes": path.stat().st_size,
                "kl": against["kl"],
                "top1": against["top1"]["value"],
            }
            if number == 0 and name.endswith("+massive"):
                row["variants"][variant]["llama_perplexity_kl"] = llama_kl(args, full, path, short, work)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--llama-bin", type=Path, required=True)
    ap.add_argument("--types", default="q4_k_m,q3_k_m,q2_k")
    ap.add_argument("--models", default="rwkv7-bytes+massive,rwkv7-bytes,rwkv6-bytes")
    ap.add_argument("--record", type=Path)
    args = ap.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = HOLDOUT.read_bytes()
        calibration, text, short = (work / f"{name}.txt" for name in ("calibration", "text", "short"))
        calibration.write_bytes(data[: CALIBRATION * WINDOW])
        text.write_bytes(data[-TEXT * WINDOW :])
        short.write_bytes(data[-LLAMA_TEXT * WINDOW :])
        models = {name: ROOT / f"testdata/{name}.pth" for name in args.models.split(",")}
        for name in [name for name in models if name.endswith("+massive")]:
            plain, models[name] = ROOT / f"testdata/{name.split('+')[0]}.pth", work / f"{name}.pth"
            run(PROGRAM.parent / "examples/massive_channel", plain, models[name])
        rows = [row for name, path in models.items() for row in measure(args, name, path, work, calibration, text, short)]
    if args.record:
        args.record.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
