"""Counts the instructions of the encoders with callgrind: the gate against slower code, since it does not depend on load.

    python instructions.py ENCODE_RAW            prints instructions a weight as JSON
    python instructions.py ENCODE_RAW --check    compares with record/instructions.json: fails if a count grew over 3 %
    python instructions.py ENCODE_RAW --record   writes record/instructions.json

ENCODE_RAW is the example program of quant/, built with --release. The difference between 32 and 16 rows of 1024 weights
counts, so start-up does not. valgrind knows AVX2 but not AVX-512.
"""
import json, pathlib, re, subprocess, sys

RECORD = pathlib.Path(__file__).resolve().parent / "record" / "instructions.json"
TYPES = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs"]


def count(program, kind, rows, level):
    args = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", program, "count", kind, "1024", str(rows), level]
    r = subprocess.run(args, capture_output=True, text=True)
    if r.returncode:
        sys.exit(f"{' '.join(args)}: {r.stderr[-400:]}")
    return int(re.search(r"Collected : (\d+)", r.stderr).group(1))


def generate_cost(program):
    """Instructions a weight that making the weights takes (f32 is copied)."""
    return (count(program, "f32", 32, "Scalar") - count(program, "f32", 16, "Scalar")) / (16 * 1024)


def main():
    program, base = sys.argv[1], generate_cost(sys.argv[1])
    counts = {f"{kind} {level}": round((count(program, kind, 32, level) - count(program, kind, 16, level)) / (16 * 1024) - base, 2)
              for kind in TYPES for level in ("Scalar", "Baseline", "Avx2")}
    text = json.dumps(counts, indent=1) + "\n"
    if "--record" in sys.argv:
        RECORD.write_text(text)
    print(text, end="")
    if "--check" in sys.argv:
        recorded = json.loads(RECORD.read_text())
        slower = [f"{k}: {v} a weight, recorded {recorded[k]}" for k, v in counts.items() if v > 1.03 * recorded[k] + 0.1]
        print("\n".join(slower), file=sys.stderr)
        sys.exit(1 if slower else 0)


main()
