//! Where a tag may stand: on a checked digest, and never on an older one than before.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use groundswell::{
    api::{Image, ImageFamilySpec, Promotion, labels},
    controller::object_cache::Key,
};

use serde_json::Value;

use super::{Invariants, Values, builds, remember_truth, seen, short};
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
    remember_truth(cluster);
    for parent in &made.parents {
        cluster.invariants.children.entry(parent.clone()).or_default().insert(pinned.clone());
    }
    let known = |leaf: String, value: &str| {
        let since = as_of(cluster, &leaf, value);
        (leaf, Values::from([(value.to_owned(), since)]))
    };
    let parents: Vec<&str> =
        made.parents.iter().filter_map(|parent| parent.split('@').next()).collect();
    let mut leaves = BTreeMap::from([
        known(format!("source of {repository}"), &made.source),
        // Whoever rewires an image may put it on something that is held at an older base.
        known(format!("parents of {repository}"), &parents.join(" ")),
    ]);
    for parent in &made.parents {
        match cluster.invariants.leaves.get(parent) {
            Some(below) => leaves.extend(below.clone()),
            None => {
                let (name, digest) = parent.split_once('@').unwrap_or_default();
                leaves.extend([known(upstream_of(repository, name), digest)]);
            }
        }
    }
    cluster.invariants.leaves.insert(pinned, leaves);
}

/// The leaf that is an upstream as the family of a repository uses it: each adopts digests for
/// itself.
pub fn upstream_of(repository: &str, upstream: &str) -> String {
    let family = repository.rsplit_once('/').map_or(repository, |(family, _)| family);
    format!("{upstream} for {family}")
}

/// A build came out the same as an earlier one, which stands for it from now on, and so does
/// everything that was built from that: on whatever the build stood on.
fn remembered(cluster: &mut Cluster, name: &str, build: &str, stays: &str) {
    let Invariants { leaves, children, .. } = &mut cluster.invariants;
    let Some(of_build) = leaves.get(&format!("{name}@{build}")).cloned() else { return };
    let mut stand = BTreeSet::from([format!("{name}@{stays}")]);
    while let Some(pinned) = stand.pop_last() {
        let known = leaves.entry(pinned.clone()).or_default();
        for (leaf, values) in &of_build {
            known.entry(leaf.clone()).or_default().extend(values.clone());
        }
        stand.extend(children.get(&pinned).into_iter().flatten().cloned());
    }
}

/// When a leaf last had a value, as far as can be told by now.
fn as_of(cluster: &Cluster, leaf: &str, value: &str) -> Duration {
    cluster.invariants.history.last_true(leaf, value).min(cluster.elapsed())
}

/// The controller records what an image is promoted to, before it moves tags: the time at which it
/// must be right. A flip that is interrupted after that is completed by whoever comes next,
/// whatever has changed since.
pub fn announced(cluster: &mut Cluster, before: Option<&Value>, record: &Value) {
    let Some(digest) = record["status"]["promoted"].as_str() else { return };
    if before.is_some_and(|before| before["status"]["promoted"] == digest) {
        return;
    }
    let name = record["spec"]["repository"].as_str().unwrap_or_default();
    let Some((key, spec, image)) = image_of(cluster, name) else { return };
    // What must not be promoted is told when a tag is set to it.
    if unfit(cluster, &key, &spec, &image, name, digest).is_empty() {
        cluster.invariants.promoted.insert(format!("{name}@{digest}"));
    }
}

/// Why a floating tag must not be set to a digest.
fn unfit(
    cluster: &Cluster,
    key: &Key,
    spec: &ImageFamilySpec,
    image: &Image,
    name: &str,
    digest: &str,
) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    if !cluster.invariants.is_checked(image, &format!("{name}@{digest}")) {
        found.push(("tags stand on checked digests", "unchecked".to_owned()));
    }
    if spec.policy.promotion == Promotion::Cascade
        && let Some(why) = unfinished(cluster, key, spec)
    {
        found.push(("floating tags wait for the whole cascade", format!("and {why}")));
    }
    found
}

/// The controller sets a tag: checked before it takes effect. `digest` is of what is put. A
/// floating tag may be put back to what it was rightly promoted to: checks that are asked for
/// since, and cascades that run since, do not take that away.
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
        if moves.as_ref().is_some_and(|standing| content(standing) != content(digest)) {
            found.push(("what is spared is the same", shown));
        }
        if let Some(build) = &moves {
            remembered(cluster, name, build, digest);
        }
    } else {
        if let Some(standing) = &moves {
            if is_immutable(tag) {
                found.push((
                    "immutable tags never move",
                    format!("{shown} from {}", short(standing)),
                ));
            } else {
                // Somebody else may have moved it on to what is not to be promoted.
                let ours = cluster
                    .invariants
                    .set
                    .get(&format!("{name}:{tag}"))
                    .unwrap_or(standing)
                    .clone();
                if let Some(why) = backwards(cluster, name, &ours, digest) {
                    found.push((
                        "floating tags never go backwards",
                        format!("{shown} from {}: {why}", short(&ours)),
                    ));
                }
            }
        }
        if let Some((key, spec, image)) = image_of(cluster, name) {
            if spec.suspend {
                found.push(("suspended families move no tags", shown.clone()));
            }
            if is_immutable(tag) {
                if !cluster.invariants.is_checked(&image, &pinned) {
                    found.push(("tags stand on checked digests", format!("{shown}, unchecked")));
                }
            } else if !cluster.invariants.promoted.contains(&pinned) {
                let why = unfit(cluster, &key, &spec, &image, name, digest);
                found.extend(
                    why.into_iter().map(|(invariant, why)| (invariant, format!("{shown}, {why}"))),
                );
            }
        }
    }
    if !tag.starts_with("gs-") && !is_immutable(tag) {
        stands(cluster, &pinned);
        cluster.invariants.set.insert(format!("{name}:{tag}"), digest.to_owned());
    }
    for (invariant, message) in found {
        cluster.violated(invariant, message);
    }
}

/// A floating tag is set to a digest: what this stands on is as new as it is true by now.
fn stands(cluster: &mut Cluster, pinned: &str) {
    cluster.invariants.promoted.insert(pinned.to_owned());
    let Some(mut leaves) = cluster.invariants.leaves.remove(pinned) else { return };
    for (leaf, values) in &mut leaves {
        for (value, since) in values {
            *since = as_of(cluster, leaf, value).max(*since);
        }
    }
    cluster.invariants.leaves.insert(pinned.to_owned(), leaves);
}

/// Whether a tag of the scripts names the build.
fn is_immutable(tag: &str) -> bool {
    let numbered =
        |end: &str| end.strip_prefix('r').is_some_and(|number| number.parse::<u32>().is_ok());
    tag.starts_with("x-") || tag.rsplit('-').next().is_some_and(numbered)
}

/// The family and the image that a repository is pushed by, as the pass under way has seen them.
fn image_of(
    cluster: &Cluster,
    name: &str,
) -> Option<(Key, std::sync::Arc<ImageFamilySpec>, Image)> {
    let families = cluster.objects.all(Kind::Family);
    families
        .filter_map(|(key, _)| {
            let (spec, _) = seen(cluster, key)?;
            let image = spec.images.iter().find(|image| repository(&spec, image) == name)?.clone();
            Some((key.clone(), spec, image))
        })
        .next()
}

/// A required image of the running cascade that is not built yet. One that a person holds is where
/// it is to be, though its build was stopped.
fn unfinished(cluster: &Cluster, key: &Key, spec: &ImageFamilySpec) -> Option<String> {
    let (_, begun) = seen(cluster, key)?;
    let family = cluster.objects.get(Kind::Family, key)?;
    let cascades =
        cluster.objects.all(Kind::Cascade).filter(|(_, cascade)| owner(cascade) == uid(family));
    let running = cascades.filter(|(_, cascade)| {
        matches!(cascade["status"]["phase"].as_str(), None | Some("Running"))
    });
    let running: Vec<&str> = running.map(|(cascade, _)| cascade.name.as_str()).collect();
    let mut last: BTreeMap<&str, &crate::job_controller::Work> = BTreeMap::new();
    let mut builds: Vec<_> = cluster
        .work
        .values()
        .filter(|work| !work.is_check() && owner(&work.job) == uid(family))
        .collect();
    builds.sort_by_key(|work| work.number);
    for work in builds.into_iter().filter(|work| running.contains(&work.label(labels::CASCADE))) {
        last.insert(work.label(labels::IMAGE), work);
    }
    let required = spec.images.iter().filter(|image| image.required).find_map(|image| {
        last.get(image.name.as_str()).filter(|work| {
            let done =
                work.phase == Phase::Succeeded || work.has_pushed() && work.phase == Phase::Failed;
            let held = || builds::held(cluster, spec, key, &image.name, begun).is_some();
            !done && (work.phase == Phase::Live || !held())
        })
    });
    required.map(|work| format!("{} is {:?}", work.key.name, work.phase))
}

/// What of `to` was true earlier than what `from` stands on, if nothing of it was true later. A
/// value that comes again counts as of when each digest was built or set: a cascade may end with a
/// change that was reverted meanwhile, or that another family has not adopted, and that is no older
/// than what stood before it.
fn backwards(cluster: &mut Cluster, name: &str, from: &str, to: &str) -> Option<String> {
    remember_truth(cluster);
    let leaves = |digest: &str| cluster.invariants.leaves.get(&format!("{name}@{digest}"));
    let (from, to) = (leaves(from)?, leaves(to)?);
    let mut older = None;
    for (leaf, before) in from {
        let differs = |after: &&Values| after.keys().all(|value| !before.contains_key(value));
        let Some(after) = to.get(leaf).filter(differs) else { continue };
        let last = |values: &Values| {
            values.keys().map(|value| cluster.invariants.history.last_true(leaf, value)).max()
        };
        if last(after) > last(before) {
            return None;
        }
        if last(after) < last(before) && after.values().max() < before.values().max() {
            let named = |values: &Values| {
                values.keys().map(|value| short(value)).collect::<Vec<_>>().join(" or ")
            };
            older = Some(format!("{leaf} goes from {} to {}", named(before), named(after)));
        }
    }
    older
}
