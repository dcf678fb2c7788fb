//! What the record of an image says: the status of its `ManagedImage`. Pure.

use jiff::Timestamp;

use crate::{
    api::{
        AdoptionRecord, BuildRecord, EdgeSource, FoundEdge, Image, ImageState, ManagedImageStatus,
        ReportedPush, TagRecord,
        condition::{
            self, ConditionUpdate, READY, RECONCILING, Reason, ReasonClass, STALLED, shorten,
        },
    },
    controller::family::{
        reconcile::Reconcile,
        record::{
            history::{HistoryUpdate, KnownBuilds},
            staleness,
        },
    },
    engine::{ImageDecision, ObservedBuild, ObservedTag, PlannedBuild, cascade::limits, tags::Tag},
    identity::BuildIdentity,
    lineage::ImageIndex,
};

/// The most characters of an image's message.
const MAX_IMAGE_MESSAGE: usize = 512;

/// What a reconcile knows of one image.
#[derive(Clone, Copy)]
pub(super) struct ImageChange<'a> {
    pub(super) index: ImageIndex,
    pub(super) image: &'a Image,
    pub(super) decided: &'a ImageDecision,
    /// The generation of the record's spec.
    pub(super) generation: Option<i64>,
    /// The status of the record before this reconcile.
    pub(super) old: &'a ManagedImageStatus,
}

impl Reconcile<'_> {
    /// Returns the status of an image's record.
    pub(super) fn image_status(&self, change: ImageChange<'_>) -> ManagedImageStatus {
        let ImageChange { decided, generation: observed_generation, old, .. } = change;
        let verified = decided.verified.as_deref();
        let (reason, message) =
            (decided.reason, shorten(&decided.message.to_string(), MAX_IMAGE_MESSAGE));
        let numbered = NumberedBuild::of(old, decided);
        let mut status = ManagedImageStatus {
            observed_generation,
            conditions: old.conditions.clone(),
            state: decided.state,
            reason: reason.into(),
            message: message.clone(),
            since: old.since.filter(|_| old.state == decided.state).or(Some(self.now)),
            overdue_since: staleness::image_overdue_since(
                &self.snapshot.family.spec,
                old,
                (decided.state, reason),
                self.now,
            ),
            digest: verified.map(|verified| verified.digest.to_string()),
            fingerprint: verified.map(|verified| verified.fingerprint.to_string()),
            build: verified.map(|verified| verified.build),
            last_build: numbered.number,
            last_build_fingerprint: numbered.fingerprint,
            recorded: self.record_key(change),
            reported: self.report_to_record(change),
            platform: self.platform_to_record(change),
            adopted: adoption_to_record(change),
            size: verified.map(|verified| verified.size),
            base_observed: verified.and_then(|verified| verified.base_observed),
            stands_since: decided.stands_since,
            refresh_at: decided.refresh_at,
            inputs: verified.map(|verified| verified.inputs.clone()),
            tags: self.tags_to_record(change),
            claims: self.context.tag_owners.claims(&self.snapshot.family, &change.image.name),
            labels: verified.map(|verified| verified.labels.clone()).unwrap_or_default(),
            running: decided.running.as_deref().cloned(),
            failure: decided.failure.as_deref().cloned(),
            content: verified.and_then(|verified| verified.content.as_ref()).map(String::from),
            blobs: verified.and_then(|verified| verified.blobs.as_ref()).map(String::from),
            edges: self.edges_to_record(change),
            causes: verified.map(|verified| verified.causes.clone()).unwrap_or_default(),
            checked: verified.and_then(|verified| verified.checked.as_ref()).map(String::from),
            checks: decided.checks.clone(),
            promoted: decided.promoted_digest().map(String::from),
            hold: decided.hold.as_deref().cloned(),
            rollback: decided.rollback.as_deref().cloned(),
            nonce: decided.nonce.clone(),
            // The image reconciler writes them.
            rollouts: old.rollouts.clone(),
            starts: self.starts_to_record(change),
            history: self.history_to_record(change),
        };
        let ready = decided.state == ImageState::Current && reason == Reason::Current;
        let stalled = needs_user(decided.state, reason) || decided.state == ImageState::Blocked;
        for (type_, value) in
            [(READY, ready), (RECONCILING, !ready && !stalled), (STALLED, stalled)]
        {
            let message = message.as_str();
            let update =
                ConditionUpdate { type_, status: value, reason, message, observed_generation };
            condition::set(&mut status.conditions, update, self.now);
        }
        status
    }

    /// Returns the tags of an image as they were last set, or else as they were recorded before.
    fn tags_to_record(&self, change: ImageChange<'_>) -> Vec<TagRecord> {
        let ImageChange { index, image, decided, old, .. } = change;
        let known = self.snapshot.blueprint.images.get(index.position());
        let (Some(known), Some(verified)) = (known, &decided.verified) else {
            return old.tags.clone();
        };
        let known_tags = self.cache.tags.get(&image.name);
        let spec = &self.snapshot.family.spec;
        let build = known.tags.of_build(spec, image, verified);
        let record = |tag: &Tag| {
            let known_tag = known_tags.and_then(|known_tags| known_tags.get(&tag.name));
            match known_tag.map(|known_tag| &known_tag.tag) {
                Some(ObservedTag::At(digest)) => Some(TagRecord {
                    tag: tag.name.clone(),
                    digest: digest.to_string(),
                    immutable: tag.immutable,
                }),
                Some(ObservedTag::Taken(_)) => None,
                Some(ObservedTag::Failed(..)) | None => {
                    old.tags.iter().find(|record| record.tag == tag.name).cloned()
                }
            }
        };
        build.tags.iter().filter_map(record).collect()
    }

    /// Returns what the Dockerfile names, or else what it named when it was last read.
    fn edges_to_record(&self, change: ImageChange<'_>) -> Option<Vec<FoundEdge>> {
        let ImageChange { index, image, old, .. } = change;
        let found = self.snapshot.dockerfiles.edges(index.position());
        found.or_else(|| old.edges.clone()).filter(|_| image.edges == EdgeSource::Dockerfile)
    }

    /// Returns the id of the key that has signed the record of the last verified build.
    fn record_key(&self, change: ImageChange<'_>) -> Option<String> {
        let ImageChange { image, decided, old, .. } = change;
        let verified = decided.verified.as_deref().filter(|build| build.adopted.is_none())?;
        let known = self.cache.build_records.get(&image.name).filter(|recorded| {
            recorded.digest == verified.digest && recorded.fingerprint == verified.fingerprint
        });
        let is_same = old.digest.as_deref() == Some(verified.digest.as_str())
            && old.fingerprint.as_deref() == Some(verified.fingerprint.as_str());
        let recorded = old.recorded.clone().filter(|_| is_same);
        known.map(|known| known.key.clone()).or(recorded)
    }

    /// Returns what a build of the wanted fingerprint reports to have pushed, until it is verified.
    /// The registry may be unreachable for longer than the Job exists. So may the wanted
    /// fingerprint be unknown, because a parent waits: then the last build may be the wanted one.
    fn report_to_record(&self, change: ImageChange<'_>) -> Option<ReportedPush> {
        let ImageChange { index, decided, old, .. } = change;
        let verified = decided.verified.as_deref().map(|verified| verified.fingerprint.as_str());
        let wanted = decided.fingerprint.as_ref();
        let may_be_wanted =
            |fingerprint: &str| wanted.is_none_or(|wanted| wanted.as_str() == fingerprint);
        let observed = last_report(self.snapshot.builds_of(index), may_be_wanted);
        let known = || old.reported.clone().filter(|known| may_be_wanted(&known.fingerprint));
        let reported = observed.or_else(known)?;
        (verified != Some(reported.fingerprint.as_str())).then_some(reported)
    }

    /// Returns the platform of the last verified build. An adopted image that does not match has
    /// none: it is not known to be what the family builds.
    fn platform_to_record(&self, change: ImageChange<'_>) -> Option<String> {
        let ImageChange { index, decided, old, .. } = change;
        let verified = decided.verified.as_deref()?;
        let is_same = old.fingerprint.as_deref() == Some(verified.fingerprint.as_str());
        if is_same && (old.platform.is_some() || decided.state != ImageState::Current) {
            return old.platform.clone();
        }
        let platform = self.snapshot.platform(index).filter(|_| verified.mismatch().is_none());
        platform.map(ToString::to_string)
    }

    /// Returns the start times that the rate limit counts, with the start of this reconcile.
    fn starts_to_record(&self, change: ImageChange<'_>) -> Vec<Timestamp> {
        let ImageChange { index, decided, old, .. } = change;
        let Some(limit) = &self.snapshot.family.spec.policy.rate_limit else { return Vec::new() };
        let builds = self.snapshot.builds_of(index).iter();
        let observed = builds.filter_map(ObservedBuild::rate_limited_start);
        // A build that was not admitted has taken no place.
        let rejected: Vec<Timestamp> = self
            .snapshot
            .builds_of(index)
            .iter()
            .filter(|build| build.is_rejected())
            .filter_map(|build| build.started_at)
            .collect();
        let known = old.starts.iter().filter(|start| !rejected.contains(start));
        let known: Vec<Timestamp> = known.copied().collect();
        let started = decided.running.as_ref();
        let is_limited = |build: &PlannedBuild| build.image == index && !build.identity.user_caused;
        let started = started.filter(|_| self.decision.builds().any(is_limited));
        let starts = observed.chain(started.and_then(|running| running.started_at));
        limits::starts_to_record(&known, starts, limit.builds, limit.per.signed(), self.now)
    }

    fn history_to_record(&self, change: ImageChange<'_>) -> Vec<BuildRecord> {
        let update = HistoryUpdate {
            old: change.old,
            decided: change.decided,
            known: KnownBuilds {
                builds: self.snapshot.builds_of(change.index),
                durations: &self.snapshot.durations,
                lookups: self.cache.lookups.of(&change.image.name),
            },
            cascade: self.cascade_of(change.index),
            limit: self.snapshot.family.spec.history.builds,
            now: self.now,
        };
        update.history()
    }
}

/// Returns what the last of an image's builds that may be wanted reports to have pushed.
fn last_report(
    builds: &[ObservedBuild],
    may_be_wanted: impl Fn(&str) -> bool,
) -> Option<ReportedPush> {
    let reports = builds.iter().filter_map(|build| {
        let BuildIdentity { fingerprint, attempt, .. } = &build.identity;
        let report = ReportedPush {
            fingerprint: fingerprint.to_string(),
            digest: build.pushed.as_ref()?.to_string(),
        };
        may_be_wanted(fingerprint.as_str()).then_some(((build.started_at, *attempt), report))
    });
    reports.max_by_key(|(at, _)| *at).map(|(_, report)| report)
}

/// Returns how the last verified build was adopted, or else the digest that tags still point to.
fn adoption_to_record(change: ImageChange<'_>) -> Option<AdoptionRecord> {
    let ImageChange { decided, old, .. } = change;
    let of_verified = decided.verified.as_ref().and_then(|verified| verified.adopted.clone());
    let promoted = decided.promoted_digest();
    let earlier = old.adopted.as_ref();
    let earlier = earlier.filter(|old| promoted.is_some_and(|digest| *digest == old.digest));
    of_verified.or_else(|| earlier.cloned())
}

/// Returns whether an image in this state stays in it until a user changes something.
#[must_use]
pub fn needs_user(state: ImageState, reason: Reason) -> bool {
    match state {
        ImageState::Failed => true,
        ImageState::Waiting | ImageState::Queued | ImageState::Checking => {
            !matches!(reason.class(), ReasonClass::Expected | ReasonClass::Gated)
        }
        // The image is current, but a tag could not be set.
        ImageState::Current => reason != Reason::Current,
        // An image that is rolled back, but whose tags could not be moved.
        ImageState::Held => reason != Reason::Held,
        ImageState::Building | ImageState::Blocked => false,
    }
}

/// The highest number given to a build, and the fingerprint that has it.
struct NumberedBuild {
    number: Option<i64>,
    fingerprint: Option<String>,
}

impl NumberedBuild {
    /// Returns the number after this decision.
    fn of(old: &ManagedImageStatus, decided: &ImageDecision) -> Self {
        let verified = decided.verified.as_deref();
        let verified = verified.map(|build| (build.build, build.fingerprint.to_string()));
        let running = decided.running.as_deref();
        let running = running.map(|build| (build.build, build.fingerprint.clone()));
        let newer = verified.into_iter().chain(running).max_by_key(|(number, _)| *number);
        match newer {
            Some((number, fingerprint)) if Some(number) > old.last_build => {
                Self { number: Some(number), fingerprint: Some(fingerprint) }
            }
            _ => Self { number: old.last_build, fingerprint: old.last_build_fingerprint.clone() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{BuildOutcome, fixtures};

    #[test]
    fn of_builds_that_may_be_wanted_the_last_report_counts() {
        let build = |fingerprint: &str, attempt, started_at, pushed: Option<&str>| ObservedBuild {
            pushed: pushed.map(Into::into),
            started_at: Timestamp::from_second(started_at).ok(),
            ..fixtures::job(fingerprint, attempt, BuildOutcome::Succeeded)
        };
        let builds = [
            build("newer", 0, 20, Some("sha256:2")),
            build("older", 1, 10, Some("sha256:1")),
            build("silent", 0, 30, None),
        ];
        let digest = |wanted: Option<&str>| {
            let report = last_report(&builds, |it| wanted.is_none_or(|wanted| wanted == it));
            report.map(|report| report.digest)
        };
        // The wanted fingerprint is unknown while a parent waits.
        assert_eq!(digest(None).as_deref(), Some("sha256:2"));
        assert_eq!(digest(Some("older")).as_deref(), Some("sha256:1"));
        assert_eq!(digest(Some("silent")), None);
    }
}
