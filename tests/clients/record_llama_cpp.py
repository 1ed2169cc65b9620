#!/usr/bin/env python3
"""Records what llama.cpp's own tools write for the byte-level models in testdata/.

    python tests/clients/record_llama_cpp.py --llama-src DIR --llama-bin DIR [MODEL.pth ...]

DIR are the unpacked source tree (with convert_hf_to_gguf.py) and the folder of llama-quantize. The interpreter needs torch,
transformers, safetensors and gguf. Each model becomes a Hugging Face folder, then GGUF files by convert_hf_to_gguf.py
(f32, f16, bf16, q8_0) and, from the f32 file, by llama-quantize. Written to testdata/golden/llama_cpp/:

    <model>.<outtype>.json                what convert_hf_to_gguf.py wrote
    <model>.llama-quantize.<type>.json    what llama-quantize wrote
    <model>.imatrix.gguf                  an importance matrix of random numbers, made here: any will do
    <model>.imatrix.<type>.json           what llama-quantize wrote with it

Each holds the metadata in order as {key: [type, value]}, without the token arrays, and name, dims (as in the file, fastest
first), type and SHA-256 of the bytes of every tensor, in file order.

The tokenizer keys differ from ours by design: the converter knows only the World vocabulary and turns id 0 into `<s>`, while
in a byte-level model id 0 is the byte 0 and there are no special tokens. Our parity test leaves `tokenizer.*` out.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
from hf_folder import byte_vocab_lines, load_pth, write_hf_folder

ROOT = Path(__file__).resolve().parents[2]
OUTTYPES = ["f32", "f16", "bf16", "q8_0"]  # q8_0 here also covers the a, v, g matrices, which llama-quantize leaves alone
QUANTIZED = "q8_0 q4_0 q4_1 q5_0 q5_1 q6_k q5_k_m q4_k_m q3_k_m q2_k iq4_nl iq4_xs".split()
TOKEN_ARRAYS = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type")


def describe(path):
    reader = gguf.GGUFReader(path)
    kv = {
        key: [field.types[0].name.lower(), field.contents()]
        for key, field in reader.fields.items()
        if not key.startswith("GGUF.") and key not in TOKEN_ARRAYS
    }
    tensors = [
        {
            "name": t.name,
            "dims": [int(d) for d in t.shape],
            "type": t.tensor_type.name,
            "sha256": hashlib.sha256(t.data.tobytes()).hexdigest(),
        }
        for t in reader.tensors
    ]
    return kv, tensors


def write_record(path, gguf_file, converter, source_sha256):
    kv, tensors = describe(gguf_file)
    lines = lambda items: ",\n".join(items)
    path.write_text(
        "{\n"
        f'"converter": {json.dumps(converter)},\n'
        f'"source_sha256": "{source_sha256}",\n'
        '"kv": {\n' + lines(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in kv.items()) + "\n},\n"
        '"tensors": [\n' + lines(json.dumps(t) for t in tensors) + "\n]\n}\n"
    )
    print(path.name, len(kv), "keys", len(tensors), "tensors")


def write_imatrix(path, full_gguf):
    """An importance matrix for every matrix of the blocks that llama-quantize quantizes, log-normal, from a fixed seed."""
    random = np.random.Generator(np.random.PCG64(1))
    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["random numbers"])
    writer.add_uint32("imatrix.chunk_count", 3)
    writer.add_uint32("imatrix.chunk_size", 512)
    for t in gguf.GGUFReader(full_gguf).tensors:
        parts = t.name.split(".")
        if parts[0] == "blk" and parts[2].endswith(("key", "value", "receptance", "output", "gate")):
            sums = random.lognormal(0.0, 2.0, int(t.shape[0])).astype(np.float32) * 100
            writer.add_tensor(t.name + ".in_sum2", sums)
            writer.add_tensor(t.name + ".counts", np.array([100], dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def run(*command, cwd=None):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=cwd)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


def main():
    parser = argparse.ArgumentParser(description="Records what llama.cpp's own tools write for our test models.")
    parser.add_argument("--llama-src", type=Path, required=True)
    parser.add_argument("--llama-bin", type=Path, required=True)
    parser.add_argument("--llama-version", default="b11434", help="written into the records")
    parser.add_argument("--out", type=Path, default=ROOT / "testdata/golden/llama_cpp")
    parser.add_argument("models", type=Path, nargs="*", default=[ROOT / f"testdata/rwkv{v}-bytes.pth" for v in (6, 7)])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for pth in args.models:
        name, sha = pth.stem, hashlib.sha256(pth.read_bytes()).hexdigest()
        weights = load_pth(pth)
        with tempfile.TemporaryDirectory() as tmp:
            tmp = Path(tmp)
            write_hf_folder(weights, tmp / "hf", byte_vocab_lines(weights["emb.weight"].shape[0]))
            for outtype in OUTTYPES:
                out = tmp / f"{outtype}.gguf"
                run(sys.executable, args.llama_src / "convert_hf_to_gguf.py", tmp / "hf",
                    "--outtype", outtype, "--outfile", out, "--model-name", name)  # fmt: skip
                converter = f"llama.cpp {args.llama_version} convert_hf_to_gguf.py --outtype {outtype}"
                write_record(args.out / f"{name}.{outtype}.json", out, converter, sha)
            for kind in QUANTIZED:
                out = tmp / f"{kind}.gguf"
                run(args.llama_bin / "llama-quantize", tmp / "f32.gguf", out, kind.upper(), 2)
                converter = f"llama.cpp {args.llama_version} llama-quantize {kind.upper()}, from the f32 file"
                write_record(args.out / f"{name}.llama-quantize.{kind}.json", out, converter, sha)
            imatrix = args.out / f"{name}.imatrix.gguf"
            write_imatrix(imatrix, tmp / "f32.gguf")
            for kind in QUANTIZED:
                run(args.llama_bin.absolute() / "llama-quantize", "--imatrix", imatrix.name, tmp / "f32.gguf", out, kind.upper(), 2,
                    cwd=args.out)  # llama-quantize keeps the path as it was typed
                converter = f"llama.cpp {args.llama_version} llama-quantize --imatrix {kind.upper()}, from the f32 file"
                write_record(args.out / f"{name}.imatrix.{kind}.json", out, converter, sha)


if __name__ == "__main__":
    main()
