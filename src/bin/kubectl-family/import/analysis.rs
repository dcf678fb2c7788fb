//! The images of a tree with their edges: Dockerfiles are read as the controller reads them, and
//! what they name is resolved. An image that cannot be resolved is left out, with those that are
//! built on it, and the findings say why.

use std::collections::{BTreeMap, BTreeSet};

use groundswell::{
    builds::dockerfile::{BuildOptions, Dockerfile, NamedImage, NeededImage, undeclared_args},
    registry::{Platform, Reference},
};
use petgraph::{algo::kosaraju_scc, graph::DiGraph};

use crate::import::{
    definition::{BuildDefinition, DockerfileOrigin},
    existing::ExistingManifests,
    finding::ImportFinding,
    mapping::ImportMapping,
    names::image_names,
    references::{EdgeParent, ImageIdentity, ImportedEdge, ReferenceIndex, learned_tag},
    sources::dockerfile_text,
    tree::TreeFile,
};

/// The tag of a reference without one.
const LATEST: &str = "latest";
/// Maximum number of edges of an image.
const MAX_EDGES: usize = 32;
/// Maximum number of tags of an image.
const MAX_TAGS: usize = 16;
/// How many images a message about a cycle names.
const MAX_NAMED: usize = 8;

/// An image of the tree, ready to be written.
#[derive(Clone, Debug)]
pub struct ImportedImage {
    pub definition: BuildDefinition,
    pub name: String,
    /// Last part of the repository, if it is not the name.
    pub path: Option<String>,
    pub tags: Vec<String>,
    /// Whether a file or the mapping says the tags.
    pub has_known_tags: bool,
    pub edges: Vec<ImportedEdge>,
}

/// What is known before the Dockerfiles are read.
pub struct AnalysisInput<'a> {
    pub dockerfiles: &'a BTreeMap<String, TreeFile>,
    pub mapping: &'a ImportMapping,
    pub existing: &'a ExistingManifests,
    /// Repository prefix of all images.
    pub repository: &'a str,
    /// Platform for which the images are built.
    pub platform: &'a Platform,
    /// Name of the folder that is imported.
    pub root_name: &'a str,
}

/// A build whose Dockerfile is read.
struct ReadBuild {
    definition: BuildDefinition,
    dockerfile: Dockerfile,
    identity: ImageIdentity,
    path: Option<String>,
}

/// A definition, its Dockerfile, and the name that follows for its image.
struct ParsedBuild {
    definition: BuildDefinition,
    dockerfile: Dockerfile,
    name: Result<String, String>,
}

/// Returns the images in the order of their builds. Parents are indices of this list.
pub fn analyse(
    input: &AnalysisInput<'_>,
    definitions: Vec<BuildDefinition>,
    findings: &mut Vec<ImportFinding>,
) -> Vec<ImportedImage> {
    let names = image_names(&definitions, input.root_name);
    let mut parsed = Vec::new();
    for (definition, name) in definitions.into_iter().zip(names) {
        let place = definition.place();
        match parse_build(input, definition) {
            Ok((definition, dockerfile)) => {
                parsed.push(ParsedBuild { definition, dockerfile, name });
            }
            Err(problem) => findings.push(ImportFinding::new(place, problem)),
        }
    }
    let mut builds = Vec::new();
    for ((definition, dockerfile), name) in with_existing(input, parsed, findings) {
        let place = definition.place();
        match name.and_then(|name| identified(input, &definition, name)) {
            Ok((identity, path)) => {
                builds.push(ReadBuild { definition, dockerfile, identity, path });
            }
            Err(problem) => findings.push(ImportFinding::new(place, problem)),
        }
    }
    let identities: Vec<_> = builds.iter().map(|build| build.identity.clone()).collect();
    let definitions: Vec<_> = builds.iter().map(|build| build.definition.clone()).collect();
    let index = ReferenceIndex::new(&definitions, &identities, input.mapping, input.repository);
    let mut resolved: Vec<Result<Vec<ImportedEdge>, String>> = builds
        .iter()
        .enumerate()
        .map(|(position, build)| edges(&index, position, build, &|_| &[]))
        .collect();
    resolve_triggers(&index, &builds, &mut resolved);
    let tags = known_tags(input, &builds, &mut resolved);
    leave_out_cycles(&builds, &mut resolved);
    leave_out_descendants(&builds, &mut resolved);
    keep_resolved(builds, resolved, tags, findings)
}

fn parse_build(
    input: &AnalysisInput<'_>,
    mut definition: BuildDefinition,
) -> Result<(BuildDefinition, Dockerfile), String> {
    check_path(&definition)?;
    let text = dockerfile_text(input.dockerfiles, &definition);
    check_contexts(&definition, text)?;
    let options = BuildOptions {
        args: &definition.args,
        platform: input.platform,
        target: definition.target.as_deref(),
    };
    let dockerfile = Dockerfile::parse(text, &options).map_err(|error| error.to_string())?;
    // An argument that the Dockerfile does not declare changes nothing, and the build would warn of
    // it as misspelt.
    let unknown: BTreeSet<String> = undeclared_args(&dockerfile, definition.args.keys())
        .into_iter()
        .map(str::to_owned)
        .collect();
    definition.args.retain(|name, _| !unknown.contains(name));
    Ok((definition, dockerfile))
}

/// Returns the builds with their names: those that images have in the manifests already, or those
/// that follow from the files. Arguments of the manifests that no Dockerfile declares are findings.
fn with_existing(
    input: &AnalysisInput<'_>,
    parsed: Vec<ParsedBuild>,
    findings: &mut Vec<ImportFinding>,
) -> Vec<((BuildDefinition, Dockerfile), Result<String, String>)> {
    let keys: Vec<_> =
        parsed.iter().map(|build| (&build.definition, build.name.as_deref().ok())).collect();
    let existing = input.existing.of_builds(&keys);
    let is_named = |definition: &BuildDefinition| definition.mapped.name.is_none();
    let kept: BTreeSet<String> = existing
        .iter()
        .zip(&parsed)
        .filter(|(_, build)| is_named(&build.definition))
        .filter_map(|(existing, _)| Some(existing.as_ref()?.image.clone()))
        .collect();
    let existing: Vec<_> = existing.into_iter().map(Option::<&_>::cloned).collect();
    parsed
        .into_iter()
        .zip(existing)
        .map(|(ParsedBuild { mut definition, dockerfile, name }, existing)| {
            let is_known = existing.is_some();
            if let Some(written) = &existing {
                findings.extend(input.existing.stale_args(written, &dockerfile));
            }
            let name = match existing.as_ref().filter(|_| is_named(&definition)) {
                Some(existing) => Ok(existing.image.clone()),
                None => name,
            };
            let name = match name {
                Ok(name) if !is_known && kept.contains(&name) => Err(format!(
                    "the image `{name}` of the manifests is another one; give it a name in the \
                     mapping"
                )),
                name => name,
            };
            if let (Some(existing), None) = (existing, &definition.mapped.family) {
                definition.mapped.family = Some(existing.family);
            }
            ((definition, dockerfile), name)
        })
        .collect()
}

/// Returns how references name an image, and the end of its repository, if it is not the name.
fn identified(
    input: &AnalysisInput<'_>,
    definition: &BuildDefinition,
    name: String,
) -> Result<(ImageIdentity, Option<String>), String> {
    let path = definition.mapped.path.clone().or_else(|| {
        let below = |reference: &Reference| {
            let repository = reference.repository();
            Some(repository.strip_prefix(input.repository)?.strip_prefix('/')?.to_owned())
        };
        definition.references.iter().find_map(below).filter(|path| *path != name)
    });
    let repository = format!("{}/{}", input.repository, path.as_deref().unwrap_or(&name));
    let mut tags = definition.mapped.tags.clone();
    if tags.is_empty() {
        tags = tags_of_files(&definition.references, &repository);
    }
    if tags.len() > MAX_TAGS {
        return Err(format!("it has {} tags, and an image has at most {MAX_TAGS}", tags.len()));
    }
    let aliases = definition.references.clone();
    Ok((ImageIdentity { name, repository, tags, aliases }, path))
}

/// Returns the tags under which files push an image to its repository, or else to the first other
/// one. Those of further repositories are of other images.
fn tags_of_files(references: &[Reference], repository: &str) -> Vec<String> {
    let is_own = |reference: &&Reference| reference.repository() == repository;
    let other = references.first().map(Reference::repository).unwrap_or_default();
    let chosen = if references.iter().any(|one| is_own(&one)) { repository } else { &other };
    let mut tags: Vec<String> = Vec::new();
    for reference in references.iter().filter(|reference| reference.repository() == chosen) {
        let tag = reference.tag().unwrap_or(LATEST).to_owned();
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    tags
}

/// Checks that a family can have what the Dockerfile of a build uses: no files of a context if its
/// text is in another file, and no named context in place of one of its stages.
fn check_contexts(definition: &BuildDefinition, text: &str) -> Result<(), String> {
    let lines = || text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let copies = |line: &Vec<&str>| {
        let is_copy = line.first().is_some_and(|first| {
            first.eq_ignore_ascii_case("copy") || first.eq_ignore_ascii_case("add")
        });
        is_copy && !line.iter().any(|word| word.starts_with("--from=") || word.contains("<<"))
    };
    if matches!(definition.dockerfile, DockerfileOrigin::Inline(_)) && lines().any(|l| copies(&l)) {
        return Err(
            "its Dockerfile is a text in this file and copies files of the context, which \
                    an inline source does not have; write it to a file"
                .into(),
        );
    }
    let stage = |line: Vec<&str>| {
        let [first, .., keyword, name] = line.as_slice() else { return None };
        let is_stage = first.eq_ignore_ascii_case("from") && keyword.eq_ignore_ascii_case("as");
        is_stage.then(|| (*name).to_owned())
    };
    let replaced = |name: &String| definition.contexts.keys().any(|c| c.eq_ignore_ascii_case(name));
    match lines().filter_map(stage).find(replaced) {
        Some(name) => Err(format!(
            "its context `{name}` replaces a stage of the Dockerfile, which a family cannot; give \
             the context another name"
        )),
        None => Ok(()),
    }
}

/// Checks that a source can name the folder and the Dockerfile of a build.
fn check_path(definition: &BuildDefinition) -> Result<(), String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_@+=.-/".contains(c);
    let path = definition.dockerfile_path().unwrap_or_default();
    match path.chars().find(|c| !is_allowed(*c)) {
        Some(other) => Err(format!(
            "its path contains `{other}`, which the source of an image cannot have; rename the \
             folder or the file"
        )),
        None => Ok(()),
    }
}

/// Returns the edges of a build, each once.
fn edges<'a>(
    index: &ReferenceIndex<'_>,
    position: usize,
    build: &ReadBuild,
    triggers: &'a dyn Fn(&NamedImage) -> &'a [String],
) -> Result<Vec<ImportedEdge>, String> {
    let needed = build.dockerfile.needed_images(triggers).map_err(|error| error.to_string())?;
    let mut needed: Vec<NeededImage> = needed.ok_or_else(|| {
        let target = build.definition.target.as_deref().unwrap_or_default();
        format!("its Dockerfile has no stage `{target}`")
    })?;
    needed.sort_by(|a, b| (a.image.line, &a.image).cmp(&(b.image.line, &b.image)));
    let mut edges: Vec<ImportedEdge> = Vec::new();
    for needed in &needed {
        let edge = index
            .edge(position, &build.definition, needed)
            .map_err(|problem| format!("line {}: {problem}", needed.image.line))?;
        let same = |known: &&mut ImportedEdge| {
            known.parent == edge.parent && known.written == edge.written
        };
        match edges.iter_mut().find(same) {
            Some(known) => {
                known.usage = known.usage.min(edge.usage);
                known.is_of_trigger &= edge.is_of_trigger;
            }
            None => edges.push(edge),
        }
    }
    if edges.len() > MAX_EDGES {
        return Err(format!(
            "it names {} images, and an image has at most {MAX_EDGES} edges",
            edges.len()
        ));
    }
    Ok(edges)
}

/// Adds the edges that the `ONBUILD` triggers of parents in the tree name. Triggers of images in
/// registries are not known without a request.
fn resolve_triggers(
    index: &ReferenceIndex<'_>,
    builds: &[ReadBuild],
    resolved: &mut [Result<Vec<ImportedEdge>, String>],
) {
    let triggers: Vec<&[String]> = builds.iter().map(|build| build.dockerfile.triggers()).collect();
    for (position, build) in builds.iter().enumerate() {
        let Some(Ok(found)) = resolved.get(position) else { continue };
        let of_parents: BTreeMap<String, &[String]> = found
            .iter()
            .filter_map(|edge| match edge.parent {
                EdgeParent::Image(parent) => Some((edge.written.clone(), *triggers.get(parent)?)),
                EdgeParent::Upstream(_) => None,
            })
            .filter(|(_, triggers)| !triggers.is_empty())
            .collect();
        if of_parents.is_empty() {
            continue;
        }
        let of_image =
            |image: &NamedImage| of_parents.get(&image.name).copied().unwrap_or_default();
        let with_triggers = edges(index, position, build, &of_image);
        if let Some(place) = resolved.get_mut(position) {
            *place = with_triggers;
        }
    }
}

/// Returns the tags of each image: those that files or the mapping say, or the one by which other
/// Dockerfiles name it, or those of the mapping for all images, or `latest`.
fn known_tags(
    input: &AnalysisInput<'_>,
    builds: &[ReadBuild],
    resolved: &mut [Result<Vec<ImportedEdge>, String>],
) -> Vec<Vec<String>> {
    let mut written: Vec<BTreeSet<String>> = vec![BTreeSet::new(); builds.len()];
    for edge in resolved.iter().flatten().flatten() {
        let EdgeParent::Image(parent) = edge.parent else { continue };
        let (Some(build), Some(tags)) = (builds.get(parent), written.get_mut(parent)) else {
            continue;
        };
        let reference: Option<Reference> = edge.written.parse().ok();
        let own = reference.filter(|reference| reference.repository() == build.identity.repository);
        tags.extend(own.and_then(|reference| reference.tag().map(str::to_owned)));
    }
    let mut all = Vec::new();
    for ((build, written), resolved) in builds.iter().zip(&written).zip(&mut *resolved) {
        let mut tags = build.identity.tags.clone();
        if tags.is_empty() {
            match learned_tag(written) {
                Ok(Some(tag)) => tags.push(tag.to_owned()),
                Ok(None) if input.mapping.tags.is_empty() => tags.push("latest".into()),
                Ok(None) => tags.clone_from(&input.mapping.tags),
                Err(problem) => *resolved = Err(problem),
            }
        }
        all.push(tags);
    }
    leave_out_shared_tags(builds, &all, resolved);
    all
}

/// Leaves out the images that would push the same tag.
fn leave_out_shared_tags(
    builds: &[ReadBuild],
    tags: &[Vec<String>],
    resolved: &mut [Result<Vec<ImportedEdge>, String>],
) {
    let mut pushed: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
    for (position, (build, tags)) in builds.iter().zip(tags).enumerate() {
        for tag in tags {
            pushed.entry((&build.identity.repository, tag)).or_default().push(position);
        }
    }
    for ((repository, tag), positions) in pushed.iter().filter(|(_, all)| all.len() > 1) {
        for position in positions {
            if let Some(place) = resolved.get_mut(*position).filter(|place| place.is_ok()) {
                *place = Err(format!(
                    "{} images are pushed as {repository}:{tag}; give each its own tag or path",
                    positions.len()
                ));
            }
        }
    }
}

fn leave_out_cycles(builds: &[ReadBuild], resolved: &mut [Result<Vec<ImportedEdge>, String>]) {
    let mut graph = DiGraph::<usize, ()>::new();
    let nodes: Vec<_> = (0..builds.len()).map(|position| graph.add_node(position)).collect();
    for (position, edges) in resolved.iter().enumerate() {
        for edge in edges.iter().flatten() {
            if let EdgeParent::Image(parent) = edge.parent
                && let (Some(child), Some(parent)) = (nodes.get(position), nodes.get(parent))
            {
                graph.add_edge(*child, *parent, ());
            }
        }
    }
    for component in kosaraju_scc(&graph).iter().filter(|component| component.len() > 1) {
        let members: Vec<usize> =
            component.iter().filter_map(|node| graph.node_weight(*node)).copied().collect();
        let names: Vec<&str> = members
            .iter()
            .take(MAX_NAMED)
            .filter_map(|position| Some(builds.get(*position)?.identity.name.as_str()))
            .collect();
        let problem = format!("these images are built on one another: {}", names.join(", "));
        for position in members {
            if let Some(place) = resolved.get_mut(position) {
                *place = Err(problem.clone());
            }
        }
    }
}

/// Leaves out the images that are built on one that is left out.
fn leave_out_descendants(builds: &[ReadBuild], resolved: &mut [Result<Vec<ImportedEdge>, String>]) {
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); builds.len()];
    for (position, edges) in resolved.iter().enumerate() {
        for edge in edges.iter().flatten() {
            if let EdgeParent::Image(parent) = edge.parent
                && let Some(children) = children.get_mut(parent)
            {
                children.push(position);
            }
        }
    }
    let mut open: Vec<usize> =
        resolved.iter().enumerate().filter(|(_, one)| one.is_err()).map(|(at, _)| at).collect();
    while let Some(position) = open.pop() {
        let name = builds.get(position).map_or("", |build| build.identity.name.as_str());
        for child in children.get(position).into_iter().flatten() {
            if let Some(place) = resolved.get_mut(*child).filter(|place| place.is_ok()) {
                *place = Err(format!("it is built on `{name}`, which is left out"));
                open.push(*child);
            }
        }
    }
}

/// Returns the images that are resolved, their parents renumbered.
fn keep_resolved(
    builds: Vec<ReadBuild>,
    resolved: Vec<Result<Vec<ImportedEdge>, String>>,
    tags: Vec<Vec<String>>,
    findings: &mut Vec<ImportFinding>,
) -> Vec<ImportedImage> {
    let mut positions = BTreeMap::new();
    for (position, edges) in resolved.iter().enumerate() {
        if edges.is_ok() {
            positions.insert(position, positions.len());
        }
    }
    let mut images = Vec::new();
    for ((build, edges), tags) in builds.into_iter().zip(resolved).zip(tags) {
        let mut edges = match edges {
            Ok(edges) => edges,
            Err(problem) => {
                findings.push(ImportFinding::new(build.definition.place(), problem));
                continue;
            }
        };
        for edge in &mut edges {
            if let EdgeParent::Image(parent) = &mut edge.parent {
                *parent = positions.get(parent).copied().unwrap_or_default();
            }
        }
        images.push(ImportedImage {
            has_known_tags: !build.identity.tags.is_empty(),
            definition: build.definition,
            name: build.identity.name,
            path: build.path,
            tags,
            edges,
        });
    }
    images
}
