#!/usr/bin/env python3
"""How near files are to their source at the size of those of the PyPI package rwkv-quant 0.3.0 (RWKV-7 only).

    pip install --no-deps rwkv-quant==0.3.0        # beside torch; TORCH_DISABLE_NATIVE_JIT=1 RWKVQ_DEVICE=cpu
    python benches/vs_rwkv_quant_pypi.py [--model testdata/rwkv7-bytes.pth] [--windows 128] [--record FILE.json]

Both calibrate on the first windows of 512 tokens of testdata/heldout.txt; the package by its own functions (statistics of
activations, then GPTQ), since its one-call interface knows the World vocabulary only; its `autopick`, which needs that interface, is
left out. Its file is decoded by its own reader into a .pth. KL against the source is measured on the last 64 windows by
`rwkv-quant eval-ppl`, for both in f32 arithmetic; intervals as in quality.py. Ours is `convert --calib TEXT --target-size ITS_BYTES`.
"""

import argparse
import copy
import json
import tempfile
from pathlib import Path

import quality
import torch
from rwkv_quant import presets
from rwkv_quant.calibration import gptq
from rwkv_quant.formats import codec, quantize_file
from rwkv_quant.formats.reader import _dequantize_one, load_raw
from rwkv_quant.models import rwkv7_ref


def theirs(checkpoint, preset, tokens, out, work):
    """Quantizes with the package, and decodes what it wrote."""
    config = copy.deepcopy(presets.PRESETS[preset])
    model = rwkv7_ref.RWKV7Ref(str(checkpoint), device="cpu", dtype=torch.bfloat16)
    rwkv7_ref.ACT_RECORDER = {}
    with torch.no_grad():
        for window in tokens:
            model.forward(window[None, :-1])
    statistics = work / "statistics.pt"
    recorded = {name: sums / max(count, 1) for name, (sums, count) in rwkv7_ref.ACT_RECORDER.items()}
    rwkv7_ref.ACT_RECORDER = None
    torch.save(recorded, statistics)
    config.act_stats_path = str(statistics)
    with torch.no_grad():
        tensors = gptq.run(str(checkpoint), None, config, n_windows=len(tokens), damp=0.1, device="cpu", calib=tokens)
    quantize_file(str(checkpoint), str(out), config, gptq_tensors=tensors, gptq_meta={"windows": len(tokens)})
    decoded = {}
    for name, tensor in load_raw(str(out)).tensors.items():
        values = _dequantize_one(tensor, torch.float32)
        if codec.is_raw_lora_world(name) and not tensor.transposed:
            values = values.T.contiguous()
        decoded[name] = values.float()
    path = out.with_suffix(".pth")
    torch.save(decoded, path)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=quality.ROOT / "testdata/rwkv7-bytes.pth")
    parser.add_argument("--windows", type=int, default=quality.CALIBRATION)
    parser.add_argument("--record", type=Path)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = (quality.ROOT / "testdata/heldout.txt").read_bytes()
        calibration, judge = work / "calibration.txt", work / "judge.txt"
        calibration.write_bytes(data[: args.windows * quality.WINDOW])
        judge.write_bytes(data[-quality.JUDGE * quality.WINDOW :])
        tokens = torch.tensor(list(calibration.read_bytes())).reshape(args.windows, quality.WINDOW)
        for preset in ["reduction", "compression"]:
            out = work / f"{preset}.rwkvq"
            decoded = theirs(args.model, preset, tokens, out, work)
            ours = work / f"{preset}.gguf"
            quality.convert(args.model, ours, "--calib", calibration, "--target-size", out.stat().st_size)
            their_kl, our_kl = quality.divergences(args.model, [decoded, ours], judge)
            rows.append({
                "model": args.model.name,
                "preset": preset,
                "bytes": {"rwkv-quant 0.3.0 (PyPI)": out.stat().st_size, "rwkv-quant": ours.stat().st_size},
                "kl": {"rwkv-quant 0.3.0 (PyPI)": quality.interval(their_kl), "rwkv-quant": quality.interval(our_kl)},
                "difference": quality.interval([b - a for a, b in zip(their_kl, our_kl)]),
                "ratio": sum(our_kl) / sum(their_kl),
            })
            print(json.dumps(rows[-1]), flush=True)
    if args.record:
        args.record.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
