//! Outages: what builds need around them fails, such as a registry or the nodes.
//!
//! Builds that need the same fail together. Once several images have failed so, one build at a time
//! is tried for all of them, after pauses that grow to a few minutes. When one succeeds, the others
//! follow. The state is not stored: it follows from the last failures and builds of the images.

use jiff::Timestamp;

use crate::{
    api::{FailureRecord, ImageState},
    engine::{
        Problem,
        cascade::start_gates::ClosedGate,
        decision::ImageDecision,
        image::{
            environment::{SharedEnvironment, environment, is_over, is_shared, recoveries},
            failure,
        },
        input::{BuildOutcome, DecideInput},
    },
    lineage::ImageIndex,
};

/// How many images must have failed before one build is tried for all of them.
const OUTAGE_IMAGES: usize = 3;
/// How often they must have failed together: a node that is drained makes each fail once.
const OUTAGE_FAILURES: u32 = 6;

/// An outage that lasts, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outage<'a> {
    environment: SharedEnvironment<'a>,
    /// How many images fail because of it.
    images: usize,
    /// How often they have failed.
    failures: u32,
    last_failure: Timestamp,
    /// What the last failure says.
    problem: Problem,
    /// Whether a build runs that shows whether the outage is over.
    runs_trial: bool,
}

/// The turn of a build in outages, the first one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum OutageTurn {
    /// No outage concerns the build.
    Unaffected,
    /// An outage concerns the build, and it has not failed.
    NotFailed,
    /// It has failed at this time. The one that has waited longest comes first.
    FailedAt(Timestamp),
}

/// The outages that last, and whether a trial build may start.
pub(super) struct OutageGates<'a> {
    outages: Vec<Outage<'a>>,
    now: Timestamp,
}

impl<'a> OutageGates<'a> {
    /// Returns the gates of the outages that follow from this decision about the images.
    pub fn new(input: &DecideInput<'a>, images: &[ImageDecision], now: Timestamp) -> Self {
        let failing = failing_images(input, images);
        let mut outages: Vec<Outage<'a>> = Vec::new();
        for (index, record) in &failing {
            let environment = environment(input, *index);
            let failures = record.infrastructure.unsigned_abs();
            let at = record.at.unwrap_or(now);
            let problem = Problem {
                reason: failure::infrastructure_reason(record),
                message: failure::summary(&record.last),
            };
            match outages.iter_mut().find(|known| known.environment == environment) {
                Some(known) => {
                    known.images += 1;
                    known.failures = known.failures.saturating_add(failures);
                    if at >= known.last_failure {
                        (known.last_failure, known.problem) = (at, problem);
                    }
                }
                None => outages.push(Outage {
                    environment,
                    images: 1,
                    failures,
                    last_failure: at,
                    problem,
                    runs_trial: false,
                }),
            }
        }
        outages
            .retain(|outage| outage.images >= OUTAGE_IMAGES && outage.failures >= OUTAGE_FAILURES);
        let mut gates = Self { outages, now };
        gates.find_trials(input, &failing);
        gates
    }

    /// Finds the builds that run and show whether an outage is over: of an image that has failed,
    /// or started since the last failure.
    fn find_trials(&mut self, input: &DecideInput<'a>, failing: &[(ImageIndex, &FailureRecord)]) {
        if self.outages.is_empty() {
            return;
        }
        for (index, observed) in ImageIndex::enumerate(&input.images) {
            let running =
                observed.builds.iter().find(|build| build.outcome == BuildOutcome::Running);
            let Some(build) = running else { continue };
            let has_failed = failing.iter().any(|(failed, _)| *failed == index);
            if let Some(outage) = self.outage_mut(input, index) {
                let is_later = build.started_at.is_none_or(|at| at >= outage.last_failure);
                outage.runs_trial |= has_failed || is_later;
            }
        }
    }

    /// Returns the turn of a build among the others that are ready.
    pub fn turn(
        &self,
        input: &DecideInput<'_>,
        index: ImageIndex,
        image: &ImageDecision,
    ) -> OutageTurn {
        if self.outage(input, index, image).is_none() {
            return OutageTurn::Unaffected;
        }
        let record = image.failure.as_deref().filter(|record| is_shared(record));
        match record.and_then(|record| record.at) {
            Some(at) => OutageTurn::FailedAt(at),
            None => OutageTurn::NotFailed,
        }
    }

    /// Says why a build must not start, if an outage lasts that concerns it.
    pub fn check(
        &self,
        input: &DecideInput<'_>,
        index: ImageIndex,
        image: &ImageDecision,
    ) -> Result<(), ClosedGate> {
        let Some(outage) = self.outage(input, index, image) else { return Ok(()) };
        let pause = failure::outage_pause(outage.failures);
        let next = outage.last_failure.saturating_add(pause).unwrap_or(Timestamp::MAX);
        // A failure in the future was recorded before the clock was set back.
        let opens = Some(next).filter(|at| *at > self.now && outage.last_failure <= self.now);
        if opens.is_none() && !outage.runs_trial {
            return Ok(());
        }
        let Problem { reason, message } = &outage.problem;
        // Without the time and the image that is tried: a status is not written for that.
        let message = format!(
            "{} images of the family fail for this reason, and one build at a time is tried until \
             one succeeds: {message}",
            outage.images
        );
        Err(ClosedGate { problem: Problem { reason: *reason, message }, opens, is_outage: true })
    }

    /// A build of this image starts.
    pub fn admit(&mut self, input: &DecideInput<'a>, index: ImageIndex) {
        if let Some(outage) = self.outage_mut(input, index) {
            outage.runs_trial = true;
        }
    }

    /// Returns the outage that concerns a build. A user who requests a retry waits for none.
    fn outage(
        &self,
        input: &DecideInput<'_>,
        index: ImageIndex,
        image: &ImageDecision,
    ) -> Option<&Outage<'a>> {
        let is_requested = image
            .failure
            .as_deref()
            .is_some_and(|record| record.retried.is_some() && record.infrastructure == 0);
        if self.outages.is_empty() || is_requested {
            return None;
        }
        let environment = environment(input, index);
        self.outages.iter().find(|outage| outage.environment == environment)
    }

    fn outage_mut(
        &mut self,
        input: &DecideInput<'a>,
        index: ImageIndex,
    ) -> Option<&mut Outage<'a>> {
        if self.outages.is_empty() {
            return None;
        }
        let environment = environment(input, index);
        self.outages.iter_mut().find(|outage| outage.environment == environment)
    }
}

/// Returns the images whose builds fail of an outage that is not known to be over.
fn failing_images<'d>(
    input: &DecideInput<'_>,
    images: &'d [ImageDecision],
) -> Vec<(ImageIndex, &'d FailureRecord)> {
    let recoveries = recoveries(input);
    let failing = ImageIndex::enumerate(images).filter_map(|(index, image)| {
        let record = image.failure.as_deref().filter(|record| is_shared(record))?;
        let is_tried = matches!(image.state, ImageState::Queued | ImageState::Building);
        (is_tried && !is_over(record, &recoveries, input, index)).then_some((index, record))
    });
    failing.collect()
}
