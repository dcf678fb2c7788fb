//! The inputs of a build: from the parents, the source, the spec and the strategy, or what stands
//! in the way of knowing them.

use jiff::Timestamp;
use smallvec::SmallVec;

use crate::{
    api::{Cause, Edge, ImageState, Inputs, OnParentFailure, ParentDigest, condition::reason},
    engine::{
        Problem,
        decision::{ImageDecision, PinnedParent},
        image::evaluation::ImageEval,
        input::{ImportState, Observed, VerifiedBuild},
    },
    lineage::{ImageIndex, ImportIndex, Parent, UpstreamIndex},
};

/// Parents that are looked at without an allocation: nearly all images have no more.
const FEW: usize = 4;
/// The most names of parents that a message lists.
const MAX_NAMES: usize = 10;

/// Parents, every one of them with a digest to build from.
pub(in crate::engine) struct Parents<'w> {
    views: SmallVec<[ParentView<'w>; FEW]>,
    /// When the oldest upstream digest below was first seen.
    pub base_seen: Option<Timestamp>,
    /// Why they are not to be built from, though their digests are known.
    unready: Option<Unready<'w>>,
}

/// A parent as its child sees it. Its name and its repository are looked up by its place where they
/// are needed: hardly ever.
struct ParentView<'w> {
    digest: &'w str,
    /// Why its digest is what it is, for images.
    causes: &'w [Cause],
}

/// Inputs, all of them known.
pub(in crate::engine) struct Known {
    /// What the fingerprint is made of.
    pub inputs: Inputs,
    /// The parents, as the build gets them.
    pub parents: Vec<PinnedParent>,
    /// Whether the source's revision is the one of the last build, because the one of now is still
    /// being asked for. Enough to tell that an image is current, and not enough to build it.
    pub remembered: bool,
}

/// What stands between an image and its build, from the sight of its parents.
pub(in crate::engine) enum NotReady {
    /// The ancestor of this name has failed.
    Blocked(String),
    /// Something is missing; the flag says whether it is on its way.
    Waiting(Problem, bool),
}

/// Why a parent's digest is not to be built from: it has not passed the parent's checks as they are
/// now.
#[derive(Clone, Copy)]
enum Unready<'w> {
    /// They are waited for; the flag says whether they are being run.
    Unchecked(&'w str, bool),
    /// They are not run, for the ancestor of this name has failed.
    Blocked(&'w str),
}

/// What a parent comes to.
enum Found<'w> {
    /// A digest, and when the oldest upstream digest below it was first seen.
    Digest(ParentView<'w>, Option<Timestamp>),
    /// The same, not to be built from.
    Unready(ParentView<'w>, Option<Timestamp>, Unready<'w>),
    /// None yet; the flag says whether it is on its way.
    Awaited(bool),
}

impl<'a> ImageEval<'a> {
    /// The parents, if every one of them has a digest.
    pub(in crate::engine) fn parents<'w>(
        &self,
        images: &'w [ImageDecision],
    ) -> Result<Parents<'w>, NotReady>
    where
        'a: 'w,
    {
        let mut found = Parents { views: SmallVec::new(), base_seen: None, unready: None };
        let mut awaited: Vec<(&str, bool)> = Vec::new();
        let edges = self.image.from.iter().zip(self.context.input.lineage().parents(self.index));
        for (place, (edge, parent)) in edges.enumerate() {
            let (view, since) = match self.parent(images, edge, *parent)? {
                Found::Digest(view, since) => (view, since),
                Found::Unready(view, since, why) => {
                    found.unready = found.unready.or(Some(why));
                    (view, since)
                }
                Found::Awaited(on_its_way) => {
                    awaited.push((self.parent_name(place), on_its_way));
                    continue;
                }
            };
            found.base_seen = [found.base_seen, since].into_iter().flatten().min();
            found.views.push(view);
        }
        if awaited.is_empty() { Ok(found) } else { Err(waiting(&awaited)) }
    }

    fn parent<'w>(
        &self,
        images: &'w [ImageDecision],
        edge: &'a Edge,
        parent: Parent,
    ) -> Result<Found<'w>, NotReady>
    where
        'a: 'w,
    {
        match parent {
            Parent::Upstream(upstream) => self.upstream(upstream),
            Parent::Image(parent) => self.image(images, edge, parent),
            Parent::Import(import) => self.import(import),
        }
    }

    fn image<'w>(
        &self,
        images: &'w [ImageDecision],
        edge: &'a Edge,
        parent: ImageIndex,
    ) -> Result<Found<'w>, NotReady>
    where
        'a: 'w,
    {
        let Some(decision) = images.get(parent.position()) else {
            return Ok(Found::Awaited(false));
        };
        let view = |verified: &'w VerifiedBuild| ParentView {
            digest: verified.digest.as_str(),
            causes: &verified.causes,
        };
        let verified = decision.verified.as_deref();
        if let Some(by) = failed_ancestor(edge, decision) {
            return match verified
                .filter(|_| self.image.on_parent_failure == OnParentFailure::UseLastGood)
            {
                Some(verified) if decision.is_checked => {
                    Ok(Found::Digest(view(verified), verified.base_seen))
                }
                Some(verified) => {
                    Ok(Found::Unready(view(verified), verified.base_seen, Unready::Blocked(by)))
                }
                None => Err(NotReady::Blocked(by.into())),
            };
        }
        Ok(match verified {
            Some(verified) if decision.stands && decision.is_checked => {
                Found::Digest(view(verified), verified.base_seen)
            }
            // A person keeps it where it is, and its checks are others by now.
            Some(verified) if decision.stands => Found::Unready(
                view(verified),
                verified.base_seen,
                Unready::Unchecked(edge.parent(), false),
            ),
            // Its checks have changed: it is what it was, and is not to be built from before they
            // have passed.
            Some(verified)
                if decision.state == ImageState::Checking && decision.fingerprint.is_none() =>
            {
                Found::Unready(
                    view(verified),
                    verified.base_seen,
                    Unready::Unchecked(edge.parent(), true),
                )
            }
            _ => Found::Awaited(decision.in_progress),
        })
    }

    fn import(&self, import: ImportIndex) -> Result<Found<'a>, NotReady> {
        let input = self.context.input;
        let (Some(observed), Some(name)) = (
            input.imports.get(import.position()),
            input.blueprint.import_names.get(import.position()),
        ) else {
            return Ok(Found::Awaited(false));
        };
        if let Some(problem) = &observed.problem {
            return Err(NotReady::Waiting(problem.clone(), false));
        }
        let digest = observed.verified.as_ref().map(|verified| {
            let view = ParentView { digest: verified.digest.as_str(), causes: &verified.causes };
            Found::Digest(view, verified.base_seen)
        });
        // What it was when this image was built last: behind that, its newest digest is taken even
        // if a newer one is on its way, so that a family that is rebuilt without a pause does not
        // keep others from ever being built.
        let taken = self.observed.verified.as_ref().and_then(|verified| {
            verified.inputs.parents.iter().find(|parent| parent.name == *name)
        });
        let behind = observed
            .verified
            .as_ref()
            .is_some_and(|verified| taken.is_some_and(|taken| verified.digest != taken.digest));
        match (&observed.state, digest) {
            (ImportState::Settled, Some(digest)) => Ok(digest),
            (ImportState::OnItsWay, Some(digest)) if behind => Ok(digest),
            (ImportState::OnItsWay, _) => Ok(Found::Awaited(true)),
            (ImportState::Failed { .. }, Some(digest))
                if self.image.on_parent_failure == OnParentFailure::UseLastGood =>
            {
                Ok(digest)
            }
            (ImportState::Failed { by }, _) => Err(NotReady::Blocked(by.clone())),
            (ImportState::Settled, None) => Ok(Found::Awaited(false)),
        }
    }

    /// Every input of a build, if the parents are ready to be built from.
    pub(in crate::engine) fn known(&self, parents: &Parents<'_>) -> Result<Known, NotReady> {
        let (source, remembered) = self.source()?;
        let strategy =
            known(&self.observed.strategy, "the build strategy is being looked up")?.to_owned();
        match parents.unready {
            Some(Unready::Unchecked(parent, on_its_way)) => {
                return Err(waiting(&[(parent, on_its_way)]));
            }
            Some(Unready::Blocked(by)) => return Err(NotReady::Blocked(by.into())),
            None => {}
        }
        let inputs = Inputs {
            parents: parents
                .views
                .iter()
                .enumerate()
                .map(|(place, parent)| ParentDigest {
                    name: self.parent_name(place).into(),
                    digest: parent.digest.into(),
                })
                .collect(),
            source: source.into(),
            spec: self.blueprint.spec_hash.clone(),
            strategy,
            nonce: self.nonce().unwrap_or_default().into(),
        };
        let pinned = self.image.from.iter().zip(&parents.views).enumerate().map(
            |(place, (edge, parent))| {
                let repository = self.parent_repository(place);
                let imported = edge.family.is_some() && edge.reference.is_none();
                let reference = if imported {
                    format!("{repository}:latest")
                } else {
                    self.blueprint.references.get(place).cloned().unwrap_or_default()
                };
                PinnedParent {
                    edge: edge.clone(),
                    repository: repository.into(),
                    reference,
                    digest: parent.digest.into(),
                }
            },
        );
        Ok(Known { inputs, parents: pinned.collect(), remembered })
    }

    /// Whether the last good build was made from just these inputs. A source that is still being
    /// looked up counts as unchanged where the image was current, and its tags were not about to
    /// move: one on its way to something newer must not fall back.
    pub(in crate::engine) fn unchanged(
        &self,
        verified: &VerifiedBuild,
        parents: &Parents<'_>,
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
            && last.parents.len() == parents.views.len()
            && last.parents.iter().zip(&parents.views).all(|(last, now)| last.digest == now.digest)
            && same(&self.observed.source, &last.source)
            && matches!(&self.observed.strategy, Observed::Known(now) if *now == last.strategy)
            && last.nonce == self.nonce().unwrap_or_default()
    }

    /// The causes of the parents' digests, in the order of `from`.
    pub(in crate::engine) fn roots<'p>(
        parents: &'p Parents<'_>,
    ) -> impl Iterator<Item = &'p [Cause]> {
        parents.views.iter().map(|parent| parent.causes)
    }

    /// A parent as causes and messages name it, by its place in `from`.
    fn parent_name(&self, place: usize) -> &'a str {
        match self.context.input.lineage().parents(self.index).get(place) {
            Some(Parent::Import(import)) => self
                .context
                .input
                .blueprint
                .import_names
                .get(import.position())
                .map_or("", String::as_str),
            _ => self.image.from.get(place).map_or("", Edge::parent),
        }
    }

    /// The repository of a parent, by its place in `from`.
    fn parent_repository(&self, place: usize) -> &'a str {
        let input = self.context.input;
        let repository =
            self.context.input.lineage().parents(self.index).get(place).and_then(|parent| {
                match *parent {
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
                }
            });
        repository.map_or("", String::as_str)
    }

    /// The source's revision, and whether it is only remembered: after a restart, a revision that
    /// is asked for over the network is not known for a moment, and what is current must not look
    /// stale for that.
    fn source(&self) -> Result<(&str, bool), NotReady> {
        match (&self.observed.source, &self.observed.verified) {
            (Observed::Pending, Some(verified)) => Ok((&verified.inputs.source, true)),
            (observed, _) => Ok((known(observed, "the source is being looked up")?, false)),
        }
    }

    fn upstream<'w>(&self, index: UpstreamIndex) -> Result<Found<'w>, NotReady>
    where
        'a: 'w,
    {
        let status = self.context.upstreams.get(index.position());
        if let Some(adopted) = status.and_then(|status| status.adopted.as_ref()) {
            let view = ParentView { digest: &adopted.digest, causes: &[] };
            return Ok(Found::Digest(view, adopted.first_seen));
        }
        let why = status.and_then(|status| status.message.as_deref()).unwrap_or(
            "its digest is \
            being looked up",
        );
        // What the status says in its own reason, as the constant that it is.
        let told = status.and_then(|status| status.reason.as_deref());
        let problem = self
            .context
            .input
            .upstreams
            .get(index.position())
            .and_then(|observed| observed.problem.as_ref());
        let reason = [reason::HELD, reason::PLATFORM_MISSING]
            .into_iter()
            .chain(problem.map(|problem| problem.reason))
            .find(|reason| Some(*reason) == told)
            .unwrap_or(reason::RESOLVING);
        let name = self
            .context
            .input
            .spec
            .upstreams
            .get(index.position())
            .map_or("", |upstream| upstream.name.as_str());
        let message = format!("upstream {name}: {why}");
        Err(NotReady::Waiting(Problem { reason, message }, reason == reason::RESOLVING))
    }
}

fn waiting(awaited: &[(&str, bool)]) -> NotReady {
    let names: Vec<&str> = awaited.iter().map(|(name, _)| *name).take(MAX_NAMES).collect();
    let message = format!("waiting for {}", names.join(", "));
    let on_its_way = awaited.iter().any(|(_, on_its_way)| *on_its_way);
    NotReady::Waiting(Problem { reason: reason::WAITING_FOR_PARENT, message }, on_its_way)
}

fn known<'s>(observed: &'s Observed<String>, pending: &str) -> Result<&'s str, NotReady> {
    match observed {
        Observed::Known(value) => Ok(value),
        Observed::Pending => Err(NotReady::Waiting(
            Problem { reason: reason::RESOLVING, message: pending.into() },
            true,
        )),
        Observed::Failed(problem) => Err(NotReady::Waiting(problem.clone(), false)),
    }
}

/// The failed image at or above a parent.
fn failed_ancestor<'d>(edge: &'d Edge, parent: &'d ImageDecision) -> Option<&'d str> {
    match parent.state {
        ImageState::Failed => Some(edge.parent()),
        ImageState::Blocked => parent.blocked_by.as_deref(),
        _ => None,
    }
}
