# shellcheck shell=bash
# etcd, the API server, the controller manager and, in the full profile, the scheduler.
#
# etcd and the managers listen on the node's loopback, which no other cluster shares. The API server
# listens on the node's address.

start_control_plane() {
  local pki=/run/node/pki version=()
  [ -z "$emulated_version" ] || version=(--emulated-version "$emulated_version")
  # A development cluster may lose its last second in a crash; it must not wait for the disk on each
  # write.
  spawn etcd etcd --data-dir /run/node/etcd --unsafe-no-fsync --log-level warn \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
    --initial-cluster default=http://127.0.0.1:2380

  spawn apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 \
    --bind-address "$node_address" --advertise-address "$node_address" --secure-port "$api_port" \
    --tls-cert-file $pki/apiserver.crt --tls-private-key-file $pki/apiserver.key --client-ca-file $pki/ca.crt \
    --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --allow-privileged \
    --service-cluster-ip-range "$service_range" \
    --service-account-issuer https://kubernetes.default.svc.cluster.local \
    --service-account-key-file $pki/service-accounts.key --service-account-signing-key-file $pki/service-accounts.key \
    --kubelet-certificate-authority $pki/ca.crt --kubelet-preferred-address-types InternalIP \
    --kubelet-client-certificate $pki/apiserver-to-kubelet.crt --kubelet-client-key $pki/apiserver-to-kubelet.key \
    "${version[@]}"
  wait_until 60 apiserver "the API server to be ready" kubectl_admin get --raw /readyz
  phase "API server ready at https://$node_address:$api_port"

  # With the default of 20 requests a second, a benchmark that starts many Jobs would measure only
  # that limit.
  spawn controller-manager kube-controller-manager --kubeconfig /run/node/kubeconfigs/controller-manager \
    --leader-elect=false --bind-address 127.0.0.1 --use-service-account-credentials \
    --service-account-private-key-file $pki/service-accounts.key --root-ca-file $pki/ca.crt \
    --cluster-cidr "$pod_range" --service-cluster-ip-range "$service_range" \
    --kube-api-qps 100 --kube-api-burst 200 "${version[@]}"
  if [ "$profile" = full ]; then
    cat >"$data/scheduler.yaml" <<END
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection: {leaderElect: false}
clientConnection: {kubeconfig: /run/node/kubeconfigs/scheduler, qps: 100, burst: 200}
END
    spawn scheduler kube-scheduler --config /run/node/scheduler.yaml --bind-address 127.0.0.1 "${version[@]}"
  fi
  # The controller manager creates it; no pod can be created before it exists.
  wait_until 60 controller-manager "the default service account" kubectl_admin get serviceaccount default
}
