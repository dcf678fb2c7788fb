//! Somebody who may push to the repositories, and has no rights in the cluster: points the tags of
//! fingerprints to images of their own, and to earlier builds together with their records.

use groundswell::{api::labels, builds::prepare::spec::PrepareSpec};

use crate::{
    builder,
    cluster::Cluster,
    job_controller::Work,
    random::Random,
    registry::{Content, PLATFORM, layer},
};

/// Points the tag of a build that has not run yet to something else. The build replaces that, if it
/// gets as far as a push.
pub fn plant(cluster: &mut Cluster, work: &Work) {
    if !work.is_check() && acts(cluster, work, "plants") {
        replace(cluster, work);
    }
}

/// Points the tag of what a build has pushed to something else, before the controller can read it.
pub fn rob(cluster: &mut Cluster, job: &str, work: &Work) {
    if acts(cluster, work, "robs")
        && replace(cluster, work)
        && let Some(work) = cluster.work.get_mut(job)
    {
        work.lose_push();
    }
}

fn acts(cluster: &Cluster, work: &Work, what: &str) -> bool {
    let rate = cluster.faults.rates.stranger;
    Random::of(cluster.seed, &format!("stranger {what} {}", work.number)).chance(rate)
}

/// Returns whether the tag of a build points to something else now.
fn replace(cluster: &mut Cluster, work: &Work) -> bool {
    let specification = builder::specification(&work.job);
    let (repository, tag) = specification.image.rsplit_once(':').expect("a reference with a tag");
    let random = &mut Random::of(cluster.seed, &format!("stranger chooses {}", work.number));
    let digest = if random.chance(500) {
        earlier_build(cluster, repository, tag)
    } else {
        Some(own_image(cluster, work, &specification))
    };
    let Some(digest) = digest else { return false };
    let known = cluster.registry.repository(repository);
    if known.tags.get(tag) == Some(&digest) {
        return false;
    }
    known.tags.insert(tag.into(), digest.clone());
    cluster.note(format_args!("a stranger points {repository}:{tag} to {digest}"));
    true
}

/// Returns an earlier build of the image, and gives its record to the tag.
fn earlier_build(cluster: &mut Cluster, repository: &str, tag: &str) -> Option<String> {
    let known = cluster.registry.repository(repository);
    let fingerprint = tag.trim_start_matches("gs-");
    let is_other = |digest: &String| {
        let origins = known.origins.get(digest).into_iter().flatten();
        origins.into_iter().all(|origin| origin.fingerprint != fingerprint)
    };
    let earlier = known.order.keys().find(|digest| is_other(digest))?.clone();
    let of_earlier = known.origins.get(&earlier).and_then(|origins| origins.first());
    let record = of_earlier.map(|origin| format!("gs-{}-record", origin.fingerprint));
    if let Some(record) = record.and_then(|record| known.tags.get(&record)).cloned() {
        known.tags.insert(format!("{tag}-record"), record);
    }
    Some(earlier)
}

/// Returns an image on the right base with the annotations of the build.
fn own_image(cluster: &mut Cluster, work: &Work, specification: &PrepareSpec) -> String {
    let base = specification.parents.first().map(|parent| parent.pinned.clone());
    let layers = base.and_then(|base| cluster.registry.layers(&base).map(<[String]>::to_vec));
    let mut layers = layers.unwrap_or_default();
    layers.push(layer(&["a stranger's", work.label(labels::FINGERPRINT)]));
    let content = Content { architecture: PLATFORM, layers, created: 0 };
    let (repository, _) = specification.image.rsplit_once(':').expect("a reference with a tag");
    let annotations = builder::annotations(&work.job);
    cluster.registry.repository(repository).push(&content, &annotations)
}
