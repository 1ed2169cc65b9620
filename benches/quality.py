#!/usr/bin/env python3
"""How near quantized files are to their source: step by step, and against llama.cpp's at the same size.

    python benches/quality.py ladder [--models v4,v5.2,v6,v7] [--record FILE.json]
    python benches/quality.py presets [--record FILE.json]
    python benches/quality.py texts [--types q4_k_m,q3_k_m] [--record FILE.json]
    python benches/quality.py llama --llama-bin DIR [--types ...] [--extension rwkvz] [--record FILE.json]
    python benches/quality.py rates --llama-bin DIR [--bpw 3,4,5] [--pypi FILE.json] [--record FILE.json]

`ladder`: rounding, longer search, importance, feedback of errors, rescaled channels, chosen types, branches of low rank; each step
has all those before it, but for the importance, which calibration measures itself. Versions 6 and 7 as GGUF q4_k_m, 4 and 5.2 as
rwkv.cpp's Q4_0, which has neither importance matrices nor branches. Branches take bytes of their own; so the last step is chosen types
once more, at the size of file and branches together. `difference` is that from the step before, window by window.
`presets`: what `convert --preset` gives.
`texts`: calibration on the text, on as many tokens that the model samples itself (`--calib self`, two seeds), and on a quarter of both.
`llama`: llama-quantize --imatrix, from a GGUF in bf16 as the checkpoint is (what it keeps of it is as small as can be), against
`convert --calib TEXT --target-size ITS_BYTES`, both from the same text; with --extension rwkvz, our compact files of the same size.

`rates`: compact files of so many bits a weight, and the smallest of the rivals' files that is as near to the source: those of
llama-quantize --imatrix, and with --pypi those of the record of vs_rwkv_quant_pypi.py, which is measured on the same text.
(llama-quantize keeps so much in F32 that its smallest file of such small models has 4.4 bits, so none is as small as ours of 3.)

The text to calibrate on is the first 128 windows of 512 tokens of testdata/heldout.txt; KL against the source is measured on the
last 64 windows by `rwkv-quant eval-ppl` with the weights as stored and f32 arithmetic. Intervals of 95 % are bootstrapped over
windows (10000 times), paired where two files are compared. Build first: cargo build --release.
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
WINDOW, CALIBRATION, JUDGE, RESAMPLES = 512, 128, 64, 10_000
RANK = 8
LLAMA_TYPES = "Q8_0,Q6_K,Q5_K_M,Q4_K_M,IQ4_XS,Q3_K_M,Q2_K"


def run(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def convert(source, out, *flags):
    start = time.monotonic()
    run(PROGRAM, "--format", "json", "convert", source, out, "--force", "--vocab", "bytes", *flags)
    return time.monotonic() - start


def divergences(source, files, text, *flags):
    """Of every file the mean divergence of each window."""
    first, *others = files
    more = [*(["--candidate", *others] if others else []), *flags]
    found = run(PROGRAM, "--format", "json", "eval-ppl", first, text, "--against", source, "--vocab", "bytes", *more)
    by_path = {c["path"]: c["against"] for c in json.loads(found)["candidates"]}
    return [by_path[str(f)]["kl_by_window"] for f in files]


def interval(values):
    """The mean of all windows, and between what the means of resampled windows lie."""
    rng = random.Random(0)
    n = len(values)
    means = sorted(sum(rng.choices(values, k=n)) / n for _ in range(RESAMPLES))
    return {"mean": sum(values) / n, "low": means[RESAMPLES // 40], "high": means[-RESAMPLES // 40 - 1]}


def ladder(args, work, calibration, judge):
    rows = []
    for version in args.models.split(","):
        source = ROOT / f"testdata/rwkv{version.removeprefix('v')}-bytes.pth"
        gguf = version in ("v6", "v7")
        kind, extension = ("q4_k_m", "gguf") if gguf else ("q4_0", "bin")
        imatrix = work / f"{version}.imatrix.gguf"
        run(PROGRAM, "calibrate", source, calibration, "-o", imatrix, "--vocab", "bytes", "--force")
        calib, plain = ["--calib", calibration], ["--type", kind]
        steps = {"rounded": plain, "search": [*plain, "--search", "best"]}
        if gguf:
            steps["importance"] = [*plain, "--search", "best", "--imatrix", imatrix]
        steps["feedback"] = [*plain, *calib]
        steps["equalized"] = [*plain, *calib, "--equalize"]
        names = [*steps, "allocated", *(["low rank", "allocated, as large"] if gguf else [])]
        files = {name: work / f"{version}.{name}.{extension}" for name in names}
        seconds = {name: convert(source, files[name], *flags) for name, flags in steps.items()}
        size, recipe = files["feedback"].stat().st_size, work / f"{version}.toml"
        fill = [*calib, *plain, "--equalize", "--target-size"]
        seconds["allocated"] = convert(source, files["allocated"], *fill, size, "--save-recipe", recipe)
        sizes = {name: path.stat().st_size for name, path in files.items() if path.exists()}
        kls = dict(zip(sizes, divergences(source, [files[name] for name in sizes], judge)))
        if gguf:
            branched, again = files["low rank"], files["allocated, as large"]
            branches = [*calib, "--equalize", "--recipe", recipe, "--low-rank", RANK]
            seconds["low rank"] = convert(source, branched, *branches)
            adapter = branched.with_suffix(".lora.gguf")
            lora = ["--lora", adapter, "--adapt", "compared"] if adapter.exists() else []
            sizes["low rank"] = branched.stat().st_size + (adapter.stat().st_size if lora else 0)
            [kls["low rank"]] = divergences(source, [branched], judge, *lora)
            seconds[names[-1]] = convert(source, again, *fill, sizes["low rank"])
            sizes[names[-1]] = again.stat().st_size
            [kls[names[-1]]] = divergences(source, [again], judge)
        before = None
        for name in names:
            row = {"model": source.name, "step": name, "type": kind, "bytes": sizes[name], "kl": interval(kls[name])}
            if before:
                row["difference"] = interval([b - a for a, b in zip(kls[before], kls[name])])
            rows.append({**row, "seconds": round(seconds[name], 1)})
            print(json.dumps(rows[-1]), flush=True)
            before = name
    return rows


def presets(args, work, calibration, judge):
    rows = []
    for name in ["faithful", "balanced", "small", "smallest"]:
        for version in args.models.split(","):
            source = ROOT / f"testdata/rwkv{version.removeprefix('v')}-bytes.pth"
            out = work / f"{version}.{name}.gguf"
            flags = ["--preset", name, "--calib", calibration]
            said = json.loads(run(PROGRAM, "--format", "json", "convert", source, out, "--vocab", "bytes", *flags))
            found = run(PROGRAM, "--format", "json", "eval-ppl", out, judge, "--against", source, "--vocab", "bytes")
            against = json.loads(found)["candidates"][0]["against"]
            row = {
                "preset": name,
                "model": source.stem,
                "bytes": out.stat().st_size,
                "bits_per_weight": said["bits_per_weight"],
                "kl": interval(against["kl_by_window"]),
                "top1": against["top1"]["value"],
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def texts(args, work, calibration, judge):
    few = ["--calib-tokens", CALIBRATION * WINDOW // 4]
    variants = {
        "text": ["--calib", calibration],
        "self": ["--calib", "self"],
        "self, another seed": ["--calib", "self", "--calib-seed", 1],
        "text, a quarter": ["--calib", calibration, *few],
        "self, a quarter": ["--calib", "self", *few],
    }
    return calibrated(args, work, judge, "calibration", variants)


def calibrated(args, work, judge, key, variants):
    """Every type of every model rounded, and in each of the variants (name: flags), the first of which the others are compared with."""
    rows = []
    base = next(iter(variants))
    for version in args.models.split(","):
        source = ROOT / f"testdata/rwkv{version.removeprefix('v')}-bytes.pth"
        for kind in args.types.split(","):
            files = {name: work / f"{version}.{kind}.{n}.gguf" for n, name in enumerate(["rounded", *variants])}
            seconds = {"rounded": convert(source, files["rounded"], "--type", kind)}
            for name, flags in variants.items():
                seconds[name] = convert(source, files[name], "--type", kind, *flags)
            kls = dict(zip(files, divergences(source, list(files.values()), judge)))
            for name in files:
                row = {"model": source.name, "type": kind, key: name, "kl": interval(kls[name])}
                if name in variants and name != base:
                    row[f"difference_from_{base}"] = interval([b - a for a, b in zip(kls[base], kls[name])])
                rows.append({**row, "seconds": round(seconds[name], 1)})
                print(json.dumps(rows[-1]), flush=True)
    return rows


def quantized_by_llama(args, source, work, calibration):
    """The types, each with llama-quantize's file of `source`, as they are made."""
    full, imatrix = work / f"{source.stem}.bf16.gguf", work / f"{source.stem}.imatrix.gguf"
    convert(source, full, "--type", "bf16")
    run(args.llama_bin / "llama-imatrix", "-m", full, "-f", calibration, "-o", imatrix, "-c", WINDOW, "-t", 2, "-ngl", 0)
    for kind in args.types.split(","):
        theirs = work / f"{source.stem}.{kind}.llama.gguf"
        run(args.llama_bin / "llama-quantize", "--imatrix", imatrix, full, theirs, kind)
        yield kind, theirs


def llama(args, work, calibration, judge):
    rows = []
    for version in args.models.split(","):
        source = ROOT / f"testdata/rwkv{version.removeprefix('v')}-bytes.pth"
        for kind, theirs in quantized_by_llama(args, source, work, calibration):
            ours = work / f"{version}.{kind}.{args.extension}"
            size = theirs.stat().st_size
            seconds = convert(source, ours, "--calib", calibration, "--target-size", size)
            their_kl, our_kl = divergences(source, [theirs, ours], judge)
            row = {
                "model": source.name,
                "type": kind,
                "bytes": {"llama.cpp": size, "rwkv-quant": ours.stat().st_size},
                "kl": {"llama.cpp": interval(their_kl), "rwkv-quant": interval(our_kl)},
                "difference": interval([b - a for a, b in zip(their_kl, our_kl)]),
                "ratio": sum(our_kl) / sum(their_kl),
                "seconds": round(seconds, 1),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def rates(args, work, calibration, judge):
    rows = []
    for version in args.models.split(","):
        source = ROOT / f"testdata/rwkv{version.removeprefix('v')}-bytes.pth"
        theirs = dict(quantized_by_llama(args, source, work, calibration))
        ours = {bpw: work / f"{version}.{bpw}.rwkvz" for bpw in args.bpw.split(",")}
        for bpw, out in ours.items():
            convert(source, out, "--calib", calibration, "--bpw", bpw)
        files = [*theirs.values(), *ours.values()]
        kls = dict(zip(files, divergences(source, files, judge)))
        rivals = [
            {"file": f"llama-quantize {kind}", "bytes": path.stat().st_size, "kl": interval(kls[path])}
            for kind, path in theirs.items()
        ]
        for row in json.loads(args.pypi.read_text()) if args.pypi else []:
            [name] = [name for name in row["kl"] if "PyPI" in name]
            if row["model"] == source.name:
                file = f"{name}, {row['preset']}"
                rivals.append({"file": file, "bytes": row["bytes"][name], "kl": row["kl"][name]})
        for bpw, out in ours.items():
            row = {"model": source.name, "bpw": float(bpw), "bytes": out.stat().st_size, "kl": interval(kls[out])}
            near = [r for r in rivals if r["kl"]["mean"] <= row["kl"]["mean"]]
            row["smallest_rival_as_near"] = min(near, key=lambda r: r["bytes"], default=None)
            # Where none is as near, the nearest says how much at least.
            rival = row["smallest_rival_as_near"] or min(rivals, key=lambda r: r["kl"]["mean"])
            row["nearest_rival"] = None if near else rival
            row["bytes_ratio"] = row["bytes"] / rival["bytes"]
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, work, models in [
        ("ladder", ladder, "v4,v5.2,v6,v7"),
        ("presets", presets, "v6,v7"),
        ("texts", texts, "v6,v7"),
        ("llama", llama, "v6,v7"),
        ("rates", rates, "v6,v7"),
    ]:
        command = commands.add_parser(name)
        command.set_defaults(work=work)
        command.add_argument("--models", default=models)
        command.add_argument("--record", type=Path)
        if name == "texts":
            command.add_argument("--types", default="q4_k_m,q3_k_m")
        if name in ("llama", "rates"):
            command.add_argument("--llama-bin", type=Path, required=True)
            command.add_argument("--types", default=LLAMA_TYPES)
        if name == "rates":
            command.add_argument("--bpw", default="3,4,5")
            command.add_argument("--pypi", type=Path)
        if name == "llama":
            command.add_argument("--extension", default="gguf", choices=["gguf", "rwkvz"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = (ROOT / "testdata/heldout.txt").read_bytes()
        calibration, judge = work / "calibration.txt", work / "judge.txt"
        calibration.write_bytes(data[: CALIBRATION * WINDOW])
        judge.write_bytes(data[-JUDGE * WINDOW :])
        rows = args.work(args, work, calibration, judge)
    if args.record:
        args.record.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
