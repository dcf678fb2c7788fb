//! Renders one or several families as text for a terminal. Pure: the time and the width are
//! arguments. The text always has colours, which the screen removes if it shows none.

use std::{collections::BTreeMap, fmt::Write as _};

use comfy_table::Color;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;

use groundswell::api::{
    CheckState, ImageCounts, ImageFamily, ImageFamilyStatus, ImageState, ManagedImage,
    RolloutState, UpstreamStatus,
    condition::{self, shorten},
    late_source::LateSource,
};

use crate::{
    output::{
        colours,
        table::{self, StyledText, one_line, styled},
    },
    status::progress::{self, BarStyle},
};

/// Maximum number of lines of each part but the images, if the height is limited.
const MAX_PART: usize = 6;
/// Minimum number of lines for images, however low the terminal.
const MIN_IMAGES: usize = 3;

/// Number of lines of a terminal that a line of the summary is cut to, as far as words fit.
const MAX_SUMMARY_LINES: usize = 3;
/// Width of the names in the summary with the space after them.
const SUMMARY_INDENT: usize = 9;

/// Renders a family: its summary, its upstreams, its levels, its images, the failures with the last
/// lines of their logs, its checks that have not passed or run in another image, and its incomplete
/// rollouts. What is more than `lines` lines is folded.
pub fn family(
    family: &ImageFamily,
    images: &[&ManagedImage],
    now: Timestamp,
    width: Option<u16>,
    lines: Option<usize>,
) -> String {
    let empty = ImageFamilyStatus::default();
    let status = family.status.as_ref().unwrap_or(&empty);
    let mut images = images.to_vec();
    images.sort_by_key(|image| (image.spec.level, image.spec.image.clone()));
    let part = lines.map(|_| MAX_PART);
    let remaining = progress::remaining(family, &images, now);
    let mut before = summary(family, status, remaining, now, width);
    let header = ["UPSTREAM", "REFERENCE", "ADOPTED", "IN-USE", "CANDIDATE", "MESSAGE"];
    let upstreams = status.upstreams.iter().map(|upstream| upstream_row(upstream, now)).collect();
    before += &section(&header, upstreams, part, width);
    let style = if width.is_some() { BarStyle::Blocks } else { BarStyle::Plain };
    let levels = progress::level_rows(&images, style);
    before += &section(&["LEVEL", "PROGRESS", "DONE", "STATES"], levels, part, width);
    let mut after = String::new();
    let failures = progress::failures(&images, part);
    if !failures.is_empty() {
        let cut = |line: &String| match width {
            Some(width) => shorten_styled(line, usize::from(width)) + "\n",
            None => line.clone() + "\n",
        };
        after = after + "\nFAILURES\n" + &failures.iter().map(cut).collect::<String>();
    }
    let checks: Vec<_> = images.iter().flat_map(|image| check_rows(image)).collect();
    let header = ["IMAGE", "CHECK", "STATE", "RUNS-IN", "MESSAGE"];
    after += &section(&header, checks, part, width);
    let rollouts: Vec<_> = images.iter().flat_map(|image| rollout_rows(image)).collect();
    after += &section(&["IMAGE", "ROLLOUT", "STATE", "MESSAGE"], rollouts, part, width);
    let used = before.lines().count() + after.lines().count();
    // The table has a blank line and a header.
    let left = lines.map(|lines| lines.saturating_sub(used + 2).max(MIN_IMAGES));
    let text = before + &image_table(&images, left, now, width) + &after;
    lines.map_or_else(|| text.clone(), |lines| first_lines(&text, lines))
}

/// Renders a table with a blank line in front, or nothing if it has no row. Rows that are more than
/// `lines` are counted.
fn section(
    header: &[&str],
    mut rows: Vec<Vec<StyledText>>,
    lines: Option<usize>,
    width: Option<u16>,
) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let kept = lines.filter(|lines| rows.len() > *lines).map(|lines| lines.saturating_sub(1));
    let hidden = kept.map_or(0, |kept| rows.len() - kept);
    rows.truncate(kept.unwrap_or(rows.len()));
    let folded = if hidden > 0 { format!("... {hidden} more\n") } else { String::new() };
    let expendable = ["STATE-AGE", "DIGEST", "BUILD", "IN-USE"];
    format!("\n{}{folded}", table::render_without(&expendable, header, rows, width))
}

/// Renders the images in at most `lines` lines: those that something happens to first.
fn image_table(
    images: &[&ManagedImage],
    lines: Option<usize>,
    now: Timestamp,
    width: Option<u16>,
) -> String {
    let header = ["LEVEL", "IMAGE", "STATE", "BUILD", "DIGEST", "STATE-AGE", "MESSAGE"];
    let kept = lines.filter(|lines| images.len() > *lines).map(|lines| lines.saturating_sub(1));
    let Some(kept) = kept else {
        let rows = images.iter().map(|image| image_row(image, now)).collect();
        return section(&header, rows, None, width);
    };
    let mut order: Vec<usize> = (0..images.len()).collect();
    order.sort_by_key(|at| images.get(*at).map(|image| urgency(image)));
    let mut shown = order.get(..kept).unwrap_or_default().to_vec();
    shown.sort_unstable();
    let rows = shown.iter().filter_map(|at| images.get(*at)).map(|image| image_row(image, now));
    let mut hidden: BTreeMap<ImageState, usize> = BTreeMap::new();
    for image in order.get(kept..).unwrap_or_default().iter().filter_map(|at| images.get(*at)) {
        *hidden.entry(state_of(image)).or_default() += 1;
    }
    let hidden: Vec<String> =
        hidden.into_iter().map(|(state, count)| format!("{count} {}", state.as_str())).collect();
    let more = images.len() - kept;
    let folded = format!("... {more} more images: {}\n", hidden.join(", "));
    let folded = shorten(folded.trim_end(), width.map_or(usize::MAX, usize::from));
    format!("{}{folded}\n", section(&header, rows.collect(), None, width))
}

fn state_of(image: &ManagedImage) -> ImageState {
    image.status.as_ref().map(|status| status.state).unwrap_or_default()
}

/// Returns the place of an image if not all have one: the lowest comes first.
fn urgency(image: &ManagedImage) -> usize {
    use ImageState::{Blocked, Building, Checking, Current, Failed, Held, Queued, Waiting};
    let order = [Failed, Building, Checking, Queued, Waiting, Blocked, Held, Current];
    let state = state_of(image);
    order.iter().position(|known| *known == state).unwrap_or(order.len())
}

/// Returns the first lines of a text, and the number of the others in the last one.
pub fn first_lines(text: &str, lines: usize) -> String {
    let count = text.lines().count();
    if count <= lines {
        return text.to_owned();
    }
    let kept = lines.saturating_sub(1);
    let first: String = text.split_inclusive('\n').take(kept).collect();
    format!("{first}... {} more lines\n", count - kept)
}

/// Cuts a line to a width. A line that is cut loses its colours.
fn shorten_styled(line: &str, width: usize) -> String {
    let plain = anstream::adapter::strip_str(line).to_string();
    if plain.chars().count() <= width { line.to_owned() } else { shorten(&plain, width) }
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
    // The message names the running cascade.
    table::render_without(&["CASCADE", "READY-AGE"], &header, rows.collect(), width)
}

fn summary(
    family: &ImageFamily,
    status: &ImageFamilyStatus,
    remaining: Option<String>,
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
    if let Some(remaining) = remaining {
        lines.push(("Left", remaining));
    }
    if let Some(pending) = &status.pending {
        lines.push((
            "Pending",
            format!("changes from {} ago wait for a cascade", age(pending.since, now)),
        ));
    }
    for late in &status.late_sources {
        if let Some(text) = late_source(late, now) {
            lines.push(("Source", text));
        }
    }
    if family.spec.suspend {
        lines.push((
            "Suspend",
            "nothing is built, tagged or rolled out until `spec.suspend` is removed".into(),
        ));
    }
    lines.into_iter().fold(String::new(), |text, (name, value)| {
        let most = width.map_or(usize::MAX, |width| usize::from(width) * MAX_SUMMARY_LINES);
        let line = shorten(&one_line(&value), most.saturating_sub(SUMMARY_INDENT));
        let line = format!("{:SUMMARY_INDENT$}{line}", "");
        let lines = table::wrapped(&line, width, SUMMARY_INDENT);
        format!("{text}{name:<SUMMARY_INDENT$}{}", lines.trim_start_matches(' '))
    })
}

/// Returns when a Git source is polled next, and why that is late.
fn late_source(late: &LateSource, now: Timestamp) -> Option<String> {
    let next_poll = late.next_poll.filter(|at| *at > now)?;
    let LateSource { url, revision, reason, message, .. } = late;
    let next_poll = format!("{url} at {revision}: next poll in {}", age(Some(now), next_poll));
    let explained =
        explanation(reason.as_deref().unwrap_or_default(), message.as_deref().unwrap_or_default());
    Some(if explained == "-" { next_poll } else { format!("{next_poll}; {explained}") })
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
        upstream_explanation(upstream, now).into(),
    ]
}

/// Returns why an upstream uses no newer digest, and when it is polled if that is late.
fn upstream_explanation(upstream: &UpstreamStatus, now: Timestamp) -> String {
    let explained = explanation(
        upstream.reason.as_deref().unwrap_or_default(),
        upstream.message.as_deref().unwrap_or_default(),
    );
    let Some(next_poll) = upstream.next_poll.filter(|at| *at > now) else { return explained };
    let next_poll = format!("next poll in {}", age(Some(now), next_poll));
    if explained == "-" { next_poll } else { format!("{explained}; {next_poll}") }
}

fn image_row(image: &ManagedImage, now: Timestamp) -> Vec<StyledText> {
    let Some(status) = &image.status else {
        let unknown = ["-"; 4].map(StyledText::from);
        let mut row = vec![image.spec.level.into(), (&image.spec.image).into()];
        row.extend(unknown);
        row.push("not reconciled yet".into());
        return row;
    };
    // A column has the state already.
    let reason = if status.reason == status.state.as_str() { "" } else { &status.reason };
    vec![
        image.spec.level.into(),
        StyledText { bold: true, ..(&image.spec.image).into() },
        styled(status.state.as_str(), colours::of_state(status.state)),
        status.build.map_or_else(|| "-".to_owned(), |build| build.to_string()).into(),
        short(status.digest.as_deref()).into(),
        age(status.since, now).into(),
        explanation(reason, &status.message).into(),
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
pub fn counts(counts: &ImageCounts) -> String {
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
pub fn explanation(reason: &str, message: &str) -> String {
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
    age_of(now.duration_since(since).as_secs())
}

/// Returns an age of this many seconds, in the format of kubectl.
pub fn age_of(seconds: i64) -> String {
    let seconds = seconds.max(0);
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
