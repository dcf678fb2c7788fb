//! `kubectl family why`: why an image was built last, is being built or is not built, down to what
//! changed first, and what it waits for. In sentences, from what the controller has recorded and
//! from its own decision.

mod report;

use std::collections::HashSet;

use anyhow::bail;
use clap::{Args, ValueEnum};
use jiff::Timestamp;

use groundswell::{
    api::{Cause, EdgeUse, ImageState, ManagedImageStatus, ParentDigest},
    lineage::{ImageIndex, Parent, UpstreamIndex, families::FamilyName},
};

use crate::{
    input::{Estate, EstateFamily, InputArguments, digest_in_use, target::TargetName},
    output::{self, Document, Outcome, Terminal},
    plan::dry_run::{AssumedDigests, DryRun},
    why::report::{BuiltOn, Reported, WaitsFor},
};

pub use report::WhyDocument;

/// Maximum number of images that a chain of waits names.
const MAX_WAITS: usize = 16;
/// Maximum number of images on the way from an image to its upstream.
const MAX_CHAIN: usize = 1_000;

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
    let document = explain(&estate, family, image, Timestamp::now())?;
    let text = match arguments.output {
        WhyFormat::Text => document.text(Terminal::of_stdout().width),
        WhyFormat::Json => Document::new("Why", &document).json()?,
        WhyFormat::Yaml => Document::new("Why", &document).yaml()?,
    };
    output::write(&text)?;
    let is_stuck = matches!(document.state(), ImageState::Failed | ImageState::Blocked);
    Ok(if is_stuck { Outcome::Findings } else { Outcome::Fine })
}

/// Explains the state of an image.
///
/// # Errors
///
/// Returns an error if nothing is recorded of the image.
pub fn explain(
    estate: &Estate,
    family: &EstateFamily,
    image: ImageIndex,
    now: Timestamp,
) -> anyhow::Result<WhyDocument> {
    ExplainedImage { estate, family, index: image }.explain(now)
}

/// An image, and where its parents are found.
#[derive(Clone, Copy)]
struct ExplainedImage<'a> {
    estate: &'a Estate,
    family: &'a EstateFamily,
    index: ImageIndex,
}

impl<'a> ExplainedImage<'a> {
    fn explain(self, now: Timestamp) -> anyhow::Result<WhyDocument> {
        let family = self.family;
        let Some(name) = self.name() else { bail!("there is no such image") };
        let Some(status) = self.status() else {
            bail!(
                "nothing is recorded of {name}: read it from a cluster whose controller has \
                 reconciled it, or from the output of kubectl get imgfam,mimg,casc,famreq -o yaml"
            );
        };
        let assumed = AssumedDigests::default();
        let decision = DryRun::new(family, &assumed, now).first_decision();
        let decided = decision.images.get(self.index.position());
        let reported = Reported {
            family: &family.name,
            image: name,
            status,
            pending: decided.map(|decided| decided.causes.as_slice()).unwrap_or_default(),
            now,
        };
        let upstream = |cause: &Cause| {
            let mut upstreams = family.family.spec.upstreams.iter();
            Some(upstreams.find(|one| one.name == cause.name)?.reference())
        };
        Ok(reported.document(self.built_on(), self.waits(), self.kept_back(), upstream))
    }

    fn name(self) -> Option<&'a str> {
        Some(&self.family.family.spec.images.get(self.index.position())?.name)
    }

    fn status(self) -> Option<&'a ManagedImageStatus> {
        self.family.images.get(self.name()?)?.status.as_ref()
    }

    /// Returns the image of a parent, also in another family that the input has.
    fn parent(self, parent: Parent) -> Option<Self> {
        match parent {
            Parent::Image(index) => Some(Self { index, ..self }),
            Parent::Upstream(_) => None,
            Parent::Import(import) => {
                let import = self.family.blueprint.lineage.imports().get(import.position())?;
                let namespace = import.namespace.as_ref().unwrap_or(&self.family.name.namespace);
                let name = FamilyName { namespace: namespace.clone(), name: import.family.clone() };
                let family = self.estate.family(&name)?;
                let mut images = ImageIndex::enumerate(&family.family.spec.images);
                let (index, _) = images.find(|(_, image)| image.name == import.image)?;
                Some(Self { family, index, ..self })
            }
        }
    }

    /// Returns what the last build of the image is built on: along the bases, down to the upstream.
    fn built_on(self) -> Vec<BuiltOn> {
        let mut chain = Vec::new();
        let mut at = Some(self);
        // Families that build on each other in a circle have no end.
        while let Some(image) = at.take().filter(|_| chain.len() < MAX_CHAIN) {
            let Some((parent, pinned)) = image.base() else { break };
            at = image.parent(parent);
            let newest = match (at, parent) {
                (Some(base), _) => base.status().and_then(|status| status.digest.clone()),
                (None, Parent::Upstream(upstream)) => image.adopted(upstream, &pinned.digest),
                (None, _) => None,
            };
            chain.push(BuiltOn::new(pinned, newest));
        }
        chain
    }

    /// Says what keeps the image from newer digests along its bases: holds, and an upstream whose
    /// newest digest is not adopted.
    fn kept_back(self) -> Vec<String> {
        let mut sentences = Vec::new();
        let (mut at, mut count) = (Some(self), 0);
        // Families that build on each other in a circle have no end.
        while let Some(image) = at.take().filter(|_| count < MAX_CHAIN) {
            count += 1;
            let hold = image.status().and_then(|status| status.hold.as_ref());
            let name = image.name().unwrap_or_default();
            sentences.extend(hold.map(|hold| {
                let until = hold.until.map(|until| format!(" until {until:.0}"));
                let reason = hold.reason.as_ref().map(|reason| format!(": {reason}"));
                let (until, reason) = (until.unwrap_or_default(), reason.unwrap_or_default());
                format!("{name} is held{until}{reason}.")
            }));
            let Some((parent, _)) = image.base() else { break };
            if let Parent::Upstream(upstream) = parent {
                sentences.extend(image.candidate(upstream));
            }
            at = image.parent(parent);
        }
        sentences
    }

    /// Says why the newest digest of an upstream is not adopted.
    fn candidate(self, upstream: UpstreamIndex) -> Option<String> {
        let name = &self.family.family.spec.upstreams.get(upstream.position())?.name;
        let mut known = self.family.family.status.as_ref()?.upstreams.iter();
        let status = known.find(|known| known.name == *name)?;
        status.candidate.as_ref()?;
        let message = status.message.as_ref().or(status.reason.as_ref())?;
        Some(format!("Upstream {name}: {message}."))
    }

    /// Returns the base of the last build, and what it is pinned to.
    fn base(self) -> Option<(Parent, &'a ParentDigest)> {
        let inputs = self.status()?.inputs.as_ref()?;
        let edges = &self.family.family.spec.images.get(self.index.position())?.from;
        let base = edges.iter().position(|edge| edge.usage == EdgeUse::Base)?;
        let parents = self.family.blueprint.lineage.parents(self.index);
        Some((*parents.get(base)?, inputs.parents.get(base)?))
    }

    /// Returns the digest that builds use of an upstream. `pinned` is that of the last build.
    fn adopted(self, upstream: UpstreamIndex, pinned: &str) -> Option<String> {
        let name = &self.family.family.spec.upstreams.get(upstream.position())?.name;
        let mut known = self.family.family.status.as_ref()?.upstreams.iter();
        let adopted = known.find(|known| known.name == *name)?.adopted.as_ref()?;
        Some(digest_in_use(adopted, pinned))
    }

    /// Returns what the image waits for: the parents that are not current, to those that no parent
    /// keeps.
    fn waits(self) -> Vec<WaitsFor> {
        let mut waits = Vec::new();
        let mut known = HashSet::from([(&self.family.name, self.index)]);
        let mut stack = vec![self];
        while let Some(image) = stack.pop() {
            let Some(status) = image.status() else { continue };
            if !matches!(status.state, ImageState::Waiting | ImageState::Blocked) {
                continue;
            }
            let parents = image.family.blueprint.lineage.parents(image.index).iter();
            for parent in parents.filter_map(|parent| image.parent(*parent)) {
                let (Some(name), Some(status)) = (parent.name(), parent.status()) else { continue };
                if status.state == ImageState::Current
                    || !known.insert((&parent.family.name, parent.index))
                    || waits.len() >= MAX_WAITS
                {
                    continue;
                }
                let name = if parent.family.name == self.family.name {
                    name.to_owned()
                } else {
                    format!("{}/{name}", parent.family.name)
                };
                waits.push(WaitsFor::new(&name, status));
                stack.push(parent);
            }
        }
        waits
    }
}
