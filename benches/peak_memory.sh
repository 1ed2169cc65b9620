#!/usr/bin/env bash
# Runs a command, prints its peak resident memory, and fails if that was more than so many megabytes.
#   benches/peak_memory.sh 400 COMMAND...
set -euo pipefail
limit=$1; shift
python3 - "$limit" "$@" <<'PY'
import os, subprocess, sys
limit, command = int(sys.argv[1]), sys.argv[2:]
child = subprocess.Popen(command)
_, status, usage = os.wait4(child.pid, 0)
peak = usage.ru_maxrss / 1000  # kB on Linux
print(f"peak resident memory {peak:.0f} MB of {limit} MB allowed")
sys.exit(os.waitstatus_to_exitcode(status) or (1 if peak > limit else 0))
PY
