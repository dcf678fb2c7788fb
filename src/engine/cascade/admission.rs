//! Admission: which of the builds that are ready start now, and what the others wait for.
//!
//! Builds that a person caused come first, then those with the longest remaining path. They pass,
//! in this order: windows, the breaker, the family's parallelism, the operator's limits, and the
//! rate of a storm.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::{
    api::{FailureClass, ImageState, condition::reason},
    engine::{
        cascade::{
            breaker::{self, BreakerState, LastBuild},
            gates, limits,
            windows::WindowState,
        },
        decision::{Action, ImageDecision},
        image::evaluation::{Evaluation, Ready},
        input::{DecideInput, ObservedBuild},
    },
};

/// The builds of an image's history whose lengths are looked at.
const LEARNED_FROM: usize = 5;
/// How long a build is expected to take of which none is known, in seconds.
const UNKNOWN_SECONDS: i64 = 60;

/// Picks the builds that start now. The others are told why they wait.
#[must_use]
pub fn admit(
    input: &DecideInput<'_>,
    evaluation: &mut Evaluation,
    window: WindowState,
    breaker: &BreakerState,
    now: Timestamp,
) -> Vec<Action> {
    if evaluation.plan.ready.is_empty() {
        return Vec::new();
    }
    if let WindowState::Closed { opens } = window {
        if let Some(opens) = opens {
            evaluation.plan.wake(opens);
        }
        let (reason, message) = gates::told_closed(opens);
        gates::close(evaluation, reason, &message);
        return Vec::new();
    }
    let live = live(input);
    let mut slots = Slots::new(input, live, now);
    if let BreakerState::Open { probe_at, cause, count, .. } = breaker {
        if *probe_at > now || live > 0 {
            // While the probe runs, its end is what is waited for.
            if *probe_at > now {
                evaluation.plan.wake(*probe_at);
            }
            let message = format!(
                "the breaker is open: {count} images failed for {cause}; one build is \
                         tried at {probe_at:.0}"
            );
            gates::close(evaluation, reason::BREAKER_OPEN, &message);
            return Vec::new();
        }
        slots.family = slots.family.min(1);
        slots.probing = true;
    }
    let (mut admitted, mut slowed) = (Vec::new(), false);
    for ready in ordered(input, evaluation) {
        let Some(image) = evaluation.images.get_mut(ready.image) else { continue };
        match slots.take(&ready) {
            Ok(()) => {
                image.state = ImageState::Building;
                image.reason = reason::BUILDING;
                admitted.push(ready.action);
            }
            Err(Full { reason, message }) => {
                slowed |= reason == reason::RATE_LIMITED;
                image.reason = reason;
                image.message = message.into();
            }
        }
    }
    if let (true, Some(rate_limit)) = (slowed, &input.spec.policy.rate_limit) {
        // What starts in this very pass counts from now on.
        let own = now.saturating_add(rate_limit.per.signed()).unwrap_or(Timestamp::MAX);
        evaluation.plan.wake(slots.rate_limit_next.map_or(own, |next| next.min(own)));
    }
    admitted
}

/// Ready builds, the most urgent first.
fn ordered(input: &DecideInput<'_>, evaluation: &mut Evaluation) -> Vec<Ready> {
    let remaining = input.lineage().remaining(|image| expected_seconds(input, image));
    let mut ready = std::mem::take(&mut evaluation.plan.ready);
    ready.sort_by_key(|ready| {
        let path = remaining.get(ready.image).copied().unwrap_or(0);
        (std::cmp::Reverse((ready.user_caused, path)), ready.image)
    });
    ready
}

/// Builds of the family that hold a place: those that run, and those whose Jobs have not gone yet.
fn live(input: &DecideInput<'_>) -> usize {
    all(input).filter(|build| build.live).count()
}

fn all<'s>(input: &'s DecideInput<'_>) -> impl Iterator<Item = &'s ObservedBuild> {
    input.images.iter().flat_map(|image| &image.builds).chain(&input.orphans)
}

/// When the builds were started that no person caused: as the records remember them, and as Jobs
/// tell. Of one image no two start at once.
fn starts(input: &DecideInput<'_>) -> Vec<Timestamp> {
    let of_images = input.images.iter().flat_map(|image| {
        let remembered = image.record.into_iter().flat_map(|record| record.starts.iter().copied());
        remembered
            .chain(image.builds.iter().filter_map(ObservedBuild::uncaused_start))
            .collect::<BTreeSet<Timestamp>>()
    });
    of_images.chain(input.orphans.iter().filter_map(ObservedBuild::uncaused_start)).collect()
}

/// Why a build finds no place.
struct Full {
    reason: &'static str,
    message: String,
}

/// The places that are free.
struct Slots {
    parallelism: usize,
    family: usize,
    budget: Option<usize>,
    upstreams: BTreeMap<String, usize>,
    rate_limit: Option<usize>,
    rate_limit_next: Option<Timestamp>,
    probing: bool,
}

impl Slots {
    fn new(input: &DecideInput<'_>, live: usize, now: Timestamp) -> Self {
        let parallelism = usize::try_from(input.spec.policy.parallelism).unwrap_or(1).max(1);
        let rate_limit = input.spec.policy.rate_limit.as_ref().map(|rate_limit| {
            let starts = starts(input);
            limits::rate_limit(&starts, rate_limit.builds, rate_limit.per.signed(), now)
        });
        Self {
            parallelism,
            family: parallelism.saturating_sub(live),
            budget: input.budget.family,
            upstreams: input.budget.upstreams.clone(),
            rate_limit: rate_limit.as_ref().map(|rate_limit| rate_limit.free),
            rate_limit_next: rate_limit.and_then(|rate_limit| rate_limit.next),
            probing: false,
        }
    }

    fn take(&mut self, ready: &Ready) -> Result<(), Full> {
        let full = |reason, message: String| Err(Full { reason, message });
        if self.family == 0 {
            let message = if self.probing {
                "the breaker is open, and another build is the one that is tried".to_owned()
            } else {
                format!(
                    "{} builds of the family run, as many as spec.policy.parallelism allows",
                    self.parallelism
                )
            };
            return full(
                if self.probing { reason::BREAKER_OPEN } else { reason::PARALLELISM_REACHED },
                message,
            );
        }
        if !ready.user_caused && self.rate_limit == Some(0) {
            return full(
                reason::RATE_LIMITED,
                "as many builds have started as spec.policy.rateLimit allows".to_owned(),
            );
        }
        if self.budget == Some(0) {
            return full(
                reason::BUILD_LIMIT_REACHED,
                "the operator's limit of builds in this namespace or cluster is reached".to_owned(),
            );
        }
        let upstreams = match &ready.action {
            Action::Build { upstreams, .. } => upstreams.as_slice(),
            _ => &[],
        };
        if upstreams.iter().any(|upstream| self.upstreams.get(upstream) == Some(&0)) {
            return full(
                reason::BUILD_LIMIT_REACHED,
                "the operator's limit of builds for one upstream is reached".to_owned(),
            );
        }
        self.family -= 1;
        self.budget = self.budget.map(|free| free - 1);
        for upstream in upstreams {
            if let Some(free) = self.upstreams.get_mut(upstream) {
                *free = free.saturating_sub(1);
            }
        }
        if !ready.user_caused {
            self.rate_limit = self.rate_limit.map(|free| free - 1);
        }
        Ok(())
    }
}

/// How long a build of this image is likely to take, in seconds: the mean of its last builds.
fn expected_seconds(input: &DecideInput<'_>, image: usize) -> i64 {
    let history = input
        .images
        .get(image)
        .and_then(|image| image.record)
        .map_or(&[][..], |record| &record.history);
    let known = history.iter().filter_map(|build| build.seconds).take(LEARNED_FROM);
    let (sum, count) = known
        .fold((0_i64, 0_i64), |(sum, count), seconds| (sum.saturating_add(seconds), count + 1));
    if count == 0 { UNKNOWN_SECONDS } else { (sum / count).max(1) }
}

/// Whether the breaker is open, from the failures at the fingerprints that are wanted now.
#[must_use]
pub fn breaker(input: &DecideInput<'_>, images: &[ImageDecision], now: Timestamp) -> BreakerState {
    let counts = |class| matches!(class, FailureClass::Build | FailureClass::Infrastructure);
    let failed = |image: &ImageDecision| {
        image.failure.as_ref().is_some_and(|failure| {
            counts(failure.last.class) && failure.build + failure.infrastructure > 0
        })
    };
    if input.spec.policy.breaker.consecutive_failures == 0 || !images.iter().any(failed) {
        return BreakerState::Closed;
    }
    let keys: Vec<String> = input
        .spec
        .images
        .iter()
        .zip(images)
        .map(|(spec, image)| match (&image.failure, &image.verified) {
            (Some(failure), _) if failed(image) => failure.cause.clone(),
            (_, Some(verified)) => crate::engine::causes::key(&spec.name, &verified.causes),
            _ => String::new(),
        })
        .collect();
    let finished = |image: usize| {
        let record = input.images.get(image)?.record?;
        record.history.iter().find(|build| !build.digest.is_empty())?.finished_at
    };
    let builds: Vec<LastBuild<'_>> = images
        .iter()
        .enumerate()
        .zip(&keys)
        .map(|((index, image), cause)| LastBuild {
            image: input.spec.images.get(index).map_or("", |image| image.name.as_str()),
            cause,
            failed_at: image
                .failure
                .as_ref()
                .filter(|_| failed(image))
                .and_then(|failure| failure.at),
            succeeded_at: finished(index).filter(|_| !failed(image)),
        })
        .collect();
    breaker::state(&input.spec.policy.breaker, &builds, now)
}
