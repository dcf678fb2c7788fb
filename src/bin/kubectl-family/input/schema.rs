//! What the API server would reject in an `ImageFamily`, found without a server: everything that
//! its schema says, and fields that it does not know. The rules in CEL are left to the server.

use jsonschema::{ValidationError, Validator, error::ValidationErrorKind};
use kube::CustomResourceExt as _;
use serde_json::{Map, Value, json};

use groundswell::api::{ImageFamily, condition::shorten};

/// Maximum number of problems of one object.
const MAX_PROBLEMS: usize = 100;
/// Maximum number of characters of a message: it may quote a value.
const MAX_MESSAGE: usize = 300;

/// A violation of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// JSON pointer of the field.
    pub pointer: String,
    /// What is wrong, with the path of the field.
    pub message: String,
}

/// The schema of `ImageFamily`.
#[derive(Debug)]
pub struct FamilySchema(Validator);

impl FamilySchema {
    /// Compiles the schema of the definition.
    ///
    /// # Errors
    ///
    /// Never: the schema is generated, and a test compiles it.
    pub fn compile() -> anyhow::Result<Self> {
        let definition = serde_json::to_value(ImageFamily::crd())?;
        let written = definition.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec");
        let mut spec = written.cloned().unwrap_or_default();
        close(&mut spec);
        let schema = json!({
            "type": "object",
            "required": ["apiVersion", "kind", "metadata", "spec"],
            "properties": {
                "apiVersion": {}, "kind": {}, "status": {},
                "metadata": metadata_schema(),
                "spec": spec,
            },
            "additionalProperties": false,
        });
        let compiled = Validator::new(&schema);
        Ok(Self(compiled.map_err(|error| anyhow::anyhow!("compile the schema: {error}"))?))
    }

    /// Returns the violations of an object, at most [`MAX_PROBLEMS`].
    pub fn violations(&self, object: &Value) -> Vec<Violation> {
        let errors = self.0.iter_errors(object);
        errors.take(MAX_PROBLEMS).flat_map(|error| violations_of(&error, object)).collect()
    }
}

/// Removes the fields that are null, as the API server does before it checks an object (see
/// "Defaulting and Nullable" in the documentation of custom resource definitions). Nulls in lists
/// stay, and are rejected.
pub fn prune_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(prune_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(prune_nulls),
        _ => {}
    }
}

/// Returns the schema of `metadata`: the fields of every object of Kubernetes.
fn metadata_schema() -> Value {
    let name = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
    let texts = json!({"type": ["object", "null"], "additionalProperties": {"type": "string"}});
    json!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "maxLength": 47, "pattern": name},
            "namespace": {"type": "string", "maxLength": 63, "pattern": name},
            "labels": texts,
            "annotations": texts,
            "creationTimestamp": {},
            "deletionGracePeriodSeconds": {},
            "deletionTimestamp": {},
            "finalizers": {},
            "generateName": {},
            "generation": {},
            "managedFields": {},
            "ownerReferences": {},
            "resourceVersion": {},
            "selfLink": {},
            "uid": {},
        },
        "additionalProperties": false,
    })
}

/// Returns one violation for each field that an error is about.
fn violations_of(error: &ValidationError<'_>, object: &Value) -> Vec<Violation> {
    let pointer = error.instance_path().as_str().to_owned();
    let violation = |pointer: String, message: String| {
        let path = path(&pointer, object);
        let message = shorten(&format!("{path}: {message}"), MAX_MESSAGE);
        Violation { pointer, message }
    };
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            let unknown = unexpected.iter().map(|field| {
                let pointer = format!("{pointer}/{}", field.replace('~', "~0").replace('/', "~1"));
                violation(pointer, "there is no such field; correct or remove it".into())
            });
            unknown.collect()
        }
        _ => vec![violation(pointer, error.to_string())],
    }
}

/// Writes a JSON pointer as a path: `spec.images[base].from`. Items with a name are named.
fn path(pointer: &str, object: &Value) -> String {
    let mut path = String::new();
    let mut value = Some(object);
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        let items = value.and_then(Value::as_array);
        if let (Some(items), Ok(index)) = (items, part.parse::<usize>()) {
            value = items.get(index);
            let name = value.and_then(|item| item.get("name")).and_then(Value::as_str);
            path = format!("{path}[{}]", name.unwrap_or(&part));
        } else {
            value = value.and_then(|value| value.get(&part));
            let dot = if path.is_empty() { "" } else { "." };
            path = format!("{path}{dot}{part}");
        }
    }
    if path.is_empty() { "the object".into() } else { path }
}

/// Makes unknown fields violations: of every object of the schema that lists its fields.
fn close(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    let is_open = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    if schema.contains_key("properties") && !is_open {
        schema.entry("additionalProperties").or_insert(Value::Bool(false));
    }
    for part in ["items", "additionalProperties"] {
        if let Some(part) = schema.get_mut(part) {
            close(part);
        }
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        close_all(properties);
    }
}

fn close_all(properties: &mut Map<String, Value>) {
    properties.values_mut().for_each(close);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(spec: Value) -> Vec<String> {
        let object = json!({"apiVersion": "groundswell.dev/v1alpha1", "kind": "ImageFamily",
            "metadata": {"name": "f"}, "spec": spec});
        let schema = FamilySchema::compile().expect("a schema");
        schema.violations(&object).into_iter().map(|found| found.message).collect()
    }

    #[test]
    fn all_violations_are_found_at_once() {
        let image = json!({"name": "a", "from": [], "source": {"inline": "FROM scratch"}});
        let valid = json!({"repository": "r.example/a", "images": [image]});
        assert_eq!(violations(valid), Vec::<String>::new());
        let found = violations(json!({
            "repository": "r.example/a",
            "imagse": [],
            "images": [{"name": "a", "form": [], "tags": "latest"}],
            "policy": {"parallelism": "4"},
        }));
        for expected in [
            "spec.imagse: there is no such field",
            "spec.images[a].form: there is no such field",
            "spec.images[a].tags: \"latest\" is not of type \"array\"",
            "spec.policy.parallelism: \"4\" is not of type \"integer\"",
        ] {
            assert!(
                found.iter().any(|found| found.starts_with(expected)),
                "{expected}: {found:#?}"
            );
        }
    }
}
