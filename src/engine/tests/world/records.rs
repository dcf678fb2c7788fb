//! What the controller keeps of a decision.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Wave, World};
use crate::{
    api::{BuildRecord, CascadeStatus, FamilyImageStatus, RunningCascade, TagRecord, handled_request::record},
    engine::*,
};

impl World {
    /// Keeps what a decision says of the family, its images and its wave.
    pub(super) fn keep(&mut self, decision: &Decision) {
        let blueprint = self.blueprint();
        let wave_status = self.wave.as_ref().map(|wave| {
            let planned: BTreeSet<&str> = wave.planned.iter().flatten().map(String::as_str).collect();
            wave::record(&self.seen(&blueprint), decision, &wave.name, &planned, &wave.status, self.now)
        });
        self.status.upstreams.clone_from(&decision.upstreams);
        self.status.pending.clone_from(&decision.pending);
        self.status.window.clone_from(&decision.window);
        self.status.breaker.clone_from(&decision.breaker);
        for (target, handled) in &decision.handled {
            self.requests.retain(|request| request.target != *target);
            record(&mut self.status.requests, handled.clone());
        }
        if !matches!(decision.wave, WaveStep::Open { .. }) {
            for (index, image) in decision.images.iter().enumerate() {
                self.records[index] = Some(self.keep_image(index, image, decision.wave.name().unwrap_or_default()));
            }
        }
        match &decision.wave {
            WaveStep::Open { name, levels, supersedes, .. } => {
                let names =
                    |level: &Vec<usize>| level.iter().map(|image| self.spec.images[*image].name.clone()).collect();
                let planned = levels.iter().map(names).collect();
                let supersedes = supersedes.clone();
                self.wave = Some(Wave { name: name.clone(), supersedes, planned, status: CascadeStatus::default() });
                self.status.cascade = Some(RunningCascade { name: name.clone(), started_at: None });
            }
            WaveStep::Running { .. } => {
                if let (Some(wave), Some(status)) = (&mut self.wave, wave_status) {
                    wave.status = status;
                }
            }
            WaveStep::Close { name, superseded } => {
                self.wave = None;
                self.ended.push((name.clone(), *superseded));
                self.waves.extend(wave_status);
            }
            WaveStep::None => {}
        }
    }

    fn keep_image(&self, index: usize, image: &ImageDecision, wave: &str) -> FamilyImageStatus {
        let old = self.records[index].clone().unwrap_or_default();
        let tags = self.tags.iter().filter(|((of, _), _)| *of == index);
        let good = image.good.as_deref().cloned();
        let mut history = old.history;
        if let Some(good) = good.as_ref().filter(|good| old.fingerprint.as_ref() != Some(&good.fingerprint)) {
            let cascade = wave.to_owned();
            let (digest, causes) = (good.digest.clone(), good.causes.clone());
            let finished_at = Some(self.now);
            let build =
                BuildRecord { build: Some(good.build), digest, cascade, causes, finished_at, ..BuildRecord::default() };
            history.insert(0, BuildRecord { spared: good.spared, ..build });
        }
        FamilyImageStatus {
            state: image.state,
            reason: image.reason.into(),
            message: image.message.to_string(),
            digest: good.as_ref().map(|good| good.digest.clone()),
            fingerprint: good.as_ref().map(|good| good.fingerprint.clone()),
            build: good.as_ref().map(|good| good.build),
            last_build: old.last_build.max(image.running.as_ref().map(|running| running.build)),
            content: good.as_ref().and_then(|good| good.content.clone()),
            checked: good.as_ref().and_then(|good| good.checked.clone()),
            causes: good.as_ref().map(|good| good.causes.clone()).unwrap_or_default(),
            inputs: good.map(|good| good.inputs),
            failure: image.failure.as_deref().cloned(),
            checks: image.checks.clone(),
            promoted: image.promoted().map(str::to_owned),
            hold: image.hold.as_deref().cloned(),
            nonce: image.nonce.clone(),
            starts: self.starts(index, &old.starts),
            history,
            tags: tags
                .map(|((_, tag), digest)| TagRecord {
                    tag: tag.clone(),
                    digest: digest.clone(),
                    immutable: tag.starts_with('r'),
                })
                .collect(),
            ..FamilyImageStatus::default()
        }
    }

    /// What is remembered of an image's starts.
    fn starts(&self, index: usize, known: &[Timestamp]) -> Vec<Timestamp> {
        let Some(storm) = &self.spec.policy.storm else { return Vec::new() };
        let jobs = self.jobs.iter().filter(|(of, _)| *of == index);
        budget::remembered(
            known,
            jobs.filter_map(|(_, job)| job.uncaused_start()),
            storm.starts,
            storm.per.signed(),
            self.now,
        )
    }
}
