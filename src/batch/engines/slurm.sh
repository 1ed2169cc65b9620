#!/bin/bash
# A release as an array job of Slurm: every task does its share of the cells, and what a lost node leaves unfinished is
# done by the task that Slurm puts in its place. JOB and OUT are in a folder that all nodes have in common.
#
#   id=$(sbatch --parsable --array=1-4 slurm.sh release.toml OUT)
#   sbatch --dependency=afterany:"$id" --wrap 'rwkv-quant batch merge OUT'
#
#SBATCH --job-name=rwkv-quant
#SBATCH --array=1-4
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A-%a.log
set -euo pipefail
job=${1:?the job file} out=${2:?the folder of the release}

# Which shard this is, SLURM_ARRAY_TASK_ID and its kind say.
limits=(--threads "${SLURM_CPUS_PER_TASK:-1}")
if [ -n "${SLURM_MEM_PER_NODE:-}" ]; then
    limits+=(--max-memory "${SLURM_MEM_PER_NODE}MiB")
fi
exec "${RWKV_QUANT:-rwkv-quant}" batch "$job" --out "$out" "${limits[@]}"
