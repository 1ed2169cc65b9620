#!/usr/bin/env bash
# Checks the files for GitHub, Kubernetes, Slurm and containers with the linters of others, and the manifest of the
# testdata release against its schema.
#   RWKV_QUANT   the program   (target/release/rwkv-quant)
# Needs Debian's packages python3-venv and shellcheck. Ends with "N passed, N failed".
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
program=${RWKV_QUANT:-target/release/rwkv-quant}
venv=target/lint-venv
if ! cmp -s tests/engines/requirements.txt "$venv/installed.txt"; then
    python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --requirement tests/engines/requirements.txt &&
        cp tests/engines/requirements.txt "$venv/installed.txt" || exit 1
fi
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
bin=$venv/bin engines=src/batch/engines passed=0 failed=0
check() {
    if "$@" >"$out/said" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'FAILED: %s\n' "$*"
        cat "$out/said"
    fi
}
# With the rules that this project's files keep besides the usual ones.
rules='{extends: default, rules: {line-length: {max: 140}, document-start: disable, truthy: disable,
    braces: {max-spaces-inside: 1}, comments: {min-spaces-from-content: 1}}}'

check "$bin/check-jsonschema" --builtin-schema vendor.github-workflows .github/workflows/models.yml
check "$bin/check-jsonschema" --builtin-schema vendor.github-actions .github/actions/release/action.yml
check "$bin/kubernetes-validate" --strict $engines/kubernetes.yaml $engines/kubernetes-merge.yaml
check "$bin/yamllint" --strict -d "$rules" .github $engines
check shellcheck $engines/slurm.sh tests/engines/*.sh tests/clients/run.sh .ci/run
check "$program" --format quiet batch testdata/release.toml --shard 1/1 --out "$out/release"
check "$bin/check-jsonschema" --schemafile src/batch/manifest.schema.json "$out/release/manifest.json"
check "$bin/check-jsonschema" --check-metaschema src/batch/manifest.schema.json
count() { python3 tests/engines/count.py "$program" "$out/release" "$1"; }
check "$bin/python" - "$out/release/summary.xml" "$(count cells)" "$(count absent)" <<'PYTHON'
import sys
from junitparser import JUnitXml
xml = JUnitXml.fromfile(sys.argv[1])
cells, absent = map(int, sys.argv[2:])
assert (xml.tests, xml.failures, xml.errors, xml.skipped) == (cells, 0, 0, absent), xml
assert sum(1 for suite in xml for case in suite if case.is_skipped) == absent
PYTHON
check bash -c "cd '$out/release' && sha256sum --check --quiet SHA256SUMS"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
