# shellcheck shell=bash
# The network between this machine and the node: one link, routes, and address translation for
# outgoing packets.
#
# No packet for the pod or service range may leave the machine. Before anything starts, blackhole
# routes exist on both sides, with a lower priority than the real routes, and a rule drops what
# would bypass them.

# Settings of the machine that a cluster changes (the network by us, the rest by the kubelet). The
# first cluster saves them, and they are restored when the last one ends.
machine_settings=(net.ipv4.ip_forward vm.overcommit_memory kernel.panic kernel.panic_on_oops)

start_network() {
  [ ! -e "/sys/class/net/$link" ] || return 0
  local mtu uplink
  uplink=$(ip -4 route show default | sed -n 's/.* dev \([^ ]*\).*/\1/p' | head -n 1)
  mtu=$(cat "/sys/class/net/${uplink:-lo}/mtu")
  ((mtu <= 1500)) || mtu=1500
  [ -f "$run_root/machine-settings" ] || sysctl "${machine_settings[@]}" >"$run_root/machine-settings" 2>/dev/null || true

  local range
  for range in "$pod_range" "$service_range"; do
    ip route replace blackhole "$range" metric 65535
    in_node ip route add blackhole "$range" metric 65535
  done
  alive node
  ip link add "$link" mtu "$mtu" type veth peer name eth0 mtu "$mtu" netns "$pid" ||
    die "link $link cannot be created: is index $index taken? 'dev/cluster status' lists the clusters"
  ip addr add "$host_address/${node_net#*/}" dev "$link"
  ip link set "$link" up
  in_node ip addr add "$node_address/${node_net#*/}" dev eth0
  in_node ip link set eth0 up
  in_node ip route add default via "$host_address"
  in_node sysctl -q -w net.ipv4.ip_forward=1
  for range in "$pod_range" "$service_range"; do ip route add "$range" via "$node_address" dev "$link"; done

  sysctl -q -w net.ipv4.ip_forward=1
  nft -f - <<END
table ip groundswell-$name {
  chain outgoing {
    type nat hook postrouting priority srcnat
    ip saddr $node_net oifname != "$link" masquerade
  }
  chain passing {
    type filter hook forward priority filter
    ip daddr { $pod_range, $service_range } oifname != "$link" drop
  }
}
END
  in_node nft -f - <<END
table ip groundswell {
  chain outgoing {
    type nat hook postrouting priority srcnat
    ip saddr $pod_range oifname eth0 masquerade
  }
}
END
  phase "network $node_net on $link"
}

remove_network() {
  nft delete table ip "groundswell-$name" 2>/dev/null || true
  # The other end is removed with the node's network, possibly before this command.
  ip link delete "$link" 2>/dev/null || true
  local range
  for range in "$pod_range" "$service_range"; do ip route delete blackhole "$range" metric 65535 2>/dev/null || true; done
  if [ -f "$run_root/machine-settings" ] && [ "$(known_clusters)" = "$name" ]; then
    sysctl -q -p "$run_root/machine-settings" || true
    rm -f "$run_root/machine-settings"
  fi
}

# The nameservers that finally answer pods' queries. One on a loopback address is a local stub that
# the node cannot reach; systemd-resolved writes the real ones to a separate file.
upstream_nameservers() {
  local file found
  for file in /etc/resolv.conf /run/systemd/resolve/resolv.conf; do
    found=$(awk '$1 == "nameserver" && $2 !~ /^127\.|:/ { print $2 }' "$file" 2>/dev/null | head -n 3 | tr '\n' ' ')
    [ -z "$found" ] || { echo "$found"; return; }
  done
}
