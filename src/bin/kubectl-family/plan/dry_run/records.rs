//! What a dry run keeps of a decision: what the controller would record, and what registry, builds
//! and checks are assumed to make of it.

use std::{collections::BTreeSet, sync::Arc};

use groundswell::{
    api::{
        BuildRecord, CascadeStatus, CheckRecord, CheckState, Image, ManagedImageStatus,
        RunningCascade,
    },
    engine::{
        CascadeDecision, Decision, Effect, ImageDecision, Lookup, LookupResult, PlannedBuild,
        VerifiedBuild, blueprint::ImageBlueprint, cascade::status::cascade_status,
    },
    identity::{CascadeName, Fingerprint, ImageDigest, JobName},
    lineage::ImageIndex,
};

use super::{AssumedRegistry, DryCascade, DryImage, DryRun, digest_of};

impl DryRun<'_> {
    /// Answers what a decision asks the registry. Returns whether it has asked something.
    pub(super) fn answer(&mut self, decision: &Decision, registry: AssumedRegistry) -> bool {
        let mut is_asked = false;
        for effect in &decision.effects {
            let Effect::LookUp { image, fingerprint, after, .. } = effect else { continue };
            match registry {
                AssumedRegistry::HasAll => self.push(*image, fingerprint, 1),
                AssumedRegistry::HasNone => {
                    let (after, asked_at) = (*after, self.now);
                    let result = LookupResult::Absent { last_build: None, after, asked_at };
                    if let Some(known) = self.images.get_mut(image.position()) {
                        known.set_lookup(fingerprint, result);
                    }
                }
            }
            is_asked = true;
        }
        is_asked
    }

    /// Has the registry answer that it has a build, which has passed its checks.
    fn push(&mut self, image: ImageIndex, fingerprint: &Fingerprint, build: i64) {
        let digest = digest_of(fingerprint.as_ref());
        self.pass_checks(image, &digest.as_str().into());
        let Some(known) = self.images.get_mut(image.position()) else { return };
        let result = LookupResult::Present {
            digest: digest.into(),
            build,
            size: 0,
            content: None,
            blobs: None,
            request: None,
        };
        known.set_lookup(fingerprint, result);
    }

    /// Starts a build, which succeeds at once.
    pub(super) fn build(&mut self, build: &PlannedBuild) {
        let (image, identity) = (build.image, &build.identity);
        self.push(image, &identity.fingerprint, identity.number);
        let is_limited = self.spec.policy.rate_limit.is_some() && !identity.user_caused;
        let now = self.now;
        if let Some(known) = self.images.get_mut(image.position()) {
            let record = known.record.get_or_insert_default();
            record.last_build = record.last_build.max(Some(identity.number));
            record.starts.extend(is_limited.then_some(now));
        }
    }

    /// Has the builds succeed that run, if any do. Returns whether there are any.
    pub(super) fn finish_running(&mut self) -> bool {
        let mut finished = Vec::new();
        for (index, image) in ImageIndex::enumerate(&mut self.images) {
            finished.extend(image.builds.drain(..).map(|build| (index, build.identity)));
        }
        for (image, identity) in &finished {
            self.push(*image, &identity.fingerprint, identity.number);
        }
        !finished.is_empty()
    }

    /// Has a digest pass all checks of its image. Returns whether it had not before.
    pub(super) fn pass_checks(&mut self, image: ImageIndex, digest: &ImageDigest) -> bool {
        let spec = self.family.family.spec.images.get(image.position());
        let blueprint = self.family.blueprint.images.get(image.position());
        let Some(known) = self.images.get_mut(image.position()) else { return false };
        let record = known.record.get_or_insert_default();
        let passed = passed_checks(spec.zip(blueprint), digest.as_str());
        let before = std::mem::replace(&mut record.checks, passed);
        before != record.checks
    }

    /// Stops a running build. Returns whether there is one.
    pub(super) fn stop(&mut self, job: &JobName) -> bool {
        let mut is_stopped = false;
        for image in &mut self.images {
            let count = image.builds.len();
            image.builds.retain(|build| build.job != *job);
            is_stopped |= image.builds.len() < count;
        }
        is_stopped
    }

    /// Starts and ends cascades, and keeps the records of those that run. Returns whether one
    /// starts or ends.
    pub(super) fn advance_cascades(&mut self, decision: &Decision) -> bool {
        let statuses = self.cascade_statuses(decision);
        for (cascade, status) in self.cascades.iter_mut().zip(statuses) {
            cascade.status = status;
        }
        match &decision.cascade {
            CascadeDecision::Start { name, levels, supersedes, .. } => {
                let images = &self.family.family.spec.images;
                let names = |level: &Vec<ImageIndex>| {
                    let known = level.iter().filter_map(|image| images.get(image.position()));
                    known.map(|image| image.name.clone()).collect()
                };
                self.cascades.push(DryCascade {
                    name: name.clone(),
                    supersedes: supersedes.clone(),
                    planned: levels.iter().map(names).collect(),
                    status: CascadeStatus::default(),
                });
            }
            CascadeDecision::Finish { ending } => {
                self.cascades.retain(|known| ending.iter().all(|ended| ended.name != known.name));
                self.ended.extend(ending.iter().cloned());
            }
            CascadeDecision::None | CascadeDecision::Continue => return false,
        }
        let running = self
            .cascades
            .iter()
            .map(|cascade| RunningCascade { name: cascade.name.to_string(), started_at: None });
        self.status.cascades = running.collect();
        true
    }

    fn cascade_statuses(&self, decision: &Decision) -> Vec<CascadeStatus> {
        if self.cascades.is_empty() {
            return Vec::new();
        }
        let input = self.input();
        let statuses = self.cascades.iter().map(|cascade| {
            let planned: BTreeSet<&str> =
                cascade.planned.iter().flatten().map(String::as_str).collect();
            let (name, status) = (&cascade.name, &cascade.status);
            cascade_status(&input, decision, name, &planned, status, self.now)
        });
        statuses.collect()
    }

    /// Keeps what a decision says of the requests. Returns whether one of them has ended.
    pub(super) fn keep_requests(&mut self, decision: &Decision) -> bool {
        let count = self.requests.len();
        for decided in &decision.requests {
            let is_ended = decided.state.has_ended();
            self.requests.retain(|known| known.name != decided.name || !is_ended);
            for known in self.requests.iter_mut().filter(|known| known.name == decided.name) {
                known.state = Some(decided.state);
                known.digest.clone_from(&decided.digest);
                known.reference.clone_from(&decided.reference);
            }
        }
        self.requests.len() < count
    }

    /// Keeps of a decision what the controller records of the family and its images. Returns
    /// whether anything is new.
    pub(super) fn keep(&mut self, decision: &Decision) -> bool {
        let is_same = self.status.upstreams == decision.upstreams
            && self.status.pending == decision.pending
            && self.status.breaker == decision.breaker;
        self.status.upstreams.clone_from(&decision.upstreams);
        self.status.pending.clone_from(&decision.pending);
        self.status.window.clone_from(&decision.window);
        self.status.breaker.clone_from(&decision.breaker);
        if matches!(decision.cascade, CascadeDecision::Start { .. }) {
            return true;
        }
        let mut is_new = false;
        let blueprints = &self.family.blueprint.images;
        let images = self.images.iter_mut().zip(&decision.images).zip(blueprints);
        for (index, ((known, decided), blueprint)) in ImageIndex::enumerate(images) {
            let record = known.record.get_or_insert_default();
            is_new |= keep_state(record, decided);
            let cascade = decision.members.name_of(index).map_or("", CascadeName::as_str);
            is_new |= known.keep_build(decided, blueprint, cascade, self.now);
        }
        is_new || !is_same
    }
}

/// Keeps what a decision says of an image's failures, its forced rebuild and its age.
fn keep_state(record: &mut ManagedImageStatus, decided: &ImageDecision) -> bool {
    let failure = decided.failure.as_deref();
    let is_same = record.failure.as_ref() == failure && record.nonce == decided.nonce;
    record.state = decided.state;
    record.failure = failure.cloned();
    record.nonce.clone_from(&decided.nonce);
    record.stands_since = decided.stands_since;
    !is_same
}

impl DryImage {
    fn set_lookup(&mut self, fingerprint: &Fingerprint, result: LookupResult) {
        self.lookups.retain(|lookup| lookup.fingerprint != *fingerprint);
        self.lookups.push(Lookup { fingerprint: fingerprint.clone(), result });
    }

    /// Keeps a build that is new. Returns whether it is.
    fn keep_build(
        &mut self,
        decided: &ImageDecision,
        blueprint: &ImageBlueprint,
        cascade: &str,
        now: jiff::Timestamp,
    ) -> bool {
        let Some(verified) = &decided.verified else { return false };
        if self.verified.as_ref().is_some_and(|known| known.fingerprint == verified.fingerprint) {
            return false;
        }
        // Its checks have passed before it was pushed as far as a dry run knows.
        let checked = blueprint.checks.clone();
        let verified = VerifiedBuild { checked, ..VerifiedBuild::clone(verified) };
        let record = self.record.get_or_insert_default();
        record.digest = Some(verified.digest.to_string());
        record.fingerprint = Some(verified.fingerprint.to_string());
        record.build = Some(verified.build);
        record.last_build = record.last_build.max(Some(verified.build));
        record.inputs = Some(verified.inputs.clone());
        record.checked = verified.checked.as_ref().map(ToString::to_string);
        let build = BuildRecord {
            build: Some(verified.build),
            fingerprint: verified.fingerprint.to_string(),
            digest: verified.digest.to_string(),
            cascade: cascade.into(),
            finished_at: Some(now),
            ..BuildRecord::default()
        };
        record.history.insert(0, build);
        self.verified = Some(Arc::new(verified));
        true
    }
}

/// Returns the records of the checks of an image, all of which a digest has passed.
fn passed_checks(image: Option<(&Image, &ImageBlueprint)>, digest: &str) -> Vec<CheckRecord> {
    let checks = image
        .into_iter()
        .flat_map(|(image, blueprint)| image.checks.iter().zip(&blueprint.check_revisions));
    let records = checks.map(|(check, revision)| CheckRecord {
        name: check.name.clone(),
        digest: digest.to_owned(),
        revision: revision.clone(),
        state: CheckState::Passed,
        ..CheckRecord::default()
    });
    records.collect()
}
