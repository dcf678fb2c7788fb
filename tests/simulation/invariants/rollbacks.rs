//! What is rolled back stays so until its end, and causes no build.

use groundswell::{
    api::{ImageFamilySpec, ManagedImageStatus, labels},
    controller::object_cache::Key,
    engine::fingerprint::own_hash,
};
use serde::Deserialize;
use serde_json::Value;

use super::{requests, short};
use crate::{
    builder,
    cluster::Cluster,
    objects::{Kind, key_of, label},
    scene::repository,
};

/// What a rollback says of the floating tags of an image.
#[derive(Debug, Default)]
pub struct RolledBackTags {
    /// The digests that users have asked for, as records and requests say.
    asked: Vec<String>,
    /// The digest that a tag must be set to, because nobody ends the rollback.
    kept: Option<String>,
}

impl RolledBackTags {
    /// Returns what is recorded of the rollback of an image.
    pub fn of(cluster: &Cluster, family: &Key, image: &str) -> Self {
        let mut tags = Self::default();
        for (_, request) in cluster.objects.all(Kind::Request) {
            let rollbacks = request["status"]["rollbacks"].as_array().into_iter().flatten();
            let of_image = rollbacks.filter(|rollback| rollback["image"] == image);
            if request["spec"]["family"] == family.name.as_str() {
                let digests = of_image.filter_map(|rollback| rollback["digest"].as_str());
                tags.asked.extend(digests.map(str::to_owned));
            }
        }
        let key = Key::new(&family.namespace, &format!("{}.{image}", family.name));
        let Some(record) = cluster.objects.get(Kind::Image, &key) else { return tags };
        let status = &record["status"];
        let Some(digest) = status["rollback"]["digest"].as_str() else { return tags };
        tags.asked.push(digest.to_owned());
        let mut others = requests::open(cluster, family, &["Unhold", "Rollback"]);
        let request = &status["hold"]["request"];
        let is_changed = others.any(|other| other["metadata"]["name"] != *request);
        // A call that an earlier process has made may arrive late.
        if requests::is_open(cluster, request) && !is_changed && !cluster.is_late {
            tags.kept = Some(digest.to_owned());
        }
        tags
    }

    /// Whether users have asked that tags point to this digest.
    pub fn are_asked_for(&self, digest: &str) -> bool {
        self.asked.iter().any(|asked| asked == digest)
    }

    /// Checks that a floating tag that is set to a digest stays rolled back.
    pub fn check(&self, digest: &str, shown: &str) -> Option<(&'static str, String)> {
        let kept = self.kept.as_ref().filter(|kept| *kept != digest)?;
        Some(("what is rolled back stays so", format!("{shown}, and not {}", short(kept))))
    }
}

/// Checks that a build is not only due to the rollback of a parent.
pub fn build(
    cluster: &Cluster,
    spec: &ImageFamilySpec,
    family: &Key,
    job: &Value,
    shown: &str,
) -> Option<(&'static str, String)> {
    let record = |image: &str| {
        let key = Key::new(&family.namespace, &format!("{}.{image}", family.name));
        let object = cluster.objects.get(Kind::Image, &key)?;
        ManagedImageStatus::deserialize(&object["status"]).ok()
    };
    let inputs = record(label(job, labels::IMAGE))?.inputs?;
    let own = job["metadata"]["annotations"][labels::OWN_INPUTS].as_str()?;
    if own_hash(&inputs).as_str() != own {
        return None;
    }
    let wanted = builder::specification(job).parents;
    if wanted.len() != inputs.parents.len() {
        return None;
    }
    let is_rolled_back = |pinned: &str| {
        let name = pinned.split('@').next().unwrap_or_default();
        let mut images = spec.images.iter();
        let parent = images.find(|image| repository(spec, image) == name);
        let parent = parent.and_then(|parent| record(&parent.name));
        parent.is_some_and(|parent| {
            let request = parent.hold.map(|hold| hold.request).unwrap_or_default();
            let mut others = requests::open(cluster, family, &["Unhold", "Rollback"]);
            // The build may be due to the end of the rollback, which is recorded after its start.
            let is_changed = others.any(|other| other["metadata"]["name"] != *request);
            parent.rollback.is_some() && !is_changed && requests::is_open(cluster, &request.into())
        })
    };
    let changed: Vec<&str> = wanted
        .iter()
        .zip(&inputs.parents)
        .filter(|(wanted, last)| !wanted.pinned.ends_with(last.digest.as_str()))
        .map(|(wanted, _)| wanted.pinned.as_str())
        .collect();
    let is_due = !changed.is_empty() && changed.iter().all(|pinned| is_rolled_back(pinned));
    is_due.then(|| ("a rollback starts no build", format!("{shown}: {changed:?}")))
}

/// Checks that a record that is rolled back says who has asked for it.
pub fn recorded(record: &Value) -> Option<(&'static str, String)> {
    let status = &record["status"];
    let is_rolled_back = !status["rollback"].is_null();
    let digest = &status["rollback"]["digest"];
    let is_promoted = status["promoted"] == *digest;
    (is_rolled_back && (status["hold"].is_null() || !is_promoted))
        .then(|| ("what is rolled back is held", format!("{}: {status}", key_of(record).name)))
}
