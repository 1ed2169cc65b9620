#!/usr/bin/env bash
# Makes what is handed out, and runs it where it is to run: a static Linux program in a folder without anything else,
# `cargo install`, and the Python wheel in a fresh environment. The three are built once, with the release profile
# as the environment has it.
# Needs a Linux with glibc, Debian's packages file, python3-venv and util-linux, and the network for maturin.
# Ends with "N passed, N failed".
set -euo pipefail
cd "$(dirname "$0")/../.."
host=$(rustc -vV | sed -n 's/^host: //p')
version=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' Cargo.toml)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
passed=0 failed=0
check() { if "${@:2}"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED: $1"; fi; }

# With --target, the flags are for the program alone, not for what runs while it is built.
export RUSTFLAGS="-C target-feature=+crt-static" CARGO_BUILD_TARGET=$host
cargo build --release --locked --bin rwkv-quant
program=target/$host/release/rwkv-quant
file "$program"
check "it is for no dynamic linker" bash -c "! readelf --program-headers '$program' | grep -q INTERP"
check "it needs no library" bash -c "! readelf --dynamic '$program' | grep -q NEEDED"

# Nothing but the program and a model.
mkdir "$out/empty"
cp "$program" testdata/rwkv7-bytes.pth "$out/empty"
alone() {
    if [ "$(id -u)" = 0 ]; then
        chroot "$out/empty" "$@"
    else
        unshare --user --map-root-user --root="$out/empty" --wd=/ "$@"
    fi
}
check "it converts, alone" alone /rwkv-quant --format quiet convert /rwkv7-bytes.pth /out.gguf --type q4_k_m
check "it verifies, alone" alone /rwkv-quant --format quiet verify /out.gguf
"$program" --format quiet convert testdata/rwkv7-bytes.pth "$out/here.gguf" --type q4_k_m
check "the bytes are the same" cmp "$out/empty/out.gguf" "$out/here.gguf"

cargo install --path . --root "$out/installed" --locked --quiet --target-dir target
check "cargo install brings it" test "$("$out/installed/bin/rwkv-quant" --version)" = "rwkv-quant $version"

python3 -m venv "$out/maturin"
"$out/maturin/bin/pip" install --quiet 'maturin>=1.9,<2'
# Static, it runs on every Linux, whatever its libraries.
"$out/maturin/bin/maturin" build --release --out "$out/wheels" --target "$host" --quiet
ls -l "$out/wheels"
python3 -m venv "$out/fresh"
"$out/fresh/bin/pip" install --quiet --no-index "$out"/wheels/*.whl
check "the wheel brings it" test "$("$out/fresh/bin/rwkv-quant" --version)" = "rwkv-quant $version"
rm -f "$out/here.gguf"
"$out/fresh/bin/rwkv-quant" --format quiet convert testdata/rwkv7-bytes.pth "$out/here.gguf" --type q4_k_m
check "and works" cmp "$out/empty/out.gguf" "$out/here.gguf"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
