#!/usr/bin/env bash
# Where the disk is the limit: converting a checkpoint against copying it, both from a cold cache and flushed.
#   sudo benches/vs_cp.sh FOLDER [SIZE]      (5 GB in FOLDER for the size 1.5b; root, to empty the page cache)
# Build first: cargo build --release --bins --examples.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1 size=${2:-1.5b}
source=$folder/model.pth out=$folder/out.gguf copy=$folder/copy.pth
trap 'rm -f "$source" "$out" "$copy"' EXIT
target/release/examples/gen_checkpoint "$source" "$size"
timed() {
    sync; echo 3 >/proc/sys/vm/drop_caches
    local start end
    start=$(date +%s.%N); "$@"; sync -f "$source"; end=$(date +%s.%N)
    awk -v a="$start" -v b="$end" -v what="$1" 'BEGIN { printf "%s %.2f s\n", what, b - a }'
}
for _ in 1 2 3; do
    timed target/release/rwkv-quant --format quiet convert "$source" "$out" --type q8_0 --force
    timed cp "$source" "$copy"
done
