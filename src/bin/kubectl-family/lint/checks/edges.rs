//! Compares the edges of images with what their Dockerfiles name, with the code that a build uses.

use std::collections::BTreeMap;

use groundswell::{
    api::EdgeSource,
    builds::dockerfile::{
        BuildOptions, DeclaredEdge, Dockerfile, SyntaxError, undeclared_images, verify_edges,
    },
    lineage::Parent,
    registry::{Platform, Reference},
};

use crate::lint::{
    rules::RuleReports,
    subject::{LintedEstate, LintedImage},
};

/// The platform for which Dockerfiles are read. It matters only to arguments such as `TARGETARCH`.
const PLATFORM: &str = "linux/amd64";

/// Reports images that a Dockerfile names and no edge declares.
pub fn outside_reference(estate: &LintedEstate<'_>, reports: &mut RuleReports) {
    for (image, ParsedDockerfile { dockerfile, edges }) in with_edges(estate) {
        for needed in undeclared_images(&dockerfile, &edges).unwrap_or_default() {
            let message = format!(
                "`{}` is no parent in `from`, so that its changes would cause no rebuild",
                needed.image.name
            );
            image.report(reports, Some(needed.image.line), message);
        }
    }
}

/// Reports what else differs between edges and Dockerfiles.
pub fn edges_disagree(estate: &LintedEstate<'_>, reports: &mut RuleReports) {
    for (image, ParsedDockerfile { dockerfile, edges }) in with_edges(estate) {
        if undeclared_images(&dockerfile, &edges).is_ok_and(|undeclared| !undeclared.is_empty()) {
            continue;
        }
        let no_triggers = vec![Vec::new(); edges.len()];
        let Err(error) = verify_edges(&dockerfile, &edges, Some(&no_triggers)) else { continue };
        let message = match verify_edges(&dockerfile, &edges, None) {
            Ok(_) => format!("{error}, unless an ONBUILD trigger of a parent names it"),
            Err(error) => error.to_string(),
        };
        image.report(reports, None, message);
    }
}

/// Reports references whose tag is not the one that the build uses.
pub fn shadowed_reference(estate: &LintedEstate<'_>, reports: &mut RuleReports) {
    for image in estate.images() {
        let parents = image.family.family.blueprint.lineage.parents(image.index);
        for (edge, parent) in image.spec.from.iter().zip(parents) {
            let Parent::Upstream(upstream) = parent else { continue };
            let upstreams = &image.family.family.family.spec.upstreams;
            let Some(upstream) = upstreams.get(upstream.position()) else { continue };
            let Some(written) = edge.reference.as_deref() else { continue };
            let Ok(reference) = written.parse::<Reference>() else { continue };
            let tag = upstream.follow.tag.as_str();
            // A digest next to the tag is replaced by that of the tag.
            if reference.tag() != Some(tag) {
                let message = format!(
                    "the Dockerfile names `{written}`, and the build uses `{}`; write that",
                    upstream.reference()
                );
                image.report(reports, None, message);
            }
        }
    }
}

/// Reports Dockerfiles that cannot be read.
pub fn unreadable(estate: &LintedEstate<'_>, reports: &mut RuleReports) {
    for image in estate.images() {
        if let Some(problem) = &image.dockerfile.problem {
            image.report(reports, None, problem.clone());
        } else if let Some(Err(error)) = parse(&image) {
            image.report(reports, Some(error.line()), error.to_string());
        }
    }
}

/// A Dockerfile and the edges of its image.
struct ParsedDockerfile {
    dockerfile: Dockerfile,
    edges: Vec<DeclaredEdge>,
}

/// Returns the images that declare all their edges and whose Dockerfile can be interpreted.
fn with_edges<'a>(
    estate: &'a LintedEstate<'a>,
) -> impl Iterator<Item = (LintedImage<'a>, ParsedDockerfile)> {
    let images = estate.images().filter(|image| image.spec.edges == EdgeSource::Declared);
    images.filter_map(|image| {
        let parsed = parse(&image)?.ok()?;
        Some((image, parsed))
    })
}

/// Parses the Dockerfile of an image as its build does. Returns `None` if it is not here, or if the
/// reference of a parent is in another family.
fn parse(image: &LintedImage<'_>) -> Option<Result<ParsedDockerfile, SyntaxError>> {
    let text = image.dockerfile.text.as_ref()?;
    let edges = declared_edges(image)?;
    let by_arg = edges.iter().filter_map(|edge| Some((edge.arg.clone()?, edge.pinned.clone())));
    let args: BTreeMap<String, String> =
        image.spec.args.clone().into_iter().chain(by_arg).collect();
    let platform = Platform::from_user(PLATFORM)?;
    let target = image.spec.target.as_deref();
    let options = BuildOptions { args: &args, platform: &platform, target };
    Some(Dockerfile::parse(text, &options).map(|dockerfile| ParsedDockerfile { dockerfile, edges }))
}

/// Returns the edges as a build declares them, or `None` if the reference of one is in another
/// family.
fn declared_edges(image: &LintedImage<'_>) -> Option<Vec<DeclaredEdge>> {
    let blueprint = image.family.family.blueprint.images.get(image.index.position())?;
    let edges = image.spec.from.iter().zip(&blueprint.references).enumerate();
    edges
        .map(|(index, (edge, reference))| {
            if edge.family.is_some() && edge.reference.is_none() && edge.arg.is_none() {
                return None;
            }
            Some(DeclaredEdge {
                name: edge.parent().to_owned(),
                // Stands for a pinned parent. No Dockerfile names it.
                pinned: format!("pinned.invalid/parent-{index}@sha256:{index:064x}"),
                reference: Some(reference.clone()).filter(|_| edge.arg.is_none()),
                arg: edge.arg.clone(),
                usage: edge.usage,
            })
        })
        .collect()
}
