#!/usr/bin/env python3
"""Merges and converts adapters, against numpy and stock llama.cpp. Run through run.sh.

1. Merged: the f32 file of a model with a LoRA, PiSSA, DiSHA or Bone merged into it holds what numpy computes in f64, by the
   formulas of RWKV-PEFT's merge scripts.
2. Alone: the f32 file without the LoRA gives, with the adapter for llama.cpp beside it, the logits of the merged one.
3. Branches: what `--low-rank` writes, a quantized rest and its branches of low rank as an adapter, gives in llama.cpp the logits
   of both merged into one f32 file, and a text the likelihood that our runner gives it. llama.cpp rounds what meets quantized
   matrices to 8 bits, so these are as near as the rest alone is to its own f32 file.

Environment: RWKV_QUANT, the program (target/release/rwkv-quant).
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
from llama import Llama

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("RWKV_QUANT", ROOT / "target/release/rwkv-quant")
RANK, ALPHA = 8, 32.0
WINDOW = 512
# Largest difference of a merged weight from f64; the weights are up to about 4.
MERGED_LIMIT = 2e-6
# Sum of squared differences of logits over sum of squares; a few times what was measured.
NMSE_LIMIT = {"f32": 1e-10, "f16": 1e-6}

# BlinkDL's names of the matrices that llama.cpp applies adapters to, and its own.
MATRICES = {
    f"blocks.{i}.{ours}": f"blk.{i}.{theirs}.weight"
    for i in range(2)
    for ours, theirs in {
        "att.receptance": "time_mix_receptance",
        "att.key": "time_mix_key",
        "att.value": "time_mix_value",
        "att.output": "time_mix_output",
        "att.gate": "time_mix_gate",
        "ffn.key": "channel_mix_key",
        "ffn.value": "channel_mix_value",
        "ffn.receptance": "channel_mix_receptance",
    }.items()
} | {"head": "output.weight"}


def write(path, tensors):
    """A safetensors file of f32."""
    header, offset = {}, 0
    for name, values in tensors.items():
        end = offset + 4 * values.size
        header[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(np.ascontiguousarray(v, dtype="<f4").tobytes() for v in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def convert(*arguments):
    subprocess.run([PROGRAM, "convert", *map(str, arguments), "--format", "quiet"], check=True)


def weights(path):
    return {t.name: np.array(t.data, dtype=np.float64) for t in gguf.GGUFReader(path).tensors if len(t.shape) == 2}


def lora(rng, w):
    a, b = rng.standard_normal((RANK, w.shape[1])) * 0.1, rng.standard_normal((w.shape[0], RANK)) * 0.05
    return a.astype("<f4"), b.astype("<f4")


def adapters(rng, base, tmp):
    """Name, flags of the program, and what becomes of every matrix, of each kind of adapter."""
    for kind in ("lora", "pissa", "disha", "bone"):
        tensors, start, merged = {}, {}, {}
        for ours, theirs in MATRICES.items():
            if theirs not in base:
                continue
            w = base[theirs]
            if kind == "lora":
                a, b = tensors[f"{ours}.lora_A"], tensors[f"{ours}.lora_B"] = lora(rng, w)
                merged[theirs] = w + b.astype(np.float64) @ a * (ALPHA / RANK)
            elif kind == "pissa":
                a, b = tensors[f"{ours}.lora_A"], tensors[f"{ours}.lora_B"] = lora(rng, w)
                c, d = start[f"{ours}.init_lora_A"], start[f"{ours}.init_lora_B"] = lora(rng, w)
                merged[theirs] = w - d.astype(np.float64) @ c + b.astype(np.float64) @ a
            elif kind == "disha":
                d = tensors[f"{ours}.disha"] = (rng.standard_normal((48, w.shape[0])) * 0.01).astype("<f4")
                padded = np.pad(w, ((0, 0), (0, -w.shape[1] % 48)))
                padded = padded.reshape(w.shape[0], -1, 48) + d.astype(np.float64).T[:, None, :]
                merged[theirs] = padded.reshape(w.shape[0], -1)[:, : w.shape[1]]
            else:
                d = tensors[f"{ours}.bone"] = (rng.standard_normal((w.shape[1] // 32, 32, 32)) * 0.01).astype("<f4")
                blocks = w.reshape(w.shape[0] // 32, 32, -1, 32).transpose(0, 2, 1, 3)
                blocks = blocks + blocks @ d.astype(np.float64) + d
                merged[theirs] = blocks.transpose(0, 2, 1, 3).reshape(w.shape)
        path = tmp / f"{kind}.safetensors"
        write(path, tensors)
        flags = ["--lora", path]
        if kind == "lora":
            flags += ["--lora-alpha", ALPHA]
        if start:
            write(tmp / "init.safetensors", start)
            flags += ["--lora-init", tmp / "init.safetensors"]
        yield kind, flags, merged


def check(name, tmp):
    failures = []

    def judge(what, found, limit):
        print(f"{name} {what}: {found:.1e}, limit {limit:.0e}")
        if not found < limit:  # NaN too
            failures.append(f"{name} {what}: {found:.1e}")

    source = ROOT / f"testdata/{name}.pth"
    plain = tmp / "plain.gguf"
    convert(source, plain, "--type", "f32")
    base = weights(plain)
    tokens = list((ROOT / "testdata/heldout.txt").read_bytes()[:64])
    for kind, flags, merged in adapters(np.random.default_rng(7), base, tmp):
        out = tmp / f"{kind}.gguf"
        convert(source, out, "--type", "f32", *flags)
        found = weights(out)
        same = all(np.array_equal(found[n], base[n]) for n in base if n not in merged)
        if not same or len(merged) < 13:
            failures.append(f"{name} {kind}: other matrices changed, or too few did")
        judge(f"{kind} merged", max(np.abs(found[n] - merged[n]).max() for n in merged), MERGED_LIMIT)
        if kind != "lora":
            continue
        with Llama(out) as llama:
            expected = llama.logits(tokens, n_batch=16)
        with Llama(plain) as llama:
            change = np.abs(llama.logits(tokens, n_batch=16) - expected).max()
            if not change > 0.1:
                failures.append(f"{name}: the LoRA changes too little ({change}) to show anything")
            for dtype, limit in NMSE_LIMIT.items():
                alone = tmp / f"alone.{dtype}.gguf"
                convert(source, alone, "--to", "gguf-lora", "--type", dtype, *flags)
                logits = llama.logits(tokens, n_batch=16, adapter=llama.adapter(alone))
                nmse = float(np.sum((logits - expected) ** 2) / np.sum(expected**2))
                judge(f"adapter {dtype} in llama.cpp, NMSE", nmse, limit)
    return failures


def check_branches(name, tmp):
    failures = []
    source, rest, lora = ROOT / f"testdata/{name}.pth", tmp / "rest.gguf", tmp / "rest.lora.gguf"
    convert(source, rest, "--type", "q2_k", "--low-rank", 8)
    # Half of a model is converted only if nothing says that it is one.
    half = tmp / "half.gguf"
    remove = ["--remove-metadata", "rwkv-quant.low_rank.rank", "--force"]
    subprocess.run([sys.executable, "-m", "gguf.scripts.gguf_new_metadata", *remove, rest, half], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    convert(half, tmp / "rest.f32.gguf", "--type", "f32")
    convert(rest, tmp / "merged.gguf", "--type", "f32", "--lora", lora)
    text = tmp / "text.txt"
    text.write_bytes((ROOT / "testdata/heldout.txt").read_bytes()[:WINDOW])
    tokens = list(text.read_bytes())

    def nats(logits):
        logits = logits.astype(np.float64)[:-1]
        logits -= logits.max(axis=1, keepdims=True)
        chosen = logits[np.arange(len(logits)), tokens[1:]]
        return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - chosen))

    with Llama(rest) as llama:
        alone = llama.logits(tokens, n_batch=16)
        found = llama.logits(tokens, n_batch=16, adapter=llama.adapter(lora))
    with Llama(tmp / "rest.f32.gguf") as llama:
        alone_exact = llama.logits(tokens, n_batch=16)
    with Llama(tmp / "merged.gguf") as llama:
        merged = llama.logits(tokens, n_batch=16)
    said = subprocess.run(
        [PROGRAM, "--format", "json", "eval-ppl", rest, text, "--lora", lora, "--vocab", "bytes", "--ctx", str(WINDOW)],
        check=True, capture_output=True,
    )  # fmt: skip
    ours = json.loads(said.stdout)["model"]["nats_per_token"]["value"]

    def nmse(a, b):
        return float(np.sum((a - b) ** 2) / np.sum(b**2))

    noise, changed = nmse(alone, alone_exact), nmse(alone_exact, merged)
    print(f"{name} branches: NMSE {nmse(found, merged):.1e} from merged; rounded activations alone {noise:.1e}, no branches {changed:.1e}")
    print(f"{name} branches: nats a token: our runner {ours:.5f}, llama.cpp {nats(found):.5f}, merged {nats(merged):.5f}, without {nats(alone):.5f}")
    if not nmse(found, merged) < 2 * noise < changed:
        failures.append(f"{name}: the rest and its branches in llama.cpp are not the merged model")
    if not abs(nats(merged) - ours) < 1e-4:
        failures.append(f"{name}: the merged model in llama.cpp is not what our runner computes")
    if not abs(nats(found) - ours) < abs(nats(alone) - ours) / 4:
        failures.append(f"{name}: the rest and its branches in llama.cpp are not what our runner computes")
    return failures


def main():
    names = ["rwkv6-bytes", "rwkv7-bytes"]
    failures = []
    for name in names:
        with tempfile.TemporaryDirectory() as tmp:
            failures += check(name, Path(tmp)) + check_branches(name, Path(tmp))
    print("\n".join(failures) or f"{len(names)} models: merged weights and adapters as they should be")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
