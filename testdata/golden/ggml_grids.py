"""Writes quant/src/ggml/grids.rs: the code tables of the IQ2 and IQ3 types, found by decoding every code with libggml.

    python ggml_grids.py > ../../quant/src/ggml/grids.rs     (GGML_BASE names libggml-base.so, else llama-cpp-py-sync)

Every entry of a table is a vector of 8 (IQ2) or 4 (IQ3) magnitudes out of a few levels; it is written as one number
whose digits (2 bits for IQ2, 3 bits for IQ3) are the levels, first value lowest.
"""
import pathlib, sys
import numpy as np
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "clients"))
from check_ggml_quant import library, ggml_decode

# name, type, entries, bytes of a block, offset of a 16-bit or 8-bit code, how entry i is placed, factor of the scale, values
D = np.frombuffer(np.float16(1).tobytes(), np.uint8)


def block(kind, i):
    b = np.zeros({"iq2_xxs": 66, "iq2_xs": 74, "iq2_s": 82, "iq3_xxs": 98, "iq3_s": 110}[kind], np.uint8)
    b[:2] = D
    b[2] = i & 255
    if kind == "iq2_xs":
        b[3] = i >> 8
    elif kind == "iq2_s":
        b[66] = i >> 8
    elif kind == "iq3_s":
        b[66] = i >> 8
    return b


def main():
    g = library()
    print("//! The code tables of the IQ2 and IQ3 types. Written by `testdata/golden/ggml_grids.py`.\n//!")
    print("//! An entry holds 8 (IQ2) or 4 (IQ3) levels, the first in the lowest bits: 2 bits each for IQ2, 3 for IQ3.\n")
    for kind, entries, n, factor in [("iq2_xxs", 256, 8, 8), ("iq2_xs", 512, 8, 8), ("iq2_s", 1024, 8, 8),
                                     ("iq3_xxs", 256, 4, 4), ("iq3_s", 512, 4, 1)]:
        rows = np.stack([ggml_decode(g, kind, block(kind, i)[None], 256)[0, :n] * factor for i in range(entries)])
        levels = np.unique(rows)
        assert (rows > 0).all() and (levels == np.round(levels)).all() and len(levels) <= (4 if n == 8 else 8)
        codes = (np.searchsorted(levels, rows) << (np.arange(n) * (2 if n == 8 else 3))).sum(1)
        name = kind.upper()
        print(f"/// The magnitudes of {name}.")
        print(f"pub(super) const {name}_LEVELS: [u8; {len(levels)}] = [{', '.join(str(int(v)) for v in levels)}];\n")
        print(f"/// The codes of {name}.\n#[rustfmt::skip]\npub(super) static {name}: [u16; {entries}] = [")
        for i in range(0, entries, 16):
            print("    " + " ".join(f"{c:#06x}," for c in codes[i:i + 16]))
        print("];\n" if kind != "iq3_s" else "];")


main()
