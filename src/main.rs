//! The `rwkv-quant` program.

fn main() {}
