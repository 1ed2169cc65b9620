//! rwkv-quant: converts and quantizes RWKV checkpoints.
