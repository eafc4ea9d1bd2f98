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

# Sets emohead (the command), processes (their number), launch (words that start them) and shape (settings of the trainer).
# Arguments: the training's, which may say what they train on; a job with GPUs must not fall back to the CPU otherwise.
lay_out() {
  cd "$SLURM_SUBMIT_DIR"
  emohead=${EMOHEAD:-$PWD/.venv/bin/emohead}
  command -v "$emohead" >/dev/null || fail "$emohead: no such command; set EMOHEAD to where emohead is"
  local nodes=$SLURM_JOB_NUM_NODES cpus=${SLURM_CPUS_PER_TASK:-1}
  local tasks=${SLURM_NTASKS_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
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
    --cpus-per-task "$cpus" --kill-on-bad-exit=1)
  shape=("trainer.nodes=$nodes" "trainer.devices=$tasks")
  [ "${SLURM_GPUS_ON_NODE:-0}" = 0 ] || [[ " $*" == *" trainer.accelerator="* ]] || shape+=(trainer.accelerator=gpu)
}

# The doctor, on every node of the job; of the other nodes only if something is wrong there. Arguments: the training's.
examine() {
  "$emohead" doctor "$@" || return
  [ "$SLURM_JOB_NUM_NODES" -gt 1 ] || return 0
  local others=$((SLURM_JOB_NUM_NODES - 1)) each found status=0
  each=(srun --export ALL --nodes "$others" --relative 1 --ntasks "$others" --ntasks-per-node 1 --label)
  each+=(env -u SLURM_STEP_TASKS_PER_NODE "SLURM_NTASKS=$processes") # of the training, not of this step
  found=$("${each[@]}" "$emohead" doctor "$@" 2>&1) || status=$?
  [ "$status" = 0 ] || echo "$found" >&2
  return "$status"
}

# A run that left with exit code 75 is to go on: its job goes back into the queue. The run has asked for that already,
# unless it has no scontrol, as in a container, or the controller did not answer.
come_back() {
  local job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID} try
  job=${job:-$SLURM_JOB_ID}
  for try in 1 2 3; do
    [[ "$(scontrol --oneliner show job "$job")" == *" JobState=RUNNING "* ]] || return 0
    ! scontrol requeue "$job" || return 0
    [ "$try" = 3 ] || sleep 10
  done
}
