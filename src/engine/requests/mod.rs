//! Requests of users: what they change, and what happens to them. `apply` carries them out,
//! `conflicts` decides between those that contradict each other, and `outcome` says whether one is
//! done or what it waits for.
//!
//! A request is done in the reconcile that records that. Until then every reconcile applies it
//! again. Applying a request twice gives the same result, so that a crash in between loses nothing.
//! Holds and approvals are applied for as long as their objects exist and have not ended: no status
//! remembers them.
//!
//! The requests are applied in the order in which they were created. What a later one changes takes
//! precedence.

mod apply;
mod conflicts;
mod outcome;
mod rollback;

use jiff::Timestamp;

use crate::{
    api::{
        ApprovalRecord, HoldTarget, ManualHold, Request, RequestState, RequestedAction,
        RollbackRecord, UpstreamStatus,
    },
    engine::{
        decision::Effect,
        input::{DecideInput, ObservedRequest},
        requests::rollback::RollbackTarget,
    },
    lineage::ImageIndex,
};

pub use outcome::DecisionView;

/// Maximum number of requests that start builds and wait at the same time. Further ones wait until
/// earlier ones are done.
pub const MAX_STARTS: usize = 32;
/// Maximum number of other new requests that one reconcile applies.
pub const MAX_NEW: usize = 256;
/// What the status of a request says that is not evaluated yet.
pub const WAITS_FOR_EARLIER: &str = "waits for earlier requests of the family";

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
    /// What the registry is asked before images are rolled back.
    pub lookups: Vec<Effect>,
    /// When the registry is asked again.
    pub ask_at: Option<Timestamp>,
    /// The time of the reconcile.
    now: Timestamp,
    applied: Vec<AppliedRequest>,
}

/// A request, and its effect as far as it is known before the images are evaluated.
#[derive(Clone, Debug)]
struct AppliedRequest {
    observed: ObservedRequest,
    /// The effect, or why there is none.
    effect: Result<RequestEffect, RequestAnswer>,
}

/// What a request brings about.
#[derive(Clone, Debug, Default)]
struct RequestEffect {
    /// The effect in a sentence for users.
    message: String,
    /// How many images the request applies to.
    images: Option<usize>,
    /// The images that start without the quiet time.
    starts: Vec<ImageIndex>,
    /// What the request starts of these images.
    start: StartKind,
    /// The images whose builds are cancelled.
    cancels: Vec<ImageIndex>,
    /// Whether earlier requests that waited to start builds are replaced.
    withdraws_starts: bool,
    /// Whether the effect lasts as long as the object of the request exists.
    lasts: bool,
    /// The images that are held at earlier builds.
    rollbacks: Vec<RollbackTarget>,
    /// The digest that an upstream is held at.
    digest: Option<String>,
    /// The image and tag of the upstream that is held.
    reference: Option<String>,
    /// What a later request has changed about this one.
    replaced: Option<RequestAnswer>,
}

/// What a request starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum StartKind {
    /// The images, on the parents as they are.
    #[default]
    Images,
    /// All pending changes.
    Pending,
    /// Nothing yet: as many requests as may wait do so already. The image is the one that it would
    /// start, alone or with its descendants; none if it would start the family.
    Queued(Option<ImageIndex>),
}

/// State and message of a request that is known before the images are evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RequestAnswer {
    state: RequestState,
    message: String,
}

impl RequestAnswer {
    const fn new(state: RequestState, message: String) -> Self {
        Self { state, message }
    }
}

/// A text says why a request is refused.
impl From<String> for RequestAnswer {
    fn from(message: String) -> Self {
        Self::new(RequestState::Refused, message)
    }
}

/// What requests change for one image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageOverrides {
    /// The hold.
    pub hold: Option<ManualHold>,
    /// The earlier build that the image is held at.
    pub rollback: Option<RollbackRecord>,
    /// The new nonce.
    pub nonce: Option<String>,
    /// The nonce of the request that resets the failures.
    pub retry: Option<String>,
    /// Whether builds and checks are stopped, and not retried at this fingerprint.
    pub cancel: bool,
}

/// Reads the requests, and applies those that are accepted.
#[must_use]
pub fn read(input: &DecideInput<'_>, now: Timestamp) -> RequestEffects {
    let upstreams = input.status.upstreams.iter().map(without_requests).collect();
    let mut effects = RequestEffects { upstreams, now, ..RequestEffects::default() };
    if input.requests.is_empty() {
        return effects;
    }
    effects.images = vec![ImageOverrides::default(); input.spec.images.len()];
    let mut places = Places { starts: MAX_STARTS, new: MAX_NEW };
    for observed in &input.requests {
        let observed = with_current_name(input, observed.clone());
        let effect = match &observed.request {
            Err(error) => Err(error.to_string().into()),
            Ok(request) => match places.take(&observed, request) {
                RequestPlace::Free => effects.apply(input, &observed, request, now),
                RequestPlace::Queued => RequestEffects::queue(input, request),
                RequestPlace::NextReconcile => {
                    Err(RequestAnswer::new(RequestState::Waiting, WAITS_FOR_EARLIER.into()))
                }
            },
        };
        effects.applied.push(AppliedRequest { observed, effect });
    }
    effects.collect_starts();
    effects
}

/// Returns the request with the present name of the upstream that it holds, if the family has given
/// it another one since. The image and the tag tell which it is.
fn with_current_name(input: &DecideInput<'_>, mut observed: ObservedRequest) -> ObservedRequest {
    let upstreams = &input.spec.upstreams;
    if let (Ok(request), Some(reference)) = (&mut observed.request, &observed.reference)
        && let RequestedAction::Hold { target: HoldTarget::Upstream(name), .. } =
            &mut request.action
        && upstreams.iter().all(|upstream| upstream.name != *name)
        && let Some(renamed) = upstreams.iter().find(|known| known.reference() == *reference)
    {
        name.clone_from(&renamed.name);
    }
    observed
}

/// Returns the recorded upstream without what requests say of it. The approval of the adopted
/// digest stays: it says who has agreed to what is in use.
fn without_requests(recorded: &UpstreamStatus) -> UpstreamStatus {
    let adopted = recorded.adopted.as_ref();
    let is_adopted = |approval: &ApprovalRecord| {
        adopted.is_some_and(|adopted| adopted.content().names(&approval.digest))
    };
    let approval = recorded.approval.clone().filter(is_adopted);
    UpstreamStatus { hold: None, approval, ..recorded.clone() }
}

/// How many requests may still be applied.
struct Places {
    starts: usize,
    new: usize,
}

/// Whether a request is applied.
enum RequestPlace {
    Free,
    /// As many requests that start builds wait already.
    Queued,
    /// This reconcile applies as many new requests already.
    NextReconcile,
}

impl Places {
    fn take(&mut self, observed: &ObservedRequest, request: &Request) -> RequestPlace {
        if observed.state == Some(RequestState::Active) {
            return RequestPlace::Free;
        }
        let (free, otherwise) = if request.action.starts_builds() {
            (&mut self.starts, RequestPlace::Queued)
        } else {
            (&mut self.new, RequestPlace::NextReconcile)
        };
        match free.checked_sub(1) {
            Some(left) => {
                *free = left;
                RequestPlace::Free
            }
            None => otherwise,
        }
    }
}

impl RequestEffects {
    /// Returns what requests change for an image.
    #[must_use]
    pub fn of(&self, image: ImageIndex) -> Option<&ImageOverrides> {
        self.images.get(image.position())
    }

    /// Collects the images that requests start, once it is known which of them later requests
    /// cancel.
    fn collect_starts(&mut self) {
        let effects = self.applied.iter().filter_map(|applied| applied.effect.as_ref().ok());
        for effect in effects {
            match effect.start {
                StartKind::Images => self.start.extend(&effect.starts),
                StartKind::Pending => self.start_pending.extend(&effect.starts),
                StartKind::Queued(_) => {}
            }
        }
    }
}
