"""Writes testdata/golden/bitsandbytes: weights and what bitsandbytes 0.50 makes of them on a CPU.

    python bitsandbytes_record.py        (needs bitsandbytes 0.50 and torch)

values.f32           64 * 300 + 37 weights; nf4.codes, nf4.absmax, nf4.decoded: quantize_4bit with blocks of 64
nested.*             its double quantization: codes, absmax, offset, and the dynamic map
rows.f32             16 rows of 128; int8.*: int8_vectorwise_quant; split.*: the same with threshold 3
"""
import pathlib
import numpy as np, torch
import bitsandbytes.functional as F

out = pathlib.Path(__file__).resolve().parent / "bitsandbytes"
out.mkdir(exist_ok=True)
save = lambda name, t: t.contiguous().numpy().tofile(out / name)

torch.manual_seed(3)
n = 64 * 300 + 37
levels = F.get_4bit_type("nf4", device="cpu")
values = torch.randn(n) * torch.exp(torch.randn(n))
values[:64] = 0
values[64:128] = torch.cat([levels] * 4)
values[128:143] = (levels[1:] + levels[:-1]) / 2
values[143:192] = 1
values[192:256] *= 1e-30
values[256:320] *= 1e-39
save("values.f32", values)
codes, state = F.quantize_4bit(values, blocksize=64, quant_type="nf4")
save("nf4.codes", codes)
save("nf4.absmax", state.absmax)
save("nf4.decoded", torch.ops.bitsandbytes.dequantize_4bit.default(
    codes, state.absmax, 64, "nf4", values.shape, torch.float32))
_, nested = F.quantize_4bit(values, blocksize=64, quant_type="nf4", compress_statistics=True)
save("nested.codes", nested.absmax)
save("nested.absmax", nested.state2.absmax)
save("nested.offset", nested.offset.reshape(1))
save("nested.map", nested.state2.code)

rows = torch.randn(16, 128)
rows[5, 7], rows[9, 100], rows[2] = 9.0, -6.5, rows[2] * 1e-6
rows[11] = 0
save("rows.f32", rows)
codes, absmax, _ = F.int8_vectorwise_quant(rows.clone())
save("int8.codes", codes)
save("int8.absmax", absmax)
codes, absmax, columns = F.int8_vectorwise_quant(rows.clone(), threshold=3.0)
save("split.codes", codes)
save("split.absmax", absmax)
save("split.columns", columns)
