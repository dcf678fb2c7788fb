//! Renders one or several families as text for a terminal. Pure: the time and the width are
//! arguments. The text always has colours, which the screen removes if it shows none.

use std::fmt::Write as _;

use comfy_table::Color;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;

use groundswell::api::{
    CheckState, ImageCounts, ImageFamily, ImageFamilyStatus, ManagedImage, RolloutState,
    UpstreamStatus,
    condition::{self, shorten},
};

use crate::output::{
    colours,
    table::{self, StyledText, one_line, styled},
};

/// Renders a family: its summary, its upstreams, its images by level, its checks that have not
/// passed or run in another image, and its incomplete rollouts.
pub fn family(
    family: &ImageFamily,
    images: &[&ManagedImage],
    now: Timestamp,
    width: Option<u16>,
) -> String {
    let empty = ImageFamilyStatus::default();
    let status = family.status.as_ref().unwrap_or(&empty);
    let mut text = summary(family, status, now, width);
    if !status.upstreams.is_empty() {
        let header = ["UPSTREAM", "REFERENCE", "ADOPTED", "IN-USE", "CANDIDATE", "MESSAGE"];
        let rows = status.upstreams.iter().map(|upstream| upstream_row(upstream, now)).collect();
        text = text + "\n" + &table::render(&header, rows, width);
    }
    let mut images = images.to_vec();
    images.sort_by_key(|image| (image.spec.level, image.spec.image.clone()));
    if !images.is_empty() {
        let header = ["LEVEL", "IMAGE", "STATE", "BUILD", "DIGEST", "STATE-AGE", "MESSAGE"];
        let rows = images.iter().map(|image| image_row(image, now)).collect();
        text = text + "\n" + &table::render(&header, rows, width);
    }
    let checks: Vec<_> = images.iter().flat_map(|image| check_rows(image)).collect();
    if !checks.is_empty() {
        let header = ["IMAGE", "CHECK", "STATE", "RUNS-IN", "MESSAGE"];
        text = text + "\n" + &table::render(&header, checks, width);
    }
    let rollouts: Vec<_> = images.iter().flat_map(|image| rollout_rows(image)).collect();
    if !rollouts.is_empty() {
        text = text
            + "\n"
            + &table::render(&["IMAGE", "ROLLOUT", "STATE", "MESSAGE"], rollouts, width);
    }
    text
}

/// Whether a list of families has a column for their namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceColumn {
    Hidden,
    Shown,
}

/// Renders a list of families, one per line.
pub fn families(
    families: &[&ImageFamily],
    namespace: NamespaceColumn,
    now: Timestamp,
    width: Option<u16>,
) -> String {
    if families.is_empty() {
        return "no families\n".into();
    }
    let mut header = vec!["FAMILY", "READY", "IMAGES", "CASCADE", "READY-AGE", "MESSAGE"];
    if namespace == NamespaceColumn::Shown {
        header.insert(0, "NAMESPACE");
    }
    let empty = ImageFamilyStatus::default();
    let rows = families.iter().map(|family| {
        let status = family.status.as_ref().unwrap_or(&empty);
        let ready = ready(status);
        let since = ready.map(|condition| condition.last_transition_time.0);
        let mut row = vec![
            family.name_any().into(),
            readiness(ready),
            counts(&status.counts).into(),
            running_cascades(status).into(),
            age(since, now).into(),
            ready.map_or("not reconciled yet", |condition| &condition.message).into(),
        ];
        if namespace == NamespaceColumn::Shown {
            row.insert(0, family.namespace().unwrap_or_default().into());
        }
        row
    });
    table::render(&header, rows.collect(), width)
}

fn summary(
    family: &ImageFamily,
    status: &ImageFamilyStatus,
    now: Timestamp,
    width: Option<u16>,
) -> String {
    let ready = ready(status);
    let mut lines = vec![
        ("Family", format!("{}/{}", family.namespace().unwrap_or_default(), family.name_any())),
        ("Images", counts(&status.counts)),
    ];
    let mut readiness = readiness(ready).text;
    if let Some(condition) = ready {
        let since = age(Some(condition.last_transition_time.0), now);
        _ = write!(readiness, " for {since} ({}): {}", condition.reason, condition.message);
    }
    lines.insert(1, ("Ready", readiness));
    if let Some(stalled) =
        status.conditions.iter().find(|c| c.type_ == condition::STALLED && c.status == "True")
    {
        lines.insert(2, ("Stalled", format!("{}: {}", stalled.reason, stalled.message)));
    }
    for cascade in &status.cascades {
        lines.push(("Cascade", format!("{}, for {}", cascade.name, age(cascade.started_at, now))));
    }
    if let Some(pending) = &status.pending {
        lines.push((
            "Pending",
            format!("changes from {} ago wait for a cascade", age(pending.since, now)),
        ));
    }
    if family.spec.suspend {
        lines.push((
            "Suspend",
            "nothing is built, tagged or rolled out until `spec.suspend` is removed".into(),
        ));
    }
    lines.into_iter().fold(String::new(), |text, (name, value)| {
        let line = format!("{name:<8} {}", one_line(&value));
        text + &shorten(&line, width.map_or(usize::MAX, usize::from)) + "\n"
    })
}

fn upstream_row(upstream: &UpstreamStatus, now: Timestamp) -> Vec<StyledText> {
    let adopted = upstream.adopted.as_ref();
    let candidate = upstream.candidate.as_ref();
    vec![
        (&upstream.name).into(),
        (&upstream.reference).into(),
        short(adopted.map(|adopted| adopted.digest.as_str())).into(),
        age(adopted.and_then(|adopted| adopted.since), now).into(),
        candidate.map_or_else(
            || "-".into(),
            |candidate| styled(&short(Some(&candidate.digest)), Color::Cyan),
        ),
        explanation(
            upstream.reason.as_deref().unwrap_or_default(),
            upstream.message.as_deref().unwrap_or_default(),
        )
        .into(),
    ]
}

fn image_row(image: &ManagedImage, now: Timestamp) -> Vec<StyledText> {
    let Some(status) = &image.status else {
        let unknown = ["-"; 4].map(StyledText::from);
        let mut row = vec![image.spec.level.into(), (&image.spec.image).into()];
        row.extend(unknown);
        row.push("not reconciled yet".into());
        return row;
    };
    vec![
        image.spec.level.into(),
        StyledText { bold: true, ..(&image.spec.image).into() },
        styled(status.state.as_str(), colours::of_state(status.state)),
        status.build.map_or_else(|| "-".to_owned(), |build| build.to_string()).into(),
        short(status.digest.as_deref()).into(),
        age(status.since, now).into(),
        explanation(&status.reason, &status.message).into(),
    ]
}

/// Renders the checks of an image that have not passed, or that run in another image: that image
/// decides what the result means.
fn check_rows(image: &ManagedImage) -> Vec<Vec<StyledText>> {
    let checks = image.status.iter().flat_map(|status| &status.checks);
    checks
        .filter_map(|check| {
            let state = match check.state {
                CheckState::Passed if check.image.is_none() => return None,
                CheckState::Passed => styled("Passed", Color::Green),
                CheckState::Running => styled("Running", Color::Yellow),
                CheckState::Failed => styled("Failed", Color::Red),
            };
            let message = if check.message.is_empty() { "-" } else { &check.message };
            Some(vec![
                (&image.spec.image).into(),
                (&check.name).into(),
                state,
                check.image.as_deref().map_or_else(|| "the new image".into(), short_image).into(),
                message.into(),
            ])
        })
        .collect()
}

/// Renders the rollouts of an image that are not complete.
fn rollout_rows(image: &ManagedImage) -> Vec<Vec<StyledText>> {
    let rollouts = image.status.iter().flat_map(|status| &status.rollouts);
    rollouts
        .filter_map(|rollout| {
            let state = match rollout.state {
                RolloutState::Complete => return None,
                RolloutState::Progressing => styled("Progressing", Color::Yellow),
                RolloutState::Stalled => styled("Stalled", Color::Red),
                RolloutState::Contested => styled("Contested", Color::Red),
                RolloutState::Refused => styled("Refused", Color::Red),
            };
            Some(vec![
                (&image.spec.image).into(),
                (&rollout.workload).into(),
                state,
                (&rollout.message).into(),
            ])
        })
        .collect()
}

fn ready(status: &ImageFamilyStatus) -> Option<&Condition> {
    status.conditions.iter().find(|condition| condition.type_ == condition::READY)
}

fn readiness(ready: Option<&Condition>) -> StyledText {
    match ready.map(|condition| condition.status.as_str()) {
        Some("True") => styled("True", Color::Green),
        Some(other) => styled(other, Color::Yellow),
        None => "Unknown".into(),
    }
}

/// Renders the name of the oldest running cascade, and how many more run.
fn running_cascades(status: &ImageFamilyStatus) -> String {
    match status.cascades.as_slice() {
        [] => "-".into(),
        [only] => only.name.clone(),
        [oldest, others @ ..] => format!("{} +{}", oldest.name, others.len()),
    }
}

/// Renders the number of images in total and in each state.
fn counts(counts: &ImageCounts) -> String {
    let states = [
        ("current", counts.current),
        ("building", counts.building),
        ("checking", counts.checking),
        ("queued", counts.queued),
        ("waiting", counts.waiting),
        ("held", counts.held),
        ("blocked", counts.blocked),
        ("failed", counts.failed),
    ];
    let named: Vec<_> = states
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    if named.is_empty() {
        counts.total.to_string()
    } else {
        format!("{}: {}", counts.total, named.join(", "))
    }
}

/// Returns the first 12 hexadecimal digits of a digest.
fn short(digest: Option<&str>) -> String {
    digest.map_or_else(
        || "-".into(),
        |digest| digest.trim_start_matches("sha256:").chars().take(12).collect(),
    )
}

/// Returns an image with the first 12 hexadecimal digits of its digest.
fn short_image(image: &str) -> String {
    image.split_once('@').map_or_else(
        || image.to_owned(),
        |(name, digest)| format!("{name}@{}", short(Some(digest))),
    )
}

/// Returns the reason and the message, as far as they are known.
fn explanation(reason: &str, message: &str) -> String {
    match (reason.is_empty(), message.is_empty()) {
        (true, true) => "-".into(),
        (true, false) => message.into(),
        (false, true) => reason.into(),
        (false, false) => format!("{reason}: {message}"),
    }
}

/// Returns the time since `since`, in the format of kubectl.
pub fn age(since: Option<Timestamp>, now: Timestamp) -> String {
    let Some(since) = since else { return "-".into() };
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
