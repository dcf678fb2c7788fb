//! `kubectl family import`: families from a tree of Dockerfiles.
//!
//! - [`tree`]: the files
//! - [`bake`], [`bake_values`], [`compose`], [`build_args`], [`mapping`]: what they say of builds
//! - [`sources`]: all builds of the tree, and [`names`] of their images
//! - [`references`], [`official_images`]: what a reference in a Dockerfile means
//! - [`analysis`]: the images with their edges
//! - [`grouping`]: which images are one family
//! - [`entries`], [`fold`], [`manifest`]: what is written
//! - [`existing`], [`orphans`]: manifests that exist already, and what no file builds any more
//! - [`merge`], [`merge_check`], [`yaml_lines`], [`line_comments`], [`write`]: their update

pub mod analysis;
mod bake;
mod bake_values;
mod build_args;
mod compose;
pub mod definition;
pub mod entries;
mod existing;
pub mod finding;
mod fold;
mod git_origin;
pub mod grouping;
mod line_comments;
pub mod manifest;
mod mapping;
mod merge;
mod merge_check;
pub mod names;
mod official_images;
mod orphans;
pub mod references;
mod sources;
mod tree;
pub mod write;
mod yaml_lines;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Args;
use groundswell::{
    api::Image,
    registry::{Platform, Reference},
};

use serde_json::Value;

use crate::{
    import::{
        analysis::{AnalysisInput, ImportedImage, analyse},
        entries::{PlainFamily, families},
        existing::{EntryKind, ExistingManifests},
        finding::ImportFinding,
        fold::fold,
        git_origin::RequestedOrigin,
        grouping::group,
        manifest::{FamilyManifest, FamilyStart, ManifestSettings},
        mapping::ImportMapping,
        orphans::{OrphanPolicy, ReadScope},
        sources::builds,
        tree::read_tree,
    },
    input::plural,
    output::{Outcome, note},
};

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    # Print the families of a checked out repository\n  \
    kubectl family import . --repository registry.example.com/platform\n\n  \
    # Write them to files, and update these files after the Dockerfiles have changed\n  \
    kubectl family import images --repository registry.example.com/platform --write families\n\n\
    Exit codes: 0 if everything is imported, 1 if something is listed that could not be, \
    2 for a usage or input error")]
pub struct ImportArguments {
    /// Directories that are searched for Dockerfiles, Bake files and Compose files
    #[arg(required = true, value_name = "DIR")]
    directories: Vec<PathBuf>,
    /// Repository prefix of the images. Defaults to that of the mapping, of the manifests that are
    /// updated, or of the tags that the files name
    #[arg(long, value_name = "PREFIX")]
    repository: Option<String>,
    /// File that says names, tags and what references mean where the tree does not
    #[arg(long, value_name = "FILE")]
    mapping: Option<PathBuf>,
    /// Folder to which the manifests are written, one file for each family. Files that exist are
    /// updated. Without it, the manifests are printed
    #[arg(long, value_name = "FOLDER")]
    write: Option<PathBuf>,
    /// Remove entries of images that no file builds any more
    #[arg(long, requires = "write")]
    prune: bool,
    /// URL of the Git repository that the controller fetches. Defaults to the remote origin
    #[arg(long, value_name = "URL")]
    git_url: Option<String>,
    /// Branch, tag or commit that the controller builds. Defaults to the branch that is checked out
    #[arg(long, value_name = "NAME")]
    revision: Option<String>,
    /// Platform for which the Dockerfiles are read
    #[arg(long, value_name = "OS/ARCH", default_value = "linux/amd64")]
    platform: String,
    /// Namespace of the families. Defaults to none, so that kubectl chooses it
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
}

pub use crate::import::tree::read_text_of;

/// What an import has found.
#[derive(Debug)]
pub struct ImportedTree {
    pub images: Vec<ImportedImage>,
    pub manifests: Vec<FamilyManifest>,
    pub findings: Vec<ImportFinding>,
    pub scope: ReadScope,
}

/// Runs the command.
pub fn run(arguments: &ImportArguments) -> anyhow::Result<Outcome> {
    let existing = match &arguments.write {
        Some(folder) => ExistingManifests::read(folder)?,
        None => ExistingManifests::default(),
    };
    let mut imported = import(arguments, &existing)?;
    if imported.images.is_empty() && imported.findings.is_empty() {
        bail!("there is no Dockerfile in these directories; name the folder that contains them");
    }
    let orphans = if arguments.prune { OrphanPolicy::Remove } else { OrphanPolicy::Keep };
    let report = if let Some(folder) = &arguments.write {
        write::write(folder, &existing, &mut imported, orphans)?
    } else {
        write::print(&imported.manifests)?;
        Vec::new()
    };
    let mut lines = report;
    for finding in &imported.findings {
        lines.push(format!("not imported: {finding}"));
    }
    lines.push(summary(&imported));
    for line in &lines {
        note(line);
    }
    Ok(if imported.findings.is_empty() { Outcome::Fine } else { Outcome::Findings })
}

/// Returns the line that counts what was imported.
fn summary(imported: &ImportedTree) -> String {
    let (images, families) = (imported.images.len(), imported.manifests.len());
    let edges: usize = imported.images.iter().map(|image| image.edges.len()).sum();
    format!(
        "{images} image{} with {edges} edge{} in {families} {}; {} not imported",
        plural(images),
        plural(edges),
        if families == 1 { "family" } else { "families" },
        imported.findings.len()
    )
}

/// Reads the directories, and returns the families that follow.
///
/// # Errors
/// Returns an error if an argument or the mapping is wrong, or if a family is not valid.
pub fn import(
    arguments: &ImportArguments,
    existing: &ExistingManifests,
) -> anyhow::Result<ImportedTree> {
    let directories = directories(&arguments.directories)?;
    let mapping = ImportMapping::read(arguments.mapping.as_deref())?;
    let requested = RequestedOrigin {
        url: arguments.git_url.as_deref(),
        revision: arguments.revision.as_deref(),
    };
    let origin = git_origin::find(&directories, &requested)?;
    let platform = Platform::from_user(&arguments.platform)
        .with_context(|| format!("--platform {}: write it as linux/amd64", arguments.platform))?;
    let mut findings = Vec::new();
    let mut tree = read_tree(&origin.root, &directories, &mapping.skip, &mut findings)?;
    let definitions = builds(&origin.root, &mut tree, &mapping, &mut findings);
    let repository = arguments
        .repository
        .clone()
        .or_else(|| mapping.repository.clone())
        .or_else(|| existing.repository())
        .or_else(|| common_repository(&definitions))
        .context(
            "no file says where the images are pushed: name the prefix of their repositories with \
             --repository",
        )?;
    check_repository(&repository)?;
    let root_name = directories.first().and_then(|first| first.file_name());
    let root_name = root_name.map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let input = AnalysisInput {
        dockerfiles: &tree.dockerfiles,
        mapping: &mapping,
        existing,
        repository: &repository,
        platform: &platform,
        root_name: &root_name,
    };
    let images = analyse(&input, definitions, &mut findings);
    let groups = group(&images, &root_name);
    let plain = families(&images, &groups, &repository);
    if origin.is_detached && plain.iter().any(|one| !existing.families.contains_key(&one.name)) {
        bail!("no branch is checked out: name the one that the controller builds with --revision");
    }
    list_ignored_options(arguments, existing, &plain, &mut findings);
    let settings = ManifestSettings {
        namespace: arguments.namespace.clone(),
        repository,
        git: Some(origin.source),
        start: FamilyStart::Build,
    };
    let mut manifests = Vec::new();
    for family in plain {
        manifests.push(manifest(family, existing, &settings, &mut findings)?);
    }
    findings.sort();
    let built: BTreeSet<String> =
        images.iter().filter_map(|image| image.definition.dockerfile_path()).collect();
    let left_out = tree.dockerfiles.into_keys().filter(|path| !built.contains(path)).collect();
    let scope = ReadScope { root: origin.root, directories, left_out };
    Ok(ImportedTree { images, manifests, findings, scope })
}

fn manifest(
    mut family: PlainFamily,
    existing: &ExistingManifests,
    settings: &ManifestSettings,
    findings: &mut Vec<ImportFinding>,
) -> anyhow::Result<FamilyManifest> {
    let names = |of| existing.entry_names(&family.name, of).into_iter().collect::<BTreeSet<_>>();
    let (plain, folded) = (names(EntryKind::Plain), names(EntryKind::WithMatrix));
    family.known_upstreams = existing.upstreams(&family.name);
    let fold = |images: &[Image]| fold(images, &plain, &folded);
    FamilyManifest::new(family, settings, fold, findings)
}

/// Lists options that say something else than the manifests that exist: there, these fields are the
/// user's.
fn list_ignored_options(
    arguments: &ImportArguments,
    existing: &ExistingManifests,
    families: &[PlainFamily],
    findings: &mut Vec<ImportFinding>,
) {
    let options = [
        ("--git-url", &arguments.git_url, "/spec/sourceDefaults/git/url"),
        ("--revision", &arguments.revision, "/spec/sourceDefaults/git/revision"),
        ("--namespace", &arguments.namespace, "/metadata/namespace"),
    ];
    for family in families {
        let Some(document) = existing.families.get(&family.name) else { continue };
        for (option, wanted, pointer) in options {
            let found = document.value.pointer(pointer).and_then(Value::as_str);
            if wanted.as_deref().is_some_and(|wanted| found != Some(wanted)) {
                let field = pointer.trim_start_matches('/').replace('/', ".");
                let shown = found.unwrap_or("not set");
                let why =
                    format!("{field} is {shown}, and stays; change it there, not by {option}");
                findings.push(ImportFinding::new(format!("family {}", family.name), why));
            }
        }
    }
}

fn directories(named: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let canonical = |path: &PathBuf| {
        let found = path.canonicalize().with_context(|| path.display().to_string())?;
        if !found.is_dir() {
            bail!("{} is no directory", path.display());
        }
        Ok(found)
    };
    named.iter().map(canonical).collect()
}

/// Returns the prefix of the repositories that files name, if all have the same.
fn common_repository(definitions: &[definition::BuildDefinition]) -> Option<String> {
    let prefix = |reference: &Reference| {
        let repository = reference.repository();
        // A name alone is a local one, and not an official image of Docker Hub.
        let repository = Some(repository).filter(|one| !one.starts_with("docker.io/library/"))?;
        repository.rsplit_once('/').map(|(prefix, _)| prefix.to_owned())
    };
    let all: BTreeSet<String> =
        definitions.iter().flat_map(|one| &one.references).filter_map(prefix).collect();
    all.first().filter(|_| all.len() == 1).cloned()
}

fn check_repository(repository: &str) -> anyhow::Result<()> {
    let host = repository.split('/').next().unwrap_or_default();
    let is_host = host.contains(['.', ':']) || host == "localhost";
    let parsed = format!("{repository}/name").parse::<Reference>();
    if !is_host || parsed.is_err() || Path::new(repository).is_absolute() {
        bail!(
            "`{repository}` is no repository prefix: write the registry's host and a path, as \
             registry.example.com/platform"
        );
    }
    Ok(())
}
