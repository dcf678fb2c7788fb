//! A plan as tables, as Markdown and as a document.

mod markdown;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use groundswell::{
    api::{Cause, CauseType, ImageState, condition::shorten},
    engine::causes::refreshed,
    lineage::{ImageIndex, Parent},
};

use crate::{
    build_times::readable,
    input::{EstateFamily, plural},
    output::{
        colours,
        table::{self, one_line, styled},
    },
    plan::{
        changes::{changed_family_fields, changed_fields},
        dry_run::{AssumedDigests, DryBuild, DryRunEnd},
        gates::waiting_candidates,
        imports::image_of,
    },
};

/// Maximum number of characters of a cause.
const MAX_CAUSE: usize = 200;
/// Maximum number of lines of a terminal that a fact of a family takes, as far as words fit.
const MAX_FACT_LINES: usize = 3;

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
    /// The images that are built, in the order in which their builds start, until nothing changes
    /// by itself any more. Every build is assumed to succeed at once.
    builds: Vec<PlannedImage>,
    /// Seconds until the first build starts, because gates are closed. 0 if it starts at once; not
    /// set if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    starts_in_seconds: Option<u64>,
    /// What keeps builds from starting now. Not set if nothing does.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_for: Option<String>,
    /// The date up to which the plan goes, if something waits for a later one.
    #[serde(skip_serializing_if = "Option::is_none")]
    planned_until: Option<String>,
    /// The images that are not current and that are not built: running, failed, blocked or held
    /// ones.
    others: Vec<PlannedImage>,
    /// Images of families that are not part of the input. They are assumed to exist and to stay as
    /// they are.
    assumed_imports: Vec<String>,
    /// Names of images that another manifest adds.
    added: Vec<String>,
    /// Names of images that another manifest removes. Their builds stay in the registry.
    removed: Vec<String>,
    /// Images that another manifest changes without a build, and the changed fields.
    unbuilt_changes: Vec<String>,
    /// The fields of the family itself that another manifest changes: upstreams, policy, exports
    /// and so on.
    family_changes: Vec<String>,
}

/// An image of a plan.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct PlannedImage {
    /// Name of the image.
    image: String,
    /// Level of the image in its family.
    level: usize,
    /// State of an image that is not built.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    /// Seconds until the build starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    starts_in_seconds: Option<u64>,
    /// Images of other families that are built before this one.
    waits_for: Vec<String>,
    /// Why the image is built, or what its state means.
    why: String,
}

/// A family that is planned.
#[derive(Clone, Copy)]
pub struct Planned<'a> {
    /// The family before the change, if it exists.
    pub before: Option<&'a EstateFamily>,
    /// The family.
    pub after: &'a EstateFamily,
    /// What is assumed of what it is built on.
    pub assumed: &'a AssumedDigests,
    /// The end of its dry run.
    pub end: &'a DryRunEnd,
}

/// A planned family, and which of its images are built.
struct ReportedPlan<'a> {
    planned: Planned<'a>,
    built: HashSet<ImageIndex>,
    /// The names of these images.
    built_names: HashSet<&'a str>,
}

impl FamilyPlan {
    /// Creates the plan of a family from the end of a dry run that has begun `now`.
    pub fn of(planned: Planned<'_>, assumed_imports: Vec<String>, now: Timestamp) -> Self {
        let Planned { before, after, end, .. } = planned;
        let reported = ReportedPlan::of(planned);
        let builds: Vec<PlannedImage> =
            planned.builds().filter_map(|build| reported.built(build, now)).collect();
        let mut plan = Self {
            namespace: after.name.namespace.clone(),
            name: after.name.name.clone(),
            causes: end.causes.iter().map(describe).collect(),
            starts_in_seconds: builds.first().and_then(|build| build.starts_in_seconds),
            builds,
            waits_for: planned.waits_for(),
            planned_until: end.cut_at.map(|at| at.strftime("%Y-%m-%d").to_string()),
            others: reported.others(),
            assumed_imports,
            added: Vec::new(),
            removed: Vec::new(),
            unbuilt_changes: Vec::new(),
            family_changes: Vec::new(),
        };
        // Without another manifest, both are the same object.
        if let Some(before) = before.filter(|before| !std::ptr::eq(*before, after)) {
            plan.compare(before, &reported);
        }
        plan
    }

    /// Adds what differs between two manifests.
    fn compare(&mut self, before: &EstateFamily, reported: &ReportedPlan<'_>) {
        let (old, new) = (&before.family.spec, &reported.planned.after.family.spec);
        let known: HashMap<&str, _> =
            old.images.iter().map(|image| (image.name.as_str(), image)).collect();
        for (index, image) in ImageIndex::enumerate(&new.images) {
            let Some(known) = known.get(image.name.as_str()) else {
                self.added.push(image.name.clone());
                continue;
            };
            let fields = changed_fields(known, image);
            if !fields.is_empty() && !reported.built.contains(&index) {
                self.unbuilt_changes.push(format!("{}: {}", image.name, fields.join(", ")));
            }
        }
        let kept: HashSet<&str> = new.images.iter().map(|image| image.name.as_str()).collect();
        let names = old.images.iter().map(|image| &image.name);
        self.removed.extend(names.filter(|name| !kept.contains(name.as_str())).cloned());
        self.family_changes = changed_family_fields(old, new);
    }

    fn levels(&self) -> usize {
        let levels: BTreeSet<usize> = self.builds.iter().map(|image| image.level).collect();
        levels.len()
    }

    fn headline(&self) -> String {
        let (namespace, name) = (&self.namespace, &self.name);
        let (builds, levels) = (self.builds.len(), self.levels());
        let start = match (self.starts_in_seconds, &self.planned_until) {
            (None, Some(until)) => {
                return format!("{namespace}/{name}: builds start later than {until}");
            }
            (None, None) if self.running() > 0 => {
                return format!("{namespace}/{name}: nothing is built after what runs");
            }
            (None, None) => return format!("{namespace}/{name}: nothing is built"),
            (Some(0), _) => "now".into(),
            (Some(seconds), _) => format!("in {}", readable(Duration::from_secs(seconds))),
        };
        let verb = if builds == 1 { "is" } else { "are" };
        let running = match self.running() {
            0 => String::new(),
            1 => "; 1 build runs".into(),
            running => format!("; {running} builds run"),
        };
        format!(
            "{namespace}/{name}: {builds} image{} on {levels} level{} {verb} built, starting \
             {start}{running}",
            plural(builds),
            plural(levels)
        )
    }

    /// Returns the number of images whose builds run already.
    fn running(&self) -> usize {
        let building = Some(ImageState::Building.as_str());
        self.others.iter().filter(|image| image.state == building).count()
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let later = self.planned_until.as_ref().filter(|_| !self.builds.is_empty());
        let lists = [
            ("Because", self.causes.join("; ")),
            ("Waits for", self.waits_for.clone().unwrap_or_default()),
            ("Builds later than", later.cloned().unwrap_or_default()),
            ("Added", self.added.join(", ")),
            ("Removed", self.removed.join(", ")),
            ("Changed without a build", self.unbuilt_changes.join("; ")),
            ("Changed in the family", self.family_changes.join(", ")),
            ("Assumed to stay as it is", self.assumed_imports.join(", ")),
        ];
        lists.into_iter().filter(|(_, text)| !text.is_empty()).collect()
    }

    /// Returns the builds that start at the same time on the same level.
    fn steps(&self) -> Vec<Vec<&PlannedImage>> {
        let key = |image: &PlannedImage| (image.starts_in_seconds, image.level);
        let builds: Vec<&PlannedImage> = self.builds.iter().collect();
        builds.chunk_by(|a, b| key(a) == key(b)).map(<[_]>::to_vec).collect()
    }
}

impl Planned<'_> {
    /// Returns the builds in the order in which they start, those of the same moment by level.
    fn builds(&self) -> impl Iterator<Item = &DryBuild> {
        let mut builds: Vec<&DryBuild> = self.end.builds.iter().collect();
        let lineage = &self.after.blueprint.lineage;
        builds.sort_by_key(|build| (build.at, lineage.level(build.image), build.image));
        builds.into_iter()
    }

    /// Returns the images of other families that are built before an image.
    fn built_imports(&self, image: ImageIndex) -> Vec<String> {
        let lineage = &self.after.blueprint.lineage;
        let imports = lineage.parents(image).iter().filter_map(|parent| match parent {
            Parent::Import(import) => lineage.imports().get(import.position()),
            Parent::Image(_) | Parent::Upstream(_) => None,
        });
        let names = imports.map(|import| image_of(&self.after.name, import));
        let built = names.filter(|name| {
            self.assumed.imports.get(name).is_some_and(|known| known.rebuilt_at().is_some())
        });
        built.map(|name| name.to_string()).collect()
    }

    /// Returns what keeps builds from starting: the gates that open before the first one, and those
    /// that are closed at the end.
    fn waits_for(&self) -> Option<String> {
        let Self { after, assumed, end, .. } = *self;
        let first = end.builds.first();
        let opened =
            end.opened.iter().filter(|opened| first.is_some_and(|one| opened.at <= one.at));
        let mut gates: Vec<String> =
            opened.flat_map(|opened| opened.gates.iter().cloned()).collect();
        if end.last.pending.is_some() && after.family.spec.suspend {
            gates.push("spec.suspend is set".into());
        }
        for gate in waiting_candidates(after, assumed, &end.last) {
            if !gates.contains(&gate) {
                gates.push(gate);
            }
        }
        (!gates.is_empty()).then(|| gates.join("; "))
    }
}

impl<'a> ReportedPlan<'a> {
    fn of(planned: Planned<'a>) -> Self {
        let built: HashSet<ImageIndex> =
            planned.end.builds.iter().map(|build| build.image).collect();
        let images = ImageIndex::enumerate(&planned.after.family.spec.images);
        let names = images.filter(|(index, _)| built.contains(index));
        let built_names = names.map(|(_, image)| image.name.as_str()).collect();
        Self { planned, built, built_names }
    }

    fn built(&self, build: &DryBuild, now: Timestamp) -> Option<PlannedImage> {
        let after = self.planned.after;
        let image = after.family.spec.images.get(build.image.position())?;
        let wait = build.at.duration_since(now).as_secs();
        Some(PlannedImage {
            image: image.name.clone(),
            level: after.blueprint.lineage.level(build.image),
            state: None,
            starts_in_seconds: Some(u64::try_from(wait).unwrap_or(0)),
            waits_for: self.planned.built_imports(build.image),
            why: self.why(build),
        })
    }

    /// Says why an image is built: its own causes, or the parents that are built before it.
    fn why(&self, build: &DryBuild) -> String {
        let direct = build.causes.iter().filter(|cause| cause.via.is_empty());
        let reasons = direct.map(|cause| match cause.type_ {
            CauseType::Parent if self.built_names.contains(cause.name.as_str()) => {
                format!("after {}", cause.name)
            }
            _ => describe(cause),
        });
        let mut reasons: Vec<String> = reasons.collect();
        reasons.dedup();
        if reasons.is_empty() {
            return "an input changes".into();
        }
        shorten(&reasons.join("; "), MAX_CAUSE)
    }

    /// Returns the images that are not built and not current: now, or at the end.
    fn others(&self) -> Vec<PlannedImage> {
        let Planned { after, end, .. } = self.planned;
        let images = ImageIndex::enumerate(&after.family.spec.images);
        let others = images.filter(|(index, _)| !self.built.contains(index));
        let others = others.filter_map(|(index, image)| {
            let (state, why) = if end.first_builds.contains(&index) {
                (ImageState::Building, "its first build runs".into())
            } else {
                let decided = [&end.last, &end.first]
                    .into_iter()
                    .filter_map(|decision| decision.images.get(index.position()))
                    .find(|decided| decided.state != ImageState::Current)?;
                (decided.state, decided.message.to_string())
            };
            Some(PlannedImage {
                image: image.name.clone(),
                level: after.blueprint.lineage.level(index),
                state: Some(state.as_str()),
                starts_in_seconds: None,
                waits_for: Vec::new(),
                why: shorten(&why, MAX_CAUSE),
            })
        });
        others.collect()
    }
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
        CauseType::Refresh => format!("{} is refreshed{}", cause.name, refreshed(&cause.to)),
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
            let mut text = table::wrapped(&one_line(&family.headline()), width, 2);
            for (name, value) in family.facts() {
                let most = width.map_or(usize::MAX, |width| usize::from(width) * MAX_FACT_LINES);
                let line = shorten(&format!("  {name}: {}", one_line(&value)), most);
                text.push_str(&table::wrapped(&line, width, 4));
            }
            let steps = family.steps();
            let starts: BTreeSet<_> =
                steps.iter().flatten().map(|one| one.starts_in_seconds).collect();
            let has_starts = starts.len() > 1;
            let row = if has_starts { step_row_with_start } else { step_row };
            let rows: Vec<_> = steps.iter().map(|step| row(step)).collect();
            if !rows.is_empty() {
                let header: &[&str] = if has_starts {
                    &["STARTS", "LEVEL", "IMAGES", "NAMES"]
                } else {
                    &["LEVEL", "IMAGES", "NAMES"]
                };
                text = text + "\n" + &table::render(header, rows, width);
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
                let state =
                    ImageState::ALL.into_iter().find(|state| Some(state.as_str()) == image.state);
                rows.push(vec![
                    format!("{}/{}", family.namespace, family.name).into(),
                    image.level.into(),
                    (&image.image).into(),
                    state.map_or_else(
                        || image.action().into(),
                        |state| styled(image.action(), colours::of_state(state)),
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
            let (namespace, name) = (&family.namespace, &family.name);
            family
                .builds
                .iter()
                .map(move |image| one_line(&format!("{namespace}/{name}/{}", image.image)) + "\n")
        });
        names.collect()
    }

    /// Renders a comment for a pull request, of at most [`MAX_COMMENT`] bytes.
    pub fn markdown(&self) -> String {
        markdown::comment(&self.families)
    }
}

impl PlannedImage {
    /// Returns what happens to the image: a build, or its state.
    fn action(&self) -> &'static str {
        self.state.unwrap_or("build")
    }
}

fn step_row(step: &[&PlannedImage]) -> Vec<table::StyledText> {
    let level = step.first().map_or(0, |image| image.level);
    let names: Vec<&str> = step.iter().map(|image| image.image.as_str()).collect();
    vec![level.into(), names.len().into(), names.join(", ").into()]
}

fn step_row_with_start(step: &[&PlannedImage]) -> Vec<table::StyledText> {
    let start = match step.first().and_then(|image| image.starts_in_seconds) {
        Some(0) | None => "now".into(),
        Some(seconds) => format!("in {}", readable(Duration::from_secs(seconds))),
    };
    std::iter::once(start.into()).chain(step_row(step)).collect()
}

fn other_row(image: &PlannedImage) -> Vec<table::StyledText> {
    vec![image.level.into(), (&image.image).into(), image.action().into(), (&image.why).into()]
}
