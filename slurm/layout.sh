# Sourced by train.sbatch and sweep.sbatch in their jobs: which processes a training has there.

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

# Sets emohead (the command), launch (words that start a training's processes) and shape (its settings of the trainer).
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
  launch=(srun --export ALL --nodes "$nodes" --ntasks $((nodes * tasks)) --ntasks-per-node "$tasks"
    --cpus-per-task "$cpus" --kill-on-bad-exit=1)
  shape=("trainer.nodes=$nodes" "trainer.devices=$tasks")
}
