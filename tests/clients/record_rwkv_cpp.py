"""Records what rwkv.cpp's own converter, and its quantizer's rules with ggml's codes, make of a checkpoint.

    python record_rwkv_cpp.py CONVERTER CHECKPOINT.pth OUT.json

CONVERTER is `python/convert_pytorch_to_ggml.py` of rwkv.cpp (the version that knows RWKV-7, February 2025), or what takes the same
arguments. The records of versions 4, 5 and 6 were made with a transcription of its rules in its place: they show that two readings
of rwkv.cpp's source agree. Against files that rwkv.cpp itself wrote stand 5.2 and 7 (rwkv_cpps_own_files_come_out_again). The
quantizer is C++; which tensors it takes is written down here (two dimensions, not the embedding, the head, or version 7's small
matrices), and their bytes are made by the package gguf, whose legacy types are those of ggml bit for bit. Needs torch and gguf.
"""

import hashlib
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, quants

TYPES = {"q4_0": 2, "q4_1": 3, "q5_0": 7, "q5_1": 8, "q8_0": 9}
SMALL = ["att.v1", "att.v2", "att.g1", "att.g2", "att.a1", "att.a2", "att.w1", "att.w2", "att.r_k"]


def read(path):
    """The head, and of every tensor its name, shape, type number and bytes."""
    data = Path(path).read_bytes()
    head, at, tensors = list(struct.unpack("<6I", data[:24])), 24, []
    while at < len(data):
        dims, length, kind = struct.unpack("<3I", data[at : at + 12])
        at += 12
        shape = list(struct.unpack(f"<{dims}I", data[at : at + 4 * dims]))[::-1]
        at += 4 * dims
        name = data[at : at + length].decode()
        at += length
        size = int(np.prod(shape)) * (2 if kind == 1 else 4)
        tensors.append((name, shape, kind, data[at : at + size]))
        at += size
    return head, tensors


def quantized(tensors, kind):
    """What rwkv_quantize_model_file writes."""
    for name, shape, plain, data in tensors:
        if len(shape) == 2 and name not in ("emb.weight", "head.weight") and not any(s in name for s in SMALL):
            values = np.frombuffer(data, "<f2" if plain == 1 else "<f4").astype(np.float32).reshape(shape)
            yield name, shape, TYPES[kind], quants.quantize(values, GGMLQuantizationType[kind.upper()]).tobytes()
        else:
            yield name, shape, plain, data


def record(head, tensors):
    """The hash of the file, and apart from it, zeros in their place, what torch's exp may leave a step off."""
    file, decays = bytearray(struct.pack("<6I", *head)), {}
    for name, shape, kind, data in tensors:
        if name.endswith(("time_decay", "time_first")):
            decays[name] = data.hex()
            data = bytes(len(data))
        file += struct.pack(f"<3I{len(shape)}I", len(shape), len(name), kind, *shape[::-1]) + name.encode() + data
    return {"bytes": len(file), "sha256": hashlib.sha256(file).hexdigest(), "decays": decays}


def main():
    converter, checkpoint, out = sys.argv[1:]
    result = {"source_sha256": hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest(), "files": {}}
    with tempfile.TemporaryDirectory() as folder:
        for kind, name in [("f32", "FP32"), ("f16", "FP16")]:
            path = f"{folder}/{name}.bin"
            subprocess.run([sys.executable, converter, checkpoint, path, name], check=True, stdout=subprocess.DEVNULL)
            head, tensors = read(path)
            result["files"][kind] = record(head, tensors)
    for kind, number in TYPES.items():
        # From the FP16 file, which was read last.
        if all(shape[-1] % 32 == 0 for _, shape, _, _ in tensors if len(shape) == 2):
            result["files"][kind] = record([*head[:5], number], quantized(tensors, kind))
    decays = [file.pop("decays") for file in result["files"].values()]
    assert all(d == decays[0] for d in decays)
    result["decays"] = decays[0]
    Path(out).write_text(json.dumps(result, indent=1) + "\n")


main()
