#!/usr/bin/env python3
"""Perplexity and logits of our files in stock llama.cpp against those of our own runner. Run through run.sh.

Each model of testdata is converted to each type; the first windows of testdata/heldout.txt are scored as llama-perplexity
scores them (from an empty state, the tokens after the middle of each window) by both, and the perplexities must agree to
0.1 %. On the f32 file, every logit of the first window (examples/logits) must be within 2e-3 of llama.cpp's. Environment:
RWKV_QUANT, the program (target/release/rwkv-quant), with examples/logits beside it.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from llama import Llama

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("RWKV_QUANT", ROOT / "target/release/rwkv-quant"))
LOGITS = PROGRAM.parent / "examples/logits"
TEXT = ROOT / "testdata/heldout.txt"
CTX, WINDOWS = 512, 8
LIMIT = 1e-3
LOGIT_LIMIT = 2e-3


def theirs(path, text):
    """Perplexity in llama.cpp."""
    nll = count = 0
    with Llama(path) as model:
        tokens = np.array(model.tokenize(text))
        for start in range(0, CTX * WINDOWS, CTX):
            window = tokens[start : start + CTX]
            logits = model.logits(window).astype(np.float64)[CTX // 2 : -1]
            top = logits.max(axis=1)
            sums = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
            nll += (sums - logits[np.arange(len(logits)), window[CTX // 2 + 1 :]]).sum()
            count += len(logits)
    return math.exp(nll / count), count


def ours(path):
    """Perplexity by rwkv-quant."""
    command = [PROGRAM, "--format", "json", "eval-ppl", path, TEXT, "--protocol", "llama.cpp"]
    command += ["--ctx", str(CTX), "--windows", str(WINDOWS)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found["model"]["perplexity"]["value"], found["scored"]["tokens"]


def logits_differ(path, text):
    """The largest difference of a logit over the first window, the largest logit, and the number of tokens."""
    with Llama(path) as model:
        tokens = model.tokenize(text)[:CTX]
        expected = model.logits(tokens)
    ids = " ".join(map(str, tokens)).encode()
    found = subprocess.run([LOGITS, path], input=ids, check=True, stdout=subprocess.PIPE).stdout
    found = np.frombuffer(found, "<f4").reshape(expected.shape)
    return np.abs(found - expected).max(), np.abs(expected).max(), len(tokens)


def main():
    passed = failed = 0
    text = TEXT.read_bytes()[: 4 * CTX * WINDOWS]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("rwkv7-bytes", "rwkv6-bytes"):
            for kind in ("f32", "q8_0", "q4_k_m"):
                path = Path(folder) / f"{name}.{kind}.gguf"
                command = [PROGRAM, "--format", "quiet", "convert", ROOT / f"testdata/{name}.pth", path, "--type", kind]
                subprocess.run(command, check=True)
                (a, n), (b, m) = ours(path), theirs(path, text)
                good = n == m and abs(a / b - 1) <= LIMIT
                passed, failed = passed + good, failed + (not good)
                print(f"{'ok  ' if good else 'FAIL'} {name} {kind}: perplexity {a:.5f}, llama.cpp {b:.5f}, ratio - 1 {a / b - 1:+.1e}, {n} and {m} tokens")
                if kind == "f32":
                    worst, largest, n = logits_differ(path, text)
                    good = bool(worst <= LOGIT_LIMIT)  # a NaN is no pass
                    passed, failed = passed + good, failed + (not good)
                    print(f"{'ok  ' if good else 'FAIL'} {name} {kind}: logits differ by at most {worst:.1e} of up to {largest:.1f}, {n} tokens")
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
