#!/usr/bin/env bash
# One training run with torchrun, started again for as long as that helps.
#
#   launchers/torchrun.sh [--dry-run] [--check] [--verify] CONFIG [section.setting=value ...]
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=node0 launchers/torchrun.sh ...       on each of several nodes
#
# It starts nothing with a wrong configuration (taidscale check). --dry-run prints what it would run; --check looks at
# the nodes first (taidscale nodes), --verify at what they compute (taidscale verify).
# RANKS_PER_NODE is the number of GPUs by default; MASTER_PORT is 29500. PYTHON, if set, stands for
# `python`: PYTHON="apptainer exec --nv taidscale.sif python", say.
#
# Ctrl-C, TERM or USR1 to this script: torchrun passes TERM on to the ranks, which finish the step, save
# and exit; then this script ends as well. TERM to torchrun itself does the same; USR1 ends it at once, and
# the ranks run on without it.
set -euo pipefail

die() { echo "error: $*" >&2; exit 2; }

dry_run=false first=()
while [[ ${1:-} == --* ]]; do
    case $1 in
        --dry-run) dry_run=true ;;
        --check) first+=(nodes) ;;
        --verify) first+=(verify) ;;
        *) die "no such option: $1" ;;
    esac
    shift
done
[[ $# -gt 0 ]] || die "which run? launchers/torchrun.sh CONFIG [section.setting=value ...]"
[[ -f $1 ]] || die "no configuration $1 in $PWD"
read -d '' -ra python <<<"${PYTHON:-python}" || true
"${python[@]}" -c 'import taidscale' ||
    die "'${python[*]}' cannot import taidscale: activate its environment, or set PYTHON"
num_nodes=${NNODES:-1}
[[ $num_nodes =~ ^[1-9][0-9]*$ ]] || die "NNODES: $num_nodes is not a number of nodes"
if [[ $num_nodes -gt 1 && (-z ${NODE_RANK:-} || -z ${MASTER_ADDR:-}) ]]; then
    die "NNODES=$num_nodes takes NODE_RANK (0 to $((num_nodes - 1)), other on each node) and MASTER_ADDR (node 0)"
fi
[[ ${NODE_RANK:-0} =~ ^[0-9]+$ && ${NODE_RANK:-0} -lt $num_nodes ]] ||
    die "NODE_RANK: $NODE_RANK is not the number of one of $num_nodes nodes, from 0"
[[ ${MASTER_PORT:-29500} =~ ^[1-9][0-9]*$ ]] || die "MASTER_PORT: $MASTER_PORT is not a port"
ranks=${RANKS_PER_NODE:-$(nvidia-smi --list-gpus 2>/dev/null | grep -c ^GPU || true)}
[[ $ranks != 0 || -n ${RANKS_PER_NODE:-} ]] || die "nvidia-smi shows no GPUs here: set RANKS_PER_NODE"
[[ $ranks =~ ^[1-9][0-9]*$ ]] || die "RANKS_PER_NODE: $ranks is not a number of ranks; set RANKS_PER_NODE"

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} NCCL_DEBUG=${NCCL_DEBUG:-WARN}
# How long torchrun leaves the ranks after TERM. After the death of one it leaves the others 30 s, always.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-900}
torchrun=(
    "${python[@]}" -m torch.distributed.run --nnodes="$num_nodes" --node-rank="${NODE_RANK:-0}"
    --nproc-per-node="$ranks" --master-addr="${MASTER_ADDR:-127.0.0.1}"
    --master-port="${MASTER_PORT:-29500}"
)
train=("${torchrun[@]}" -m taidscale train "$@")
restart=("${python[@]}" -m taidscale restart "$@")
[[ ${NODE_RANK:-0} -eq 0 ]] || restart+=(--no-count)
run() { if $dry_run; then printf '%q ' "$@"; echo; else "$@"; fi; }
run "${python[@]}" -m taidscale check "$@" || exit
for command in "${first[@]}"; do
    run "${torchrun[@]}" -m taidscale "$command" "$@" || die "the nodes are not well"
done
if $dry_run; then
    run "${train[@]}"
    exit
fi

# A process group of its own: Ctrl-C reaches this script alone, which passes it on once.
set -m
asked=false child=''
trap 'signalled=true asked=true; kill -TERM "$child" 2>/dev/null || true' INT TERM USR1
while true; do
    "${train[@]}" </dev/null &
    child=$! signalled=true
    while $signalled; do # a signal ends `wait` before the run has ended
        signalled=false status=0
        wait "$child" || status=$?
    done
    if [[ $status -eq 0 ]] || $asked || ! "${restart[@]}"; then
        exit "$status"
    fi
    sleep 10 # the other nodes notice, and the port becomes free
    ! $asked || exit "$status"
done
