//! The fields of a manifest that a type does not have.

use serde_json::Value;

/// Returns the fields of a manifest that are lost when it is read into the type and written again:
/// those that do not exist.
pub fn lost_fields(path: &str, written: &Value, kept: &Value) -> Vec<String> {
    match (written, kept) {
        (Value::Object(written), Value::Object(kept)) => written
            .iter()
            .flat_map(|(name, value)| match kept.get(name) {
                Some(kept) => lost_fields(&format!("{path}.{name}"), value, kept),
                None => vec![format!("{path}.{name}")],
            })
            .collect(),
        (Value::Array(written), Value::Array(kept)) if written.len() == kept.len() => written
            .iter()
            .zip(kept)
            .enumerate()
            .flat_map(|(index, (written, kept))| {
                lost_fields(&format!("{path}[{index}]"), written, kept)
            })
            .collect(),
        _ => Vec::new(),
    }
}
