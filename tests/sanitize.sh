#!/usr/bin/env bash
# The tests of every module with unsafe code (tests/it/unsafe_code.rs lists them) under AddressSanitizer, which finds
# reads and writes beyond buffers in all instruction sets; valgrind knows no AVX-512. The sanitizer's library comes with
# the stable toolchain, its flag does not, hence RUSTC_BOOTSTRAP. A few minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(rustc -vV | sed -n 's/^host: //p')
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0
export PROPTEST_CASES=16
found=$(mktemp -d)
trap 'rm -rf "$found"' EXIT
sanitized() { cargo test --quiet --locked --target "$target" --target-dir target/sanitized "$@" | tee -a "$found/log"; }

# quant/src/arch: encoders, decoders, products and entropy coding at every instruction set.
sanitized -p rwkv-quant-numbers --lib -- arch:: conformance:: matrix:: entropy::rans entropy::low_bits entropy::tile
# formats/src/mapped.rs, guard.rs: maps, as every reader uses them.
sanitized -p rwkv-quant-formats --lib
# src/runner/arch: products at every instruction set, and a whole forward pass.
sanitized -p rwkv-quant --lib -- runner::arch runner::tests runner::moments
# src/process.rs: what the program asks of the system, and the whole way of a model through it.
program() { cargo run --quiet --locked --target "$target" --target-dir target/sanitized -- --format quiet "$@"; }
program convert testdata/rwkv7-bytes.pth "$found/o.gguf" --type q4_k_m --calib testdata/heldout.txt --calib-tokens 1024 --calib-ctx 64
program verify "$found/o.gguf"

if [ "${1-}" = --record ]; then
    {
        printf '# AddressSanitizer over the modules with unsafe code\n\n'
        # shellcheck disable=SC2016  # the backquotes are Markdown's
        printf '`tests/sanitize.sh --record` on %s: nothing found, in the program either.\n\n' "$(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2- | xargs)"
        grep 'test result' "$found/log" | sed 's/^/- /; s/; finished.*//'
    } >benches/record/sanitize.md
fi
