//! The inputs of a build: its parents, source, spec and strategy, or why they are not known.

use jiff::Timestamp;
use smallvec::SmallVec;

use crate::{
    api::{Cause, Edge, ImageState, Inputs, OnParentFailure, ParentDigest, condition::Reason},
    engine::{
        Problem,
        decision::{ImageDecision, WaitProgress},
        image::{evaluation::ImageEval, failure},
        input::{ImportState, ImportedBuild, Observed, VerifiedBuild},
    },
    identity::{ImageDigest, ParentNaming, PinnedParent},
    lineage::{EdgeIndex, ImageIndex, ImportIndex, Parent},
};

/// How many parents are kept without an allocation. Nearly all images have no more.
const INLINE_PARENTS: usize = 4;
/// Upper bound on the parents that a message names.
const MAX_NAMES: usize = 10;

/// The parents of an image. Each of them has a digest.
pub(in crate::engine) struct ResolvedParents<'w> {
    parents: SmallVec<[ResolvedParent<'w>; INLINE_PARENTS]>,
    /// When the oldest upstream digest below the image was first observed.
    pub base_observed: Option<Timestamp>,
    /// Why the image must not be built from these digests yet.
    hindrance: Option<Hindrance<'w>>,
}

/// A parent with its digest. Its name and repository are rarely needed and looked up on demand.
pub(super) struct ResolvedParent<'w> {
    pub(super) digest: &'w str,
    /// Why the digest was built; empty for upstreams.
    pub(super) causes: &'w [Cause],
    /// When the oldest upstream digest below the parent was first observed.
    pub(super) base_observed: Option<Timestamp>,
    /// The digest that builds use instead, if the parent is rolled back to an earlier build.
    pub(super) rolled_back_to: Option<&'w str>,
}

impl<'w> From<&'w VerifiedBuild> for ResolvedParent<'w> {
    fn from(build: &'w VerifiedBuild) -> Self {
        Self {
            digest: build.digest.as_str(),
            causes: &build.causes,
            base_observed: build.base_observed,
            rolled_back_to: None,
        }
    }
}

impl<'w> From<&'w ImportedBuild> for ResolvedParent<'w> {
    fn from(build: &'w ImportedBuild) -> Self {
        Self {
            digest: build.digest.as_str(),
            causes: &build.causes,
            base_observed: build.base_observed,
            rolled_back_to: build.rolled_back_to.as_ref().map(ImageDigest::as_str),
        }
    }
}

impl<'w> ResolvedParents<'w> {
    /// Returns the causes of the parents' digests, in the order of `from`.
    pub fn causes<'p>(&'p self) -> impl Iterator<Item = &'p [Cause]> + use<'p, 'w> {
        let causes = |parent: &ResolvedParent<'w>| match parent.rolled_back_to {
            Some(_) => &[][..],
            None => parent.causes,
        };
        self.parents.iter().map(causes)
    }

    /// Whether a parent is rolled back to an earlier build.
    pub(super) fn any_rolled_back(&self) -> bool {
        self.parents.iter().any(|parent| parent.rolled_back_to.is_some())
    }
}

impl<'w> ResolvedParent<'w> {
    /// Returns the digest that a build uses.
    fn build_digest(&self, of_rolled_back: RolledBackDigest) -> &'w str {
        match of_rolled_back {
            RolledBackDigest::Newest => self.digest,
            RolledBackDigest::Earlier => self.rolled_back_to.unwrap_or(self.digest),
        }
    }
}

/// Which digest of a parent that is rolled back a build uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RolledBackDigest {
    /// The newest one, from before the rollback.
    Newest,
    /// The one that the parent is rolled back to.
    Earlier,
}

/// The inputs of a build, all of them known.
pub(in crate::engine) struct ResolvedInputs {
    /// What the fingerprint is computed from.
    pub inputs: Inputs,
    /// The parents, as the build gets them.
    pub parents: Vec<PinnedParent>,
    /// Whether the source's revision is the one of the last build, because the current one is still
    /// being looked up. That is enough to see that an image is current, but not to build it.
    pub source_is_remembered: bool,
}

/// Why an image can't be built now.
pub(in crate::engine) enum NotReady {
    /// The ancestor of this name has failed.
    Blocked(String),
    /// An input is missing.
    Waiting(Problem, WaitProgress),
}

/// Why a known digest of a parent must not be built from yet: it has not passed the current checks
/// of the parent.
#[derive(Clone, Copy)]
pub(super) enum Hindrance<'w> {
    /// The parent of this name is to pass its checks first.
    Unchecked(&'w str, WaitProgress),
    /// The checks do not run because the ancestor of this name has failed.
    Blocked(&'w str),
}

/// What is known about one parent.
pub(super) enum ParentResolution<'w> {
    /// The parent has a digest.
    Ready(ResolvedParent<'w>),
    /// The parent has a digest that must not be built from yet.
    Hindered(ResolvedParent<'w>, Hindrance<'w>),
    /// The parent has no digest yet.
    Awaited(WaitProgress),
}

impl<'a> ImageEval<'a> {
    /// Returns the parents if each of them has a digest.
    pub(in crate::engine) fn resolve_parents<'w>(
        &self,
        images: &'w [ImageDecision],
    ) -> Result<ResolvedParents<'w>, NotReady>
    where
        'a: 'w,
    {
        let mut resolved =
            ResolvedParents { parents: SmallVec::new(), base_observed: None, hindrance: None };
        let mut awaited: Vec<(&str, WaitProgress)> = Vec::new();
        let edges = self.image.from.iter().zip(self.context.input.lineage().parents(self.index));
        for (index, (edge, parent)) in EdgeIndex::enumerate(edges) {
            let parent = match self.resolve_parent(images, edge, *parent)? {
                ParentResolution::Ready(parent) => parent,
                ParentResolution::Hindered(parent, hindrance) => {
                    resolved.hindrance = resolved.hindrance.or(Some(hindrance));
                    parent
                }
                ParentResolution::Awaited(progress) => {
                    awaited.push((self.parent_name(index), progress));
                    continue;
                }
            };
            resolved.base_observed =
                [resolved.base_observed, parent.base_observed].into_iter().flatten().min();
            resolved.parents.push(parent);
        }
        if awaited.is_empty() { Ok(resolved) } else { Err(waiting_for(&awaited)) }
    }

    fn resolve_parent<'w>(
        &self,
        images: &'w [ImageDecision],
        edge: &'a Edge,
        parent: Parent,
    ) -> Result<ParentResolution<'w>, NotReady>
    where
        'a: 'w,
    {
        match parent {
            Parent::Upstream(upstream) => self.resolve_upstream(upstream),
            Parent::Image(parent) => self.resolve_image(images, edge, parent),
            Parent::Import(import) => self.resolve_import(import),
        }
    }

    fn resolve_image<'w>(
        &self,
        images: &'w [ImageDecision],
        edge: &'a Edge,
        parent: ImageIndex,
    ) -> Result<ParentResolution<'w>, NotReady>
    where
        'a: 'w,
    {
        let Some(parent) = images.get(parent.position()) else {
            return Ok(ParentResolution::Awaited(WaitProgress::AtRest));
        };
        if let (Some(verified), Some(earlier)) = (parent.verified.as_deref(), &parent.rollback) {
            let rolled_back_to = Some(earlier.digest.as_str());
            return Ok(ParentResolution::Ready(ResolvedParent {
                rolled_back_to,
                ..verified.into()
            }));
        }
        let verified = parent.verified.as_deref();
        if let Some(by) = failed_ancestor(edge, parent) {
            let last_verified = verified
                .filter(|_| self.image.on_parent_failure == OnParentFailure::UseLastVerified)
                .ok_or_else(|| NotReady::Blocked(by.into()))?;
            return Ok(if parent.is_checked {
                ParentResolution::Ready(last_verified.into())
            } else {
                ParentResolution::Hindered(last_verified.into(), Hindrance::Blocked(by))
            });
        }
        let is_patched_without = self.image.on_parent_failure == OnParentFailure::UseLastVerified;
        if let Some(verified) =
            verified.filter(|_| is_patched_without && parent.is_checked && self.is_stuck(parent))
        {
            return Ok(ParentResolution::Ready(verified.into()));
        }
        let unchecked = |verified: &'w VerifiedBuild, progress| {
            let hindrance = Hindrance::Unchecked(edge.parent(), progress);
            ParentResolution::Hindered(verified.into(), hindrance)
        };
        Ok(match verified {
            Some(verified) if parent.releases_children && parent.is_checked => {
                ParentResolution::Ready(verified.into())
            }
            // A user holds the parent, and its checks have changed since.
            Some(verified) if parent.releases_children => unchecked(verified, WaitProgress::AtRest),
            // Only the parent's checks have changed: it keeps its digest, which must not be built
            // from before the checks have passed.
            Some(verified)
                if parent.state == ImageState::Checking && parent.fingerprint.is_none() =>
            {
                unchecked(verified, WaitProgress::InProgress)
            }
            _ => ParentResolution::Awaited(parent.progress()),
        })
    }

    /// Whether nobody knows when a parent is built: it waits for an input that cannot be read, or
    /// for the end of an outage.
    fn is_stuck(&self, parent: &ImageDecision) -> bool {
        let retries = &self.context.input.spec.policy.retries;
        match parent.state {
            ImageState::Waiting => parent.progress() == WaitProgress::AtRest,
            ImageState::Queued | ImageState::Building | ImageState::Checking => {
                parent.failure.as_deref().is_some_and(|record| failure::is_outage(record, retries))
            }
            _ => false,
        }
    }

    fn resolve_import(&self, import: ImportIndex) -> Result<ParentResolution<'a>, NotReady> {
        let input = self.context.input;
        let (Some(observed), Some(name)) = (
            input.imports.get(import.position()),
            input.blueprint.import_names.get(import.position()),
        ) else {
            return Ok(ParentResolution::Awaited(WaitProgress::AtRest));
        };
        if let Some(problem) = &observed.problem {
            return Err(NotReady::Waiting(problem.clone(), WaitProgress::AtRest));
        }
        let verified = observed.verified.as_ref();
        // An image that was last built on an older digest takes the newest one even if another is
        // in progress. Otherwise a family that is rebuilt without a pause would prevent others from
        // ever being built.
        let used_digest = self.observed.verified.as_ref().and_then(|last| {
            let parent = last.inputs.parents.iter().find(|parent| parent.name == *name)?;
            Some(parent.digest.as_str())
        });
        let is_outdated = verified
            .is_some_and(|verified| used_digest.is_some_and(|used| verified.digest != used));
        match (&observed.state, verified) {
            (ImportState::Settled, Some(verified)) => Ok(ParentResolution::Ready(verified.into())),
            (ImportState::InProgress, Some(verified)) if is_outdated => {
                Ok(ParentResolution::Ready(verified.into()))
            }
            (ImportState::InProgress, _) => Ok(ParentResolution::Awaited(WaitProgress::InProgress)),
            (ImportState::Failed { .. }, Some(verified))
                if self.image.on_parent_failure == OnParentFailure::UseLastVerified =>
            {
                Ok(ParentResolution::Ready(verified.into()))
            }
            (ImportState::Failed { by }, _) => Err(NotReady::Blocked(by.clone())),
            (ImportState::Settled, None) => Ok(ParentResolution::Awaited(WaitProgress::AtRest)),
        }
    }

    /// Returns the inputs of a build if all of them are known and the parents may be built from.
    pub(super) fn resolve_inputs(
        &self,
        parents: &ResolvedParents<'_>,
        of_rolled_back: RolledBackDigest,
    ) -> Result<ResolvedInputs, NotReady> {
        let source = self.source()?;
        let strategy = known(&self.observed.strategy, "the build strategy is being looked up")?;
        match parents.hindrance {
            Some(Hindrance::Unchecked(parent, progress)) => {
                return Err(waiting_for(&[(parent, progress)]));
            }
            Some(Hindrance::Blocked(by)) => return Err(NotReady::Blocked(by.into())),
            None => {}
        }
        let inputs = Inputs {
            parents: EdgeIndex::enumerate(&parents.parents)
                .map(|(index, parent)| ParentDigest {
                    name: self.parent_name(index).into(),
                    digest: parent.build_digest(of_rolled_back).into(),
                })
                .collect(),
            source: source.revision.into(),
            spec: self.blueprint.spec_hash.clone(),
            strategy: strategy.to_owned(),
            nonce: self.nonce().unwrap_or_default().into(),
        };
        let parents = EdgeIndex::enumerate(self.image.from.iter().zip(&parents.parents));
        let parents = parents.map(|(index, (edge, parent))| {
            self.pin(index, edge, parent.build_digest(of_rolled_back))
        });
        let parents = parents.collect();
        Ok(ResolvedInputs { inputs, parents, source_is_remembered: source.is_remembered })
    }

    /// Returns the parent of an edge, pinned to a digest.
    fn pin(&self, index: EdgeIndex, edge: &Edge, digest: &str) -> PinnedParent {
        let repository = self.parent_repository(index);
        let is_unnamed_import = edge.family.is_some() && edge.reference.is_none();
        let naming = if let Some(arg) = &edge.arg {
            ParentNaming::Arg(arg.clone())
        } else if is_unnamed_import {
            ParentNaming::Reference(format!("{repository}:latest"))
        } else {
            let reference = self.blueprint.references.get(index.position()).cloned();
            ParentNaming::Reference(reference.unwrap_or_default())
        };
        PinnedParent {
            name: self.parent_name(index).into(),
            repository: repository.into(),
            digest: ImageDigest::from(digest),
            naming,
            usage: edge.usage,
        }
    }

    /// Whether the verified build was made from the current inputs.
    ///
    /// A source that is still being looked up counts as unchanged if the image was current and its
    /// tags were not about to move: an image on the way to a newer build must not fall back.
    pub(in crate::engine) fn is_unchanged(
        &self,
        verified: &VerifiedBuild,
        parents: &ResolvedParents<'_>,
    ) -> bool {
        self.is_unchanged_but_nonce(verified, parents)
            && verified.inputs.nonce == self.nonce().unwrap_or_default()
    }

    /// Whether the verified build was made from the current inputs, apart from requests and
    /// refreshes.
    pub(super) fn is_unchanged_but_nonce(
        &self,
        verified: &VerifiedBuild,
        parents: &ResolvedParents<'_>,
    ) -> bool {
        let last = &verified.inputs;
        let same = |observed: &Observed<String>, last: &str| match observed {
            Observed::Known(now) => now == last,
            Observed::Pending => self.observed.record.is_some_and(|record| {
                let promoted = record.promoted.as_ref();
                record.state == ImageState::Current
                    && promoted.is_none_or(|digest| verified.digest == *digest)
            }),
            Observed::Failed(_) => false,
        };
        last.spec == self.blueprint.spec_hash
            && last.parents.len() == parents.parents.len()
            && last
                .parents
                .iter()
                .zip(&parents.parents)
                // A rollback of a parent makes no image stale, and neither does what it has undone.
                .all(|(last, now)| last.digest == now.digest || now.rolled_back_to.is_some())
            && same(&self.observed.source, &last.source)
            && matches!(&self.observed.strategy, Observed::Known(now) if *now == last.strategy)
    }

    /// Returns the name of the parent of an edge, as causes and messages show it.
    fn parent_name(&self, index: EdgeIndex) -> &'a str {
        match self.context.input.lineage().parents(self.index).get(index.position()) {
            Some(Parent::Import(import)) => self
                .context
                .input
                .blueprint
                .import_names
                .get(import.position())
                .map_or("", String::as_str),
            _ => self.image.from.get(index.position()).map_or("", Edge::parent),
        }
    }

    /// Returns the repository of the parent of an edge.
    fn parent_repository(&self, index: EdgeIndex) -> &'a str {
        let input = self.context.input;
        let repository =
            self.context.input.lineage().parents(self.index).get(index.position()).and_then(
                |parent| match *parent {
                    Parent::Upstream(upstream) => input
                        .spec
                        .upstreams
                        .get(upstream.position())
                        .map(|upstream| &upstream.image),
                    Parent::Image(image) => {
                        input.blueprint.images.get(image.position()).map(|image| &image.repository)
                    }
                    Parent::Import(import) => input
                        .imports
                        .get(import.position())?
                        .verified
                        .as_ref()
                        .map(|verified| &verified.repository),
                },
            );
        repository.map_or("", String::as_str)
    }

    /// Returns the source's revision.
    ///
    /// After a restart, a revision that is looked up over the network is unknown for a moment.
    /// Until then the revision of the last build is used, so that a current image does not look
    /// stale.
    pub(super) fn source(&self) -> Result<SourceRevision<'_>, NotReady> {
        match (&self.observed.source, &self.observed.verified) {
            (Observed::Pending, Some(verified)) => {
                Ok(SourceRevision { revision: &verified.inputs.source, is_remembered: true })
            }
            (observed, _) => Ok(SourceRevision {
                revision: known(observed, "the source is being looked up")?,
                is_remembered: false,
            }),
        }
    }
}

/// The revision of a source.
pub(super) struct SourceRevision<'s> {
    revision: &'s str,
    /// Whether it is the revision of the last build, because the current one is unknown.
    is_remembered: bool,
}

fn waiting_for(awaited: &[(&str, WaitProgress)]) -> NotReady {
    let names: Vec<&str> = awaited.iter().map(|(name, _)| *name).take(MAX_NAMES).collect();
    let message = format!("waiting for {}", names.join(", "));
    let problem = Problem { reason: Reason::WaitingForParent, message };
    let progress = awaited.iter().map(|(_, progress)| *progress);
    NotReady::Waiting(problem, progress.min().unwrap_or(WaitProgress::AtRest))
}

fn known<'s>(observed: &'s Observed<String>, pending: &str) -> Result<&'s str, NotReady> {
    match observed {
        Observed::Known(value) => Ok(value),
        Observed::Pending => Err(NotReady::Waiting(
            Problem { reason: Reason::Resolving, message: pending.into() },
            WaitProgress::InProgress,
        )),
        Observed::Failed(problem) => Err(NotReady::Waiting(problem.clone(), WaitProgress::AtRest)),
    }
}

/// Returns the name of the failed image at or above a parent.
fn failed_ancestor<'d>(edge: &'d Edge, parent: &'d ImageDecision) -> Option<&'d str> {
    match parent.state {
        ImageState::Failed => Some(edge.parent()),
        ImageState::Blocked => parent.blocked_by.as_deref(),
        _ => None,
    }
}
