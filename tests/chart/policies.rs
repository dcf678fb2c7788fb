//! The admission policies of the chart, as they are rendered. The integration tests try them on an
//! API server.

use groundswell::{api::labels, builds::job::job_name};
use regex::Regex;
use serde_json::{Value, json};

use super::{
    helm::{documents, render},
    of_kind,
};

/// The number of characters that the API server keeps of a name to which it adds others.
const LONGEST_PREFIX: usize = 58;

/// The expressions of each policy, of its conditions, its variables and its validations.
fn expressions(documents: &[Value]) -> Vec<String> {
    let policies = of_kind(documents, "ValidatingAdmissionPolicy");
    let of = |policy: &&Value| {
        let spec = &policy["spec"];
        let lists = ["matchConditions", "variables", "validations"];
        let all = lists.iter().flat_map(|list| spec[list].as_array().into_iter().flatten());
        all.filter_map(|one| one["expression"].as_str()).collect::<Vec<_>>().join("\n")
    };
    policies.iter().map(of).collect()
}

/// The policies name the label and the user that the controller has, and the namespaces that it
/// serves.
#[test]
fn the_policies_are_about_the_controller_and_its_namespaces() {
    let values = "{watchNamespaces: [team-a], serviceAccount: {name: other}, \
                  admissionPolicy: {restorers: ['system:serviceaccount:velero:velero'], \
                  controllers: ['system:serviceaccount:second:groundswell']}}";
    let rendered = documents(&render(values, &[]).expect("rendered"));
    let policies = of_kind(&rendered, "ValidatingAdmissionPolicy");
    let bindings = of_kind(&rendered, "ValidatingAdmissionPolicyBinding");
    assert_eq!((policies.len(), bindings.len()), (5, 5));
    for (policy, binding) in policies.iter().zip(&bindings) {
        assert_eq!(binding["spec"]["policyName"], policy["metadata"]["name"]);
        assert_eq!(binding["spec"]["validationActions"], json!(["Deny"]));
    }
    let expressions = expressions(&rendered);
    let [jobs, _, records, _, exec] = &expressions[..] else { panic!("{expressions:?}") };
    let user = "system:serviceaccount:groundswell-system:other";
    for user in [user, "system:serviceaccount:second:groundswell"] {
        assert!(jobs.contains(user) && records.contains(user), "{jobs} {records}");
    }
    assert_eq!(exec, "false");
    assert!(records.contains("system:serviceaccount:velero:velero"), "{records}");
    let label = format!("{}'].orValue('') == '{}'", labels::MANAGED_BY, labels::MANAGED_BY_VALUE);
    assert!(jobs.contains(&label), "{jobs}");
    for policy in &policies {
        let selector = &policy["spec"]["matchConstraints"]["namespaceSelector"];
        assert_eq!(selector["matchExpressions"][0]["values"], json!(["team-a"]));
    }
    let off = "{admissionPolicy: {enabled: false}}";
    let rendered = documents(&render(off, &[]).expect("rendered"));
    assert!(of_kind(&rendered, "ValidatingAdmissionPolicy").is_empty());
}

/// What the policy for privileged pods says of each line of the Pod Security level `baseline`.
#[test]
fn every_line_of_the_level_baseline_is_in_the_policy() {
    let rendered = documents(&render("{}", &[]).expect("rendered"));
    let policy = expressions(&rendered).swap_remove(3);
    for (line, texts) in [
        ("HostProcess", vec!["windowsOptions.?hostProcess"]),
        ("Host Namespaces", vec!["hostNetwork", "hostPID", "hostIPC"]),
        ("Privileged Containers", vec!["privileged"]),
        ("Capabilities", vec!["capabilities.?add", "'NET_BIND_SERVICE'"]),
        ("HostPath Volumes", vec!["hostPath"]),
        ("Host Ports", vec!["port.?hostPort"]),
        (
            "Host Probes and Lifecycle Hooks",
            vec![
                "livenessProbe",
                "readinessProbe",
                "startupProbe",
                "postStart",
                "preStop",
                "httpGet.?host",
                "tcpSocket.?host",
            ],
        ),
        (
            "AppArmor",
            vec!["appArmorProfile.?type", "container.apparmor.security.beta.kubernetes.io/"],
        ),
        ("SELinux", vec!["seLinuxOptions.?type", "seLinuxOptions.?user", "seLinuxOptions.?role"]),
        ("/proc Mount Type", vec!["procMount"]),
        ("Seccomp", vec!["seccompProfile.?type"]),
        ("Sysctls", vec!["securityContext.?sysctls", "'net.ipv4.tcp_wmem'"]),
    ] {
        for text in texts {
            assert!(policy.contains(text), "{line}: `{text}` is not in: {policy}");
        }
    }
    let pod = "[object.spec.?securityContext]";
    assert!(policy.contains(pod), "what the pod's context says holds for its containers: {policy}");
}

/// Commands are refused in pods with the names that the Job controller gives to ours.
#[test]
fn pods_are_known_by_their_names() {
    let rendered = documents(&render("{}", &[]).expect("rendered"));
    let condition = expressions(&rendered).swap_remove(1);
    let pattern = condition.split('\'').nth(1).expect("a pattern");
    let pattern = Regex::new(pattern).expect("a pattern");
    for image in ["web", &"w".repeat(63)] {
        let job = job_name("uid", image, &"f1".into(), 99);
        assert!(job.len() < LONGEST_PREFIX, "the API server cuts what is longer: {job}");
        assert!(pattern.is_match(&format!("{job}-x7k2p")), "{job}");
    }
    for other in ["web-6d4cf56db6-x7k2p", "backup-29000000-x7k2p", "web-0"] {
        assert!(!pattern.is_match(other), "{other}");
    }
}

/// What the policy for Jobs compares when a pod is changed.
#[test]
fn a_pod_keeps_its_images_its_owner_and_its_labels() {
    let rendered = documents(&render("{}", &[]).expect("rendered"));
    let policy = expressions(&rendered).swap_remove(0);
    for text in [
        "== dyn(oldObject).spec.containers.map(container, container.?image)",
        "== dyn(oldObject).spec.?initContainers.orValue([]).map(container, container.?image)",
        "object.metadata.?ownerReferences == oldObject.metadata.?ownerReferences",
        "variables.oldLabels[?key] == variables.labels[?key]",
        "request.?subResource.orValue('') != 'ephemeralcontainers'",
        labels::FAMILY,
        "system:serviceaccount:kube-system:generic-garbage-collector",
        "system:serviceaccount:kube-system:namespace-controller",
    ] {
        assert!(policy.contains(text), "`{text}` is not in: {policy}");
    }
}
