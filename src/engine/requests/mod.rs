//! Requests of users: what they change, and what is recorded about them. [`crate::api::request`]
//! parses them; `apply` carries them out.
//!
//! A request is handled in the reconcile that records its outcome. Until then every reconcile
//! applies it again. Applying a request twice gives the same result, so that a crash in between
//! loses nothing.

mod apply;

use jiff::Timestamp;

use crate::{
    api::{
        HandledRequest, ImageState, ManualHold, Request, RequestOutcome, UpstreamStatus,
        condition::{ReasonTrait, reason},
    },
    engine::{
        cascade::members::CascadeMembers,
        decision::{CascadeDecision, ImageDecision},
        image::failure,
        input::{DecideInput, RequestObject},
    },
    lineage::{ImageIndex, UpstreamIndex},
};

/// What the requests of this reconcile change.
#[derive(Clone, Debug, Default)]
pub struct RequestEffects {
    /// The recorded upstreams, with the requested holds and approvals.
    pub upstreams: Vec<UpstreamStatus>,
    /// The images, parallel to `spec.images`; empty if there is no request.
    pub images: Vec<ImageOverrides>,
    /// The images for which a cascade starts without the quiet time, on the parents as they are.
    pub start: Vec<ImageIndex>,
    /// The images for which a cascade starts without the quiet time, with all pending changes.
    pub start_pending: Vec<ImageIndex>,
    accepted: Vec<AcceptedRequest>,
}

/// A request, and its effect as far as it is known before the images are evaluated.
#[derive(Clone, Debug)]
struct AcceptedRequest {
    target: RequestObject,
    request: Result<Request, HandledRequest>,
    /// The effect, or why the request is refused.
    effect: Result<RequestEffect, String>,
}

/// What a request brings about.
#[derive(Clone, Debug, Default)]
struct RequestEffect {
    /// The effect in a sentence for users.
    message: String,
    /// The images that start without the quiet time.
    starts: Vec<ImageIndex>,
    /// Whether the request starts pending changes, rather than changing the images itself.
    starts_pending: bool,
    /// The images whose builds are cancelled.
    cancels: Vec<ImageIndex>,
}

/// What requests change for one image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageOverrides {
    /// The change of the recorded hold.
    pub hold: Option<HoldChange>,
    /// The new nonce.
    pub nonce: Option<String>,
    /// The id of the request that resets the failures.
    pub retry: Option<String>,
    /// Whether builds and checks are stopped, and not retried at this fingerprint.
    pub cancel: bool,
}

/// What a request changes about the hold of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldChange {
    /// Sets a hold.
    Set(ManualHold),
    /// Ends the hold.
    End,
}

/// Reads the requests, and applies those that are accepted.
#[must_use]
pub fn read(input: &DecideInput<'_>, now: Timestamp) -> RequestEffects {
    let mut effects =
        RequestEffects { upstreams: input.status.upstreams.clone(), ..RequestEffects::default() };
    if input.requests.is_empty() {
        return effects;
    }
    effects.images = vec![ImageOverrides::default(); input.spec.images.len()];
    for observed in &input.requests {
        let effect = match &observed.request {
            Ok(request) => effects.apply(input, request, now),
            Err(unreadable) => Err(unreadable.message.clone()),
        };
        if let Ok(effect) = &effect {
            let starts =
                if effect.starts_pending { &mut effects.start_pending } else { &mut effects.start };
            starts.extend(&effect.starts);
        }
        effects.accepted.push(AcceptedRequest {
            target: observed.target,
            request: observed.request.clone(),
            effect,
        });
    }
    effects
}

/// The parts of a decision that say whether a request is handled.
#[derive(Clone, Copy, Debug)]
pub struct DecisionView<'a> {
    /// What happens to the cascades.
    pub cascade: &'a CascadeDecision,
    /// The running cascade of each image.
    pub members: &'a CascadeMembers,
    /// Whether builds would start except for windows, `suspend`, or another cascade of this second.
    pub gated: bool,
    /// The upstreams to record.
    pub upstreams: &'a [UpstreamStatus],
    /// The images, parallel to `spec.images`.
    pub images: &'a [ImageDecision],
}

impl DecisionView<'_> {
    /// Whether what a request starts is not in progress yet, so that the request stays unhandled:
    ///
    /// - as long as something prevents builds from starting;
    /// - while the registry is asked what is to be built;
    /// - for pending changes, until the cascade starts that picks them up.
    fn delays(&self, input: &DecideInput<'_>, effect: &RequestEffect) -> bool {
        if effect.starts.is_empty() {
            return false;
        }
        if self.gated {
            return true;
        }
        let images = || {
            let starts = effect.starts.iter();
            starts.filter_map(|image| Some((*image, self.images.get(image.position())?)))
        };
        let is_left = |effect: &RequestEffect| {
            let mut images = images();
            effect.starts_pending
                && (images.any(|(_, image)| image.reason == reason::NEXT_CASCADE)
                    || self.has_candidate(input, &effect.starts))
        };
        match self.cascade {
            CascadeDecision::Finish { ending } if ending.iter().any(|ending| ending.superseded) => {
                true
            }
            CascadeDecision::None => {
                images().any(|(_, image)| is_awaited(image))
                    || effect.starts_pending && self.has_candidate(input, &effect.starts)
            }
            // A running cascade builds every stale image that belongs to it, except those that it
            // leaves to the next one.
            CascadeDecision::Start { .. }
            | CascadeDecision::Continue
            | CascadeDecision::Finish { .. } => {
                images().any(|(index, image)| self.waits_to_start(index, image)) || is_left(effect)
            }
        }
    }

    /// Whether an image belongs to no running cascade, and one is about to start for it.
    fn waits_to_start(&self, index: ImageIndex, image: &ImageDecision) -> bool {
        self.members.position_of(index).is_none()
            && (is_awaited(image) || image.state == ImageState::Queued)
    }

    /// Whether any of these images is built on an upstream with a candidate that may be adopted, as
    /// far as is known now.
    fn has_candidate(&self, input: &DecideInput<'_>, images: &[ImageIndex]) -> bool {
        let waits = |upstream: &UpstreamStatus| {
            upstream.candidate.is_some()
                && upstream
                    .reason
                    .as_deref()
                    .is_none_or(|reason| ReasonTrait::AwaitsRegistry.applies_to(reason))
        };
        let waiting =
            UpstreamIndex::enumerate(self.upstreams).filter(|(_, upstream)| waits(upstream));
        let children =
            waiting.flat_map(|(index, _)| input.lineage().upstream_children(index).iter().copied());
        let below = input.lineage().with_descendants(children);
        images.iter().any(|image| below.get(image.position()) == Some(&true))
    }
}

/// Whether it is unknown what an image needs, and will soon be known.
fn is_awaited(image: &ImageDecision) -> bool {
    image.in_progress
        && match image.state {
            ImageState::Waiting => true,
            // What a check waits for is known.
            ImageState::Checking => {
                [reason::VERIFYING, reason::REGISTRY_UNAVAILABLE].contains(&image.reason)
            }
            _ => false,
        }
}

impl RequestEffects {
    /// Returns the requests that this decision handles, each with its record.
    ///
    /// A request that starts something is handled when that is ready, runs, or is current. The
    /// reconcile that starts a cascade handles no request: it records no image, and so nothing that
    /// a request has changed about one.
    #[must_use]
    pub fn handled(
        &self,
        input: &DecideInput<'_>,
        decision: &DecisionView<'_>,
        now: Timestamp,
    ) -> Vec<(RequestObject, HandledRequest)> {
        if matches!(decision.cascade, CascadeDecision::Start { .. }) {
            return Vec::new();
        }
        let is_delayed = |accepted: &&AcceptedRequest| {
            accepted.effect.as_ref().is_ok_and(|effect| decision.delays(input, effect))
        };
        self.accepted
            .iter()
            .filter(|accepted| !is_delayed(accepted))
            .map(|accepted| (accepted.target, accepted.record(decision, now)))
            .collect()
    }

    /// Returns what requests change for an image.
    #[must_use]
    pub fn of(&self, image: ImageIndex) -> Option<&ImageOverrides> {
        self.images.get(image.position())
    }
}

impl AcceptedRequest {
    /// Returns the record of the request after this decision.
    fn record(&self, decision: &DecisionView<'_>, now: Timestamp) -> HandledRequest {
        match (&self.request, &self.effect) {
            (Err(unreadable), _) => unreadable.clone(),
            (Ok(request), Err(refused)) => request.handled(RequestOutcome::Refused, refused, now),
            (Ok(request), Ok(effect)) if effect.cancels_nothing(decision) => {
                let refused = "no image in scope has a running or planned build, so that there is \
                               nothing to cancel";
                request.handled(RequestOutcome::Refused, refused, now)
            }
            (Ok(request), Ok(effect)) => {
                request.handled(RequestOutcome::Done, &effect.message, now)
            }
        }
    }
}

impl RequestEffect {
    /// Whether the request cancels images of which nothing is built. A build for an earlier
    /// fingerprint of the image is stopped, too.
    fn cancels_nothing(&self, decision: &DecisionView<'_>) -> bool {
        let is_cancelled = |image: &ImageDecision| {
            image.running.is_some() || image.failure.as_deref().is_some_and(failure::is_cancelled)
        };
        let mut images =
            self.cancels.iter().filter_map(|image| decision.images.get(image.position()));
        !self.cancels.is_empty() && !images.any(is_cancelled)
    }
}
