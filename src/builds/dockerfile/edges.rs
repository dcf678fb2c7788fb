//! The images that a Dockerfile names, held against those that an image's edges declare.

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

/// The most problems that a message lists.
const MAX_LISTED: usize = 12;

/// A declared edge: a parent, how the Dockerfile names it, and what it does with it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeclaredEdge {
    /// The parent's name in the family.
    pub name: String,
    /// The reference that the build takes: `repository@sha256:...`.
    pub pinned: String,
    /// The reference that the Dockerfile writes, if it writes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The build argument that the Dockerfile takes it from, if it takes it from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arg: Option<String>,
    /// What the Dockerfile does with it.
    #[serde(rename = "use")]
    pub usage: EdgeUse,
}

/// How a Dockerfile and the declared edges disagree, with both sides.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the Dockerfile and the image's `from` disagree: {problems}. The Dockerfile names {named}; \
     `from` declares {declared}. Correct one of them"
)]
pub struct DockerfileMismatch {
    problems: String,
    named: String,
    declared: String,
}

/// Holds the images that a Dockerfile names against the declared edges.
///
/// Each image that the build needs must be declared, with the same use, and each edge must be
/// named. Images of stages that the target does not need may be declared and need not be:
/// `BuildKit` does not even look them up.
///
/// # Errors
/// A [`DockerfileMismatch`], which says all that disagrees.
pub fn verify_edges(
    dockerfile: &Dockerfile,
    declared: &[DeclaredEdge],
    target: Option<&str>,
) -> Result<(), DockerfileMismatch> {
    let Some(built) = dockerfile.target(target) else {
        let stages: Vec<_> =
            dockerfile.stages.iter().filter_map(|stage| stage.name.as_deref()).collect();
        let problem = format!(
            "`target` is `{}`, and there is no such stage, only {}",
            target.unwrap_or_default(),
            listed(stages.iter().map(|stage| format!("`{stage}`")))
        );
        return Err(mismatch(vec![problem], &BTreeMap::new(), declared));
    };
    let needed = named(dockerfile, built);
    let mut problems = replaced_stages(dockerfile, declared);
    let mut uses: BTreeMap<usize, EdgeUse> = BTreeMap::new();
    for (external, usage) in &needed {
        match declared.iter().position(|edge| names(external, edge)) {
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
                "{} is declared with `use: {:?}`, and {}",
                described(edge),
                edge.usage,
                match usage {
                    EdgeUse::Base => "the built stage stands on it: declare `use: Base`",
                    EdgeUse::BuildStage =>
                        "the built stage does not stand on it: declare `use: BuildStage`",
                }
            )),
            None => {
                let unneeded = elsewhere()
                    .any(|origin| matches!(origin, Origin::External(e) if names(e, edge)));
                let twin = declared.iter().take(index).any(|other| same_reference(other, edge));
                if twin {
                    problems.push(format!("{} is declared twice", described(edge)));
                } else if !unneeded {
                    problems.push(format!(
                        "{} is declared, and the Dockerfile does not name it",
                        described(edge)
                    ));
                }
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(mismatch(problems, &needed, declared)) }
}

/// The images that the build of a stage needs, and what for.
pub(super) fn named(dockerfile: &Dockerfile, built: usize) -> BTreeMap<ExternalImage, EdgeUse> {
    let mut found = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut open = vec![(built, EdgeUse::Base)];
    while let Some((index, usage)) = open.pop() {
        let Some(stage) = dockerfile.stages.get(index).filter(|_| seen.insert((index, usage)))
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

/// Whether an edge declares what a Dockerfile names.
fn names(external: &ExternalImage, edge: &DeclaredEdge) -> bool {
    let same = |text: &str| {
        text == external.name
            || matches!((whole(text), whole(&external.name)), (Some(a), Some(b)) if a == b)
    };
    match (&edge.arg, &edge.reference) {
        (Some(arg), _) => external.args.contains(arg) && same(&edge.pinned),
        (None, Some(reference)) => same(reference),
        (None, None) => false,
    }
}

/// A reference in full, so that `alpine` and `docker.io/library/alpine:latest` are equal.
fn whole(text: &str) -> Option<Reference> {
    text.parse().ok()
}

fn same_reference(a: &DeclaredEdge, b: &DeclaredEdge) -> bool {
    let named = |edge: &DeclaredEdge| edge.reference.as_deref().and_then(whole);
    (a.arg.is_some() && a.arg == b.arg)
        || named(a).is_some_and(|reference| named(b) == Some(reference))
}

/// Stages that `BuildKit` would replace whole: a pinned parent is a named context, and a stage of a
/// context's name is taken from the context.
fn replaced_stages(dockerfile: &Dockerfile, declared: &[DeclaredEdge]) -> Vec<String> {
    let key = |text: &str| whole(text).map(|reference| reference.familiar());
    let contexts: BTreeSet<_> =
        declared.iter().filter_map(|edge| key(edge.reference.as_deref()?)).collect();
    let stages =
        dockerfile.stages.iter().filter_map(|stage| Some((stage.line, stage.name.as_deref()?)));
    stages
        .filter(|(_, name)| key(name).is_some_and(|key| contexts.contains(&key)))
        .map(|(line, name)| {
            format!(
                "line {line} names a stage `{name}`, as one of the parents is named, and BuildKit \
                 would replace the stage by the parent: rename the stage"
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
            " ({} is only a part of it, or stands there with another value)",
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
