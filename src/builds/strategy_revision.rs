//! The revision of a `BuildStrategy`: a hash of what in it can change an image, and of nothing
//! else. It is part of every fingerprint. What only places or limits the pod rebuilds no image.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    api::{BuildStrategy, StrategyRef},
    builds::{platform::PLATFORM_PARAMETER, template::used_variables},
    registry::Platform,
};

/// Fields of the pod's spec that cannot change the image.
const POD_FIELDS: [&str; 15] = [
    "affinity",
    "imagePullSecrets",
    "nodeName",
    "nodeSelector",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "resources",
    "runtimeClassName",
    "schedulerName",
    "serviceAccount",
    "serviceAccountName",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
];
/// Fields of a container that cannot change the image.
const CONTAINER_FIELDS: [&str; 2] = ["imagePullPolicy", "resources"];

/// Returns a hash of everything in a strategy that affects the image, with the family's parameters,
/// as 16 hexadecimal digits.
///
/// A change of `description`, `timeout` or `ttlAfterFinished` rebuilds no image, and neither does a
/// change of the pod's metadata, placement or resources. A parameter counts if it is used in what
/// is left of the template, or if the family sets it to another value than its default. The
/// platform always counts, however it was chosen.
#[must_use]
pub fn strategy_revision(
    strategy: &BuildStrategy,
    chosen: &StrategyRef,
    platform: &Platform,
) -> String {
    let template = without_placement(&strategy.spec.template);
    let used = used_variables(&template);
    let defaults: BTreeMap<_, _> = strategy
        .spec
        .parameters
        .iter()
        .map(|parameter| (&parameter.name, &parameter.default))
        .collect();
    let mut values = defaults.clone();
    values.extend(&chosen.parameters);
    values.retain(|name, value| {
        *name != PLATFORM_PARAMETER && (defaults.get(name) != Some(value) || is_used(&used, name))
    });

    let mut text = format!("{:?}\n{platform}", strategy.spec.user_namespace);
    for (name, value) in values {
        let _ = write!(text, "\n{}={}", Value::from(name.as_str()), Value::from(value.as_str()));
    }
    text.push('\n');
    write_canonical(&template, &mut text);
    hex::encode(Sha256::digest(text)).get(..16).unwrap_or_default().to_owned()
}

/// Whether a template that uses these variables depends on a parameter. A template that uses
/// `parameters` as a whole depends on all of them.
fn is_used(used: &BTreeSet<String>, parameter: &str) -> bool {
    used.iter().any(|variable| match variable.strip_prefix("parameters") {
        Some("") => true,
        Some(rest) => rest.strip_prefix('.').is_some_and(|field| {
            field
                .strip_prefix(parameter)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        }),
        None => false,
    })
}

/// Returns a pod template without what only places the pod on a node or limits its resources.
fn without_placement(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(fields) = template.as_object_mut() {
        fields.remove("metadata");
    }
    let Some(pod) = template.get_mut("spec").and_then(Value::as_object_mut) else {
        return template;
    };
    for field in POD_FIELDS {
        pod.remove(field);
    }
    for list in ["containers", "initContainers"] {
        for container in items(pod.get_mut(list)) {
            for field in CONTAINER_FIELDS {
                container.remove(field);
            }
        }
    }
    for volume in items(pod.get_mut("volumes")) {
        if let Some(folder) = volume.get_mut("emptyDir").and_then(Value::as_object_mut) {
            folder.remove("sizeLimit");
        }
    }
    template
}

/// Returns the objects of a list.
fn items(list: Option<&mut Value>) -> impl Iterator<Item = &mut serde_json::Map<String, Value>> {
    list.and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// Appends a value as JSON with sorted fields, so that the order of the fields does not matter.
fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<_, _> = fields.iter().collect();
            text.push('{');
            for (name, field) in sorted {
                let _ = write!(text, "{}:", Value::from(name.as_str()));
                write_canonical(field, text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for item in items {
                write_canonical(item, text);
                text.push(',');
            }
            text.push(']');
        }
        scalar => {
            let _ = write!(text, "{scalar}");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::{BuildStrategySpec, Parameter, UserNamespace};

    fn template() -> Value {
        json!({"spec": {
            "hostUsers": false,
            "containers": [{
                "name": "b",
                "image": "i",
                "args": ["--mode={{ parameters.mode }}"],
                "resources": {"requests": {"memory": "{{ parameters.memory }}"}},
            }],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}],
        }})
    }

    fn strategy(template: Value) -> BuildStrategy {
        let parameters = [("memory", "1Gi"), ("mode", "a")].map(|(name, default)| Parameter {
            name: name.into(),
            default: default.into(),
            ..Parameter::default()
        });
        let spec = BuildStrategySpec {
            parameters: parameters.into(),
            template,
            ..BuildStrategySpec::default()
        };
        BuildStrategy::new("custom", spec)
    }

    fn chosen(parameters: &[(&str, &str)]) -> StrategyRef {
        let parameters =
            parameters.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        StrategyRef { name: "custom".into(), parameters }
    }

    fn revision(strategy: &BuildStrategy, chosen: &StrategyRef) -> String {
        strategy_revision(strategy, chosen, &Platform::default())
    }

    fn revision_of(template: Value) -> String {
        revision(&strategy(template), &chosen(&[]))
    }

    /// Returns the template with a field of its pod or its container replaced.
    fn edited(pointer: &str, field: &str, value: Value) -> Value {
        let mut template = template();
        template.pointer_mut(pointer).expect(pointer)[field] = value;
        template
    }

    #[test]
    fn what_only_places_or_limits_the_pod_does_not_count() {
        let plain = revision_of(template());
        assert_eq!(plain.len(), 16);
        for (pointer, field, value) in [
            ("", "metadata", json!({"annotations": {"sidecar.istio.io/inject": "false"}})),
            ("/spec", "nodeSelector", json!({"disk": "ssd"})),
            ("/spec", "tolerations", json!([{"operator": "Exists"}])),
            ("/spec", "affinity", json!({"nodeAffinity": {}})),
            ("/spec", "topologySpreadConstraints", json!([{"maxSkew": 1}])),
            ("/spec", "priorityClassName", json!("low")),
            ("/spec", "resources", json!({"limits": {"cpu": "1"}})),
            ("/spec", "imagePullSecrets", json!([{"name": "pull"}])),
            ("/spec", "serviceAccountName", json!("builder")),
            ("/spec", "terminationGracePeriodSeconds", json!(30)),
            ("/spec", "runtimeClassName", json!("gvisor")),
            ("/spec", "schedulerName", json!("batch")),
            ("/spec/containers/0", "resources", json!({"limits": {"cpu": "1"}})),
            ("/spec/containers/0", "imagePullPolicy", json!("Always")),
            ("/spec/volumes/0/emptyDir", "sizeLimit", json!("2Gi")),
        ] {
            assert_eq!(revision_of(edited(pointer, field, value)), plain, "{pointer} {field}");
        }
        let mut described = strategy(template());
        described.spec.description = "other".into();
        described.spec.timeout = crate::api::Duration::from_secs(1);
        assert_eq!(revision(&described, &chosen(&[])), plain);
    }

    #[test]
    fn what_can_change_the_image_counts() {
        let plain = revision_of(template());
        for (pointer, field, value) in [
            ("/spec", "hostUsers", json!(true)),
            ("/spec", "hostNetwork", json!(true)),
            ("/spec", "dnsPolicy", json!("None")),
            ("/spec", "securityContext", json!({"runAsUser": 1000})),
            ("/spec", "initContainers", json!([{"name": "first", "image": "i"}])),
            ("/spec/containers/0", "image", json!("j")),
            ("/spec/containers/0", "args", json!(["--mode=b"])),
            ("/spec/containers/0", "command", json!(["sh"])),
            ("/spec/containers/0", "env", json!([{"name": "A", "value": "1"}])),
            ("/spec/containers/0", "securityContext", json!({"privileged": true})),
            ("/spec/volumes/0/emptyDir", "medium", json!("Memory")),
        ] {
            assert_ne!(revision_of(edited(pointer, field, value)), plain, "{pointer} {field}");
        }
        let mut other = strategy(template());
        other.spec.user_namespace = UserNamespace::NotRequired;
        assert_ne!(revision(&other, &chosen(&[])), plain);
        let reordered = json!({"spec": {
            "volumes": [{"emptyDir": {}, "name": "v"}],
            "containers": [{"args": ["--mode={{ parameters.mode }}"], "image": "i", "name": "b"}],
            "hostUsers": false,
        }});
        assert_eq!(revision_of(reordered), plain, "the order of fields does not matter");
    }

    #[test]
    fn a_default_counts_where_the_image_depends_on_it_and_a_value_that_a_family_sets_always() {
        let plain = revision_of(template());
        let with_default = |parameter: usize, value: &str, template: Value| {
            let mut strategy = strategy(template);
            strategy.spec.parameters[parameter].default = value.into();
            revision(&strategy, &chosen(&[]))
        };
        assert_eq!(with_default(0, "2Gi", template()), plain, "memory is only requested");
        assert_ne!(with_default(1, "b", template()), plain, "mode is an argument");
        let mut added = strategy(template());
        added.spec.parameters.push(Parameter { name: "disk".into(), ..Parameter::default() });
        assert_eq!(revision(&added, &chosen(&[])), plain, "nothing uses it");

        let strategy = strategy(template());
        assert_eq!(revision(&strategy, &chosen(&[("memory", "1Gi")])), plain);
        assert_ne!(revision(&strategy, &chosen(&[("memory", "2Gi")])), plain);
        assert_ne!(revision(&strategy, &chosen(&[("mode", "b")])), plain);

        // A template that uses the parameters as a whole depends on each of them.
        for argument in ["{{ parameters['memory'] }}", "{% set p = parameters %}{{ p.memory }}"] {
            let whole = || edited("/spec/containers/0", "args", json!([argument]));
            assert_ne!(with_default(0, "2Gi", whole()), revision_of(whole()), "{argument}");
        }
    }

    #[test]
    fn the_platform_counts_however_it_was_chosen() {
        let mut strategy = strategy(template());
        let arm = Platform::from_user("linux/arm64").expect("a platform");
        let plain = revision(&strategy, &chosen(&[]));
        let other = strategy_revision(&strategy, &chosen(&[]), &arm);
        assert_ne!(other, plain);
        strategy
            .spec
            .parameters
            .push(Parameter { name: "platform".into(), ..Parameter::default() });
        let named = chosen(&[("platform", "linux/arm64")]);
        assert_eq!(strategy_revision(&strategy, &named, &arm), other);
    }
}
