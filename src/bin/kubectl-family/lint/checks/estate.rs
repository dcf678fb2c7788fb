//! Rules about families as a whole.

use std::collections::{BTreeMap, BTreeSet};

use groundswell::engine::{
    end_of_life::ended_upstreams,
    tags::{self, Tag},
};

use crate::lint::{
    checks::lineage::sets_label,
    rules::{RuleReport, RuleReports},
    subject::{LintedEstate, LintedFamily, LintedImage},
};

/// First words of tags that name no version: of a release that moves, or of a variant.
const MOVING_TAGS: [&str; 16] = [
    "alpine",
    "current",
    "devel",
    "edge",
    "experimental",
    "latest",
    "lts",
    "mainline",
    "nightly",
    "rawhide",
    "rolling",
    "sid",
    "slim",
    "stable",
    "testing",
    "unstable",
];
/// Number of images with a label from which its lack is reported.
const MIN_LABELLED: usize = 3;

/// Reports upstreams without support.
pub fn end_of_life(estate: &LintedEstate<'_>, reports: &mut RuleReports) {
    for family in &estate.families {
        for ended in ended_upstreams(&family.family.family.spec.upstreams, estate.now) {
            let next = ended.successor.as_deref().unwrap_or("a release with support");
            let message = format!(
                "the support of {} ended on {}; follow {next}",
                ended.reference, ended.supported_until
            );
            report(family, reports, &ended.upstream, message);
        }
    }
}

/// Reports upstreams whose tag names no version.
pub fn unpinned_reference(estate: &LintedEstate<'_>, reports: &mut RuleReports) {
    for family in &estate.families {
        for upstream in &family.family.family.spec.upstreams {
            let tag = upstream.follow.tag.as_str();
            if names_no_version(tag) {
                let message = format!(
                    "{} moves to the next major version without notice; follow a version",
                    upstream.reference()
                );
                report(family, reports, &upstream.name, message);
            }
        }
    }
}

/// Whether a tag moves to other major versions. One with a number does not.
fn names_no_version(tag: &str) -> bool {
    let first = tag.split('-').next().unwrap_or_default();
    MOVING_TAGS.contains(&first) && !tag.bytes().any(|byte| byte.is_ascii_digit())
}

/// Reports images that nothing uses.
pub fn unused_image(estate: &LintedEstate<'_>, reports: &mut RuleReports) {
    let imported = imported(estate);
    for image in estate.images() {
        let family = image.family.family;
        let name = &image.spec.name;
        let used = !family.blueprint.lineage.children(image.index).is_empty()
            || !image.spec.rollout.is_empty()
            || family.family.spec.exports.iter().any(|export| export.image == *name)
            || imported.contains(&image.family.subject(name))
            || claimed_tags(&image).iter().any(|tag| !tag.immutable);
        if !used {
            let message = "it has no child, no rollout, no export and no floating tag; remove it";
            image.report(reports, None, message.into());
        }
    }
}

/// Returns the tags of an image, as far as they are known before a build.
fn claimed_tags(image: &LintedImage<'_>) -> Vec<Tag> {
    // Valid families have only tags that can be rendered.
    tags::claimed(&image.family.family.family.spec, image.spec).unwrap_or_default()
}

/// Returns the images that other families are built on.
fn imported(estate: &LintedEstate<'_>) -> BTreeSet<String> {
    let imports = estate.families.iter().flat_map(|family| {
        let namespace = &family.family.name.namespace;
        family.images().flat_map(move |image| {
            image.spec.from.iter().filter_map(move |edge| {
                let other = edge.family.as_ref()?;
                let namespace = other.namespace.as_ref().unwrap_or(namespace);
                Some(format!("{namespace}/{}/{}", other.name, edge.image.as_ref()?))
            })
        })
    });
    imports.collect()
}

/// Reports tags that images of several families set. Those of one family are an error of its spec.
pub fn tag_collision(estate: &LintedEstate<'_>, reports: &mut RuleReports) {
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    for image in estate.images() {
        let position = image.index.position();
        let Some(blueprint) = image.family.family.blueprint.images.get(position) else { continue };
        let subject = image.family.subject(&image.spec.name);
        for tag in claimed_tags(&image) {
            let place = format!("{}:{}", blueprint.repository, tag.name);
            match owners.get(&place) {
                Some(owner) if *owner != subject => {
                    let message = format!("{place} is set by {owner}, too");
                    image.report(reports, None, message);
                }
                _ => _ = owners.insert(place, subject.clone()),
            }
        }
    }
}

/// Reports images without a label that nearly all others of their family have.
pub fn label_lost(estate: &LintedEstate<'_>, reports: &mut RuleReports) {
    for family in &estate.families {
        let known: Vec<LintedImage<'_>> =
            family.images().filter(|image| image.stage().is_some()).collect();
        let labels: BTreeSet<&str> = known.iter().flat_map(labels_of).collect();
        for label in labels {
            // Who sets it to an empty value does without the one of the parent.
            let (with, without): (Vec<&LintedImage<'_>>, Vec<_>) = known
                .iter()
                .filter(|image| label_value(image, label) != Some(""))
                .partition(|image| label_value(image, label).is_some());
            if with.len() >= MIN_LABELLED && with.len() >= 4 * without.len() {
                for image in without {
                    let count = with.len();
                    let message = format!("{count} images of the family have {label}; set it");
                    image.report(reports, None, message);
                }
            }
        }
    }
}

fn labels_of<'f>(image: &LintedImage<'f>) -> BTreeSet<&'f str> {
    let of_stage = image.stage().into_iter().flat_map(|stage| stage.labels.keys());
    image.spec.labels.keys().chain(of_stage).map(String::as_str).collect()
}

/// Returns the value of a label of an image, its own or an inherited one.
fn label_value<'f>(image: &LintedImage<'f>, label: &str) -> Option<&'f str> {
    let own = std::iter::once(*image).chain(image.bases());
    own.into_iter().find_map(|image| sets_label(&image, label))
}

fn report(family: &LintedFamily<'_>, reports: &mut RuleReports, name: &str, message: String) {
    let subject = family.subject(name);
    reports.0.push(RuleReport { subject, file: None, line: None, message });
}
