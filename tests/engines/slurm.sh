#!/usr/bin/env bash
# A real Slurm on this machine, a controller and two nodes, runs an array over the testdata release. One node is killed
# in the middle of its work; its task is run again on the other, and the release has the bytes of one made without Slurm.
#   RWKV_QUANT   the program   (target/release/rwkv-quant)
# Needs Debian's packages slurm-wlm and munge, and to be root. Ends with "N passed, N failed".
set -euo pipefail
cd "$(dirname "$0")/../.."
program=$(realpath "${RWKV_QUANT:-target/release/rwkv-quant}")
dir=$(mktemp -d)
chmod 755 "$dir"
pids=()
cleanup() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT

mkdir -p "$dir"/state "$dir"/munge "$dir"/logs
chmod 700 "$dir"/munge
head -c 1024 /dev/urandom > "$dir/munge/key"
chmod 600 "$dir/munge/key"
socket="$dir/munge/socket"
munged --force --foreground --key-file="$dir/munge/key" --socket="$socket" --pid-file="$dir/munge/pid" \
    --seed-file="$dir/munge/seed" --log-file="$dir/munge/log" & pids+=($!)

export SLURM_CONF="$dir/slurm.conf"
cat > "$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=17900
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool.%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/logs/slurmctld
SlurmdLogFile=$dir/logs/slurmd.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdTimeout=5
JobRequeue=1
ReturnToService=1
MailProg=/bin/true
NodeName=n[1-2] NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=[17901-17902] CPUs=1 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
sleep 1
slurmctld -D & pids+=($!)
sleep 2
for node in n1 n2; do
    mkdir -p "$dir/spool.$node"
    slurmd -D -N "$node" & pids+=($!)
    declare "node_$node=$!"
done
for _ in $(seq 30); do
    [ "$(sinfo --noheader --format=%t --Node 2>/dev/null | grep -c idle)" = 2 ] && break
    sleep 1
done
sinfo --Node --long

id=$(sbatch --parsable --array=1-3 --cpus-per-task=1 --mem=800M --output="$dir/logs/task-%a" --export=ALL,RWKV_QUANT="$program" \
    src/batch/engines/slurm.sh "$PWD/testdata/release.toml" "$dir/release")
echo "array $id"
# As soon as the second node has finished something, it dies with all that it runs.
for _ in $(seq 120); do
    grep -q ' made' "$dir/logs/task-2" 2>/dev/null && break
    sleep 0.5
done
echo "before the node dies:"; squeue --array
victims=("$node_n2")
for pid in $(pgrep -f "$dir/release"); do
    if tr '\0' '\n' < "/proc/$pid/environ" 2>/dev/null | grep -qx 'SLURMD_NODENAME=n2'; then
        # First slurmstepd, so that it cannot report the end of what it runs.
        victims+=("$(awk '/^PPid:/ {print $2}' "/proc/$pid/status")" "$pid")
    fi
done
ps -o pid,args -p "$(IFS=,; echo "${victims[*]}")"
kill -9 "${victims[@]}"
for _ in $(seq 600); do
    [ -z "$(squeue --noheader --jobs="$id" 2>/dev/null)" ] && break
    sleep 1
done
grep -h -i -E 'requeue|not resp|DOWN' "$dir/logs/slurmctld" || true
restarts=$(grep -c -i 'requeue' "$dir/logs/slurmctld" || true)

"$program" --format quiet batch merge "$dir/release"
"$program" --format quiet batch testdata/release.toml --shard 1/1 --out "$dir/alone"
passed=0 failed=0
check() { if "${@:2}"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED: $1"; fi; }
check "a task was put into the queue again" test "$restarts" -gt 0
good=$(python3 tests/engines/count.py "$program" "$dir/alone" good)
check "nothing is lost" test "$(wc -l < "$dir/release/SHA256SUMS")" = "$good"
check "the checksums are right" bash -c "cd '$dir/release' && sha256sum --check --quiet SHA256SUMS"
check "the bytes are those without Slurm" diff -rq --exclude='summary*' "$dir/alone" "$dir/release"
check "nothing unfinished is left" test -z "$(find "$dir/release" -name '*.partial' -o -name '*.lock')"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
