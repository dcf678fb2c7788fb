//! `kubectl family why`: why an image was built last, is being built or is not built, down to what
//! changed first, and what it waits for. In sentences, from what the controller has recorded and
//! from its own decision.

mod report;

use std::collections::HashSet;

use anyhow::bail;
use clap::{Args, ValueEnum};
use jiff::Timestamp;

use groundswell::{
    api::{Cause, ImageState, ManagedImageStatus},
    lineage::{ImageIndex, Parent},
};

use crate::{
    input::{Estate, EstateFamily, InputArguments, target::TargetName},
    output::{self, Document, Outcome, Terminal},
    plan::dry_run::{AssumedDigests, DryRun},
    why::report::{BuiltOn, Reported, WaitsFor},
};

pub use report::WhyDocument;

/// Maximum number of images that a chain of waits names.
const MAX_WAITS: usize = 16;

const EXAMPLES: &str = "Examples:
  # Why app was built last, or what it waits for
  kubectl family why app
  # From what kubectl has saved
  kubectl get imgfam,mimg,casc,famreq -o yaml | kubectl family why flask/app -f -";

#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct WhyArguments {
    /// The image: NAME, FAMILY/NAME or NAMESPACE/FAMILY/NAME
    image: TargetName,
    /// Format of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: WhyFormat,
    #[command(flatten)]
    input: InputArguments,
}

/// Format of an explanation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum WhyFormat {
    /// Sentences
    #[default]
    Text,
    /// A JSON object, described by docs/reference/plugin/why.schema.json
    Json,
    /// The same object as YAML
    Yaml,
}

pub async fn run(arguments: WhyArguments) -> anyhow::Result<Outcome> {
    let estate = Estate::read(&arguments.input).await?;
    let (family, image) = arguments.image.find_image(&estate)?;
    let document = explain(family, image, Timestamp::now())?;
    let text = match arguments.output {
        WhyFormat::Text => document.text(Terminal::of_stdout().width),
        WhyFormat::Json => Document::new("Why", &document).json()?,
        WhyFormat::Yaml => Document::new("Why", &document).yaml()?,
    };
    output::write(&text)?;
    let is_stuck = matches!(document.state(), ImageState::Failed | ImageState::Blocked);
    Ok(if is_stuck { Outcome::Findings } else { Outcome::Fine })
}

/// Explains an image.
fn explain(
    family: &EstateFamily,
    index: ImageIndex,
    now: Timestamp,
) -> anyhow::Result<WhyDocument> {
    let Some(name) = name_of(family, index) else { bail!("there is no such image") };
    let Some(status) = status_of(family, index) else {
        bail!(
            "nothing is recorded of {name}: read it from a cluster whose controller has reconciled \
             it, or from the output of kubectl get imgfam,mimg,casc,famreq -o yaml"
        );
    };
    let assumed = AssumedDigests::default();
    let decision = DryRun::new(family, &assumed, now).first_decision();
    let decided = decision.images.get(index.position());
    let reported = Reported {
        family: &family.name,
        image: name,
        status,
        pending: decided.map(|decided| decided.causes.as_slice()).unwrap_or_default(),
        now,
    };
    let waits = waits(family, index);
    let upstream = |cause: &Cause| {
        let mut upstreams = family.family.spec.upstreams.iter();
        Some(upstreams.find(|one| one.name == cause.name)?.reference())
    };
    Ok(reported.document(built_on(family, index), waits, upstream))
}

fn name_of(family: &EstateFamily, index: ImageIndex) -> Option<&str> {
    Some(&family.family.spec.images.get(index.position())?.name)
}

fn status_of(family: &EstateFamily, index: ImageIndex) -> Option<&ManagedImageStatus> {
    family.images.get(name_of(family, index)?)?.status.as_ref()
}

/// Returns what the last build of an image is built on: along the bases, down to the upstream.
fn built_on(family: &EstateFamily, index: ImageIndex) -> Vec<BuiltOn> {
    let mut chain = Vec::new();
    let mut at = Some(index);
    while let Some(index) = at.take() {
        let Some(inputs) = status_of(family, index).and_then(|status| status.inputs.as_ref())
        else {
            break;
        };
        let image = family.family.spec.images.get(index.position());
        let edges = image.map(|image| image.from.as_slice()).unwrap_or_default();
        let base = edges.iter().position(|edge| edge.usage == groundswell::api::EdgeUse::Base);
        let parents = family.blueprint.lineage.parents(index);
        let Some((parent, pinned)) =
            base.and_then(|base| Some((parents.get(base)?, inputs.parents.get(base)?)))
        else {
            break;
        };
        let newest = match parent {
            Parent::Image(parent) => {
                at = Some(*parent);
                status_of(family, *parent).and_then(|status| status.digest.clone())
            }
            Parent::Upstream(upstream) => {
                let status = family.family.status.as_ref();
                let name = family.family.spec.upstreams.get(upstream.position());
                let known = status.zip(name).and_then(|(status, upstream)| {
                    status.upstreams.iter().find(|known| known.name == upstream.name)
                });
                known.and_then(|known| Some(known.adopted.as_ref()?.digest.clone()))
            }
            Parent::Import(_) => None,
        };
        chain.push(BuiltOn::new(pinned, newest));
    }
    chain
}

/// Returns what an image waits for: itself, and the parents that are not current, to those that no
/// parent keeps.
fn waits(family: &EstateFamily, index: ImageIndex) -> Vec<WaitsFor> {
    let mut waits = Vec::new();
    let mut known = HashSet::new();
    let mut stack = vec![index];
    while let Some(index) = stack.pop() {
        let (Some(name), Some(status)) = (name_of(family, index), status_of(family, index)) else {
            continue;
        };
        if status.state == ImageState::Current || !known.insert(index) || waits.len() >= MAX_WAITS {
            continue;
        }
        waits.push(WaitsFor::new(name, status));
        if matches!(status.state, ImageState::Waiting | ImageState::Blocked) {
            let parents = family.blueprint.lineage.parents(index).iter();
            stack.extend(parents.filter_map(|parent| match parent {
                Parent::Image(parent) => Some(*parent),
                Parent::Upstream(_) | Parent::Import(_) => None,
            }));
        }
    }
    waits
}
