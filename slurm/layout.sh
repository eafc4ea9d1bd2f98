# Sourced by train.sbatch and sweep.sbatch in their jobs: which processes a training has there, and how it comes back.

fail() {
  echo "$*" >&2
  exit 2
}

main_address() { # names of nodes need not resolve where they run
  local first
  read -r first < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  [[ "$(scontrol --oneliner show node "$first")" =~ NodeAddr=([^ ]+) ]] || fail "$first: SLURM knows no address of it"
  echo "${BASH_REMATCH[1]}"
}

# Sets emohead (the command), own_options (of srun), tasks (processes a node), processes (all of them), launch (words that
# start them) and shape (settings of the trainer).
# Arguments: the training's, which may say what they train on; a job with GPUs must not fall back to the CPU otherwise.
lay_out() {
  cd "$SLURM_SUBMIT_DIR"
  emohead=${EMOHEAD:-$PWD/.venv/bin/emohead}
  # Options of srun of the user's own; with --container-image the command is in the container.
  read -ra own_options <<<"${EMOHEAD_SRUN:-}"
  [[ " ${EMOHEAD_SRUN:-}" == *" --container-"* ]] || command -v "$emohead" >/dev/null ||
    fail "$emohead: no such command; set EMOHEAD to where emohead is"
  local nodes=$SLURM_JOB_NUM_NODES cpus=${SLURM_CPUS_PER_TASK:-1}
  tasks=${SLURM_NTASKS_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
  [ "${SLURM_NTASKS:-$((nodes * tasks))}" = $((nodes * tasks)) ] ||
    fail "--ntasks $SLURM_NTASKS: say --ntasks-per-node, so that each of the $nodes nodes has as many"
  if [ $((tasks * cpus)) -gt "$SLURM_CPUS_ON_NODE" ]; then # given to sbatch with GPUs but without --ntasks-per-node
    cpus=$((SLURM_CPUS_ON_NODE / tasks))
    [ "$cpus" -gt 0 ] || fail "$SLURM_CPUS_ON_NODE CPUs a node for $tasks processes; add --ntasks-per-node $tasks"
    echo "each process has $cpus of its node's $SLURM_CPUS_ON_NODE CPUs; --ntasks-per-node $tasks gives it more" >&2
  fi
  MASTER_ADDR=$(main_address)
  export MASTER_ADDR OMP_NUM_THREADS="${OMP_NUM_THREADS:-$cpus}"
  # One process that fails ends the others: they get SIGTERM, and half a minute later SIGKILL.
  processes=$((nodes * tasks))
  launch=(srun --export ALL --nodes "$nodes" --ntasks "$processes" --ntasks-per-node "$tasks"
    --cpus-per-task "$cpus" --kill-on-bad-exit=1 ${own_options[@]+"${own_options[@]}"})
  shape=("trainer.nodes=$nodes" "trainer.devices=$tasks")
  [ "${SLURM_GPUS_ON_NODE:-0}" = 0 ] || [[ " $*" == *" trainer.accelerator="* ]] || shape+=(trainer.accelerator=gpu)
}

# The doctor, on every node of the job at once; of the other nodes only if something is wrong there. Arguments: the
# training's.
examine() {
  local others=$((SLURM_JOB_NUM_NODES - 1)) status=0 found there code
  if [ "$others" = 0 ]; then
    on_nodes 0 1 "$@"
    return
  fi
  found=$(mktemp)
  on_nodes 1 "$others" "$@" >"$found" 2>&1 &
  there=$!
  on_nodes 0 1 "$@" || status=$?
  wait "$there" || {
    code=$?
    [ "$status" = 2 ] || status=$code
    cat "$found" >&2
  }
  rm -f "$found"
  return "$status"
}

on_nodes() { # the first of them, their number, the training's arguments
  local step=(srun --export ALL --relative "$1" --nodes "$2" --ntasks "$2" --ntasks-per-node 1)
  [ "$2" = 1 ] || step+=(--label)
  # SLURM's variables in a step are the step's own; the doctor is to see the training's.
  step+=(${own_options[@]+"${own_options[@]}"} env -u SLURM_STEP_TASKS_PER_NODE)
  [ "$1" = 0 ] || step+=(-u MASTER_PORT) # which is of the first node
  step+=("SLURM_NTASKS=$processes" "SLURM_NTASKS_PER_NODE=$tasks" "SLURM_TASKS_PER_NODE=$tasks(x$SLURM_JOB_NUM_NODES)")
  "${step[@]}" "$emohead" doctor "${@:3}"
}

# A run that left with exit code 75 is to go on: its job goes back into the queue. The run has asked for that already,
# unless it has no scontrol, as in a container, or the controller did not answer.
come_back() {
  local job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID} try state
  job=${job:-$SLURM_JOB_ID}
  for try in 1 2 3; do
    state=$(scontrol --oneliner show job "$job") || state=""
    [[ -z "$state" || "$state" == *" JobState=RUNNING "* ]] || return 0
    ! scontrol requeue "$job" || return 0
    [ "$try" = 3 ] || sleep 10 || true
  done
}
