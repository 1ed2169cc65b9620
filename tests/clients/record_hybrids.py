#!/usr/bin/env python3
"""Records what llama.cpp's converter writes for the hybrids in testdata/hybrids/ (see tests/hybrids/make_folder.py).

    python tests/clients/record_hybrids.py --llama-src DIR

DIR is the unpacked source tree, with convert_hf_to_gguf.py. The interpreter needs torch, transformers, safetensors,
sentencepiece and gguf.
Written to testdata/golden/llama_cpp/<folder>.<outtype>.json, as record_llama_cpp.py does it, but with the token arrays.
testdata/golden/llama_cpp/hybrids.tokens.json has what the tokenizers of the folders make of a few texts.

The converter knows a tokenizer's rule of cutting text by a hash of a text's tokens, so that it knows the tokenizers of
released models only. Ours has Qwen2's rule and another vocabulary: the converter is told the name of the rule.
"""

import argparse
import hashlib
import json
import random
import sys
import tempfile
from pathlib import Path

import record_llama_cpp as record
from transformers import AutoTokenizer

OUTTYPES = ["f32", "f16", "bf16", "q8_0"]
CONVERT = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2"
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def texts():
    """What is hard for a tokenizer: contractions, runs of blanks and lines, digits, scripts, names of special tokens."""
    fixed = [
        "The river carries the stones to the sea.",
        "They're here; I've seen THEM THERE, she'LL say it's 12345 3.14\n\n  \tindented\r\n\r\n x",
        "日本語 émigré 🚀🚀 naïve\u200d ❤️ नमस्ते a\u00a0b\u2028c",
        "   leading   blanks   \n \n\n and trailing  ",
        "<|im_start|>user\nhello<|im_end|><tool_call> <|plain|><|endoftext|>",
        "'' ``== ====--- ~~~ +1",
    ]
    letters = random.Random(7)
    return fixed + ["".join(letters.choice(" thernsaioucky'\n\t\r.,;12(é日") for _ in range(80)) for _ in range(10)]


def main():
    parser = argparse.ArgumentParser(description="Records what llama.cpp's converter writes for the hybrids.")
    parser.add_argument("--llama-src", type=Path, required=True)
    parser.add_argument("--llama-version", default="b11434", help="written into the records")
    parser.add_argument("--folders", type=Path, default=record.ROOT / "testdata/hybrids")
    parser.add_argument("--out", type=Path, default=record.ROOT / "testdata/golden/llama_cpp")
    parser.add_argument("--keep", type=Path, help="keep the GGUF files in this folder")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    record.TOKEN_ARRAYS = ()
    tokens = {}
    for folder in sorted(p for p in args.folders.iterdir() if p.is_dir()):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokens[folder.name] = [[text, tokenizer.encode(text)] for text in texts()]
        sha = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        for outtype in OUTTYPES:
            with tempfile.TemporaryDirectory() as tmp:
                out = (args.keep or Path(tmp)) / f"{folder.name}.{outtype}.gguf"
                record.run(sys.executable, "-c", CONVERT, args.llama_src, args.llama_src / "convert_hf_to_gguf.py", folder,
                    "--outtype", outtype, "--outfile", out, "--model-name", folder.name)  # fmt: skip
                converter = f"llama.cpp {args.llama_version} convert_hf_to_gguf.py --outtype {outtype}"
                record.write_record(args.out / f"{folder.name}.{outtype}.json", out, converter, sha)
    lines = (f"{json.dumps(name)}: [\n" + ",\n".join(map(json.dumps, rows)) + "\n]" for name, rows in tokens.items())
    (args.out / "hybrids.tokens.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
