//! The gates of open breakers: builds of their causes that are held back, and the trial builds that
//! may start.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::{
    api::{FailureClass, condition::Reason},
    engine::{
        cascade::{
            CascadeContext,
            breaker::{self, LastBuild, OpenBreaker},
            start_gates::ClosedGate,
        },
        causes,
        decision::ImageDecision,
        image::evaluation::Evaluation,
        input::DecideInput,
    },
    lineage::ImageIndex,
};

/// Returns the causes for which the breaker is open. Only failures at the fingerprints that are
/// wanted now count.
#[must_use]
pub fn open_breakers(
    input: &DecideInput<'_>,
    images: &[ImageDecision],
    now: Timestamp,
) -> Vec<OpenBreaker> {
    if input.spec.policy.breaker.consecutive_failures == 0 || !images.iter().any(has_failed) {
        return Vec::new();
    }
    let causes: Vec<String> = input
        .spec
        .images
        .iter()
        .zip(images)
        .map(|(spec, image)| match (&image.failure, &image.verified) {
            (Some(failure), _) if has_failed(image) => failure.cause.clone(),
            (_, Some(verified)) => causes::key(&spec.name, &verified.causes),
            _ => String::new(),
        })
        .collect();
    let last_success = |image: ImageIndex| {
        let record = input.images.get(image.position())?.record?;
        record.history.iter().find(|build| !build.digest.is_empty())?.finished_at
    };
    let builds: Vec<LastBuild<'_>> = ImageIndex::enumerate(images)
        .zip(&causes)
        .map(|((index, image), cause)| LastBuild {
            image: input.spec.images.get(index.position()).map_or("", |image| image.name.as_str()),
            cause,
            failed_at: image
                .failure
                .as_ref()
                .filter(|_| has_failed(image))
                .and_then(|failure| failure.at),
            succeeded_at: last_success(index).filter(|_| !has_failed(image)),
        })
        .collect();
    breaker::open_breakers(&input.spec.policy.breaker, &builds, now)
}

/// Returns whether an image has a failure that counts for the breaker: of the build itself. Bad
/// input and cancelled builds do not count, and failures of the infrastructure are
/// [outages](super::outages).
fn has_failed(image: &ImageDecision) -> bool {
    image
        .failure
        .as_ref()
        .is_some_and(|failure| failure.last.class == FailureClass::Build && failure.build > 0)
}

/// The breakers that are open, and whether a trial build of their cause may start.
pub(super) struct BreakerGates<'a> {
    gates: BTreeMap<&'a str, BreakerGate<'a>>,
    now: Timestamp,
}

/// A breaker that is open.
struct BreakerGate<'a> {
    breaker: &'a OpenBreaker,
    /// Whether a build of the cause runs, which shows whether builds still fail.
    runs_trial: bool,
}

impl<'a> BreakerGates<'a> {
    pub fn new(context: &CascadeContext<'a>, evaluation: &Evaluation) -> Self {
        let gate = |breaker: &'a OpenBreaker| {
            (breaker.cause.as_str(), BreakerGate { breaker, runs_trial: false })
        };
        let mut gates: BTreeMap<&str, BreakerGate<'_>> =
            context.breakers.iter().map(gate).collect();
        let observed = context.input.images.iter().zip(&evaluation.images);
        for (index, (observed, image)) in ImageIndex::enumerate(observed) {
            if !gates.is_empty() && observed.builds.iter().any(|build| build.live) {
                let cause = build_cause(context.input, index, image);
                if let Some(gate) = gates.get_mut(cause.as_str()) {
                    gate.runs_trial = true;
                }
            }
        }
        Self { gates, now: context.now }
    }

    /// Says why a build of this cause must not start, if a breaker is open for it.
    pub fn check(&self, cause: &str) -> Result<(), ClosedGate> {
        let Some(BreakerGate { breaker, runs_trial }) = self.gates.get(cause) else {
            return Ok(());
        };
        let OpenBreaker { probe_at, cause, count, .. } = breaker;
        // While a trial build runs, its end triggers the next reconcile.
        let opens = Some(*probe_at).filter(|at| *at > self.now);
        let message = if opens.is_some() {
            format!(
                "builds of this cause are paused: {count} images failed with it ({cause}); one \
                 trial build starts at {probe_at:.0}"
            )
        } else if *runs_trial {
            format!(
                "builds of this cause are paused: {count} images failed with it ({cause}), and the \
                 trial build of another image runs"
            )
        } else {
            return Ok(());
        };
        Err(ClosedGate::new(Reason::BreakerOpen, message, opens))
    }

    /// A build of this cause starts.
    pub fn admit(&mut self, cause: &str) {
        if let Some(gate) = self.gates.get_mut(cause) {
            gate.runs_trial = true;
        }
    }
}

/// Returns the key of the cause that an image is built for, as breakers are kept by it.
pub(super) fn build_cause(
    input: &DecideInput<'_>,
    index: ImageIndex,
    image: &ImageDecision,
) -> String {
    let name = input.spec.images.get(index.position()).map_or("", |image| image.name.as_str());
    causes::key(name, &image.causes)
}

/// Whether the cascade at this position only waits for trial builds: of causes for which the
/// breaker is open, and of outages. What is built on their images waits, too. None of these builds
/// runs.
#[must_use]
pub(in crate::engine) fn waits_only_for_trials(
    context: &CascadeContext<'_>,
    evaluation: &Evaluation,
    cascade: usize,
) -> bool {
    let images = || context.members.of_cascade(cascade, &evaluation.images);
    let in_outage = &evaluation.plan.in_outage;
    let waits = |(index, image): &(ImageIndex, &ImageDecision)| {
        image.reason == Reason::BreakerOpen || in_outage.contains(index)
    };
    let is_live = |image: ImageIndex| {
        let observed = context.input.images.get(image.position());
        observed.is_some_and(|observed| observed.builds.iter().any(|build| build.live))
    };
    let mut in_progress = images().filter(|(_, image)| image.in_progress);
    !images().any(|(index, _)| is_live(index))
        && images().any(|image| waits(&image))
        && in_progress.all(|image| waits(&image) || image.1.reason == Reason::WaitingForParent)
}
