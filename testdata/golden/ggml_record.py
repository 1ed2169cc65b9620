"""Writes testdata/golden/ggml: rows of f32, an importance, and the bytes that libggml makes of them for every type.

    python ggml_record.py        (GGML_BASE names libggml-base.so, else that of the package llama-cpp-py-sync)

values.f32       rows of 512 values of many kinds (the kinds of tests/clients/check_ggml_quant.py)
importance.f32   512 values
TYPE.bin         the rows encoded without, then with the importance; only what libggml can encode without limits
TYPE.decoded     for the types that we only read: random blocks, then the f32 they decode to
"""
import pathlib, sys
import numpy as np
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests" / "clients"))
from check_ggml_quant import ENCODED, IDS, ggml_decode, ggml_encode, importances, kinds_of_rows, library

COLS = 512


def main():
    g, rng, out = library(), np.random.default_rng(20), HERE / "ggml"
    out.mkdir(exist_ok=True)
    importance = dict(importances(rng, COLS))["massive channels"]
    rows = [x for _, x in kinds_of_rows(rng, 1, COLS)]
    # Rows whose scales do not fit in f16 are errors of ours.
    fit = [x for x in rows if all(np.isfinite(ggml_decode(g, k, ggml_encode(g, k, x, q), COLS)).all()
                                  for k in ENCODED for q in (None, importance))]
    values = np.concatenate(fit)
    values.astype("<f4").tofile(out / "values.f32")
    importance.astype("<f4").tofile(out / "importance.f32")
    for kind in ENCODED:
        plain, weighted = ggml_encode(g, kind, values), ggml_encode(g, kind, values, importance)
        (out / f"{kind}.bin").write_bytes(plain.tobytes() + weighted.tobytes())
    for kind in IDS:
        if kind in ENCODED or kind == "q8_k":
            continue
        data = rng.integers(0, 256, (1, g.ggml_row_size(IDS[kind], COLS)), np.uint8)
        size = data.shape[1] // 2
        for block in (0, 1):
            data[0, block * size:block * size + 2] = np.frombuffer(np.float16(0.37 - block).tobytes(), np.uint8)
        (out / f"{kind}.decoded").write_bytes(data.tobytes() + ggml_decode(g, kind, data, COLS).tobytes())


main()
