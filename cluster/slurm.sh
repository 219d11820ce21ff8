#!/usr/bin/env bash
# A Ray cluster inside one Slurm allocation, and one job on it:
#   sbatch cluster/slurm.sh jobs/recipes/imdb-llama2-70b.yaml --set storage=/scratch/$USER/runs/imdb
# From a checkout where `make gpu` made .venv-gpu, on a file system that every node sees. On nodes without GPUs:
#   VENV=.venv sbatch --gpus-per-node=0 cluster/slurm.sh RECIPE
#SBATCH --job-name=llambert
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:?start me with sbatch}"
[ $# -ge 1 ] || { echo "sbatch cluster/slurm.sh RECIPE [--set key=value ...]" >&2; exit 2; }
venv=${VENV:-.venv-gpu}
[ -e "$venv/bin/activate" ] || { echo "no environment $venv in $PWD: run \`make gpu\`, or name another with VENV=" >&2; exit 2; }
. "$venv/bin/activate"

# Before the time limit, and for `scancel --signal=TERM --batch`. A job that is cancelled gets SIGTERM too: it stays so.
job=
stop() {
  [ -z "$job" ] || { kill -TERM "$job" || true; wait "$job" || true; }
  scontrol show job "$SLURM_JOB_ID" | grep -q 'JobState=RUNNING' || exit 143
  scontrol requeue "$SLURM_JOB_ID"
}
trap stop TERM

export RAY_USAGE_STATS_ENABLED=0 RAY_LOGGING_CONFIG_ENCODING=JSON RAY_TMPDIR=/tmp/ray-$SLURM_JOB_ID
# Ray listens on every interface of nodes that may be shared: a token made for this allocation, in the environment alone.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
# Three ports of this allocation's own, below those that the kernel hands out: a node may have another user's Ray too.
port=$((20000 + SLURM_JOB_ID % 4000 * 3))
# This script runs on the first node. By the route, not by the name, which may be 127.0.1.1.
head_ip=$(python -c 'import ray; print(ray.util.get_node_ip_address())')
export RAY_ADDRESS=$head_ip:$port

# Each node says what Slurm gave it; --block: Slurm ends it with the step.
start='
here=(--num-cpus="$SLURM_CPUS_ON_NODE" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --dashboard-agent-listen-port=0 --block)
if [ "$SLURM_NODEID" = 0 ]; then
  exec ray start --head --node-ip-address="${RAY_ADDRESS%:*}" --port="$1" --dashboard-port=$(($1 + 1)) \
    --ray-client-server-port=$(($1 + 2)) "${here[@]}"
fi
until (: <"/dev/tcp/${RAY_ADDRESS%:*}/$1") 2>/dev/null; do sleep 1; done
exec ray start --address="$RAY_ADDRESS" "${here[@]}"
'
# One step on all nodes: srun takes --gpus=N of the whole job for each step. It does not inherit --cpus-per-task, and the
# environment only if it is told to, after `sbatch --export=NONE`.
srun --export=ALL --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c "$start" start "$port" &
ray=$!
until ray status >/dev/null 2>&1; do
  kill -0 "$ray" 2>/dev/null || { echo "Ray did not start: see the lines above" >&2; exit 1; }
  sleep 2
done

# A requeued allocation starts the same command: it resumes where this one stopped.
python jobs/pipeline.py "$@" &
job=$!
wait "$job"
