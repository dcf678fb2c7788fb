//! `helm test`: the pod that runs the pre-flight.

use std::collections::BTreeSet;

use clap::Parser;
use groundswell::preflight::{
    PreflightSettings,
    rights::{RoleRule, controller_rules},
};
use serde_json::{Value, json};

use crate::{
    VALUES,
    helm::{DEFAULTS, EVERYTHING, NAMESPACES, documents, render},
    of_kind,
};

/// The command line of `groundswell check`.
#[derive(Parser, Debug)]
struct HookArguments {
    #[command(flatten)]
    _settings: PreflightSettings,
    #[arg(short, long)]
    namespace: String,
}

fn hook(values: &str) -> Value {
    let rendered = documents(&render(values, &[]).expect("rendered"));
    let pods = of_kind(&rendered, "Pod");
    assert_eq!(pods.len(), 1, "the test is one pod, and has no object with rights of its own");
    pods[0].clone()
}

fn arguments(pod: &Value) -> Vec<String> {
    let arguments = pod["spec"]["containers"][0]["args"].as_array().expect("arguments");
    arguments.iter().map(|argument| argument.as_str().expect("text").to_owned()).collect()
}

#[test]
fn the_hook_calls_the_check_with_the_settings_of_the_controller() {
    for (name, values) in VALUES {
        let pod = hook(values);
        let arguments = arguments(&pod);
        assert_eq!(arguments[0], "check");
        let parsed = HookArguments::try_parse_from(&arguments);
        assert!(parsed.is_ok(), "{name}: {arguments:?}: {parsed:?}");

        let rendered = documents(&render(values, &[]).expect("rendered"));
        let controller = &of_kind(&rendered, "Deployment")[0]["spec"]["template"]["spec"];
        assert_eq!(pod["spec"]["serviceAccountName"], controller["serviceAccountName"], "{name}");
        let (own, its) = (&pod["spec"]["containers"][0], &controller["containers"][0]);
        for field in ["image", "imagePullPolicy", "securityContext"] {
            assert_eq!(own[field], its[field], "{name}: {field}");
        }
        for list in ["env", "volumeMounts"] {
            for entry in own[list].as_array().expect("a list") {
                let same = its[list].as_array().expect("a list").contains(entry);
                assert!(same, "{name}: {entry} is not that of the controller");
            }
        }
        for volume in pod["spec"]["volumes"].as_array().expect("volumes") {
            let same = controller["volumes"].as_array().expect("volumes").contains(volume);
            assert!(same, "{name}: {volume} is not that of the controller");
        }
    }
}

#[test]
fn the_pod_runs_where_builds_run() {
    let namespace = |values: &str| {
        let parsed = HookArguments::try_parse_from(arguments(&hook(values)));
        parsed.expect("arguments").namespace
    };
    assert_eq!(namespace(DEFAULTS), "groundswell-system");
    assert_eq!(namespace(NAMESPACES), "team-a");
    assert_eq!(namespace(EVERYTHING), "team-b");
    let named = |values: &str, wanted: &str| arguments(&hook(values)).contains(&wanted.to_owned());
    assert!(named(DEFAULTS, "--strategy=buildkit"));
    assert!(named(
        "buildStrategies: {buildkit: {enabled: false}, buildkit-privileged: {enabled: true, \
         namespaces: ['*']}}",
        "--strategy=buildkit-privileged"
    ));
    assert!(named("buildStrategies: {buildkit: {enabled: false}}", "--strategy=buildkit"));
    assert!(named(EVERYTHING, "--strategy=own") && named(EVERYTHING, "--family=python"));
    let of_family = "test: {family: python}";
    assert!(arguments(&hook(of_family)).iter().all(|text| !text.starts_with("--strategy")));
}

/// The registries of a family are called with the certificate authorities and the proxy of the
/// controller.
#[test]
fn the_hook_has_the_network_of_the_controller() {
    let variable = |pod: &Value, wanted: &str| {
        let variables = pod["spec"]["containers"][0]["env"].as_array().expect("variables").clone();
        variables.into_iter().find(|variable| variable["name"] == wanted)
    };
    let pod = hook(EVERYTHING);
    for wanted in ["CA_BUNDLE", "HTTPS_PROXY", "NO_PROXY", "REGISTRIES_CONFIG"] {
        assert!(variable(&pod, wanted).is_some(), "{wanted}");
    }
    let rendered = documents(&render(EVERYTHING, &[]).expect("rendered"));
    let policies = of_kind(&rendered, "NetworkPolicy");
    let of_controller = policies.iter().find(|policy| policy["metadata"]["name"] == "rebuilds");
    let policy = &of_controller.expect("a policy")["spec"]["podSelector"];
    let deployment = &of_kind(&rendered, "Deployment")[0]["spec"]["template"];
    for labels in [&pod["metadata"]["labels"], &deployment["metadata"]["labels"]] {
        for (key, value) in policy["matchLabels"].as_object().expect("labels") {
            assert_eq!(labels[key], *value);
        }
        for expression in policy["matchExpressions"].as_array().expect("expressions") {
            let key = expression["key"].as_str().expect("a key");
            let values = expression["values"].as_array().expect("values");
            assert!(values.contains(&labels[key]), "{labels}");
        }
    }
}

/// Otherwise the Service would send requests for metrics to a pod that does not answer.
#[test]
fn the_service_does_not_select_the_pod() {
    for (name, values) in VALUES {
        let pod = hook(values);
        let rendered = documents(&render(values, &[]).expect("rendered"));
        let selector = of_kind(&rendered, "Service")[0]["spec"]["selector"].clone();
        let labels = &pod["metadata"]["labels"];
        let selects = selector
            .as_object()
            .expect("a selector")
            .iter()
            .all(|(key, value)| labels[key] == *value);
        assert!(!selects, "{name}: {labels}");
        assert_eq!(pod["metadata"]["annotations"]["helm.sh/hook"], json!("test"));
    }
}

/// The pre-flight asks for the rights that the chart gives.
#[test]
fn the_checked_rights_are_those_of_the_rendered_role() {
    let rules = |rendered: &[Value], kind: &str| -> Vec<RoleRule> {
        let roles = of_kind(rendered, kind);
        let role = roles.iter().find(|role| role["metadata"]["name"] == "groundswell");
        let rules = role.expect("the controller's role")["rules"].as_array().expect("rules");
        let parsed = rules.iter().filter(|rule| rule.get("resourceNames").is_none());
        parsed.map(|rule| serde_json::from_value(rule.clone()).expect("a rule")).collect()
    };
    let checked = controller_rules().expect("rules");
    let namespaced = documents(&render(NAMESPACES, &[]).expect("rendered"));
    assert_eq!(rules(&namespaced, "Role"), checked);
    let cluster_wide = rules(&documents(&render(DEFAULTS, &[]).expect("rendered")), "ClusterRole");
    let not_given: BTreeSet<String> = checked
        .iter()
        .filter(|rule| !cluster_wide.contains(rule))
        .map(|rule| format!("{rule:?}"))
        .collect();
    assert!(not_given.is_empty(), "{not_given:?}");
}
