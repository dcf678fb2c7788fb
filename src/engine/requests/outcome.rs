//! What happens to a request: whether it is done, or what it waits for and what would free it.

use crate::{
    api::{
        ImageState, RequestState, UpstreamStatus,
        condition::{Reason, ReasonTrait, shorten},
    },
    engine::{
        decision::{CascadeDecision, ImageDecision, RequestDecision},
        image::failure,
        input::DecideInput,
        members::CascadeMembers,
        requests::{AppliedRequest, RequestAnswer, RequestEffect, RequestEffects, StartKind},
    },
    lineage::{ImageIndex, UpstreamIndex},
};

/// Maximum length in characters of the message of an image that a waiting request quotes.
const MAX_QUOTE: usize = 200;

/// The parts of a decision that say what happens to a request.
#[derive(Clone, Copy, Debug)]
pub struct DecisionView<'a> {
    /// What happens to the cascades.
    pub cascade: &'a CascadeDecision,
    /// The running cascade of each image.
    pub members: &'a CascadeMembers,
    /// The gate because of which no build starts, if there is one, as a message for users.
    pub gate: Option<&'a str>,
    /// The upstreams to record.
    pub upstreams: &'a [UpstreamStatus],
    /// The images, parallel to `spec.images`.
    pub images: &'a [ImageDecision],
}

impl RequestEffects {
    /// Returns what happens to the requests.
    ///
    /// A request that starts something is done when that is ready, runs, or is current. The
    /// reconcile that starts a cascade decides about no request: it records no image, and so
    /// nothing that a request has changed about one.
    #[must_use]
    pub fn decisions(
        &self,
        input: &DecideInput<'_>,
        decision: &DecisionView<'_>,
    ) -> Vec<RequestDecision> {
        if matches!(decision.cascade, CascadeDecision::Start { .. }) {
            return Vec::new();
        }
        self.applied.iter().map(|applied| applied.decision(input, decision)).collect()
    }
}

impl AppliedRequest {
    fn decision(&self, input: &DecideInput<'_>, decision: &DecisionView<'_>) -> RequestDecision {
        let RequestAnswer { state, message } = match &self.effect {
            Err(answer) => answer.clone(),
            Ok(effect) => effect.answer(input, decision),
        };
        let effect = self.effect.as_ref().ok();
        RequestDecision {
            name: self.observed.name.clone(),
            state,
            message,
            images: effect.and_then(|effect| effect.images),
            digest: match effect {
                Some(effect) => effect.digest.clone(),
                None => self.observed.digest.clone(),
            },
            reference: match effect {
                Some(effect) => effect.reference.clone(),
                None => self.observed.reference.clone(),
            },
            rollbacks: match effect {
                Some(effect) => effect.rolled_back(),
                None => self.observed.rollbacks.clone(),
            },
        }
    }
}

impl RequestEffect {
    fn answer(&self, input: &DecideInput<'_>, decision: &DecisionView<'_>) -> RequestAnswer {
        if let Some(replaced) = &self.replaced {
            return replaced.clone();
        }
        if self.cancels_nothing(decision) {
            return RequestAnswer::from(
                "no image in scope has a running or planned build, so that there is nothing to \
                 cancel"
                    .to_owned(),
            );
        }
        if let Some(message) = decision.wait(input, self) {
            return RequestAnswer::new(RequestState::Waiting, message);
        }
        let state = if self.lasts { RequestState::Active } else { RequestState::Done };
        RequestAnswer::new(state, self.message.clone())
    }

    /// Whether the request cancels images of which nothing is built. A build for an earlier
    /// fingerprint of the image is stopped, too.
    fn cancels_nothing(&self, decision: &DecisionView<'_>) -> bool {
        let is_cancelled = |image: &ImageDecision| {
            image.running.is_some() || image.failure.as_deref().is_some_and(failure::is_cancelled)
        };
        let mut images =
            self.cancels.iter().filter_map(|image| decision.images.get(image.position()));
        !self.cancels.is_empty() && !self.withdraws_starts && !images.any(is_cancelled)
    }
}

impl DecisionView<'_> {
    /// Returns what a request that starts something waits for, if that is not in progress yet:
    ///
    /// - as long as something prevents builds from starting;
    /// - while the registry is asked what is to be built;
    /// - for pending changes, until the cascade starts that picks them up.
    fn wait(&self, input: &DecideInput<'_>, effect: &RequestEffect) -> Option<String> {
        if matches!(effect.start, StartKind::Queued(_)) {
            return Some(format!(
                "waits for {} earlier requests of the family that start builds",
                super::MAX_STARTS
            ));
        }
        if effect.starts.is_empty() {
            return None;
        }
        if let Some(gate) = self.gate {
            return Some(gate.to_owned());
        }
        let starts_pending = effect.start == StartKind::Pending;
        let pending = |wait: &dyn Fn() -> Option<String>| starts_pending.then(wait).flatten();
        match self.cascade {
            CascadeDecision::None => self
                .wait_for_lookup(effect)
                .or_else(|| pending(&|| self.wait_for_poll(input, &effect.starts))),
            CascadeDecision::Finish { ending } if ending.iter().any(|ending| ending.superseded) => {
                Some("another cascade replaces the running one in a moment".into())
            }
            // A running cascade builds every stale image that belongs to it, except those that it
            // leaves to the next one.
            CascadeDecision::Start { .. }
            | CascadeDecision::Continue
            | CascadeDecision::Finish { .. } => self
                .wait_for_start(effect)
                .or_else(|| pending(&|| self.wait_for_cascade(input, effect))),
        }
    }

    /// Describes the image of which it is unknown whether it has to be built.
    fn wait_for_lookup(&self, effect: &RequestEffect) -> Option<String> {
        let images = effect.starts.iter();
        let image = images
            .filter_map(|image| self.images.get(image.position()))
            .find(|image| is_awaited(image))?;
        Some(format!("waits for a registry: {}", quote(image)))
    }

    /// Describes an image that belongs to no running cascade, and for which one is about to start.
    fn wait_for_start(&self, effect: &RequestEffect) -> Option<String> {
        let mut images = effect.starts.iter().filter_map(|image| {
            let is_free = self.members.position_of(*image).is_none();
            self.images.get(image.position()).filter(|_| is_free)
        });
        let starts = |image: &&ImageDecision| {
            let is_ready = image.state == ImageState::Queued
                && [Reason::Cascading, Reason::Settling].contains(&image.reason);
            is_ready || is_awaited(image)
        };
        let image = images.find(starts)?;
        Some(format!("a cascade is about to start: {}", quote(image)))
    }

    /// Describes the upstream whose candidate is polled again before it may be adopted.
    fn wait_for_poll(&self, input: &DecideInput<'_>, images: &[ImageIndex]) -> Option<String> {
        let upstream = self.candidate(input, images)?;
        let why = upstream
            .message
            .as_ref()
            .map_or_else(String::new, |why| format!(": {}", shorten(why, MAX_QUOTE)));
        Some(format!("waits for upstream {}{why}", upstream.name))
    }

    /// Describes the cascade that leaves what the request starts to the next one.
    fn wait_for_cascade(&self, input: &DecideInput<'_>, effect: &RequestEffect) -> Option<String> {
        let mut images = effect.starts.iter().filter_map(|image| self.images.get(image.position()));
        if !images.any(|image| image.reason == Reason::NextCascade)
            && self.candidate(input, &effect.starts).is_none()
        {
            return None;
        }
        let family = input.family;
        let mut members = effect.starts.iter().filter_map(|image| self.members.name_of(*image));
        let cascade = members.next().or(self.members.names().last())?.as_str();
        let names = input.spec.images.iter().map(|image| image.name.as_str());
        let in_progress = names.zip(self.images).find(|(_, image)| image.in_progress);
        let why = in_progress.map_or_else(String::new, |(name, image)| {
            format!(", which waits for {name} ({}): {}", image.state.as_str(), quote(image))
        });
        Some(format!(
            "starts when the cascade {cascade} has ended{why}; to end it now: kubectl family \
             cancel {family}"
        ))
    }

    /// Returns the first upstream of these images with a candidate that may be adopted, as far as
    /// is known now.
    fn candidate(&self, input: &DecideInput<'_>, images: &[ImageIndex]) -> Option<&UpstreamStatus> {
        let waits = |upstream: &UpstreamStatus| {
            upstream.candidate.is_some()
                && (upstream.reason.is_none()
                    || upstream
                        .known_reason()
                        .is_some_and(|reason| reason.has(ReasonTrait::AwaitsRegistry)))
        };
        let mut waiting =
            UpstreamIndex::enumerate(self.upstreams).filter(|(_, upstream)| waits(upstream));
        let has_images = |upstream: UpstreamIndex| {
            let children = input.lineage().upstream_children(upstream).iter().copied();
            let below = input.lineage().with_descendants(children);
            images.iter().any(|image| below.get(image.position()) == Some(&true))
        };
        waiting.find(|(index, _)| has_images(*index)).map(|(_, upstream)| upstream)
    }
}

/// Returns the message of an image, shortened.
fn quote(image: &ImageDecision) -> String {
    shorten(&image.message.to_string(), MAX_QUOTE)
}

/// Whether it is unknown what an image needs, and will soon be known.
fn is_awaited(image: &ImageDecision) -> bool {
    image.in_progress
        && match image.state {
            ImageState::Waiting => true,
            // What a check waits for is known.
            ImageState::Checking => {
                [Reason::Verifying, Reason::RegistryUnavailable].contains(&image.reason)
            }
            _ => false,
        }
}
