#!/usr/bin/env python3
"""Our files for web-rwkv in web-rwkv itself, on whatever Vulkan device there is (lavapipe: the CPU). Run through run.sh.

For each model of testdata (and the small models of other people, if they are there):

- the logits of our .st are those of the golden files (the official runner, fp32), within F16_LIMIT of their standard
  deviation: web-rwkv's activations are f32 here (not of checkpoints in f32, whose golden files are of weights before
  they were rounded to f16);
- our prefabs with `--mix web-rwkv` are, byte for byte, those that web-rwkv saves of the .st (decays of versions 4 and 5,
  which are exponentials computed by the GPU, within DECAY_LIMIT);
- of our own mixes, which web-rwkv cannot make, the logits are those of the same weights decoded by us, within
  DECODED_LIMIT; token by token and 32 at a time, which are different kernels.

- a LoRA of ours for it, loaded with the .st, gives the logits of the .st that it is merged into, and a state of ours the
  perplexity that `eval-ppl --state` computes, within LORA_LIMIT and STATE_LIMIT.

Further: ranks and vocabularies that web-rwkv cannot compute with give, padded, the logits of what is there.

    check_web_rwkv.py [--record]       --record writes testdata/golden/web_rwkv/prefabs.json: the hashes of web-rwkv's own files

Environment: RWKV_QUANT, the program (target/release/rwkv-quant); WEB_RWKV, the client (tests/web_rwkv's);
RWKV_QUANT_DATA, more models (../shared/data).
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("RWKV_QUANT", ROOT / "target/release/rwkv-quant")
CLIENT = os.environ.get("WEB_RWKV", ROOT / "tests/web_rwkv/target/release/web-rwkv-client")
DATA = Path(os.environ.get("RWKV_QUANT_DATA", ROOT / "../shared/data"))
RECORD = ROOT / "testdata/golden/web_rwkv/prefabs.json"
MODELS = ["rwkv4-bytes", "rwkv5.2-bytes", "rwkv6-bytes", "rwkv7-bytes"]
OTHERS = ["tiny-rwkv4-660K.fp32", "tiny-rwkv5.2-730K.fp32", "tiny-rwkv6-1m.bf16", "tiny-rwkv7-834K.bf16"]
TYPES = ["f16", "int8", "nf4", "sf4"]
OWN = [["int8"], ["nf4"], ["nf4", "--search", "best"], ["nf4_l", "--layers", "1"]]
F16_LIMIT = 1e-3
DECODED_LIMIT = 3e-3
DECAY_LIMIT = 1e-6
# Of the standard deviation of the logits.
LORA_LIMIT = 3e-3
# Nats a token.
STATE_LIMIT = 1e-4

passed = failed = 0


def report(fine, what):
    global passed, failed
    passed, failed = passed + fine, failed + (not fine)
    print("ok   " if fine else "FAIL ", what, flush=True)


def convert(source, out, *flags):
    subprocess.run([PROGRAM, "--format", "quiet", "convert", source, out, "--force", *flags], check=True)
    return out


def client(model, *flags):
    quiet = {**os.environ, "XDG_RUNTIME_DIR": os.environ.get("XDG_RUNTIME_DIR", "/tmp")}
    subprocess.run([CLIENT, model, *flags], check=True, env=quiet, stderr=subprocess.PIPE)


def logits(model, tokens, *flags):
    """What web-rwkv says after each token: a row a token."""
    with tempfile.NamedTemporaryFile() as out:
        client(model, "--tokens", ",".join(map(str, tokens)), "--logits", out.name, *flags)
        return np.fromfile(out.name, "<f4").reshape(len(tokens), -1)


def apart(found, expected):
    """The largest difference, in standard deviations of the expected values."""
    return float(np.abs(found[:, : expected.shape[1]] - expected).max() / expected.std())


def goldens(folder):
    for tokens in sorted(folder.glob("*.tokens.npy")):
        name = tokens.name.removesuffix(".tokens.npy")
        yield name, np.load(tokens), np.load(folder / f"{name}.logits.npy")


def check_st(model, st, folder):
    worst = {name: apart(logits(st, tokens), expected) for name, tokens, expected in goldens(folder)}
    text = ", ".join(f"{name} {d:.1e}" for name, d in worst.items())
    report(bool(worst) and max(worst.values()) <= F16_LIMIT, f"{model}: logits of the .st: {text}")


def decays(path):
    """Where a prefab holds exponentials."""
    out = subprocess.run([PROGRAM, "--format", "json", "inspect", path], check=True, capture_output=True).stdout
    tensors = json.loads(out)["tensors"]
    return [(t["offset"], t["bytes"]) for t in tensors if t["name"].endswith("time_decay") and t["encoding"] == "f32"]


def without(data, places):
    data = bytearray(data)
    for offset, length in places:
        data[offset : offset + length] = bytes(length)
    return bytes(data)


def saved_by_web_rwkv(st, kind, out):
    client(st, "--save", out, *([] if kind == "f16" else ["--quant", kind]))
    return out


def check_prefabs(model, source, st, folder, recorded, types=TYPES):
    for kind in types:
        ours = convert(source, folder / "ours.prefab", "-t", kind, "--mix", "web-rwkv").read_bytes()
        theirs = saved_by_web_rwkv(st, kind, folder / "theirs.prefab").read_bytes()
        places = decays(folder / "ours.prefab")
        same = without(ours, places) == without(theirs, places)
        worst = 0.0
        for offset, length in places:
            a, b = (np.frombuffer(data[offset : offset + length], "<f4") for data in (ours, theirs))
            worst = max(worst, float((np.abs(a - b) / np.abs(b)).max()))
        hashed = hashlib.sha256(without(theirs, places)).hexdigest()
        known = recorded is None or recorded[kind] == hashed
        report(
            same and known and worst <= DECAY_LIMIT,
            f"{model}: {kind} prefab: {'the same bytes' if same else 'OTHER BYTES'}"
            + (f", decays within {worst:.0e}" if places else "")
            + ("" if known else ", not as recorded"),
        )


def check_own(model, source, folder):
    tokens = np.frombuffer((ROOT / "testdata/heldout.txt").read_bytes()[:32], np.uint8)
    for kind, *flags in OWN:
        prefab = convert(source, folder / "own.prefab", "-t", kind, *flags)
        decoded = convert(prefab, folder / "decoded.st")
        runs = [apart(logits(prefab, part), logits(decoded, part)) for part in (tokens[:5], tokens)]
        text = f"{model}: {' '.join([kind, *flags])} prefab against its weights in f16: "
        report(max(runs) <= DECODED_LIMIT, text + ", ".join(f"{d:.1e}" for d in runs))


def read_safetensors(path):
    data = Path(path).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    take = lambda t: data[8 + length + t["data_offsets"][0] : 8 + length + t["data_offsets"][1]]
    return {n: np.frombuffer(take(t), "<f4").reshape(t["shape"]) for n, t in header.items()}


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, values in tensors.items():
        start, data = len(data), data + values.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    Path(path).write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def check_lora(model, source, st, folder):
    """Random A and B for every matrix of the blocks, in RWKV-PEFT's names."""
    rng, rank, alpha = np.random.default_rng(3), 8, 32
    names = [f"{part}.{name}" for part in ("att", "ffn") for name in ("receptance", "key", "value", "output", "gate")]
    weights = read_safetensors(convert(source, folder / "whole.safetensors", "-t", "f32"))
    tensors = {}
    for matrix in (f"blocks.{i}.{name}" for i in range(2) for name in names):
        if f"{matrix}.weight" in weights:
            rows, cols = weights[f"{matrix}.weight"].shape
            tensors[f"{matrix}.lora_A"] = rng.standard_normal((rank, cols)) * 0.05
            tensors[f"{matrix}.lora_B"] = rng.standard_normal((rows, rank)) * 0.02
    lora = write_safetensors(folder / "lora.safetensors", tensors)
    merged = convert(source, folder / "merged.st", "--lora", lora, "--lora-alpha", str(alpha))
    added = convert(source, folder / "added.st", "--to", "st-lora", "--lora", lora)
    tokens = list((ROOT / "testdata/heldout.txt").read_bytes()[:48])
    expected = logits(merged, tokens)
    found = apart(logits(st, tokens, "--lora", added, "--lora-alpha", str(alpha)), expected)
    without = apart(logits(st, tokens), expected)
    report(len(tensors) >= 20 and found <= LORA_LIMIT < 0.1 < without, f"{model}: LoRA: {found:.1e}, without it {without:.1e}")


def check_state(model, source, st, folder):
    """A random state, for all heads."""
    heads = {"rwkv5.2-bytes": "att.time_decay", "rwkv6-bytes": "att.time_faaaa", "rwkv7-bytes": "att.r_k"}[model]
    weights = read_safetensors(folder / "whole.safetensors")
    heads, size = weights[f"blocks.0.{heads}"].shape
    rng = np.random.default_rng(4)
    tensors = {f"blocks.{i}.att.time_state": rng.standard_normal((heads, size, size)) * 3 for i in range(2)}
    state = write_safetensors(folder / "state.safetensors", tensors)
    ours = convert(source, folder / "state.st", "--to", "st-state", "--state", state)
    text = folder / "text.txt"
    text.write_bytes((ROOT / "testdata/heldout.txt").read_bytes()[:128])
    tokens = list(text.read_bytes())

    def said(*flags):
        """Nats a token of our runner."""
        command = [PROGRAM, "--format", "json", "eval-ppl", source, text, "--vocab", "bytes", "--ctx", str(len(tokens)), *flags]
        out = subprocess.run(command, check=True, capture_output=True).stdout
        return json.loads(out)["model"]["nats_per_token"]["value"]

    def nats(found):
        found = found.astype(np.float64)[:-1, :256]
        found -= found.max(axis=1, keepdims=True)
        return float((np.log(np.exp(found).sum(axis=1)) - found[np.arange(len(found)), tokens[1:]]).mean())

    expected, without = said("--state", state), said()
    found = abs(nats(logits(st, tokens, "--state", ours)) - expected)
    text = f"{model}: state: {found:.1e} nats a token from eval-ppl, without it {abs(without - expected):.1e}"
    report(found <= STATE_LIMIT < 0.01 < abs(without - expected), text)


def check_ranks(source, folder):
    """Ranks of 30 and 25: what they were cut to, and the same filled up with zeros by hand."""
    whole = read_safetensors(convert(source, folder / "whole.safetensors", "-t", "f32"))
    cut, zeroed = dict(whole), {n: v.copy() for n, v in whole.items()}
    for branch, rank in ("g", 30), ("w", 25):
        for layer in range(2):
            one, two = (f"blocks.{layer}.att.{branch}{i}" for i in "12")
            cut[one], cut[two] = whole[one][:, :rank], whole[two][:rank]
            zeroed[one][:, rank:] = zeroed[two][rank:] = 0
    tokens = list(b"fn main")
    a, b = (
        logits(convert(write_safetensors(folder / "x.safetensors", t), folder / "x.st"), tokens) for t in (cut, zeroed)
    )
    report(apart(a, b) <= 1e-5, f"ranks of 30 and 25, padded: {apart(a, b):.1e}")


def check_vocabulary(folder):
    """250 tokens, which web-rwkv makes 256: the logits of the others stay as they are, and those are 0."""
    for model in "rwkv4-bytes", "rwkv6-bytes":
        source, tokens = ROOT / f"testdata/{model}.pth", list(b"fn main")
        whole = read_safetensors(convert(source, folder / "whole.safetensors", "-t", "f32"))
        less = {n: v[:250] if n in ("emb.weight", "head.weight") else v for n, v in whole.items()}
        less = write_safetensors(folder / "less.safetensors", less)
        for out in "less.st", "less.prefab":
            expected = logits(convert(source, folder / out, "-t", "f16"), tokens)
            found = logits(convert(less, folder / out, "-t", "f16", "--force-target"), tokens)
            fine = found.shape == expected.shape and (found[:, :250] == expected[:, :250]).all() and not found[:, 250:].any()
            report(bool(fine), f"{model} with 250 tokens, forced into {out}: the same logits, and 0 for 6 more")


def check(folder):
    recorded = json.loads(RECORD.read_text())["models"]
    for model in MODELS:
        source = ROOT / f"testdata/{model}.pth"
        st = convert(source, folder / "model.st")
        check_st(model, st, ROOT / "testdata/golden" / model)
        check_prefabs(model, source, st, folder, recorded[model])
        check_own(model, source, folder)
        check_lora(model, source, st, folder)
        if model != "rwkv4-bytes":
            check_state(model, source, st, folder)
    check_ranks(ROOT / "testdata/rwkv7-bytes.pth", folder)
    check_vocabulary(folder)
    if not (DATA / "models").is_dir():
        print(f"skipped: no models in {DATA}")
        return
    for model in OTHERS:
        source = DATA / f"models/{model}.pth"
        st = convert(source, folder / "model.st")
        if model.endswith(".bf16"):
            check_st(model, st, DATA / "golden" / model.removesuffix(".bf16"))
        # Rows of 224 are more than web-rwkv's nf4 can compute with, so ours are int8.
        check_prefabs(model, source, st, folder, None, ["f16", "int8"] if "rwkv6" in model else TYPES)


def record(folder):
    models = {}
    for model in MODELS:
        source = ROOT / f"testdata/{model}.pth"
        st = convert(source, folder / "model.st")
        models[model] = {"source_sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
        for kind in TYPES:
            theirs = saved_by_web_rwkv(st, kind, folder / "theirs.prefab")
            models[model][kind] = hashlib.sha256(without(theirs.read_bytes(), decays(theirs))).hexdigest()
    about = "SHA-256 of the prefabs that web-rwkv 0.10.20 saves (f32 decays of versions 4 and 5 zeroed)"
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps({"about": about, "models": models}, indent=1) + "\n")


def main():
    with tempfile.TemporaryDirectory() as folder:
        if sys.argv[1:] == ["--record"]:
            return record(Path(folder))
        check(Path(folder))
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
