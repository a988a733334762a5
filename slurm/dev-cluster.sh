#!/usr/bin/env bash
# A real Slurm cluster on this one machine, for trying things and for tests/slurm: munged, slurmctld and some slurmd,
# as root, without systemd, on the loopback interface only. Up in seconds; everything lies in one folder.
#
#   dev-cluster.sh up | down | status | env | kill-node nX | start-node nX | restart-controller | parameters [LIST]
#
#   eval "$(slurm/dev-cluster.sh env)"     then sbatch, squeue … and `minifold-pl submit` use it
#
# Debian's packages: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
# Settings (environment): CLUSTER_DIR (another folder and port: another cluster), CLUSTER_PORT, CLUSTER_NODES, CLUSTER_CPUS,
# CLUSTER_GPUS (a node's; they compute nothing).
set -euo pipefail
D=${CLUSTER_DIR:-${TMPDIR:-/tmp}/minifold-dev-cluster}
PORT=${CLUSTER_PORT:-16817}
NODES=${CLUSTER_NODES:-3}
CPUS=${CLUSTER_CPUS:-4}
GPUS=${CLUSTER_GPUS:-2}
HOST=$(hostname -s)
export SLURM_CONF=$D/etc/slurm.conf

die() { echo "dev-cluster: $*" >&2; exit 1; }

# The process in pid file $1 runs and is a $2.
alive() {
  local pid
  [[ -s $1 ]] && read -r pid <"$1" && [[ -d /proc/$pid ]] || return 1
  [[ $(tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | head -1) == *"$2"* ]]
}

# A zombie counts as gone: the first process of a container may be slow to collect them.
gone() { [[ ! -d /proc/$1 ]] || grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null; }

stop() {
  local file=$1 name=$2 signal=${3:-TERM} pid
  alive "$file" "$name" || { rm -f "$file"; return 0; }
  pid=$(<"$file")
  kill "-$signal" "$pid" 2>/dev/null || true
  for _ in {1..100}; do gone "$pid" && break; sleep .1; done
  gone "$pid" || kill -KILL "$pid" 2>/dev/null || true
  rm -f "$file"
}

wait_for() {
  local end=$((SECONDS + $1)); shift
  while ((SECONDS <= end)); do "$@" >/dev/null 2>&1 && return 0; sleep .1; done
  return 1
}

programs() {
  local missing=() program
  for program in munged slurmctld slurmd sbatch; do command -v $program >/dev/null || missing+=("$program"); done
  ((${#missing[@]} == 0)) || die "missing: ${missing[*]} (Debian: slurmctld slurmd slurm-client munge)"
  [[ $(id -u) == 0 ]] || die "needs root: slurmd starts jobs for users"
}

write_config() {
  local i
  cat >"$SLURM_CONF" <<CONF
ClusterName=dev
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job waits; below 5 it is 120 s.
AuthInfo=socket=$D/run/munge.socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool/%n
SlurmctldPidFile=$D/run/slurmctld.pid
SlurmdPidFile=$D/run/slurmd.%n.pid
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdLogFile=$D/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout=10
SlurmctldTimeout=10
InactiveLimit=0
MessageTimeout=5
KillWait=5
UnkillableStepTimeout=10
MinJobAge=300
JobRequeue=1
CompleteWait=0
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$D/log/jobcomp.txt
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=5,sched_min_interval=0,bf_interval=5
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=n[1-$NODES] NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$((PORT + 101))-$((PORT + 100 + NODES)) CPUs=$CPUS RealMemory=8000 Gres=gpu:$GPUS State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=10 PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=low  Nodes=ALL MaxTime=INFINITE DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE GraceTime=20 State=UP
PartitionName=high Nodes=ALL MaxTime=INFINITE DefaultTime=10 PriorityTier=100 PreemptMode=OFF State=UP
CONF
  : >"$D/etc/gres.conf"
  # Any character device is a GPU to Slurm, which sets CUDA_VISIBLE_DEVICES.
  for ((i = 0; i < GPUS; i++)); do [[ -c $D/run/gpu$i ]] || mknod -m 666 "$D/run/gpu$i" c 1 3; done
  ((GPUS == 0)) || echo "NodeName=n[1-$NODES] Name=gpu File=$D/run/gpu[0-$((GPUS - 1))]" >"$D/etc/gres.conf"
  printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nConstrainCores=no\n' >"$D/etc/cgroup.conf"
}

start_node() {
  alive "$D/run/slurmd.$1.pid" slurmd && return 0
  mkdir -p "$D/spool/$1"
  slurmd -N "$1" >>"$D/log/slurmd.$1.stderr" 2>&1 || die "slurmd $1 does not start: see $D/log"
}

start_controller() {
  alive "$D/run/slurmctld.pid" slurmctld || slurmctld >>"$D/log/slurmctld.stderr" 2>&1 || die "slurmctld: see $D/log"
  wait_for 20 scontrol ping || die "slurmctld does not answer"
}

all_there() {
  [[ $(sinfo -h -N -p main -o %T | grep -cE '^(idle|mixed|allocated|completing)$') == "$NODES" ]]
}

up() {
  local i
  programs
  mkdir -p "$D"/{etc,run,log,state,spool}
  chmod 755 "$D" "$D/run"
  [[ -s $SLURM_CONF ]] && alive "$D/run/slurmctld.pid" slurmctld || write_config
  if ! alive "$D/run/munged.pid" munged; then
    [[ -s $D/etc/munge.key ]] || (umask 077; head -c 128 /dev/urandom >"$D/etc/munge.key")
    rm -f "$D"/run/munge.socket*
    munged --key-file="$D/etc/munge.key" --socket="$D/run/munge.socket" --pid-file="$D/run/munged.pid" \
      --log-file="$D/log/munged.log" --seed-file="$D/state/munge.seed" --force 2>>"$D/log/munged.stderr" ||
      die "munged does not start: see $D/log"
  fi
  start_controller
  for ((i = 1; i <= NODES; i++)); do start_node "n$i"; done
  wait_for 30 all_there || { sinfo -N -l >&2; die "the nodes do not come up"; }
  echo "dev-cluster: $NODES nodes; eval \"\$($0 env)\"" >&2
}

down() {
  local file
  [[ -d $D/run ]] || return 0
  if alive "$D/run/slurmctld.pid" slurmctld; then
    squeue -h -o %A | sort -u | xargs -r scancel --quiet 2>/dev/null || true
    for _ in {1..50}; do [[ -z $(squeue -h 2>/dev/null) ]] && break; sleep .2; done
  fi
  stop "$D/run/slurmctld.pid" slurmctld
  for file in "$D"/run/slurmd.*.pid; do [[ ! -e $file ]] || stop "$file" slurmd; done
  stop "$D/run/munged.pid" munged
}

# SlurmctldParameters, e.g. preempt_send_user_signal
parameters() {
  sed -i '/^SlurmctldParameters=/d' "$SLURM_CONF"
  [[ -z ${1:-} ]] || echo "SlurmctldParameters=$1" >>"$SLURM_CONF"
  scontrol reconfigure
}

case ${1:-} in
  up) up ;;
  down) down ;;
  status) scontrol ping; sinfo -N -o '%N %P %T %C'; squeue ;;
  env) echo "export SLURM_CONF=$SLURM_CONF" ;;
  kill-node) stop "$D/run/slurmd.$2.pid" slurmd KILL ;;
  start-node) start_node "$2" ;;
  restart-controller) stop "$D/run/slurmctld.pid" slurmctld; start_controller ;;
  parameters) parameters "${2:-}" ;;
  *) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
