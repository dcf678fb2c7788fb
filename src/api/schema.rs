//! Generates the `CustomResourceDefinition`s from the Rust types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use crate::api::{BuildStrategy, Cascade, FamilyRequest, ImageFamily, ManagedImage};

/// Returns the definitions of all kinds, ready to be applied.
///
/// They differ from what the derive generates in three points. Defaults that are null are removed,
/// because the API server would reject or prune them. A status has no defaults, because the API
/// server would add values that the controller did not write. The keys of a list's items are
/// required, as the API server demands.
pub fn definitions() -> Result<Vec<CustomResourceDefinition>, serde_json::Error> {
    let definitions = [
        ImageFamily::crd(),
        ManagedImage::crd(),
        Cascade::crd(),
        FamilyRequest::crd(),
        BuildStrategy::crd(),
    ];
    definitions.into_iter().map(adjust).collect()
}

fn adjust(
    definition: CustomResourceDefinition,
) -> Result<CustomResourceDefinition, serde_json::Error> {
    let written_by_controller =
        matches!(definition.spec.names.kind.as_str(), "ManagedImage" | "Cascade");
    let mut value = serde_json::to_value(definition)?;
    let versions = value.pointer_mut("/spec/versions").and_then(Value::as_array_mut);
    for version in versions.into_iter().flatten() {
        if let Some(schema) = version.pointer_mut("/schema/openAPIV3Schema") {
            remove_defaults(schema, serde_json::Value::is_null);
            for part in ["spec", "status"] {
                if (part == "status" || written_by_controller)
                    && let Some(part) = schema.pointer_mut(&format!("/properties/{part}"))
                {
                    remove_defaults(part, |_| true);
                }
            }
            require_keys(schema);
        }
    }
    serde_json::from_value(value)
}

/// Makes the fields that identify a list's items required in these items.
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

/// Removes unwanted defaults from a schema. A property named `default` is a schema itself and
/// stays.
fn remove_defaults(schema: &mut Value, unwanted: impl Fn(&Value) -> bool + Copy) {
    let Some(schema) = schema.as_object_mut() else { return };
    if schema.get("default").is_some_and(unwanted) {
        schema.remove("default");
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(|property| remove_defaults(property, unwanted));
    }
    for part in ["items", "additionalProperties"] {
        if let Some(part) = schema.get_mut(part) {
            remove_defaults(part, unwanted);
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
    fn every_field_is_described_by_a_sentence() {
        fn walk(path: &str, schema: &Value, bare: &mut Vec<String>) {
            for (name, property) in
                schema.get("properties").and_then(Value::as_object).into_iter().flatten()
            {
                let path = format!("{path}.{name}");
                let description = property.get("description").and_then(Value::as_str);
                if description.is_none_or(|text| !text.ends_with('.')) {
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
        assert!(bare.is_empty(), "not described by a sentence: {bare:#?}");
    }
}
