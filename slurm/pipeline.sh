#!/usr/bin/env bash
# The whole chain on a cluster with one command: prepare -> emotion -> motion -> distill, and face beside the two.
#
#   slurm/pipeline.sh OUT [--config=SIZE] [[STAGE:]WORD ...] [-- slurm/prepare.sbatch's arguments]
#
#   slurm/pipeline.sh runs/mead --config=base --gpus-per-node=4 --time=24:00:00 data.shards=[data/mead] \
#     emotion:network.pretrained=weights/clip.safetensors face:--nodes=2 face:trainer.max_steps=100000 distill:mine.yaml
#   slurm/pipeline.sh runs/mead --gpus-per-node=1 -- 40 --partition cpu -- mead MEAD/ data/mead --size 256
#
# A WORD is meant for all stages, or for one: STAGE is one that `emohead stages` lists. It is one of
#   key=value         for emohead train
#   FILE.yaml         a config file for emohead train, which wins over the shipped one
#   --option=value    for sbatch, with the equals sign: --nodes=2, --gpus-per-node=4, --cpus-per-task=8
# --config chooses the shipped configs: debug, small or base (if not given). data.shards names data sets that are prepared already; with
# arguments of slurm/prepare.sbatch a set is prepared first and then trained on.
#
# Each submitted job gives a line "name id"; it starts when those that it needs have ended well, and is taken out of the
# queue when one of them failed. The same command again submits only what is neither finished nor queued nor running, so
# it repairs a chain that broke. A stage is finished when its export is there: OUT/STAGE/export/*.safetensors. OUT and
# the data must lie on a file system that all nodes share. Logs are in OUT/logs, and the result is OUT/talker.safetensors.
# EMOHEAD names the command where it is not in .venv/bin of the folder that this was called from.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; }

fail() {
  echo "$*" >&2
  exit 2
}

wrong_use() {
  usage >&2
  exit 2
}

# -- what was asked for

stage_of() { # of a word STAGE:...; empty if it is for all
  [[ "$1" != *:* || ! -f "$here/../configs/${1%%:*}-debug.yaml" ]] || echo "${1%%:*}"
}

check_word() {
  local stage
  stage=$(stage_of "$1")
  case "${1#"${stage:+$stage:}"}" in
    --config*) fail "$1: it is for all stages, and comes without STAGE:" ;;
    --job-name* | --output* | --dependency* | -J* | -o* | -d*) fail "$1: this script sets it itself" ;;
    run=*) fail "$1: this script sets it itself" ;;
    --[a-z]* | *.yaml | [a-z]*=*) ;;
    *) fail "'$1': wanted is key=value, FILE.yaml or --option=value, for one stage with STAGE: before it" ;;
  esac
}

read_command() {
  [ $# -gt 0 ] && [[ "$1" != -* ]] || wrong_use
  out=$(realpath -m -- "$1") size=base words=() preparation=() data=""
  shift
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case "$1" in
      --config=*)
        size=${1#*=}
        compgen -G "$here/../configs/*-$size.yaml" >/dev/null || fail "$1: no configs of that size are shipped"
        ;;
      --config*) fail "$1: wanted is --config=SIZE, such as --config=debug" ;;
      *) check_word "$1" && words+=("$1") ;;
    esac
    shift
  done
  if [ $# -gt 0 ]; then
    read_preparation "${@:2}"
  elif [[ " ${words[*]} " != *data.shards=* ]]; then
    fail "no data: give data.shards=[FOLDER], or after -- what slurm/prepare.sbatch is to prepare"
  fi
}

read_preparation() { # PARTS [options --] KIND SRC DATA ...
  local options=() parts="${1:-}"
  shift || wrong_use
  if [[ " $* " == *" -- "* ]]; then
    while [ "$1" != -- ]; do
      options+=("$1")
      shift
    done
    shift
  fi
  [ $# -ge 3 ] || wrong_use
  data=$(realpath -m -- "$3")
  preparation=("$parts" "${options[@]}" --output "$out/logs/%x-%A_%a.out" -- "$@")
}

words_of() { # stage -> the words meant for it, one a line
  local stage=$1 word of
  for word in "${words[@]}"; do
    of=$(stage_of "$word")
    [ -z "$of" ] || [ "$of" = "$stage" ] || continue
    echo "${word#"${of:+$of:}"}"
  done
}

# -- what the stages say of themselves

read_chain() { # names in order; the kind that each exports; KEY=KIND of the exports that it starts from, ? if it may
  local name kind starts said word key
  said=$("$emohead" stages --plain) || fail "$emohead stages: does not answer"
  while read -r name kind starts; do
    chain+=("$name")
    kind_of[$name]=$kind starts_of[$name]=$starts maker_of[$kind]=$name
    for word in $starts; do
      key=${word%%=*}
      [[ "$word" == *\? || $'\n'"$(words_of "$name")" != *$'\n'"$key="* ]] ||
        fail "$key=: this script sets it itself"
    done
  done <<<"$said"
}

# -- what is there already

mark() { # the end of the names of jobs that write to a folder
  echo "-$(sha1sum <<<"$1" | cut -c 1-8)"
}

queued() { # name -> id of the job that is queued or running under it
  awk -v name="$1" '$3 == name { id = $1 } END { print id }' <<<"$queue"
}

export_of() {
  echo "$out/$1/export/${kind_of[$1]}.safetensors"
}

# -- submit

prepare() {
  local id pass name lines
  [ -n "$data" ] || return 0
  if [ -f "$data/manifest.json" ]; then
    echo "prepare: finished, $data" >&2
    return
  fi
  name=$(mark "$data")
  id=$(queued "emohead-pack$name")
  if [ -n "$id" ]; then
    echo "prepare: job $id is queued or running" >&2
    job[prepare]=$id
    return
  fi
  for pass in track fit; do # of a chain that broke
    id=$(queued "emohead-$pass$name")
    [ -z "$id" ] || fail "job $id still prepares $data, but what follows on it is gone: scancel it, or wait for it"
  done
  lines=$(EMOHEAD_MARK=$name "$here/prepare.sbatch" "${preparation[@]}")
  echo "$lines"
  job[prepare]=${lines##* }
  anew[prepare]=1
}

waits_in_vain() { # job, and what it needs: for one that failed, where this call has submitted that again
  local need
  grep -q "^$1 PENDING " <<<"$queue" || return
  for need in "${@:2}"; do
    [ -z "${anew[$need]:-}" ] || return 0
  done
  return 1
}

train() {
  local stage=$1 needs=(prepare) need id name config after="" lines word start key maker
  local options=() arguments=() given=()
  for start in ${starts_of[$stage]}; do
    key=${start%%=*} start=${start#*=}
    maker=${maker_of[${start%\?}]}
    if [[ "$start" != *\? ]]; then
      given+=("$key=$(export_of "$maker")")
      needs+=("$maker")
    elif [[ $'\n'"$(words_of "$stage")" == *$'\n'"$key="* ]]; then # it may be the export of this chain
      needs+=("$maker")
    fi
  done
  if [ -f "$(export_of "$stage")" ]; then
    echo "$stage: finished, $(export_of "$stage")" >&2
    return
  fi
  for need in "${needs[@]}"; do
    [ -z "${job[$need]:-}" ] || after+=":${job[$need]}"
  done
  name="emohead-$stage$(mark "$out")"
  id=$(queued "$name")
  if [ -n "$id" ] && waits_in_vain "$id" "${needs[@]}"; then
    scancel "$id" 2>/dev/null || true # SLURM may have been quicker
  elif [ -n "$id" ]; then
    echo "$stage: job $id is queued or running" >&2
    job[$stage]=$id
    return
  fi

  config=$stage-$size
  [ -f "$here/../configs/$config.yaml" ] || config=$stage-debug
  arguments=("$stage" -c "$config" "run=$out/$stage" "${given[@]}")
  [ -z "$data" ] || arguments+=("data.shards=[$data]")
  while read -r word; do
    case "$word" in
      "") ;;
      --*) options+=("$word") ;;
      *.yaml) arguments+=(-c "$word") ;;
      *) arguments+=("$word") ;;
    esac
  done < <(words_of "$stage")
  options+=(--job-name "$name" --output "$out/logs/%x-%j.out")
  [ -z "$after" ] || options+=(--dependency "afterok$after" --kill-on-invalid-dep yes)
  lines=$("$here/train.sbatch" "${options[@]}" -- "${arguments[@]}")
  echo "$lines"
  job[$stage]=${lines##* }
  anew[$stage]=1
}

case "${1:-}" in
  -h | --help)
    usage
    exit
    ;;
esac
read_command "$@"
emohead=${EMOHEAD:-$PWD/.venv/bin/emohead}
command -v "$emohead" >/dev/null || fail "$emohead: no such command; set EMOHEAD to where emohead is"
chain=()
declare -A kind_of=() starts_of=() maker_of=()
read_chain
declare -A job=() anew=() # part of the chain -> its job; those submitted by this call
queue=$(squeue --noheader --user "$(id -un)" --format "%F %T %j") || fail "squeue does not answer"
mkdir -p "$out/logs"
# A link, which leads nowhere until the last job has ended.
result=$(export_of "${maker_of[talker]}")
[ -e "$out/talker.safetensors" ] || ln -sfn "${result#"$out"/}" "$out/talker.safetensors"

prepare
for stage in "${chain[@]}"; do
  train "$stage"
done
echo "the result: $out/talker.safetensors" >&2
