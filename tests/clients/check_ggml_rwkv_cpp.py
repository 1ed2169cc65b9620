"""Reproduces the quantized tensors of rwkv.cpp files from their FP32 files.

    python check_ggml_rwkv_cpp.py ENCODE_RAW FP32.bin QUANTIZED.bin

Both files hold the same model; every tensor that the second stores as Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0 must be what our
encoder makes of the first.
"""
import struct, sys
import numpy as np
from check_ggml_quant import Ours

TYPES = {0: ("f32", 1, 4), 1: ("f16", 1, 2), 2: ("q4_0", 32, 18), 3: ("q4_1", 32, 20), 7: ("q5_0", 32, 22),
         8: ("q5_1", 32, 24), 9: ("q8_0", 32, 34)}


def tensors(path):
    data = open(path, "rb").read()
    assert data[:4] == b"fmgg", path
    at, out = 24, {}
    while at < len(data):
        dims, name_bytes, kind = struct.unpack_from("<3I", data, at)
        at += 12
        shape = struct.unpack_from(f"<{dims}I", data, at)
        at += 4 * dims
        name = data[at:at + name_bytes].decode()
        at += name_bytes
        label, block, block_bytes = TYPES[kind]
        size = int(np.prod(shape)) // block * block_bytes
        out[name] = label, shape, data[at:at + size]
        at += size
    return out


def main():
    ours, source, target = Ours(sys.argv[1]), tensors(sys.argv[2]), tensors(sys.argv[3])
    count = wrong = 0
    for name, (kind, shape, data) in target.items():
        if kind in ("f32", "f16"):
            continue
        values = np.frombuffer(source[name][2], "<f4").reshape(-1, shape[0])
        mine = ours.encode(kind, values)
        count += 1
        if isinstance(mine, str) or mine.tobytes() != data:
            wrong += 1
            print(f"{name}: {mine if isinstance(mine, str) else 'bytes differ'}")
    print(f"{sys.argv[3]}: {count} quantized tensors, {wrong} differ")
    sys.exit(1 if wrong or not count else 0)


main()
