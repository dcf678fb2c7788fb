//! Families for images that exist: with `adopt`, nothing is built and no tag moves. Their
//! Dockerfiles are not known, so each image has one that fails until a user replaces it.

use std::collections::BTreeMap;

use groundswell::{api::EdgeUse, api::Image, registry::Reference};

use crate::{
    discover::{
        ancestry::{DiscoveredImage, FoundBase},
        scan::RegistryPrefix,
    },
    import::{
        analysis::ImportedImage,
        definition::{BuildDefinition, DockerfileOrigin},
        entries::families,
        finding::ImportFinding,
        grouping::group,
        manifest::{FamilyManifest, FamilyStart, ManifestSettings},
        names::image_names,
        references::{EdgeParent, ImportedEdge},
    },
};

/// Maximum number of tags of an image in a family.
const MAX_TAGS: usize = 16;
/// Folder of the official images, which somebody else builds.
const OFFICIAL: &str = "library/";

/// Returns the families of these images below a prefix, and what cannot be a part of them.
///
/// # Errors
/// Returns an error if the engine does not accept a family.
pub fn manifests(
    images: &[DiscoveredImage],
    bases: &[FoundBase],
    prefix: &RegistryPrefix,
    namespace: Option<String>,
    problems: &mut Vec<String>,
) -> anyhow::Result<Vec<FamilyManifest>> {
    let repository = repository(images, prefix);
    let imported = imported(images, bases, &repository, problems);
    let root = prefix.path.rsplit('/').next().filter(|name| !name.is_empty());
    let groups = group(&imported, root.unwrap_or(&prefix.registry));
    let settings = ManifestSettings {
        namespace,
        repository: repository.clone(),
        git: None,
        start: FamilyStart::AdoptSuspended,
    };
    let mut findings: Vec<ImportFinding> = Vec::new();
    let mut manifests = Vec::new();
    for family in families(&imported, &groups, &repository) {
        let as_they_are = |images: &[Image]| images.to_vec();
        manifests.push(FamilyManifest::new(family, &settings, as_they_are, &mut findings)?);
    }
    problems.extend(findings.iter().map(ToString::to_string));
    Ok(manifests)
}

/// Returns the prefix of the repositories: the folder above, if the prefix is a repository itself.
fn repository(images: &[DiscoveredImage], prefix: &RegistryPrefix) -> String {
    let RegistryPrefix { registry, path } = prefix;
    let whole = format!("{registry}/{path}");
    let is_image = images.iter().flat_map(|one| &one.names).any(|name| name.repository() == whole);
    let folder =
        if is_image { path.rsplit_once('/').map_or("", |(folder, _)| folder) } else { path };
    if folder.is_empty() { registry.clone() } else { format!("{registry}/{folder}") }
}

/// Returns the images that a family can build, with their edges.
fn imported(
    images: &[DiscoveredImage],
    bases: &[FoundBase],
    repository: &str,
    problems: &mut Vec<String>,
) -> Vec<ImportedImage> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for name in images.iter().filter_map(|image| image.names.first()) {
        *counts.entry(name.repository()).or_default() += 1;
    }
    let definitions: Vec<BuildDefinition> =
        images.iter().map(|image| definition(image, repository, &counts)).collect();
    let names = image_names(&definitions, "images");
    let mut positions: BTreeMap<usize, usize> = BTreeMap::new();
    let mut kept = Vec::new();
    for (at, ((image, base), name)) in images.iter().zip(bases).zip(names).enumerate() {
        let shown = image.names.first().map(ToString::to_string).unwrap_or_default();
        let path = path_below(image, repository);
        match (base, name, path) {
            // What somebody else builds is followed.
            (_, _, Some(path)) if path.starts_with(OFFICIAL) => {}
            (FoundBase::Ambiguous(_), _, _) => {
                problems
                    .push(format!("{shown}: it is in no family, because its base is ambiguous"));
            }
            (_, Ok(name), Some(path)) => {
                positions.insert(at, kept.len());
                kept.push((at, name, path));
            }
            (_, Err(problem), _) => problems.push(format!("{shown}: {problem}")),
            (_, _, None) => problems.push(format!("{shown}: it is not below {repository}")),
        }
    }
    kept.into_iter()
        .filter_map(|(at, name, path)| {
            let mut definition = definitions.get(at)?.clone();
            let edge = edge(images, bases.get(at)?, &positions);
            problems.extend(lost(images.get(at)?, bases.get(at)?, repository, &path));
            definition.dockerfile = DockerfileOrigin::Inline(dockerfile(edge.as_ref()));
            let tags = tags(images.get(at)?, repository, &path);
            Some(ImportedImage {
                path: (path != name).then_some(path),
                definition,
                name,
                tags,
                has_known_tags: true,
                edges: edge.into_iter().collect(),
            })
        })
        .collect()
}

/// Returns what the name of an image follows from: its repository, and a tag if the repository has
/// several images.
fn definition(
    image: &DiscoveredImage,
    repository: &str,
    counts: &BTreeMap<String, usize>,
) -> BuildDefinition {
    let path = path_below(image, repository).unwrap_or_default();
    let own = image.names.first().map(Reference::repository).unwrap_or_default();
    let tag = image.names.iter().filter_map(Reference::tag).find(|tag| *tag != "latest");
    let context = match tag.or_else(|| image.names.first()?.tag()) {
        Some(tag) if counts.get(&own) != Some(&1) => format!("{path}/{tag}"),
        _ => path,
    };
    BuildDefinition::of_dockerfile(&format!("{context}/Dockerfile"))
}

/// Returns the path of an image below the prefix of the repositories.
fn path_below(image: &DiscoveredImage, repository: &str) -> Option<String> {
    let own = image.names.first()?.repository();
    Some(own.strip_prefix(repository)?.strip_prefix('/')?.to_owned())
}

/// Returns the tags that an image has in its repository.
fn tags(image: &DiscoveredImage, repository: &str, path: &str) -> Vec<String> {
    let own = format!("{repository}/{path}");
    let names = image.names.iter().filter(|name| name.repository() == own);
    names.filter_map(Reference::tag).take(MAX_TAGS).map(str::to_owned).collect()
}

/// Returns what a family cannot say of an image.
fn lost(image: &DiscoveredImage, base: &FoundBase, repository: &str, path: &str) -> Vec<String> {
    let own = format!("{repository}/{path}");
    let (tags, others): (Vec<&Reference>, Vec<&Reference>) =
        image.names.iter().partition(|name| name.repository() == own);
    let mut lost = Vec::new();
    if tags.len() > MAX_TAGS {
        let left: Vec<&str> = tags.iter().skip(MAX_TAGS).filter_map(|name| name.tag()).collect();
        lost.push(format!(
            "{own}: an image has at most {MAX_TAGS} tags, so that these are left out: {}",
            left.join(", ")
        ));
    }
    if !others.is_empty() {
        let others: Vec<String> = others.iter().map(ToString::to_string).collect();
        lost.push(format!(
            "{own}: it is also pushed as {}, and an image has one repository",
            others.join(", ")
        ));
    }
    if let FoundBase::Elsewhere(reference) = base
        && reference.tag().is_none()
        && reference.digest().is_some()
    {
        lost.push(format!(
            "{own}: its base {reference} is named by a digest alone, and an upstream follows a \
             tag; write the edge"
        ));
    }
    lost
}

fn edge(
    images: &[DiscoveredImage],
    base: &FoundBase,
    positions: &BTreeMap<usize, usize>,
) -> Option<ImportedEdge> {
    let (parent, written) = match base {
        FoundBase::Image { index, .. } => {
            let written = images.get(*index)?.names.first()?.to_string();
            let parent = positions.get(index).copied().map(EdgeParent::Image);
            (parent.unwrap_or_else(|| EdgeParent::Upstream(written.clone())), written)
        }
        FoundBase::Elsewhere(reference) => {
            if reference.tag().is_none() && reference.digest().is_some() {
                return None;
            }
            let tag = reference.tag().unwrap_or("latest");
            let written = format!("{}:{tag}", reference.repository());
            (EdgeParent::Upstream(written.clone()), written)
        }
        FoundBase::Ambiguous(_) | FoundBase::Unknown(_) => return None,
    };
    Some(ImportedEdge { parent, written, usage: EdgeUse::Base, is_of_trigger: false })
}

/// Returns a Dockerfile that names the base and whose build fails.
fn dockerfile(edge: Option<&ImportedEdge>) -> String {
    let base = edge.map_or("scratch", |edge| edge.written.as_str());
    format!(
        "# The Dockerfile of this image is not known. Replace `source` by where it is, and then\n\
         # remove `suspend` from the family.\n\
         FROM {base}\n\
         RUN echo \"the Dockerfile of this image is not known\" && false\n"
    )
}
