//! The `CustomResourceDefinition`s, from the Rust types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use crate::api::{BuildStrategy, Cascade, ImageFamily, ManagedImage};

/// The definitions of all four kinds, ready to be applied.
///
/// What the derive writes is mended in three points: defaults that are null are left out (the API
/// server would refuse or prune them), a status has no defaults (the controller says what it knows,
/// and nothing is to be added to that), and the keys of a list's items are required (the API server
/// asks for it).
pub fn definitions() -> Result<Vec<CustomResourceDefinition>, serde_json::Error> {
    [ImageFamily::crd(), ManagedImage::crd(), Cascade::crd(), BuildStrategy::crd()]
        .into_iter()
        .map(mend)
        .collect()
}

fn mend(
    definition: CustomResourceDefinition,
) -> Result<CustomResourceDefinition, serde_json::Error> {
    let kept_by_controller =
        matches!(definition.spec.names.kind.as_str(), "ManagedImage" | "Cascade");
    let mut value = serde_json::to_value(definition)?;
    let versions = value.pointer_mut("/spec/versions").and_then(Value::as_array_mut);
    for version in versions.into_iter().flatten() {
        if let Some(schema) = version.pointer_mut("/schema/openAPIV3Schema") {
            strip(schema, serde_json::Value::is_null);
            for part in ["spec", "status"] {
                if (part == "status" || kept_by_controller)
                    && let Some(part) = schema.pointer_mut(&format!("/properties/{part}"))
                {
                    strip(part, |_| true);
                }
            }
            require_keys(schema);
        }
    }
    serde_json::from_value(value)
}

/// Makes the fields that a list's items are told apart by required in these items.
fn require_keys(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    let keys = schema
        .get("x-kubernetes-list-map-keys")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if let Some(items) = schema.get_mut("items") {
        require_keys(items);
        if let Some(items) = items.as_object_mut().filter(|_| !keys.is_empty())
            && let Some(required) =
                items.entry("required").or_insert_with(|| Value::Array(Vec::new())).as_array_mut()
        {
            required
                .extend(keys.into_iter().filter(|key| !required.contains(key)).collect::<Vec<_>>());
        }
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(require_keys);
    }
    if let Some(values) = schema.get_mut("additionalProperties") {
        require_keys(values);
    }
}

/// Takes defaults out of a schema. A property named `default` is a schema itself, and stays.
fn strip(schema: &mut Value, unwanted: impl Fn(&Value) -> bool + Copy) {
    let Some(schema) = schema.as_object_mut() else { return };
    if schema.get("default").is_some_and(unwanted) {
        schema.remove("default");
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(|property| strip(property, unwanted));
    }
    for part in ["items", "additionalProperties"] {
        if let Some(part) = schema.get_mut(part) {
            strip(part, unwanted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_structural_and_free_of_foreign_formats() {
        for definition in definitions().expect("definitions") {
            let text = serde_json::to_string(&definition).expect("json");
            assert!(!text.contains("\"uint"), "{}: an unsigned format", definition.spec.names.kind);
            assert!(
                !text.contains("anyOf") && !text.contains("$ref"),
                "{}: not structural",
                definition.spec.names.kind
            );
            assert!(
                !text.contains("\"default\":null"),
                "{}: a null default",
                definition.spec.names.kind
            );
        }
    }

    #[test]
    fn every_field_is_described() {
        fn walk(path: &str, schema: &Value, bare: &mut Vec<String>) {
            for (name, property) in
                schema.get("properties").and_then(Value::as_object).into_iter().flatten()
            {
                let path = format!("{path}.{name}");
                if property.get("description").is_none() && !path.ends_with(".metadata") {
                    bare.push(path.clone());
                }
                walk(&path, property, bare);
                if let Some(items) = property.get("items") {
                    walk(&format!("{path}[]"), items, bare);
                }
            }
        }
        let mut bare = Vec::new();
        for definition in definitions().expect("definitions") {
            let value = serde_json::to_value(&definition).expect("json");
            let schema = value.pointer("/spec/versions/0/schema/openAPIV3Schema").expect("schema");
            for part in ["spec", "status"] {
                if let Some(part_schema) = schema.pointer(&format!("/properties/{part}")) {
                    walk(&format!("{}.{part}", definition.spec.names.kind), part_schema, &mut bare);
                }
            }
        }
        assert!(bare.is_empty(), "without a description: {bare:#?}");
    }
}
