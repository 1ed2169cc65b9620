#!/usr/bin/env python3
"""Records what llama.cpp's converter writes for the hybrids in testdata/hybrids/ (see tests/hybrids/make_folder.py).

    python tests/clients/record_hybrids.py --llama-src DIR

DIR is the unpacked source tree, with convert_hf_to_gguf.py. The interpreter needs torch, transformers, safetensors,
sentencepiece and gguf.
Written to testdata/golden/llama_cpp/<folder>.<outtype>.json, as record_llama_cpp.py does it, but with the token arrays.

The converter knows a tokenizer's rule of cutting text by a hash of a text's tokens, so that it knows the tokenizers of
released models only. Ours has Qwen2's rule and another vocabulary: the converter is told the name of the rule.
"""

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path

import record_llama_cpp as record

OUTTYPES = ["f32", "f16", "bf16", "q8_0"]
CONVERT = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2"
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


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
    for folder in sorted(p for p in args.folders.iterdir() if p.is_dir()):
        sha = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        for outtype in OUTTYPES:
            with tempfile.TemporaryDirectory() as tmp:
                out = (args.keep or Path(tmp)) / f"{folder.name}.{outtype}.gguf"
                record.run(sys.executable, "-c", CONVERT, args.llama_src, args.llama_src / "convert_hf_to_gguf.py", folder,
                    "--outtype", outtype, "--outfile", out, "--model-name", folder.name)  # fmt: skip
                converter = f"llama.cpp {args.llama_version} convert_hf_to_gguf.py --outtype {outtype}"
                record.write_record(args.out / f"{folder.name}.{outtype}.json", out, converter, sha)


if __name__ == "__main__":
    main()
