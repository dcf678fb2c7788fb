//! Refreshes: rebuilds of images whose builds are old, although their inputs are unchanged.
//!
//! A refresh changes the nonce of the inputs, as a request for a rebuild does. Its nonce follows
//! from the record of the image and not from the time at which it is decided, so that a crash
//! refreshes nothing twice. The age of a build starts again when a rebuild gave the same content,
//! and when the record of it is lost.

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{Duration, ImageState, RefreshReason, refresh::time_of_nonce},
    engine::{
        blueprint::{ImageBlueprint, REFRESH_SHARES},
        decision::ImageDecision,
        image::evaluation::{ImageEval, Plan},
        input::{DecideInput, ImportState, Observed, VerifiedBuild},
        upstreams::{FollowedUpstreams, eligible},
    },
    lineage::{ImageIndex, Parent, UpstreamIndex},
};

/// The part of `refresh.every` over which the refreshes of images of the same age are spread.
const SPREAD: i64 = 10;

/// Which images must not be refreshed now, whatever their age is.
#[derive(Debug)]
pub(in crate::engine) struct RefreshGate {
    /// Whether none of them may: the family is suspended, or no window is open.
    is_closed: bool,
    /// The images that are about to be rebuilt, because an upstream has moved; empty if there are
    /// none.
    awaited: Vec<bool>,
}

impl RefreshGate {
    /// Returns the gate at a time.
    pub(in crate::engine) fn of(
        input: &DecideInput<'_>,
        followed: &FollowedUpstreams,
        now: Timestamp,
    ) -> Self {
        let spec = input.spec;
        let is_used = spec.policy.refresh.is_some()
            || spec.images.iter().any(|image| image.refresh.is_some());
        let is_closed = !is_used || spec.suspend || input.blueprint.windows.state(now).is_closed();
        let moved = UpstreamIndex::enumerate(&followed.upstreams);
        let mut moved = moved.filter(|(_, status)| eligible(status)).peekable();
        let awaited = if is_closed || moved.peek().is_none() {
            Vec::new()
        } else {
            let lineage = input.lineage();
            let children =
                moved.flat_map(|(upstream, _)| lineage.upstream_children(upstream)).copied();
            lineage.with_descendants(children)
        };
        Self { is_closed, awaited }
    }

    fn is_open_for(&self, image: ImageIndex) -> bool {
        !self.is_closed && self.awaited.get(image.position()) != Some(&true)
    }
}

impl ImageEval<'_> {
    /// Returns the nonce with which the image is refreshed, if it is due. Its parents in `images`
    /// are decided already.
    ///
    /// An image that failed to be refreshed is refreshed again at the next age.
    pub(in crate::engine) fn due_refresh(
        &self,
        gate: &RefreshGate,
        images: &[ImageDecision],
    ) -> Option<String> {
        let (record, verified) = (self.observed.record?, self.observed.verified.as_deref()?);
        let every = self.refresh_every()?;
        let is_at_rest = is_at_rest(record.state, record.nonce.as_deref());
        if !gate.is_open_for(self.index) || !is_at_rest || !self.may_be_refreshed(verified) {
            return None;
        }
        let due = self.due(record.stands_since?, record.nonce.as_deref(), every);
        if self.after_parents(due, every, images) > self.context.now {
            return None;
        }
        let is_due = self.parents_are_at_rest(images) && self.differs_at_most_in_nonce(images);
        is_due.then(|| RefreshReason::Age(every).nonce(due))
    }

    /// Adds since when the verified build stands, and from when the image may be refreshed.
    pub(in crate::engine) fn plan_refresh(
        &self,
        decision: &mut ImageDecision,
        images: &[ImageDecision],
        plan: &mut Plan,
    ) {
        let Some(verified) = decision.verified.as_deref() else { return };
        let stands_since = self.stands_since(verified);
        decision.stands_since = Some(stands_since);
        let every = self.refresh_every().filter(|_| self.may_be_refreshed(verified));
        let Some(every) = every else { return };
        if !is_at_rest(decision.state, decision.nonce.as_deref()) {
            return;
        }
        let due = self.due(stands_since, decision.nonce.as_deref(), every);
        let at = self.after_parents(due, every, images);
        decision.refresh_at = Some(at);
        if at > self.context.now {
            plan.wake(at);
        }
    }

    /// Returns the age at which the image is refreshed; `None` for never.
    fn refresh_every(&self) -> Option<Duration> {
        let refresh = self.image.refresh.or(self.context.input.spec.policy.refresh)?;
        (refresh.every.as_secs() > 0).then_some(refresh.every)
    }

    /// Whether nobody keeps the image at its build, and it is known what that is made from.
    fn may_be_refreshed(&self, verified: &VerifiedBuild) -> bool {
        let is_requested =
            self.overrides().is_some_and(|overrides| overrides.cancel || overrides.nonce.is_some());
        verified.adopted.is_none() && !is_requested && !self.is_held() && self.rollback().is_none()
    }

    /// Returns when the image itself is due.
    fn due(&self, stands_since: Timestamp, nonce: Option<&str>, every: Duration) -> Timestamp {
        let now = self.context.now;
        let tried = nonce.and_then(time_of_nonce).filter(|tried| *tried <= now);
        let since = tried.map_or(stands_since, |tried| tried.max(stands_since));
        let due = since.saturating_add(every.signed());
        due.and_then(|due| due.saturating_add(delay(self.blueprint, every)))
            .unwrap_or(Timestamp::MAX)
    }

    /// Returns when the image is refreshed at the earliest: not before a parent whose refresh is
    /// due while this image may wait. The parent may be all that has to be rebuilt.
    fn after_parents(
        &self,
        due: Timestamp,
        every: Duration,
        images: &[ImageDecision],
    ) -> Timestamp {
        let latest = due.saturating_sub(delay(self.blueprint, every)).ok();
        let latest = latest.and_then(|due| due.saturating_add(spread(every)).ok());
        let latest = latest.unwrap_or(due);
        let parents = self.context.input.lineage().parents(self.index).iter();
        let parents = parents.filter_map(|parent| match parent {
            Parent::Image(parent) => images.get(parent.position())?.refresh_at,
            Parent::Upstream(_) | Parent::Import(_) => None,
        });
        parents.filter(|at| *at <= latest).fold(due, Timestamp::max)
    }

    /// Whether no parent is being rebuilt, or is about to be.
    fn parents_are_at_rest(&self, images: &[ImageDecision]) -> bool {
        let input = self.context.input;
        input.lineage().parents(self.index).iter().all(|parent| match parent {
            Parent::Image(parent) => {
                images.get(parent.position()).is_some_and(|parent| !parent.in_progress)
            }
            Parent::Import(import) => input
                .imports
                .get(import.position())
                .is_some_and(|import| import.state == ImportState::Settled),
            Parent::Upstream(_) => true,
        })
    }

    /// Whether the image has nothing to be built for but a refresh.
    fn differs_at_most_in_nonce(&self, images: &[ImageDecision]) -> bool {
        let Some(verified) = self.observed.verified.as_deref() else { return false };
        matches!(self.observed.source, Observed::Known(_))
            && self.reject_own_spec().is_ok()
            && self.resolve_parents(images).is_ok_and(|parents| {
                !parents.any_rolled_back() && self.is_unchanged_but_nonce(verified, &parents)
            })
    }

    /// Returns since when a verified build stands.
    fn stands_since(&self, verified: &VerifiedBuild) -> Timestamp {
        let Some(record) = self.observed.record else { return self.context.now };
        let fingerprint = verified.fingerprint.as_str();
        let recorded =
            record.stands_since.filter(|_| record.fingerprint.as_deref() == Some(fingerprint));
        let built = || {
            let mut builds = record.history.iter();
            let build =
                builds.find(|build| build.fingerprint == fingerprint && !build.digest.is_empty());
            build.and_then(|build| build.finished_at)
        };
        recorded.or_else(built).unwrap_or(self.context.now)
    }
}

/// Whether an image in this state waits for nothing but its age: it is current, or has failed after
/// a refresh.
fn is_at_rest(state: ImageState, nonce: Option<&str>) -> bool {
    let is_refreshed = || nonce.and_then(RefreshReason::of_nonce).is_some();
    state == ImageState::Current || state == ImageState::Failed && is_refreshed()
}

/// Returns by how much the refreshes of an image are delayed.
fn delay(blueprint: &ImageBlueprint, every: Duration) -> SignedDuration {
    let share = i64::from(blueprint.refresh_share);
    let seconds = spread(every).as_secs().saturating_mul(share) / i64::from(REFRESH_SHARES);
    SignedDuration::from_secs(seconds)
}

/// Returns the time over which refreshes of images of the same age are spread.
fn spread(every: Duration) -> SignedDuration {
    SignedDuration::from_secs(every.signed().as_secs() / SPREAD)
}
