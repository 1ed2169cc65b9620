#!/usr/bin/env python3
"""Our folders in nf4 against bitsandbytes and transformers, on the CPU. Run through run.sh.

Needs torch, transformers 4 (which has RwkvForCausalLM), bitsandbytes and accelerate, all too large for run.sh to install;
without them it says so and checks nothing.

- the tensors of rwkv4-bytes are those that transformers saves when bitsandbytes quantizes the same folder
- every matrix of the models is what `Linear4bit` keeps of it (codes, scales, levels, JSON), whole and in several files, and
  the values that we decode are those of `dequantize_4bit`
- `from_pretrained` makes a `Linear4bit` of each and of nothing else, without quantizing
- its loss on heldout.txt is that of `eval-ppl` on the same folder: when it computes in f32, to LIMIT of a nat (sums in f32
  in another order); as the folder asks, in bf16, to COARSE (8 bits of each weight and activation)
- we read what bitsandbytes saved as what we wrote ourselves; what it can save besides is refused

Environment: RWKV_QUANT, the program (target/release/rwkv-quant).
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("RWKV_QUANT", ROOT / "target/release/rwkv-quant")
MODELS = ("rwkv4-bytes", "rwkv5.2-bytes", "rwkv6-bytes", "rwkv7-bytes")
STATE = ".quant_state.bitsandbytes__nf4"
TEXT = ROOT / "testdata/heldout.txt"
CTX, WINDOWS = 512, 4
LIMIT = 1e-5
COARSE = 2e-3

failed = passed = 0


def check(what, good, found=""):
    global failed, passed
    passed += bool(good)
    failed += not good
    print(f"{'ok  ' if good else 'FAIL'} {what}{': ' if found else ''}{found}")


def convert(model, out, *more):
    subprocess.run([PROGRAM, "--format", "quiet", "convert", model, out, *more], check=True)
    return out


def source(model):
    return ROOT / f"testdata/{model}.pth"


def nats(folder):
    """What eval-ppl says, in nats a byte."""
    command = [PROGRAM, "--format", "json", "eval-ppl", folder, TEXT, "--ctx", str(CTX), "--windows", str(WINDOWS)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return float(np.log(found["model"]["perplexity"]["value"]))


def tensors(folder, load_file):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found.update(load_file(path))
    return found


def matrices(folder, torch, bnb, load_file):
    for model in MODELS:
        plain = tensors(convert(source(model), folder / f"{model}.plain", "--to", "hf"), load_file)
        back = load_file(convert(source(model), folder / f"{model}.whole", "--to", "hf", "-t", "nf4") / "model.safetensors")
        decoded = tensors(convert(folder / f"{model}.whole", folder / f"{model}.back", "--to", "hf", "-t", "f32"), load_file)
        convert(source(model), folder / f"{model}.parts", "--to", "hf", "-t", "nf4", "--split-max-size", "300kB")
        parts = tensors(folder / f"{model}.parts", load_file)
        same = parts.keys() == back.keys() and all(torch.equal(parts[k], t) for k, t in back.items())
        check(f"{model}: the same in several files", same)
        names = [name.removesuffix(STATE) for name in back if name.endswith(STATE)]
        wrong = []
        for name in names:
            weight = plain[name]
            theirs = bnb.nn.Linear4bit(*reversed(weight.shape), bias=False, quant_type="nf4", compress_statistics=False)
            theirs.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=False)
            theirs = theirs.to("cpu")
            state = theirs.state_dict()
            keys = [name + key.removeprefix("weight") for key in state]
            same = all(torch.equal(back[key], t) for key, t in zip(keys, state.values()))
            quant_state = theirs.weight.quant_state
            quant_state.dtype = torch.float32
            values = bnb.functional.dequantize_4bit(theirs.weight.data, quant_state)
            if not same or len(keys) != 4 or not torch.equal(values, decoded[name]):
                wrong.append(name)
        left = sum(name in back and torch.equal(back[name], t) for name, t in plain.items())
        check(f"{model}: {len(names)} matrices as Linear4bit keeps them, {left} tensors as they are", names and not wrong, " ".join(wrong))
        check(f"{model}: nothing is lost", left + len(names) == len(plain))


def loss(model, torch):
    """Nats a byte over the windows that eval-ppl scores."""
    total = count = 0
    text = np.frombuffer(TEXT.read_bytes(), np.uint8).astype(np.int64)
    for start in range(0, CTX * WINDOWS, CTX):
        window = torch.tensor(text[None, start : start + CTX])
        with torch.no_grad():
            logits = model(window, use_cache=False).logits[0, :-1].double()
        total += torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum").item()
        count += CTX - 1
    return total / count


def in_transformers(folder, torch, bnb, transformers, load_file):
    ours = folder / "rwkv4-bytes.whole"
    plain = folder / "rwkv4-bytes.plain"
    model = transformers.AutoModelForCausalLM.from_pretrained(ours, dtype="auto").eval()
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    four = {name for name, module in model.named_modules() if isinstance(module, bnb.nn.Linear4bit)}
    check("from_pretrained: Linear4bit", linear - four == {"head"} and len(four) == 14, f"{len(four)}, and {linear - four}")
    expected = nats(ours)
    found = loss(model, torch)
    check("transformers as the folder asks, in bf16", abs(found - expected) <= COARSE, f"{found:.6f}, ours {expected:.6f} nats a byte")

    config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(plain, quantization_config=config, dtype="auto")
    theirs.save_pretrained(folder / "theirs")
    saved, written = (tensors(path, load_file) for path in (folder / "theirs", ours))
    same = saved.keys() == written.keys() and all(torch.equal(t, written[name].to(t.dtype)) for name, t in saved.items())
    # transformers keeps time_decay and time_first in f32, whatever they were, and wide types stand first.
    kept = [[(k, t.dtype) for k, t in all.items() if not k.endswith(("time_decay", "time_first"))] for all in (saved, written)]
    check("the tensors are those that transformers saves, in its order", same and kept[0] == kept[1], f"{len(saved)} tensors")
    said = json.loads((folder / "theirs/config.json").read_text())["quantization_config"]
    asked = json.loads((ours / "config.json").read_text())["quantization_config"]
    check("so is what config.json says of it", all(said[k] == v for k, v in asked.items() if k != "llm_int8_skip_modules"))
    check("we read theirs", abs(nats(folder / "theirs") - expected) == 0)

    model = transformers.AutoModelForCausalLM.from_pretrained(ours, dtype=torch.float32).eval()
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.compute_dtype = module.weight.quant_state.dtype = torch.float32
            module.support_avx512bf16_for_cpu = False  # that kernel multiplies in bf16 whatever it is asked for
    found = loss(model, torch)
    check("transformers in f32", abs(found - expected) <= LIMIT, f"{found:.6f}, ours {expected:.6f} nats a byte")

    for name, config in (
        ("fp4", transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4")),
        ("quantized once more", transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)),
        ("LLM.int8", transformers.BitsAndBytesConfig(load_in_8bit=True)),
    ):
        saved = folder / name
        transformers.AutoModelForCausalLM.from_pretrained(plain, quantization_config=config).save_pretrained(saved)
        ran = subprocess.run([PROGRAM, "inspect", saved], capture_output=True, text=True)
        check(f"{name} is refused by name", ran.returncode == 1 and name in ran.stderr, ran.stderr.splitlines()[0] if ran.stderr else "")


def main():
    try:
        import accelerate  # noqa: F401 (transformers wants it)
        import bitsandbytes as bnb
        import torch
        import transformers
        from safetensors.torch import load_file
    except ImportError as error:
        print(f"skipped: {error.name} is not installed, so nf4 folders are not loaded with bitsandbytes")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        matrices(folder, torch, bnb, load_file)
        if hasattr(transformers, "RwkvForCausalLM"):
            in_transformers(folder, torch, bnb, transformers, load_file)
        else:
            print("skipped: no transformers of version 4, which has RwkvForCausalLM")
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
