#!/usr/bin/env bash
# The release of testdata/release.toml, once from nothing and once again when all is there: seconds, peak memory, bytes.
#   benches/batch.sh [PROGRAM] > benches/record/batch.txt
set -euo pipefail
cd "$(dirname "$0")/.."
program=${1:-target/release/rwkv-quant}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
echo "$(nproc) cores, $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2- | xargs)"
for run in "from nothing" "once more"; do
    /usr/bin/time -f "%e %U %M" -o "$out/time" "$program" --format quiet batch testdata/release.toml --shard 1/1 --out "$out/release"
    read -r wall cpu peak < "$out/time"
    echo "$run: $wall s, $cpu s of CPU, at most $((peak / 1024)) MiB"
done
echo "$(wc -l < "$out/release/SHA256SUMS") artifacts, $(cut -d' ' -f3- "$out/release/SHA256SUMS" | sed "s|^|$out/release/|" | xargs cat | wc -c) bytes"
