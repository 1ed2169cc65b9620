#!/usr/bin/env python3
"""What other output layers (`--head`) read and lose: certified ones (exact by proof) and clustered ones (approximate).

    python benches/head.py [--record OUT.json] [--bytes 200001] [--large MODEL] [--windows 4]

On the trained models of testdata, testdata/heldout.txt (or its first so many bytes) in windows of 512, 256 and 128 tokens, each from an empty state: for
certified heads the share of positions whose likeliest 1, or 10, tokens are those of the full head, in their order and with its
logits to the last bit, and the bytes read. Clustered heads are fitted to the last 64 KB of that text and measured on the first
64 KB. `--large` is a model with a vocabulary of 65536, of which so many windows of 512 tokens are run, for example the one that
`cargo run --release --example gen_checkpoint -- MODEL 0.4b` writes: the shape of the 0.4B release, but random weights.

The program is target/release/rwkv-quant, or what RWKV_QUANT names.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = os.environ.get("RWKV_QUANT", ROOT / "target/release/rwkv-quant")
TRAINED = ["rwkv4-bytes", "rwkv5.2-bytes", "rwkv6-bytes", "rwkv7-bytes"]
HELD_OUT = ROOT / "testdata/heldout.txt"


def rwkv_quant(*args):
    command = [str(a) for a in (PROGRAM, "--format", "json", *args)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def heads(model, text, names, *more):
    """What eval-ppl says of these heads of a model: one record each."""
    found = rwkv_quant("eval-ppl", model, text, *more, "--head", *names)
    records = []
    for candidate in found["candidates"]:
        head, against = candidate["head"], candidate["against"]
        records.append({
            "model": Path(model).stem,
            "ctx": found["ctx"],
            "head": head["name"],
            "positions": found["scored"]["tokens"],
            "best_kept": head["kept"]["value"],
            "top1": against["top1"]["value"],
            "first_choice_not_read": head["missed"]["value"],
            "kl": against["kl"]["value"],
            "rows_read": head["rows"]["value"],
            "bytes_read": head["bytes"]["value"],
            "of_16_bits": head["of_16_bits"],
        })  # fmt: skip
    return sorted(records, key=lambda r: r["head"])


def clustered(model, folder):
    """Clusters fitted to one part of the text, measured on another."""
    text = HELD_OUT.read_bytes()
    (folder / "calib.txt").write_bytes(text[-65536:])
    (folder / "text.txt").write_bytes(text[:65536])
    records = []
    for share in (0.9, 0.98):
        file = folder / "head.safetensors"
        rwkv_quant("cluster-head", model, "-o", file, "--share", share, "--calib", folder / "calib.txt", "--force")
        records += heads(model, folder / "text.txt", [file, f"clustered:16,{share}"])
    return records


def table(records):
    print("| model | ctx | head | positions | best kept | same first choice | not read | mean KL | rows read | bytes of 16 bits |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for r in records:
        print(f"| {r['model']} | {r['ctx']} | {r['head']} | {r['positions']} | {100 * r['best_kept']:.4f} % | "
              f"{100 * r['top1']:.4f} % | {100 * r['first_choice_not_read']:.3f} % | {r['kl']:.3g} | {r['rows_read']:.1f} | "
              f"{r['of_16_bits']:.3f} |")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--bytes", type=int, default=HELD_OUT.stat().st_size)
    parser.add_argument("--large", type=Path)
    parser.add_argument("--windows", type=int, default=4)
    args = parser.parse_args()
    records = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        text = folder / "part.txt"
        text.write_bytes(HELD_OUT.read_bytes()[: args.bytes])
        for ctx in (512, 256, 128):
            for name in TRAINED:
                records += heads(ROOT / f"testdata/{name}.pth", text, ["certified", "certified:10"], "--ctx", ctx)
                print(records[-2:], flush=True)
        for name in TRAINED:
            records += clustered(ROOT / f"testdata/{name}.pth", folder)
    if args.large:
        names = ["certified", "certified:50", "clustered:256,0.95"]
        records += heads(args.large, HELD_OUT, names, "--windows", args.windows)
    exact = [r for r in records if r["head"] == "certified:1"]
    summary = {
        "positions": sum(r["positions"] for r in exact),
        "positions_with_the_full_heads_first_choice": sum(round(r["positions"] * r["best_kept"]) for r in exact),
    }
    table(records)
    print(summary)
    if args.record:
        args.record.write_text(json.dumps({"certified": summary, "heads": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
