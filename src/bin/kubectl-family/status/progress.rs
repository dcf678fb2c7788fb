//! How far the images of a family are: a bar for each level, and how long the rest probably takes.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use jiff::Timestamp;

use groundswell::{
    api::{ImageFamily, ImageState, ManagedImage},
    lineage::ImageIndex,
};

use crate::{
    build_times::{BuildTimes, ExpectedTime, readable},
    estate_graph::{EstateGraph, GraphNodeKind},
    impact::schedule::{ScheduledBuild, schedule},
    input::{Estate, EstateFamily, plural},
    output::{
        colours::{of_state, paint},
        table::StyledText,
    },
};

/// Number of characters of a bar.
const BAR_WIDTH: usize = 20;

/// The characters of a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarStyle {
    /// Blocks, for a terminal.
    Blocks,
    /// ASCII.
    Plain,
}

/// Returns one row per level: its number, a bar, and the number of images in each state.
pub fn level_rows(images: &[&ManagedImage], style: BarStyle) -> Vec<Vec<StyledText>> {
    let mut levels: BTreeMap<i32, BTreeMap<ImageState, usize>> = BTreeMap::new();
    for image in images {
        let state = image.status.as_ref().map(|status| status.state).unwrap_or_default();
        *levels.entry(image.spec.level).or_default().entry(state).or_default() += 1;
    }
    let rows = levels.into_iter().map(|(level, states)| {
        let total: usize = states.values().sum();
        let count = |wanted: &[ImageState]| -> usize {
            wanted.iter().filter_map(|state| states.get(state)).sum()
        };
        let done = count(&[ImageState::Current, ImageState::Held]);
        let running = count(&[ImageState::Building, ImageState::Checking]);
        let failed = count(&[ImageState::Failed, ImageState::Blocked]);
        let others = states.iter().filter(|(state, _)| **state != ImageState::Current);
        let others: Vec<String> =
            others.map(|(state, count)| format!("{count} {}", state.as_str())).collect();
        let mut bar = StyledText::from(bar([done, running, failed], total, style));
        if failed > 0 {
            bar.colour = Some(of_state(ImageState::Failed));
        } else if running > 0 {
            bar.colour = Some(of_state(ImageState::Building));
        } else if done == total {
            bar.colour = Some(of_state(ImageState::Current));
        }
        let states = if others.is_empty() { "all current".into() } else { others.join(", ") };
        vec![level.into(), bar, format!("{done}/{total}").into(), states.into()]
    });
    rows.collect()
}

/// Returns a bar with parts for what is done, running and failed. What has an image has at least
/// one character.
fn bar(parts: [usize; 3], total: usize, style: BarStyle) -> String {
    let characters = match style {
        BarStyle::Blocks => ['█', '▒', 'x', '░'],
        BarStyle::Plain => ['#', '=', 'x', '-'],
    };
    let mut bar = String::new();
    let mut left = BAR_WIDTH;
    for (count, character) in parts.into_iter().zip(characters) {
        let width = (count * BAR_WIDTH / total.max(1)).max(usize::from(count > 0)).min(left);
        bar.extend(std::iter::repeat_n(character, width));
        left -= width;
    }
    let is_open = parts.iter().sum::<usize>() < total;
    let rest = if is_open { characters[3] } else { bar.chars().next_back().unwrap_or('-') };
    bar.extend(std::iter::repeat_n(rest, left));
    bar
}

/// Returns how long the builds that are left probably take, as a sentence; `None` if none is left
/// that runs or is due in a running cascade.
pub fn remaining(family: &ImageFamily, images: &[&ManagedImage], now: Timestamp) -> Option<String> {
    let is_running = family.status.as_ref().is_some_and(|status| !status.cascades.is_empty());
    let is_open = |image: &&&ManagedImage| {
        use ImageState::{Building, Checking, Queued, Waiting};
        let state = image.status.as_ref().map(|status| status.state).unwrap_or_default();
        matches!(state, Building | Checking) || is_running && matches!(state, Queued | Waiting)
    };
    let open: HashMap<&str, &ManagedImage> =
        images.iter().filter(is_open).map(|image| (image.spec.image.as_str(), *image)).collect();
    if open.is_empty() {
        return None;
    }
    let records = images.iter().map(|image| (image.spec.image.clone(), (*image).clone()));
    let family = EstateFamily::of_objects(family.clone(), records.collect())?;
    let estate = Estate { families: vec![family], ..Estate::default() };
    estimate(&estate, &open, now)
}

fn estimate(
    estate: &Estate,
    open: &HashMap<&str, &ManagedImage>,
    now: Timestamp,
) -> Option<String> {
    let (family, graph) = (estate.families.first()?, EstateGraph::of(estate).ok()?);
    let times = BuildTimes::of(family);
    let mut unknown = 0;
    let mut builds = Vec::new();
    for (node, content) in graph.nodes().filter(|(_, node)| node.kind == GraphNodeKind::Image) {
        let Some(index) = content.image else { continue };
        let Some(image) = image_name(family, index).and_then(|name| open.get(name)) else {
            continue;
        };
        let expected = times.expected(index);
        unknown += usize::from(expected == ExpectedTime::Unknown);
        let time = expected.duration().saturating_sub(elapsed(image, now));
        builds.push(ScheduledBuild { node, family: 0, time });
    }
    let places = usize::try_from(family.family.spec.policy.parallelism).unwrap_or(1);
    let total = schedule(&graph, &builds, |_| places).total;
    let (count, total) = (builds.len(), readable(total));
    let images = format!("{count} image{}", plural(count));
    match unknown {
        _ if count == 0 => None,
        0 => Some(format!("about {total}, {images}")),
        unknown if unknown == count => Some(format!("unknown: no build is recorded, {images}")),
        _ => Some(format!("more than {total}: no build is recorded of {unknown} of {images}")),
    }
}

fn image_name(family: &EstateFamily, index: ImageIndex) -> Option<&str> {
    Some(&family.family.spec.images.get(index.position())?.name)
}

/// Returns how long the build of an image has run.
fn elapsed(image: &ManagedImage, now: Timestamp) -> Duration {
    let running = image.status.as_ref().and_then(|status| status.running.as_ref());
    let started = running.and_then(|running| running.started_at);
    let elapsed = started.map(|started| now.duration_since(started));
    elapsed.and_then(|elapsed| elapsed.try_into().ok()).unwrap_or_default()
}

/// Returns the failures of images, each with the last lines of its log, at most `lines` lines.
pub fn failures(images: &[&ManagedImage], lines: Option<usize>) -> Vec<String> {
    let failed = images.iter().filter_map(|image| {
        let status = image.status.as_ref().filter(|status| status.state == ImageState::Failed)?;
        Some((image, status.state, &status.failure.as_ref()?.last))
    });
    let failed: Vec<_> = failed.collect();
    // What has gone wrong is at the end of a log.
    let of_each = lines.map(|lines| (lines / failed.len().max(1)).max(2));
    let mut shown = Vec::new();
    for (image, state, last) in &failed {
        let head = format!("{}: {}", image.spec.image, last.reason);
        shown.push(paint(&crate::output::table::one_line(&head), Some(of_state(*state))));
        let text = groundswell::terminal::printable(&last.message);
        let text: Vec<&str> = text.lines().collect();
        let skipped = of_each.map_or(0, |lines| text.len().saturating_sub(lines - 1));
        let end = text.iter().skip(skipped);
        shown.extend(end.map(|line| format!("  {line}")));
    }
    if let Some(lines) = lines.filter(|lines| shown.len() > *lines) {
        let hidden = shown.len() - lines.saturating_sub(1);
        shown.truncate(lines.saturating_sub(1));
        shown.push(format!("  ... {hidden} more lines"));
    }
    shown
}
