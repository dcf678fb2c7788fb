//! Updates the text of a manifest: the lines of what the import owns and has changed are replaced,
//! and every other line stays, with its comments.

use std::{collections::BTreeMap, ops::Range};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::import::{
    line_comments::{CommentPlace, CommentedLine, with_comments},
    manifest::{
        FamilyManifest, ManifestEntry, ManifestField, OWNED_FIELDS, OrderedFields, export_fields,
        indented, item, yaml,
    },
    merge_check::{check, has_same_source, with_fields_of_user},
    orphans::{EntryFiles, OrphanPolicy, ReadScope, names_of},
    yaml_lines::{self, LineEntry, LineNode},
};

/// A manifest after the update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergedManifest {
    pub text: String,
    /// What has changed, one line for each field.
    pub changes: Vec<String>,
    /// What was left as it is, although the files say something else: the entry, and why.
    pub left: Vec<LeftEntry>,
}

/// An entry, or a version of one, that is left as it is, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftEntry {
    pub name: String,
    pub why: &'static str,
}

/// What a document says that no file builds.
const IS_GONE: &str = "no file builds it any more; remove it, or run again with --prune";
/// What a document says whose Dockerfile exists and builds other images, or none.
const IS_UNUSED: &str =
    "no file builds it any more, but its Dockerfile exists; remove it if it is not wanted";
/// What a document says that the user builds from something else.
const IS_OF_USER: &str = "its `source` in the manifest is of another kind than in the files; \
                          rename the image in one of them, or write the source of the files";

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
    scope: &ReadScope,
    orphans: OrphanPolicy,
) -> anyhow::Result<MergedManifest> {
    let document = yaml_lines::parse(text)?.context("the document is empty")?;
    let spec = document.root.entry("spec").context("it has no `spec`")?;
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut merge = Merge {
        lines: &lines,
        comments: &document.comments,
        scope,
        orphans,
        edits: Vec::new(),
        changes: Vec::new(),
        left: Vec::new(),
        removed: Vec::new(),
        wanted: Vec::new(),
    };
    merge.repository(&spec.value, manifest)?;
    merge.images(&spec.value, value, manifest)?;
    merge.add_missing(&spec.value, "upstreams", "name", &manifest.upstreams)?;
    let exports: Vec<_> = manifest.exports.iter().map(|image| export_fields(image)).collect();
    merge.add_missing(&spec.value, "exports", "image", &exports)?;
    let Merge { edits, changes, left, removed, wanted, .. } = merge;
    let updated = apply(&lines, edits);
    check(value, &updated, &wanted, &removed)?;
    Ok(MergedManifest { text: updated, changes, left })
}

struct Merge<'a> {
    lines: &'a [&'a str],
    comments: &'a BTreeMap<usize, usize>,
    scope: &'a ReadScope,
    orphans: OrphanPolicy,
    edits: Vec<LineEdit>,
    changes: Vec<String>,
    left: Vec<LeftEntry>,
    /// The names of the entries that are removed.
    removed: Vec<String>,
    /// What the entries are to say.
    wanted: Vec<ManifestEntry>,
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
    ) -> anyhow::Result<()> {
        let images = spec.entry("images").context("`spec` has no `images`")?;
        let items = images.value.items();
        let values = value.pointer("/spec/images").and_then(Value::as_array);
        let values = values.map(Vec::as_slice).unwrap_or_default();
        let mut known = Vec::new();
        for (node, found) in items.iter().zip(values) {
            let name = found.get("name").and_then(Value::as_str).unwrap_or_default();
            known.push(name);
            match manifest.entries.iter().find(|entry| entry.name() == name) {
                Some(entry) if !has_same_source(entry, found) => self.leave(name, IS_OF_USER),
                Some(entry) => {
                    let entry = self.with_versions(entry, found, value, manifest);
                    self.update(node, found, &entry)?;
                    self.wanted.push(entry);
                }
                None => self.without_build(node, found, value)?,
            }
        }
        let new: Vec<&ManifestEntry> =
            manifest.entries.iter().filter(|entry| !known.contains(&entry.name())).collect();
        for entry in &new {
            self.changes.push(format!("spec.images[{}] is new", entry.name()));
            self.wanted.push((*entry).clone());
        }
        let new: Vec<&OrderedFields> = new.iter().map(|entry| &entry.fields).collect();
        self.append(spec, "images", &new)
    }

    fn leave(&mut self, name: &str, why: &'static str) {
        self.left.push(LeftEntry { name: name.to_owned(), why });
    }

    /// Leaves or removes an entry that no file builds.
    fn without_build(
        &mut self,
        node: &LineNode,
        found: &Value,
        value: &Value,
    ) -> anyhow::Result<()> {
        let name = found.get("name").and_then(Value::as_str).unwrap_or_default();
        match self.scope.of_entry(found, value.pointer("/spec/sourceDefaults")) {
            EntryFiles::Foreign | EntryFiles::NotRead => {}
            EntryFiles::Unused => self.leave(name, IS_UNUSED),
            EntryFiles::Gone if self.orphans == OrphanPolicy::Keep => self.leave(name, IS_GONE),
            EntryFiles::Gone => {
                self.changes.push(format!("spec.images[{name}] is removed"));
                self.removed.push(name.to_owned());
                let lines = self.dash_line(node)?..node.last_line + 1;
                self.edits.push(LineEdit { lines, text: String::new() });
            }
        }
        Ok(())
    }

    /// Returns an entry with the versions of its matrix that no file builds, and that stay like
    /// entries that no file builds.
    fn with_versions(
        &mut self,
        entry: &ManifestEntry,
        found: &Value,
        value: &Value,
        manifest: &FamilyManifest,
    ) -> ManifestEntry {
        let mut entry = entry.clone();
        let wanted = entry.fields.0.iter_mut().find(|(key, _)| *key == "matrix");
        let wanted = wanted.and_then(|(_, matrix)| matrix.pointer_mut("/version"));
        let known = found.pointer("/matrix/version").and_then(Value::as_array);
        let (Some(Value::Array(wanted)), Some(known)) = (wanted, known) else { return entry };
        let mut versions = Vec::new();
        for version in known {
            if wanted.contains(version) {
                versions.push(version.clone());
                continue;
            }
            let mut alone = found.clone();
            alone["matrix"] = json!({ "version": [version] });
            let defaults = value.pointer("/spec/sourceDefaults");
            // A version that differs from the others by now is an entry of its own.
            if names_of(&alone).iter().any(|name| manifest.images.contains(name)) {
                continue;
            }
            let name = || {
                let name = found.get("name").and_then(Value::as_str).unwrap_or_default();
                format!("{name}, {}", version.as_str().unwrap_or_default())
            };
            match self.scope.of_entry(&alone, defaults) {
                EntryFiles::Gone if self.orphans == OrphanPolicy::Remove => continue,
                EntryFiles::Gone => self.left.push(LeftEntry { name: name(), why: IS_GONE }),
                EntryFiles::Unused => self.left.push(LeftEntry { name: name(), why: IS_UNUSED }),
                EntryFiles::Foreign | EntryFiles::NotRead => {}
            }
            versions.push(version.clone());
        }
        if versions.iter().any(|version| !wanted.contains(version)) {
            let new: Vec<Value> =
                wanted.iter().filter(|version| !versions.contains(version)).cloned().collect();
            *wanted = [versions, new].concat();
        }
        entry
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
                    let line = self.lines.get(lines.key_line).copied().unwrap_or_default();
                    if line.trim_start().starts_with("- ") {
                        bail!(
                            "line {}: `{key}` is no longer needed, and begins the entry; write \
                             `name` first",
                            lines.key_line + 1
                        );
                    }
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
        let old: Vec<CommentedLine> = range
            .clone()
            .filter_map(|at| CommentedLine::new(self.lines.get(at)?, *self.comments.get(&at)?))
            .collect();
        // A comment at the end of a line of a Dockerfile would be a part of it.
        let is_text = field.1.get("inline").is_some();
        let place = if is_text { CommentPlace::After } else { CommentPlace::SameLine };
        text = with_comments(&text, &old, entry.column, place);
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
            let line = self.lines.get(self.dash_line(last)?).copied().unwrap_or_default();
            let indent = line.len() - line.trim_start().len();
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

impl Merge<'_> {
    /// Returns the line of the dash before an item of a list.
    fn dash_line(&self, item: &LineNode) -> anyhow::Result<usize> {
        let line = |at: usize| self.lines.get(at).map_or("", |line| line.trim());
        let start = item.entries().first().map(|entry| (entry.key_line, entry.column));
        let (first, column) = start.unwrap_or((item.first_line, item.column));
        let before = self.lines.get(first).copied().unwrap_or_default();
        let before: String = before.chars().take(column).collect();
        let is_alone = |at: &usize| line(*at) == "-" || line(*at).starts_with("- #");
        let found = match before.trim() {
            "-" => Some(first),
            "" => (0..first).rev().find(|at| !line(*at).is_empty()).filter(is_alone),
            _ => None,
        };
        let number = first + 1;
        found.with_context(|| format!("line {number}: the entry is in braces; write it in lines"))
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        value => value.is_null(),
    }
}

/// Applies edits, which do not overlap.
fn apply(lines: &[&str], mut edits: Vec<LineEdit>) -> String {
    let is_crlf = lines.first().is_some_and(|line| line.ends_with("\r\n"));
    let line_break = if is_crlf { "\r\n" } else { "\n" };
    edits.sort_by_key(|edit| (edit.lines.start, edit.lines.end));
    let mut text = String::new();
    let mut next = 0;
    for edit in edits {
        for line in lines.get(next..edit.lines.start).unwrap_or_default() {
            text.push_str(line);
        }
        if !text.is_empty() && !text.ends_with('\n') {
            text.push_str(line_break);
        }
        text.push_str(&edit.text.replace('\n', line_break));
        next = next.max(edit.lines.end);
    }
    for line in lines.get(next..).unwrap_or_default() {
        text.push_str(line);
    }
    text
}
