//! What a Dockerfile says of its image: the images that it names and `from` does not declare, and
//! whether it uses the image's `args`.

use std::collections::BTreeMap;

use crate::{
    api::{Edge, EdgeSource, EdgeUse, Image, ImageFamilySpec, condition::Reason},
    builds::dockerfile::{
        BuildOptions, DeclaredEdge, Dockerfile, undeclared_args, undeclared_images, verify_edges,
    },
    engine::{Problem, blueprint::repository},
    found_edges::mismatch,
    registry::{Platform, Reference},
};

/// Maximum number of build arguments that a message names.
const MAX_LISTED: usize = 5;

/// An image that a Dockerfile names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedParent {
    /// The reference, with the build arguments substituted.
    pub reference: String,
    /// How the Dockerfile uses the image.
    pub usage: EdgeUse,
}

/// What a Dockerfile says of its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadDockerfile {
    /// The images that it names and `from` does not declare, in the order of their lines; empty if
    /// `from` declares all edges.
    pub parents: Result<Vec<NamedParent>, Problem>,
    /// Why it does not fit the image's `args`.
    pub unused_args: Option<Problem>,
}

/// Whether something of an image depends on the text of its Dockerfile.
#[must_use]
pub fn is_needed(image: &Image) -> bool {
    image.edges == EdgeSource::Dockerfile || !image.args.is_empty()
}

/// Reads the Dockerfile of an image.
#[must_use]
pub fn read(
    spec: &ImageFamilySpec,
    image: &Image,
    text: &str,
    platform: &Platform,
) -> ReadDockerfile {
    let edges: Vec<DeclaredEdge> = image
        .from
        .iter()
        .enumerate()
        .map(|(index, edge)| declared_edge(spec, index, edge))
        .collect();
    // The build gets a pinned reference in each of these arguments.
    let by_arg = edges.iter().filter_map(|edge| Some((edge.arg.clone()?, edge.pinned.clone())));
    let args: BTreeMap<String, String> = image.args.clone().into_iter().chain(by_arg).collect();
    let options = BuildOptions { args: &args, platform, target: image.target.as_deref() };
    let does_not_fit = |error: String| mismatch(format!("spec.images[{}]: {error}", image.name));
    let dockerfile = match Dockerfile::parse(text, &options) {
        Ok(dockerfile) => dockerfile,
        Err(error) => {
            let parents = match image.edges {
                EdgeSource::Dockerfile => Err(does_not_fit(error.to_string())),
                // The build says so.
                EdgeSource::Declared => Ok(Vec::new()),
            };
            return ReadDockerfile { parents, unused_args: None };
        }
    };
    let parents = match image.edges {
        EdgeSource::Declared => Ok(Vec::new()),
        EdgeSource::Dockerfile => named_parents(&dockerfile, edges).map_err(does_not_fit),
    };
    ReadDockerfile { parents, unused_args: unused_args(image, &dockerfile) }
}

/// Returns the images that a Dockerfile names and that no edge declares.
fn named_parents(
    dockerfile: &Dockerfile,
    mut edges: Vec<DeclaredEdge>,
) -> Result<Vec<NamedParent>, String> {
    let needed = undeclared_images(dockerfile, &edges).map_err(|error| error.to_string())?;
    let mut parents: Vec<NamedParent> = Vec::new();
    for needed in needed {
        let (reference, usage) = (needed.image.name, needed.usage);
        match parents.iter_mut().find(|known| known.reference == reference) {
            Some(known) => known.usage = known.usage.min(usage),
            None => parents.push(NamedParent { reference, usage }),
        }
    }
    // With an edge for each of them, only what no edge can mend is wrong: for example, a stage
    // that has the name of a parent.
    let mut uses: BTreeMap<String, EdgeUse> = BTreeMap::new();
    for parent in &parents {
        let usage = uses.entry(without_digest(&parent.reference)).or_insert(parent.usage);
        *usage = (*usage).min(parent.usage);
    }
    for (reference, usage) in uses {
        edges.push(DeclaredEdge {
            name: reference.clone(),
            pinned: placeholder(edges.len()),
            reference: Some(reference),
            arg: None,
            usage,
        });
    }
    verify_edges(dockerfile, &edges, None).map_err(|error| error.to_string())?;
    Ok(parents)
}

fn unused_args(image: &Image, dockerfile: &Dockerfile) -> Option<Problem> {
    let unused = undeclared_args(dockerfile, image.args.keys());
    if unused.is_empty() {
        return None;
    }
    let names: Vec<String> =
        unused.iter().take(MAX_LISTED).map(|name| format!("`{name}`")).collect();
    let message = format!(
        "spec.images[{}].args: no ARG of the Dockerfile declares {}, so that the value would have \
         no effect; correct the name, declare it in the Dockerfile, or remove it",
        image.name,
        names.join(", ")
    );
    Some(Problem { reason: Reason::DockerfileMismatch, message })
}

/// Returns an edge of `from` as the build declares it.
fn declared_edge(spec: &ImageFamilySpec, index: usize, edge: &Edge) -> DeclaredEdge {
    let reference = edge.reference.clone().or_else(|| {
        let upstream = |name: &String| {
            let upstream = spec.upstreams.iter().find(|known| known.name == *name)?;
            Some(upstream.reference())
        };
        let image = |name: &String| {
            let image = spec.images.iter().find(|known| known.name == *name)?;
            Some(format!("{}:latest", repository(spec, image)))
        };
        edge.upstream
            .as_ref()
            .and_then(upstream)
            .or_else(|| edge.image.as_ref().filter(|_| edge.family.is_none()).and_then(image))
    });
    DeclaredEdge {
        name: edge.parent().to_owned(),
        pinned: placeholder(index),
        reference: reference.filter(|_| edge.arg.is_none()),
        arg: edge.arg.clone(),
        usage: edge.usage,
    }
}

/// Returns a reference that stands for a pinned parent. No Dockerfile names it.
fn placeholder(index: usize) -> String {
    format!("pinned.invalid/parent-{index}@sha256:{index:064x}")
}

/// Returns the repository and tag of a reference. A digest alone stays: it is the only name.
fn without_digest(text: &str) -> String {
    match text.parse::<Reference>() {
        Ok(reference) => reference
            .tag()
            .map_or_else(|| text.to_owned(), |tag| format!("{}:{tag}", reference.repository())),
        Err(_) => text.to_owned(),
    }
}
