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
/// is left of the template, whoever sets it. The platform always counts, however it was chosen.
#[must_use]
pub fn strategy_revision(
    strategy: &BuildStrategy,
    chosen: &StrategyRef,
    platform: &Platform,
) -> String {
    let template = without_placement(&strategy.spec.template);
    let used = used_variables(&template);
    let mut values = parameter_values(strategy, chosen);
    values.retain(|name, _| is_used(&used, name));
    image_hash(strategy, platform, &values, &template)
}

/// Returns the revision as it was computed when each value that a family sets counted, wherever the
/// template uses it. `None` if it is the same: the family sets no parameter that only places or
/// limits the pod.
///
/// It stays valid for images that were built under it. Otherwise an upgrade would rebuild them.
#[must_use]
pub fn earlier_revision(
    strategy: &BuildStrategy,
    chosen: &StrategyRef,
    platform: &Platform,
) -> Option<String> {
    let template = without_placement(&strategy.spec.template);
    let used = used_variables(&template);
    let nothing = StrategyRef::default();
    let defaults = parameter_values(strategy, &nothing);
    let mut values = parameter_values(strategy, chosen);
    values.retain(|name, value| defaults.get(name) != Some(value) || is_used(&used, name));
    let is_same = values.keys().all(|name| is_used(&used, name));
    (!is_same).then(|| image_hash(strategy, platform, &values, &template))
}

/// Returns a hash of everything that the pods of builds are made of, with the family's parameters,
/// and of their time limit. With another one, a build that had too little memory may succeed.
#[must_use]
pub fn pod_revision(strategy: &BuildStrategy, chosen: &StrategyRef) -> String {
    let values = parameter_values(strategy, chosen);
    hash(&format!("{:?}", strategy.spec.timeout), &values, &strategy.spec.template)
}

/// Returns the values of the parameters by name: those of the family, or else the defaults. The
/// platform is not among them.
fn parameter_values<'a>(
    strategy: &'a BuildStrategy,
    chosen: &'a StrategyRef,
) -> BTreeMap<&'a str, &'a str> {
    let defaults = strategy.spec.parameters.iter();
    let defaults = defaults.map(|parameter| (parameter.name.as_str(), parameter.default.as_str()));
    let mut values: BTreeMap<_, _> = defaults.collect();
    values.extend(chosen.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    values.remove(PLATFORM_PARAMETER);
    values
}

fn image_hash(
    strategy: &BuildStrategy,
    platform: &Platform,
    values: &BTreeMap<&str, &str>,
    template: &Value,
) -> String {
    hash(&format!("{:?}\n{platform}", strategy.spec.user_namespace), values, template)
}

fn hash(head: &str, values: &BTreeMap<&str, &str>, template: &Value) -> String {
    let mut text = head.to_owned();
    for (name, value) in values {
        let _ = write!(text, "\n{}={}", Value::from(*name), Value::from(*value));
    }
    text.push('\n');
    write_canonical(template, &mut text);
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
    fn a_parameter_counts_where_the_image_depends_on_it_whoever_sets_it() {
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
        assert_eq!(revision(&strategy, &chosen(&[("memory", "2Gi")])), plain);
        assert_ne!(revision(&strategy, &chosen(&[("mode", "b")])), plain);
        let both = edited("/spec/containers/0", "args", json!(["--gc={{ parameters.memory }}"]));
        let both = self::strategy(both);
        let more = chosen(&[("memory", "2Gi")]);
        assert_ne!(revision(&both, &more), revision(&both, &chosen(&[])), "an argument, too");

        // A template that uses the parameters as a whole depends on each of them.
        for argument in ["{{ parameters['memory'] }}", "{% set p = parameters %}{{ p.memory }}"] {
            let whole = || edited("/spec/containers/0", "args", json!([argument]));
            assert_ne!(with_default(0, "2Gi", whole()), revision_of(whole()), "{argument}");
        }
    }

    #[test]
    fn the_earlier_revision_differs_for_what_a_family_sets_without_effect_on_the_image_only() {
        let strategy = strategy(template());
        let earlier = |parameters: &[(&str, &str)]| {
            earlier_revision(&strategy, &chosen(parameters), &Platform::default())
        };
        // As computed by the code before: records have these values.
        assert_eq!(revision(&strategy, &chosen(&[("mode", "b")])), "a6b1e24925ddc9cf");
        assert_eq!(earlier(&[("memory", "2Gi")]).as_deref(), Some("01f48d88db32447e"));
        for same in [&[][..], &[("memory", "1Gi")], &[("mode", "b")]] {
            assert_eq!(earlier(same), None, "{same:?}");
        }
    }

    #[test]
    fn everything_that_the_pod_is_made_of_is_in_its_revision() {
        let strategy = strategy(template());
        let plain = pod_revision(&strategy, &chosen(&[]));
        assert_eq!(pod_revision(&strategy, &chosen(&[("memory", "1Gi")])), plain);
        assert_ne!(pod_revision(&strategy, &chosen(&[("memory", "2Gi")])), plain);
        let elsewhere = edited("/spec", "nodeSelector", json!({"disk": "ssd"}));
        assert_ne!(pod_revision(&self::strategy(elsewhere), &chosen(&[])), plain);
        let mut longer = strategy.clone();
        longer.spec.timeout = crate::api::Duration::from_secs(1);
        assert_ne!(pod_revision(&longer, &chosen(&[])), plain);
        longer.spec.timeout = strategy.spec.timeout;
        longer.spec.description = "other".into();
        assert_eq!(pod_revision(&longer, &chosen(&[])), plain);
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
