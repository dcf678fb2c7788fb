# shellcheck shell=bash
# The node: namespaces for the cluster's processes, mounts and network, and its control groups.
#
# Everything of the cluster runs inside them. So when the node's first process ends, the kernel ends
# every shim, container and daemon, and mounts, pod links, pod routes and kube-proxy's rules are
# removed with their namespace.

cgroup=groundswell-

node_is_alive() { alive node; }

# Sets the prefix of a command that runs inside the node.
set_enter_node() {
  alive node || die "the node of cluster $name does not run"
  enter_node=(nsenter --target "$pid" --mount --net --pid --wd=/ -- env -i "PATH=$node_path" HOME=/root OTEL_TRACES_EXPORTER=none)
}

# in_node COMMAND...: runs a command inside the node, in the foreground.
in_node() {
  set_enter_node
  "${enter_node[@]}" "$@"
}

start_node() {
  if alive node; then set_enter_node; return; fi
  mkdir -p "$data/log" "$cache/tools"
  touch "$data/.groundswell"
  chmod 0700 "$data"
  rm -f "$data/node-ready" "$data/node-recorded"
  make_cgroups
  setsid unshare --pid --fork --mount --net "$dev/cluster.d/node-init" "$data" "$cache/tools" \
    </dev/null >>"$data/log/node.log" 2>&1 {lock}<&- &
  local inner
  inner=$(child_of $!) || component_failed node "ended as soon as it was started"
  record node "$inner"
  touch "$data/node-recorded"
  wait_until 10 node "the node's mounts" test -e "$data/node-ready"
  set_enter_node
}

# The kubelet's root group must exist. Each cluster has its own, because a kubelet removes the
# groups of pods that it does not know.
make_cgroups() {
  local hierarchy folder
  if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    folder=/sys/fs/cgroup/$cgroup$name
    mkdir -p "$folder"
    # A controller is available in a group only if every parent group delegates it.
    for hierarchy in /sys/fs/cgroup "$folder"; do
      local controller
      for controller in $(cat "$hierarchy/cgroup.controllers"); do
        echo "+$controller" >"$hierarchy/cgroup.subtree_control" 2>/dev/null || true
      done
    done
    return
  fi
  for hierarchy in /sys/fs/cgroup/*/; do
    folder=$hierarchy$cgroup$name
    mkdir -p "$folder"
    # A new cpuset group is empty and accepts no process.
    if [ -f "$folder/cpuset.cpus" ]; then
      cat "$hierarchy/cpuset.cpus" >"$folder/cpuset.cpus"
      cat "$hierarchy/cpuset.mems" >"$folder/cpuset.mems"
    fi
  done
}

cgroup_folders() { find /sys/fs/cgroup -maxdepth 2 -type d -name "$cgroup$1" 2>/dev/null; }

# Kills the node's first process, and with it all others of the cluster. They have no data that
# outlives the cluster, so they need no graceful end.
stop_node() {
  alive node || return 0
  kill -KILL "$pid" 2>/dev/null || true
  local deadline=$((SECONDS + 60))
  while alive node; do
    ((SECONDS < deadline)) || die "the node of cluster $name (process $pid) does not end"
    sleep 0.05
  done
}

remove_node() {
  local folder deadline=$((SECONDS + 10))
  # A group can be removed a moment after its last process has ended.
  for folder in $(cgroup_folders "$name"); do
    until find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null; do
      ((SECONDS < deadline)) || die "control group $folder cannot be removed: a process is in it"
      sleep 0.05
    done
  done
  if [ -f "$data/.groundswell" ]; then
    rm -rf --one-file-system "$data" || die "cannot remove the data folder $data"
  fi
}
