# shellcheck shell=bash
# What makes the node run pods: containerd with runc and CNI, the kubelet, kube-proxy and the
# cluster's DNS.

start_node_agents() {
  start_containerd
  start_dns
  start_kubelet
}

start_containerd() {
  write_mirrors
  cat >"$data/containerd.toml" <<END
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri"]
[plugins."io.containerd.cri.v1.runtime"]
# Without CAP_SYS_RESOURCE the machine cannot lower this score, and every pod would fail.
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/run/tools/$(basename "$(dirname "$(command -v host-local)")")"]
conf_dir = "/run/node/cni"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
max_concurrent_downloads = 8
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "registry.k8s.io/pause:3.10"
[plugins."io.containerd.cri.v1.images".registry]
config_path = "/run/node/certs.d"
END
  # Point-to-point links instead of a bridge: all pod traffic is routed, so that services work
  # between pods of one node without the kernel's bridge netfilter.
  mkdir -p "$data/cni"
  cat >"$data/cni/10-groundswell.conflist" <<END
{
  "cniVersion": "1.0.0",
  "name": "groundswell",
  "plugins": [{
    "type": "ptp", "ipMasq": false, "mtu": $(cat "/sys/class/net/$link/mtu"),
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "$pod_range"}]], "routes": [{"dst": "0.0.0.0/0"}]}
  }]
}
END
  spawn containerd containerd --config /run/node/containerd.toml --log-level warn
  wait_until 30 containerd "containerd to answer" in_node ctr version
  phase "containerd answers"
}

# A process of the node instead of pods behind a service: one component less before the first pod
# can resolve a name.
start_dns() {
  local upstream forward=''
  upstream=$(upstream_nameservers)
  if [ -n "$upstream" ]; then
    forward="forward . $upstream"
  else
    say "this machine has no nameserver that the node can reach: pods will resolve the cluster's own names only"
  fi
  cat >"$data/Corefile" <<END
. {
  bind $node_address
  errors
  hosts {
    $node_address ${registry_name%:*}
    fallthrough
  }
  kubernetes cluster.local in-addr.arpa {
    kubeconfig /run/node/kubeconfigs/dns
    ttl 5
    fallthrough in-addr.arpa
  }
  $forward
  cache 30 {
    disable success cluster.local
    disable denial cluster.local
  }
}
END
  echo "nameserver $node_address" >"$data/resolv.conf"
  spawn dns coredns -conf /run/node/Corefile
}

# Started after the node is registered: kube-proxy exits when its node's address changes, even from
# none.
start_kube_proxy() {
  # With zeros, kube-proxy does not change the kernel's connection tracking, which belongs to the
  # machine.
  cat >"$data/proxy.yaml" <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: $name
clusterCIDR: $pod_range
clientConnection: {kubeconfig: /run/node/kubeconfigs/proxy}
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
nftables: {minSyncPeriod: 100ms}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
END
  spawn proxy kube-proxy --config /run/node/proxy.yaml
}

start_kubelet() {
  # Absolute thresholds: a percentage would taint the node of a developer whose disk is nearly full
  # of other things.
  cat >"$data/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $node_address
healthzBindAddress: 127.0.0.1
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: /run/node/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: /run/node/pki/kubelet.crt
tlsPrivateKeyFile: /run/node/pki/kubelet.key
cgroupDriver: cgroupfs
cgroupRoot: /$cgroup$name
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
clusterDNS: ["$node_address"]
clusterDomain: cluster.local
resolvConf: /run/node/resolv.conf
volumePluginDir: /run/node/volume-plugins
makeIPTablesUtilChains: false
maxPods: 200
serializeImagePulls: false
registryPullQPS: 0
eventRecordQPS: 100
eventBurst: 200
kubeAPIQPS: 100
kubeAPIBurst: 200
syncFrequency: 10s
nodeStatusUpdateFrequency: 5s
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 100Mi, nodefs.available: 500Mi, imagefs.available: 500Mi}
evictionPressureTransitionPeriod: 10s
END
  spawn kubelet kubelet --config /run/node/kubelet.yaml --kubeconfig /run/node/kubeconfigs/kubelet \
    --hostname-override "$name" --node-ip "$node_address"
}

wait_for_node_agents() {
  wait_until 60 kubelet "the node to be ready" \
    kubectl_admin wait --for condition=Ready "node/$name" --timeout 2s
  start_kube_proxy
  # The node controller lifts this taint a moment later; before that, pods stay pending.
  wait_until 60 controller-manager "the node to accept pods" node_accepts_pods
  wait_until 30 dns "the cluster's DNS to answer" in_node bash -c "exec 3<>/dev/tcp/$node_address/53"
  wait_until 30 proxy "the rules for services" in_node nft list chain ip kube-proxy services
  phase "node $name accepts pods"
}

node_accepts_pods() {
  [ -z "$(kubectl_admin get node "$name" -o 'jsonpath={.spec.taints}')" ]
}
