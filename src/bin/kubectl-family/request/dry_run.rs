//! What a request would do, by the controller's own decision on what is recorded. Nothing is sent,
//! but for a dry run that the API server checks and does not store.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;

use groundswell::{
    api::{FamilyRequest, RequestState},
    engine::RequestDecision,
    terminal::printable,
};

use crate::{
    input::{EstateFamily, plural},
    plan::dry_run::{AssumedDigests, DryRun, DryRunEnd},
    request::render,
};

/// Maximum number of images that are named.
const MAX_NAMED: usize = 20;

/// Returns what a request would do to a family.
///
/// # Errors
///
/// Returns an error if the controller would refuse the request, with its message.
pub fn describe(
    family: &mut EstateFamily,
    mut request: FamilyRequest,
    now: Timestamp,
) -> anyhow::Result<String> {
    let assumed = AssumedDigests::default();
    let without = DryRun::new(family, &assumed, now).run();
    let name = request.name_any();
    request.metadata.creation_timestamp = Some(Time(now));
    let action = render::describe(&request.spec);
    family.requests.push(request);
    let with = DryRun::new(family, &assumed, now).run();
    let decided = with.requests.get(&name).context("the controller decides nothing about it")?;
    if matches!(decided.state, RequestState::Refused | RequestState::Superseded) {
        bail!("dry run, nothing is sent: {action} would be refused: {}", decided.message);
    }
    let mut text = format!("dry run, nothing is sent: {action}\n{}\n", answer(decided));
    text += &builds(family, &without, &with);
    Ok(printable(&text))
}

/// Returns the first answer of the controller.
fn answer(decided: &RequestDecision) -> String {
    let state = match decided.state {
        RequestState::Waiting => "it would wait",
        _ => "it would be carried out",
    };
    let images = decided.images.map(|images| {
        let plural = plural(images);
        format!("; it applies to {images} image{plural}")
    });
    format!("{state}: {}{}", decided.message, images.unwrap_or_default())
}

/// Says how the builds differ that follow with and without the request.
fn builds(family: &EstateFamily, without: &DryRunEnd, with: &DryRunEnd) -> String {
    let times = |end: &DryRunEnd| -> BTreeMap<usize, Timestamp> {
        end.builds.iter().map(|build| (build.image.position(), build.at)).collect()
    };
    let (before, after) = (times(without), times(with));
    let added = after.keys().filter(|image| !before.contains_key(image));
    let earlier = after.iter().filter(|(image, at)| before.get(image).is_some_and(|old| old > at));
    let removed = before.keys().filter(|image| !after.contains_key(image));
    let parts = [
        ("built because of it", added.copied().collect::<Vec<usize>>()),
        ("built earlier", earlier.map(|(image, _)| *image).collect()),
        ("not built any more", removed.copied().collect()),
    ];
    let mut text = String::new();
    for (what, images) in parts.iter().filter(|(_, images)| !images.is_empty()) {
        let count = images.len();
        // Writing to a String never fails.
        _ = writeln!(text, "{count} image{} {what}: {}", plural(count), names(family, images));
    }
    if text.is_empty() {
        text.push_str("the same images are built as without it\n");
    }
    text
}

fn names(family: &EstateFamily, images: &[usize]) -> String {
    let all = &family.family.spec.images;
    let named = images.iter().take(MAX_NAMED).filter_map(|at| all.get(*at));
    let named: Vec<&str> = named.map(|image| image.name.as_str()).collect();
    match images.len().checked_sub(MAX_NAMED) {
        Some(more) if more > 0 => format!("{} and {more} more", named.join(", ")),
        _ => named.join(", "),
    }
}
