//! What the controller keeps of a decision.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::{
    api::{BuildRecord, CascadeStatus, ManagedImageStatus, RunningCascade, TagRecord},
    engine::{
        tests::model::{FamilyModel, RunningModelCascade},
        *,
    },
    identity::CascadeName,
    lineage::ImageIndex,
};

impl FamilyModel {
    /// Keeps what a decision says of the family, its images and its cascade.
    pub(in crate::engine) fn keep(&mut self, decision: &Decision) {
        let blueprint = self.blueprint();
        let statuses = self.running.iter().map(|cascade| {
            let planned: BTreeSet<&str> =
                cascade.planned.iter().flatten().map(String::as_str).collect();
            cascade::status::cascade_status(
                &self.input(&blueprint),
                decision,
                &cascade.name,
                &planned,
                &cascade.status,
                self.now,
            )
        });
        let statuses: Vec<CascadeStatus> = statuses.collect();
        self.remembered.resize(self.spec.images.len(), Vec::new());
        for (index, known) in ImageIndex::enumerate(&mut self.remembered) {
            let (spec, lineage) = (&self.spec, &blueprint.lineage);
            *known = upstream_memory::to_remember(spec, lineage, &decision.upstreams, index, known);
        }
        self.status.upstreams.clone_from(&decision.upstreams);
        self.status.pending.clone_from(&decision.pending);
        self.status.window.clone_from(&decision.window);
        self.status.breaker.clone_from(&decision.breaker);
        for decided in &decision.requests {
            self.answers.insert(decided.name.clone(), decided.clone());
            self.requests.retain(|known| known.name != decided.name || !decided.state.has_ended());
            for known in self.requests.iter_mut().filter(|known| known.name == decided.name) {
                (known.state, known.digest) = (Some(decided.state), decided.digest.clone());
                known.reference.clone_from(&decided.reference);
                known.rollbacks.clone_from(&decided.rollbacks);
            }
        }
        if !matches!(decision.cascade, CascadeDecision::Start { .. }) {
            for (index, image) in decision.images.iter().enumerate() {
                let cascade = decision.members.name_of(ImageIndex::new(index));
                let cascade = cascade.map_or("", CascadeName::as_str);
                self.records[index] = Some(self.keep_image(index, image, cascade));
            }
        }
        match &decision.cascade {
            CascadeDecision::Start { name, levels, supersedes, .. } => {
                let names = |level: &Vec<ImageIndex>| {
                    level
                        .iter()
                        .map(|image| self.spec.images[image.position()].name.clone())
                        .collect()
                };
                let planned = levels.iter().map(names).collect();
                let supersedes = supersedes.clone();
                self.running.push(RunningModelCascade {
                    name: name.clone(),
                    supersedes,
                    planned,
                    status: CascadeStatus::default(),
                });
            }
            CascadeDecision::Continue | CascadeDecision::Finish { .. } => {
                for (cascade, status) in self.running.iter_mut().zip(statuses) {
                    cascade.status = status;
                }
            }
            CascadeDecision::None => {}
        }
        if let CascadeDecision::Finish { ending } = &decision.cascade {
            for EndedCascade { name, superseded, supersedes } in ending {
                if let Some(replaced) = supersedes {
                    self.superseded_by.insert(name.clone(), replaced.clone());
                }
                self.ended.push((name.clone(), *superseded));
                let ended = self.running.extract_if(.., |cascade| cascade.name == *name);
                self.cascades.extend(ended.map(|cascade| cascade.status));
            }
        }
        let named = self
            .running
            .iter()
            .map(|cascade| RunningCascade { name: cascade.name.to_string(), started_at: None });
        self.status.cascades = named.collect();
    }

    fn keep_image(&self, index: usize, image: &ImageDecision, cascade: &str) -> ManagedImageStatus {
        let old = self.records[index].clone().unwrap_or_default();
        let tags = self.tags.iter().filter(|((of, _), _)| *of == index);
        let verified = image.verified.as_deref().cloned();
        let mut history = old.history;
        if let Some(verified) = verified
            .as_ref()
            .filter(|verified| old.fingerprint.as_deref() != Some(verified.fingerprint.as_str()))
        {
            let cascade = cascade.to_owned();
            let (digest, causes) = (verified.digest.to_string(), verified.causes.clone());
            let finished_at = Some(self.now);
            let build = BuildRecord {
                build: Some(verified.build),
                digest,
                parents: verified.inputs.parents.clone(),
                cascade,
                causes,
                finished_at,
                ..BuildRecord::default()
            };
            history.insert(0, BuildRecord { spared: verified.spared, ..build });
        }
        ManagedImageStatus {
            state: image.state,
            reason: image.reason.into(),
            message: image.message.to_string(),
            digest: verified.as_ref().map(|verified| verified.digest.to_string()),
            fingerprint: verified.as_ref().map(|verified| verified.fingerprint.to_string()),
            build: verified.as_ref().map(|verified| verified.build),
            platform: self.platform(index).filter(|_| verified.is_some()).map(Into::into),
            last_build: old.last_build.max(image.running.as_ref().map(|running| running.build)),
            last_build_fingerprint: match &image.running {
                Some(running) if Some(running.build) > old.last_build => {
                    Some(running.fingerprint.clone())
                }
                _ => old.last_build_fingerprint,
            },
            adopted: verified.as_ref().and_then(|verified| verified.adopted.clone()).or_else(
                || {
                    let promoted = image.promoted_digest().map(String::from);
                    old.adopted.filter(|adopted| promoted == Some(adopted.digest.clone()))
                },
            ),
            content: verified
                .as_ref()
                .and_then(|verified| verified.content.as_ref())
                .map(String::from),
            checked: verified
                .as_ref()
                .and_then(|verified| verified.checked.as_ref())
                .map(String::from),
            causes: verified.as_ref().map(|verified| verified.causes.clone()).unwrap_or_default(),
            labels: verified.as_ref().map(|verified| verified.labels.clone()).unwrap_or_default(),
            inputs: verified.map(|verified| verified.inputs),
            failure: image.failure.as_deref().cloned(),
            checks: image.checks.clone(),
            promoted: image.promoted_digest().map(String::from),
            hold: image.hold.as_deref().cloned(),
            rollback: image.rollback.as_deref().cloned(),
            nonce: image.nonce.clone(),
            stands_since: image.stands_since,
            refresh_at: image.refresh_at,
            starts: self.starts(index, &old.starts),
            history,
            tags: tags
                .map(|((_, tag), digest)| TagRecord {
                    tag: tag.clone(),
                    digest: digest.clone(),
                    immutable: tag.starts_with('r'),
                })
                .collect(),
            ..ManagedImageStatus::default()
        }
    }

    /// What is remembered of an image's starts.
    fn starts(&self, index: usize, known: &[Timestamp]) -> Vec<Timestamp> {
        let Some(rate_limit) = &self.spec.policy.rate_limit else { return Vec::new() };
        let jobs = self.jobs.iter().filter(|(of, _)| *of == index);
        crate::engine::cascade::limits::starts_to_record(
            known,
            jobs.filter_map(|(_, job)| job.rate_limited_start()),
            rate_limit.builds,
            rate_limit.per.signed(),
            self.now,
        )
    }
}
