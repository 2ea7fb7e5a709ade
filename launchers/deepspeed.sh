#!/usr/bin/env bash
# One training run with the deepspeed launcher, over ssh, started again for as long as that helps.
#
#   launchers/deepspeed.sh [--dry-run] [--check] [--verify] HOSTFILE CONFIG [section.setting=value ...]
#
# HOSTFILE has a line `NAME slots=GPUS` for each node, and what follows a # is a comment. All of them need this folder
# and this Python at the same place, ssh without a password, and pdsh here. $DEEPSPEED_ARGS are options of deepspeed:
# `--include`, `--exclude`, `--num_nodes` choose among the nodes, `--launcher` takes another than pdsh.
# It starts nothing with a wrong configuration (taidscale check). --dry-run prints what it would run; --check looks at
# the nodes first (taidscale nodes), --verify at what they compute (taidscale verify).
#
# Environment variables reach the nodes only if they begin with NCCL, PYTHON, MV2 or UCX, or stand in
# ~/.deepspeed_env or ./.deepspeed_env, a line NAME=VALUE each, without comments. What belongs there: HF_HOME,
# HF_TOKEN, WANDB_API_KEY, OMP_NUM_THREADS, LD_LIBRARY_PATH, TRITON_CACHE_DIR (of the node), NCCL_* (see slurm.sbatch).
#
# Ctrl-C, TERM or USR1 to this script: it asks the run through run_dir (taidscale stop), whose ranks finish the step,
# save and exit; then this script ends as well. Send nothing to `deepspeed` itself: over pdsh TERM and INT make it kill, by their
# names, all runs that deepspeed has started on these nodes, and on one node TERM ends it alone; USR1 ends
# its launcher on a node. Ranks that lost their launcher run on. It gives a rank 30 s after TERM.
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
[[ $# -ge 2 ]] || die "which run? launchers/deepspeed.sh HOSTFILE CONFIG [section.setting=value ...]"
hostfile=$1 config=$2
shift
[[ -f $hostfile ]] || die "no hostfile $hostfile in $PWD" # deepspeed would train on this node alone
[[ -f $config ]] || die "no configuration $config in $PWD"
command -v deepspeed >/dev/null || die "no deepspeed in PATH: activate its environment"
python -c 'import taidscale' ||
    die "$(command -v python) cannot import taidscale: activate its environment"
read -d '' -ra more <<<"${DEEPSPEED_ARGS:-}" || true
has() { [[ " ${more[*]} " == *" $1 "* || " ${more[*]} " == *" $1="* ]]; }
value_of() { # of the option with one of these names, the last one given
    local i name found=''
    for i in "${!more[@]}"; do
        for name in "$@"; do
            [[ ${more[i]} != "$name" ]] || found=${more[i + 1]:-}
            [[ ${more[i]} != "$name="* ]] || found=${more[i]#*=}
        done
    done
    echo "$found"
}

# As deepspeed reads it, which says nothing about what it does not understand behind the slots.
hosts=()
while read -r line || [[ -n $line ]]; do
    line=${line%%#*}
    line=${line%"${line##*[![:space:]]}"}
    [[ -n $line ]] || continue
    [[ $line =~ ^([^[:space:]]+)[[:space:]]+slots=0*[1-9][0-9]*([[:space:]]+max_slots=[0-9]+)?$ ]] ||
        die "$hostfile: '$line' is not NAME slots=GPUS"
    name=${BASH_REMATCH[1]}
    [[ " ${hosts[*]} " != *" $name "* ]] || die "$hostfile names $name twice: give it one line with all its slots"
    hosts+=("$name")
done <"$hostfile"
[[ ${#hosts[@]} -gt 0 ]] || die "$hostfile names no node"
include=$(value_of --include -i) exclude=$(value_of --exclude -e) num_nodes=$(value_of --num_nodes)
for name in ${include//@/ } ${exclude//@/ }; do
    [[ " ${hosts[*]} " == *" ${name%%:*} "* ]] || die "DEEPSPEED_ARGS: $hostfile names no ${name%%:*}"
done
chosen=()
for name in "${hosts[@]}"; do
    [[ -z $include || @$include@ == *"@$name@"* || @$include == *"@$name:"* ]] || continue
    [[ @$exclude@ != *"@$name@"* ]] || continue
    chosen+=("$name")
done
[[ -z $include || -z $exclude ]] || die "DEEPSPEED_ARGS: --include and --exclude exclude each other"
[[ ${#chosen[@]} -gt 0 ]] || die "DEEPSPEED_ARGS: of $hostfile no node is left"
[[ ! $num_nodes =~ ^[1-9][0-9]*$ ]] || chosen=("${chosen[@]:0:num_nodes}")
for file in ~/.deepspeed_env .deepspeed_env; do
    [[ -f $file ]] || continue
    bad=$(awk '!/^[^#]*=/ { printf " %d", NR }' "$file") # deepspeed would die of them
    [[ -z $bad ]] || die "$file: these lines are not NAME=VALUE:$bad"
done

# --force_multi: a hostfile of one node means that node, not this one.
deepspeed=(deepspeed --hostfile "$hostfile" --force_multi)
deepspeed+=("${more[@]}")
train=("${deepspeed[@]}" --module taidscale train "$@")
if $dry_run; then
    printf '%q ' python -m taidscale check "$@"
    echo
    for command in "${first[@]}"; do
        printf '%q ' "${deepspeed[@]}" --module taidscale "$command" "$@"
        echo
    done
    printf '%q ' "${train[@]}"
    echo
    exit
fi
python -m taidscale check "$@" || exit
if ! has --no_ssh; then # with it deepspeed starts this node alone, and so must this script be on each
    has --launcher || command -v pdsh >/dev/null || die "no pdsh in PATH: install it"
    for name in "${chosen[@]}"; do
        ssh -n -o BatchMode=yes -o ConnectTimeout=10 "$name" true || die "$hostfile: no ssh to $name without a password"
    done
fi
for command in "${first[@]}"; do
    "${deepspeed[@]}" --module taidscale "$command" "$@" || die "the nodes are not well"
done

# Again and again: what is asked while the run is still starting is not heard.
ask() { while kill -0 "$child"; do python -m taidscale stop "$@" || true; sleep 10; done; }

# A process group of its own: Ctrl-C reaches this script alone.
set -m
asked=false child=''
arguments=("$@")
trap 'signalled=true; $asked || [[ -z $child ]] || ask "${arguments[@]}" >&2 & asked=true' INT TERM USR1
while true; do
    "${train[@]}" </dev/null &
    child=$! signalled=true
    while $signalled; do # a signal ends `wait` before the run has ended
        signalled=false status=0
        wait "$child" || status=$?
    done
    # A status of 0 says little: deepspeed has it too where a signal ended its launcher.
    if $asked || ! python -m taidscale restart "$@"; then
        exit "$status"
    fi
    sleep 10 # the other nodes notice, and the port becomes free
    ! $asked || exit "$status"
done
