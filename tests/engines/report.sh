#!/usr/bin/env bash
# Opens the report of a release in a real browser, headless, and reads what it made of it.
#   RWKV_QUANT   the program   (target/release/rwkv-quant)
# Needs Debian's package chromium. Ends with "N passed, N failed"; screenshots go to target/report-WIDTH.png.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
program=${RWKV_QUANT:-target/release/rwkv-quant}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
passed=0 failed=0
check() { if "${@:2}"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED: $1"; fi; }
browse() {
    timeout 120 chromium --headless=new --no-sandbox --disable-gpu --enable-logging=stderr --user-data-dir="$out/profile" \
        --host-resolver-rules='MAP * ~NOTFOUND' "$@" 2>"$out/log"
}
"$program" --format quiet batch testdata/release.toml --shard 1/1 --out "$out/release" || exit 1
page=$out/release/report.html
count() { python3 tests/engines/count.py "$program" "$out/release" "$1"; }
"$program" report "$out/release/summary.json" -o "$out/again.html"
check "the summary gives the same page" cmp "$page" "$out/again.html"
# Links to follow there may be, but nothing to load.
check "the page loads nothing" bash -c "! grep -E '(src=|href=|url\\(|@import)' '$page' | grep -v -E '<a href=|href=\"data:,\"'"

# A copy that clicks on the size, and says in which order the rows then are.
clicks='<script>
const table = [...document.querySelectorAll("table.sortable")].at(-1), button = table.querySelectorAll("th button")[2];
const sizes = () => [...table.tBodies[0].rows].map(row => Number(row.cells[2].dataset.sort));
const sorted = list => list.every((v, i) => i === 0 || list[i - 1] <= v);
button.click(); document.body.dataset.up = sorted(sizes());
button.click(); document.body.dataset.down = sorted(sizes().reverse());
document.body.dataset.rows = sizes().length;
</script>'
printf '%s\n' "$clicks" | cat "$page" - > "$out/clicked.html"
browse --dump-dom "file://$out/clicked.html" > "$out/dom"
check "nothing is wrong with the page" bash -c "! grep CONSOLE '$out/log'"
check "tables sort up" grep -q 'data-up="true"' "$out/dom"
check "tables sort down" grep -q 'data-down="true"' "$out/dom"
check "all artifacts are in the table" grep -q "data-rows=\"$(count last)\"" "$out/dom"
check "plots are there: two for each model that has quantized files" test "$(grep -c 'role="img"' "$out/dom")" = "$(count plots)"
for width in 1280 390; do
    browse --hide-scrollbars --window-size=$width,2400 --screenshot="$PWD/target/report-$width.png" "file://$page"
    check "a screenshot of $width pixels" test -s "target/report-$width.png"
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
