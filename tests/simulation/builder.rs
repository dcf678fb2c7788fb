//! The pod of a build: it reads the specification that `prepare` receives, builds an image and
//! pushes it.

use std::{collections::BTreeMap, sync::Arc};

use groundswell::{
    api::{EdgeUse, labels},
    builds::{
        config_map::config_map_hash,
        prepare::{
            error::{PrepareError, PrepareReason},
            spec::{PREPARE_VARIABLE, PrepareSpec},
        },
        request::ResolvedSource,
    },
    controller::object_cache::Key,
};
use serde_json::Value;

use crate::{
    cluster::Cluster,
    job_controller::Work,
    objects::{Kind, owner},
    registry::{BuildOrigin, Content, OTHER_PLATFORM, PLATFORM, layer},
};

/// A Dockerfile with this word fails to build, however often it is tried.
pub const BROKEN: &str = "BROKEN";
/// `prepare` rejects a Dockerfile with this word.
pub const MISMATCH: &str = "MISMATCH";
/// An image from a Dockerfile with this word fails its checks.
pub const BAD: &str = "BAD";
/// The text after this word does not change the image.
pub const COSMETIC: &str = "COSMETIC";
/// A Dockerfile with this word produces a different image every time.
pub const IRREPRODUCIBLE: &str = "IRREPRODUCIBLE";

/// The result of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushResult {
    /// Nothing was pushed, for a reason outside of the builder.
    NotPushed,
    /// This digest was pushed, or a check has passed.
    Pushed(String),
    /// The build failed with this log.
    Failed(String),
    /// `prepare` rejected the build.
    Rejected(PrepareError),
}

/// Builds the image of a Job and pushes it.
pub fn run(cluster: &mut Cluster, uid: &str, work: &Work) -> PushResult {
    let specification = specification(&work.job);
    let text = match text(cluster, &work.key.namespace, &specification.source) {
        Ok(text) => text,
        Err(error) => return PushResult::Rejected(error),
    };
    if text.contains(MISMATCH) {
        return PushResult::Rejected(PrepareError::new(
            PrepareReason::DockerfileMismatch,
            "the Dockerfile names an image that `from` does not",
        ));
    }
    let mut parents = specification.parents.iter();
    let is_base_bad = parents.any(|parent| cluster.invariants.history.is_bad_base(&parent.pinned));
    if text.contains(BROKEN) || is_base_bad {
        return PushResult::Failed(
            "error: failed to solve: process \"/bin/sh -c false\" did not complete successfully: \
             exit code: 1\n"
                .into(),
        );
    }
    let (repository, tag) = specification.image.rsplit_once(':').expect("a reference with a tag");
    let host = repository.split('/').next().unwrap_or_default();
    let now = cluster.elapsed();
    if cluster.faults.is_unreachable(host, now) {
        return PushResult::Failed(
            "error: failed to solve: failed to push x: unexpected status from POST request: 503 \
             Service Unavailable\n"
                .into(),
        );
    }
    let mut words = vec![text.split(COSMETIC).next().unwrap_or_default().to_owned()];
    words.extend(specification.args.iter().map(|(name, value)| format!("{name}={value}")));
    words.extend(specification.target.clone());
    let mut layers = Vec::new();
    for parent in &specification.parents {
        let Some(content) = cluster.registry.content(&parent.pinned).map(str::to_owned) else {
            let message = format!(
                "{} is to be built from {}, which does not exist",
                work.key.name, parent.pinned
            );
            cluster.violated("parents exist", message);
            return PushResult::Failed(
                "error: failed to solve: failed to resolve source metadata for x: not found\n"
                    .into(),
            );
        };
        if parent.usage == EdgeUse::Base {
            layers = cluster.registry.layers(&parent.pinned).unwrap_or_default().to_vec();
        } else {
            words.push(content);
        }
    }
    if text.contains(IRREPRODUCIBLE) {
        words.push(uid.into());
    }
    layers.push(layer(&words.iter().map(String::as_str).collect::<Vec<_>>()));
    let annotations = annotations(&work.job);
    let made = BuildOrigin {
        job: uid.into(),
        family: owner(&work.job).into(),
        image: work.label(labels::IMAGE).into(),
        fingerprint: work.label(labels::FINGERPRINT).into(),
        parents: specification.parents.iter().map(|parent| parent.pinned.clone()).collect(),
        source: text,
        args: specification.args.clone(),
    };
    let kept = cluster.registry.repository(repository);
    let (_, architecture) = specification.platform.split_once('/').expect("a platform");
    let architecture = [PLATFORM, OTHER_PLATFORM]
        .into_iter()
        .find(|known| *known == architecture)
        .expect("a known platform");
    let digest = kept.push(&Content { architecture, layers, created: 0 }, &annotations);
    kept.tags.insert(tag.into(), digest.clone());
    kept.origins.entry(digest.clone()).or_default().push(made);
    cluster.note(format_args!("pushed {repository}:{tag} {digest}"));
    crate::invariants::tags::pushed(cluster, repository, &digest);
    PushResult::Pushed(digest)
}

/// Returns the specification that `prepare` receives.
pub fn specification(job: &Value) -> PrepareSpec {
    let containers =
        job["spec"]["template"]["spec"]["initContainers"].as_array().expect("init containers");
    let variables =
        containers.iter().flat_map(|container| container["env"].as_array().into_iter().flatten());
    let variable = variables
        .filter(|variable| variable["name"] == PREPARE_VARIABLE)
        .find_map(|variable| variable["value"].as_str());
    serde_json::from_str(variable.expect("the specification")).expect("a specification")
}

/// Returns the text of the Dockerfile.
fn text(
    cluster: &Cluster,
    namespace: &str,
    source: &ResolvedSource,
) -> Result<String, PrepareError> {
    match source {
        ResolvedSource::Inline { dockerfile } => Ok(dockerfile.clone()),
        ResolvedSource::ConfigMap { name, items, hash } => {
            let missing =
                || PrepareError::new(PrepareReason::SourceNotFound, "the ConfigMap is gone");
            let object: &Arc<Value> = cluster
                .objects
                .get(Kind::ConfigMap, &Key::new(namespace, name))
                .ok_or_else(missing)?;
            let data: BTreeMap<String, String> =
                serde_json::from_value(object["data"].clone()).map_err(|_| missing())?;
            let now = config_map_hash(&data, &BTreeMap::new(), items).map_err(|_| missing())?;
            if now != *hash {
                return Err(PrepareError::new(
                    PrepareReason::SourceUnavailable,
                    "the ConfigMap has just changed",
                ));
            }
            Ok(data.get("Dockerfile").cloned().unwrap_or_default())
        }
        ResolvedSource::Git { commit, .. } => {
            Ok(cluster.texts.get(commit).cloned().unwrap_or_default())
        }
    }
}

/// Returns the annotations, which the model's strategy passes as arguments `name=value`.
pub fn annotations(job: &Value) -> BTreeMap<String, String> {
    let arguments =
        job["spec"]["template"]["spec"]["containers"][0]["args"].as_array().into_iter().flatten();
    let pairs = arguments.filter_map(|argument| argument.as_str()?.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
