#!/usr/bin/env bash
# One job on several hosts of a Slurm cluster, one Ray node on each, which end with it.
#   sbatch --nodes=4 cluster/deploy/slurm.sh experiment=gpt2_124m_8gpu
# Slurm sends SIGTERM to this script 5 minutes before the time is over; the run saves and leaves,
# and the next sbatch of the same words goes on from there (resume=auto).
#SBATCH --job-name=orchestrate
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=2
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --open-mode=append
set -euo pipefail

PORT=6379
umask 077
# A token of this job's own, in a file on the shared disk: no command line shows it.
secrets=$(mktemp -d "$PWD/.orchestrate-${SLURM_JOB_ID:?run this with sbatch}-XXXXXX")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$secrets/token RAY_USAGE_STATS_ENABLED=0
python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH"

host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$host" hostname --ip-address | awk '{print $1}')
cpus=${SLURM_CPUS_PER_TASK:-1} gpus=${SLURM_GPUS_ON_NODE:-0}
room=(--num-cpus="$cpus" --num-gpus="$gpus" --disable-usage-stats --block)

leave() {
    trap - EXIT
    [ -z "${driver:-}" ] || { kill -TERM "$driver" 2> /dev/null || true; wait "$driver" || true; }
    kill "${head:-}" "${others:-}" 2> /dev/null || true
    wait || true
    rm -rf "$secrets"
}
trap leave EXIT TERM INT

srun --nodes=1 --ntasks=1 --nodelist="$host" --overlap \
    ray start --head --node-ip-address="$address" --port="$PORT" --include-dashboard=false \
    "${room[@]}" &
head=$!
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    sleep 10
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) \
        --exclude="$host" --overlap ray start --address="$address:$PORT" "${room[@]}" &
    others=$!
fi

# The driver waits until all of its workers find room.
RAY_ADDRESS=$address:$PORT srun --nodes=1 --ntasks=1 --nodelist="$host" --overlap --gpus=0 \
    orchestrate run "$@" resume=auto &
driver=$!
wait "$driver"
