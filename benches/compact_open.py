#!/usr/bin/env python3
"""What opening and verifying a compact file costs beside reading its bytes, and the memory of making a large one.

    python benches/compact_open.py FILE.rwkvz [--record OUT.json] [--runs 5] [--convert SOURCE --bpw 4.5]

Reading is `read` in pieces of 4 MiB, cold (after the file's pages were dropped from the cache) and warm; opening is `inspect`,
`checksums` is `verify --checksums`, which hashes every section, and `verify` also hashes the file and decodes every weight. Seconds are the least of the
runs; `cpu` is user and system time of all threads, which other work on the machine changes less. `--convert` makes such a file of
SOURCE, in a temporary folder beside it, and records peak resident memory.

The program is target/release/rwkv-quant, or what RWKV_QUANT names.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = os.environ.get("RWKV_QUANT", ROOT / "target/release/rwkv-quant")
PIECE = 4 << 20


def drop(path):
    """Takes a file's pages out of the cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(path):
    """Seconds to read a file, and of the processor."""
    start, used, into = time.perf_counter(), time.process_time(), bytearray(PIECE)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(into):
            pass
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - used}


def run(*args):
    """Seconds that the program takes, those of the processor, and its peak memory."""
    command = [str(a) for a in (PROGRAM, "--format", "quiet", *args)]
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "cpu": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1000}


def best(runs, work, cold_path=None):
    """The least of each figure; for `cold_path` its pages are dropped before every run."""
    found = []
    for _ in range(runs):
        if cold_path:
            drop(cold_path)
        found.append(work())
    return {key: round(min(f[key] for f in found), 4) for key in found[0]}


def machine():
    model = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    return {"cpu": model, "cores": os.cpu_count(), "load": [round(v, 1) for v in os.getloadavg()]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--convert", type=Path)
    parser.add_argument("--bpw", default="4.5")
    args = parser.parse_args()
    path, runs = args.file, args.runs
    verify, plain = (lambda: run("verify", path)), (lambda: read(path))
    checksums = lambda: run("verify", "--checksums", path)  # noqa: E731
    record = {
        "machine": machine(),
        "bytes": path.stat().st_size,
        "read_cold": best(runs, plain, path),
        "read_warm": best(runs, plain),
        "open_cold": best(runs, lambda: run("inspect", path), path),
        "open_warm": best(runs, lambda: run("inspect", path)),
        "checksums_cold": best(runs, checksums, path),
        "checksums_warm": best(runs, checksums),
        "verify_cold": best(runs, verify, path),
        "verify_warm": best(runs, verify),
    }
    for kind in ("cold", "warm"):
        for what in ("checksums", "verify"):
            ratio = record[f"{what}_{kind}"]["seconds"] / record[f"read_{kind}"]["seconds"]
            record[f"{what}_of_read_{kind}"] = round(ratio, 2)
    if args.convert:
        with tempfile.TemporaryDirectory(dir=args.convert.parent) as folder:
            made = run("convert", args.convert, Path(folder) / "out.rwkvz", "--bpw", args.bpw)
        source = args.convert.stat().st_size
        record["convert"] = {"bytes": source, "bpw": args.bpw, **{k: round(v, 1) for k, v in made.items()}}
        record["convert"]["mb_per_cpu_second"] = round(source / 1e6 / made["cpu"], 1)
    print(json.dumps(record, indent=1))
    if args.record:
        args.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
