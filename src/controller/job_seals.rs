//! Seals of Jobs: an annotation that only the controller can make. A Job with our labels and
//! without a valid seal is not ours, whoever has created it: it is not stored, so that it counts
//! for nothing.
//!
//! A seal covers the namespace and the name of the Job, its owner, all of its labels and
//! annotations that the controller reads or selects by, and what our own containers run. It does
//! not cover what else the API server and webhooks change in the pod.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use tracing::warn;

use crate::{api::labels, build_records::keys::RecordKeys, builds::own_containers::OwnTemplate};

/// Maximum number of Jobs without a seal that are remembered, so that each is logged once.
const MAX_LOGGED: usize = 1024;
/// Number of characters of the hash in a Job's name.
const NAME_HASH: usize = 12;
/// The form of the seals. It is part of the names of Jobs, so that a Job whose seal has an earlier
/// form is in nobody's place.
const SEAL_FORM: &str = "containers";

/// Gives a Job of an image a name that nobody can guess, and its seal. The same Job always gets the
/// same name from one key.
pub fn seal(job: &mut Job, keys: &RecordKeys) {
    let namespace = job.namespace().unwrap_or_default();
    job.metadata.name = Some(keyed_name(&namespace, &job.name_any(), keys));
    stamp(job, keys);
}

/// Gives a Job its seal.
pub fn stamp(job: &mut Job, keys: &RecordKeys) {
    let seal = keys.seal(&sealed_text(job));
    job.annotations_mut().insert(labels::SEAL.into(), seal);
}

/// Whether a Job has a valid seal.
#[must_use]
pub fn is_sealed(job: &Job, keys: &RecordKeys) -> bool {
    let seal = job.annotations().get(labels::SEAL);
    seal.is_some_and(|seal| keys.has_sealed(&sealed_text(job), seal))
}

/// Whether two Jobs are the same work with the same seal.
#[must_use]
pub fn are_equal(one: &Job, other: &Job) -> bool {
    let seal = |job: &Job| job.annotations().get(labels::SEAL).cloned();
    seal(one) == seal(other) && sealed_text(one) == sealed_text(other)
}

/// Returns the name of a Job with a keyed hash in the place of its own one: `<image>-<hash>-<n>`.
/// Whoever knew a name beforehand could take it with another Job.
#[must_use]
pub fn keyed_name(namespace: &str, name: &str, keys: &RecordKeys) -> String {
    let keyed = keys.seal(&text_of(&[SEAL_FORM, namespace, name]));
    let hash = keyed.get(..NAME_HASH).unwrap_or_default();
    let mut parts = name.rsplitn(3, '-');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(attempt), Some(_), Some(image)) => format!("{image}-{hash}-{attempt}"),
        _ => name.into(),
    }
}

/// Returns what a seal covers. The parts are written as JSON, so that none runs into another.
fn sealed_text(job: &Job) -> String {
    let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
    let mut owners = job.owner_references().iter();
    let owner = owners.find(|owner| owner.controller == Some(true));
    let owner = owner.map(|owner| owner.uid.clone()).unwrap_or_default();
    let mut parts = vec![namespace, name, owner];
    let ours = |key: &str| {
        key.starts_with(labels::PREFIX) && key != labels::SEAL || key == labels::MANAGED_BY
    };
    for (kind, values) in [("label", job.labels()), ("annotation", job.annotations())] {
        for (key, value) in values.iter().filter(|(key, _)| ours(key)) {
            parts.extend([kind.to_owned(), key.clone(), value.clone()]);
        }
    }
    parts.extend(["containers".to_owned(), OwnTemplate::of(job).identity()]);
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    text_of(&parts)
}

fn text_of(parts: &[&str]) -> String {
    serde_json::Value::from(parts).to_string()
}

/// Tells sealed Jobs from others, and logs each of the others once.
#[derive(Clone, Debug)]
pub struct SealFilter {
    keys: RecordKeys,
    logged: Arc<Mutex<HashSet<String>>>,
}

impl SealFilter {
    /// Returns a filter of Jobs that these keys have sealed.
    #[must_use]
    pub fn new(keys: RecordKeys) -> Self {
        Self { keys, logged: Arc::default() }
    }

    /// Whether a Job is sealed.
    #[must_use]
    pub fn is_ours(&self, job: &Job) -> bool {
        if is_sealed(job, &self.keys) {
            return true;
        }
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() >= MAX_LOGGED {
            logged.clear();
        }
        if logged.insert(job.uid().unwrap_or_default()) {
            warn!(
                namespace = job.namespace(),
                job = job.name_any(),
                "a Job has the labels of Groundswell and no seal of this installation; it is \
                 ignored"
            );
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Container, PodSpec};
    use serde_json::json;

    use super::*;
    use crate::build_records::keys::tests::{key, keys};

    fn job() -> Job {
        serde_json::from_value(json!({
            "metadata": {
                "name": "web-0123456789ab-3", "namespace": "team",
                "labels": {"groundswell.dev/image": "web", "groundswell.dev/fingerprint": "f",
                    "app.kubernetes.io/managed-by": "groundswell"},
                "annotations": {"groundswell.dev/build": "1", "example.com/note": "a",
                    "groundswell.dev/containers": "prepare,build"},
                "ownerReferences": [{"apiVersion": "groundswell.dev/v1alpha1", "uid": "u",
                    "kind": "ImageFamily", "name": "shop", "controller": true}],
            },
            "spec": {"template": {"spec": {
                "initContainers": [{"name": "prepare", "image": "operator"}],
                "containers": [{"name": "build", "image": "builder", "env": [{"name": "A"}]}],
            }}},
        }))
        .expect("a Job")
    }

    fn pod(job: &mut Job) -> &mut PodSpec {
        job.spec.as_mut().and_then(|spec| spec.template.spec.as_mut()).expect("a pod")
    }

    #[test]
    fn a_seal_covers_everything_that_is_read_of_a_job() {
        let keys = keys(&[("2026", &key())]);
        let mut sealed = job();
        assert!(!is_sealed(&sealed, &keys));
        seal(&mut sealed, &keys);
        assert!(is_sealed(&sealed, &keys));
        let changes: [fn(&mut Job); 15] = [
            |job| job.metadata.name = Some("other".into()),
            |job| job.metadata.namespace = Some("other".into()),
            |job| job.metadata.owner_references = None,
            |job| drop(job.labels_mut().insert(labels::FINGERPRINT.into(), "g".into())),
            |job| drop(job.labels_mut().insert(labels::COMPONENT.into(), "check".into())),
            |job| drop(job.annotations_mut().insert(labels::BUILD.into(), "2".into())),
            |job| drop(job.annotations_mut().remove(labels::BUILD)),
            |job| drop(job.annotations_mut().insert(labels::SEAL.into(), "00".into())),
            |job| drop(job.labels_mut().remove(labels::MANAGED_BY)),
            |job| pod(job).containers[0].name = "other".into(),
            |job| pod(job).containers[0].image = Some("other".into()),
            |job| pod(job).containers[0].command = Some(vec!["other".into()]),
            |job| pod(job).containers[0].args = Some(vec!["other".into()]),
            |job| pod(job).containers[0].env = None,
            |job| pod(job).init_containers = None,
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut changed = sealed.clone();
            change(&mut changed);
            assert!(!is_sealed(&changed, &keys), "change {number}");
            assert!(!are_equal(&changed, &sealed), "change {number}");
        }
        // What others add is not read.
        sealed.annotations_mut().insert("example.com/note".into(), "b".into());
        let agent = Container { name: "agent".into(), ..Container::default() };
        pod(&mut sealed).containers.push(agent);
        sealed.labels_mut().insert("kueue.x-k8s.io/queue-name".into(), "q".into());
        assert!(is_sealed(&sealed, &keys));
    }

    #[test]
    fn a_name_follows_from_the_job_and_the_key_only() {
        let (one, other) = (key(), key());
        let named = |pem: &String| {
            let mut job = job();
            seal(&mut job, &keys(&[("2026", pem)]));
            job.name_any()
        };
        assert_eq!(named(&one), named(&one), "a crash starts no second Job");
        assert_ne!(named(&one), named(&other));
        let name = named(&one);
        assert!(name.starts_with("web-") && name.ends_with("-3"), "{name}");
        assert_eq!(name.len(), job().name_any().len());
        assert_ne!(name, job().name_any());
    }

    #[test]
    fn a_job_that_an_earlier_key_has_sealed_is_still_ours() {
        let (old, new) = (key(), key());
        let mut sealed = job();
        seal(&mut sealed, &keys(&[("2026", &old)]));
        assert!(is_sealed(&sealed, &keys(&[("2026", &old), ("2027", &new)])));
        assert!(!is_sealed(&sealed, &keys(&[("2027", &new)])));
    }

    #[test]
    fn a_job_without_a_seal_is_left_out() {
        let keys = keys(&[("2026", &key())]);
        let filter = SealFilter::new(keys.clone());
        assert!(!filter.is_ours(&job()));
        let mut sealed = job();
        seal(&mut sealed, &keys);
        assert!(filter.is_ours(&sealed));
    }
}
