//! Checks an updated manifest before it is written: it says what the import wants, and everything
//! that is not the import's is as it was.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};
use serde_json::{Map, Value};

use crate::import::manifest::{ManifestEntry, ManifestField, OWNED_FIELDS};

/// The fields of `source.git` that the import owns.
const OWNED_OF_GIT: [&str; 2] = ["path", "dockerfile"];

/// Returns the value of a field with what a user has added in it: further fields of the source, and
/// further arguments.
pub fn with_fields_of_user(key: &str, wanted: &Value, found: &Value) -> Value {
    match (key, wanted, found) {
        ("args", Value::Object(wanted), Value::Object(found)) => {
            let mut merged = found.clone();
            merged.extend(wanted.clone());
            Value::Object(merged)
        }
        ("source", _, _) => {
            let (Some(Value::Object(own)), Some(Value::Object(found))) =
                (wanted.get("git"), found.get("git"))
            else {
                return wanted.clone();
            };
            let mut merged = found.clone();
            merged.remove("dockerfile");
            merged.extend(own.clone());
            serde_json::json!({ "git": merged })
        }
        _ => wanted.clone(),
    }
}

/// Whether an entry of a manifest is built from the kind of source that the import writes. Another
/// one is a user's.
pub fn has_same_source(entry: &ManifestEntry, found: &Value) -> bool {
    let kinds = |source: Option<&Value>| {
        let fields = source.and_then(Value::as_object).into_iter().flatten();
        fields.map(|(kind, _)| kind.clone()).collect::<BTreeSet<_>>()
    };
    let found = kinds(found.get("source"));
    found.is_empty() || found == kinds(entry.value("source"))
}

/// Checks the new text of a family. `before` is its old value, `wanted` are the entries that the
/// import has updated or added, and `removed` the names of those that it has removed.
///
/// # Errors
/// Returns an error that names what would be lost.
pub fn check(
    before: &Value,
    text: &str,
    wanted: &[ManifestEntry],
    removed: &[String],
) -> anyhow::Result<()> {
    let after: Value = serde_yaml::from_str(text).context("the updated text is no YAML")?;
    let found = images(&after);
    for entry in wanted {
        let Some(value) = found.iter().find(|value| name_of(value) == entry.name()) else {
            bail!("spec.images[{}] could not be added", entry.name());
        };
        let differs = |(key, wanted): &&ManifestField| {
            let found = value.get(*key).unwrap_or(&Value::Null);
            (*key != "tags" || entry.owns_tags) && with_fields_of_user(key, wanted, found) != *found
        };
        if let Some((key, _)) = entry.fields.0.iter().find(differs) {
            bail!("spec.images[{}].{key} could not be updated", entry.name());
        }
    }
    let old = of_user(before, before, wanted, removed);
    let new = of_user(&after, before, wanted, removed);
    if let Some(place) = first_difference(&old, &new) {
        bail!("the update would change {place}, which is not the import's");
    }
    Ok(())
}

fn images(document: &Value) -> &[Value] {
    let images = document.pointer("/spec/images").and_then(Value::as_array);
    images.map(Vec::as_slice).unwrap_or_default()
}

fn name_of(entry: &Value) -> &str {
    entry.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// Returns a document without what the import may change: fields that it owns, entries that it has
/// removed, and what is new since `before`.
fn of_user(
    document: &Value,
    before: &Value,
    wanted: &[ManifestEntry],
    removed: &[String],
) -> Value {
    let mut document = document.clone();
    let known: BTreeSet<&str> = images(before).iter().map(name_of).collect();
    let mut entries = Vec::new();
    for entry in images(&document) {
        let name = name_of(entry);
        if !known.contains(name) || removed.iter().any(|removed| removed == name) {
            continue;
        }
        let own = wanted.iter().find(|wanted| wanted.name() == name);
        entries.push(own.map_or_else(|| entry.clone(), |own| without_owned(entry, own)));
    }
    if let Some(spec) = document.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("images".into(), Value::Array(entries));
        spec.remove("repository");
        for (list, key) in [("upstreams", "name"), ("exports", "image")] {
            let old = before.pointer(&format!("/spec/{list}"));
            let Some(Value::Array(old)) = old else {
                spec.remove(list);
                continue;
            };
            if let Some(Value::Array(items)) = spec.get_mut(list) {
                items.retain(|item| old.iter().any(|old| old.get(key) == item.get(key)));
            }
        }
    }
    document
}

fn without_owned(entry: &Value, own: &ManifestEntry) -> Value {
    let mut fields = entry.as_object().cloned().unwrap_or_default();
    for key in OWNED_FIELDS.into_iter().filter(|key| *key != "tags" || own.owns_tags) {
        match key {
            "args" => {
                let wanted = own.value(key).and_then(Value::as_object);
                let is_owned = |arg: &String| wanted.is_some_and(|wanted| wanted.contains_key(arg));
                retain(&mut fields, key, |arg| !is_owned(arg));
            }
            "source" => {
                if let Some(Value::Object(source)) = fields.get_mut(key) {
                    retain(source, "git", |field| !OWNED_OF_GIT.contains(&field.as_str()));
                    source.remove("inline");
                }
                retain(&mut fields, key, |_| true);
            }
            _ => _ = fields.remove(key),
        }
    }
    Value::Object(fields)
}

/// Keeps some fields of an object, which is removed if none is left.
fn retain(fields: &mut Map<String, Value>, key: &str, is_kept: impl Fn(&String) -> bool) {
    let Some(Value::Object(object)) = fields.get_mut(key) else { return };
    object.retain(|field, _| is_kept(field));
    if object.is_empty() {
        fields.remove(key);
    }
}

/// Returns where two values differ first.
fn first_difference(a: &Value, b: &Value) -> Option<String> {
    let below = |name: &str, inner: Option<String>| {
        inner.map(|inner| if inner.is_empty() { name.into() } else { format!("{name}.{inner}") })
    };
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            keys.into_iter().find_map(|key| match (a.get(key), b.get(key)) {
                (Some(a), Some(b)) => below(key, first_difference(a, b)),
                _ => Some(key.clone()),
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).zip(0_usize..).find_map(|((a, b), at)| {
                let name = a.get("name").and_then(Value::as_str);
                let name = name.map_or_else(|| at.to_string(), str::to_owned);
                below(&name, first_difference(a, b))
            })
        }
        _ => (a != b).then(String::new),
    }
}
