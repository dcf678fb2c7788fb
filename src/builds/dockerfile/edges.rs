//! Compares the images that a Dockerfile names with the edges that an image declares.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde::{Deserialize, Serialize};

use crate::{
    api::EdgeUse,
    builds::dockerfile::{
        Dockerfile, NamedImage, NeededImage, SyntaxError,
        matching::{Declared, declared, full_reference, same_reference},
    },
};

/// Maximum number of items in each list of a message.
const MAX_LISTED: usize = 12;

/// A declared edge: a parent, how the Dockerfile names it, and what the Dockerfile does with it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeclaredEdge {
    /// The parent's name in the family.
    pub name: String,
    /// The reference that the build uses: `repository@sha256:...`.
    pub pinned: String,
    /// The reference that the Dockerfile names the parent by, if it uses a reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The build argument that the Dockerfile names the parent by, if it uses an argument.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arg: Option<String>,
    /// What the Dockerfile does with the parent.
    #[serde(rename = "use")]
    pub usage: EdgeUse,
}

/// An image that the Dockerfile names with another digest than the one that the build uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplacedDigest {
    /// The image, as the Dockerfile names it.
    pub image: NamedImage,
    /// The name under which `BuildKit` looks for a named context of the image.
    pub context: String,
    /// The reference that the build uses: `repository@sha256:...`.
    pub pinned: String,
}

/// Why a Dockerfile does not fit the declared edges.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EdgeError {
    /// A trigger cannot be interpreted.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// The Dockerfile and the edges do not match.
    #[error(transparent)]
    Mismatch(#[from] DockerfileMismatch),
}

/// The differences between a Dockerfile and the declared edges. The message lists both sides.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the Dockerfile and the image's `from` do not match: {problems}. The Dockerfile names {named}; \
     `from` declares {declared}. Correct one of them"
)]
pub struct DockerfileMismatch {
    problems: String,
    named: String,
    declared: String,
}

/// Compares the images that a Dockerfile names with the declared edges. `triggers` are the
/// `ONBUILD` triggers of the parents, parallel to `edges`, or `None` if they are not known yet.
/// Then edges are accepted that the Dockerfile does not name, because a trigger may name them.
///
/// Each image that the build needs must be declared with the same use, and the Dockerfile must name
/// the parent of each edge. Images of stages that the target does not need may be declared but do
/// not have to be, because `BuildKit` does not even look them up.
///
/// Returns the images whose digest in the Dockerfile is not the pinned one.
///
/// # Errors
/// Returns a [`DockerfileMismatch`] with all differences, or an error if a trigger cannot be
/// interpreted.
pub fn verify_edges(
    dockerfile: &Dockerfile,
    edges: &[DeclaredEdge],
    triggers: Option<&[Vec<String>]>,
) -> Result<Vec<ReplacedDigest>, EdgeError> {
    let triggers_of = |image: &NamedImage| match declared(edges, image) {
        Declared::By(index) | Declared::WithOtherDigest(index) => {
            triggers.and_then(|all| all.get(index)).map(Vec::as_slice).unwrap_or_default()
        }
        Declared::No | Declared::Ambiguous(..) => &[],
    };
    let Some(needed) = dockerfile.needed_images(&triggers_of)? else {
        return Err(mismatch(vec![unknown_target(dockerfile)], &[], edges).into());
    };
    let mut problems = replaced_stages(dockerfile, edges);
    let mut uses: BTreeMap<usize, EdgeUse> = BTreeMap::new();
    let mut replaced = Vec::new();
    for NeededImage { image, usage } in &needed {
        let index = match declared(edges, image) {
            Declared::By(index) => index,
            Declared::WithOtherDigest(index) => {
                replaced.extend(edges.get(index).and_then(|edge| replaced_digest(edge, image)));
                index
            }
            Declared::Ambiguous(first, second) => {
                problems.push(ambiguous(image, [first, second].map(|index| edges.get(index))));
                continue;
            }
            Declared::No => {
                problems.push(undeclared(image, edges));
                continue;
            }
        };
        let strongest = uses.entry(index).or_insert(*usage);
        *strongest = (*strongest).min(*usage);
    }
    if triggers.is_some() || !problems.is_empty() {
        problems.extend(wrong_edges(dockerfile, edges, &uses));
    }
    if problems.is_empty() { Ok(replaced) } else { Err(mismatch(problems, &needed, edges).into()) }
}

/// Returns the images that the build needs and that no edge declares, in the order of their lines.
/// The triggers of parents are not known here.
///
/// # Errors
/// Returns a [`DockerfileMismatch`] if the Dockerfile has no such target, or an error if a trigger
/// of one of its stages cannot be interpreted.
pub fn undeclared_images(
    dockerfile: &Dockerfile,
    edges: &[DeclaredEdge],
) -> Result<Vec<NeededImage>, EdgeError> {
    let Some(mut needed) = dockerfile.needed_images(&|_| &[])? else {
        return Err(mismatch(vec![unknown_target(dockerfile)], &[], edges).into());
    };
    needed.retain(|needed| declared(edges, &needed.image) == Declared::No);
    needed.sort_by(|a, b| (a.image.line, &a.image).cmp(&(b.image.line, &b.image)));
    Ok(needed)
}

fn unknown_target(dockerfile: &Dockerfile) -> String {
    let stages = dockerfile.graph.named_stages().map(|stage| format!("`{}`", stage.name));
    format!(
        "`target` is `{}`, but the Dockerfile has no such stage; its named stages are {}",
        dockerfile.target.as_deref().unwrap_or_default(),
        listed(stages)
    )
}

/// Returns the problems of edges that declare another use than `uses`, or no image of the
/// Dockerfile.
fn wrong_edges(
    dockerfile: &Dockerfile,
    edges: &[DeclaredEdge],
    uses: &BTreeMap<usize, EdgeUse>,
) -> Vec<String> {
    let is_named = |index: usize| {
        let mut images = dockerfile.graph.images();
        images.any(|image| match declared(edges, image) {
            Declared::By(found) | Declared::WithOtherDigest(found) => found == index,
            Declared::Ambiguous(first, second) => [first, second].contains(&index),
            Declared::No => false,
        })
    };
    let problem = |(index, edge): (usize, &DeclaredEdge)| match uses.get(&index) {
        Some(usage) if *usage == edge.usage => None,
        Some(usage) => Some(format!(
            "{} is declared with `use: {:?}`, but {}",
            described(edge),
            edge.usage,
            match usage {
                EdgeUse::Base => "the target stage is built on it; declare `use: Base`",
                EdgeUse::BuildStage =>
                    "the target stage is not built on it; declare `use: BuildStage`",
            }
        )),
        None if edges.iter().take(index).any(|other| same_reference(other, edge)) => {
            Some(format!("{} is declared twice", described(edge)))
        }
        None if is_named(index) => None,
        None => {
            Some(format!("{} is declared, but the Dockerfile does not name it", described(edge)))
        }
    };
    edges.iter().enumerate().filter_map(problem).collect()
}

fn replaced_digest(edge: &DeclaredEdge, image: &NamedImage) -> Option<ReplacedDigest> {
    Some(ReplacedDigest {
        image: image.clone(),
        context: full_reference(&image.name)?.familiar(),
        pinned: edge.pinned.clone(),
    })
}

/// Returns a problem for each stage that `BuildKit` would replace: a pinned parent is a named
/// context, and `BuildKit` takes a stage from the context of the same name.
fn replaced_stages(dockerfile: &Dockerfile, edges: &[DeclaredEdge]) -> Vec<String> {
    let key = |text: &str| full_reference(text).map(|reference| reference.familiar());
    let contexts: BTreeSet<_> =
        edges.iter().filter_map(|edge| key(edge.reference.as_deref()?)).collect();
    dockerfile
        .graph
        .named_stages()
        .filter(|stage| key(stage.name).is_some_and(|key| contexts.contains(&key)))
        .map(|stage| {
            format!(
                "line {} names a stage `{}`, which is also the name of a parent, so BuildKit would \
                 replace the stage by the parent; rename the stage",
                stage.line, stage.name
            )
        })
        .collect()
}

fn undeclared(image: &NamedImage, edges: &[DeclaredEdge]) -> String {
    let mut text =
        format!("{} names {}, which `from` does not declare", place(image), written(image));
    let by_arg =
        edges.iter().find(|edge| edge.arg.as_ref().is_some_and(|arg| image.args.contains(arg)));
    if let Some(edge) = by_arg {
        let _ = write!(
            text,
            " ({} is only a part of the reference, or has another value there)",
            described(edge)
        );
    }
    text
}

fn ambiguous(image: &NamedImage, edges: [Option<&DeclaredEdge>; 2]) -> String {
    format!(
        "{} names {} by its digest, and it may be {}; write the tag before the digest",
        place(image),
        written(image),
        edges.into_iter().flatten().map(described).collect::<Vec<_>>().join(" or ")
    )
}

/// Returns where an image is named.
fn place(image: &NamedImage) -> String {
    match &image.trigger_of {
        Some(parent) => format!("an ONBUILD trigger of `{parent}`"),
        None => format!("line {}", image.line),
    }
}

fn written(image: &NamedImage) -> String {
    if image.written == image.name {
        format!("`{}`", image.name)
    } else {
        format!("`{}` (`{}`)", image.written, image.name)
    }
}

fn described(edge: &DeclaredEdge) -> String {
    match (&edge.arg, &edge.reference) {
        (Some(arg), _) => format!("`{}` by ARG `{arg}`", edge.name),
        (None, reference) => {
            format!("`{}` as `{}`", edge.name, reference.as_deref().unwrap_or_default())
        }
    }
}

fn mismatch(
    problems: Vec<String>,
    needed: &[NeededImage],
    declared: &[DeclaredEdge],
) -> DockerfileMismatch {
    let named: BTreeSet<_> = needed
        .iter()
        .map(|NeededImage { image, usage }| format!("{} ({usage:?})", written(image)))
        .collect();
    DockerfileMismatch {
        problems: problems.into_iter().take(MAX_LISTED).collect::<Vec<_>>().join("; "),
        named: listed(named.into_iter()),
        declared: listed(
            declared.iter().map(|edge| format!("{} ({:?})", described(edge), edge.usage)),
        ),
    }
}

fn listed(items: impl Iterator<Item = String>) -> String {
    let items: Vec<_> = items.take(MAX_LISTED).collect();
    if items.is_empty() { "none".into() } else { items.join(", ") }
}
