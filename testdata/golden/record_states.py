"""Records how likely the official runner (pip package rwkv 0.8.32, CPU, fp32) finds a text from a tuned initial state.

    python record_states.py            writes tuned_states.json beside itself

The state stands in the checkpoint, where the runner looks for it: blocks.{i}.att.time_state [heads, value, key]. Its values are those of
tests/it/adapters.rs. Needs torch and rwkv.
"""

import json
import os
import tempfile
from pathlib import Path

os.environ |= {"RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0", "RWKV_V7_ON": "0"}
import torch  # noqa: E402
from rwkv.model import RWKV  # noqa: E402

HERE = Path(__file__).resolve().parent


def nats(weights, tokens):
    with tempfile.TemporaryDirectory() as folder:
        torch.save(weights, f"{folder}/model.pth")
        model = RWKV(model=f"{folder}/model", strategy="cpu fp32", verbose=False)
    logits, _ = model.forward(tokens[:-1], None, full_output=True)
    logs = torch.log_softmax(logits.double(), -1)
    return -logs[range(len(tokens) - 1), tokens[1:]].mean().item()


def main():
    tokens = list((HERE.parent / "heldout.txt").read_bytes()[:512])
    result = {}
    for name in ("rwkv5.2-bytes", "rwkv6-bytes"):
        weights = torch.load(HERE.parent / f"{name}.pth", weights_only=True)
        weights = {key: value.float() for key, value in weights.items()}
        plain = nats(dict(weights), tokens)
        for block in range(2):
            values = [((i * 31 + block) % 13) / 32 - 0.1875 for i in range(4 * 64 * 64)]
            weights[f"blocks.{block}.att.time_state"] = torch.tensor(values).reshape(4, 64, 64)
        result[name] = {"plain": plain, "tuned": nats(weights, tokens)}
    (HERE / "tuned_states.json").write_text(json.dumps(result, indent=1) + "\n")


main()
