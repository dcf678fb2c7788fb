//! `kubectl family plan`: what the controller would do, decided by its own code and not carried
//! out: now, if an upstream moved, or with another manifest.
//!
//! - [`dry_run`]: the decisions on recorded state
//! - `imports`: images of other families
//! - `gates`: what builds wait for
//! - `changes`: what a manifest changes
//! - `report`: the document, as tables and as Markdown

mod changes;
pub mod dry_run;
mod gates;
mod imports;
mod report;

use std::{collections::BTreeMap, num::NonZero, path::PathBuf, thread};

use anyhow::bail;
use clap::{Args, ValueEnum};
use jiff::Timestamp;

use groundswell::lineage::families::FamilyName;

use crate::{
    input::{Estate, EstateFamily, EstateOrigin, InputArguments, target::TargetName},
    output::{self, Document, Outcome, Terminal},
    plan::{
        dry_run::{AssumedDigests, DryRun, DryRunEnd},
        gates::moved_digest,
        imports::{EstateImports, EstateScope, set_planned},
        report::{FamilyPlan, Planned},
    },
};

pub use report::PlanDocument;

/// Maximum number of names that an error lists.
const MAX_NAMED: usize = 8;

const EXAMPLES: &str = "Examples:
  # What the controller does now, and what waits for which gate
  kubectl family plan
  # What a new alpine would rebuild
  kubectl family plan --move alpine
  # What a changed manifest would rebuild, as a comment for its pull request
  kubectl family plan -f main/family.yaml --edit branch/family.yaml -o markdown";

#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct PlanArguments {
    /// Assume that this upstream has a new digest. May be repeated
    #[arg(long = "move", value_name = "UPSTREAM")]
    moved: Vec<TargetName>,
    /// Assume that an upstream is at a digest: upstream.NAME=sha256:... May be repeated
    #[arg(long = "set", value_name = "upstream.NAME=DIGEST")]
    set: Vec<SetDigest>,
    /// Assume that the families of this file or folder are applied. Families that are only in one
    /// of both are added or removed only if their manifest says so
    #[arg(long, value_name = "FILE|DIR|-")]
    edit: Vec<PathBuf>,
    /// Plan as of this time and not as of now, for example 2026-12-05T03:00:00Z: what is too young,
    /// held or outside of a window now may not be then
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
    /// Format of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: PlanFormat,
    #[command(flatten)]
    input: InputArguments,
}

/// Format of a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum PlanFormat {
    /// One line per level
    #[default]
    Table,
    /// One line per image
    Wide,
    /// A comment for a pull request
    Markdown,
    /// A JSON object, described by docs/reference/plugin/plan.schema.json
    Json,
    /// The same object as YAML
    Yaml,
    /// The names of the images that are built
    Name,
}

/// The digest of an upstream on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SetDigest {
    upstream: TargetName,
    digest: String,
}

impl std::str::FromStr for SetDigest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || "write upstream.NAME=sha256:<64 hexadecimal digits>".to_owned();
        let rest = text.strip_prefix("upstream.").ok_or_else(form)?;
        let (name, digest) = rest.split_once('=').ok_or_else(form)?;
        let hex = digest.strip_prefix("sha256:").ok_or_else(form)?;
        if hex.len() != 64 || !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(form());
        }
        Ok(Self { upstream: name.parse()?, digest: digest.to_owned() })
    }
}

pub async fn run(arguments: PlanArguments) -> anyhow::Result<Outcome> {
    let estate = arguments.estate().await?;
    let edited = arguments.edited(&estate)?;
    let planner = Planner {
        scope: arguments.scope(&estate),
        estate: &estate,
        edited: edited.as_ref(),
        now: arguments.at.unwrap_or_else(Timestamp::now),
    };
    let document = planner.document(&arguments.digests(&planner)?);
    let width = Terminal::of_stdout().width;
    let text = match arguments.output {
        PlanFormat::Table => document.summary(width),
        PlanFormat::Wide => document.rows(width),
        PlanFormat::Markdown => document.markdown(),
        PlanFormat::Json => Document::new("Plan", &document).json()?,
        PlanFormat::Yaml => Document::new("Plan", &document).yaml()?,
        PlanFormat::Name => document.names(),
    };
    output::write(&text)?;
    Ok(Outcome::Fine)
}

impl PlanArguments {
    /// Reads the families as they are. A cluster may have none yet if manifests are assumed to be
    /// applied to it.
    async fn estate(&self) -> anyhow::Result<Estate> {
        let input = self.first_input();
        if self.edit.is_empty() || !input.filenames.is_empty() {
            return Box::pin(Estate::read(&input)).await;
        }
        Box::pin(Estate::read_if_any(&input)).await
    }

    /// Reads the manifests that are assumed to be applied to this estate.
    fn edited(&self, estate: &Estate) -> anyhow::Result<Option<Estate>> {
        if self.edit.is_empty() {
            return Ok(None);
        }
        let mut input = InputArguments {
            filenames: self.edit.clone(),
            recursive: self.input.recursive,
            ..InputArguments::default()
        };
        // A manifest without a namespace is applied to the one that is read.
        let namespace = estate.namespace.as_ref().or(self.input.kubectl_flags.namespace.as_ref());
        input.kubectl_flags.namespace = namespace.cloned();
        Estate::read_edit(&input, estate).map(Some)
    }

    /// Returns the flags that say where the families are. `--recursive` is also that of `--edit`.
    fn first_input(&self) -> InputArguments {
        let is_of_edit = self.input.filenames.is_empty() && !self.edit.is_empty();
        let recursive = self.input.recursive && !is_of_edit;
        InputArguments { recursive, ..self.input.clone() }
    }

    /// Returns the digests that the flags set, by the references of the upstreams.
    fn digests(&self, planner: &Planner<'_>) -> anyhow::Result<BTreeMap<String, String>> {
        let mut digests = BTreeMap::new();
        for name in &self.moved {
            let reference = planner.reference(name)?;
            let digest = moved_digest(&reference);
            digests.insert(reference, digest);
        }
        for SetDigest { upstream, digest } in &self.set {
            digests.insert(planner.reference(upstream)?, digest.clone());
        }
        Ok(digests)
    }

    /// Returns of which namespaces an estate has all families.
    fn scope(&self, estate: &Estate) -> EstateScope {
        let is_part = estate.origin == EstateOrigin::Files
            || self.input.selector.is_some()
            || !estate.problems.is_empty();
        match &estate.namespace {
            _ if is_part => EstateScope::Part,
            Some(namespace) => EstateScope::Namespace(namespace.clone()),
            None => EstateScope::Cluster,
        }
    }
}

/// Plans all families of an input.
struct Planner<'a> {
    estate: &'a Estate,
    edited: Option<&'a Estate>,
    scope: EstateScope,
    now: Timestamp,
}

/// A family, and what is assumed of what it is built on.
struct PlannedFamily<'a> {
    before: Option<&'a EstateFamily>,
    after: &'a EstateFamily,
    /// Whether it is assumed to be current before the change.
    is_current: bool,
    /// What is assumed before the change.
    first: AssumedDigests,
    /// What is assumed after it.
    assumed: AssumedDigests,
    end: Option<DryRunEnd>,
}

impl<'a> Planner<'a> {
    /// Returns the plan of every family. Families that are built on other families are planned
    /// again until nothing more follows from the plans of those.
    fn document(&self, upstreams: &BTreeMap<String, String>) -> PlanDocument {
        let current = self.assumed_current(upstreams);
        let before = self.imports(self.estate.families.iter().collect(), current.clone());
        let after = self.imports(self.families(), current);
        let families = after.families.iter().map(|family| {
            let known = self.estate.family(&family.name);
            let first = known.map(|known| before.of(known)).unwrap_or_default();
            let (first_upstreams, upstreams) = (BTreeMap::new(), upstreams.clone());
            PlannedFamily {
                before: known,
                after: family,
                is_current: before.current.contains(&family.name),
                first: AssumedDigests { upstreams: first_upstreams, imports: first },
                assumed: AssumedDigests { upstreams, imports: after.of(family) },
                end: None,
            }
        });
        let mut families: Vec<PlannedFamily<'_>> = families.collect();
        let imports: usize = families.iter().map(|family| family.assumed.imports.len()).sum();
        for _ in 0..=imports + 1 {
            run_all(&mut families, self.now);
            if !follow_imports(&mut families) {
                break;
            }
        }
        let plans = families.iter_mut().filter_map(|family| {
            family.run(self.now);
            let (end, assumed) = (family.end.as_ref()?, &family.assumed);
            let planned = Planned { before: family.before, after: family.after, assumed, end };
            Some(FamilyPlan::of(planned, after.unchecked(family.after), self.now))
        });
        PlanDocument::new(plans.collect())
    }

    /// Returns the families as they are planned: those of the edit, and those that it leaves as
    /// they are.
    fn families(&self) -> Vec<&'a EstateFamily> {
        let edited = self.edited.map(|edited| edited.families.as_slice()).unwrap_or_default();
        let is_edited = |family: &&EstateFamily| edited.iter().any(|one| one.name == family.name);
        let kept = self.estate.families.iter().filter(|family| !is_edited(family));
        let mut families: Vec<&EstateFamily> = kept.chain(edited).collect();
        families.sort_by(|a, b| a.name.cmp(&b.name));
        families
    }

    /// Returns the families that are assumed to be current. If files record nothing, only a change
    /// says what to plan, so that the families are current before it. Without a change, the plan is
    /// that of the first builds.
    fn assumed_current(&self, moved: &BTreeMap<String, String>) -> Vec<FamilyName> {
        if self.edited.is_none() && moved.is_empty() {
            return Vec::new();
        }
        let unrecorded = self.estate.families.iter().filter(|family| family.images.is_empty());
        unrecorded.map(|family| family.name.clone()).collect()
    }

    /// Returns what is known of the images of these families.
    fn imports<'s>(
        &'s self,
        families: Vec<&'s EstateFamily>,
        current: Vec<FamilyName>,
    ) -> EstateImports<'s> {
        EstateImports { families, current, scope: &self.scope, now: self.now }
    }

    /// Returns the reference of the upstream that a user names: of a family as it is planned, or
    /// else as it is now.
    fn reference(&self, name: &TargetName) -> anyhow::Result<String> {
        let now = self.estate.families.iter().collect();
        for families in [self.families(), now] {
            let upstreams = families.iter().flat_map(|family| {
                let upstreams = name.upstreams_of(family);
                upstreams.map(|upstream| (&family.name, upstream.reference()))
            });
            let mut found: Vec<(&FamilyName, String)> = upstreams.collect();
            found.dedup_by(|a, b| a.1 == b.1);
            match found.as_slice() {
                [] => {}
                [(_, reference)] => return Ok(reference.clone()),
                several => {
                    let names = several.iter().map(|(family, _)| format!("{family}/{name}"));
                    let names: Vec<String> = names.take(MAX_NAMED).collect();
                    bail!("{name} may be {}; name the family, too", names.join(" or "))
                }
            }
        }
        // Says which names are similar, or that it is an image.
        name.find(self.estate)?;
        bail!("{name} is an image; name an upstream")
    }
}

impl PlannedFamily<'_> {
    /// Plans the family, unless it is planned already.
    fn run(&mut self, now: Timestamp) {
        if self.end.is_some() {
            return;
        }
        let run = match self.before {
            Some(before) => {
                let mut run = DryRun::new(before, &self.first, now);
                if self.is_current {
                    run.make_current();
                }
                run.with_spec(self.after, &self.assumed)
            }
            None => DryRun::new(self.after, &self.assumed, now),
        };
        self.end = Some(run.run());
    }
}

/// Plans families that are not planned yet, on all cores: each plan depends on its own family only.
fn run_all(families: &mut [PlannedFamily<'_>], now: Timestamp) {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let share = families.len().div_ceil(cores).max(1);
    thread::scope(|scope| {
        for part in families.chunks_mut(share) {
            scope.spawn(move || part.iter_mut().for_each(|family| family.run(now)));
        }
    });
}

/// Sets what the families make of the images that others are built on, and drops the plans that are
/// no longer right. Returns whether there are any.
fn follow_imports(families: &mut [PlannedFamily<'_>]) -> bool {
    let planned = families.iter().filter_map(|family| {
        Some((family.after.name.clone(), (family.after, family.end.as_ref()?)))
    });
    let planned = planned.collect();
    let imports: Vec<_> = families
        .iter()
        .map(|family| {
            let mut imports = family.assumed.imports.clone();
            set_planned(&mut imports, &planned);
            imports
        })
        .collect();
    let mut is_changed = false;
    for (family, imports) in families.iter_mut().zip(imports) {
        if family.assumed.imports != imports {
            family.assumed.imports = imports;
            family.end = None;
            is_changed = true;
        }
    }
    is_changed
}

#[cfg(test)]
mod tests;
