# shellcheck shell=bash
# A node without a machine: kwok simulates it and its pods, for tests and benchmarks with very many
# pods.
#
# There is no scheduler: pods for this node set `nodeName: simulated`. simulated-node.yaml describes
# what they do.

start_simulated_node() {
  kubectl_admin apply --server-side -f - >/dev/null <<END
apiVersion: v1
kind: Node
metadata: {name: simulated}
END
  cp "$dev/cluster.d/simulated-node.yaml" "$data/simulated-node.yaml"
  spawn kwok kwok --kubeconfig /run/node/kubeconfig --config /run/node/simulated-node.yaml --manage-single-node simulated \
    --node-lease-duration-seconds 40
  wait_until 60 kwok "the simulated node to be ready" node_is_ready simulated
  phase "node simulated ready: pods with that nodeName are played"
}

node_is_ready() {
  [ "$(kubectl_admin get node "$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" = True ]
}
