#!/usr/bin/env bash
# The tests of every module with unsafe code (tests/it/unsafe_code.rs lists them) under AddressSanitizer, which finds
# reads and writes beyond buffers in all instruction sets; valgrind knows no AVX-512. The sanitizer's library comes with
# the stable toolchain, its flag does not, hence RUSTC_BOOTSTRAP. A few minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(rustc -vV | sed -n 's/^host: //p')
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0
export PROPTEST_CASES=16
sanitized() { cargo test --quiet --locked --target "$target" --target-dir target/sanitized "$@"; }

# quant/src/arch: encoders, decoders, products and entropy coding at every instruction set.
sanitized -p rwkv-quant-numbers --lib -- arch:: conformance:: matrix:: entropy::rans entropy::low_bits entropy::tile
# formats/src/mapped.rs, guard.rs: maps, as every reader uses them.
sanitized -p rwkv-quant-formats --lib
# src/runner/arch: products at every instruction set, and a whole forward pass.
sanitized -p rwkv-quant --lib -- runner::arch runner::tests runner::moments
