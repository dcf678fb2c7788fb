//! The conditions of a family. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::{
    api::{
        BreakerStatus, ImageCounts, ImageFamilyStatus, ImageState, LeftOutImage,
        condition::{self, ConditionUpdate, READY, RECONCILING, Reason, STALLED},
    },
    controller::family::{
        observe::snapshot::Snapshot,
        record::{
            image_status::needs_user,
            unstarted::{DecidedImage, unstarted_builds},
        },
    },
    engine::{Decision, Problem},
    lineage::ImageIndex,
};

/// Condition of a family that is true while one of its upstreams follows a release whose support
/// has ended. It is absent otherwise. Builds from such an upstream succeed, and get no fixes.
pub const UPSTREAM_END_OF_LIFE: &str = "UpstreamEndOfLife";
/// Condition of a family that is true while a Secret of `spec.credentials` does not exist or cannot
/// be used, and others are used. It is absent otherwise.
pub const CREDENTIALS_INCOMPLETE: &str = "CredentialsIncomplete";

/// Conditions of a family that report a problem and do not affect the others.
pub(super) const OF_PROBLEMS: [&str; 2] = [UPSTREAM_END_OF_LIFE, CREDENTIALS_INCOMPLETE];

/// Sets one of [`OF_PROBLEMS`], or removes it without a problem.
pub(super) fn set_problem(
    status: &mut ImageFamilyStatus,
    type_: &str,
    problem: Option<&Problem>,
    now: Timestamp,
) {
    let Some(problem) = problem else {
        status.conditions.retain(|condition| condition.type_ != type_);
        return;
    };
    let update = ConditionUpdate {
        type_,
        status: true,
        reason: problem.reason,
        message: &problem.message,
        observed_generation: status.observed_generation,
    };
    condition::set(&mut status.conditions, update, now);
}

/// Returns what a user reads about Secrets that cannot be used next to others; `None` if all can.
pub(super) fn incomplete_credentials(problems: &[Problem]) -> Option<Problem> {
    let Problem { reason, message } = problems.first()?;
    let message = format!("{message}{}; the other credentials are used", more(problems.len()));
    Some(Problem { reason: *reason, message })
}

/// What the three conditions of a family say. They share one reason and message.
#[derive(Debug)]
pub(super) struct FamilyConditions {
    ready: bool,
    reconciling: bool,
    stalled: bool,
    reason: Reason,
    message: String,
}

impl FamilyConditions {
    /// Returns the conditions of a family with this status. Of several facts, the one that needs a
    /// user most is reported.
    pub(super) fn of(snapshot: &Snapshot, decision: &Decision, status: &ImageFamilyStatus) -> Self {
        let settled = status.counts.current + status.counts.held == status.counts.total;
        let progress = progress(&status.counts);
        let suspended = snapshot.family.spec.suspend;
        let window_closed = status.window.as_ref().is_some_and(|window| !window.open);
        if let Some(breaker) = &status.breaker {
            return Self::breaker_open(breaker);
        }
        if let Some(left_out) = Self::left_out(&snapshot.family.spec.left_out, status) {
            return left_out;
        }
        if let Some(attention) = Self::attention(decision, status) {
            return attention;
        }
        if suspended && !settled {
            let message = format!("spec.suspend is set; {progress}");
            return Self::waiting(Reason::Suspended, message);
        }
        if let Some(window) = status.window.as_ref().filter(|window| !window.open && !settled) {
            let until = window
                .until
                .map_or_else(String::new, |until| format!("; the next one opens at {until:.0}"));
            let message = format!("no window of spec.policy.windows is open{until}; {progress}");
            return Self::reconciling(Reason::WindowClosed, message);
        }
        if let Some(cascade) = status.cascades.first() {
            let Problem { reason, message } = unstarted_builds(decided_images(snapshot, decision))
                .unwrap_or_else(|| Problem {
                    reason: Reason::Cascading,
                    message: format!("{} images", status.counts.total),
                });
            let others = status.cascades.len().saturating_sub(1);
            let runs = match others {
                0 => format!("{} runs", cascade.name),
                others => format!("{} runs, and {others} more", cascade.name),
            };
            return Self::reconciling(reason, format!("{runs}; {message}"));
        }
        // While the family is suspended or its window is closed, no cascade is about to start.
        if status.pending.is_some() && !suspended && !window_closed {
            let message = "inputs have changed, and more changes may follow".to_owned();
            return Self::reconciling(Reason::Settling, message);
        }
        if let Some(failed) = snapshot.first_upstream_problem() {
            let message = format!("upstream {}: {}", failed.upstream, failed.problem.message);
            // While a registry is unreachable, the images that were built from it stay valid. A
            // registry that rejects us may hide a patch.
            let unreachable = failed.problem.reason == Reason::RegistryUnavailable;
            return if unreachable && settled {
                Self::ready(format!("{progress}; {message}"))
            } else {
                Self::stalled(failed.problem.reason, message)
            };
        }
        if settled {
            return Self::ready(settled_message(status));
        }
        Self::reconciling(Reason::Resolving, "inputs are being looked up".into())
    }

    /// Returns the conditions of a family whose spec is rejected.
    pub(super) fn rejected(problem: &Problem) -> Self {
        Self::stalled(problem.reason, problem.message.clone())
    }

    fn breaker_open(breaker: &BreakerStatus) -> Self {
        let failed = format!(
            "builds are paused: {} failed from one cause ({})",
            breaker.failures.join(", "),
            breaker.cause
        );
        // Without another image to try, nothing changes until a user or an upstream acts.
        match breaker.probe_at {
            Some(at) => Self::reconciling(
                Reason::BreakerOpen,
                format!("{failed}; one trial build starts at {at:.0}"),
            ),
            None => Self::stalled(
                Reason::BreakerOpen,
                format!("{failed}; no image is left to try until the next cascade or a retry"),
            ),
        }
    }

    /// Returns the conditions of a family whose spec has images that cannot be expanded.
    fn left_out(left_out: &[LeftOutImage], status: &ImageFamilyStatus) -> Option<Self> {
        let first = left_out.first()?;
        let more = more(left_out.len());
        let message = format!("{}{more}; all other images go on", first.problem.message);
        Some(Self::needing_user(Reason::ImagesLeftOut, message, status))
    }

    /// Returns the conditions of a family with images that need a user.
    fn attention(decision: &Decision, status: &ImageFamilyStatus) -> Option<Self> {
        let first = status.attention.first()?;
        let decided = decision.images.iter().find(|image| needs_user(image.state, image.reason))?;
        let more = more(status.attention.len());
        let reason = match decided.state {
            ImageState::Failed => Reason::ImagesFailed,
            // That of a family says that none of its images is evaluated.
            _ if [Reason::TagCollision, Reason::RepositoryNotAllowed].contains(&decided.reason) => {
                Reason::ImagesFailed
            }
            _ => decided.reason,
        };
        let message = format!("{}: {}{more}", first.image, first.message);
        Some(Self::needing_user(reason, message, status))
    }

    /// A user must act. A running cascade continues with the other images, and may still change
    /// this.
    fn needing_user(reason: Reason, message: String, status: &ImageFamilyStatus) -> Self {
        if status.cascades.is_empty() {
            Self::stalled(reason, message)
        } else {
            Self::reconciling(reason, message)
        }
    }

    fn ready(message: String) -> Self {
        Self { ready: true, ..Self::waiting(Reason::Current, message) }
    }

    fn reconciling(reason: Reason, message: String) -> Self {
        Self { reconciling: true, ..Self::waiting(reason, message) }
    }

    fn stalled(reason: Reason, message: String) -> Self {
        Self { stalled: true, ..Self::waiting(reason, message) }
    }

    /// Neither ready, nor reconciling, nor stalled.
    const fn waiting(reason: Reason, message: String) -> Self {
        Self { ready: false, reconciling: false, stalled: false, reason, message }
    }

    /// Sets the three conditions.
    pub(super) fn set(
        &self,
        conditions: &mut Vec<Condition>,
        observed_generation: Option<i64>,
        now: Timestamp,
    ) {
        for (type_, status) in
            [(READY, self.ready), (RECONCILING, self.reconciling), (STALLED, self.stalled)]
        {
            let (reason, message) = (self.reason, self.message.as_str());
            let update = ConditionUpdate { type_, status, reason, message, observed_generation };
            condition::set(conditions, update, now);
        }
    }
}

fn decided_images<'a>(
    snapshot: &'a Snapshot,
    decision: &'a Decision,
) -> impl Iterator<Item = DecidedImage<'a>> {
    let images = ImageIndex::enumerate(&snapshot.family.spec.images).zip(&decision.images);
    images.map(|((index, image), decided)| DecidedImage {
        name: &image.name,
        decided,
        builds: snapshot.builds_of(index),
    })
}

/// Returns how many there are in addition to the first one, for the end of a message.
fn more(count: usize) -> String {
    match count.saturating_sub(1) {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    }
}

fn progress(counts: &ImageCounts) -> String {
    format!("{} of {} images are current", counts.current, counts.total)
}

/// Returns the message of a family all of whose images are current or held.
fn settled_message(status: &ImageFamilyStatus) -> String {
    let counts = &status.counts;
    let held = if counts.held == 0 { String::new() } else { format!(", {} held", counts.held) };
    let waiting = status
        .upstreams
        .iter()
        .find(|upstream| upstream.candidate.is_some() && upstream.reason.is_some());
    let waiting = waiting.and_then(|upstream| {
        Some(format!("; upstream {}: {}", upstream.name, upstream.message.as_ref()?))
    });
    if counts.held == 0 && waiting.is_none() {
        return format!("all {} images are current", counts.total);
    }
    format!("{}{held}{}", progress(counts), waiting.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_whose_secrets_are_incomplete_has_a_condition_of_its_own() {
        let problem = |reason, name: &str| Problem { reason, message: format!("no Secret {name}") };
        let problems =
            [problem(Reason::SecretNotFound, "one"), problem(Reason::InvalidSecret, "two")];
        let mut status = ImageFamilyStatus::default();
        let now = Timestamp::UNIX_EPOCH;
        let incomplete = incomplete_credentials(&problems);
        set_problem(&mut status, CREDENTIALS_INCOMPLETE, incomplete.as_ref(), now);
        let condition = &status.conditions[0];
        assert!(condition::is_true(&status.conditions, CREDENTIALS_INCOMPLETE));
        assert_eq!(
            (condition.reason.as_str(), condition.message.as_str()),
            ("SecretNotFound", "no Secret one (and 1 more); the other credentials are used")
        );
        set_problem(&mut status, UPSTREAM_END_OF_LIFE, incomplete.as_ref(), now);
        let incomplete = incomplete_credentials(&[]);
        set_problem(&mut status, CREDENTIALS_INCOMPLETE, incomplete.as_ref(), now);
        assert!(!condition::is_true(&status.conditions, CREDENTIALS_INCOMPLETE));
        assert!(condition::is_true(&status.conditions, UPSTREAM_END_OF_LIFE), "it stays");
    }
}
