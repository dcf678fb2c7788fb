//! Writes manifests: a file is complete or as it was before, never half of either.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use groundswell::terminal::printable;
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::{
    import::{
        ImportedTree,
        existing::ExistingManifests,
        finding::ImportFinding,
        manifest::FamilyManifest,
        merge::merge,
        orphans::{EntryFiles, OrphanPolicy},
    },
    output::{self, Terminal},
};

/// Prints manifests as one YAML stream.
///
/// # Errors
/// Returns an error if the output cannot be written.
pub fn print(manifests: &[FamilyManifest]) -> anyhow::Result<()> {
    let mut text = String::new();
    for manifest in manifests {
        if !text.is_empty() {
            text.push_str("---\n");
        }
        text.push_str(&manifest.text()?);
    }
    output::write(&shown(text))
}

/// Returns a text as it is, unless it is for a terminal, on which none of its characters may act.
pub fn shown(text: String) -> String {
    if Terminal::of_stdout().width.is_some() { printable(&text) } else { text }
}

/// Writes the manifests to a folder: new files, and updates of files that have the families
/// already. Returns what it has done, one line for each change. All texts are made before the first
/// file is written.
///
/// # Errors
/// Returns an error that names the file that cannot be updated or written.
pub fn write(
    folder: &Path,
    existing: &ExistingManifests,
    imported: &mut ImportedTree,
    orphans: OrphanPolicy,
) -> anyhow::Result<Vec<String>> {
    let mut report = Vec::new();
    let mut files = existing.files.clone();
    let mut texts: BTreeMap<PathBuf, String> = BTreeMap::new();
    for manifest in &imported.manifests {
        let Some(found) = existing.families.get(&manifest.name) else {
            let path = folder.join(format!("{}.yaml", manifest.name));
            if path.exists() {
                anyhow::bail!("{} exists and is no family; move it away", path.display());
            }
            report.push(format!("{}: new", path.display()));
            texts.insert(path, manifest.text()?);
            continue;
        };
        let Some(file) = files.get_mut(found.file) else { continue };
        let path = file.path.display().to_string();
        let Some(document) = file.documents.get_mut(found.document) else { continue };
        let merged = merge(document, &found.value, manifest, &imported.scope, orphans)
            .with_context(|| format!("{path}: it cannot be updated, and is left as it is"))?;
        report.extend(merged.changes.iter().map(|change| format!("{path}: {change}")));
        for left in merged.left {
            let place = format!("{path}: spec.images[{}]", left.name);
            imported.findings.push(ImportFinding::new(place, left.why));
        }
        if merged.text != *document {
            *document = merged.text;
            texts.insert(file.path.clone(), String::new());
        }
    }
    list_families_without_files(existing, imported);
    for file in &files {
        if let Some(text) = texts.get_mut(&file.path) {
            *text = file.documents.concat();
        }
    }
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    replace_all(&texts)?;
    Ok(report)
}

/// Lists the families all of whose Dockerfiles are gone. Their objects may still be in a cluster,
/// so that they are never removed here.
fn list_families_without_files(existing: &ExistingManifests, imported: &mut ImportedTree) {
    for (name, family) in &existing.families {
        if imported.manifests.iter().any(|manifest| manifest.name == *name) {
            continue;
        }
        let images = family.value.pointer("/spec/images").and_then(Value::as_array);
        let defaults = family.value.pointer("/spec/sourceDefaults");
        let is_gone = |entry: &Value| imported.scope.of_entry(entry, defaults) == EntryFiles::Gone;
        if images.is_some_and(|images| !images.is_empty() && images.iter().all(is_gone)) {
            let file = existing.files.get(family.file);
            let place = file.map_or_else(String::new, |file| file.path.display().to_string());
            let why = format!("no file builds any image of the family {name}; delete the family");
            imported.findings.push(ImportFinding::new(place, why));
        }
    }
}

/// Replaces files, each at once. All texts are complete on disk before the first file gets its new
/// one.
fn replace_all(texts: &BTreeMap<PathBuf, String>) -> anyhow::Result<()> {
    let mut staged = Vec::new();
    for (path, text) in texts {
        // A link stays one, and what it leads to is replaced.
        let target = path.canonicalize().unwrap_or_else(|_| path.clone());
        let file = stage(&target, text).with_context(|| format!("write {}", path.display()))?;
        staged.push((target, file));
    }
    for (target, file) in staged {
        file.persist(&target)
            .map_err(|error| error.error)
            .with_context(|| format!("write {}", target.display()))?;
    }
    Ok(())
}

/// Writes a text next to the file that it is for.
fn stage(path: &Path, text: &str) -> std::io::Result<NamedTempFile> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".import-").tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    let permissions = std::fs::metadata(path).map(|known| known.permissions());
    file.as_file().set_permissions(permissions.unwrap_or_else(|_| readable()))?;
    Ok(file)
}

/// The permissions of a new file: a temporary one is for its owner alone.
fn readable() -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::Permissions::from_mode(0o644)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_is_replaced_if_one_cannot_be_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = folder.path().join("a.yaml");
        std::fs::write(&first, "old").expect("written");
        let second = folder.path().join("none/b.yaml");
        let texts = BTreeMap::from([(first.clone(), "new".into()), (second, "new".into())]);
        let error = replace_all(&texts).expect_err("no such folder");
        assert!(format!("{error:#}").contains("none/b.yaml"), "{error:#}");
        assert_eq!(std::fs::read_to_string(&first).expect("a file"), "old");
        assert_eq!(folder.path().read_dir().expect("a folder").count(), 1, "no file is left");
    }
}
