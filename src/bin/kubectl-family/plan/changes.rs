//! What another manifest changes in an image and in its family, by field.

use serde_json::{Map, Value};

use groundswell::api::{Image, ImageFamilySpec};

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

/// Returns the fields of a family, except its images, that two manifests set differently, for
/// example `policy.parallelism` or `upstreams[debian].hold`.
pub fn changed_family_fields(before: &ImageFamilySpec, after: &ImageFamilySpec) -> Vec<String> {
    let value = |spec: &ImageFamilySpec| {
        let mut value = serde_json::to_value(spec).unwrap_or_default();
        if let Some(fields) = value.as_object_mut() {
            fields.remove("images");
        }
        by_name(value)
    };
    let mut fields = Vec::new();
    compare("", &value(before), &value(after), &mut fields);
    fields.truncate(MAX_FIELDS);
    fields
}

/// Returns a value in which lists of objects with names are objects with a field for each name.
fn by_name(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(name, field)| (name, by_name(field))).collect())
        }
        Value::Array(items) => {
            let named = items.iter().map(|item| {
                let name = ["name", "image"].iter().find_map(|field| item.get(field)?.as_str());
                Some((format!("[{}]", name?), by_name(item.clone())))
            });
            let named: Option<Map<String, Value>> = named.collect();
            named.filter(|named| !named.is_empty()).map_or(Value::Array(items), Value::Object)
        }
        other => other,
    }
}

fn compare(path: &str, before: &Value, after: &Value, fields: &mut Vec<String>) {
    let empty = Map::new();
    // A field that is left out is an object without fields, if the other one is an object. An
    // element of a list that is added or removed is one change.
    let fields_of = |value: &Value| value.is_null() || value.is_object();
    let is_object = before.is_object() || after.is_object();
    let is_element = path.ends_with(']') && (before.is_null() || after.is_null());
    if is_element || !(is_object && fields_of(before) && fields_of(after)) {
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
        let path = match path {
            "" => name.clone(),
            _ if name.starts_with('[') => format!("{path}{name}"),
            _ => format!("{path}.{name}"),
        };
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
