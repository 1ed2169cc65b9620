"""Compares our encoders and decoders with libggml, byte for byte.

    python check_ggml_quant.py ENCODE_RAW [--seed N] [--rows N] [--types q4_0,q8_0] [--decode] [--time]

ENCODE_RAW is the example program of quant/ (cargo build --release -p rwkv-quant-numbers --examples). libggml is that
of the package llama-cpp-py-sync or xllamacpp (or the file named by GGML_BASE), built for generic x86-64: no fused
multiply-add. Every type is encoded with and without an importance, on rows of many kinds: Gaussian, heavy tails,
grids with ties, zeros, denormals, outliers, magnitudes up to the limit of the scales. With --time, single-thread
speed of both on the same Gaussian rows, in GB of f32 a second.
"""
import argparse, ctypes as C, importlib.util, os, pathlib, subprocess, sys, tempfile, time
import numpy as np

IDS = dict(q4_0=2, q4_1=3, q5_0=6, q5_1=7, q8_0=8, q2_k=10, q3_k=11, q4_k=12, q5_k=13, q6_k=14, q8_k=15,
           iq2_xxs=16, iq2_xs=17, iq3_xxs=18, iq4_nl=20, iq3_s=21, iq2_s=22, iq4_xs=23)
ENCODED = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs"]


def library():
    g = load()
    g.ggml_quantize_chunk.restype = C.c_size_t
    g.ggml_quantize_chunk.argtypes = [C.c_int, C.c_void_p, C.c_void_p, C.c_int64, C.c_int64, C.c_int64, C.c_void_p]
    g.ggml_row_size.restype = C.c_size_t
    g.ggml_row_size.argtypes = [C.c_int, C.c_int64]
    g.ggml_get_type_traits.restype = C.POINTER(Traits)
    g.ggml_get_type_traits.argtypes = [C.c_int]
    return g


def load():
    """GGML_BASE, or the first of the packages whose library this system can load."""
    if "GGML_BASE" in os.environ:
        return C.CDLL(os.environ["GGML_BASE"])
    tried = []
    for package, pattern in [("llama_cpp_py_sync", "libggml-base.so*"), ("xllamacpp", "xllamacpp*.so")]:
        spec = importlib.util.find_spec(package)
        for path in sorted(pathlib.Path(spec.origin).parent.glob(pattern)) if spec else []:
            try:
                g = C.CDLL(str(path))
                g.ggml_quantize_chunk
                return g
            except (OSError, AttributeError) as e:
                tried.append(f"{path}: {e}")
    sys.exit("no libggml: install xllamacpp or llama-cpp-py-sync, or set GGML_BASE\n" + "\n".join(tried))


class Traits(C.Structure):
    _fields_ = [("type_name", C.c_char_p), ("blck_size", C.c_int64), ("blck_size_interleave", C.c_int64),
                ("type_size", C.c_size_t), ("is_quantized", C.c_bool),
                ("to_float", C.CFUNCTYPE(None, C.c_void_p, C.c_void_p, C.c_int64)), ("from_float_ref", C.c_void_p)]


def ggml_encode(g, kind, x, importance=None):
    rows, cols = x.shape
    out = np.zeros((rows, g.ggml_row_size(IDS[kind], cols)), np.uint8)
    g.ggml_quantize_chunk(IDS[kind], x.ctypes.data, out.ctypes.data, 0, rows, cols,
                          None if importance is None else importance.ctypes.data)
    return out


def ggml_decode(g, kind, data, cols):
    out = np.empty((data.shape[0], cols), np.float32)
    to_float = g.ggml_get_type_traits(IDS[kind]).contents.to_float
    for i in range(data.shape[0]):
        to_float(data[i].ctypes.data, out[i].ctypes.data, cols)
    return out


def kinds_of_rows(rng, rows, cols):
    """Pairs of a name and float32 [rows, cols]."""
    g = lambda: rng.standard_normal((rows, cols)).astype(np.float32)
    bits = lambda x: x.view(np.uint32)
    yield "gauss", g()
    yield "gauss 0.02", g() * np.float32(0.02)
    yield "bf16", (bits(g()) & 0xffff0000).view(np.float32)
    yield "student t", rng.standard_t(2, (rows, cols)).astype(np.float32)
    x = g(); x[rng.random((rows, cols)) < 0.01] *= 60
    yield "outliers", x
    x = g(); x[rng.random((rows, cols)) < 0.9] = 0
    yield "mostly zero", x
    x = g().reshape(rows, -1, 16); x[rng.random(x.shape[:2]) < 0.5] = 0
    yield "zero groups", x.reshape(rows, cols)
    yield "grid", rng.integers(-8, 9, (rows, cols)).astype(np.float32) * np.float32(0.125)
    yield "two values", rng.choice(np.float32([-1, 1]), (rows, cols))
    yield "positive", np.abs(g()) + np.float32(0.5)
    yield "negative", -np.abs(g()) - np.float32(0.5)
    yield "constant", np.repeat(g()[:, :1], cols, 1)
    yield "tight", np.float32(3) + g() * np.float32(1e-6)
    x = g().reshape(rows, -1, 32); x *= np.exp2(rng.integers(-160, 12, x.shape[:2] + (1,))).astype(np.float32)
    yield "every magnitude a block", x.reshape(rows, cols)
    yield "every magnitude", g() * np.exp2(rng.integers(-149, 10, (rows, cols))).astype(np.float32)
    yield "denormal", rng.integers(-2000, 2000, (rows, cols)).astype(np.float32) * np.float32(1e-45)
    yield "few denormals", rng.integers(-3, 4, (rows, cols)).astype(np.float32) * np.float32(1e-45)
    yield "1e-38", g() * np.float32(1e-38)
    yield "1e-20", g() * np.float32(1e-20)
    yield "1e-15", g() * np.float32(1e-15)
    yield "1e-6", g() * np.float32(1e-6)
    yield "1e4", g() * np.float32(1e4)
    yield "zero", np.zeros((rows, cols), np.float32)
    yield "minus zero", -np.zeros((rows, cols), np.float32)
    yield "ramp", np.linspace(-1, 1, rows * cols, dtype=np.float32).reshape(rows, cols)


def importances(rng, cols):
    yield "none", None
    yield "chi2", rng.chisquare(1, cols).astype(np.float32)
    x = rng.chisquare(1, cols).astype(np.float32) * np.float32(1e-3); x[rng.random(cols) < 0.02] = 400
    yield "massive channels", x
    # Where most of a group is 0, ggml erases weights and we do not (llama.cpp#8661, #11773, #20460).
    x = rng.chisquare(1, cols).astype(np.float32); x[rng.random(cols) < 0.05] = 0
    yield "some zero", x
    yield "ones", np.ones(cols, np.float32)


class Ours:
    def __init__(self, program):
        self.program, self.folder = program, tempfile.mkdtemp()

    def path(self, name):
        return os.path.join(self.folder, name)

    def encode(self, kind, x, importance=None):
        """The bytes, or the message of the error."""
        x.astype("<f4").tofile(self.path("in"))
        args = [self.program, "encode", kind, str(x.shape[1]), self.path("in"), self.path("out")]
        if importance is not None:
            importance.astype("<f4").tofile(self.path("importance"))
            args.append(self.path("importance"))
        r = subprocess.run(args, capture_output=True, text=True)
        if r.returncode:
            return r.stderr
        return np.fromfile(self.path("out"), np.uint8).reshape(x.shape[0], -1)

    def decode(self, kind, data, cols):
        data.tofile(self.path("in"))
        subprocess.run([self.program, "decode", kind, self.path("in"), self.path("out")], check=True)
        return np.fromfile(self.path("out"), "<f4").reshape(data.shape[0], cols)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("program")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--rows", type=int, default=16)
    p.add_argument("--cols", type=int, default=1024)
    p.add_argument("--types", default=",".join(ENCODED))
    p.add_argument("--decode", action="store_true", help="only decode, random bytes of every type")
    p.add_argument("--time", action="store_true")
    a = p.parse_args()
    g, ours, wrong, checked = library(), Ours(a.program), 0, 0
    if a.time:
        return speed(g, ours, a.types.split(","))
    for kind in [k for k in IDS if k != "q8_k"] if a.decode else []:  # ggml has no to_float of Q8_K
        data = np.random.default_rng(a.seed).integers(0, 256, (64, g.ggml_row_size(IDS[kind], 4096)), np.uint8)
        mine, theirs = ours.decode(kind, data, 4096), ggml_decode(g, kind, data, 4096)
        bad = ((mine.view(np.uint32) != theirs.view(np.uint32)) & ~(np.isnan(mine) & np.isnan(theirs))).sum()
        print(f"{kind}: {mine.size} values decoded from random bytes, {bad} wrong")
        wrong, checked = wrong + bad, checked + mine.size
    for kind in [] if a.decode else a.types.split(","):
        rng = np.random.default_rng(a.seed)
        blocks = bad = 0
        block_bytes = g.ggml_get_type_traits(IDS[kind]).contents.type_size
        for label, importance in importances(rng, a.cols):
            for name, x in kinds_of_rows(rng, a.rows, a.cols):
                theirs = ggml_encode(g, kind, x, importance)
                mine = ours.encode(kind, x, importance)
                if isinstance(mine, str):
                    finite = np.isfinite(ggml_decode(g, kind, theirs, a.cols)).all()
                    if finite or "does not fit" not in mine:
                        print(f"{kind}: {name}, importance {label}: {mine.strip()}")
                        bad += 1
                    continue
                differ = (theirs != mine).reshape(-1, block_bytes).any(1)
                blocks += differ.size
                bad += differ.sum()
                if differ.any():
                    print(f"{kind}: {name}, importance {label}: {differ.sum()} of {differ.size} blocks differ, "
                          f"first {np.flatnonzero(differ)[:3]}")
                a1, a2 = ours.decode(kind, theirs, a.cols), ggml_decode(g, kind, theirs, a.cols)
                if a1.tobytes() != a2.tobytes():
                    print(f"{kind}: {name}: {(a1.view(np.uint32) != a2.view(np.uint32)).sum()} decoded values differ")
                    bad += 1
        print(f"{kind}: {blocks} blocks, {bad} wrong")
        wrong, checked = wrong + bad, checked + blocks
    sys.exit(1 if wrong or not checked else 0)


def speed(g, ours, kinds):
    x = np.random.default_rng(7).standard_normal((1024, 2048)).astype(np.float32)
    importance = np.random.default_rng(8).chisquare(1, 2048).astype(np.float32)
    x.tofile(ours.path("in"))
    importance.tofile(ours.path("importance"))
    for kind in kinds:
        for label, q in [("", None), (" with importance", importance)]:
            if kind == "q8_0" and label:
                continue
            n = 1024 if kind in ("q4_0", "q8_0", "q4_1", "q5_0", "q5_1") and not label else 64
            best = 1e9
            for _ in range(9):
                t = time.thread_time(); ggml_encode(g, kind, x[:n], q); best = min(best, time.thread_time() - t)
            theirs = n * 2048 * 4e-9 / best
            args = [ours.program, "time", kind, "2048", ours.path("in")] + ([ours.path("importance")] if label else [])
            lines = subprocess.run(args, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
            mine = {l.split()[1]: float(l.split()[2]) for l in lines}
            print(f"{kind:7}{label:16} ggml {theirs:7.3f} GB/s; "
                  + "; ".join(f"{k} {v:7.3f} ({v / theirs:.1f}x)" for k, v in mine.items()), flush=True)


if __name__ == "__main__":
    main()
