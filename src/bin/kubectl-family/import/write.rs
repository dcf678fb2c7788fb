//! Writes manifests: a file is complete or as it was before, never half of either.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use groundswell::terminal::printable;

use crate::{
    import::{
        ImportedTree,
        existing::ExistingManifests,
        finding::ImportFinding,
        manifest::FamilyManifest,
        merge::{OrphanPolicy, merge},
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
        let merged = merge(document, &found.value, manifest, orphans)
            .with_context(|| format!("{path}: it cannot be updated, and is left as it is"))?;
        report.extend(merged.changes.iter().map(|change| format!("{path}: {change}")));
        for orphan in merged.orphans {
            let why = "no file builds it any more; remove it, or run again with --prune";
            let place = format!("{path}: spec.images[{orphan}]");
            imported.findings.push(ImportFinding::new(place, why));
        }
        if merged.text != *document {
            *document = merged.text;
            texts.insert(file.path.clone(), String::new());
        }
    }
    for file in &files {
        if let Some(text) = texts.get_mut(&file.path) {
            *text = file.documents.concat();
        }
    }
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    for (path, text) in &texts {
        replace(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(report)
}

/// Replaces a file at once: the text is complete on disk before it gets the name.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".import-").tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    let permissions = std::fs::metadata(path).map(|known| known.permissions());
    file.as_file().set_permissions(permissions.unwrap_or_else(|_| readable()))?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// The permissions of a new file: a temporary one is for its owner alone.
fn readable() -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::Permissions::from_mode(0o644)
}
