//! Compares the images that a Dockerfile names with the edges that an image declares.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde::{Deserialize, Serialize};

use crate::{
    api::EdgeUse,
    builds::dockerfile::{Dockerfile, ExternalImage, Origin},
    registry::Reference,
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

/// Compares the images that a Dockerfile names with the declared edges.
///
/// Each image that the build needs must be declared with the same use, and the Dockerfile must name
/// the parent of each edge. Images of stages that the target does not need may be declared but do
/// not have to be, because `BuildKit` does not even look them up.
///
/// # Errors
/// Returns a [`DockerfileMismatch`] with all differences.
pub fn verify_edges(
    dockerfile: &Dockerfile,
    declared: &[DeclaredEdge],
    target: Option<&str>,
) -> Result<(), DockerfileMismatch> {
    let Some(built) = dockerfile.target(target) else {
        let stages: Vec<_> =
            dockerfile.stages.iter().filter_map(|stage| stage.name.as_deref()).collect();
        let problem = format!(
            "`target` is `{}`, but the Dockerfile has no such stage; its named stages are {}",
            target.unwrap_or_default(),
            listed(stages.iter().map(|stage| format!("`{stage}`")))
        );
        return Err(mismatch(vec![problem], &BTreeMap::new(), declared));
    };
    let needed = needed_images(dockerfile, built);
    let mut problems = replaced_stages(dockerfile, declared);
    let mut uses: BTreeMap<usize, EdgeUse> = BTreeMap::new();
    for (external, usage) in &needed {
        match declared.iter().position(|edge| declares(edge, external)) {
            Some(index) => {
                let strongest = uses.entry(index).or_insert(*usage);
                *strongest = (*strongest).min(*usage);
            }
            None => problems.push(undeclared(external, declared)),
        }
    }
    let elsewhere =
        || dockerfile.stages.iter().flat_map(|stage| stage.uses.iter().chain([&stage.base]));
    for (index, edge) in declared.iter().enumerate() {
        match uses.get(&index) {
            Some(usage) if *usage == edge.usage => {}
            Some(usage) => problems.push(format!(
                "{} is declared with `use: {:?}`, but {}",
                described(edge),
                edge.usage,
                match usage {
                    EdgeUse::Base => "the target stage is built on it; declare `use: Base`",
                    EdgeUse::BuildStage =>
                        "the target stage is not built on it; declare `use: BuildStage`",
                }
            )),
            None => {
                let unneeded = elsewhere()
                    .any(|origin| matches!(origin, Origin::External(e) if declares(edge, e)));
                let twin = declared.iter().take(index).any(|other| same_reference(other, edge));
                if twin {
                    problems.push(format!("{} is declared twice", described(edge)));
                } else if !unneeded {
                    problems.push(format!(
                        "{} is declared, but the Dockerfile does not name it",
                        described(edge)
                    ));
                }
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(mismatch(problems, &needed, declared)) }
}

/// Returns the images that the build of a stage needs, and what it uses each for.
pub(super) fn needed_images(
    dockerfile: &Dockerfile,
    built: usize,
) -> BTreeMap<ExternalImage, EdgeUse> {
    let mut found = BTreeMap::new();
    let mut visited = BTreeSet::new();
    let mut open = vec![(built, EdgeUse::Base)];
    while let Some((index, usage)) = open.pop() {
        let Some(stage) = dockerfile.stages.get(index).filter(|_| visited.insert((index, usage)))
        else {
            continue;
        };
        let uses = stage.uses.iter().map(|origin| (origin, EdgeUse::BuildStage));
        for (origin, usage) in uses.chain([(&stage.base, usage)]) {
            match origin {
                Origin::Scratch => {}
                Origin::Stage(index) => open.push((*index, usage)),
                Origin::External(external) => {
                    let strongest = found.entry(external.clone()).or_insert(usage);
                    *strongest = (*strongest).min(usage);
                }
            }
        }
    }
    found
}

/// Whether an edge declares an image that a Dockerfile names.
fn declares(edge: &DeclaredEdge, external: &ExternalImage) -> bool {
    let same = |text: &str| {
        text == external.name
            || matches!((full_reference(text), full_reference(&external.name)), (Some(a),
                Some(b)) if a == b)
    };
    match (&edge.arg, &edge.reference) {
        (Some(arg), _) => external.args.contains(arg) && same(&edge.pinned),
        (None, Some(reference)) => same(reference),
        (None, None) => false,
    }
}

/// Parses a reference into its full form, so that `alpine` and `docker.io/library/alpine:latest`
/// are equal.
fn full_reference(text: &str) -> Option<Reference> {
    text.parse().ok()
}

fn same_reference(a: &DeclaredEdge, b: &DeclaredEdge) -> bool {
    let named = |edge: &DeclaredEdge| edge.reference.as_deref().and_then(full_reference);
    (a.arg.is_some() && a.arg == b.arg)
        || named(a).is_some_and(|reference| named(b) == Some(reference))
}

/// Returns a problem for each stage that `BuildKit` would replace: a pinned parent is a named
/// context, and `BuildKit` takes a stage from the context of the same name.
fn replaced_stages(dockerfile: &Dockerfile, declared: &[DeclaredEdge]) -> Vec<String> {
    let key = |text: &str| full_reference(text).map(|reference| reference.familiar());
    let contexts: BTreeSet<_> =
        declared.iter().filter_map(|edge| key(edge.reference.as_deref()?)).collect();
    let stages =
        dockerfile.stages.iter().filter_map(|stage| Some((stage.line, stage.name.as_deref()?)));
    stages
        .filter(|(_, name)| key(name).is_some_and(|key| contexts.contains(&key)))
        .map(|(line, name)| {
            format!(
                "line {line} names a stage `{name}`, which is also the name of a parent, so \
                 BuildKit would replace the stage by the parent; rename the stage"
            )
        })
        .collect()
}

fn undeclared(external: &ExternalImage, declared: &[DeclaredEdge]) -> String {
    let mut text = format!(
        "line {} names {}, which `from` does not declare",
        external.line,
        written(external)
    );
    let by_arg = declared
        .iter()
        .find(|edge| edge.arg.as_ref().is_some_and(|arg| external.args.contains(arg)));
    if let Some(edge) = by_arg {
        let _ = write!(
            text,
            " ({} is only a part of the reference, or has another value there)",
            described(edge)
        );
    }
    text
}

fn written(external: &ExternalImage) -> String {
    if external.written == external.name {
        format!("`{}`", external.name)
    } else {
        format!("`{}` (`{}`)", external.written, external.name)
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
    needed: &BTreeMap<ExternalImage, EdgeUse>,
    declared: &[DeclaredEdge],
) -> DockerfileMismatch {
    let named: BTreeSet<_> = needed
        .iter()
        .map(|(external, usage)| format!("{} ({usage:?})", written(external)))
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
