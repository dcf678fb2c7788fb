//! The cluster itself: the version of its API server, and the definitions of our kinds.

use std::collections::BTreeSet;

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::version::Info,
};
use kube::Client;
use serde_json::Value;

use crate::{
    api::{GROUP, VERSION, schema::definitions},
    build_info,
    preflight::{
        call::{CallError, call, document},
        report::Finding,
    },
};

/// The oldest minor version of Kubernetes that is supported.
const OLDEST_MINOR: u32 = 33;
/// Maximum number of fields that a message names.
const MAX_NAMED_FIELDS: usize = 3;
/// Maximum depth of a schema that is compared.
const MAX_DEPTH: usize = 24;

const API_SERVER: &str = "API server";
const DEFINITIONS: &str = "CustomResourceDefinitions";

/// Checks the version of the API server.
pub async fn check_version(client: &Client) -> Finding {
    match call(client.apiserver_version()).await {
        Ok(version) => judge_version(&version),
        Err(error) => Finding::problem(
            API_SERVER,
            format!("does not answer: {error}; check the address and the credential"),
        ),
    }
}

/// Checks that the API server serves the kinds of this version.
pub async fn check_definitions(client: &Client) -> Finding {
    let wanted = match definitions() {
        Ok(wanted) => wanted,
        Err(error) => return Finding::not_checked(DEFINITIONS, error.to_string()),
    };
    match document(client, &format!("/openapi/v3/apis/{GROUP}/{VERSION}")).await {
        Ok(served) => judge_definitions(&served, &wanted),
        Err(CallError::NotFound(_)) => judge_definitions(&Value::Null, &wanted),
        Err(error) => Finding::not_checked(DEFINITIONS, error.to_string()),
    }
}

fn judge_version(version: &Info) -> Finding {
    // An API server that emulates another version has the features of that one.
    let minor = version.emulation_minor.as_ref().filter(|minor| !minor.is_empty());
    let minor = minor.unwrap_or(&version.minor);
    let digits = minor.trim_end_matches(|c: char| !c.is_ascii_digit());
    let name = &version.git_version;
    match (version.major.as_str(), digits.parse::<u32>()) {
        ("1", Ok(minor)) if minor < OLDEST_MINOR => Finding::problem(
            API_SERVER,
            format!(
                "Kubernetes {name} is too old: it gives pods no user namespaces without a feature \
                 gate; upgrade to 1.{OLDEST_MINOR} or newer"
            ),
        ),
        (_, Ok(_)) => Finding::ok(API_SERVER, format!("Kubernetes {name}")),
        (_, Err(_)) => {
            Finding::not_checked(API_SERVER, format!("`{name}` is not a version of Kubernetes"))
        }
    }
}

/// Compares the fields of the kinds. `served` is the API server's `OpenAPI` document of our group.
fn judge_definitions(served: &Value, wanted: &[CustomResourceDefinition]) -> Finding {
    let install = "install Groundswell, or use --pre to check what comes before the installation";
    let (mut absent, mut missing, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for definition in wanted {
        let kind = &definition.spec.names.kind;
        let Some(served) = served_schema(served, kind) else {
            absent.push(kind.as_str());
            continue;
        };
        let own = fields(kind, &own_schema(definition));
        let served = fields(kind, served);
        missing.extend(own.difference(&served).cloned());
        unknown.extend(served.difference(&own).cloned());
    }
    let version = build_info::VERSION;
    if absent.len() == wanted.len() {
        let problem = format!("the cluster does not serve {GROUP}/{VERSION}; {install}");
        return Finding::problem(DEFINITIONS, problem);
    }
    if !absent.is_empty() {
        let problem =
            format!("the cluster does not serve {}; apply deploy/crds.yaml", absent.join(", "));
        return Finding::problem(DEFINITIONS, problem);
    }
    if !missing.is_empty() {
        return Finding::problem(
            DEFINITIONS,
            format!(
                "they are older than {version}: {} missing; apply deploy/crds.yaml of this \
                 version, or upgrade the chart with crds.install",
                name_fields(&missing)
            ),
        );
    }
    if !unknown.is_empty() {
        return Finding::problem(
            DEFINITIONS,
            format!(
                "they are not those of {version}: {} unknown to it; use the plugin of the \
                 installed version",
                name_fields(&unknown)
            ),
        );
    }
    Finding::ok(DEFINITIONS, format!("the {} kinds of {version}", wanted.len()))
}

fn name_fields(fields: &[String]) -> String {
    let named = fields.iter().take(MAX_NAMED_FIELDS).cloned().collect::<Vec<_>>().join(", ");
    match fields.len() {
        1 => format!("{named} is"),
        n if n <= MAX_NAMED_FIELDS => format!("{named} are"),
        n => format!("{named} and {} more are", n - MAX_NAMED_FIELDS),
    }
}

/// Returns the schema of a kind in an `OpenAPI` document.
fn served_schema<'a>(document: &'a Value, kind: &str) -> Option<&'a Value> {
    let schemas = document.pointer("/components/schemas")?.as_object()?;
    schemas.values().find(|schema| {
        let kinds = schema["x-kubernetes-group-version-kind"].as_array();
        kinds.into_iter().flatten().any(|named| named["group"] == GROUP && named["kind"] == kind)
    })
}

fn own_schema(definition: &CustomResourceDefinition) -> Value {
    let version = definition.spec.versions.iter().find(|version| version.name == VERSION);
    let schema = version.and_then(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref());
    serde_json::to_value(schema).unwrap_or_default()
}

/// Returns the paths of the fields of a kind's `spec` and `status`.
fn fields(kind: &str, schema: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for part in ["spec", "status"] {
        if let Some(schema) = schema["properties"].get(part) {
            collect_fields(schema, &format!("{kind}.{part}"), 0, &mut found);
        }
    }
    found
}

fn collect_fields(schema: &Value, path: &str, depth: usize, found: &mut BTreeSet<String>) {
    found.insert(path.to_owned());
    if depth > MAX_DEPTH {
        return;
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        collect_fields(field, &format!("{path}.{name}"), depth + 1, found);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(inner).filter(|inner| inner.is_object()) {
            collect_fields(inner, path, depth + 1, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::preflight::report::Verdict;

    fn version(minor: &str, emulated: Option<&str>) -> Verdict {
        judge_version(&Info {
            major: "1".into(),
            minor: minor.into(),
            git_version: format!("v1.{minor}.0"),
            emulation_minor: emulated.map(Into::into),
            ..Info::default()
        })
        .verdict
    }

    #[test]
    fn old_versions_are_a_problem() {
        assert_eq!(version("32", None), Verdict::Problem);
        assert_eq!(version("33", None), Verdict::Ok);
        assert_eq!(version("34+", None), Verdict::Ok);
        assert_eq!(version("36", Some("32")), Verdict::Problem);
        assert_eq!(version("36", Some("")), Verdict::Ok);
        assert_eq!(version("", None), Verdict::NotChecked);
    }

    /// Returns the document of an API server that serves these definitions.
    fn served(definitions: &[CustomResourceDefinition]) -> Value {
        let schemas: serde_json::Map<String, Value> = definitions
            .iter()
            .map(|definition| {
                let kind = &definition.spec.names.kind;
                let mut schema = own_schema(definition);
                schema["x-kubernetes-group-version-kind"] =
                    json!([{"group": GROUP, "kind": kind, "version": VERSION}]);
                (format!("dev.groundswell.{VERSION}.{kind}"), schema)
            })
            .collect();
        json!({"components": {"schemas": schemas}})
    }

    #[test]
    fn definitions_are_compared_by_their_fields() {
        let wanted = definitions().expect("definitions");
        let same = judge_definitions(&served(&wanted), &wanted);
        assert_eq!(same.verdict, Verdict::Ok, "{}", same.message);
        let none = judge_definitions(&Value::Null, &wanted);
        assert!(none.message.contains("--pre") && none.verdict == Verdict::Problem, "{none:?}");
        let one = judge_definitions(&served(&wanted[1..]), &wanted);
        assert!(one.message.contains("does not serve ImageFamily;"), "{}", one.message);

        let policy = "/components/schemas/dev.groundswell.v1alpha1.ImageFamily/properties/spec/\
                      properties/policy/properties";
        let mut older = served(&wanted);
        let fields = older.pointer_mut(policy).and_then(Value::as_object_mut).expect("fields");
        assert!(fields.remove("rateLimit").is_some());
        let older = judge_definitions(&older, &wanted);
        assert_eq!(older.verdict, Verdict::Problem);
        assert!(older.message.contains("ImageFamily.spec.policy.rateLimit"), "{}", older.message);
        assert!(older.message.contains("older") && older.message.contains("crds.yaml"));

        let mut newer = served(&wanted);
        newer.pointer_mut(policy).expect("fields")["later"] = json!({"type": "string"});
        let newer = judge_definitions(&newer, &wanted);
        assert!(newer.message.contains("ImageFamily.spec.policy.later is unknown"), "{newer:?}");
    }
}
