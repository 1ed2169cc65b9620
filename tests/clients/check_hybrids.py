#!/usr/bin/env python3
"""Converts the hybrids in testdata/hybrids/ and loads the files in stock llama.cpp. Run through run.sh.

1. Tokens: llama.cpp cuts every recorded text as the tokenizer of the folder does, names of special tokens included.
2. Logits: those of an f16 and of a q8_0 file are those of the f32 file, but for the rounding of the weights.

Environment: RWKV_QUANT, the program (target/release/rwkv-quant).
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from llama import Llama

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("RWKV_QUANT", ROOT / "target/release/rwkv-quant")
# Sum of squared differences over sum of squares; a few times what was measured.
NMSE_LIMIT = {"f16": 1e-6, "q8_0": 5e-4}


def tokenize(llama, text):
    """Token ids of `text`, in which names of special tokens mean these tokens."""
    room = len(text) + 8
    out = (ctypes.c_int32 * room)()
    n = llama.lib.llama_tokenize(llama.vocab, text, len(text), out, room, True, True)
    return list(out[:n])


def check(name, texts, tmp):
    failures = []
    logits = {}
    for kind in ("f32", *NMSE_LIMIT):
        out = tmp / f"{name}.{kind}.gguf"
        command = [PROGRAM, "convert", ROOT / "testdata/hybrids" / name, out, "--type", kind, "--format", "quiet"]
        subprocess.run(command, check=True)
        with Llama(out) as llama:
            logits[kind] = llama.logits(texts[0][1], n_batch=16)
            if kind == "f32":
                wrong = [text for text, ids in texts if tokenize(llama, text.encode()) != ids]
                failures += [f"{name}: other tokens than the folder's tokenizer for {text!r}" for text in wrong]
    for kind, limit in NMSE_LIMIT.items():
        nmse = float(np.sum((logits[kind] - logits["f32"]) ** 2) / np.sum(logits["f32"] ** 2))
        print(f"{name} {kind}: NMSE {nmse:.1e}, limit {limit:.0e}")
        if not nmse < limit:  # NaN too
            failures.append(f"{name} {kind}: NMSE {nmse:.1e}")
    return failures


def main():
    recorded = json.loads((ROOT / "testdata/golden/llama_cpp/hybrids.tokens.json").read_text())
    with tempfile.TemporaryDirectory() as tmp:
        failures = [f for name, texts in recorded.items() for f in check(name, texts, Path(tmp))]
    print("\n".join(failures) or f"{len(recorded)} hybrids: tokens and logits as they should be")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
