//! The chart: what it renders, what it refuses, and that `deploy/` is the same. The end-to-end
//! tests install it.
//!
//! Needs Go, which compiles Helm and kubeconform: `cargo test --features needs-go --test chart`.
//! Needs no cluster.
//!
//! `make generate` writes the snapshots and `deploy/` (it sets `GENERATE=1`); otherwise a
//! difference fails the test.

#![allow(clippy::expect_used, clippy::panic, reason = "a test reports what is wrong by failing")]

mod deploy;
mod gitops;
mod helm;
mod hook;
mod policies;
mod schemas;

use std::{collections::BTreeSet, fs};

use groundswell::{
    api::{BuildStrategy, CascadePhase, StrategyRef},
    builds::{strategy::validate as validate_strategy, strategy_revision::strategy_revision},
    registry::Platform,
    server::{
        Metrics,
        metrics::{BuildResult, CheckResult, PollResult},
    },
};
use helm::{DEFAULTS, EVERYTHING, NAMESPACES, STRATEGIES, documents, lint, notes, render, root};
use serde_json::Value;

/// The name of each set of values, and the values.
const VALUES: [(&str, &str); 4] = [
    ("defaults", DEFAULTS),
    ("namespaces", NAMESPACES),
    ("everything", EVERYTHING),
    ("strategies", STRATEGIES),
];

fn name(document: &Value) -> String {
    let text = |pointer| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    format!("{} {}", text("/kind"), text("/metadata/name"))
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Vec<&'a Value> {
    documents.iter().filter(|document| document["kind"] == kind).collect()
}

#[test]
fn helm_lint_succeeds() {
    for (_, values) in VALUES {
        lint(values).expect("helm lint");
    }
}

#[test]
fn the_rendering_matches_the_snapshots() {
    for (name, values) in VALUES {
        let part: &[&str] = if values == STRATEGIES {
            &["--show-only", "templates/buildstrategies.yaml"]
        } else {
            &["--set", "crds.install=false,buildStrategies.buildkit.enabled=false"]
        };
        let text = render(values, part).expect("rendered");
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, text);
        });
    }
}

#[test]
fn the_rendering_is_valid() {
    for (name, values) in VALUES {
        let text = render(values, &[]).expect("rendered");
        schemas::validate(&text).unwrap_or_else(|problems| panic!("{name}: {problems}"));
    }
}

#[test]
fn every_shipped_strategy_is_valid() {
    let folder = root().join("charts/groundswell/files/strategies");
    let files =
        fs::read_dir(folder).expect("strategies").map(|entry| entry.expect("an entry").path());
    let names: Vec<String> = files
        .map(|path| path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned())
        .collect();
    let enabled = |name: &String| format!("  {name}: {{enabled: true, namespaces: ['*']}}\n");
    let values = format!("buildStrategies:\n{}", names.iter().map(enabled).collect::<String>());
    let text = render(&values, &[]).expect("rendered");
    schemas::validate(&text).unwrap_or_else(|problems| panic!("{problems}"));
    let rendered = documents(&text);
    let rendered: BTreeSet<&str> = of_kind(&rendered, "BuildStrategy")
        .iter()
        .filter_map(|strategy| strategy["metadata"]["name"].as_str())
        .collect();
    assert_eq!(
        rendered,
        names.iter().map(String::as_str).collect(),
        "a strategy is named as its file"
    );
}

#[test]
fn an_unknown_field_is_rejected() {
    let text = render(DEFAULTS, &[]).expect("rendered").replace("maxUnavailable", "maxUnavailabel");
    let problems = schemas::validate(&text).expect_err("an unknown field");
    assert!(problems.contains("maxUnavailabel"), "{problems}");
}

#[test]
fn the_definitions_are_the_generated_ones_and_are_kept() {
    let rendered = documents(&render(DEFAULTS, &[]).expect("rendered"));
    let definitions = of_kind(&rendered, "CustomResourceDefinition");
    let files = fs::read_dir(root().join("crds")).expect("crds/").count();
    assert_eq!(definitions.len(), files);
    for definition in definitions {
        let metadata = &definition["metadata"];
        assert_eq!(metadata["annotations"]["helm.sh/resource-policy"], "keep");
        let path = root()
            .join("crds")
            .join(format!("{}.yaml", metadata["name"].as_str().expect("a name")));
        let generated =
            documents(&fs::read_to_string(&path).expect("a generated definition")).remove(0);
        assert_eq!(definition["spec"], generated["spec"], "{}", path.display());
    }
}

#[test]
fn with_listed_namespaces_little_more_than_reading_strategies_is_cluster_wide() {
    let rendered = documents(&render(NAMESPACES, &[]).expect("rendered"));
    let bound: BTreeSet<String> = of_kind(&rendered, "ClusterRoleBinding")
        .iter()
        .map(|binding| binding["roleRef"]["name"].as_str().expect("a role").to_owned())
        .collect();
    assert_eq!(bound, BTreeSet::from(["groundswell".to_owned()]));
    let rules = of_kind(&rendered, "ClusterRole")
        .into_iter()
        .find(|role| role["metadata"]["name"] == "groundswell")
        .map(|role| role["rules"].as_array().expect("rules").clone())
        .expect("the role");
    assert_eq!(rules.len(), 3, "{rules:?}");
    for rule in rules {
        if rule["resources"] == serde_json::json!(["leases"]) {
            assert_eq!(rule["resourceNames"], serde_json::json!(["groundswell"]));
            assert_eq!(rule["verbs"], serde_json::json!(["get"]));
            continue;
        }
        assert_eq!(rule["verbs"], serde_json::json!(["get", "list", "watch"]));
        if rule["resources"] == serde_json::json!(["namespaces"]) {
            assert_eq!(rule["resourceNames"], serde_json::json!(["team-a", "team-b"]));
        } else {
            assert_eq!(rule["resources"], serde_json::json!(["buildstrategies"]));
        }
    }
}

#[test]
fn every_rule_has_a_reason_and_no_wildcard() {
    for file in ["_rules.tpl", "rbac-cluster.yaml", "rbac-leader-election.yaml", "rbac-users.yaml"]
    {
        let text = fs::read_to_string(root().join("charts/groundswell/templates").join(file))
            .expect("a template");
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in
            lines.iter().enumerate().filter(|(_, line)| line.starts_with("- apiGroups"))
        {
            let before = number
                .checked_sub(1)
                .and_then(|number| lines.get(number))
                .copied()
                .unwrap_or_default();
            assert!(
                before.starts_with('#') || before.starts_with("  verbs"),
                "{file}:{}: {line}",
                number + 1
            );
        }
    }
    for (_, values) in VALUES {
        let rendered = render(values, &[]).expect("rendered");
        assert!(
            !rendered.contains("[\"*\"]") && !rendered.contains("['*']"),
            "a rule with a wildcard"
        );
    }
}

#[test]
fn a_hook_creates_the_strategies_until_their_kind_is_known() {
    let hook = |arguments: &[&str]| {
        let rendered = documents(&render(DEFAULTS, arguments).expect("rendered"));
        let strategies = of_kind(&rendered, "BuildStrategy");
        assert!(!strategies.is_empty());
        assert!(
            strategies
                .iter()
                .all(|s| s["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep")
        );
        strategies.iter().any(|s| s["metadata"]["annotations"].get("helm.sh/hook").is_some())
    };
    assert!(hook(&[]));
    assert!(!hook(&["--api-versions", "groundswell.dev/v1alpha1/BuildStrategy"]));
}

#[test]
fn bad_values_are_refused_by_name() {
    for (values, expected) in [
        ("replicas: two", "/replicas"),
        ("image: {digest: latest}", "/image/digest"),
        ("image: {repo: x}", "repo"),
        ("watchNamespaces: [Team_A]", "/watchNamespaces/0"),
        ("registries: {plainHttp: ['http://r.example.com']}", "/registries/plainHttp/0"),
        (
            "registries: {mirrors: {docker.io: ['https://user@r.example.com']}}",
            "/registries/mirrors/docker.io/0",
        ),
        ("registries: {timeout: 5}", "/registries/timeout"),
        ("repositories: [{repositories: [a.b/*]}]", "namespaces"),
        (
            "repositories: [{repositories: [team/*], namespaces: [a]}]",
            "/repositories/0/repositories/0",
        ),
        ("repositories: [{repositories: [a.b/*], namespaces: []}]", "/repositories/0/namespaces"),
        (
            "buildStrategies: {nobuild: {enabled: true}}",
            "buildStrategies.nobuild.builder: this chart has no builder \"nobuild\"; it has \
             buildkit",
        ),
        ("buildStrategies: {buildkit: {images: x}}", "images"),
        ("buildStrategies: {buildkit: {digest: latest}}", "digest"),
        (
            "buildStrategies: {buildkit: {image: 'a@sha256:b', digest: 'sha256:0123456789abcdef01\
             23456789abcdef0123456789abcdef0123456789abcdef'}}",
            "buildStrategies.buildkit.digest: buildStrategies.buildkit.image has a digest already",
        ),
        ("buildNetworkPolicy: {except: [private]}", "/buildNetworkPolicy/except/0"),
        ("buildStrategies: {Build_Kit: {}}", "Build_Kit"),
        ("buildStrategies: {buildkit: {resources: {requests: {cpu: 1}}}}", "resources"),
        (
            "buildStrategies: {buildkit-privileged: {enabled: true}}",
            "buildStrategies.buildkit-privileged.namespaces: builds of buildkit-privileged are \
             root on the node",
        ),
        ("buildStrategies: {buildkit: {namespaces: ['Team']}}", "namespaces"),
        ("buildStrategies: {buildkit: {parameters: {cpu: {maximum: lots}}}}", "maximum"),
        ("buildStrategies: {buildkit: {parameters: {cpu: {maximum: 8}}}}", "maximum"),
        (
            "buildStrategies: {buildkit: {parameters: {cpu: {pattern: '[0-9]'}}}}",
            "parameters.cpu: the default \"250m\" does not match `pattern`: [0-9]",
        ),
        (
            "buildStrategies: {buildkit: {parameters: {zone: a}}}",
            "buildStrategies.buildkit.parameters.zone: nothing uses this parameter; the builder \
             has platform, cpu, cpuLimit",
        ),
        (
            "buildStrategies: {buildkit: {parameters: {cpu: {allowed: ['1']}}}}",
            "parameters.cpu: the default \"250m\" is not one of `allowed`: 1",
        ),
        ("{hints: {enabled: true}}", "hints.enabled is set and hints.tokens.secret is empty"),
        (
            "{hints: {enabled: true, port: 8080, tokens: {secret: hint-tokens}}}",
            "hints.port is the port of listen, 8080",
        ),
        (
            "{serviceMonitor: {enabled: true}, podMonitor: {enabled: true}}",
            "serviceMonitor.enabled and podMonitor.enabled are both set",
        ),
        (
            "{networkPolicy: {enabled: true}, registries: {plainHttp: ['r.example.com:5000']}}",
            "registries.plainHttp: http://r.example.com:5000 needs port 5000, which \
             networkPolicy.egressPorts does not list",
        ),
        (
            "{networkPolicy: {enabled: true}, registries: {mirrors: {quay.io: ['http://m/x']}}}",
            "registries.mirrors.quay.io: http://m/x needs port 80",
        ),
        (
            "{networkPolicy: {enabled: true}, proxy: {https: 'http://p.example.com:3128'}}",
            "proxy.https: http://p.example.com:3128 needs port 3128",
        ),
        ("buildImagePullSecrets: [{name: pull}]", "/buildImagePullSecrets/0"),
        ("steps: {resources: {limits: {cpu: lots}}}", "/steps/resources/limits/cpu"),
        ("checks: {resources: {limits: {cpus: 1}}}", "cpus"),
        (
            "caBundle: {configMap: a, secret: b}",
            "caBundle.configMap and caBundle.secret are both set",
        ),
        ("proxy: {https: 'http://me:secret@proxy:3128'}", "/proxy/https"),
        ("colour: blue", "colour"),
        ("listen: 8080", "/listen"),
        ("listen: 127.0.0.1:8080", "listen: the kubelet cannot reach 127.0.0.1:8080"),
        ("serviceAccount: {create: false}", "serviceAccount.name is empty"),
        ("rbac: {create: false}", "rbac.aggregate needs rbac.create"),
        ("extraEnv: [{value: x}]", "/extraEnv/0"),
        ("livenessProbe: {httpGet: {path: /}}", "/livenessProbe"),
        ("topologySpreadConstraints: [{maxSkew: 1}]", "/topologySpreadConstraints/0"),
        ("test: {timeout: soon}", "/test/timeout"),
    ] {
        let problem = render(values, &[]).expect_err(values);
        assert!(problem.contains(expected), "`{expected}` is not in: {problem}");
    }
}

#[test]
fn deploy_is_the_chart_rendered() {
    deploy::check();
}

#[test]
fn names_are_unique() {
    for (_, values) in VALUES {
        let rendered = documents(&render(values, &[]).expect("rendered"));
        let mut places = BTreeSet::new();
        for document in &rendered {
            let place =
                document.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
            assert!(
                places.insert(format!("{place} {}", name(document))),
                "{} exists twice",
                name(document)
            );
        }
    }
}

/// Every value explains itself where editors and `helm show` users look: in the schema.
#[test]
fn every_value_is_described_in_the_schema() {
    fn undescribed(schema: &Value, path: &str, missing: &mut Vec<String>) {
        for (name, value) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if value["description"].as_str().is_none_or(str::is_empty) {
                missing.push(path.clone());
            }
            undescribed(value, &path, missing);
        }
    }
    let text = fs::read_to_string(root().join("charts/groundswell/values.schema.json"))
        .expect("the schema");
    let schema: Value = serde_json::from_str(&text).expect("JSON");
    let mut missing = Vec::new();
    undescribed(&schema, "", &mut missing);
    undescribed(&schema["definitions"]["strategy"], ".buildStrategies.*", &mut missing);
    undescribed(&schema["definitions"]["step"], ".steps.*", &mut missing);
    assert!(missing.is_empty(), "values without a description: {missing:?}");
}

/// The platform that a family records.
fn platform() -> Platform {
    let Ok(platform) = "linux/amd64".parse();
    platform
}

/// The controller can use every strategy that the values make: rendered, it is a pod that builds.
#[test]
fn strategies_of_the_values_make_builds() {
    let rendered = documents(&render(STRATEGIES, &[]).expect("rendered"));
    for object in of_kind(&rendered, "BuildStrategy") {
        let strategy: BuildStrategy = serde_json::from_value(object.clone()).expect("a strategy");
        validate_strategy(&strategy, &StrategyRef::default(), &platform())
            .unwrap_or_else(|problem| panic!("{problem}"));
    }
    assert_eq!(of_kind(&rendered, "BuildStrategy").len(), 2);
}

/// A namespace with a quota on `limits.cpu`, or a move to other nodes, costs no rebuild.
#[test]
fn placement_and_resources_rebuild_nothing() {
    let revision = |settings: &str| {
        let values = format!("buildStrategies: {{buildkit: {settings}}}");
        let rendered = documents(&render(&values, &[]).expect("rendered"));
        let object = of_kind(&rendered, "BuildStrategy")[0].clone();
        let strategy: BuildStrategy = serde_json::from_value(object).expect("a strategy");
        strategy_revision(&strategy, &StrategyRef::default(), &platform())
    };
    let before = revision("{}");
    for settings in [
        "{parameters: {cpu: 2, cpuLimit: 4, memoryLimit: 8Gi}}",
        "{nodeSelector: {pool: builds}, tolerations: [{operator: Exists}]}",
        "{affinity: {nodeAffinity: {}}}",
        "{priorityClassName: low, runtimeClassName: kata, imagePullSecrets: [builder]}",
        "{serviceAccountName: builder}",
        "{podAnnotations: {team: x}, podLabels: {team: x}, timeout: 2h, description: Builds.}",
        "{parameters: {pool: {default: a}}, nodeSelector: {pool: '{{ parameters.pool }}'}}",
    ] {
        assert_eq!(revision(settings), before, "{settings}");
    }
    assert_ne!(revision("{image: 'registry.example.com/buildkit:v1'}"), before);
    assert_ne!(revision("{seLinuxOptions: {type: container_engine_t}}"), before);
}

/// `OpenShift` admits pods by their `ServiceAccount`, and `SELinux` forbids mounts to most of them.
#[test]
fn a_strategy_may_have_an_account_and_a_label_of_selinux() {
    let settings = "{serviceAccountName: builder, seLinuxOptions: {type: container_engine_t}}";
    let values = format!("buildStrategies: {{buildkit: {settings}}}");
    let rendered = documents(&render(&values, &[]).expect("rendered"));
    let pod = &of_kind(&rendered, "BuildStrategy")[0]["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], "builder");
    let security = &pod["containers"][0]["securityContext"];
    assert_eq!(security["seLinuxOptions"]["type"], "container_engine_t");
    assert_eq!(security["procMount"], "Unmasked", "the rest stays");
    let wrong = "buildStrategies: {buildkit: {seLinuxOptions: {types: x}}}";
    let problem = render(wrong, &[]).expect_err("a wrong name");
    assert!(problem.contains("seLinuxOptions"), "{problem}");
}

/// An administrator has applied what needs rights in the cluster.
#[test]
fn the_rest_of_an_installation_is_in_its_namespace() {
    let values = "{watchNamespaces: [team-a], crds: {install: false}, \
                  rbac: {create: false, aggregate: false}, admissionPolicy: {enabled: false}, \
                  buildStrategies: {buildkit: {enabled: false}}}";
    let rendered = documents(&render(values, &[]).expect("rendered"));
    let is_kept = |document: &&Value| {
        let hook = document.pointer("/metadata/annotations/helm.sh~1hook");
        hook.and_then(Value::as_str) != Some("test")
    };
    let kinds: BTreeSet<&str> =
        rendered.iter().filter(is_kept).filter_map(|document| document["kind"].as_str()).collect();
    let expected = ["ConfigMap", "Deployment", "PodDisruptionBudget", "Service", "ServiceAccount"];
    assert_eq!(kinds, BTreeSet::from(expected));
    let of_admin =
        ["crds", "rbac-cluster", "rbac-namespaces", "rbac-leader-election", "admission-policy"];
    let files: Vec<String> = of_admin.iter().map(|name| format!("templates/{name}.yaml")).collect();
    let more: Vec<&str> = files.iter().flat_map(|file| ["--show-only", file]).collect();
    let rendered = documents(&render("{watchNamespaces: [team-a]}", &more).expect("rendered"));
    for kind in [
        "CustomResourceDefinition",
        "ClusterRole",
        "ClusterRoleBinding",
        "Role",
        "ValidatingAdmissionPolicy",
    ] {
        assert!(!of_kind(&rendered, kind).is_empty(), "{kind}");
    }
}

/// The text that Helm prints at the end names the namespace and the commands of the next steps.
#[test]
fn notes_say_the_next_step() {
    let text = notes(DEFAULTS);
    for expected in [
        "kubectl -n groundswell-system rollout status deployment/groundswell",
        "Strategies: buildkit.",
        "kubectl label namespace images pod-security.kubernetes.io/enforce=privileged",
        "create secret docker-registry",
        "kind: ImageFamily",
        "strategy: {name: buildkit}",
    ] {
        assert!(text.contains(expected), "`{expected}` is not in: {text}");
    }
    let text = notes("buildStrategies: {buildkit: {enabled: false}}");
    assert!(text.contains("No strategy is installed"), "{text}");
    let text = notes(NAMESPACES);
    assert!(
        text.contains("namespaces team-a, team-b") && text.contains("namespace: team-a"),
        "{text}"
    );
}

/// Alerts and dashboard read only metrics that the controller exports.
#[test]
fn alerts_and_dashboard_use_metrics_that_exist() {
    let metrics = Metrics::new();
    let moment = std::time::Duration::from_secs(1);
    metrics.cascade_finished(CascadePhase::Complete, moment);
    metrics.build_finished(BuildResult::Succeeded, Some(moment));
    metrics.check_finished(CheckResult::Passed);
    metrics.upstream_polled(PollResult::Unchanged);
    metrics.reconciled("ImageFamily", moment, Some("Test"));
    let exported = metrics.encode().expect("metrics");
    let name = regex::Regex::new("groundswell_[a-z_]+").expect("regex");
    let rendered = documents(&render(EVERYTHING, &[]).expect("rendered"));
    let sources: Vec<String> = of_kind(&rendered, "PrometheusRule")
        .into_iter()
        .flat_map(|rule| rule["spec"]["groups"][0]["rules"].as_array().expect("rules").clone())
        .map(|rule| rule["expr"].to_string())
        .chain(rendered.iter().filter_map(|document| {
            Some(document["data"].get("groundswell.json")?.as_str()?.to_owned())
        }))
        .collect();
    assert!(sources.len() > 1, "no alert or no dashboard");
    let unknown: BTreeSet<&str> = sources
        .iter()
        .flat_map(|source| name.find_iter(source))
        .map(|found| found.as_str().trim_end_matches("_bucket"))
        .filter(|metric| {
            !exported.contains(&format!("# TYPE {} ", metric.trim_end_matches("_total")))
        })
        .collect();
    assert!(unknown.is_empty(), "metrics that do not exist: {unknown:?}");
}

/// `OpenShift` assigns users and groups: a fixed one would be refused there.
#[test]
fn no_user_and_no_group_is_fixed() {
    let rendered = render(DEFAULTS, &[]).expect("rendered");
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        assert!(!rendered.contains(field), "{field} is set");
    }
}

#[test]
fn builds_reach_neither_the_cluster_nor_the_metadata_service() {
    let values = "
buildNetworkPolicy:
  namespaces: [team-a, team-b]
  egress: [{to: [{podSelector: {matchLabels: {app: registry}}}], ports: [{port: 5000}]}]
";
    let rendered = documents(&render(values, &[]).expect("rendered"));
    let policies = of_kind(&rendered, "NetworkPolicy");
    let places: Vec<_> = policies.iter().map(|policy| &policy["metadata"]["namespace"]).collect();
    assert_eq!(places, ["team-a", "team-b"]);
    for policy in policies {
        let spec = &policy["spec"];
        let selector = &spec["podSelector"]["matchExpressions"][0];
        assert_eq!(selector["key"], groundswell::api::labels::COMPONENT);
        assert_eq!(
            selector["values"],
            serde_json::json!([
                groundswell::api::labels::COMPONENT_BUILD,
                groundswell::api::labels::COMPONENT_CHECK
            ])
        );
        assert_eq!(spec["policyTypes"], serde_json::json!(["Ingress", "Egress"]));
        assert_eq!(spec["ingress"], Value::Null, "nothing reaches a build");
        let rules = spec["egress"].as_array().expect("rules");
        let [dns, outside, own] = rules.as_slice() else { panic!("{rules:?}") };
        assert_eq!(
            dns["to"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"],
            "kube-system"
        );
        assert!(dns["ports"].to_string().contains("53"), "{dns}");
        let blocks: Vec<_> = outside["to"].as_array().expect("peers").iter().collect();
        let [four, six] = blocks.as_slice() else { panic!("{blocks:?}") };
        let except = |peer: &Value| peer["ipBlock"]["except"].to_string();
        assert_eq!(four["ipBlock"]["cidr"], "0.0.0.0/0");
        for network in ["169.254.0.0/16", "10.0.0.0/8", "172.16.0.0/12", "168.63.129.16/32"] {
            assert!(except(four).contains(&format!("\"{network}\"")), "{four}");
        }
        assert!(!except(four).contains("::"), "{four}");
        assert_eq!(six["ipBlock"]["cidr"], "::/0");
        assert_eq!(six["ipBlock"]["except"], serde_json::json!(["fc00::/7", "fe80::/10"]));
        let ports = outside["ports"].to_string();
        assert!(ports.contains("443") && ports.contains("80"), "{ports}");
        assert_eq!(own["ports"][0]["port"], 5000);
    }
    assert!(
        of_kind(&documents(&render(DEFAULTS, &[]).expect("rendered")), "NetworkPolicy").is_empty()
    );
}

#[test]
fn a_digest_pins_the_image_of_the_builder() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let values = format!("buildStrategies: {{buildkit: {{digest: '{digest}'}}}}");
    let rendered = documents(&render(&values, &[]).expect("rendered"));
    let strategies = of_kind(&rendered, "BuildStrategy");
    let image = &strategies[0]["spec"]["template"]["spec"]["containers"][0]["image"];
    assert_eq!(*image, format!("docker.io/moby/buildkit:v0.33.0@{digest}"));
}
