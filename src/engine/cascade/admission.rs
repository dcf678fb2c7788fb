//! Admission: which of the ready builds start now, and why the others stay queued.
//!
//! Builds that a user caused start first, then those with the longest remaining path. Each build
//! has to pass these rules, in this order: windows, the breaker, the family's parallelism, the rate
//! limit, and the operator's limits.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::{
    api::{ImageState, condition::reason},
    engine::{
        Problem,
        cascade::{
            CascadeContext,
            breaker_gates::{BreakerGates, build_cause},
            gates, limits,
            members::CascadeMembers,
            windows::WindowState,
        },
        decision::PlannedBuild,
        image::evaluation::Evaluation,
        input::{DecideInput, ObservedBuild},
    },
    identity::BuildIdentity,
    lineage::ImageIndex,
};

/// How many of an image's last builds the expected duration is averaged over.
const DURATION_SAMPLES: usize = 5;
/// Expected duration, in seconds, of an image that has no recorded build.
const DEFAULT_BUILD_SECONDS: i64 = 60;

/// Returns the builds that start now. The other images stay queued with the reason.
#[must_use]
pub fn admit_builds(
    context: &CascadeContext<'_>,
    evaluation: &mut Evaluation,
) -> Vec<PlannedBuild> {
    let CascadeContext { input, window, now, .. } = *context;
    if evaluation.plan.ready_builds.is_empty() {
        return Vec::new();
    }
    if let WindowState::Closed { opens } = window {
        if let Some(opens) = opens {
            evaluation.plan.wake(opens);
        }
        let message = gates::window_closed_message(opens);
        gates::queue_ready_builds(evaluation, reason::WINDOW_CLOSED, &message);
        return Vec::new();
    }
    let mut capacity = FreeCapacity::new(input, live_builds(input), now);
    let mut breakers = BreakerGates::new(context, evaluation);
    let (mut admitted, mut rate_limited) = (Vec::new(), false);
    for build in by_priority(input, evaluation) {
        let Some(image) = evaluation.images.get_mut(build.image.position()) else { continue };
        let cause = build_cause(input, build.image, image);
        let reserved = breakers.check(&cause).and_then(|()| capacity.reserve(&build));
        if reserved.is_ok() {
            breakers.admit(&cause);
        }
        match reserved {
            // An image whose last Job was rejected says so until the next one has a pod.
            Ok(()) if evaluation.plan.tried_again.contains(&build.image) => admitted.push(build),
            Ok(()) => {
                image.state = ImageState::Building;
                image.reason = reason::BUILDING;
                admitted.push(build);
            }
            Err(Problem { reason, message }) => {
                rate_limited |= reason == reason::RATE_LIMITED;
                image.reason = reason;
                image.message = message.into();
            }
        }
    }
    // While a trial build runs, its end triggers the next reconcile.
    if let Some(next_probe) = breakers.next_probe {
        evaluation.plan.wake(next_probe);
    }
    if let Some(rate_limit) = input.spec.policy.rate_limit.as_ref().filter(|_| rate_limited) {
        // The builds that this decision starts count from now on.
        let own = now.saturating_add(rate_limit.per.signed()).unwrap_or(Timestamp::MAX);
        evaluation.plan.wake(capacity.rate_frees_at.map_or(own, |next| next.min(own)));
    }
    admitted
}

/// Takes the ready builds out of the plan, the most urgent first.
fn by_priority(input: &DecideInput<'_>, evaluation: &mut Evaluation) -> Vec<PlannedBuild> {
    let remaining = input.lineage().remaining_weights(|image| expected_seconds(input, image));
    let ready = std::mem::take(&mut evaluation.plan.ready_builds);
    let mut builds: Vec<PlannedBuild> = ready.into_iter().map(|ready| ready.build).collect();
    builds.sort_by_key(|build| {
        let path = remaining.get(build.image.position()).copied().unwrap_or(0);
        (std::cmp::Reverse((build.identity.user_caused, path)), build.image)
    });
    builds
}

/// Counts the family's Jobs that have not ended: they count against its parallelism, whatever their
/// outcome.
pub(super) fn live_builds(input: &DecideInput<'_>) -> usize {
    let of_images = input.images.iter().flat_map(|image| &image.builds);
    of_images.chain(&input.orphans).filter(|build| build.live).count()
}

/// Returns the start times of the builds that no user caused, from the records and from the Jobs.
///
/// No two builds of one image start at the same time, so that equal times of one image are one
/// start.
fn rate_limited_starts(input: &DecideInput<'_>) -> Vec<Timestamp> {
    let of_images = input.images.iter().flat_map(|image| {
        let recorded = image.record.into_iter().flat_map(|record| record.starts.iter().copied());
        recorded
            .chain(image.builds.iter().filter_map(ObservedBuild::rate_limited_start))
            .collect::<BTreeSet<Timestamp>>()
    });
    of_images.chain(input.orphans.iter().filter_map(ObservedBuild::rate_limited_start)).collect()
}

/// How many more builds may start now, by each of the rules.
struct FreeCapacity {
    /// What the parallelism of the family leaves.
    family: usize,
    /// The family's share of the operator's limits; `None` if there is no limit.
    limits: Option<usize>,
    /// What the operator's limit leaves per upstream, by reference. An upstream that is not listed
    /// has no limit.
    upstreams: BTreeMap<String, usize>,
    /// What the rate limit leaves; `None` if there is no rate limit.
    rate: Option<usize>,
    /// When the rate limit allows the next start, if it allows none now.
    rate_frees_at: Option<Timestamp>,
    /// Why a build stays queued when `family` is used up.
    parallelism_reached: Problem,
    /// Why a build stays queued when `rate` is used up.
    rate_limit_reached: Problem,
}

impl FreeCapacity {
    fn new(input: &DecideInput<'_>, live: usize, now: Timestamp) -> Self {
        let policy = &input.spec.policy;
        let parallelism = usize::try_from(policy.parallelism).unwrap_or(1).max(1);
        let rate = policy.rate_limit.as_ref().map(|rate_limit| {
            let starts = rate_limited_starts(input);
            limits::rate_allowance(&starts, rate_limit.builds, rate_limit.per.signed(), now)
        });
        Self {
            family: parallelism.saturating_sub(live),
            limits: input.allowance.family,
            upstreams: input.allowance.upstreams.clone(),
            rate: rate.as_ref().map(|rate| rate.free),
            rate_frees_at: rate.and_then(|rate| rate.frees_at),
            parallelism_reached: Problem {
                reason: reason::PARALLELISM_REACHED,
                message: format!(
                    "the family has reached its limit of {parallelism} concurrent builds \
                     (spec.policy.parallelism)"
                ),
            },
            rate_limit_reached: Problem {
                reason: reason::RATE_LIMITED,
                message: policy.rate_limit.as_ref().map_or_else(String::new, |rate_limit| {
                    format!(
                        "the family has reached its limit of {} build starts per {} \
                         (spec.policy.rateLimit)",
                        rate_limit.builds, rate_limit.per
                    )
                }),
            },
        }
    }

    /// Reserves capacity for a build, or says which limit is reached.
    fn reserve(&mut self, build: &PlannedBuild) -> Result<(), Problem> {
        if self.family == 0 {
            return Err(self.parallelism_reached.clone());
        }
        let BuildIdentity { user_caused, upstreams, .. } = &build.identity;
        if !*user_caused && self.rate == Some(0) {
            return Err(self.rate_limit_reached.clone());
        }
        let limit_reached =
            |message: String| Err(Problem { reason: reason::BUILD_LIMIT_REACHED, message });
        if self.limits == Some(0) {
            return limit_reached(
                "the operator's limit of concurrent builds in this namespace or in the cluster is \
                 reached"
                    .to_owned(),
            );
        }
        if let Some(limited) =
            upstreams.iter().find(|upstream| self.upstreams.get(*upstream) == Some(&0))
        {
            return limit_reached(format!(
                "the operator's limit of concurrent builds caused by {limited} is reached"
            ));
        }
        self.family -= 1;
        self.limits = self.limits.map(|free| free - 1);
        for upstream in upstreams {
            if let Some(free) = self.upstreams.get_mut(upstream) {
                *free = free.saturating_sub(1);
            }
        }
        if !*user_caused {
            self.rate = self.rate.map(|free| free - 1);
        }
        Ok(())
    }
}

/// Returns how many seconds a build of this image is expected to take: the mean of its last builds.
fn expected_seconds(input: &DecideInput<'_>, image: ImageIndex) -> i64 {
    let history = input
        .images
        .get(image.position())
        .and_then(|image| image.record)
        .map_or(&[][..], |record| &record.history);
    let known = history.iter().filter_map(|build| build.duration).take(DURATION_SAMPLES);
    let (sum, count) = known.fold((0_i64, 0_i64), |(sum, count), duration| {
        (sum + i64::from(duration.as_secs()), count + 1)
    });
    if count == 0 { DEFAULT_BUILD_SECONDS } else { (sum / count).max(1) }
}

/// Whether the cascade at this position only waits for Jobs that are not admitted, and for what is
/// built on them. How long that takes is not known: other changes do not wait for it.
#[must_use]
pub(in crate::engine) fn waits_only_for_admission(
    evaluation: &Evaluation,
    members: &CascadeMembers,
    cascade: usize,
) -> bool {
    let not_admitted = &evaluation.plan.not_admitted;
    let images = members.of_cascade(cascade, &evaluation.images);
    let mut in_progress = images.filter(|(_, image)| image.in_progress);
    not_admitted.iter().any(|image| members.position_of(*image) == Some(cascade))
        && in_progress.all(|(index, image)| {
            not_admitted.contains(&index) || image.reason == reason::WAITING_FOR_PARENT
        })
}
