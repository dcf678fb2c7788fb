//! `kubectl family plan`: what the controller would do, decided by its own code and not carried
//! out: now, if an upstream moved, or with another manifest.
//!
//! - [`dry_run`]: the decision on recorded state
//! - `changes`: what a manifest changes
//! - `report`: tables, Markdown and the document

mod changes;
pub mod dry_run;
mod report;

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::bail;
use clap::{Args, ValueEnum};
use jiff::Timestamp;

use groundswell::lineage::families::FamilyName;

use crate::{
    input::{
        Estate, EstateFamily, EstateOrigin, InputArguments,
        target::{NamedTarget, TargetName},
    },
    output::{self, Document, Outcome, Terminal},
    plan::{
        dry_run::{AssumedDigests, DryRun, digest_of},
        report::FamilyPlan,
    },
};

pub use report::PlanDocument;

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
    let estate = Estate::read(&arguments.input).await?;
    let edited = arguments.edited(&estate).await?;
    let assumed = arguments.assumed(&estate)?;
    let plan = Planner { estate: &estate, edited: edited.as_ref(), now: Timestamp::now() };
    let document = plan.document(assumed);
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
    /// Reads the manifests that are assumed to be applied.
    async fn edited(&self, estate: &Estate) -> anyhow::Result<Option<Estate>> {
        if self.edit.is_empty() {
            return Ok(None);
        }
        let mut input =
            InputArguments { filenames: self.edit.clone(), ..InputArguments::default() };
        input.kubectl_flags.namespace = match estate.families.first() {
            // A manifest without a namespace is applied to the one that is read.
            Some(family)
                if estate.origin == EstateOrigin::Cluster && !self.input.all_namespaces =>
            {
                Some(family.name.namespace.clone())
            }
            _ => self.input.kubectl_flags.namespace.clone(),
        };
        Estate::read(&input).await.map(Some)
    }

    /// Returns the digests that the flags set.
    fn assumed(&self, estate: &Estate) -> anyhow::Result<AssumedDigests> {
        let mut assumed = AssumedDigests::default();
        let reference = |name: &TargetName| {
            let found = name.find(estate)?;
            let NamedTarget::Upstream(index) = found.target else {
                bail!("{name} is an image; name an upstream");
            };
            let upstream = found.family.family.spec.upstreams.get(index.position());
            Ok(upstream.map(groundswell::api::Upstream::reference).unwrap_or_default())
        };
        for name in &self.moved {
            let reference = reference(name)?;
            let digest = digest_of(&format!("{reference} moved"));
            assumed.upstreams.insert(reference, digest);
        }
        for SetDigest { upstream, digest } in &self.set {
            assumed.upstreams.insert(reference(upstream)?, digest.clone());
        }
        Ok(assumed)
    }
}

/// Plans all families of an input.
struct Planner<'a> {
    estate: &'a Estate,
    edited: Option<&'a Estate>,
    now: Timestamp,
}

impl Planner<'_> {
    /// Returns the plan of every family. Families that import from each other are planned again
    /// until no further import is rebuilt.
    fn document(&self, mut assumed: AssumedDigests) -> PlanDocument {
        for _ in 0..=self.estate.families.len() {
            let families: Vec<FamilyPlan> =
                self.names().iter().map(|name| self.plan(name, &assumed)).collect();
            let mut rebuilt: Vec<String> =
                families.iter().flat_map(FamilyPlan::rebuilt_imports).collect();
            rebuilt.sort();
            if rebuilt == assumed.rebuilt_imports {
                return PlanDocument::new(families);
            }
            assumed.rebuilt_imports = rebuilt;
        }
        PlanDocument::new(self.names().iter().map(|name| self.plan(name, &assumed)).collect())
    }

    /// Returns the names of all families, of those that are edited, too.
    fn names(&self) -> BTreeSet<FamilyName> {
        let edited = self.edited.iter().flat_map(|edited| &edited.families);
        self.estate.families.iter().chain(edited).map(|family| family.name.clone()).collect()
    }

    fn plan(&self, name: &FamilyName, assumed: &AssumedDigests) -> FamilyPlan {
        let before = self.estate.family(name);
        let after = self.edited.and_then(|edited| edited.family(name)).or(before);
        let Some(after) = after else { return FamilyPlan::empty(name) };
        let nothing = AssumedDigests::default();
        let run = match before {
            Some(before) => {
                let mut run = DryRun::new(before, &nothing, self.now);
                if self.assumes_current(before, assumed) {
                    run.make_current();
                }
                run.with_spec(after, assumed)
            }
            None => DryRun::new(after, assumed, self.now),
        };
        FamilyPlan::of(before, after, &run.run(), self.now)
    }

    /// Whether to plan from a current family: if files record nothing, only a change says what to
    /// plan. Without a change, the plan is that of the first builds.
    fn assumes_current(&self, before: &EstateFamily, assumed: &AssumedDigests) -> bool {
        let has_change = self.edited.is_some() || !assumed.upstreams.is_empty();
        before.images.is_empty() && has_change
    }
}
