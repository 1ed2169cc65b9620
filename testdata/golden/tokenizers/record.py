#!/usr/bin/env python3
"""Records what Hugging Face's own tokenizers (PyPI package `tokenizers` 0.22.2) make of some texts.

usage: record.py     (no arguments; writes beside itself)

Trains pile.json, a small tokenizer with the rules of GPT-NeoX's 20B_tokenizer.json (NFC, ByteLevel, two special tokens, runs of
spaces as added tokens), on the project's own heldout.txt, and writes ids.json: for it and for the Qwen2-like tokenizer of
hybrids/arwkv7-gated the ids of every text, without tokens put around it. The real 20B_tokenizer.json is checked in
tests/clients/check_tokenizer.py.
"""
import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = Path(__file__).resolve().parent
DATA = HERE.parent.parent
TEXTS = [
    "",
    "Hello, world! It's 3.14159 o'clock; they've said we'll see.",
    "fn main() {\n    let x: Vec<u8> = vec![0; 1 << 20];\n\t// tabs\r\n}\n\n\n",
    "  two,   three,                         twenty-five spaces, and at the end   ",
    "你好，世界。RWKV 是一种循环神经网络。こんにちは 안녕하세요",
    "🙂👩‍👩‍👧‍👦 flags 🇩🇪 and \u200bzero width\u00a0no-break",
    "e\u0301 is not \u00e9, and \u212b is \u00c5",
    "a<|endoftext|>b <|padding|> <|endoftext |>",
    "\x00\x01\x7f \u00ff\u0100 \U0010fffd",
    "العربية עברית हिन्दी ไทย 1234567890 x²",
]


def pile():
    """A tokenizer with the rules of 20B_tokenizer.json."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False)
    # 0xc0, 0xc1 and 0xf5 to 0xff are in no text, and have no tokens in 20B_tokenizer.json either.
    alphabet = {pre_tokenizers.ByteLevel().pre_tokenize_str(chr(c))[0][0][-1] for c in range(128)}
    alphabet |= {c for c in pre_tokenizers.ByteLevel.alphabet() if c not in "ÀÁõö÷øùúûüýþÿ"}
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<|endoftext|>", "<|padding|>"],
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    tokenizer.train([str(DATA / "heldout.txt")], trainer)
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)])
    return tokenizer


pile().save(str(HERE / "pile.json"), pretty=False)
record = {"texts": TEXTS, "ids": {}}
for name in ("golden/tokenizers/pile.json", "hybrids/arwkv7-gated/tokenizer.json"):
    tokenizer = Tokenizer.from_file(str(DATA / name))
    record["ids"][name] = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
(HERE / "ids.json").write_text(json.dumps(record, indent=1) + "\n")
