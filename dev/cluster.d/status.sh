# shellcheck shell=bash
# What runs, and what is left of clusters that should be gone.

components_of() {
  echo node registry etcd apiserver controller-manager
  [ "$1" != full ] || echo scheduler containerd dns proxy kubelet
  [ "$1" != simulated ] || echo kwok
}

# With --name: that cluster. Without: all clusters, and everything left over that belongs to none.
show_status() {
  local each any=0
  if [ -n "$named" ]; then
    show_cluster "$name" || { echo "cluster $name: nothing is left"; return; }
    return
  fi
  for each in $(known_clusters); do show_cluster "$each" && any=1; done
  local strays
  strays=$(strays)
  if [ -n "$strays" ]; then
    echo "left over, belonging to no known cluster:"
    echo "$strays"
    return 1
  fi
  [ "$any" = 1 ] || echo "nothing is left"
}

show_cluster() {
  local component state
  run=$run_root/$1
  profile=''
  load_parameters || return 1
  echo "cluster $name (profile $profile, index $index): API https://$node_address:$api_port, registry $node_address:$registry_port, data $data"
  for component in $(components_of "$profile"); do
    if alive "$component"; then state="process $pid"; else state='not running'; fi
    printf '  %-20s %s\n' "$component" "$state"
  done
}

# Links, routes, rules and control groups with our names, less those of clusters that are known.
strays() {
  local known
  known=" $(for each in $(known_clusters); do sed -n 's/^\(link\|name\)=//p' "$run_root/$each/parameters"; done | tr '\n' ' ')"
  {
    ip -o link show type veth | sed -n 's/^[0-9]*: \(gs[0-9]*\)@.*/\1 link/p'
    nft list tables 2>/dev/null | sed -n 's/^table ip groundswell-\(.*\)/\1 nft table/p'
    find /sys/fs/cgroup -maxdepth 2 -type d -name "$cgroup*" 2>/dev/null | sed "s,.*/$cgroup\(.*\),\1 control group,"
  } | sort -u | while read -r owner kind; do [[ $known == *" $owner "* ]] || echo "  $kind of $owner"; done
}
