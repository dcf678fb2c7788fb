//! Updates the text of a manifest: the lines of what the import owns and has changed are replaced,
//! and every other line stays, with its comments.

use std::ops::Range;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::import::{
    manifest::{
        FamilyManifest, ManifestEntry, ManifestField, OWNED_FIELDS, OrderedFields, export_fields,
        indented, item, yaml,
    },
    yaml_lines::{self, LineEntry, LineNode},
};

/// What happens to images that no file builds any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrphanPolicy {
    Keep,
    Remove,
}

/// A manifest after the update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergedManifest {
    pub text: String,
    /// What has changed, one line for each field.
    pub changes: Vec<String>,
    /// The names of entries that no file builds.
    pub orphans: Vec<String>,
}

/// Lines to replace, and what to write there.
struct LineEdit {
    lines: Range<usize>,
    text: String,
}

/// Updates the document of a family.
///
/// # Errors
/// Returns an error if the document is written in a way in which parts of it cannot be replaced.
pub fn merge(
    text: &str,
    value: &Value,
    manifest: &FamilyManifest,
    orphans: OrphanPolicy,
) -> anyhow::Result<MergedManifest> {
    let root = yaml_lines::parse(text)?.context("the document is empty")?;
    let spec = root.entry("spec").context("it has no `spec`")?;
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut merge =
        Merge { lines: &lines, edits: Vec::new(), changes: Vec::new(), orphans: Vec::new() };
    merge.repository(&spec.value, manifest)?;
    merge.images(&spec.value, value, manifest, orphans)?;
    merge.add_missing(&spec.value, "upstreams", "name", &manifest.upstreams)?;
    let exports: Vec<_> = manifest.exports.iter().map(|image| export_fields(image)).collect();
    merge.add_missing(&spec.value, "exports", "image", &exports)?;
    let Merge { edits, changes, orphans, .. } = merge;
    let text = apply(&lines, edits);
    check(&text, manifest)?;
    Ok(MergedManifest { text, changes, orphans })
}

struct Merge<'a> {
    lines: &'a [&'a str],
    edits: Vec<LineEdit>,
    changes: Vec<String>,
    orphans: Vec<String>,
}

impl Merge<'_> {
    fn repository(&mut self, spec: &LineNode, manifest: &FamilyManifest) -> anyhow::Result<()> {
        let entry = spec.entry("repository").context("`spec` has no `repository`")?;
        if entry.value.text() == Some(&manifest.repository) {
            return Ok(());
        }
        self.changes.push("spec.repository".into());
        self.replace(entry, &("repository", Value::String(manifest.repository.clone())))
    }

    fn images(
        &mut self,
        spec: &LineNode,
        value: &Value,
        manifest: &FamilyManifest,
        orphans: OrphanPolicy,
    ) -> anyhow::Result<()> {
        let images = spec.entry("images").context("`spec` has no `images`")?;
        let items = images.value.items();
        let values = value.pointer("/spec/images").and_then(Value::as_array);
        let values = values.map(Vec::as_slice).unwrap_or_default();
        let mut known = Vec::new();
        for (node, value) in items.iter().zip(values) {
            let name = value.get("name").and_then(Value::as_str).unwrap_or_default();
            known.push(name);
            match manifest.entries.iter().find(|entry| entry.name() == name) {
                Some(entry) => self.update(node, value, entry)?,
                // What is built from anything but Git is not from an import.
                None if value.pointer("/source/inline").is_some()
                    || value.pointer("/source/configMap").is_some() => {}
                None if orphans == OrphanPolicy::Remove => {
                    self.changes.push(format!("spec.images[{name}] is removed"));
                    let lines = node.first_line..node.last_line + 1;
                    self.edits.push(LineEdit { lines, text: String::new() });
                }
                None => self.orphans.push(name.to_owned()),
            }
        }
        let new: Vec<&ManifestEntry> =
            manifest.entries.iter().filter(|entry| !known.contains(&entry.name())).collect();
        for entry in &new {
            self.changes.push(format!("spec.images[{}] is new", entry.name()));
        }
        let new: Vec<&OrderedFields> = new.iter().map(|entry| &entry.fields).collect();
        self.append(spec, "images", &new)
    }

    /// Updates the fields of an entry that the import owns.
    fn update(
        &mut self,
        node: &LineNode,
        value: &Value,
        entry: &ManifestEntry,
    ) -> anyhow::Result<()> {
        let mut last = node.last_line;
        let mut missing: Vec<ManifestField> = Vec::new();
        for key in OWNED_FIELDS.into_iter().filter(|key| *key != "tags" || entry.owns_tags) {
            let wanted = entry.fields.0.iter().find(|(name, _)| *name == key);
            let found = value.get(key);
            match (wanted, found) {
                (None, None) => {}
                // Arguments that no file says are those of a user.
                (None, Some(_)) if key == "args" => {}
                (None, Some(found)) if is_empty(found) => {}
                (None, Some(_)) => {
                    let lines = node.entry(key).filter(|entry| entry.is_block);
                    let lines = lines.context("an entry is written in braces")?;
                    self.changes.push(format!("spec.images[{}].{key} is removed", entry.name()));
                    let range = lines.key_line..lines.value.last_line + 1;
                    self.edits.push(LineEdit { lines: range, text: String::new() });
                }
                (Some((name, wanted)), Some(found)) => {
                    let wanted = with_fields_of_user(key, wanted, found);
                    if wanted != *found {
                        let place = node.entry(key).context("a key is an alias")?;
                        self.changes.push(format!("spec.images[{}].{key}", entry.name()));
                        self.replace(place, &(name, wanted))?;
                    }
                }
                (Some(field), None) => missing.push(field.clone()),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        if !node.entries().iter().all(|entry| entry.is_block) {
            bail!("spec.images[{}] is written in braces; write it in lines", entry.name());
        }
        for (key, _) in &missing {
            self.changes.push(format!("spec.images[{}].{key}", entry.name()));
        }
        let column = node.entries().first().map_or(4, |entry| entry.column);
        let text = indented(&yaml(&OrderedFields(missing))?, column);
        last += 1;
        self.edits.push(LineEdit { lines: last..last, text });
        Ok(())
    }

    /// Replaces a field. Comments in its lines stay, above it or at its end.
    fn replace(&mut self, entry: &LineEntry, field: &ManifestField) -> anyhow::Result<()> {
        if !entry.is_block {
            bail!("line {}: the entry is in braces; write it in lines", entry.key_line + 1);
        }
        let range = entry.key_line..entry.value.last_line + 1;
        let text = yaml(&OrderedFields(vec![field.clone()]))?;
        let first = self.lines.get(entry.key_line).copied().unwrap_or_default();
        let prefix: String = first.chars().take(entry.column).collect();
        let mut text = prefix + indented(&text, entry.column).trim_start_matches(' ');
        let old = self.lines.get(range.clone()).unwrap_or_default();
        // What begins with `#` in the text of a Dockerfile is no comment of the manifest.
        let is_text = field.1.get("inline").is_some();
        if !is_text {
            text = with_comments(&text, old, entry.column);
        }
        self.edits.push(LineEdit { lines: range, text });
        Ok(())
    }

    /// Adds the items of a list that it does not have.
    fn add_missing(
        &mut self,
        spec: &LineNode,
        list: &'static str,
        key: &str,
        wanted: &[OrderedFields],
    ) -> anyhow::Result<()> {
        let known: Vec<&str> = spec
            .entry(list)
            .map(|entry| entry.value.items())
            .unwrap_or_default()
            .iter()
            .filter_map(|item| item.entry(key)?.value.text())
            .collect();
        let name = |fields: &OrderedFields| {
            let found = fields.0.iter().find(|(name, _)| *name == key);
            found.and_then(|(_, value)| value.as_str()).unwrap_or_default().to_owned()
        };
        let new: Vec<&OrderedFields> =
            wanted.iter().filter(|fields| !known.contains(&name(fields).as_str())).collect();
        for fields in &new {
            self.changes.push(format!("spec.{list}[{}] is new", name(fields)));
        }
        self.append(spec, list, &new)
    }

    /// Appends items to a list of `spec`, which is added if it does not exist.
    fn append(
        &mut self,
        spec: &LineNode,
        list: &str,
        new: &[&OrderedFields],
    ) -> anyhow::Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        let column = spec.entries().first().map_or(2, |entry| entry.column);
        let (at, indent, mut text) = if let Some(entry) = spec.entry(list) {
            let Some(last) = entry.value.items().last() else {
                bail!("line {}: `{list}` is empty; remove it", entry.key_line + 1);
            };
            let line = self.lines.get(last.first_line).copied().unwrap_or_default();
            let indent = line.len() - line.trim_start().len();
            if !line.trim_start().starts_with("- ") {
                bail!("line {}: write `{list}` in lines", last.first_line + 1);
            }
            (last.last_line + 1, indent, String::new())
        } else {
            let head = format!("{}{list}:\n", " ".repeat(column));
            (spec.last_line + 1, column, head)
        };
        for fields in new {
            text.push_str(&item(fields, indent)?);
        }
        self.edits.push(LineEdit { lines: at..at, text });
        Ok(())
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        value => value.is_null(),
    }
}

/// Returns the value of a field with what a user has added in it: further fields of the source, and
/// further arguments.
fn with_fields_of_user(key: &str, wanted: &Value, found: &Value) -> Value {
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

/// Returns the comment of a line, with its `#`.
fn comment(line: &str) -> Option<&str> {
    let mut quote = None;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c == '#' && before.is_whitespace() => {
                return line.get(at..).map(str::trim_end);
            }
            _ => {}
        }
        before = c;
    }
    None
}

/// Returns the new lines of a field with the comments of its old ones: at the end of the line of
/// the same key or item, or in a line of their own after the field.
fn with_comments(new: &str, old: &[&str], column: usize) -> String {
    let mut lines: Vec<String> = new.lines().map(str::to_owned).collect();
    let mut left = Vec::new();
    for line in old {
        let Some(comment) = comment(line) else { continue };
        let content = line.strip_suffix('\n').unwrap_or(line);
        let content = content.strip_suffix(comment).unwrap_or_default();
        let key = key_of(content);
        let same = lines.iter_mut().find(|line| !key.is_empty() && key_of(line) == key);
        match same {
            Some(line) => line.extend([" ", comment]),
            None => left.push(format!("{}{comment}", " ".repeat(column))),
        }
    }
    lines.extend(left);
    lines.join("\n") + "\n"
}

/// Returns the key or the item that a line begins with.
fn key_of(line: &str) -> &str {
    let line = line.trim();
    line.split_once(": ").map_or(line, |(key, _)| key).trim_end_matches(':')
}

/// Applies edits, which do not overlap.
fn apply(lines: &[&str], mut edits: Vec<LineEdit>) -> String {
    edits.sort_by_key(|edit| (edit.lines.start, edit.lines.end));
    let mut text = String::new();
    let mut next = 0;
    for edit in edits {
        for line in lines.get(next..edit.lines.start).unwrap_or_default() {
            text.push_str(line);
        }
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&edit.text);
        next = next.max(edit.lines.end);
    }
    for line in lines.get(next..).unwrap_or_default() {
        text.push_str(line);
    }
    text
}

/// Checks that the new text says what the import wants, so that no edit at the wrong line is ever
/// written.
fn check(text: &str, manifest: &FamilyManifest) -> anyhow::Result<()> {
    let value: Value = serde_yaml::from_str(text).context("the updated text is no YAML")?;
    let found = value.pointer("/spec/images").and_then(Value::as_array);
    let found = found.map(Vec::as_slice).unwrap_or_default();
    for entry in &manifest.entries {
        let Some(value) = found
            .iter()
            .find(|value| value.get("name").and_then(Value::as_str) == Some(entry.name()))
        else {
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
    Ok(())
}
