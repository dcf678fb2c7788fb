//! Rollbacks: which earlier builds images go back to, and for how long they are held there.
//!
//! A rollback is planned as a whole while it is new. If a build is not recorded, or the registry
//! does not have it any more, it is refused before anything moves. Once it has effect, it holds the
//! images that its status lists, whatever happens to their records.

use std::collections::BTreeMap;

use crate::{
    api::{
        BuildRecord, Edge, HoldTarget, ManagedImageStatus, ManualHold, ParentDigest, Request,
        RequestScope, RequestState, RequestedAction, RollbackRecord, RolledBackImage,
    },
    engine::{
        causes::describe_build,
        decision::Effect,
        input::{DecideInput, DigestResult, ObservedRequest},
        requests::{
            AppliedRequest, RequestAnswer, RequestEffect, RequestEffects,
            apply::{Applied, find_image, images_of, is_active},
        },
    },
    identity::ImageDigest,
    lineage::{ImageIndex, Parent},
};

/// Upper bound on the images and builds that a message names.
const MAX_NAMES: usize = 10;

/// What a request asks for.
#[derive(Clone, Copy)]
pub(super) struct AskedRollback<'a> {
    pub(super) scope: &'a RequestScope,
    /// The digest of the image that is named.
    pub(super) digest: &'a str,
    /// Whether workloads go back as well.
    pub(super) rollout: bool,
}

/// An image that is rolled back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RollbackTarget {
    image: RolledBackImage,
    /// The image in the spec; none if the family does not have it any more.
    index: Option<ImageIndex>,
}

impl RequestEffects {
    /// Rolls images back. Returns why not if the request is new and cannot be carried out.
    pub(super) fn roll_back(
        &mut self,
        input: &DecideInput<'_>,
        observed: &ObservedRequest,
        request: &Request,
        asked: AskedRollback<'_>,
    ) -> Applied {
        let targets: Vec<RollbackTarget> = if is_active(observed) {
            observed.rollbacks.iter().map(|image| RollbackTarget::of(input, image)).collect()
        } else {
            let planned = RollbackPlan::of(input, asked)?;
            self.find_digests(input, &planned)?;
            planned
        };
        self.withdraw_rollbacks(&targets, request);
        for RollbackTarget { image, .. } in &targets {
            let target = HoldTarget::Image(image.image.clone());
            self.end_holds(&target, RequestState::Superseded, request);
        }
        for target in &targets {
            self.override_images(target.index.as_slice(), |_, overrides| {
                overrides.hold = Some(ManualHold {
                    reason: request.reason.clone(),
                    by: request.by.clone(),
                    request: request.name.clone(),
                    since: Some(request.created),
                    ..ManualHold::default()
                });
                overrides.rollback =
                    Some(RollbackRecord { rollout: asked.rollout, ..target.record() });
            });
        }
        let mut message = describe(&targets);
        if input.spec.suspend {
            message.push_str("; its tags move when the family is resumed");
        }
        let images = Some(targets.len());
        Ok(RequestEffect { images, rollbacks: targets, ..RequestEffect::lasting(message) })
    }

    /// Asks the registry for the digests of a rollback. Returns what it waits for, or that the
    /// registry does not have one of them.
    fn find_digests(
        &mut self,
        input: &DecideInput<'_>,
        targets: &[RollbackTarget],
    ) -> Result<(), RequestAnswer> {
        let mut waits = None;
        for RollbackTarget { image, index } in targets {
            let Some(index) = *index else { continue };
            let digest = ImageDigest::from(&image.digest);
            let known = input.images.get(index.position());
            let known = known.and_then(|known| known.rollback_target.as_ref());
            match known.filter(|known| known.digest == digest).map(|known| &known.result) {
                Some(DigestResult::Present) => {}
                Some(DigestResult::Absent) => {
                    return Err(RequestAnswer::from(format!(
                        "the registry does not have {} of {} any more; nothing was moved",
                        digest, image.image
                    )));
                }
                Some(DigestResult::Failed(problem, ask_at)) if *ask_at > self.now => {
                    self.ask_at = [self.ask_at, Some(*ask_at)].into_iter().flatten().min();
                    waits = Some(format!("waits for a registry: {}", problem.message));
                }
                Some(DigestResult::Failed(..)) | None => {
                    self.lookups.push(Effect::FindDigest { image: index, digest });
                    waits.get_or_insert_with(|| "the registry is asked for the build".into());
                }
            }
        }
        waits.map_or(Ok(()), |why| Err(RequestAnswer::new(RequestState::Waiting, why)))
    }

    /// A later request rolls these images back: earlier ones do not hold them any more.
    fn withdraw_rollbacks(&mut self, targets: &[RollbackTarget], later: &Request) {
        let is_taken = |known: &RollbackTarget| {
            targets.iter().any(|target| target.image.image == known.image.image)
        };
        let message = format!("the rollback of the request {} applies", later.name);
        let answer = RequestAnswer::new(RequestState::Superseded, message);
        self.release(&answer, |_| ReleaseScope::Images, is_taken);
    }

    /// Ends what earlier requests hold of an image at an earlier build: with the image that a
    /// request names, everything that it has rolled back. Returns whether there was anything.
    pub(super) fn end_rollbacks(&mut self, image: &str, later: &Request) -> bool {
        let names = |request: &Request| match &request.action {
            RequestedAction::Rollback { scope, .. } => match scope {
                RequestScope::Image(name) | RequestScope::Subtree(name) => name == image,
                RequestScope::Family => false,
            },
            _ => false,
        };
        let message = format!("the request {} has ended the rollback", later.name);
        let answer = RequestAnswer::new(RequestState::Done, message);
        let of_request = |request: &Request| {
            if names(request) { ReleaseScope::Request } else { ReleaseScope::Images }
        };
        self.release(&answer, of_request, |target| target.image.image == image)
    }

    /// Releases images that earlier requests hold at earlier builds. A request that holds none any
    /// more gets the answer, also if it was not carried out yet. Returns whether anything was held.
    fn release(
        &mut self,
        answer: &RequestAnswer,
        of_request: impl Fn(&Request) -> ReleaseScope,
        is_released: impl Fn(&RollbackTarget) -> bool,
    ) -> bool {
        let mut released: Vec<ImageIndex> = Vec::new();
        let mut any = false;
        for AppliedRequest { observed, effect } in &mut self.applied {
            let Ok(request) = &observed.request else { continue };
            if !matches!(request.action, RequestedAction::Rollback { .. }) {
                continue;
            }
            let is_all = of_request(request) == ReleaseScope::Request;
            match effect {
                Ok(effect) if effect.replaced.is_none() => {
                    let gone =
                        effect.rollbacks.extract_if(.., |target| is_all || is_released(target));
                    let gone: Vec<RollbackTarget> = gone.collect();
                    any |= !gone.is_empty();
                    released.extend(gone.iter().filter_map(|target| target.index));
                    if effect.rollbacks.is_empty() {
                        effect.replaced = Some(answer.clone());
                    } else if !gone.is_empty() {
                        effect.images = Some(effect.rollbacks.len());
                        effect.message = describe(&effect.rollbacks);
                    }
                }
                // It waits for the registry.
                Err(waiting) if waiting.state == RequestState::Waiting && is_all => {
                    *waiting = RequestAnswer {
                        state: RequestState::Superseded,
                        message: answer.message.clone(),
                    };
                    any = true;
                }
                Ok(_) | Err(_) => {}
            }
        }
        self.override_images(&released, |_, overrides| {
            (overrides.hold, overrides.rollback) = (None, None);
        });
        any
    }

    /// Returns the name of the request that has rolled an image back.
    pub(super) fn rolled_back_by(&self, image: ImageIndex) -> Option<&str> {
        let overrides = self.of(image)?;
        overrides.rollback.as_ref()?;
        overrides.hold.as_ref().map(|hold| hold.request.as_str())
    }
}

/// What of a request is released.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReleaseScope {
    /// Everything that it holds.
    Request,
    /// Single images.
    Images,
}

impl RequestEffect {
    /// Returns the images that are held at earlier builds, for the status of the request.
    pub(super) fn rolled_back(&self) -> Vec<RolledBackImage> {
        self.rollbacks.iter().map(|target| target.image.clone()).collect()
    }
}

impl RollbackTarget {
    fn of(input: &DecideInput<'_>, image: &RolledBackImage) -> Self {
        Self { image: image.clone(), index: find_image(input, &image.image).ok() }
    }

    /// Returns the build that the image goes back to, without its workloads.
    fn record(&self) -> RollbackRecord {
        let RolledBackImage { digest, build, .. } = self.image.clone();
        RollbackRecord { digest, build, rollout: false }
    }
}

/// A rollback that is planned: the images that have a build to go back to.
struct RollbackPlan<'a> {
    input: &'a DecideInput<'a>,
    targets: BTreeMap<ImageIndex, RollbackTarget>,
}

impl<'a> RollbackPlan<'a> {
    /// Returns the images that a request rolls back, each with its build.
    fn of(
        input: &'a DecideInput<'a>,
        asked: AskedRollback<'_>,
    ) -> Result<Vec<RollbackTarget>, RequestAnswer> {
        let (RequestScope::Image(name) | RequestScope::Subtree(name)) = asked.scope else {
            return Err("a rollback needs an image".to_owned().into());
        };
        let first = find_image(input, name)?;
        let mut plan = Self { input, targets: BTreeMap::new() };
        let build = plan.build_with(first, asked.digest)?;
        plan.add(first, build);
        let scope = images_of(input, asked.scope)?;
        let mut without = Vec::new();
        for &index in input.lineage().order() {
            let is_below = index != first && scope.binary_search(&index).is_ok();
            // An image without a build has nothing to go back from.
            let is_built = plan.record(index).is_some_and(|record| record.digest.is_some());
            if !is_below || !is_built {
                continue;
            }
            match plan.build_on_targets(index) {
                Some(build) => plan.add(index, build),
                None => without.push(plan.name(index)),
            }
        }
        if !without.is_empty() {
            return Err(describe_missing(&without).into());
        }
        plan.refuse_adopted()?;
        Ok(plan.targets.into_values().collect())
    }

    fn add(&mut self, index: ImageIndex, build: KnownBuild<'_>) {
        let image = RolledBackImage {
            image: self.name(index).into(),
            digest: build.digest.into(),
            build: build.build,
        };
        self.targets.insert(index, RollbackTarget { image, index: Some(index) });
    }

    fn name(&self, index: ImageIndex) -> &'a str {
        self.input.spec.images.get(index.position()).map_or("", |image| image.name.as_str())
    }

    fn record(&self, index: ImageIndex) -> Option<&'a ManagedImageStatus> {
        self.input.images.get(index.position())?.record
    }

    /// Returns the recorded builds of an image that have a digest, newest first.
    fn builds(&self, index: ImageIndex) -> impl Iterator<Item = KnownBuild<'a>> + use<'a> {
        let record = self.record(index);
        let current = record.and_then(KnownBuild::current);
        let history = record.map_or(&[][..], |record| &record.history);
        current.into_iter().chain(history.iter().filter_map(KnownBuild::of))
    }

    /// Returns the recorded build of an image with this digest.
    fn build_with(&self, index: ImageIndex, digest: &str) -> Result<KnownBuild<'a>, RequestAnswer> {
        if let Some(found) = self.builds(index).find(|build| build.digest == digest) {
            return Ok(found);
        }
        let mut known: Vec<String> = Vec::new();
        for build in self.builds(index) {
            let shown = build.describe();
            if !known.contains(&shown) && known.len() < MAX_NAMES {
                known.push(shown);
            }
        }
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        let name = self.name(index);
        Err(format!("{name} has no recorded build with the digest {digest}; it has {known}").into())
    }

    /// Returns the newest build of an image that was made from the builds that its parents go back
    /// to.
    fn build_on_targets(&self, index: ImageIndex) -> Option<KnownBuild<'a>> {
        let image = self.input.spec.images.get(index.position())?;
        let edges = image.from.iter().zip(self.input.lineage().parents(index));
        let wanted: Vec<(&Edge, &RollbackTarget)> = edges
            .filter_map(|(edge, parent)| match parent {
                Parent::Image(parent) => Some((edge, self.targets.get(parent)?)),
                Parent::Upstream(_) | Parent::Import(_) => None,
            })
            .collect();
        self.builds(index).find(|build| {
            wanted.iter().all(|(edge, target)| {
                let mut parents = build.parents.iter();
                parents.any(|parent| {
                    parent.name == edge.parent() && parent.digest == target.image.digest
                })
            })
        })
    }

    /// Refuses to move the tags of an image whose digest was adopted: whoever has moved them there
    /// goes first.
    fn refuse_adopted(&self) -> Result<(), RequestAnswer> {
        let is_adopted = |index: &&ImageIndex| {
            self.record(**index).is_some_and(|record| record.adopted.is_some())
        };
        let Some(adopted) = self.targets.keys().find(is_adopted) else { return Ok(()) };
        Err(format!(
            "the digest of {} was adopted from the registry and not built, so that no tag of it is \
             moved: move the tags back in the registry",
            self.name(*adopted)
        )
        .into())
    }
}

/// A recorded build that has a digest.
#[derive(Clone, Copy)]
struct KnownBuild<'a> {
    digest: &'a str,
    build: Option<i64>,
    parents: &'a [ParentDigest],
}

impl<'a> KnownBuild<'a> {
    /// Returns the last verified build.
    fn current(record: &'a ManagedImageStatus) -> Option<Self> {
        let digest = record.digest.as_deref()?;
        let parents = record.inputs.as_ref().map_or(&[][..], |inputs| &inputs.parents);
        Some(Self { digest, build: record.build, parents })
    }

    fn of(record: &'a BuildRecord) -> Option<Self> {
        let BuildRecord { digest, build, parents, .. } = record;
        (!digest.is_empty()).then_some(Self { digest, build: *build, parents })
    }

    fn describe(&self) -> String {
        let (digest, build) = (self.digest.to_owned(), self.build);
        describe_build(&RollbackRecord { digest, build, rollout: false })
    }
}

/// Describes what is rolled back.
fn describe(targets: &[RollbackTarget]) -> String {
    match targets {
        [only] => {
            let build = describe_build(&only.record());
            format!("{} is rolled back to {build} and held there", only.image.image)
        }
        all => format!("{} images are rolled back and held there", all.len()),
    }
}

fn describe_missing(without: &[&str]) -> String {
    let names: Vec<&str> = without.iter().copied().take(MAX_NAMES).collect();
    let more = without.len().saturating_sub(names.len());
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!(
        "no recorded build of {}{more} was made from what the parents go back to, so that nothing \
         was moved: choose another build, or roll images back one by one, without `subtree`",
        names.join(", ")
    )
}
