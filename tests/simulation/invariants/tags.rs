//! Where a tag may stand: on a checked digest, and never on an older one than before.

use std::collections::BTreeMap;

use groundswell::{
    api::{Image, ImageFamilySpec, Promotion, labels},
    controller::cache::Key,
};

use super::{remember_truth, seen, short};
use crate::{
    cluster::Cluster,
    job_controller::Phase,
    objects::{Kind, owner, uid},
    scene::repository,
};

/// A build has pushed: what it stands on is known from now on.
pub fn pushed(cluster: &mut Cluster, repository: &str, digest: &str) {
    let pinned = format!("{repository}@{digest}");
    let Some(made) = cluster.registry.made(&pinned).last().cloned() else { return };
    let mut leaves = BTreeMap::from([(format!("source of {repository}"), made.source.clone())]);
    for parent in &made.parents {
        match cluster.invariants.leaves.get(parent) {
            Some(below) => leaves.extend(below.clone()),
            None => {
                let (name, digest) = parent.split_once('@').unwrap_or_default();
                leaves.insert(name.into(), digest.into());
            }
        }
    }
    cluster.invariants.leaves.insert(pinned, leaves);
}

/// The controller sets a tag: checked before it takes effect. `digest` is of what is put.
pub fn set(cluster: &mut Cluster, name: &str, tag: &str, digest: &str) {
    cluster.invariants.effects += 1;
    let standing = cluster.registry.tag(name, tag).map(str::to_owned);
    let pinned = format!("{name}@{digest}");
    let shown = format!("{name}:{tag} to {}", short(digest));
    let mut found = Vec::new();
    if cluster.registry.made(&pinned).is_empty() {
        found.push(("tags stand on checked digests", shown.clone()));
    }
    let moves = standing.filter(|standing| standing != digest);
    if tag.starts_with("gs-") {
        // Remembered: the build came out the same as an earlier one.
        let content = |digest: &str| cluster.registry.content(&format!("{name}@{digest}"));
        if moves.is_some_and(|standing| content(&standing) != content(digest)) {
            found.push(("what is spared is the same", shown));
        }
    } else {
        if let Some(standing) = &moves {
            if is_immutable(tag) {
                found.push(("immutable tags never move", format!("{shown} from {}", short(standing))));
            } else if let Some(why) = backwards(cluster, name, standing, digest) {
                found.push(("floating tags never go backwards", format!("{shown} from {}: {why}", short(standing))));
            }
        }
        if let Some((key, spec, image)) = image_of(cluster, name) {
            if spec.suspend {
                found.push(("suspended families move no tags", shown.clone()));
            }
            if !cluster.invariants.is_checked(&image, &pinned) {
                found.push(("tags stand on checked digests", format!("{shown}, unchecked")));
            }
            let waits = spec.policy.promotion == Promotion::Wave && !is_immutable(tag);
            if waits && let Some(why) = unfinished(cluster, &key, &spec, &image, digest) {
                found.push(("floating tags wait for the whole wave", format!("{shown}, and {why}")));
            }
        }
    }
    for (invariant, message) in found {
        cluster.violated(invariant, message);
    }
}

/// Whether a tag of the scripts names the build.
fn is_immutable(tag: &str) -> bool {
    let numbered = |end: &str| end.strip_prefix('r').is_some_and(|number| number.parse::<u32>().is_ok());
    tag.starts_with("x-") || tag.rsplit('-').next().is_some_and(numbered)
}

/// The family and the image that a repository is pushed by, as the pass under way has seen them.
fn image_of(cluster: &Cluster, name: &str) -> Option<(Key, std::sync::Arc<ImageFamilySpec>, Image)> {
    let families = cluster.objects.all(Kind::Family);
    families
        .filter_map(|(key, _)| {
            let (spec, _) = seen(cluster, key)?;
            let image = spec.images.iter().find(|image| repository(&spec, image) == name)?.clone();
            Some((key.clone(), spec, image))
        })
        .next()
}

/// A required image of the running wave that is not built yet, unless the digest is one that was promoted before.
fn unfinished(cluster: &Cluster, key: &Key, spec: &ImageFamilySpec, image: &Image, digest: &str) -> Option<String> {
    let record = cluster.objects.get(Kind::Image, &Key::new(&key.namespace, &format!("{}.{}", key.name, image.name)));
    if record.is_some_and(|record| record["status"]["promoted"] == digest) {
        return None;
    }
    let family = cluster.objects.get(Kind::Family, key)?;
    let waves = cluster.objects.all(Kind::Cascade).filter(|(_, wave)| owner(wave) == uid(family));
    let running = waves.filter(|(_, wave)| matches!(wave["status"]["phase"].as_str(), None | Some("Running")));
    let running: Vec<&str> = running.map(|(wave, _)| wave.name.as_str()).collect();
    let mut last: BTreeMap<&str, &crate::job_controller::Work> = BTreeMap::new();
    let mut builds: Vec<_> =
        cluster.work.values().filter(|work| !work.is_check() && owner(&work.job) == uid(family)).collect();
    builds.sort_by_key(|work| work.number);
    for work in builds.into_iter().filter(|work| running.contains(&work.label(labels::CASCADE))) {
        last.insert(work.label(labels::IMAGE), work);
    }
    let required = spec.images.iter().filter(|image| image.required).find_map(|image| {
        last.get(image.name.as_str()).filter(|work| {
            let done = work.phase == Phase::Succeeded || work.has_pushed() && work.phase == Phase::Failed;
            !done
        })
    });
    required.map(|work| format!("{} is {:?}", work.key.name, work.phase))
}

/// What of `to` was true earlier than what `from` stands on, if nothing of it was true later.
fn backwards(cluster: &mut Cluster, name: &str, from: &str, to: &str) -> Option<String> {
    remember_truth(cluster);
    let leaves = |digest: &str| cluster.invariants.leaves.get(&format!("{name}@{digest}"));
    let (from, to) = (leaves(from)?, leaves(to)?);
    let mut older = None;
    for (leaf, before) in from {
        let Some(after) = to.get(leaf).filter(|after| *after != before) else { continue };
        let last = |value: &str| cluster.invariants.history.last_true(leaf, value);
        let (last_before, last_after) = (last(before), last(after));
        if last_after > last_before {
            return None;
        }
        if last_after < last_before {
            older = Some(format!("{leaf} goes from {} to {}", short(before), short(after)));
        }
    }
    older
}
