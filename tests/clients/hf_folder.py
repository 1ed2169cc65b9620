"""Writes a BlinkDL checkpoint as the Hugging Face folder that llama.cpp's converter reads. Needs torch and safetensors.

RWKV-7 in the fla layout (RWKV7ForCausalLM), RWKV-6 in the remote-code layout (Rwkv6ForCausalLM, rescale_every 0).
"""

import json
import re

import torch
from safetensors.torch import save_file

FLA_NORMS = {"ln0": "pre_norm", "ln1": "attn_norm", "ln2": "ffn_norm"}
FLA_ATT = {"receptance": "r_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj", "ln_x": "g_norm"}
FLA_TOP = {"emb": "model.embeddings", "ln_out": "model.norm", "head": "lm_head"}


def fla_name(name, tensor):
    """BlinkDL RWKV-7 tensor -> (fla name, tensor as fla stores it)."""
    block = re.match(r"blocks\.(\d+)\.(\w+)\.(.+)", name)
    if not block:
        top, leaf = name.split(".")
        return f"{FLA_TOP[top]}.{leaf}", tensor
    layer, part, leaf = block.groups()
    layer = f"model.layers.{layer}"
    if part in FLA_NORMS:
        return f"{layer}.{FLA_NORMS[part]}.{leaf}", tensor
    if part == "ffn":
        return f"{layer}.ffn.{leaf}", tensor.squeeze() if leaf == "x_k" else tensor
    lora = re.fullmatch(r"([wavg])([012])", leaf)
    if lora:  # an nn.Sequential of two nn.Linear: [out, in], so transposed
        kind, index = lora.groups()
        if index == "0":
            return f"{layer}.attn.{kind}_lora.lora.2.bias", tensor.squeeze()
        return f"{layer}.attn.{kind}_lora.lora.{0 if index == '1' else 2}.weight", tensor.t()
    if leaf in ("k_k", "k_a"):
        return f"{layer}.attn.{leaf}", tensor.squeeze()
    first, *rest = leaf.split(".")
    return ".".join([layer, "attn", FLA_ATT.get(first, first), *rest]), tensor


def rwkv6_name(name):
    """BlinkDL RWKV-6 name -> name in the RWKV-6 remote code."""
    if name.startswith("head."):
        return name
    name = name.replace("emb.", "embeddings.").replace("blocks.0.ln0.", "blocks.0.pre_ln.")
    return "rwkv." + name.replace(".att.", ".attention.").replace(".ffn.", ".feed_forward.")


def common_config(weights):
    vocab, hidden = weights["emb.weight"].shape
    return {
        "hidden_size": hidden,
        "intermediate_size": weights["blocks.0.ffn.key.weight"].shape[0],
        "num_hidden_layers": 1 + max(int(n.split(".")[1]) for n in weights if n.startswith("blocks.")),
        "vocab_size": vocab,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": False,
    }


def rwkv7_folder(weights):
    ranks = {k: weights[f"blocks.1.att.{k}1"].shape[1] for k in "wavg"}
    config = {
        "architectures": ["RWKV7ForCausalLM"],
        "model_type": "rwkv7",
        **common_config(weights),
        "head_dim": weights["blocks.0.att.r_k"].shape[1],
        "norm_eps": 1e-5,
        "decay_low_rank_dim": ranks["w"],
        "a_low_rank_dim": ranks["a"],
        "v_low_rank_dim": ranks["v"],
        "gate_low_rank_dim": ranks["g"],
    }
    # layer 0 has no value residual: fla does not store its v0, v1, v2
    kept = {n: t for n, t in weights.items() if not re.fullmatch(r"blocks\.0\.att\.v[012]", n)}
    return config, dict(fla_name(n, t) for n, t in kept.items())


def rwkv6_folder(weights):
    config = {
        "architectures": ["Rwkv6ForCausalLM"],
        "model_type": "rwkv6",
        **common_config(weights),
        "head_size": weights["blocks.0.att.time_faaaa"].shape[1],
        "layer_norm_epsilon": 1e-5,
        "rescale_every": 0,
    }
    return config, {rwkv6_name(n): t for n, t in weights.items()}


def write_hf_folder(weights, folder, vocab_lines):
    """Writes config.json, model.safetensors and the vocabulary file into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    make = rwkv7_folder if "blocks.0.att.r_k" in weights else rwkv6_folder
    config, tensors = make(weights)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "rwkv_vocab_v20230424.txt").write_text("".join(line + "\n" for line in vocab_lines), encoding="utf-8")


def byte_vocab_lines(vocab):
    """Vocabulary file of a byte-level model: line k is the byte k, k = 1 .. vocab - 1 (the converter makes id 0 `<s>`)."""
    return [f"{k} {bytes([k])!r} 1" for k in range(1, vocab)]


def load_pth(path):
    return torch.load(path, map_location="cpu", weights_only=True)
