# shellcheck shell=bash
# What a cluster is called, where it lives and which addresses it has. Starts nothing.
#
# A running cluster's parameters are in /run/groundswell/NAME/parameters, next to the record of its
# processes. Both are valid until the machine restarts, which removes that folder. All later
# commands need only the name.

run_root=/run/groundswell
cache=${GROUNDSWELL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/groundswell}
parameter_names=(name profile emulated_version index node_net pod_range service_range link api_port registry_port data
  node_address host_address service_address registry_name)

say() { printf '[cluster] %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# Reads options into the variables of the same names; options win over the environment.
parse_options() {
  name=${GROUNDSWELL_CLUSTER:-groundswell} profile=${GROUNDSWELL_PROFILE:-} index=${GROUNDSWELL_INDEX:-}
  node_net=${GROUNDSWELL_NODE_NET:-} pod_range=${GROUNDSWELL_POD_RANGE:-} service_range=${GROUNDSWELL_SERVICE_RANGE:-}
  link=${GROUNDSWELL_LINK:-} api_port=${GROUNDSWELL_API_PORT:-} registry_port=${GROUNDSWELL_REGISTRY_PORT:-}
  data=${GROUNDSWELL_DATA:-} emulated_version=${GROUNDSWELL_EMULATED_VERSION:-} all=0 named='' rest=()
  while [ $# -gt 0 ]; do
    case $1 in
      --all) all=1; shift; continue ;;
      --) shift; rest+=("$@"); break ;;
      --name | --profile | --index | --node-net | --pod-range | --service-range | --link | --api-port | --registry-port | --data | --emulate)
        [ $# -ge 2 ] || die "option $1 needs a value" ;;
      -*) die "unknown option $1 (dev/cluster help lists them)" ;;
      *) rest+=("$1"); shift; continue ;;
    esac
    case $1 in
      --name) name=$2 named=$2 ;;
      --profile) profile=$2 ;;
      --index) index=$2 ;;
      --node-net) node_net=$2 ;;
      --pod-range) pod_range=$2 ;;
      --service-range) service_range=$2 ;;
      --link) link=$2 ;;
      --api-port) api_port=$2 ;;
      --registry-port) registry_port=$2 ;;
      --data) data=$2 ;;
      --emulate) emulated_version=$2 ;;
    esac
    shift 2
  done
  [[ $name =~ ^[a-z0-9]([-a-z0-9]{0,28}[a-z0-9])?$ ]] || die "'$name' is no cluster name: a DNS label of at most 30 letters"
  [[ $profile =~ ^(|full|api|simulated)$ ]] || die "'$profile' is no profile: full, api or simulated"
  [[ $emulated_version =~ ^(|1\.[0-9]{1,3})$ ]] || die "'$emulated_version' is no version of Kubernetes, such as 1.33"
  [[ $index =~ ^(|[0-9]{1,2})$ ]] || die "'$index' is no index: 0 to 99"
  run=$run_root/$name
}

# Two commands on one cluster at a time would undo each other's work. The lock on the cluster's
# folder is released when the command ends. Processes that outlive the command must not inherit it;
# `spawn` makes sure of that.
lock_cluster() {
  while :; do
    mkdir -p "$run"
    exec {lock}<"$run"
    flock --wait 120 "$lock" || die "another command has held the lock of cluster $name for two minutes"
    # The previous holder may have removed the folder: then this lock is on a deleted file.
    [ ! "$run" -ef "/proc/$$/fd/$lock" ] || return 0
    exec {lock}<&-
  done
}

load_parameters() {
  [ -f "$run/parameters" ] || return 1
  local wanted_profile=$profile
  wanted_version=$emulated_version
  # A cluster that was started before this parameter existed emulates nothing.
  emulated_version=''
  # shellcheck disable=SC1091
  source "$run/parameters"
  stored_profile=$profile
  profile=${wanted_profile:-$profile}
}

# address_in CIDR N: the Nth address of an IPv4 range.
address_in() {
  local a b c d
  IFS=./ read -r a b c d _ <<<"$1"
  printf '%d.%d.%d.%d\n' "$a" "$b" "$c" $((d + $2))
}

first_free_index() {
  local candidate
  for candidate in {1..99}; do
    if [ ! -e "/sys/class/net/gs$candidate" ] && ! grep -qsx "index=$candidate" "$run_root"/*/parameters; then
      echo "$candidate"
      return
    fi
  done
  die "the indexes 1 to 99 are all taken: 'dev/cluster status' lists the clusters"
}

# Reads the parameters of the running cluster, or chooses those of a new one and saves them.
resume_or_choose_parameters() {
  if load_parameters; then
    if node_is_alive; then
      [ -z "$wanted_version" ] || [ "$wanted_version" = "$emulated_version" ] ||
        die "cluster $name runs and emulates ${emulated_version:-no other version}: choose another name for one that emulates $wanted_version"
      # Running components stay: both other profiles contain all of the api profile.
      case $stored_profile:$profile in
        full:api | simulated:api) profile=$stored_profile ;;
        full:simulated | simulated:full)
          die "cluster $name runs with the profile $stored_profile: choose another name for one with the profile $profile" ;;
      esac
      store_parameters
      return
    fi
    say "cluster $name was not ended properly: removing what is left of it"
    stop_node
    remove_network
    remove_node
    forget_parameters
    parse_options --name "$name" --profile "$profile" --emulate "$wanted_version"
  fi
  # Two commands must not choose and save an index at the same time.
  exec {choosing}<"$run_root"
  flock "$choosing"
  if [ -z "$index" ]; then
    if [ "$name" = groundswell ]; then index=0; else index=$(first_free_index); fi
  fi
  profile=${profile:-full}
  node_net=${node_net:-10.89.$index.0/24}
  pod_range=${pod_range:-10.90.$index.0/24}
  service_range=${service_range:-10.91.$index.0/24}
  link=${link:-gs$index}
  api_port=${api_port:-6443}
  registry_port=${registry_port:-5000}
  data=${data:-${XDG_STATE_HOME:-$HOME/.local/state}/groundswell/$name}
  node_address=$(address_in "$node_net" 1)
  host_address=$(address_in "$node_net" 2)
  service_address=$(address_in "$service_range" 1)
  registry_name=registry.groundswell.test:$registry_port
  [ ! -e "/sys/class/net/$link" ] || die "link $link exists already: index $index is taken, choose another with --index"
  [ ! -e "$data" ] || [ -z "$(ls -A "$data")" ] || [ -f "$data/.groundswell" ] || die "$data exists and is not a cluster's data folder"
  store_parameters
  exec {choosing}<&-
}

store_parameters() {
  mkdir -p "$run"
  local parameter
  for parameter in "${parameter_names[@]}"; do printf '%s=%q\n' "$parameter" "${!parameter}"; done >"$run/parameters.new"
  mv "$run/parameters.new" "$run/parameters"
}

forget_parameters() {
  rm -rf "$run"
  rmdir --ignore-fail-on-non-empty "$run_root"
}

known_clusters() {
  local file
  for file in "$run_root"/*/parameters; do
    [ -f "$file" ] && basename "$(dirname "$file")"
  done
  return 0
}
