"""Small models of random weights, the same every time, from the standard library alone."""

import json
import pathlib
import random
import struct

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def tensors(seed, blocks=2, width=64, hidden=64, vocab=256, rank=16):
    """An RWKV-7 with BlinkDL's names: name to (shape, values)."""
    numbers = random.Random(seed)
    model = {}

    def noise(name, *shape, scale=0.05, mean=0.0):
        count = 1
        for size in shape:
            count *= size
        model[name] = shape, [mean + numbers.gauss(0, scale) for _ in range(count)]

    def norm(name):
        noise(f"{name}.weight", width, scale=0.02, mean=1.0)
        noise(f"{name}.bias", width)

    noise("emb.weight", vocab, width, scale=0.5)
    for block in range(blocks):
        at = f"blocks.{block}."
        for name in (["ln0"] if block == 0 else []) + ["ln1", "ln2"]:
            norm(at + name)
        for name in "rwkvag":
            noise(f"{at}att.x_{name}", 1, 1, width)
        for name in "wa" + ("v" if block else ""):
            noise(f"{at}att.{name}0", 1, 1, width)
        for name in "wag" + ("v" if block else ""):
            noise(f"{at}att.{name}1", width, rank)
            noise(f"{at}att.{name}2", rank, width)
        for name in ("k_k", "k_a"):
            noise(f"{at}att.{name}", 1, 1, width)
        noise(f"{at}att.r_k", width // 64, 64)
        for name in ("receptance", "key", "value", "output"):
            noise(f"{at}att.{name}.weight", width, width)
        norm(f"{at}att.ln_x")
        noise(f"{at}ffn.x_k", 1, 1, width)
        noise(f"{at}ffn.key.weight", hidden, width)
        noise(f"{at}ffn.value.weight", width, hidden)
    norm("ln_out")
    noise("head.weight", vocab, width, scale=0.2)
    return model


def write(path, model):
    """Writes a safetensors file of f16."""
    header, data, at = {}, [], 0
    for name, (shape, values) in model.items():
        raw = struct.pack(f"<{len(values)}e", *values)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
        data.append(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))


def text(size, start=0):
    """Some text to calibrate and evaluate on."""
    return (ROOT / "testdata/heldout.txt").read_bytes()[start:start + size]
