#!/usr/bin/env python3
"""End-to-end speed: one rwkv-quant command against llama.cpp's two steps, on the same machine in one run.

    python benches/vs_llama_cpp.py --llama-src DIR --llama-bin DIR --python PYTHON [--rounds 3] [--record FILE.json]

Makes a random RWKV-7 with the shape of the 0.4B release (24 layers, 1024 channels, vocabulary 65536, bf16), once as BlinkDL .pth
and once as Hugging Face folder with the same weights, then measures, in turn, round after round:

    rwkv-quant   rwkv-quant convert X.pth OUT.gguf --type q8_0
    llama.cpp    convert_hf_to_gguf.py --outtype bf16, then llama-quantize Q8_0 with 2 threads
    cp           a plain copy of as many bytes as rwkv-quant writes, and the same with fsync: the floor of any converter

Inputs are in the page cache. Wall time, CPU time and peak memory come from wait4; where a method has two steps, times add up and
the peak is the larger one. DIR are the unpacked source tree (with convert_hf_to_gguf.py) and the folder of llama-quantize;
PYTHON has torch, transformers, safetensors and gguf.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAYERS, HIDDEN, HEAD, VOCAB = 24, 1024, 64, 65536
RANKS = {"w": 64, "a": 64, "v": 32, "g": 128}


def make_model(folder):
    """Writes `folder`/model.pth and `folder`/hf. Runs under --python."""
    sys.path.insert(0, str(ROOT / "tests/clients"))
    import torch
    from hf_folder import write_hf_folder

    torch.manual_seed(0)
    rows = lambda *shape: torch.randn(*shape) / shape[-1] ** 0.5
    vector = lambda: torch.randn(1, 1, HIDDEN) * 0.1
    weights = {"emb.weight": rows(VOCAB, HIDDEN)}

    def norm(name):
        weights[name + ".weight"] = 1 + torch.randn(HIDDEN) * 0.1
        weights[name + ".bias"] = torch.randn(HIDDEN) * 0.1

    for i in range(LAYERS):
        block = f"blocks.{i}."
        for name in (["ln0"] if i == 0 else []) + ["ln1", "ln2", "att.ln_x"]:
            norm(block + name)
        for name in ["x_" + c for c in "rwkvag"] + ["w0", "a0", "v0", "k_k", "k_a"]:
            weights[f"{block}att.{name}"] = vector()
        for name, rank in RANKS.items():
            weights[f"{block}att.{name}1"] = rows(HIDDEN, rank)
            weights[f"{block}att.{name}2"] = rows(rank, HIDDEN)
        weights[block + "att.r_k"] = torch.randn(HIDDEN // HEAD, HEAD) * 0.1
        for name in ("receptance", "key", "value", "output"):
            weights[f"{block}att.{name}.weight"] = rows(HIDDEN, HIDDEN)
        weights[block + "ffn.x_k"] = vector()
        weights[block + "ffn.key.weight"] = rows(4 * HIDDEN, HIDDEN)
        weights[block + "ffn.value.weight"] = rows(HIDDEN, 4 * HIDDEN)
    norm("ln_out")
    weights["head.weight"] = rows(VOCAB, HIDDEN)
    weights = {name: tensor.bfloat16() for name, tensor in weights.items()}
    torch.save(weights, folder / "model.pth")
    # as many lines as the World vocabulary has, so that the converter has as much to parse
    write_hf_folder(weights, folder / "hf", [f"{i} 't{i}' {len(f't{i}')}" for i in range(1, 65530)])


def run(*command):
    """Runs a command to its end: (wall seconds, CPU seconds, peak resident bytes)."""
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        process = subprocess.Popen([str(c) for c in command], stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            sys.exit(f"{' '.join(map(str, command))}\n{log.read().decode(errors='replace')[-3000:]}")
    unit = 1 if platform.system() == "Darwin" else 1024
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit


def methods(args, work):
    """{name: [command]}; the last argument of the last command is the output."""
    bf16, source = work / "bf16.gguf", work / "copy_source"
    table = {}
    if args.rwkv_quant.exists():
        table["rwkv-quant"] = [[args.rwkv_quant, "convert", work / "model.pth", work / "ours.gguf", "--type", "q8_0"]]
    else:
        print(f"no {args.rwkv_quant}: measured without it", file=sys.stderr)
    table["llama.cpp"] = [
        [args.python, args.llama_src / "convert_hf_to_gguf.py", work / "hf", "--outtype", "bf16", "--outfile", bf16],
        [args.llama_bin / "llama-quantize", bf16, work / "theirs.gguf", "Q8_0", "2"],
    ]
    table["cp"] = [["cp", source, work / "copy"]]
    table["cp + fsync"] = [["dd", "bs=1M", "conv=fsync", "status=none", f"if={source}", f"of={work / 'copy'}"]]
    return table


OUTPUT = {"rwkv-quant": "ours.gguf", "llama.cpp": "theirs.gguf", "cp": "copy", "cp + fsync": "copy"}


def measure(args, work):
    table = methods(args, work)
    results = {name: {"wall_s": [], "cpu_s": [], "peak_bytes": [], "steps_wall_s": []} for name in table}
    for _ in range(args.rounds):
        for name, commands in table.items():
            output = work / OUTPUT[name]
            for stale in (output, work / "bf16.gguf"):
                stale.unlink(missing_ok=True)
            steps = [run(*command) for command in commands]
            result = results[name]
            result["wall_s"].append(sum(s[0] for s in steps))
            result["cpu_s"].append(sum(s[1] for s in steps))
            result["peak_bytes"].append(max(s[2] for s in steps))
            result["steps_wall_s"].append([s[0] for s in steps])
            result["output_bytes"] = output.stat().st_size
            if not (work / "copy_source").exists():  # the first method's output is what cp copies
                shutil.copy(output, work / "copy_source")
    return results


def markdown(results):
    base = min(results["llama.cpp"]["wall_s"])
    lines = ["| method | best s | median s | CPU s | peak MB | output bytes | times as fast |", "|---|---|---|---|---|---|---|"]
    for name, r in results.items():
        best, median = min(r["wall_s"]), statistics.median(r["wall_s"])
        steps = r["steps_wall_s"][r["wall_s"].index(best)]
        if len(steps) > 1:
            name += " (" + " + ".join(f"{s:.2f}" for s in steps) + ")"
        lines.append(
            f"| {name} | {best:.2f} | {median:.2f} | {min(r['cpu_s']):.2f} | {max(r['peak_bytes']) / 1e6:.0f} "
            f"| {r['output_bytes']:,} | {base / best:.1f} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description="rwkv-quant against llama.cpp's converter and quantizer, end to end.")
    parser.add_argument("--llama-src", type=Path)
    parser.add_argument("--llama-bin", type=Path)
    parser.add_argument("--python", default=sys.executable, help="interpreter with torch and transformers")
    parser.add_argument("--rwkv-quant", type=Path, default=ROOT / "target/release/rwkv-quant")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="folder for about 5 GB of files (a temporary one)")
    parser.add_argument("--record", type=Path, help="write the measurements here as JSON")
    parser.add_argument("--make-model", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make_model:
        return make_model(args.make_model)
    if not (args.llama_src and args.llama_bin):
        parser.error("--llama-src and --llama-bin are needed")
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        work = Path(work)
        subprocess.run([args.python, __file__, "--make-model", work], check=True)
        load_before = os.getloadavg()[0]
        results = measure(args, work)
    print(markdown(results))
    if args.record:
        about = {
            "model": f"RWKV-7, {LAYERS} x {HIDDEN}, vocabulary {VOCAB}, bf16, random",
            "cores": os.cpu_count(),
            "load_before": load_before,
            "load_after": os.getloadavg()[0],
            "rounds": args.rounds,
        }
        args.record.write_text(json.dumps(about | {"results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
