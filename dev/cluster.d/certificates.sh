# shellcheck shell=bash
# The cluster's authority, a certificate for each component, and their kubeconfigs. All are in $data
# and removed with it.

pki_config='[req]
distinguished_name = dn
[dn]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth, clientAuth'

new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1" 2>/dev/null; }

# issue FILE SUBJECT [ALTERNATIVE_NAMES]: creates a key and a certificate signed by the cluster's
# authority.
issue() {
  local more=()
  [ -z "${3:-}" ] || more=(-addext "subjectAltName=$3")
  new_key "$pki/$1.key"
  openssl req -new -x509 -days 30 -key "$pki/$1.key" -subj "$2" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" \
    -config <(echo "$pki_config") -extensions server "${more[@]}" -out "$pki/$1.crt"
}

# kubeconfig FILE CERTIFICATE: writes a kubeconfig that embeds its certificates, so that it can be
# copied.
kubeconfig() {
  cat >"$1" <<END
apiVersion: v1
kind: Config
clusters:
- name: $name
  cluster:
    server: https://$node_address:$api_port
    certificate-authority-data: $(base64 -w0 "$pki/ca.crt")
users:
- name: $2
  user:
    client-certificate-data: $(base64 -w0 "$pki/$2.crt")
    client-key-data: $(base64 -w0 "$pki/$2.key")
contexts:
- name: $name
  context: {cluster: $name, user: $2}
current-context: $name
END
}

make_certificates() {
  pki=$data/pki
  [ ! -f "$data/kubeconfig" ] || return 0
  (
    umask 077
    mkdir -p "$pki" "$data/kubeconfigs"
    new_key "$pki/ca.key"
    openssl req -new -x509 -days 30 -key "$pki/ca.key" -subj "/CN=groundswell-$name" \
      -config <(echo "$pki_config") -extensions authority -out "$pki/ca.crt"
    new_key "$pki/service-accounts.key"
    issue apiserver /CN=kube-apiserver "IP:$node_address,IP:$service_address,IP:127.0.0.1,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
    issue admin /O=system:masters/CN=admin
    # How the API server names itself to the kubelet, which asks the API server whether that user
    # may.
    issue apiserver-to-kubelet /O=system:masters/CN=apiserver-to-kubelet
    issue controller-manager /CN=system:kube-controller-manager
    issue scheduler /CN=system:kube-scheduler
    issue kubelet "/O=system:nodes/CN=system:node:$name" "IP:$node_address,DNS:$name"
    issue proxy /CN=system:kube-proxy
    issue dns /O=system:masters/CN=dns
    local user
    for user in controller-manager scheduler kubelet proxy dns; do kubeconfig "$data/kubeconfigs/$user" "$user"; done
    # Written last: its presence means that all other files are complete.
    kubeconfig "$data/kubeconfig.new" admin
    mv "$data/kubeconfig.new" "$data/kubeconfig"
  )
}
