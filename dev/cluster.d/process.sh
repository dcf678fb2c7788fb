# shellcheck shell=bash
# Starts, records, watches and stops the processes of a cluster.
#
# A process is recorded as "PID START" in $run/COMPONENT.pid, START being its start time in clock
# ticks since boot from /proc/PID/stat: a process id that the kernel has reused since is never
# mistaken for ours.

started_at=$EPOCHREALTIME

# Prints the phase that begins, with the seconds since the command started.
phase() {
  local elapsed=$(((${EPOCHREALTIME/./} - ${started_at/./}) / 100000))
  printf '[cluster %s %3d.%d s] %s\n' "$name" $((elapsed / 10)) $((elapsed % 10)) "$*" >&2
}

start_time_of() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  # The second field, the program's name, may contain blanks and parentheses: count the fields after
  # the last one.
  read -r -a stat <<<"${stat##*) }"
  echo "${stat[19]}"
}

record() { echo "$2 $(start_time_of "$2")" >"$run/$1.pid"; }

# alive COMPONENT: true while the recorded process runs; sets `pid`.
alive() {
  local start
  pid=''
  read -r pid start 2>/dev/null <"$run/$1.pid" || return 1
  [ -n "$start" ] && [ "$(start_time_of "$pid")" = "$start" ]
}

# stop COMPONENT SECONDS: terminates the component, and kills it if it has not ended within that
# time.
stop() {
  alive "$1" || { rm -f "$run/$1.pid"; return 0; }
  local deadline=$((SECONDS + $2))
  kill -TERM "$pid" 2>/dev/null || true
  while alive "$1"; do
    if ((SECONDS >= deadline)); then
      kill -KILL "$pid" 2>/dev/null || true
      ((SECONDS < deadline + 30)) || die "process $pid ($1) does not end"
    fi
    sleep 0.05
  done
  rm -f "$run/$1.pid"
}

# child_of PID: waits for the first child of a process and prints its id.
child_of() {
  local deadline=$((SECONDS + 10)) child
  while ((SECONDS < deadline)); do
    child=$(pgrep -P "$1" | head -n 1) && [ -n "$child" ] && { echo "$child"; return; }
    [ -e "/proc/$1" ] || return 1
    sleep 0.02
  done
  return 1
}

# spawn COMPONENT COMMAND...: starts a component inside the node unless it runs. Its output goes to
# $data/log/COMPONENT.log.
spawn() {
  local component=$1 outer inner
  shift
  if alive "$component"; then return; fi
  # nsenter stays outside as the parent; the component itself is recorded.
  setsid "${enter_node[@]}" "$@" </dev/null >>"$data/log/$component.log" 2>&1 {lock}<&- &
  outer=$!
  inner=$(child_of "$outer") || component_failed "$component" "ended as soon as it was started"
  record "$component" "$inner"
}

component_failed() {
  say "error: $1 of cluster $name $2. The end of $data/log/$1.log:"
  tail -n 25 "$data/log/$1.log" | cut -c -400 >&2 || true
  exit 1
}

# wait_until SECONDS COMPONENT WHAT COMMAND...: waits until the command succeeds. Fails when the
# component that the command depends on has ended, or when the time is over.
wait_until() {
  local deadline=$((SECONDS + $1)) component=$2 what=$3
  shift 3
  until "$@" >/dev/null 2>&1; do
    alive "$component" || component_failed "$component" "ended while waited for: $what"
    ((SECONDS < deadline)) || component_failed "$component" "did not get there in time: $what"
    sleep 0.1
  done
}

# Finds the compiled programs that the profile needs. Inside the node the same folders are below
# /run/tools (node-init).
tools_on_path() {
  local components=(k8s etcd registry crane) folders folder
  [ "$profile" != full ] || components+=(containerd runc cni coredns)
  [ "$profile" != simulated ] || components+=(kwok)
  folders=$("$dev/tools/build" --path "${components[@]}")
  export PATH=$folders:$PATH
  node_path=''
  for folder in ${folders//:/ }; do node_path+=/run/tools/${folder##*/}:; done
  node_path+=/usr/sbin:/usr/bin:/sbin:/bin
}

# Runs kubectl as the cluster's administrator.
kubectl_admin() { kubectl --kubeconfig "$data/kubeconfig" --request-timeout 5s "$@"; }
