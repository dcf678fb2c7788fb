# shellcheck shell=bash
# The registry: plain HTTP on the node's address, deletes allowed.
#
# It has three names. This machine uses $REGISTRY (the node's address and port). Pods and manifests
# use $REGISTRY_NAME (registry.groundswell.test:5000), the same for every cluster. It also replaces
# docker.io, gcr.io, ghcr.io and registry.k8s.io: the node pulls an image that was pushed as
# library/NAME by the name docker.io/library/NAME.

mirrored_hosts=(docker.io gcr.io ghcr.io registry.k8s.io)

start_registry() {
  cat >"$data/registry.yaml" <<END
version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: /run/node/registry}
  delete: {enabled: true}
  maintenance: {uploadpurging: {enabled: false}}
http: {addr: "$node_address:$registry_port"}
END
  spawn registry registry serve /run/node/registry.yaml
  wait_until 20 registry "the registry to answer" crane catalog "$node_address:$registry_port"
  phase "registry at $node_address:$registry_port, inside the cluster $registry_name"
}

# Configures the hosts behind the registry's names for containerd. They are never the real hosts: an
# image that was not pushed here is "not found" at once, instead of an image that the tests did not
# make.
write_mirrors() {
  local host
  for host in "${mirrored_hosts[@]}" "$registry_name"; do
    mkdir -p "$data/certs.d/$host"
    cat >"$data/certs.d/$host/hosts.toml" <<END
server = "http://$node_address:$registry_port"
[host."http://$node_address:$registry_port"]
capabilities = ["pull", "resolve"]
END
  done
}
