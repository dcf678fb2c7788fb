//! A plan as tables, as Markdown and as a document.

use std::{collections::HashMap, fmt::Write as _, time::Duration};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use groundswell::{
    api::{Cause, CauseType, ImageState, condition::shorten},
    engine::{CascadeDecision, Decision, ImageDecision},
    lineage::{ImageIndex, Parent, families::FamilyName},
    terminal::printable,
};

use crate::{
    build_times::readable,
    input::{EstateFamily, plural},
    output::{
        colours,
        table::{self, one_line, styled},
    },
    plan::{changes::changed_fields, dry_run::DryRunEnd},
};

/// Maximum number of characters of a cause.
const MAX_CAUSE: usize = 200;
/// Maximum number of rows of a table in Markdown: a comment has at most 65,536 characters.
const MAX_MARKDOWN_ROWS: usize = 200;

/// What the controller would do.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PlanDocument {
    /// The plan of each family, by namespace and name.
    families: Vec<FamilyPlan>,
}

/// What the controller would do with a family.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FamilyPlan {
    /// Namespace of the family.
    namespace: String,
    /// Name of the family.
    name: String,
    /// What changes first: upstreams, sources, specs or requests.
    causes: Vec<String>,
    /// The images that the next cascade builds, parents first, or whose builds a running cascade
    /// starts now.
    builds: Vec<PlannedImage>,
    /// Seconds until the cascade starts, because gates are closed. 0 if it starts at once; not set
    /// if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    starts_in_seconds: Option<u64>,
    /// What keeps the cascade from starting now. Not set if nothing does.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_for: Option<String>,
    /// The images that are not current and that the cascade does not build: running, failed,
    /// blocked or held ones.
    others: Vec<PlannedImage>,
    /// Names of images that another manifest adds.
    added: Vec<String>,
    /// Names of images that another manifest removes. Their builds stay in the registry.
    removed: Vec<String>,
    /// Images that another manifest changes without a build, and the changed fields.
    unbuilt_changes: Vec<String>,
}

/// An image of a plan.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct PlannedImage {
    /// Name of the image.
    image: String,
    /// Level of the image in its family.
    level: usize,
    /// State of the image when the cascade starts.
    state: &'static str,
    /// Why the image is built, or what its state means.
    why: String,
}

impl FamilyPlan {
    /// Creates the plan of a family that does not exist.
    pub fn empty(name: &FamilyName) -> Self {
        Self {
            namespace: name.namespace.clone(),
            name: name.name.clone(),
            causes: Vec::new(),
            builds: Vec::new(),
            starts_in_seconds: None,
            waits_for: None,
            others: Vec::new(),
            added: Vec::new(),
            removed: Vec::new(),
            unbuilt_changes: Vec::new(),
        }
    }

    /// Creates the plan of a family from the end of a dry run that has begun `now`.
    pub fn of(
        before: Option<&EstateFamily>,
        after: &EstateFamily,
        end: &DryRunEnd,
        now: Timestamp,
    ) -> Self {
        let mut plan = Self::empty(&after.name);
        let mut levels: &[Vec<ImageIndex>] = &[];
        if let CascadeDecision::Start { causes, levels: planned, .. } = &end.decision.cascade {
            plan.causes = causes.iter().map(describe).collect();
            let wait = end.at.duration_since(now).as_secs();
            plan.starts_in_seconds = Some(u64::try_from(wait).unwrap_or(0));
            plan.waits_for = (wait > 0).then(|| waiting_message(end));
            levels = planned;
        } else {
            plan.waits_for = closed_gate(after, end);
        }
        let mut is_built = vec![false; after.family.spec.images.len()];
        let started = end.first.builds().map(|build| build.image);
        let mut starts: Vec<ImageIndex> = levels.iter().flatten().copied().chain(started).collect();
        starts.sort_by_key(|index| (after.blueprint.lineage.level(*index), *index));
        starts.dedup();
        for index in &starts {
            if let Some(is_built) = is_built.get_mut(index.position()) {
                *is_built = true;
            }
        }
        for index in &starts {
            plan.builds.extend(planned(after, *index, end, &Role::Built { with: &is_built }));
        }
        for (index, decided) in ImageIndex::enumerate(&end.decision.images) {
            let is_other = is_built.get(index.position()) == Some(&false);
            if is_other && decided.state != ImageState::Current {
                plan.others.extend(planned(after, index, end, &Role::Other));
            }
        }
        if let Some(before) = before {
            plan.compare(before, after, &is_built);
        }
        plan
    }

    /// Adds what differs between two manifests.
    fn compare(&mut self, before: &EstateFamily, after: &EstateFamily, is_built: &[bool]) {
        let old: HashMap<&str, _> =
            before.family.spec.images.iter().map(|image| (image.name.as_str(), image)).collect();
        for (image, is_built) in after.family.spec.images.iter().zip(is_built) {
            let Some(known) = old.get(image.name.as_str()) else {
                self.added.push(image.name.clone());
                continue;
            };
            let fields = changed_fields(known, image);
            if !fields.is_empty() && !is_built {
                self.unbuilt_changes.push(format!("{}: {}", image.name, fields.join(", ")));
            }
        }
        let is_kept = |name: &str| after.family.spec.images.iter().any(|image| image.name == name);
        let names = before.family.spec.images.iter().map(|image| &image.name);
        self.removed.extend(names.filter(|name| !is_kept(name)).cloned());
    }

    /// Returns the images that are built, as imports name them.
    pub fn rebuilt_imports(&self) -> impl Iterator<Item = String> {
        let (namespace, name) = (&self.namespace, &self.name);
        self.builds.iter().map(move |image| format!("{namespace}/{name}.{}", image.image))
    }

    fn levels(&self) -> usize {
        let mut levels: Vec<usize> = self.builds.iter().map(|image| image.level).collect();
        levels.dedup();
        levels.len()
    }

    fn headline(&self) -> String {
        let (builds, levels) = (self.builds.len(), self.levels());
        if builds == 0 {
            return format!("{}/{}: nothing is built", self.namespace, self.name);
        }
        let start = match self.starts_in_seconds {
            Some(0) | None => "now".into(),
            Some(seconds) => format!("in {}", readable(Duration::from_secs(seconds))),
        };
        format!(
            "{}/{}: {builds} image{} on {levels} level{} are built, starting {start}",
            self.namespace,
            self.name,
            plural(builds),
            plural(levels)
        )
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = Vec::new();
        let lists = [
            ("Because", self.causes.join("; ")),
            ("Waits for", self.waits_for.clone().unwrap_or_default()),
            ("Added", self.added.join(", ")),
            ("Removed", self.removed.join(", ")),
            ("Changed without a build", self.unbuilt_changes.join("; ")),
        ];
        facts.extend(lists.into_iter().filter(|(_, text)| !text.is_empty()));
        facts
    }
}

/// Which part of a plan an image belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role<'a> {
    /// The cascade builds it, with these images.
    Built { with: &'a [bool] },
    /// The cascade does not build it.
    Other,
}

fn planned(
    family: &EstateFamily,
    index: ImageIndex,
    end: &DryRunEnd,
    role: &Role<'_>,
) -> Option<PlannedImage> {
    let image = family.family.spec.images.get(index.position())?;
    let decided = end.decision.images.get(index.position())?;
    Some(PlannedImage {
        image: image.name.clone(),
        level: family.blueprint.lineage.level(index),
        state: decided.state.as_str(),
        why: match role {
            Role::Built { with } => {
                let moved = match &end.decision.cascade {
                    CascadeDecision::Start { causes, .. } => causes.as_slice(),
                    _ => &[],
                };
                cause_of(family, index, decided, with, moved)
            }
            Role::Other => shorten(&decided.message.to_string(), MAX_CAUSE),
        },
    })
}

/// Says why an image is built: its own causes, or the parents that are built before it.
fn cause_of(
    family: &EstateFamily,
    index: ImageIndex,
    decided: &ImageDecision,
    built: &[bool],
    moved: &[Cause],
) -> String {
    let causes: Vec<String> = decided.causes.iter().map(describe).collect();
    if !causes.is_empty() {
        return shorten(&causes.join("; "), MAX_CAUSE);
    }
    let spec = &family.family.spec;
    let parents = family.blueprint.lineage.parents(index).iter();
    let reasons = parents.filter_map(|parent| match parent {
        Parent::Image(parent) if built.get(parent.position()) == Some(&true) => {
            Some(format!("after {}", spec.images.get(parent.position())?.name))
        }
        Parent::Upstream(upstream) => {
            let name = &spec.upstreams.get(upstream.position())?.name;
            let is_moved =
                |cause: &&Cause| cause.type_ == CauseType::Upstream && cause.name == *name;
            moved.iter().find(is_moved).map(describe)
        }
        Parent::Image(_) | Parent::Import(_) => None,
    });
    let reasons: Vec<String> = reasons.collect();
    if reasons.is_empty() { "an input changes".into() } else { reasons.join("; ") }
}

/// Returns why upstreams use no newer digest.
fn unadopted(decision: &Decision) -> Option<String> {
    let upstreams = decision.upstreams.iter();
    let messages = upstreams.filter_map(|upstream| {
        let message = upstream.message.as_ref().filter(|_| upstream.candidate.is_some())?;
        Some(format!("{}: {message}", upstream.name))
    });
    let messages: Vec<String> = messages.collect();
    (!messages.is_empty()).then(|| messages.join("; "))
}

/// Returns what keeps a cascade from starting that no time opens.
fn closed_gate(family: &EstateFamily, end: &DryRunEnd) -> Option<String> {
    let is_pending = end.decision.pending.is_some();
    let suspended = family.family.spec.suspend && is_pending;
    suspended.then(|| "spec.suspend is set".into()).or_else(|| unadopted(&end.decision))
}

/// Returns what keeps a cascade from starting at the first moment.
fn waiting_message(end: &DryRunEnd) -> String {
    let is_closed = end.first.window.as_ref().is_some_and(|window| !window.open);
    let gate = if is_closed { "a window" } else { "the quiet time" };
    unadopted(&end.first).unwrap_or_else(|| gate.into())
}

/// Says what a cause is.
pub fn describe(cause: &Cause) -> String {
    let what = match cause.type_ {
        CauseType::Upstream => format!("upstream {} moves", cause.name),
        CauseType::Parent => format!("{} is rebuilt", cause.name),
        CauseType::Source => format!("the source of {} changes", cause.name),
        CauseType::Spec if cause.from.is_empty() => format!("{} is new", cause.name),
        CauseType::Spec => format!("the spec of {} changes", cause.name),
        CauseType::Strategy => format!("the strategy {} changes", cause.name),
        CauseType::Manual => format!("a user requests {}", cause.name),
    };
    if cause.via.is_empty() { what } else { format!("{what}, through {}", cause.via.join(", ")) }
}

impl PlanDocument {
    /// Creates the document of these families.
    pub fn new(families: Vec<FamilyPlan>) -> Self {
        Self { families }
    }

    /// Renders one line per level of each family.
    pub fn summary(&self, width: Option<u16>) -> String {
        let parts = self.families.iter().map(|family| {
            let mut text = one_line(&family.headline()) + "\n";
            for (name, value) in family.facts() {
                let line = format!("  {name}: {}", one_line(&value));
                text = text + &shorten(&line, width.map_or(usize::MAX, usize::from)) + "\n";
            }
            let mut levels: Vec<(usize, Vec<&str>)> = Vec::new();
            for image in &family.builds {
                match levels.last_mut().filter(|(level, _)| *level == image.level) {
                    Some((_, names)) => names.push(&image.image),
                    None => levels.push((image.level, vec![&image.image])),
                }
            }
            let rows = levels.into_iter().map(|(level, names)| {
                vec![level.into(), names.len().into(), names.join(", ").into()]
            });
            let rows: Vec<_> = rows.collect();
            if !rows.is_empty() {
                text = text + "\n" + &table::render(&["LEVEL", "IMAGES", "NAMES"], rows, width);
            }
            if !family.others.is_empty() {
                let rows = family.others.iter().map(other_row).collect();
                let header = ["LEVEL", "IMAGE", "STATE", "MESSAGE"];
                text = text + "\n" + &table::render(&header, rows, width);
            }
            text
        });
        parts.collect::<Vec<_>>().join("\n")
    }

    /// Renders one line per image.
    pub fn rows(&self, width: Option<u16>) -> String {
        let mut rows = Vec::new();
        for family in &self.families {
            for image in &family.builds {
                rows.push(vec![
                    format!("{}/{}", family.namespace, family.name).into(),
                    image.level.into(),
                    (&image.image).into(),
                    "build".into(),
                    (&image.why).into(),
                ]);
            }
            for image in &family.others {
                let state = ImageState::ALL.into_iter().find(|state| state.as_str() == image.state);
                rows.push(vec![
                    format!("{}/{}", family.namespace, family.name).into(),
                    image.level.into(),
                    (&image.image).into(),
                    state.map_or_else(
                        || image.state.into(),
                        |state| styled(image.state, colours::of_state(state)),
                    ),
                    (&image.why).into(),
                ]);
            }
        }
        table::render(&["FAMILY", "LEVEL", "IMAGE", "ACTION", "WHY"], rows, width)
    }

    /// Renders the names of the images that are built, one per line.
    pub fn names(&self) -> String {
        let families = self.families.iter();
        let names = families.flat_map(|family| {
            family.builds.iter().map(|image| format!("{}/{}\n", family.name, image.image))
        });
        names.collect()
    }

    /// Renders a comment for a pull request.
    pub fn markdown(&self) -> String {
        let total: usize = self.families.iter().map(|family| family.builds.len()).sum();
        let mut text = format!("### Rebuild plan: {total} image{}\n", plural(total));
        for family in &self.families {
            // Writing to a String never fails.
            _ = write!(text, "\n**{}**\n", markdown_text(&family.headline()));
            for (name, value) in family.facts() {
                _ = write!(text, "\n- {name}: {}", markdown_text(&value));
            }
            if !family.facts().is_empty() {
                text.push('\n');
            }
            let images = family.builds.iter().chain(&family.others);
            let count = family.builds.len() + family.others.len();
            if count == 0 {
                continue;
            }
            _ = write!(
                text,
                "\n<details><summary>{count} image{}</summary>\n\n\
                 | level | image | why |\n|---|---|---|\n",
                plural(count)
            );
            for image in images.take(MAX_MARKDOWN_ROWS) {
                let (name, why) = (markdown_text(&image.image), markdown_text(&image.why));
                _ = writeln!(text, "| {} | {name} | {why} |", image.level);
            }
            if let Some(more) = count.checked_sub(MAX_MARKDOWN_ROWS).filter(|more| *more > 0) {
                _ = writeln!(text, "| | … {more} more | |");
            }
            text.push_str("\n</details>\n");
        }
        text
    }
}

fn other_row(image: &PlannedImage) -> Vec<table::StyledText> {
    vec![image.level.into(), (&image.image).into(), image.state.into(), (&image.why).into()]
}

/// Returns a text that is shown as it is in a table of a Markdown document.
fn markdown_text(text: &str) -> String {
    let mut escaped = String::new();
    for character in one_line(&printable(text)).chars() {
        match character {
            '|' | '*' | '_' | '`' | '[' | ']' | '<' | '>' | '\\' | '#' | '@' | '~' => {
                escaped.push('\\');
                escaped.push(character);
            }
            '&' => escaped.push_str("&amp;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
