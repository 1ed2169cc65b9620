#!/usr/bin/env python3
"""Makes the tiny Hugging Face folders of the hybrids with Qwen2 in testdata/hybrids/. Needs numpy. Always the same bytes.

    python tests/hybrids/make_folder.py [FOLDER]

    arwkv7         ARWKV-7 as published: no gate, no group norm. There is a token shift for the gate, and block 0 has a
                   value residual; nothing reads either.
                   The tokenizer is vocab.json and merges.txt, its chat template a file of its own.
    arwkv7-gated   ARWKV-7 with gate and group norm. The tokenizer is tokenizer.json, with merges as pairs.
    rwkv6qwen2     RWKV6-Qwen2 with biases and shared keys and values. tokenizer.json has merges as text, and puts a
                   token before every text.

The weights are random. Heads have 64 channels and the ranks of ARWKV-7 are 64, 64, 32 and 128, because llama.cpp's
converter takes no others. lm_head.weight is last in the file. The tokenizer is byte-level BPE with Qwen2's rules and a few
merges learnt from the text below; the last three rows of the embedding stand for no token.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
WIDTH, LAYERS, VOCAB, MERGES = 64, 2, 288, 24
ADDED = {"<|endoftext|>": True, "<|im_start|>": True, "<|im_end|>": True, "<tool_call>": False, "<|plain|>": False}
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
TEXT = """The river carries the stones to the sea, and the sea gives them back as sand. They're here; I've seen them there.
Over the hills the weather turns, then the other weather returns with the rain and the wind and the thunder."""


def bfloat16(values):
    bits = values.astype("<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


class Weights:
    """Random tensors in the order in which they are asked for."""

    def __init__(self, seed):
        self.random, self.tensors = np.random.default_rng(seed), {}

    def normal(self, name, *shape, around=0.0, by=None):
        by = by if by is not None else 0.4 / shape[-1] ** 0.5
        self.tensors[name] = bfloat16(around + by * self.random.standard_normal(shape))

    def between(self, name, low, high, *shape):
        self.tensors[name] = bfloat16(self.random.uniform(low, high, shape))

    def write(self, path):
        header, at = {"__metadata__": {"format": "pt"}}, 0
        for name, values in self.tensors.items():
            end = at + values.nbytes
            header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [at, end]}
            at = end
        head = json.dumps(header, separators=(",", ":")).encode()
        head += b" " * (-len(head) % 8)
        data = b"".join(v.tobytes() for v in self.tensors.values())
        path.write_bytes(len(head).to_bytes(8, "little") + head + data)


def qwen2(w, hidden, time_mix):
    """The tensors around the time mix."""
    w.normal("model.embed_tokens.weight", VOCAB, WIDTH, by=0.3)
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        w.normal(f"{layer}.input_layernorm.weight", WIDTH, around=1, by=0.1)
        time_mix(w, f"{layer}.self_attn", i)
        w.normal(f"{layer}.post_attention_layernorm.weight", WIDTH, around=1, by=0.1)
        w.normal(f"{layer}.mlp.gate_proj.weight", hidden, WIDTH)
        w.normal(f"{layer}.mlp.up_proj.weight", hidden, WIDTH)
        w.normal(f"{layer}.mlp.down_proj.weight", WIDTH, hidden)
    w.normal("model.norm.weight", WIDTH, around=1, by=0.1)
    w.normal("lm_head.weight", VOCAB, WIDTH, by=0.1)


def time_mix_7(gated):
    def make(w, attention, layer):
        at, c = attention + ".time_mixer.", WIDTH
        for name in "rwkvag":
            w.between(at + "x_" + name, 0, 1, 1, 1, c)
        for name, rank in (("w", 64), ("a", 64), ("v", 32), ("g", 128)):
            if name == "g" and not gated or name == "v" and layer == 0 and gated:
                continue
            w.normal(f"{at}{name}1", c, rank)
            w.normal(f"{at}{name}2", rank, c)
            if name != "g":
                w.between(f"{at}{name}0", -1, 1, 1, 1, c)
        w.between(at + "k_k", 0.5, 1.2, 1, 1, c)
        w.between(at + "k_a", 0.8, 1.1, 1, 1, c)
        w.normal(at + "r_k", c // 64, 64, by=0.1)
        for name in ("receptance", "key", "value", "output"):
            w.normal(f"{at}{name}.weight", c, c)
        if gated:
            w.normal(at + "ln_x.weight", c, around=1, by=0.1)
            w.normal(at + "ln_x.bias", c, by=0.02)

    return make


def time_mix_6(w, attention, _):
    at, c, mix, decay = attention + ".", WIDTH, 16, 24
    for name in "xrkvwg":
        w.between(at + "time_maa_" + name, 0, 1, 1, 1, c)
    w.normal(at + "time_maa_w1", c, 5 * mix)
    w.normal(at + "time_maa_w2", 5, mix, c)
    w.between(at + "time_decay", -6, -0.3, 1, 1, c)
    w.normal(at + "time_decay_w1", c, decay)
    w.normal(at + "time_decay_w2", decay, c)
    for name, width in (("q", c), ("k", c // 2), ("v", c // 2)):
        w.normal(f"{at}{name}_proj.weight", width, c)
        w.normal(f"{at}{name}_proj.bias", width, by=0.05)
    w.normal(at + "o_proj.weight", c, c)
    w.normal(at + "gate.weight", c, c)


def byte_letters():
    """The printable character that stands for every byte, as GPT-2 chose them."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def learn():
    """Tokens by text, and merges."""
    letters = byte_letters()
    words = Counter(re.findall(r" ?\w+|'\w+|[^\w\s]+|\s+", TEXT))
    words = {tuple(letters[b] for b in word.encode()): n for word, n in words.items()}
    tokens, merges = list(letters.values()), []
    for _ in range(MERGES):
        pairs = Counter()
        for word, n in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += n
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        tokens.append("".join(best))
        merged = Counter()
        for word, n in words.items():
            out, i = [], 0
            while i < len(word):
                join = word[i : i + 2] == best
                out.append("".join(best) if join else word[i])
                i += 2 if join else 1
            merged[tuple(out)] += n
        words = merged
    return {text: i for i, text in enumerate(tokens)}, merges


def dump(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def tokenizer(folder, kind):
    vocab, merges = learn()
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    ids = {text: len(vocab) + i for i, text in enumerate(ADDED)}
    settings = {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(ids[t]): {"content": t, **flags, "special": s} for t, s in ADDED.items()},
        "bos_token": "<|im_start|>" if kind == "text" else None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>" if kind == "pairs" else {"__type": "AddedToken", "content": "<|endoftext|>", **flags},
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    if kind == "files":
        dump(folder / "vocab.json", vocab)
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    else:
        settings["chat_template"] = TEMPLATE
        settings["add_bos_token"] = kind == "text"
        as_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
        split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
        bos, a, b = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, *({"Sequence": {"id": x, "type_id": 0}} for x in "AB")
        template = {
            "type": "TemplateProcessing",
            "single": [bos, a],
            "pair": [bos, a, bos, b],
            "special_tokens": {
                "<|im_start|>": {"id": "<|im_start|>", "ids": [ids["<|im_start|>"]], "tokens": ["<|im_start|>"]}
            },
        }
        dump(
            folder / "tokenizer.json",
            {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": [{"id": ids[t], "content": t, **flags, "special": s} for t, s in ADDED.items()],
                "normalizer": {"type": "NFC"},
                "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, as_bytes]},
                "post_processor": template if kind == "text" else as_bytes,
                "decoder": as_bytes,
                "model": {
                    "type": "BPE",
                    "dropout": None,
                    "unk_token": None,
                    "continuing_subword_prefix": "",
                    "end_of_word_suffix": "",
                    "fuse_unk": False,
                    "byte_fallback": False,
                    "ignore_merges": False,
                    "vocab": vocab,
                    "merges": [" ".join(p) if kind == "text" else list(p) for p in merges],
                },
            },
        )
    dump(folder / "tokenizer_config.json", settings)
    return ids


def folder(path, seed, hidden, time_mix, kind, config):
    path.mkdir(parents=True, exist_ok=True)
    w = Weights(seed)
    qwen2(w, hidden, time_mix)
    w.write(path / "model.safetensors")
    ids = tokenizer(path, kind)
    common = {
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "hidden_size": WIDTH,
        "intermediate_size": hidden,
        "num_hidden_layers": LAYERS,
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": VOCAB,
    }
    dump(path / "config.json", {**config, **common})


def arwkv7(gated):
    return {
        "architectures": ["RwkvHybridForCausalLM"],
        "model_type": "rwkv_hybrid",
        "head_size": 64,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_wkv_heads": WIDTH // 64,
        "wkv_has_gate": gated,
        "wkv_has_group_norm": gated,
        "wkv_version": 7,
    }


def main():
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "testdata/hybrids"
    folder(out / "arwkv7", 71, 96, time_mix_7(False), "files", arwkv7(False))
    folder(out / "arwkv7-gated", 72, 32, time_mix_7(True), "pairs", arwkv7(True))
    qrwkv6 = {
        "architectures": ["RWKV6Qwen2ForCausalLM"],
        "model_type": "rwkv6qwen2",
        "lora_rank_decay": 24,
        "lora_rank_tokenshift": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    folder(out / "rwkv6qwen2", 61, 96, time_mix_6, "text", qrwkv6)


if __name__ == "__main__":
    main()
