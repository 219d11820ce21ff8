#!/usr/bin/env bash
# A Ray cluster inside one Slurm allocation, and one job on it:
#   sbatch cluster/slurm.sh jobs/recipes/imdb-llama2-70b.yaml --set storage=/scratch/$USER/runs/imdb
# From a checkout with requirements.lock installed in .venv, on a file system that every node sees.
#SBATCH --job-name=llambert
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:?start me with sbatch}"
[ $# -ge 1 ] || { echo "sbatch cluster/slurm.sh RECIPE [--set key=value ...]" >&2; exit 2; }
. .venv/bin/activate
export RAY_AUTH_MODE=disabled RAY_USAGE_STATS_ENABLED=0 RAY_LOGGING_CONFIG_ENCODING=JSON
# Ports of this allocation's own: nodes may be shared with another user's Ray.
port=$((20000 + SLURM_JOB_ID % 20000))

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_ip=$(srun --nodes=1 --ntasks=1 -w "${nodes[0]}" hostname --ip-address | awk '{print $1}')
export RAY_TMPDIR=/tmp/ray-$SLURM_JOB_ID

start() {  # node, arguments of `ray start`; --block: Slurm ends it with the step
  srun --nodes=1 --ntasks=1 -w "$1" ray start "${@:2}" --num-cpus="$SLURM_CPUS_PER_TASK" \
    --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --block &
}

start "${nodes[0]}" --head --node-ip-address="$head_ip" --port="$port" --dashboard-port=$((port + 1)) \
  --ray-client-server-port=$((port + 2))
export RAY_ADDRESS=$head_ip:$port
for _ in $(seq 60); do ray status >/dev/null 2>&1 && break; sleep 2; done
for node in "${nodes[@]:1}"; do start "$node" --address="$RAY_ADDRESS"; done

# A requeued allocation starts the same command: it goes on where this one was.
python jobs/pipeline.py "$@" &
job=$!
trap 'kill -TERM $job; wait $job || true; scontrol requeue "$SLURM_JOB_ID"' TERM
wait $job
