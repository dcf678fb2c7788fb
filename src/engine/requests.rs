//! Requests of people: what they change, and what is recorded of them. The acts themselves are read
//! in [`crate::api::request`].
//!
//! A request is handled in the pass that records its outcome. Until then every pass carries it out
//! again, so that each act comes to the same however often it is done; a crash in between loses
//! nothing.

use jiff::Timestamp;

use crate::{
    api::{
        Act, ApprovalRecord, HandledRequest, ImageState, ManualHold, Request, RequestOutcome,
        RequestScope, UpstreamStatus, condition::reason,
    },
    engine::{
        causes::short,
        decision::{CascadeStep, ImageDecision},
        image::failure,
        input::{DecideInput, Target},
    },
    lineage::{ImageIndex, Lineage, UpstreamIndex},
};

/// What the requests of this pass want.
#[derive(Clone, Debug, Default)]
pub struct RequestEffects {
    /// The upstreams as recorded, with holds and approvals as asked for.
    pub upstreams: Vec<UpstreamStatus>,
    /// The images, as `spec.images`; empty if there is no request.
    pub images: Vec<ImageOverrides>,
    /// Images for which a cascade is to begin without the quiet time.
    pub start: Vec<ImageIndex>,
    taken: Vec<AcceptedRequest>,
}

/// A request, and what it comes to as far as it can be told before the images are looked at.
#[derive(Clone, Debug)]
struct AcceptedRequest {
    target: Target,
    request: Result<Request, HandledRequest>,
    outcome: Result<Effect, String>,
}

/// What a request brings about.
#[derive(Clone, Debug, Default)]
struct Effect {
    /// In words.
    told: String,
    /// The images that are to start without the quiet time.
    starts: Vec<ImageIndex>,
    /// Whether that is what has changed, rather than these images themselves.
    takes_up: bool,
    /// The images whose builds are cancelled.
    cancels: Vec<ImageIndex>,
}

/// What requests want of one image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageOverrides {
    /// The hold to be recorded from now on; the inner `None` ends one.
    pub hold: Option<Option<ManualHold>>,
    /// The nonce from now on.
    pub nonce: Option<String>,
    /// The request by which its failures are forgotten.
    pub retry: Option<String>,
    /// Its builds and checks are stopped, and not tried again at this fingerprint.
    pub cancel: bool,
}

/// Reads the requests.
#[must_use]
pub fn read(input: &DecideInput<'_>, now: Timestamp) -> RequestEffects {
    let mut effects =
        RequestEffects { upstreams: input.status.upstreams.clone(), ..RequestEffects::default() };
    if input.requests.is_empty() {
        return effects;
    }
    effects.images = vec![ImageOverrides::default(); input.spec.images.len()];
    for observed in &input.requests {
        let outcome = match &observed.request {
            Ok(request) => effects.take(input, request, now),
            Err(unreadable) => Err(unreadable.message.clone()),
        };
        if let Ok(done) = &outcome {
            effects.start.extend(&done.starts);
        }
        effects.taken.push(AcceptedRequest {
            target: observed.target,
            request: observed.request.clone(),
            outcome,
        });
    }
    effects
}

/// What a pass has come to, as far as requests are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// What becomes of the cascade.
    pub cascade: &'a CascadeStep,
    /// Whether builds would start but for windows, `suspend`, or another cascade of this second.
    pub gated: bool,
    /// The upstreams as they are to be recorded.
    pub upstreams: &'a [UpstreamStatus],
    /// The images, as `spec.images`.
    pub images: &'a [ImageDecision],
}

impl Outcome<'_> {
    /// Whether what a request starts is not on its way yet, so that the request is looked at again:
    /// as long as something keeps builds from starting; while the registry is asked what there is
    /// to do; and, where what has changed is to be started, until the cascade begins that takes it
    /// up.
    fn delays(&self, input: &DecideInput<'_>, done: &Effect) -> bool {
        let mut images = done.starts.iter().filter_map(|image| self.images.get(image.position()));
        match self.cascade {
            _ if done.starts.is_empty() => false,
            _ if self.gated => true,
            CascadeStep::Close { superseded: true, .. } => true,
            CascadeStep::None => {
                images.any(is_awaited) || done.takes_up && self.has_candidate(input, &done.starts)
            }
            // What is stale in the family is on its way in the cascade, but for what it leaves to
            // the next one.
            CascadeStep::Open { .. } | CascadeStep::Running { .. } | CascadeStep::Close { .. } => {
                done.takes_up
                    && (images.any(|image| image.reason == reason::NEXT_CASCADE)
                        || self.has_candidate(input, &done.starts))
            }
        }
    }

    /// Whether any of these images stands on an upstream with a candidate that may be used, as far
    /// as can be seen now.
    fn has_candidate(&self, input: &DecideInput<'_>, images: &[ImageIndex]) -> bool {
        let unanswered = [reason::RESOLVING, reason::REGISTRY_UNAVAILABLE];
        let waits = |upstream: &UpstreamStatus| {
            upstream.candidate.is_some()
                && upstream.reason.as_deref().is_none_or(|reason| unanswered.contains(&reason))
        };
        let waiting =
            UpstreamIndex::enumerate(self.upstreams).filter(|(_, upstream)| waits(upstream));
        let children =
            waiting.flat_map(|(index, _)| input.lineage().upstream_children(index).iter().copied());
        let below = input.lineage().with_descendants(children);
        images.iter().any(|image| below.get(image.position()) == Some(&true))
    }
}

/// Whether it is not known yet what there is to do for an image, and soon will be.
fn is_awaited(image: &ImageDecision) -> bool {
    image.in_progress
        && match image.state {
            ImageState::Waiting => true,
            ImageState::Checking => ![reason::CHECKING, reason::RETRYING].contains(&image.reason),
            _ => false,
        }
}

impl RequestEffects {
    /// The requests that are done with, each with what is recorded of it.
    ///
    /// One that starts something is done with when that is ready, runs, or is current. In the pass
    /// that opens a cascade the images are not recorded, and with them not what requests have
    /// changed of them.
    #[must_use]
    pub fn handled(
        &self,
        input: &DecideInput<'_>,
        outcome: &Outcome<'_>,
        now: Timestamp,
    ) -> Vec<(Target, HandledRequest)> {
        if matches!(outcome.cascade, CascadeStep::Open { .. }) {
            return Vec::new();
        }
        let of = |index: &ImageIndex| outcome.images.get(index.position());
        // A build of what the image wanted before is stopped, too.
        let cancelled = |image: &ImageDecision| {
            image.running.is_some() || image.failure.as_deref().is_some_and(failure::is_cancelled)
        };
        let delayed = |taken: &&AcceptedRequest| {
            taken.outcome.as_ref().is_ok_and(|done| outcome.delays(input, done))
        };
        let record = |taken: &AcceptedRequest| {
            let handled = match (&taken.request, &taken.outcome) {
                (Err(unreadable), _) => unreadable.clone(),
                (Ok(request), Err(refused)) => {
                    request.handled(RequestOutcome::Refused, refused, now)
                }
                (Ok(request), Ok(done))
                    if !done.cancels.is_empty()
                        && !done.cancels.iter().filter_map(of).any(cancelled) =>
                {
                    let refused = "nothing of it is built or is to be built now, so that there is \
                                   nothing to cancel";
                    request.handled(RequestOutcome::Refused, refused, now)
                }
                (Ok(request), Ok(done)) => request.handled(RequestOutcome::Done, &done.told, now),
            };
            (taken.target, handled)
        };
        self.taken.iter().filter(|taken| !delayed(taken)).map(record).collect()
    }

    /// What requests want of an image.
    #[must_use]
    pub fn of(&self, image: ImageIndex) -> Option<&ImageOverrides> {
        self.images.get(image.position())
    }

    fn take(
        &mut self,
        input: &DecideInput<'_>,
        request: &Request,
        now: Timestamp,
    ) -> Result<Effect, String> {
        let told_only = |told: String| Effect { told, ..Effect::default() };
        let by = request.by.clone();
        match &request.act {
            Act::Trigger(scope) => {
                let starts = within(input, scope)?;
                let told = format!(
                    "what is stale of {} starts without the quiet time",
                    told(scope, starts.len())
                );
                Ok(Effect { told, starts, takes_up: true, ..Effect::default() })
            }
            Act::Retry(scope) => {
                let starts =
                    self.each(input, scope, |wish| wish.retry = Some(request.id.clone()))?;
                let told = format!("the failures of {} are forgotten", told(scope, starts.len()));
                Ok(Effect { told, starts, ..Effect::default() })
            }
            Act::Cancel(scope) => {
                let cancels = self.each(input, scope, |wish| wish.cancel = true)?;
                let told = told(scope, cancels.len());
                let told = format!(
                    "what is not built yet of {told} is cancelled until an input \
                                    changes or a retry"
                );
                Ok(Effect { told, cancels, ..Effect::default() })
            }
            Act::Force(scope) => {
                let starts =
                    self.each(input, scope, |wish| wish.nonce = Some(request.id.clone()))?;
                let told = format!("{} is rebuilt", told(scope, starts.len()));
                Ok(Effect { told, starts, ..Effect::default() })
            }
            Act::HoldImage { image, until, reason } => {
                ended(*until, now)?;
                let hold = ManualHold {
                    digest: None,
                    until: *until,
                    reason: reason.clone(),
                    by,
                    since: Some(now),
                };
                let index = place(input, image)?;
                // Carried out again before it is recorded, it must come to the same.
                let known = input
                    .images
                    .get(index.position())
                    .and_then(|observed| observed.record?.hold.clone());
                let hold = known.filter(|known| same(known, &hold)).unwrap_or(hold);
                self.each(input, &RequestScope::Image(image.clone()), |wish| {
                    wish.hold = Some(Some(hold.clone()));
                })?;
                Ok(told_only(format!("{image} stays where it is")))
            }
            Act::UnholdImage { image } => {
                let index = place(input, image)?;
                let manual = input.images.get(index.position()).is_some_and(|observed| {
                    observed.record.is_some_and(|record| record.hold.is_some())
                });
                self.each(input, &RequestScope::Image(image.clone()), |wish| {
                    wish.hold = Some(None)
                })?;
                let of_spec = input
                    .spec
                    .images
                    .get(index.position())
                    .is_some_and(|image| image.hold.is_some());
                Ok(told_only(match (manual, of_spec) {
                    (_, true) => format!(
                        "{image} stays held by the manifest: take \
                        spec.images[{image}].hold out"
                    ),
                    (true, false) => format!("the hold of {image} has ended"),
                    (false, false) => format!("{image} was not held"),
                }))
            }
            Act::HoldUpstream { upstream, digest, until, reason } => {
                ended(*until, now)?;
                let hold = ManualHold {
                    digest: digest.clone(),
                    until: *until,
                    reason: reason.clone(),
                    by,
                    since: Some(now),
                };
                let status = self.upstream(input, upstream)?;
                if status.adopted.is_none() && hold.digest.is_none() {
                    return Err(format!(
                        "no digest of {upstream} is in use yet: name the one to hold it at in \
                         `digest`"
                    ));
                }
                if !status.hold.as_ref().is_some_and(|known| same(known, &hold)) {
                    status.hold = Some(hold);
                }
                Ok(told_only(format!("{upstream} stays where it is")))
            }
            Act::UnholdUpstream { upstream } => {
                let of_spec = input
                    .spec
                    .upstreams
                    .iter()
                    .any(|known| known.name == *upstream && known.hold.is_some());
                let status = self.upstream(input, upstream)?;
                let manual = status.hold.take().is_some();
                Ok(told_only(match (manual, of_spec) {
                    (_, true) => {
                        format!(
                            "{upstream} stays held by the manifest: take \
                                 spec.upstreams[{upstream}].hold out"
                        )
                    }
                    (true, false) => format!("the hold of {upstream} has ended"),
                    (false, false) => format!("{upstream} was not held"),
                }))
            }
            Act::Approve { upstream, digest } => {
                self.approve(input, upstream, digest, by, now).map(told_only)
            }
        }
    }

    fn approve(
        &mut self,
        input: &DecideInput<'_>,
        upstream: &str,
        digest: &str,
        by: Option<String>,
        now: Timestamp,
    ) -> Result<String, String> {
        let index = input.spec.upstreams.iter().position(|known| known.name == upstream);
        let newest = index
            .and_then(|index| input.upstreams.get(index)?.newest.as_ref())
            .map(|newest| newest.digest.to_string());
        let status = self.upstream(input, upstream)?;
        if status.adopted.as_ref().is_some_and(|adopted| adopted.digest == digest) {
            return Ok(format!("{} is in use", short(digest)));
        }
        let candidate =
            newest.or_else(|| status.candidate.as_ref().map(|candidate| candidate.digest.clone()));
        if candidate.as_deref() != Some(digest) {
            let candidate = candidate
                .as_deref()
                .map_or("there is none".to_owned(), |candidate| format!("it is {candidate}"));
            return Err(format!(
                "{digest} is not the candidate of {upstream} any more: {candidate}"
            ));
        }
        if status.approval.as_ref().is_none_or(|known| known.digest != digest) {
            status.approval = Some(ApprovalRecord { digest: digest.into(), by, at: Some(now) });
        }
        Ok(format!("{} may be used", short(digest)))
    }

    fn upstream(
        &mut self,
        input: &DecideInput<'_>,
        name: &str,
    ) -> Result<&mut UpstreamStatus, String> {
        if !input.spec.upstreams.iter().any(|upstream| upstream.name == name) {
            return Err(format!("the family has no upstream `{name}`"));
        }
        let known = self.upstreams.iter().position(|status| status.name == name);
        let place = known.unwrap_or_else(|| {
            let reference = input.spec.upstreams.iter().find(|upstream| upstream.name == name);
            let reference = reference.map(crate::api::Upstream::reference).unwrap_or_default();
            self.upstreams.push(UpstreamStatus {
                name: name.into(),
                reference,
                ..UpstreamStatus::default()
            });
            self.upstreams.len() - 1
        });
        self.upstreams.get_mut(place).ok_or_else(|| format!("the family has no upstream `{name}`"))
    }

    fn each(
        &mut self,
        input: &DecideInput<'_>,
        scope: &RequestScope,
        wish: impl Fn(&mut ImageOverrides),
    ) -> Result<Vec<ImageIndex>, String> {
        let images = within(input, scope)?;
        for image in &images {
            if let Some(of_image) = self.images.get_mut(image.position()) {
                wish(of_image);
            }
        }
        Ok(images)
    }
}

/// Whether two holds say the same, whenever they were set.
fn same(a: &ManualHold, b: &ManualHold) -> bool {
    (&a.digest, a.until, &a.reason, &a.by) == (&b.digest, b.until, &b.reason, &b.by)
}

fn ended(until: Option<Timestamp>, now: Timestamp) -> Result<(), String> {
    match until {
        Some(until) if until <= now => Err(format!(
            "`until` is over: it was {until:.0}, and now it \
            is {now:.0}"
        )),
        _ => Ok(()),
    }
}

fn place(input: &DecideInput<'_>, image: &str) -> Result<ImageIndex, String> {
    input
        .spec
        .images
        .iter()
        .position(|known| known.name == image)
        .map(ImageIndex::new)
        .ok_or_else(|| format!("the family has no image `{image}`"))
}

fn within(input: &DecideInput<'_>, scope: &RequestScope) -> Result<Vec<ImageIndex>, String> {
    let lineage: &Lineage = input.lineage();
    Ok(match scope {
        RequestScope::Family => ImageIndex::range(input.spec.images.len()).collect(),
        RequestScope::Image(image) => vec![place(input, image)?],
        RequestScope::Subtree(image) => {
            let mask = lineage.with_descendants([place(input, image)?]);
            ImageIndex::enumerate(mask)
                .filter_map(|(index, inside)| inside.then_some(index))
                .collect()
        }
    })
}

fn told(scope: &RequestScope, images: usize) -> String {
    match scope {
        RequestScope::Family => "the family".into(),
        RequestScope::Image(image) => image.clone(),
        RequestScope::Subtree(image) => format!("{image} and what stands on it ({images} images)"),
    }
}
