#!/usr/bin/env python3
"""Records what llama.cpp's own tool makes of a model in several files: testdata/golden/llama_cpp/rwkv7-bytes.split.json.

usage: record_split.py LLAMA_GGUF_SPLIT

The model is testdata/rwkv7-bytes.pth as a q8_0 GGUF file of ours. Of the first part, which holds the metadata, the size in
tensors is recorded; of the others the SHA-256. RWKV_QUANT is the program (target/release/rwkv-quant).
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("RWKV_QUANT", ROOT / "target/release/rwkv-quant")
OPTIONS = ["--split", "--split-max-size", "1M"]  # a million bytes


def main():
    tool = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        whole, parts = Path(folder) / "whole.gguf", Path(folder) / "part"
        source = ROOT / "testdata/rwkv7-bytes.pth"
        subprocess.run([PROGRAM, "--format", "quiet", "convert", source, whole, "--type", "q8_0"], check=True)
        subprocess.run([tool, *OPTIONS, whole, parts], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        files = sorted(Path(folder).glob("part-*.gguf"))
        golden = {
            "command": " ".join(["llama-gguf-split", *OPTIONS]),
            "count": len(files),
            "sha256": {f.name.removeprefix("part-"): hashlib.sha256(f.read_bytes()).hexdigest() for f in files[1:]},
        }
    text = json.dumps(golden, indent=1) + "\n"
    (ROOT / "testdata/golden/llama_cpp/rwkv7-bytes.split.json").write_text(text)


if __name__ == "__main__":
    main()
