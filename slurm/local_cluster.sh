#!/usr/bin/env bash
# A real SLURM cluster of two nodes on one machine, to try everything here on a laptop or in CI.
#
#   sudo slurm/local_cluster.sh up       start it, wait until both nodes are idle, print what to export
#   eval "$(slurm/local_cluster.sh env)" so that sbatch, squeue and scontrol of this shell mean it
#   sudo slurm/local_cluster.sh down     stop all of it
#
# Needs Debian's or Ubuntu's packages slurm-wlm and munge, and root: SLURM's daemons start jobs as their users. It keeps
# to itself: own folder (EMOHEAD_CLUSTER, default /var/tmp/emohead-cluster), own ports from EMOHEAD_CLUSTER_PORT
# (default 17000), own munge socket and key. A SLURM that is installed is left alone.
# EMOHEAD_CLUSTER_GPUS=2 gives each node two GPUs that are none, to try how jobs with GPUs are laid out.
# A job that is requeued waits two minutes (reason BeginTime); `scontrol update jobid=J starttime=now` starts it at once.
set -euo pipefail

folder="${EMOHEAD_CLUSTER:-/var/tmp/emohead-cluster}"
port="${EMOHEAD_CLUSTER_PORT:-17000}"
export SLURM_CONF="$folder/slurm.conf"

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; }

fail() {
  echo "$*" >&2
  exit 2
}

running() { # a name of ours -> its process, if there is one
  [ -f "$folder/run/$1.pid" ] && [[ "$(ps -o stat= -p "$(cat "$folder/run/$1.pid")")" == [!Z]* ]]
}

write_configuration() {
  local cpus gpus="${EMOHEAD_CLUSTER_GPUS:-0}"
  cpus=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc) # which both would make smaller
  mkdir -p "$folder/run" "$folder/log" "$folder/state" "$folder/spool-n0" "$folder/spool-n1" "$folder/munge"
  chmod 755 "$folder" "$folder/run" # every user's sbatch has to reach the socket
  cat >"$SLURM_CONF" <<EOF
ClusterName=emohead
GresTypes=gpu
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
AuthType=auth/munge
AuthInfo=socket=$folder/run/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmUser=root
SlurmdUser=root
ReturnToService=2
MinJobAge=3600
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdSpoolDir=$folder/spool-%n
SlurmdPidFile=$folder/run/slurmd-%n.pid
SlurmdLogFile=$folder/log/slurmd-%n.log
NodeName=n[0-1] NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + 2))] CPUs=$cpus Gres=gpu:$gpus State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES State=UP
EOF
  : >"$folder/gres.conf"
  for gpu in $(seq "$gpus"); do
    : >"$folder/gpu$gpu"
    echo "NodeName=n[0-1] Name=gpu File=$folder/gpu$gpu" >>"$folder/gres.conf"
  done
}

start_munge() {
  [ -f "$folder/munge/key" ] || dd if=/dev/urandom of="$folder/munge/key" bs=1024 count=1 status=none
  chown -R munge:munge "$folder/munge"
  chmod 700 "$folder/munge"
  chmod 600 "$folder/munge/key"
  chown munge:munge "$folder/run" "$folder/log"
  setpriv --reuid=munge --regid=munge --clear-groups munged --force --key-file="$folder/munge/key" \
    --socket="$folder/run/munge.socket" --pid-file="$folder/run/munged.pid" \
    --log-file="$folder/log/munged.log" --seed-file="$folder/munge/seed"
}

up() {
  local program
  for program in munged slurmctld slurmd sinfo setpriv; do
    command -v "$program" >/dev/null || fail "$program: not installed; run: apt-get install slurm-wlm munge"
  done
  [ "$(id -u)" = 0 ] || fail "SLURM's daemons start jobs as their users and need root: run it with sudo"
  write_configuration
  running munged || start_munge
  running slurmctld || slurmctld
  running slurmd-n0 || slurmd -N n0
  running slurmd-n1 || slurmd -N n1
  for _ in $(seq 120); do
    if [ "$(sinfo --noheader --format %T%D 2>/dev/null)" = idle2 ]; then
      echo "two nodes are idle; now: eval \"\$(${BASH_SOURCE[0]} env)\"" >&2
      return
    fi
    sleep 0.5
  done
  fail "$folder/log: the nodes are not idle after a minute; the logs there say why"
}

down() {
  [ -d "$folder/run" ] || fail "$folder: no cluster there"
  scancel --state=RUNNING,PENDING --user=root 2>/dev/null || true
  for name in slurmd-n0 slurmd-n1 slurmctld munged; do
    if running "$name"; then kill "$(cat "$folder/run/$name.pid")"; fi
  done
  for name in slurmd-n0 slurmd-n1 slurmctld munged; do
    for _ in $(seq 50); do running "$name" && sleep 0.1 || break; done
    if running "$name"; then kill -9 "$(cat "$folder/run/$name.pid")"; fi
  done
  rm -rf "$folder"
}

case "${1:-}" in
  up) up ;;
  down) down ;;
  env) echo "export SLURM_CONF=$SLURM_CONF" ;;
  -h | --help) usage ;;
  *)
    usage >&2
    exit 2
    ;;
esac
