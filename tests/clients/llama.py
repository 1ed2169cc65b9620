"""Stock llama.cpp on the CPU: load a GGUF, get the logits of a token sequence, tokenize bytes.

Calls the C API with ctypes. The library is the prebuilt llama.cpp inside the PyPI wheel xllamacpp (AVX2, any glibc), or the
libllama.so named by the environment variable LLAMA_LIB. What to know when comparing logits:

- Equal files give equal logits for any number of threads, but not for another `n_batch`: other kernels run.
- In a BF16 file the kernels round the activations to bf16 too, so an F16 file is the more exact 16-bit file.
- rwkv7 needs a head size that is a multiple of the vector step (64 with AVX-512, 32 with AVX2); any other is computed
  wrongly, and out of bounds.
"""

import ctypes
import os
from ctypes import POINTER, c_bool, c_byte, c_char_p, c_float, c_int8, c_int32, c_uint32, c_void_p
from pathlib import Path

import numpy as np

ERROR = 4  # GGML_LOG_LEVEL_ERROR


class ContextParams(ctypes.Structure):
    """The first fields of llama_context_params. Longer than the real struct, so new fields in a later version do no harm."""

    _fields_ = [("n_ctx", c_uint32), ("n_batch", c_uint32), ("n_ubatch", c_uint32), ("rest", c_byte * 1012)]


class ModelParams(ctypes.Structure):
    """llama_model_params, all defaults."""

    _fields_ = [("rest", c_byte * 1024)]


class Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    ]


LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, c_char_p, c_void_p)

SIGNATURES = {
    "llama_log_set": (None, LogCallback, c_void_p),
    "llama_backend_init": (None,),
    "llama_version": (c_char_p,),
    "llama_model_default_params": (ModelParams,),
    "llama_model_load_from_file": (c_void_p, c_char_p, ModelParams),
    "llama_model_get_vocab": (c_void_p, c_void_p),
    "llama_model_free": (None, c_void_p),
    "llama_vocab_n_tokens": (c_int32, c_void_p),
    "llama_vocab_bos": (c_int32, c_void_p),
    "llama_vocab_eos": (c_int32, c_void_p),
    "llama_vocab_eot": (c_int32, c_void_p),
    "llama_context_default_params": (ContextParams,),
    "llama_init_from_model": (c_void_p, c_void_p, ContextParams),
    "llama_adapter_lora_init": (c_void_p, c_void_p, c_char_p),
    "llama_set_adapters_lora": (c_int32, c_void_p, POINTER(c_void_p), ctypes.c_size_t, POINTER(c_float)),
    "llama_set_n_threads": (None, c_void_p, c_int32, c_int32),
    "llama_free": (None, c_void_p),
    "llama_batch_init": (Batch, c_int32, c_int32, c_int32),
    "llama_batch_free": (None, Batch),
    "llama_decode": (c_int32, c_void_p, Batch),
    "llama_get_logits": (POINTER(c_float), c_void_p),
    "llama_tokenize": (c_int32, c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool),
    "llama_token_to_piece": (c_int32, c_void_p, c_int32, c_char_p, c_int32, c_int32, c_bool),
}


def open_library():
    path = os.environ.get("LLAMA_LIB")
    if not path:
        import xllamacpp  # brings in what the library needs

        path = next(Path(xllamacpp.__file__).parent.glob("xllamacpp*.so"))
    lib = ctypes.CDLL(str(path))
    for name, (result, *arguments) in SIGNATURES.items():
        function = getattr(lib, name, None)  # llama_version is new
        if function:
            function.restype, function.argtypes = result, arguments
    return lib


class Llama:
    """A model in stock llama.cpp; a context manager."""

    def __init__(self, path, threads=2):
        self.threads, self.errors = threads, []
        self.lib = open_library()
        self._log = LogCallback(self._keep_errors)  # kept alive with the model
        self.lib.llama_log_set(self._log, None)
        self.lib.llama_backend_init()
        self.model = self.lib.llama_model_load_from_file(os.fsencode(path), self.lib.llama_model_default_params())
        if not self.model:
            raise RuntimeError("llama.cpp refused the file: " + "; ".join(self.errors))
        self.vocab = self.lib.llama_model_get_vocab(self.model)
        self.n_vocab = self.lib.llama_vocab_n_tokens(self.vocab)

    def _keep_errors(self, level, text, _user):
        if level == ERROR:
            self.errors.append(text.decode(errors="replace").strip())

    def adapter(self, path):
        """A LoRA adapter for `logits`; it lives as long as the model."""
        adapter = self.lib.llama_adapter_lora_init(self.model, os.fsencode(path))
        if not adapter:
            raise RuntimeError("llama.cpp refused the adapter: " + "; ".join(self.errors))
        return adapter

    def logits(self, tokens, n_batch=512, adapter=None):
        """Logits after every token, from an empty state: float32 [n_tokens, n_vocab]."""
        tokens = [int(t) for t in tokens]
        params = self.lib.llama_context_default_params()
        params.n_ctx = len(tokens) + 8
        params.n_batch = params.n_ubatch = n_batch
        context = self.lib.llama_init_from_model(self.model, params)
        if not context:
            raise RuntimeError("llama.cpp made no context: " + "; ".join(self.errors))
        self.lib.llama_set_n_threads(context, self.threads, self.threads)
        if adapter:
            self.lib.llama_set_adapters_lora(context, (c_void_p * 1)(adapter), 1, (c_float * 1)(1.0))
        batch = self.lib.llama_batch_init(n_batch, 0, 1)
        rows = []
        try:
            for start in range(0, len(tokens), n_batch):
                part = tokens[start : start + n_batch]
                batch.n_tokens = len(part)
                for i, token in enumerate(part):
                    batch.token[i], batch.pos[i], batch.logits[i] = token, start + i, 1
                    batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
                status = self.lib.llama_decode(context, batch)
                if status != 0:
                    raise RuntimeError(f"llama_decode returned {status}: " + "; ".join(self.errors))
                all_rows = self.lib.llama_get_logits(context)
                rows.append(np.ctypeslib.as_array(all_rows, (len(part), self.n_vocab)).copy())
        finally:
            self.lib.llama_batch_free(batch)
            self.lib.llama_free(context)
        return np.concatenate(rows)

    def tokenize(self, text: bytes):
        """Token ids of `text`. Names of special tokens in it are plain text (parse_special is off)."""
        room = len(text) + 8
        out = (c_int32 * room)()
        n = self.lib.llama_tokenize(self.vocab, text, len(text), out, room, True, False)
        if n < 0:
            raise RuntimeError(f"llama_tokenize returned {n} for {len(text)} bytes")
        return out[:n]

    def piece(self, token):
        """The bytes of one token."""
        out = ctypes.create_string_buffer(512)
        n = self.lib.llama_token_to_piece(self.vocab, token, out, len(out), 0, True)
        return out.raw[:n]

    def close(self):
        self.lib.llama_model_free(self.model)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
