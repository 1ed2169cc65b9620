#!/usr/bin/env python3
"""Our files for runtimes other than llama.cpp, and models in several files, in the programs that load them. Run through run.sh.

- a split GGUF file in llama.cpp: the logits of the file in one piece, bit by bit
- safetensors: byte for byte what the Python library writes of the same tensors
- with torch (not installed by run.sh, since it is large): torch.load(weights_only=True), the pip package rwkv on our .pth,
  transformers' RwkvForCausalLM on our folder, and quantized models decoded into them, against testdata/golden

Environment: RWKV_QUANT, the program (target/release/rwkv-quant).
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from llama import Llama
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("RWKV_QUANT", ROOT / "target/release/rwkv-quant")
MODELS = ("rwkv4-bytes", "rwkv5.2-bytes", "rwkv6-bytes", "rwkv7-bytes")
LIMIT = 1e-4  # of a logit, in f32

failed = passed = 0


def check(what, good, found=""):
    global failed, passed
    passed += bool(good)
    failed += not good
    print(f"{'ok  ' if good else 'FAIL'} {what}{': ' if found else ''}{found}")


def source(model):
    return ROOT / f"testdata/{model}.pth"


def convert(model, out, *more):
    subprocess.run([PROGRAM, "--format", "quiet", "convert", model, out, *more], check=True)
    return out


def golden(model):
    folder = ROOT / "testdata/golden" / model
    return np.load(folder / "text64.tokens.npy"), np.load(folder / "text64.logits.npy")


def split_gguf(folder):
    for model in ("rwkv6-bytes", "rwkv7-bytes"):
        whole = convert(source(model), folder / f"{model}.gguf", "-t", "q8_0")
        convert(source(model), folder / f"{model}.parts.gguf", "-t", "q8_0", "--split-max-size", "700kB")
        first = next(folder.glob(f"{model}.parts-00001-of-*.gguf"))
        tokens, _ = golden(model)
        logits = []
        for path in (whole, first):
            with Llama(path) as loaded:
                logits.append(loaded.logits(tokens))
        check(f"{model} in parts, in llama.cpp", np.array_equal(*logits), first.name)


def safetensors_bytes(folder):
    for model in MODELS:
        ours = convert(source(model), folder / "ours.safetensors", "-t", "f32", "--no-checksums", "--force")
        theirs = folder / "theirs.safetensors"
        save_file(load_file(ours), theirs, {"format": "pt"})
        check(f"{model}: safetensors as the library writes it", ours.read_bytes() == theirs.read_bytes())


def torch_files(folder, torch):
    for model in MODELS:
        for kind in ("source", "f16", "f32"):
            ours = convert(source(model), folder / "ours.pth", "-t", kind, "--force")
            found = torch.load(ours, weights_only=True)
            wanted = torch.load(source(model), weights_only=True)
            dtype = {"source": None, "f16": torch.float16, "f32": torch.float32}[kind]
            same = found.keys() == wanted.keys() and all(
                torch.equal(found[name], t if dtype is None else t.to(dtype)) and found[name].shape == t.shape
                for name, t in wanted.items()
            )
            check(f"{model} {kind}: torch.load", same)


# The package decides by the environment, when it is imported, which versions it runs.
PIP = """
import os, sys
os.environ.update(RWKV_JIT_ON="0", RWKV_CUDA_ON="0", RWKV_V7_ON=sys.argv[3])
import numpy as np
from rwkv.model import RWKV
tokens = np.load(sys.argv[2]).tolist()
logits = RWKV(model=sys.argv[1][:-4], strategy="cpu fp32").forward(tokens, None, full_output=True)[0]
np.save(sys.argv[1] + ".npy", logits.float().numpy())
"""


def pip_rwkv(folder):
    for model in MODELS:
        ours = convert(source(model), folder / f"{model}.pip.pth", "-t", "f32")
        _, logits = golden(model)
        tokens = ROOT / "testdata/golden" / model / "text64.tokens.npy"
        seven = "1" if model.startswith("rwkv7") else "0"
        subprocess.run([sys.executable, "-c", PIP, ours, tokens, seven], check=True, stdout=subprocess.DEVNULL)
        worst = np.abs(np.load(f"{ours}.npy") - logits).max()
        check(f"{model}: the pip package rwkv", worst <= LIMIT, f"logits differ by {worst:.1e}")


def transformers_rwkv4(folder, torch, transformers):
    tokens, logits = golden("rwkv4-bytes")
    for name, more in (("whole", ()), ("parts", ("--split-max-size", "1MB"))):
        ours = convert(source("rwkv4-bytes"), folder / name, "--to", "hf", "-t", "f32", *more)
        model = transformers.AutoModelForCausalLM.from_pretrained(ours).eval()
        with torch.no_grad():
            found = model(torch.tensor(tokens[None].astype(np.int64))).logits[0].numpy()
        worst = np.abs(found - logits).max()
        check(f"rwkv4-bytes, {name}: {type(model).__name__} of transformers", worst <= LIMIT, f"logits differ by {worst:.1e}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        split_gguf(folder)
        safetensors_bytes(folder)
        try:
            import torch
        except ImportError:
            print("skipped: torch is not installed, so torch.load, the pip package rwkv and transformers are not run")
        else:
            torch_files(folder, torch)
            pip_rwkv(folder)
            try:
                import transformers

                old = hasattr(transformers, "RwkvForCausalLM")
            except ImportError:
                old = False
            if old:
                transformers_rwkv4(folder, torch, transformers)
            else:
                print("skipped: no transformers of version 4, which has RwkvForCausalLM")
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
