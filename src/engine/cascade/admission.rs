//! Admission: which of the ready builds and checks start now, and why the others wait.
//!
//! What a user caused starts first, then checks, then what has the longest remaining path. Each
//! start passes the [gates](super::start_gates), the last of which is the capacity that this file
//! counts: the family's parallelism, the rate limit, and the operator's limits.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::{
    api::{ImageState, condition::Reason},
    engine::{
        Problem,
        cascade::{
            CascadeContext, limits,
            start_gates::{ClosedGate, ReadyStart, StartGates},
        },
        decision::{Effect, PlannedBuild},
        image::evaluation::{Evaluation, Plan, ReadyCheck},
        input::{DecideInput, ObservedBuild},
        members::CascadeMembers,
    },
    identity::BuildIdentity,
    lineage::ImageIndex,
};

/// How many of an image's last builds the expected duration is averaged over.
const DURATION_SAMPLES: usize = 5;
/// Expected duration, in seconds, of an image that has no recorded build.
const DEFAULT_BUILD_SECONDS: i64 = 60;

/// Returns the builds and checks that start now, in their order. The other images keep the reason
/// of the gate that is closed.
#[must_use]
pub fn admit_starts(context: &CascadeContext<'_>, evaluation: &mut Evaluation) -> Vec<Effect> {
    let plan = &evaluation.plan;
    if plan.ready_builds.is_empty() && plan.ready_checks.is_empty() {
        return Vec::new();
    }
    let input = context.input;
    let mut gates = StartGates::new(context, evaluation);
    let mut starts = by_priority(input, evaluation);
    gates.sort(&mut starts, &evaluation.images);
    let (mut admitted, mut held_checks) = (Vec::new(), Vec::new());
    for start in starts {
        let Some(image) = evaluation.images.get_mut(start.image().position()) else { continue };
        match gates.pass(&start, image) {
            Ok(()) => {
                // An image whose last Job was rejected says so until the next one has a pod.
                let is_reported = evaluation.plan.tried_again.contains(&start.image());
                if matches!(start, ReadyStart::Build(_)) && !is_reported {
                    image.state = ImageState::Building;
                    image.reason = Reason::Building;
                }
                admitted.push(effect(start));
            }
            Err(closed) => {
                if closed.is_outage {
                    evaluation.plan.in_outage.push(start.image());
                }
                if let Some(opens) = closed.opens {
                    evaluation.plan.wake(opens);
                }
                match start {
                    ReadyStart::Build(_) => {
                        image.reason = closed.problem.reason;
                        image.message = closed.problem.message.into();
                    }
                    ReadyStart::Check(check) => held_checks.push((check, closed.problem)),
                }
            }
        }
    }
    report_held_checks(input, evaluation, &admitted, held_checks);
    admitted
}

/// Gives the images of which no check runs or starts the reason of the first one that is held back.
fn report_held_checks(
    input: &DecideInput<'_>,
    evaluation: &mut Evaluation,
    admitted: &[Effect],
    held: Vec<(ReadyCheck, Problem)>,
) {
    let mut reported: BTreeSet<ImageIndex> = admitted
        .iter()
        .filter_map(|effect| match effect {
            Effect::Check { image, .. } => Some(*image),
            _ => None,
        })
        .collect();
    for (ReadyCheck { image: index, check, .. }, problem) in held {
        let observed = input.images.get(index.position());
        let runs = observed.is_some_and(|image| image.checks.iter().any(|check| check.live));
        let (Some(image), Some(spec)) =
            (evaluation.images.get_mut(index.position()), input.spec.images.get(index.position()))
        else {
            continue;
        };
        let name = spec.checks.get(check.position()).map_or("", |check| check.name.as_str());
        // What was refused before is reported already.
        if !runs && image.reason == Reason::Checking && reported.insert(index) {
            image.reason = problem.reason;
            image.message = format!("check {name}: {}", problem.message).into();
        }
    }
}

fn effect(start: ReadyStart) -> Effect {
    match start {
        ReadyStart::Build(build) => Effect::Build(build),
        ReadyStart::Check(ReadyCheck { image, check, digest, attempt, .. }) => {
            Effect::Check { image, check, digest, attempt }
        }
    }
}

/// Takes the ready builds and checks out of the plan, the most urgent first: what users caused,
/// then checks, which complete what is built, then by the longest remaining path.
fn by_priority(input: &DecideInput<'_>, evaluation: &mut Evaluation) -> Vec<ReadyStart> {
    let remaining = input.lineage().remaining_weights(|image| expected_seconds(input, image));
    let plan = &mut evaluation.plan;
    let checks = std::mem::take(&mut plan.ready_checks).into_iter().map(ReadyStart::Check);
    let builds = std::mem::take(&mut plan.ready_builds).into_iter();
    let builds = builds.map(|ready| ReadyStart::Build(ready.build));
    let mut starts: Vec<ReadyStart> = checks.chain(builds).collect();
    starts.sort_by_key(|start| {
        let path = remaining.get(start.image().position()).copied().unwrap_or(0);
        let is_check = matches!(start, ReadyStart::Check(_));
        (std::cmp::Reverse((start.is_user_caused(), is_check, path)), start.image())
    });
    starts
}

/// Counts the family's Jobs that have not ended: they count against its parallelism, whatever their
/// outcome.
pub(super) fn live_builds(input: &DecideInput<'_>) -> usize {
    let of_images = input.images.iter().flat_map(|image| &image.builds);
    of_images.chain(&input.orphans).filter(|build| build.live).count()
}

/// Counts the Jobs of checks that have not ended.
fn live_checks(input: &DecideInput<'_>) -> usize {
    let of_images = input.images.iter().flat_map(|image| &image.checks);
    of_images.chain(&input.orphan_checks).filter(|check| check.live).count()
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

/// How many more builds and checks may start now, by each of the rules.
pub(super) struct FreeCapacity {
    /// What the parallelism of the family leaves.
    family: usize,
    /// The family's share of the operator's limits; `None` if there is no limit.
    limits: Option<usize>,
    /// What the operator's limit leaves per upstream, by reference. An upstream that is not listed
    /// has no limit.
    upstreams: BTreeMap<String, usize>,
    /// What the rate limit leaves; `None` if there is no rate limit.
    rate: Option<usize>,
    /// What a start waits for when `family` is used up.
    parallelism_reached: ClosedGate,
    /// What a build waits for when `rate` is used up.
    rate_limit_reached: ClosedGate,
}

impl FreeCapacity {
    pub fn new(input: &DecideInput<'_>, now: Timestamp) -> Self {
        let live = live_builds(input) + live_checks(input);
        let policy = &input.spec.policy;
        let parallelism = usize::try_from(policy.parallelism).unwrap_or(1).max(1);
        let rate = policy.rate_limit.as_ref().map(|rate_limit| {
            let starts = rate_limited_starts(input);
            limits::rate_allowance(&starts, rate_limit.builds, rate_limit.per.signed(), now)
        });
        // The builds that this decision starts count from now on.
        let rate_frees_at = policy.rate_limit.as_ref().map(|rate_limit| {
            let own = now.saturating_add(rate_limit.per.signed()).unwrap_or(Timestamp::MAX);
            rate.as_ref().and_then(|rate| rate.frees_at).map_or(own, |next| next.min(own))
        });
        Self {
            family: parallelism.saturating_sub(live),
            limits: input.allowance.family,
            upstreams: input.allowance.upstreams.clone(),
            rate: rate.as_ref().map(|rate| rate.free),
            parallelism_reached: ClosedGate::new(
                Reason::ParallelismReached,
                format!(
                    "the family has reached its limit of {parallelism} concurrent builds and \
                     checks (spec.policy.parallelism)"
                ),
                None,
            ),
            rate_limit_reached: ClosedGate::new(
                Reason::RateLimited,
                policy.rate_limit.as_ref().map_or_else(String::new, |rate_limit| {
                    format!(
                        "the family has reached its limit of {} build starts per {} \
                         (spec.policy.rateLimit)",
                        rate_limit.builds, rate_limit.per
                    )
                }),
                rate_frees_at,
            ),
        }
    }

    /// Reserves capacity for a start, or says which limit is reached. A check takes a place like a
    /// build; the rate limit and the limits per upstream are those of builds.
    pub fn reserve(&mut self, start: &ReadyStart) -> Result<(), ClosedGate> {
        if self.family == 0 {
            return Err(self.parallelism_reached.clone());
        }
        let identity = match start {
            ReadyStart::Build(PlannedBuild { identity, .. }) => Some(identity),
            ReadyStart::Check(_) => None,
        };
        let counts_for_rate = identity.is_some_and(|identity| !identity.user_caused);
        let upstreams = identity.map_or(&[][..], |BuildIdentity { upstreams, .. }| upstreams);
        if counts_for_rate && self.rate == Some(0) {
            return Err(self.rate_limit_reached.clone());
        }
        let limit_reached =
            |message: String| Err(ClosedGate::new(Reason::BuildLimitReached, message, None));
        if self.limits == Some(0) {
            return limit_reached(
                "the operator's limit of concurrent builds and checks in this namespace or in the \
                 cluster is reached"
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
        if counts_for_rate {
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

/// Whether the cascade at this position only waits for Jobs that are not admitted, for the end of
/// outages, and for what is built on these images. How long that takes is not known: other changes
/// do not wait for it.
#[must_use]
pub(in crate::engine) fn waits_only_for_outside(
    evaluation: &Evaluation,
    members: &CascadeMembers,
    cascade: usize,
) -> bool {
    let Plan { not_admitted, in_outage, .. } = &evaluation.plan;
    let waits = |index: &ImageIndex| not_admitted.contains(index) || in_outage.contains(index);
    let images = || members.of_cascade(cascade, &evaluation.images);
    let mut in_progress = images().filter(|(_, image)| image.in_progress);
    images().any(|(index, _)| waits(&index))
        && in_progress
            .all(|(index, image)| waits(&index) || image.reason == Reason::WaitingForParent)
}
