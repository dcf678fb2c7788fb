//! Reads images of a registry: their manifests and configurations, and no layer. Nothing is
//! written.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use futures::{StreamExt as _, stream};
use groundswell::registry::{
    Digest, ImageManifest, Keychain, Manifest, ManifestKind, Reference, RegistryError,
};

use crate::{
    discover::ancestry::{AnnotatedBase, DiscoveredImage, StoredLayer},
    registry_images::RegistryAccess,
};

/// Maximum number of repositories of a registry.
const MAX_REPOSITORIES: usize = 20_000;
/// Number of calls that wait for the registry at the same time. The client limits the requests.
const MAX_CONCURRENT_CALLS: usize = 16;
/// How many tags of a repository are listed for each that is read at most: those of tools do not
/// count.
const LISTED_PER_TAG: usize = 4;
/// Name of a repository that stands for the registry as a whole in a call.
const ANY_REPOSITORY: &str = "catalog";
/// How the tags begin that tools set in addition to those of users: signatures and the builds of a
/// family.
const TAGS_OF_TOOLS: [&str; 2] = ["sha256-", "gs-"];
/// Annotations that name the base of an image.
pub const BASE_NAME: &str = "org.opencontainers.image.base.name";
pub const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";
/// How annotations begin that count only as annotations, and not as labels.
const OWN_ANNOTATIONS: [&str; 2] = ["org.opencontainers.image.base.", "dev.groundswell."];

/// What was read.
#[derive(Debug, Default)]
pub struct RegistryScan {
    /// The images, sorted by name.
    pub images: Vec<DiscoveredImage>,
    /// What could not be read, and why.
    pub problems: Vec<String>,
}

/// A registry, and the beginning of the repositories in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryPrefix {
    pub registry: String,
    /// Path of the repositories without a slash at its end; empty for all.
    pub path: String,
}

impl RegistryPrefix {
    /// Parses `REGISTRY[/PREFIX]`.
    ///
    /// # Errors
    /// Returns an error if the text has no registry.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let text = text.trim_end_matches('/');
        let (registry, path) = text.split_once('/').unwrap_or((text, ""));
        let is_host = registry.contains(['.', ':']) || registry == "localhost";
        let name = if path.is_empty() { ANY_REPOSITORY } else { path };
        let parsed = format!("{registry}/{name}").parse::<Reference>();
        if !is_host || parsed.is_err() || text.contains('@') || path.contains(':') {
            bail!(
                "`{text}` is no registry: write registry.example.com or registry.example.com/team"
            );
        }
        Ok(Self { registry: registry.to_ascii_lowercase(), path: path.to_owned() })
    }

    /// Whether a repository is the prefix, or below it.
    fn contains(&self, repository: &str) -> bool {
        let rest = repository.strip_prefix(&self.path);
        self.path.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Returns the tags below a prefix, at most `limit`. What cannot be listed is added to the
/// problems.
///
/// # Errors
/// Returns an error if the registry does not list its repositories.
pub async fn list_tags(
    access: &RegistryAccess,
    prefix: &RegistryPrefix,
    limit: usize,
    problems: &mut Vec<String>,
) -> anyhow::Result<Vec<Reference>> {
    let any: Reference = format!("{}/{ANY_REPOSITORY}", prefix.registry).parse()?;
    let all = access.client.repositories(&any, &access.keychain, MAX_REPOSITORIES).await;
    let repositories = match all {
        Ok(list) => {
            if list.is_cut {
                problems.push(format!(
                    "{} has more than {MAX_REPOSITORIES} repositories; the others are not read",
                    prefix.registry
                ));
            }
            let names = list.names.into_iter().filter(|name| prefix.contains(name));
            let found: Vec<String> = names.collect();
            // A registry lists only what a user may see, or nothing, and may still have the one.
            if found.is_empty() && !prefix.path.is_empty() {
                vec![prefix.path.clone()]
            } else {
                found
            }
        }
        // A registry that lists no repositories may still list the tags of one.
        Err(error) if !prefix.path.is_empty() => {
            problems.push(format!(
                "{} does not list its repositories, so that only {} itself is read, and none below \
                 it: {error}",
                prefix.registry, prefix.path
            ));
            vec![prefix.path.clone()]
        }
        Err(error) => {
            return Err(error).with_context(|| {
                format!(
                    "{} does not list its repositories; name the images instead, or one repository",
                    prefix.registry
                )
            });
        }
    };
    let mut lists: BTreeMap<String, Result<TagList, String>> = BTreeMap::new();
    let calls = repositories.iter().map(|repository| async move {
        let name = format!("{}/{repository}", prefix.registry);
        (name.clone(), tags_of(access, &name, limit).await)
    });
    let mut calls = stream::iter(calls).buffer_unordered(MAX_CONCURRENT_CALLS);
    while let Some((name, list)) = calls.next().await {
        lists.insert(name, list);
    }
    let mut references = Vec::new();
    for list in lists.into_values() {
        match list {
            Ok(list) => {
                references.extend(list.tags);
                problems.extend(list.problem);
            }
            Err(problem) => problems.push(problem),
        }
    }
    if references.len() > limit {
        problems.push(format!(
            "there are {} tags, and {limit} are read; name a longer prefix, or raise --limit",
            references.len()
        ));
        references.truncate(limit);
    }
    Ok(references)
}

/// The tags of a repository.
struct TagList {
    tags: Vec<Reference>,
    /// Why these are not all.
    problem: Option<String>,
}

async fn tags_of(
    access: &RegistryAccess,
    repository: &str,
    limit: usize,
) -> Result<TagList, String> {
    let reference: Reference =
        repository.parse().map_err(|_| format!("`{repository}` is no name of a repository"))?;
    let most = limit.saturating_mul(LISTED_PER_TAG);
    let list = access.client.tags(&reference, &access.keychain, most).await;
    let mut list = list.map_err(|error| error.to_string())?;
    let problem = list.is_cut.then(|| {
        format!(
            "{repository} has more tags than the {} that were listed; raise --limit, or name the \
             images with --images",
            list.names.len()
        )
    });
    // A registry may list a tag on several pages.
    list.names.sort();
    list.names.dedup();
    let is_of_user = |tag: &&String| !TAGS_OF_TOOLS.iter().any(|known| tag.starts_with(known));
    let tags = list.names.iter().filter(is_of_user);
    let tags = tags.filter_map(|tag| reference.with_tag(tag).ok()).collect();
    Ok(TagList { tags, problem })
}

/// Reads these images. What cannot be read is added to the problems, and what is no image, such as
/// a chart, is skipped. `kept` names the annotations and labels that are kept.
pub async fn read_images(
    access: &RegistryAccess,
    references: Vec<Reference>,
    kept: &[&str],
) -> RegistryScan {
    let calls = references.into_iter().map(|reference| async move {
        let image = read_image(access, &reference, kept).await;
        (reference, image)
    });
    let mut calls = stream::iter(calls).buffer_unordered(MAX_CONCURRENT_CALLS);
    let mut scan = RegistryScan::default();
    let mut by_digest: BTreeMap<Digest, DiscoveredImage> = BTreeMap::new();
    while let Some((reference, image)) = calls.next().await {
        match image {
            Ok(Some(image)) => {
                let known = by_digest.entry(image.digest.clone()).or_insert(image);
                known.names.push(reference);
            }
            Ok(None) => {}
            Err(problem) => scan.problems.push(problem),
        }
    }
    scan.images = by_digest.into_values().collect();
    for image in &mut scan.images {
        image.names.sort_by_key(ToString::to_string);
    }
    scan.images.sort_by_key(|image| image.names.first().map(ToString::to_string));
    scan.problems.sort();
    scan
}

/// Returns an image, or `None` if the reference is that of something else.
async fn read_image(
    access: &RegistryAccess,
    reference: &Reference,
    kept: &[&str],
) -> Result<Option<DiscoveredImage>, String> {
    let RegistryAccess { client, keychain, platform } = access;
    let text = |error: RegistryError| error.to_string();
    let top = client.manifest(reference, keychain).await.map_err(text)?;
    let mut platform_digests = Vec::new();
    let mut base = annotated_base(&top);
    let (digest, manifest) = match &top.kind {
        ManifestKind::Image(_) => (top.digest.clone(), top.clone()),
        ManifestKind::Index(index) => {
            let entry = index
                .image_for(platform)
                .or_else(|| index.images().find(|entry| entry.platform.is_some()))
                .or_else(|| index.images().next());
            let Some(entry) = entry else {
                let is_artifact = top.artifact_type().is_some();
                let problem = format!("{reference}: its index has no image");
                return if is_artifact { Ok(None) } else { Err(problem) };
            };
            platform_digests.extend(index.images().map(|entry| entry.descriptor.digest.clone()));
            let one = reference.with_digest(&entry.descriptor.digest);
            let manifest = client.known_manifest(&one, keychain).await.map_err(text)?;
            if matches!(manifest.kind, ManifestKind::Index(_)) {
                return Err(format!("{reference}: its index leads to another index"));
            }
            (top.digest.clone(), manifest)
        }
    };
    let Some(image) = manifest.image().filter(|_| manifest.artifact_type().is_none()) else {
        return Ok(None);
    };
    if base == AnnotatedBase::default() {
        base = annotated_base(&manifest);
    }
    let mut image = discovered(reference, image, keychain, access).await.map_err(text)?;
    // An image has the labels of its base, too. What they say there is not said of it.
    image.labels.retain(|name, _| !OWN_ANNOTATIONS.iter().any(|own| name.starts_with(own)));
    for annotations in [manifest.annotations(), top.annotations()] {
        image.labels.extend(annotations.clone());
    }
    image.labels.retain(|name, _| kept.contains(&name.as_str()));
    let image_digest = manifest.digest.clone();
    Ok(Some(DiscoveredImage { digest, image_digest, platform_digests, base, ..image }))
}

async fn discovered(
    reference: &Reference,
    image: &ImageManifest,
    keychain: &Keychain,
    access: &RegistryAccess,
) -> Result<DiscoveredImage, RegistryError> {
    let config = access.client.config(reference, image, keychain).await?;
    let layers = image.layers.iter();
    Ok(DiscoveredImage {
        names: Vec::new(),
        digest: image.config.digest.clone(),
        image_digest: image.config.digest.clone(),
        platform_digests: Vec::new(),
        // A reproducible build writes zero if it knows no date.
        created: config.created.filter(|created| created.as_second() > 0),
        base: AnnotatedBase::default(),
        layers: layers
            .map(|layer| StoredLayer { digest: layer.digest.clone(), size: layer.size })
            .collect(),
        diff_ids: config.diff_ids,
        history: config.history,
        labels: config.labels,
    })
}

/// Returns what the annotations say. Labels do not count: an image inherits those of its base.
fn annotated_base(manifest: &Manifest) -> AnnotatedBase {
    let annotations = manifest.annotations();
    let name: Option<Reference> = annotations.get(BASE_NAME).and_then(|name| name.parse().ok());
    let digest = annotations.get(BASE_DIGEST).and_then(|digest| digest.parse().ok());
    let of_name = name.as_ref().and_then(Reference::digest);
    AnnotatedBase { digest: digest.or(of_name), name }
}
