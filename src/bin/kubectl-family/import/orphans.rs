//! Entries of manifests that no file builds: whether their Dockerfiles are gone, or are only not a
//! part of this import.

use std::{collections::BTreeSet, path::PathBuf};

use groundswell::{
    api::{Image, ImageFamilySpec, SourceDefaults},
    engine::expansion::expand,
};
use serde_json::Value;

use crate::import::tree::join;

/// What happens to images whose Dockerfiles are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrphanPolicy {
    Keep,
    Remove,
}

/// What is known of the Dockerfiles of an entry that no file builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryFiles {
    /// It is not from this import: another kind of source, or another repository.
    Foreign,
    /// Its Dockerfile is outside of the directories, or is listed as not imported.
    NotRead,
    /// Its Dockerfile exists and is not imported, or builds other images only.
    Unused,
    /// None of its Dockerfiles exists.
    Gone,
}

/// What an import has read.
#[derive(Clone, Debug, Default)]
pub struct ReadScope {
    /// The folder that the paths of sources are relative to.
    pub root: PathBuf,
    /// The directories that were searched.
    pub directories: Vec<PathBuf>,
    /// The paths of Dockerfiles whose images were left out.
    pub left_out: BTreeSet<String>,
}

impl ReadScope {
    /// Returns what is known of the Dockerfiles of an entry. `defaults` are those of the family.
    pub fn of_entry(&self, entry: &Value, defaults: Option<&Value>) -> EntryFiles {
        // A repository of its own is not the one that is imported.
        if entry.pointer("/source/git/url").is_some() {
            return EntryFiles::Foreign;
        }
        let defaults =
            defaults.and_then(|value| serde_json::from_value::<SourceDefaults>(value.clone()).ok());
        let images = expanded(entry, defaults);
        let paths: Option<Vec<String>> = images
            .into_iter()
            .map(|image| {
                let git = image.source.git?;
                join(&git.path.unwrap_or_default(), &git.dockerfile)
            })
            .collect();
        let Some(paths) = paths.filter(|paths| !paths.is_empty()) else {
            return EntryFiles::Foreign;
        };
        let is_read = |path: &String| {
            self.directories.iter().any(|directory| self.root.join(path).starts_with(directory))
        };
        let exists = |path: &&String| self.root.join(path).symlink_metadata().is_ok();
        let existing: Vec<&String> = paths.iter().filter(exists).collect();
        if !paths.iter().all(is_read) || existing.iter().any(|path| self.left_out.contains(*path)) {
            EntryFiles::NotRead
        } else if existing.is_empty() {
            EntryFiles::Gone
        } else {
            EntryFiles::Unused
        }
    }
}

/// Returns the names of the images that an entry stands for.
pub fn names_of(entry: &Value) -> Vec<String> {
    expanded(entry, None).into_iter().map(|image| image.name).collect()
}

fn expanded(entry: &Value, source_defaults: Option<SourceDefaults>) -> Vec<Image> {
    let Ok(image) = serde_json::from_value::<Image>(entry.clone()) else { return Vec::new() };
    let spec = ImageFamilySpec { images: vec![image], source_defaults, ..Default::default() };
    expand(spec).images
}
