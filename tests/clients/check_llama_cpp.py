#!/usr/bin/env python3
"""Converts models with rwkv-quant and loads the files in stock llama.cpp. Run through run.sh.

1. Logits: every model with golden logits of the official runner, in every type below, at every position of every prompt.
2. Byte-level vocabularies: every byte is its own token.
3. World vocabulary: llama.cpp splits mixed text and random bytes as the official tokenizer does.
4. Rescaled channels (--equalize): logits as above, of every own model, and the key that says so.
5. Calibrated files (--calib), and files whose types were chosen for a size (--target-size): nearer to the official runner than
   rounded ones of the same type or size.
6. Refusal: rwkv7 with small heads, which llama.cpp computes wrongly, needs --force-target; no file is left.

Environment: RWKV_QUANT, the program (target/release/rwkv-quant); RWKV_QUANT_DATA, a folder with more models and golden
logits (../shared/data), left out where it does not exist.
"""

import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import traceback
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
from llama import Llama

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("RWKV_QUANT", ROOT / "target/release/rwkv-quant")
DATA = Path(os.environ.get("RWKV_QUANT_DATA", ROOT.parent / "shared/data"))

# Largest error against the official runner in f32. f32: largest absolute difference of a logit.
F32_LIMIT = 2e-3
# Other types: sum of squared differences over sum of squares, all positions of a model together. 3 to 6 times the largest
# that files of llama-quantize give on these four models.
NMSE_LIMIT = {
    "f16": 1e-7,
    "bf16": 1e-5,
    "q8_0": 1e-4,
    "q5_0": 2e-3,
    "q5_1": 2e-3,
    "q4_0": 1e-2,
    "q4_1": 1e-2,
    "q6_k": 1e-3,
    "q5_k_m": 2e-3,
    "q4_k_m": 5e-3,
    "iq4_nl": 1e-2,
    "iq4_xs": 1e-2,
    "q3_k_m": 2e-2,
    "q2_k": 1e-1,
}

# Of testdata/heldout.txt.
CALIBRATION_BYTES = 16_384

# model, checkpoint, prefix of its golden files
OWN_MODELS = [
    (name, ROOT / f"testdata/{name}.pth", ROOT / f"testdata/golden/{name}") for name in ("rwkv7-bytes", "rwkv6-bytes")
]
DATA_MODELS = [
    (name, DATA / f"models/{name}.{dtype}.pth", DATA / f"golden/{name}")
    for name, dtype in (("tiny-rwkv7-834K", "bf16"), ("tiny-rwkv6-1m", "fp32"))
]
TOO_SMALL_HEADS = DATA / "models/rwkv7-reverse-54K.fp32.pth"


class Failed(Exception):
    """A check that did not hold; the text says what was found."""


def convert(source, out, *options):
    done = subprocess.run([PROGRAM, "convert", source, out, *options], capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"convert exited {done.returncode}: {(done.stderr or done.stdout).strip()[-500:]}")


def isolated(function, *args):
    """Runs `function` in its own process: llama.cpp ends the process where it meets what it does not expect."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *args).result()
        except BrokenProcessPool:
            raise Failed("llama.cpp ended the process") from None


def golden_prompts(folder):
    """[(tokens, logits)] of every prompt recorded in `folder`."""
    prompts = sorted(p.name.removesuffix(".tokens.npy") for p in folder.glob("*.tokens.npy"))
    if not prompts:
        raise Failed(f"no golden logits in {folder}")
    return [(np.load(folder / f"{p}.tokens.npy"), np.load(folder / f"{p}.logits.npy")) for p in prompts]


def logits_of(path, token_lists):
    with Llama(path) as model:
        return [model.logits(tokens) for tokens in token_lists]


def errors_of(out, golden):
    """Of a file against the golden logits: positions, largest error, sum of squares over sum of squares, share of same choices."""
    for tensor in gguf.GGUFReader(out).tensors:  # a second reader of the file
        if not np.isfinite(tensor.data).all() and tensor.data.dtype.kind == "f":
            raise Failed(f"{tensor.name} holds values that are not finite")
    prompts = golden_prompts(golden)
    got = isolated(logits_of, out, [tokens for tokens, _ in prompts])
    got, want = np.concatenate(got), np.concatenate([logits for _, logits in prompts]).astype(np.float64)
    worst = float(np.abs(got - want).max())
    nmse = float(((got - want) ** 2).sum() / (want**2).sum())
    return len(want), worst, nmse, float((got.argmax(1) == want.argmax(1)).mean())


def check_logits(source, golden, kind, tmp, *options):
    out = tmp / f"{kind}.gguf"
    convert(source, out, "--type", kind, *options)
    positions, worst, nmse, same = errors_of(out, golden)
    text = f"{positions} positions, largest error {worst:.1e}, NMSE {nmse:.1e}, same top token {same:.1%}"
    if not (worst <= F32_LIMIT if kind == "f32" else nmse <= NMSE_LIMIT[kind]):
        raise Failed(f"{text}; limit {F32_LIMIT if kind == 'f32' else NMSE_LIMIT[kind]:.0e}")
    return text


def check_equalized(source, golden, imatrix, kind, tmp):
    text = check_logits(source, golden, kind, tmp, "--imatrix", imatrix, "--equalize")
    key = gguf.GGUFReader(tmp / f"{kind}.gguf").get_field("rwkv-quant.equalized")
    if key is None:
        raise Failed("no channels were rescaled")
    return f"{key.contents()} rescaled, {text}"


def check_calibrated(source, golden, kind, tmp):
    text, recipe = tmp / "calibration.txt", tmp / "recipe.toml"
    text.write_bytes((ROOT / "testdata/heldout.txt").read_bytes()[:CALIBRATION_BYTES])
    rounded, calibrated, sized = (tmp / f"{name}.gguf" for name in ("rounded", "calibrated", "sized"))
    convert(source, rounded, "--type", kind)
    convert(source, calibrated, "--type", kind, "--calib", text)
    size = str(rounded.stat().st_size)
    convert(source, sized, "--calib", text, "--target-size", size, "--save-recipe", recipe)
    nmse = {path.stem: errors_of(path, golden)[2] for path in (rounded, calibrated, sized)}
    types = {tensor.tensor_type.name for tensor in gguf.GGUFReader(sized).tensors}
    said = ", ".join(f"{name} {value:.1e}" for name, value in nmse.items())
    said = f"NMSE {said}; {sized.stat().st_size} of {size} bytes in {', '.join(sorted(types))}"
    if sized.stat().st_size > int(size) or len(types) < 4:
        raise Failed(f"no file of that size with types of its own: {said}")
    if max(nmse["calibrated"], nmse["sized"]) >= nmse["rounded"]:
        raise Failed(f"no nearer than rounded: {said}")
    return said


def tokenize_all(path, texts):
    with Llama(path) as model:
        return [model.tokenize(text) for text in texts], [model.piece(i) for i in range(min(model.n_vocab, 65530))]


def check_byte_vocabulary(source, tmp):
    out = tmp / "bytes.gguf"
    convert(source, out, "--type", "f16")
    text = bytes(range(256)) + "<s> [PAD0] héllo 世界\n\n".encode()
    [tokens], pieces = isolated(tokenize_all, out, [text])
    if tokens != list(text):
        raise Failed(f"tokens of {text[:8]!r}...: {tokens[:8]}...")
    if pieces != [bytes([b]) for b in range(256)]:
        raise Failed("token b is not the byte b")
    return f"{len(text)} bytes"


SAMPLES = [
    b"",
    b"The quick brown fox jumps over the lazy dog. It's 12:30, isn't it?\n\nUser: hi\n\nAssistant: Hello!",
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。日本語のテキスト、한국어 문장, العربية, русский язык.".encode(),
    b"fn main() {\n    let s = \"tab\\t\";\r\n\tfor i in 0..10 { println!(\"{i:>4} 0x{:02x}\", i * 2); }\n}\n",
    "Emoji: 😀😂🤷🏽‍♀️👩‍👩‍👧‍👦 🇫🇷 ✈️ ∑∫√ ½ café naïve ﬁ".encode(),
    b"\x00",
    b"a\x00b\x00\x00\xff\xfe\xc3(\xe2\x82",
    b"'quotes' \"double\" `back` \\x41 \\n 'it''s' \"'\"",
    b" " * 200 + b"\n" * 40 + b"=" * 130,
]


def world_samples():
    rng = random.Random(0)
    random_bytes = [rng.randbytes(n) for n in (1, 2, 3, 1000, 20000)]
    text = ROOT / "testdata/heldout.txt"
    return SAMPLES + random_bytes + ([text.read_bytes()[:100_000]] if text.exists() else [])


def official_tokenize(texts):
    """The tokenizer of BlinkDL's pip package rwkv, with the vocabulary file in it. The package itself would import torch."""
    folder = Path(find_spec("rwkv").submodule_search_locations[0])
    sys.path.insert(0, str(folder))
    from rwkv_tokenizer import TRIE_TOKENIZER

    tokenizer = TRIE_TOKENIZER(str(folder / "rwkv_vocab_v20230424.txt"))
    return [tokenizer.encodeBytes(text) if text else [] for text in texts]


def write_world_model(path, head_size=64, layers=2, hidden=64, rank=32, vocab=65536):
    """A random RWKV-7 with the World vocabulary: BlinkDL names, bf16, safetensors."""
    shapes = {"emb.weight": (vocab, hidden), "head.weight": (vocab, hidden)}
    norms = ["ln_out", "blocks.0.ln0"]
    for i in range(layers):
        block, att, ffn = f"blocks.{i}.", f"blocks.{i}.att.", f"blocks.{i}.ffn."
        norms += [block + "ln1", block + "ln2", att + "ln_x"]
        shapes |= {att + "x_" + c: (1, 1, hidden) for c in "rwkvag"} | {ffn + "x_k": (1, 1, hidden)}
        shapes |= {att + c: (1, 1, hidden) for c in ("w0", "a0", "v0", "k_k", "k_a")}
        shapes |= {att + c + "1": (hidden, rank) for c in "wavg"} | {att + c + "2": (rank, hidden) for c in "wavg"}
        shapes |= {att + m + ".weight": (hidden, hidden) for m in ("receptance", "key", "value", "output")}
        shapes |= {att + "r_k": (hidden // head_size, head_size)}
        shapes |= {ffn + "key.weight": (4 * hidden, hidden), ffn + "value.weight": (hidden, 4 * hidden)}
    shapes |= {f"{norm}.{leaf}": (hidden,) for norm in norms for leaf in ("weight", "bias")}
    header, offset = {}, 0
    for name in sorted(shapes):
        size = 2 * int(np.prod(shapes[name]))
        header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    values = np.random.default_rng(0).standard_normal(offset // 2, dtype=np.float32) * 0.1
    bf16 = (values.view(np.uint32) >> 16).astype("<u2")
    path.write_bytes(len(text).to_bytes(8, "little") + text + bf16.tobytes())


def check_world_vocabulary(tmp):
    source, out = tmp / "world.safetensors", tmp / "world.gguf"
    write_world_model(source)
    convert(source, out, "--type", "f16")
    texts = world_samples()
    want = official_tokenize(texts)
    got, pieces = isolated(tokenize_all, out, texts)
    for text, a, b in zip(texts, got, want):
        if a != b:
            at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
            raise Failed(f"{text[:40]!r}: token {at}: llama.cpp {a[at : at + 5]}, official {b[at : at + 5]}")
        if b"".join(pieces[t] for t in a) != text:
            raise Failed(f"{text[:40]!r}: the pieces do not give the text back")
    isolated(logits_of, out, [want[1]])  # it runs
    return f"{sum(map(len, texts))} bytes, {sum(map(len, got))} tokens"


def check_refusal(source, reason, tmp):
    if source is None:
        source = tmp / "heads_of_32.safetensors"
        write_world_model(source, head_size=32)
    out = tmp / "out"
    out.mkdir()
    try:
        convert(source, out / "refused.gguf", "--type", "f16")
    except Failed as refusal:
        if left := [p.name for p in out.iterdir()]:
            raise Failed(f"refused, but left {left}") from None
        if reason not in str(refusal):
            raise Failed(f"refused, but the message does not speak of {reason!r}: {refusal}") from None
        return str(refusal).splitlines()[0]
    raise Failed("converted without --force-target")


def checks():
    """[(name, function, arguments)]; each function also gets an empty folder as its last argument."""
    for name, source, golden in OWN_MODELS + [m for m in DATA_MODELS if DATA.is_dir()]:
        for kind in ["f32", *NMSE_LIMIT]:
            yield f"{name} {kind}", check_logits, (source, golden, kind)
        yield f"{name} vocabulary", check_byte_vocabulary, (source,)
    for name, source, golden in OWN_MODELS:
        imatrix = ROOT / f"testdata/golden/llama_cpp/{name}.imatrix.gguf"
        for kind in ("q8_0", "q4_0"):
            yield f"{name} {kind} --equalize", check_equalized, (source, golden, imatrix, kind)
        for kind in ("q4_k_m", "q3_k_m"):
            yield f"{name} {kind} --calib", check_calibrated, (source, golden, kind)
    yield "World vocabulary", check_world_vocabulary, ()
    yield "rwkv7 heads of 32 refused", check_refusal, (None, "head")
    if DATA.is_dir():
        yield "rwkv7 heads of 16 refused", check_refusal, (TOO_SMALL_HEADS, "")
    else:
        print(f"no {DATA}: its models are left out")


def main():
    passed = failed = 0
    for name, function, arguments in checks():
        with tempfile.TemporaryDirectory() as tmp:
            try:
                found = function(*arguments, Path(tmp))
                passed += 1
                print(f"ok    {name}: {found}", flush=True)
            except Failed as error:
                failed += 1
                print(f"FAIL  {name}: {error}", flush=True)
            except Exception:  # a fault of ours; go on with the other checks
                failed += 1
                print(f"FAIL  {name}\n{traceback.format_exc()}", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
