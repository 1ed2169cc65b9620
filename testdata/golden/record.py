#!/usr/bin/env python3
"""Records what the official runner (pip package `rwkv` 0.8.32, CPU, fp32) says of one model of this folder.

usage: record.py MODEL.pth [--generate TEXT]

Writes golden/<model>/<prompt>.tokens.npy (int32 [T]), <prompt>.logits.npy (float32 [T,256], the logits after each token, from a
zero state), for versions 5 to 7 fn3.tuned.logits.npy (the same from an initial state), and nll.json. --generate only prints a greedy continuation of TEXT.

The initial state of block i is time_state [heads, value, key] with sin(0.37 n + i) / 2 as its n-th number. For versions 5 and 6 it
is put into the model's file, as the runner takes it; for version 7 it is the runner's own state, as RWKV-Runner sets it.

The runner gets a copy of the file whose bf16 tensors are widened to f32, which changes no value: given the file itself it would,
for versions 4 to 6, fold ln0 into the embedding in bf16 and so round the embedding once more (logits move by about 0.01).
"""
import argparse, json, math, os, tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
WINDOW, NLL_BYTES = 512, 16 << 10

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("model", type=Path)
ap.add_argument("--generate", metavar="TEXT")
args = ap.parse_args()

import numpy as np
import torch

tensors = {name: t.float() for name, t in torch.load(args.model, weights_only=True).items()}
is_v7 = "blocks.0.att.r_k" in tensors
os.environ.update(RWKV_JIT_ON="0", RWKV_CUDA_ON="0", RWKV_V7_ON="1" if is_v7 else "0")  # read when rwkv is imported
from rwkv.model import RWKV

torch.set_num_threads(1)
torch.set_grad_enabled(False)


def load(tensors):
    with tempfile.TemporaryDirectory() as widened:
        torch.save(tensors, Path(widened) / "model.pth")
        return RWKV(model=str(Path(widened) / "model"), strategy="cpu fp32")


model = load(tensors)


def logits_of(tokens):
    if len(tokens) == 1:
        return model.forward(tokens, None)[0][None].float()
    return model.forward(tokens, None, full_output=True)[0].float()


if args.generate:
    text = list(args.generate.encode())
    logits, state = model.forward(text, None)
    for _ in range(200):
        text.append(int(logits.argmax()))
        logits, state = model.forward(text[-1:], state)
    print(bytes(text).decode("utf-8", "replace"))
    raise SystemExit

held = (HERE.parent / "heldout.txt").read_bytes()
out = HERE / args.model.stem
out.mkdir(exist_ok=True)
for name, prompt in dict(text64=held[:64], fn3=b"fn ").items():
    tokens = list(prompt)
    logits = logits_of(tokens)
    assert logits.shape == (len(tokens), 256)
    np.save(out / f"{name}.tokens.npy", np.array(tokens, dtype=np.int32))
    np.save(out / f"{name}.logits.npy", logits.numpy().astype(np.float32))

is_v4 = "blocks.0.att.ln_x.weight" not in tensors
if not is_v4:
    width = tensors["emb.weight"].shape[1]
    heads = tensors["blocks.0.att.r_k" if is_v7 else "blocks.0.att.time_faaaa"].shape[0]
    shape = (heads, width // heads, width // heads)
    layers = sum(name.endswith(".ffn.key.weight") for name in tensors)
    count = torch.arange(math.prod(shape)).double()
    tuned = [((0.37 * count + i).sin() / 2).float().reshape(shape) for i in range(layers)]
    if is_v7:
        state = model.generate_zero_state()
        for i, block in enumerate(tuned):
            state[3 * i + 1] = block
        logits = model.forward(list(b"fn "), state, full_output=True)[0].float()
    else:
        states = {f"blocks.{i}.att.time_state": block for i, block in enumerate(tuned)}
        logits = load(tensors | states).forward(list(b"fn "), None, full_output=True)[0].float()
    np.save(out / "fn3.tuned.logits.npy", logits.numpy().astype(np.float32))

total = scored = 0
for start in range(0, NLL_BYTES, WINDOW):
    window = list(held[start : start + WINDOW])
    log_p = torch.log_softmax(logits_of(window[:-1]).double(), dim=-1)
    total -= log_p[torch.arange(WINDOW - 1), torch.tensor(window[1:])].sum().item()
    scored += WINDOW - 1
record = {
    "model": args.model.name,
    "runner": "pip rwkv 0.8.32, strategy cpu fp32, weights widened to f32",
    "text": f"heldout.txt, first {NLL_BYTES} bytes",
    "window": WINDOW,
    "windows": NLL_BYTES // WINDOW,
    "scored_bytes": scored,
    "nll_nats": total,
    "nats_per_byte": total / scored,
    "bits_per_byte": total / scored / math.log(2),
}
(out / "nll.json").write_text(json.dumps(record, indent=2) + "\n")
print(json.dumps(record))
