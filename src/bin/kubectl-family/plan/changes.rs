//! What another manifest changes in an image, by field.

use serde_json::{Map, Value};

use groundswell::api::Image;

/// Maximum number of fields that are named.
const MAX_FIELDS: usize = 8;

/// Returns the fields of an image that two manifests set differently, for example `args.VERSION`.
pub fn changed_fields(before: &Image, after: &Image) -> Vec<String> {
    let value = |image: &Image| serde_json::to_value(image).unwrap_or_default();
    let mut fields = Vec::new();
    compare("", &value(before), &value(after), &mut fields);
    fields.truncate(MAX_FIELDS);
    fields
}

fn compare(path: &str, before: &Value, after: &Value, fields: &mut Vec<String>) {
    let empty = Map::new();
    // A field that is left out is an object without fields, if the other one is an object.
    let fields_of = |value: &Value| value.is_null() || value.is_object();
    let is_object = before.is_object() || after.is_object();
    if !(is_object && fields_of(before) && fields_of(after)) {
        if before != after {
            fields.push(path.to_owned());
        }
        return;
    }
    let (old, new) = (before.as_object().unwrap_or(&empty), after.as_object().unwrap_or(&empty));
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let part = |object: &Map<String, Value>| object.get(name).cloned().unwrap_or(Value::Null);
        compare(&path, &part(old), &part(new), fields);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_fields_are_named_with_their_paths() {
        let before = Image { name: "a".into(), tags: vec!["1".into()], ..Image::default() };
        assert_eq!(changed_fields(&before, &before), Vec::<String>::new());
        let mut after = Image { tags: vec!["2".into()], ..before.clone() };
        after.args.insert("VERSION".into(), "3".into());
        assert_eq!(changed_fields(&before, &after), ["args.VERSION", "tags"]);
    }
}
