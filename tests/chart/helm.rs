//! Runs Helm on the chart.

use std::{
    path::Path,
    process::{Command, Output},
    sync::LazyLock,
};

use serde_json::Value;

/// No value is set.
pub const DEFAULTS: &str = "{}";
/// Values for a cluster in which the operator gets no cluster-wide rights.
pub const NAMESPACES: &str = "
watchNamespaces: [team-a, team-b]
replicas: 1
rbac: {aggregate: false}
";
/// Every value is set.
pub const EVERYTHING: &str = "
image:
  repository: registry.example.com/groundswell
  digest: sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
  pullPolicy: Always
imagePullSecrets: [{name: pull}]
buildImagePullSecrets: [pull, mirror]
fullnameOverride: rebuilds
replicas: 3
registries:
  plainHttp: [registry.example.internal:5000]
  mirrors: {docker.io: ['https://mirror.example.com/hub']}
  timeout: 90s
caBundle: {configMap: authorities, key: all.pem}
proxy:
  http: http://proxy.example.com:3128
  https: http://proxy.example.com:3128
  noProxy: .svc,10.0.0.0/8
steps:
  resources: {requests: {cpu: 20m}, limits: {cpu: 1, memory: 1Gi}}
  prepare: {resources: {limits: {cpu: 2, memory: 2Gi}}}
checks:
  resources: {limits: {cpu: 500m, memory: 4Gi}}
  affinity: {podAntiAffinity: {}}
  imagePullSecrets: [scanner]
  nodeSelector: {example.com/disk: ssd}
  tolerations: [{key: example.com/builds, operator: Exists}]
  priorityClassName: low
  runtimeClassName: gvisor
  podAnnotations: {sidecar.istio.io/inject: 'false'}
  podLabels: {example.com/team: platform}
  podSecurityContext: {runAsNonRoot: true}
  containerSecurityContext: {readOnlyRootFilesystem: true}
repositories:
- {repositories: ['registry.example.com/platform/*'], namespaces: [platform, 'team-*']}
buildNetworkPolicy: {namespaces: [team-a]}
defaultPlatform: linux/arm64
hints:
  enabled: true
  tokens: {secret: hint-tokens}
  from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: registry}}}]
log: {format: text, filter: 'groundswell=debug,info'}
serviceAccount: {name: builder, annotations: {example.com/role: rebuilds}}
podAnnotations: {example.com/scrape: 'true'}
podLabels: {example.com/team: platform}
priorityClassName: system-cluster-critical
nodeSelector: {kubernetes.io/os: linux}
tolerations: [{key: example.com/dedicated, operator: Exists}]
affinity:
  podAntiAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
    - topologyKey: kubernetes.io/hostname
      labelSelector: {matchLabels: {app.kubernetes.io/name: groundswell}}
commonLabels: {example.com/owner: platform}
extraEnv: [{name: HTTPS_PROXY, value: 'http://proxy.example.com:3128'}]
extraVolumes: [{name: ca, configMap: {name: ca}}]
extraVolumeMounts: [{name: ca, mountPath: /etc/ca, readOnly: true}]
listen: 0.0.0.0:9090
podSecurityContext: {runAsNonRoot: true, runAsUser: 1000690000}
containerSecurityContext: {readOnlyRootFilesystem: true}
livenessProbe: {periodSeconds: 30}
topologySpreadConstraints:
- {maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule}
serviceMonitor: {enabled: true, labels: {release: prometheus}}
prometheusRule: {enabled: true, labels: {release: prometheus}}
dashboard: {enabled: true}
test: {namespace: team-b, family: python, strategy: own, timeout: 90s}
networkPolicy:
  enabled: true
  egressPorts: [443, 6443, 22, 3128, 5000]
  dnsPorts: [53]
  metricsFrom: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]
";

/// Every setting of a strategy is set, and a variant is added.
pub const STRATEGIES: &str = "
buildStrategies:
  buildkit:
    image: registry.example.com/moby/buildkit:v0.33.0
    parameters:
      cpu: 2
      cpuLimit: 4
      memoryLimit: 8Gi
      pool: {default: small, allowed: [small, large], description: The pool of nodes.}
    nodeSelector: {example.com/pool: '{{ parameters.pool }}'}
    tolerations: [{key: example.com/builds, operator: Exists}]
    affinity: {podAntiAffinity: {}}
    topologySpreadConstraints:
    - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway}
    priorityClassName: low
    runtimeClassName: kata
    imagePullSecrets: [builder]
    podAnnotations: {example.com/owner: platform, karpenter.sh/do-not-disrupt: 'false'}
    podLabels: {example.com/team: platform}
    description: Builds of the platform team.
    timeout: 30m
    ttlAfterFinished: 10m
  on-dedicated-nodes: {builder: buildkit-privileged, namespaces: [base-images, team-*]}
";

/// `PATH` with Helm and kubeconform. `dev/tools/build` compiles them from pinned modules if they
/// are not in its cache.
static TOOLS: LazyLock<String> = LazyLock::new(|| {
    let output = Command::new(root().join("dev/tools/build"))
        .args(["--path", "helm", "kubeconform"])
        .output()
        .expect("dev/tools/build");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let own = String::from_utf8(output.stdout).expect("text");
    format!("{}:{}", own.trim(), std::env::var("PATH").unwrap_or_default())
});

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns a command of the repository's root that finds the tools.
pub fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("PATH", &*TOOLS).current_dir(root());
    command
}

fn helm(arguments: &[&str], values: &str, more: &[&str]) -> Result<String, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("values.yaml");
    std::fs::write(&file, values).expect("write");
    let Output { status, stdout, stderr } =
        tool("helm").args(arguments).arg("--values").arg(&file).args(more).output().expect("helm");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    if status.success() { Ok(text(stdout)) } else { Err(text(stdout) + &text(stderr)) }
}

/// Runs `helm lint --strict`.
pub fn lint(values: &str) -> Result<String, String> {
    helm(&["lint", "--strict", "charts/groundswell"], values, &[])
}

/// Runs `helm template` in the namespace that the documents name.
pub fn render(values: &str, more: &[&str]) -> Result<String, String> {
    let arguments =
        ["template", "groundswell", "charts/groundswell", "--namespace", "groundswell-system"];
    helm(&[&arguments[..], &["--kube-version", "1.36.0"]].concat(), values, more)
}

/// Returns what `helm install` prints at the end.
pub fn notes(values: &str) -> String {
    let arguments = ["install", "groundswell", "charts/groundswell", "--dry-run=client"];
    let arguments = [&arguments[..], &["--namespace", "groundswell-system"]].concat();
    let text = helm(&arguments, values, &[]).expect("a dry run");
    text.split_once("\nNOTES:\n").expect("notes").1.to_owned()
}

/// Parses the documents of a YAML stream.
pub fn documents(text: &str) -> Vec<Value> {
    let all: Vec<Option<Value>> = serde_yaml::from_multiple(text).expect("YAML");
    all.into_iter().flatten().filter(|document| !document.is_null()).collect()
}
