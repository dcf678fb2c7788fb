//! Families that reserve places of a quota, for its tests.

use std::collections::BTreeMap;

use futures::FutureExt;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use kube::api::ObjectMeta;

use super::*;
use crate::api::ImageFamilySpec;

pub(super) fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

/// The builds that a reconcile in progress will start, as indices.
pub(super) type StartedBuilds = Vec<usize>;

/// A family as the engine would decide for it: its ready builds in their order, and its running
/// ones.
#[derive(Clone, Debug)]
pub(super) struct FakeFamily {
    pub(super) key: Key,
    pub(super) weight: i32,
    pub(super) parallelism: usize,
    pub(super) ready: Vec<BuildUpstreams>,
    pub(super) running: Vec<String>,
    pub(super) created: usize,
}

impl FakeFamily {
    pub(super) fn new(namespace: &str, name: &str, ready: &[&str]) -> Self {
        let ready =
            ready.iter().map(|upstreams| upstreams.split_whitespace().map(str::to_owned).collect());
        Self {
            key: Key::new(namespace, name),
            weight: 10,
            parallelism: 100,
            ready: ready.collect(),
            running: Vec::new(),
            created: 0,
        }
    }

    /// Returns the indices of the builds that it would start.
    pub(super) fn decide(&self, allowance: &BuildAllowance) -> Vec<usize> {
        let mut free = allowance.clone();
        let mut start = Vec::new();
        for (index, build) in self.ready.iter().enumerate() {
            let full = start.len() + self.running.len() >= self.parallelism
                || free.family == Some(0)
                || build.iter().any(|upstream| free.upstreams.get(upstream) == Some(&0));
            if full {
                continue;
            }
            free.family = free.family.map(|free| free - 1);
            for upstream in build {
                free.upstreams.entry(upstream.clone()).and_modify(|free| *free -= 1);
            }
            start.push(index);
        }
        start
    }

    pub(super) fn request(&self, start: &[usize]) -> QuotaRequest {
        QuotaRequest {
            weight: self.weight,
            builds: start.iter().map(|index| self.ready[*index].clone()).collect(),
        }
    }
}

/// The stores of a cluster, and the quota.
pub(super) struct QuotaFixture {
    pub(super) stores: Stores,
    pub(super) quota: BuildQuota,
    pub(super) version: u64,
}

impl QuotaFixture {
    pub(super) fn new(limits: BuildLimits, families: &[&FakeFamily]) -> Self {
        let mut fixture =
            Self { stores: Stores::default(), quota: BuildQuota::new(limits), version: 0 };
        for family in families {
            let metadata = fixture.metadata(&family.key.namespace, &family.key.name);
            let family = ImageFamily { metadata, spec: ImageFamilySpec::default(), status: None };
            fixture.stores.families.record_write(family);
        }
        fixture
    }

    pub(super) fn metadata(&mut self, namespace: &str, name: &str) -> ObjectMeta {
        self.version += 1;
        ObjectMeta {
            namespace: Some(namespace.into()),
            name: Some(name.into()),
            uid: Some(format!("{namespace}/{name}")),
            resource_version: Some(self.version.to_string()),
            ..ObjectMeta::default()
        }
    }

    pub(super) fn job(&mut self, family: &Key, name: &str, upstreams: &BuildUpstreams) -> Job {
        let metadata = self.metadata(&family.namespace, name);
        let labels = [(labels::FAMILY, family.name.as_str()), (labels::FINGERPRINT, "f")];
        let labels = labels.map(|(label, value)| (label.to_owned(), value.to_owned()));
        Job {
            metadata: ObjectMeta {
                labels: Some(BTreeMap::from(labels)),
                annotations: Some(BTreeMap::from([(
                    labels::UPSTREAMS.to_owned(),
                    upstreams.join(","),
                )])),
                ..metadata
            },
            ..Job::default()
        }
    }

    pub(super) fn create(&mut self, family: &mut FakeFamily, index: usize) {
        let build = family.ready.remove(index);
        family.created += 1;
        let name = format!("{}-{}", family.key.name, family.created);
        let job = self.job(&family.key, &name, &build);
        self.stores.jobs.record_write(job);
        family.running.push(name);
    }

    /// Completes the family's first Job.
    pub(super) fn end(&mut self, family: &mut FakeFamily) {
        let name = family.running.remove(0);
        let known = self.stores.jobs.get(&Key::new(&family.key.namespace, &name)).expect("a job");
        self.version += 1;
        let mut job = Job::clone(&known);
        job.metadata.resource_version = Some(self.version.to_string());
        let complete = JobCondition {
            type_: "Complete".into(),
            status: "True".into(),
            ..JobCondition::default()
        };
        job.status = Some(JobStatus { conditions: Some(vec![complete]), ..JobStatus::default() });
        self.stores.jobs.record_write(job);
    }

    /// Reconciles a family. Returns how many builds it started.
    pub(super) fn reconcile(&mut self, family: &mut FakeFamily, now: i64) -> usize {
        let start = self.reserve(family, now);
        for index in start.iter().rev() {
            self.create(family, *index);
        }
        _ = self.reopened(&family.key, now).commit(&self.stores);
        start.len()
    }

    /// Reserves places for a family, and returns the builds that it may start. The reservation is
    /// forgotten, because the fixture is changed before it ends: see [`Self::reopened`].
    pub(super) fn reserve(&self, family: &FakeFamily, now: i64) -> StartedBuilds {
        let mut start = family.decide(&BuildAllowance::default());
        let mut reservation = self.quota.open_reservation(&family.key, &self.stores, second(now));
        reservation.reserve_builds(family.request(&start), |allowance| {
            start = family.decide(&allowance);
            family.request(&start)
        });
        std::mem::forget(reservation);
        start
    }

    /// Returns the reservation that was forgotten while the fixture was changed.
    pub(super) fn reopened(&self, family: &Key, now: i64) -> Reservation<'_> {
        let is_limited = self.quota.limits != BuildLimits::default();
        Reservation {
            quota: is_limited.then_some(&self.quota),
            family: family.clone(),
            now: second(now),
        }
    }

    pub(super) fn admitted(&self) -> Vec<Key> {
        std::iter::from_fn(|| self.quota.next_admitted().now_or_never()).collect()
    }
}

pub(super) fn indices_of<T>(entries: &[T], matches: impl Fn(&T) -> bool) -> Vec<usize> {
    (0..entries.len()).filter(|index| matches(&entries[*index])).collect()
}
