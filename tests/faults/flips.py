#!/usr/bin/env python3
"""Flips single bits in files of every format that the program writes: does `verify` find them, or are they harmless?

    python tests/faults/flips.py [--flips 360] [--program FILE] [--record benches/record/flips.json]

A flip is harmless if what is read of the file is the same as before: the metadata, the names, and all weights to the bit.
Formats that cannot carry checksums get a file of them beside (`--checksum-file`), where the program can write one.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

import model

FORMATS = {
    "GGUF": ("o.gguf", ["--type", "q8_0"], False),
    "safetensors": ("o.safetensors", ["--type", "bf16"], False),
    ".st": ("o.st", [], False),
    "prefab": ("o.prefab", ["--type", "int8"], True),
    ".bin": ("o.bin", ["--type", "q5_1"], True),
    ".pth": ("o.pth", ["--type", "bf16"], True),
    ".rwkvz": ("o.rwkvz", ["--bpw", "4"], False),
}


def run(program, folder, *arguments):
    """Runs the program: exit code, standard output, standard error."""
    ran = subprocess.run([program, *arguments], cwd=folder, capture_output=True, timeout=120)
    return ran.returncode, ran.stdout, ran.stderr.decode(errors="replace")


def content(program, folder, name):
    """A hash of all that is read of a file; nothing if it is refused."""
    code, inspected, _ = run(program, folder, "--format", "json", "inspect", name)
    if code != 0:
        return None
    out = f"{name}.decoded.safetensors"
    code, _, _ = run(program, folder, "--format", "quiet", "convert", name, out, "--type", "f32", "--threads", "1", "--force")
    decoded = hashlib.sha256((folder / out).read_bytes()).hexdigest() if code == 0 else "not convertible"
    return hashlib.sha256(inspected).hexdigest(), decoded


def flip(program, work, name, whole, sums, expected, bit):
    """How one flip ends: found, harmless, silent or crash."""
    folder = pathlib.Path(tempfile.mkdtemp(dir=work))
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    (folder / name).write_bytes(damaged)
    for sum_name, text in sums.items():
        (folder / sum_name).write_bytes(text)
    code, _, said = run(program, folder, "--format", "quiet", "verify", name)
    if code < 0 or "panicked" in said:
        return "crash", bit, said
    if code != 0:
        return "found", bit, said
    return ("harmless" if content(program, folder, name) == expected else "silent"), bit, said


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=pathlib.Path, default=model.ROOT / "target/debug/rwkv-quant")
    parser.add_argument("--flips", type=int, default=360)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--record", type=pathlib.Path)
    args = parser.parse_args()
    program = str(args.program.resolve())
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    rows = []
    with tempfile.TemporaryDirectory(dir=memory) as work, concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        work = pathlib.Path(work)
        model.write(work / "a.safetensors", model.tensors(1))
        can_sum = b"--checksum-file" in run(program, work, "convert", "--help")[1]
        for title, (name, flags, lacks_sums) in FORMATS.items():
            beside = ["--checksum-file"] if lacks_sums and can_sum else []
            code, _, said = run(program, work, "--format", "quiet", "convert", "a.safetensors", name, *flags, *beside)
            if code != 0:
                raise SystemExit(f"{title}: {said}")
            whole = (work / name).read_bytes()
            sums = {p.name: p.read_bytes() for p in work.glob(f"{name}.sha256")}
            plain = work / "plain"
            plain.mkdir(exist_ok=True)
            (plain / name).write_bytes(whole)
            for sum_name, text in sums.items():
                (plain / sum_name).write_bytes(text)
            expected = content(program, plain, name)
            if expected is None:
                raise SystemExit(f"{title}: cannot be inspected")
            bits = random.Random(title).sample(range(8 * len(whole)), args.flips)
            ends = list(pool.map(lambda bit: flip(program, work, name, whole, sums, expected, bit), bits))
            counts = {kind: sum(end == kind for end, _, _ in ends) for kind in ("found", "harmless", "silent", "crash")}
            wrong = [{"byte": bit // 8, "bit": bit % 8} for end, bit, _ in ends if end in ("silent", "crash")]
            rows.append({"format": title, "bytes": len(whole), "checksum_file": bool(sums), "flips": args.flips,
                         **counts, "not_found": wrong})
            print(f"{title}: {counts}", flush=True)
    lines = [f"| {r['format']}{' + .sha256' if r['checksum_file'] else ''} | {r['bytes']} | {r['flips']} | {r['found']} | "
             f"{r['harmless']} | {r['silent'] + r['crash']} |" for r in rows]
    table = "\n".join(["| format | bytes | flips | found | harmless | neither |", "| --- |" + " ---: |" * 5, *lines])
    print(f"\n{table}")
    if args.record:
        args.record.write_text(json.dumps(rows, indent=1) + "\n")
        args.record.with_suffix(".md").write_text(
            f"# Flipped bits\n\n`python tests/faults/flips.py --record benches/record/{args.record.name}`\n\n{table}\n")
    sys.exit(any(r["silent"] + r["crash"] for r in rows))


if __name__ == "__main__":
    main()
