//! What a tag may point to: a checked digest, and never an older one than before.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use groundswell::{
    api::{Image, ImageFamilySpec, Promotion, labels},
    controller::object_cache::Key,
};

use serde_json::Value;

use super::{
    Invariants, LeafValues, builds, reached::reach, reconcile_view, record_truth,
    rollbacks::RolledBackTags, short,
};
use crate::{
    cluster::Cluster,
    job_controller::Phase,
    objects::{Kind, owner, uid},
    scene::repository,
};

/// Records the leaves that a pushed build depends on.
pub fn pushed(cluster: &mut Cluster, repository: &str, digest: &str) {
    let pinned = format!("{repository}@{digest}");
    let Some(made) = cluster.registry.origins(&pinned).last().cloned() else { return };
    record_truth(cluster);
    for parent in &made.parents {
        cluster.invariants.children.entry(parent.clone()).or_default().insert(pinned.clone());
    }
    let known = |leaf: String, value: &str| {
        let since = as_of(cluster, &leaf, value);
        (leaf, LeafValues::from([(value.to_owned(), since)]))
    };
    let parents: Vec<&str> =
        made.parents.iter().filter_map(|parent| parent.split('@').next()).collect();
    let mut leaves = BTreeMap::from([
        known(format!("source of {repository}"), &made.source),
        // A new parent of the image may be held at an older base.
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

/// Returns the leaf of an upstream in the family of a repository: each family adopts digests on its
/// own.
pub fn upstream_of(repository: &str, upstream: &str) -> String {
    let family = repository.rsplit_once('/').map_or(repository, |(family, _)| family);
    format!("{upstream} for {family}")
}

/// Records that a build has the same content as an earlier one. The earlier one, and everything
/// built from it, now also represent the leaves of that build.
fn merge_spared(cluster: &mut Cluster, name: &str, build: &str, kept: &str) {
    let Invariants { leaves, children, .. } = &mut cluster.invariants;
    let Some(of_build) = leaves.get(&format!("{name}@{build}")).cloned() else { return };
    let mut represented = BTreeSet::from([format!("{name}@{kept}")]);
    while let Some(pinned) = represented.pop_last() {
        let known = leaves.entry(pinned.clone()).or_default();
        for (leaf, values) in &of_build {
            known.entry(leaf.clone()).or_default().extend(values.clone());
        }
        represented.extend(children.get(&pinned).into_iter().flatten().cloned());
    }
}

/// Returns when a leaf last had a value, at the latest now.
fn as_of(cluster: &Cluster, leaf: &str, value: &str) -> Duration {
    cluster.invariants.history.last_true(leaf, value).min(cluster.elapsed())
}

/// Records the promotion of an image, which must be correct at this time: the controller records it
/// before it moves tags. The next reconcile finishes a move that was interrupted, whatever has
/// changed since.
pub fn promotion_recorded(cluster: &mut Cluster, before: Option<&Value>, record: &Value) {
    let Some(digest) = record["status"]["promoted"].as_str() else { return };
    if before.is_some_and(|before| before["status"]["promoted"] == digest) {
        return;
    }
    let name = record["spec"]["repository"].as_str().unwrap_or_default();
    let Some(PushedImage { family, spec, image }) = image_of(cluster, name) else { return };
    // A promotion that is not allowed is reported when a tag is set to it.
    if promotion_violations(cluster, &family, &spec, &image, name, digest).is_empty() {
        cluster.invariants.promoted.insert(format!("{name}@{digest}"));
        if spec.policy.promotion == Promotion::Cascade {
            reach(cluster, "promotion: together");
        }
    }
}

/// Returns why a floating tag must not be set to a digest.
fn promotion_violations(
    cluster: &Cluster,
    key: &Key,
    spec: &ImageFamilySpec,
    image: &Image,
    name: &str,
    digest: &str,
) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    if !cluster.invariants.is_checked(image, &format!("{name}@{digest}")) {
        found.push(("tags point to checked digests", "unchecked".to_owned()));
    }
    if spec.policy.promotion == Promotion::Cascade
        && let Some(why) = unfinished(cluster, key, spec, &image.name)
    {
        found.push(("floating tags wait for a complete cascade", format!("and {why}")));
    }
    found
}

/// Checks a tag that the controller sets to a digest, before it takes effect. A floating tag may be
/// restored to a digest that it was correctly promoted to: checks that were added since, and
/// cascades that started since, do not invalidate it.
pub fn set(cluster: &mut Cluster, name: &str, tag: &str, digest: &str) {
    cluster.invariants.effects += 1;
    let current = cluster.registry.tag(name, tag).map(str::to_owned);
    let pinned = format!("{name}@{digest}");
    let shown = format!("{name}:{tag} to {}", short(digest));
    let mut found = Vec::new();
    if cluster.registry.origins(&pinned).is_empty() {
        found.push(("tags point to checked digests", shown.clone()));
    }
    let moved_from = current.filter(|current| current != digest);
    let of_image = image_of(cluster, name);
    let rolled_back = of_image
        .as_ref()
        .map(|pushed| RolledBackTags::of(cluster, &pushed.family, &pushed.image.name))
        .unwrap_or_default();
    let is_asked_for = rolled_back.are_asked_for(digest);
    if tag.ends_with("-rebuilt") {
        found.extend(super::losses::mark_moved(cluster, name, moved_from.as_deref(), digest));
    } else if tag.starts_with("gs-") {
        // The build has the same content as an earlier one.
        let content = |digest: &str| cluster.registry.content(&format!("{name}@{digest}"));
        if moved_from.as_ref().is_some_and(|before| content(before) != content(digest)) {
            found.push(("spared builds have equal content", shown));
        }
        if let Some(build) = &moved_from {
            merge_spared(cluster, name, build, digest);
            reach(cluster, "spared: a build with equal content");
        }
    } else {
        if let Some(before) = &moved_from {
            if is_immutable(tag) {
                found
                    .push(("immutable tags never move", format!("{shown} from {}", short(before))));
            } else {
                // Another client may have moved it to a digest that must not be promoted.
                let ours = cluster
                    .invariants
                    .tags_set
                    .get(&format!("{name}:{tag}"))
                    .unwrap_or(before)
                    .clone();
                if is_asked_for {
                    reach(cluster, "rollback: a tag goes back");
                } else {
                    found.extend(super::losses::tag_moved(cluster, name, &ours, digest));
                }
                if let Some(why) = backwards(cluster, name, &ours, digest)
                    .filter(|_| !is_asked_for && !is_built_on_rollback(cluster, &pinned))
                {
                    found.push((
                        "floating tags never go backwards",
                        format!("{shown} from {}: {why}", short(&ours)),
                    ));
                }
            }
        }
        if let Some(PushedImage { family, spec, image }) = of_image {
            if spec.suspend {
                found.push(("suspended families move no tags", shown.clone()));
            }
            if is_immutable(tag) {
                if !cluster.invariants.is_checked(&image, &pinned) {
                    found.push(("tags point to checked digests", format!("{shown}, unchecked")));
                }
            } else if let Some(why) = rolled_back.check(digest, &shown) {
                found.push(why);
            } else if !is_asked_for && !cluster.invariants.promoted.contains(&pinned) {
                let why = promotion_violations(cluster, &family, &spec, &image, name, digest);
                found.extend(
                    why.into_iter().map(|(invariant, why)| (invariant, format!("{shown}, {why}"))),
                );
            }
        }
    }
    if !tag.starts_with("gs-") && !is_immutable(tag) {
        refresh_leaves(cluster, &pinned);
        cluster.invariants.tags_set.insert(format!("{name}:{tag}"), digest.to_owned());
    }
    for (invariant, message) in found {
        cluster.violated(invariant, message);
    }
}

/// Records that a floating tag is set to a digest: its leaves count as true until now.
fn refresh_leaves(cluster: &mut Cluster, pinned: &str) {
    cluster.invariants.promoted.insert(pinned.to_owned());
    let Some(mut leaves) = cluster.invariants.leaves.remove(pinned) else { return };
    for (leaf, values) in &mut leaves {
        for (value, since) in values {
            *since = as_of(cluster, leaf, value).max(*since);
        }
    }
    cluster.invariants.leaves.insert(pinned.to_owned(), leaves);
}

/// Returns whether a tag of the scripts contains the build number or fingerprint.
fn is_immutable(tag: &str) -> bool {
    let numbered =
        |end: &str| end.strip_prefix('r').is_some_and(|number| number.parse::<u32>().is_ok());
    tag.starts_with("x-") || tag.rsplit('-').next().is_some_and(numbered)
}

/// An image, and its family as the running reconcile has read it.
struct PushedImage {
    family: Key,
    spec: std::sync::Arc<ImageFamilySpec>,
    image: Image,
}

/// Whether a build is made from a digest that users have rolled an image back to.
fn is_built_on_rollback(cluster: &Cluster, pinned: &str) -> bool {
    let Some(made) = cluster.registry.origins(pinned).last() else { return false };
    made.parents.iter().any(|parent| {
        let (name, digest) = parent.split_once('@').unwrap_or_default();
        let is_rolled_back = image_of(cluster, name).is_some_and(|of| {
            RolledBackTags::of(cluster, &of.family, &of.image.name).are_asked_for(digest)
        });
        is_rolled_back || is_built_on_rollback(cluster, parent)
    })
}

/// Returns the image that is pushed to a repository.
fn image_of(cluster: &Cluster, name: &str) -> Option<PushedImage> {
    let families = cluster.objects.all(Kind::Family);
    families
        .filter_map(|(key, _)| {
            let (spec, _) = reconcile_view(cluster, key)?;
            let image = spec.images.iter().find(|image| repository(&spec, image) == name)?.clone();
            Some(PushedImage { family: key.clone(), spec, image })
        })
        .next()
}

/// Describes a required image of an image's running cascade that is not built yet. An image that a
/// user holds is complete, even if its build was stopped.
fn unfinished(cluster: &Cluster, key: &Key, spec: &ImageFamilySpec, image: &str) -> Option<String> {
    let (_, started_at) = reconcile_view(cluster, key)?;
    let family = cluster.objects.get(Kind::Family, key)?;
    let cascades =
        cluster.objects.all(Kind::Cascade).filter(|(_, cascade)| owner(cascade) == uid(family));
    let runs =
        |cascade: &Value| matches!(cascade["status"]["phase"].as_str(), None | Some("Running"));
    // An image belongs to the newest cascade that planned or built it, unless one that has ended
    // has built it since. Names sort by time.
    let is_planned = |cascade: &Value| {
        let levels = cascade["spec"]["levels"].as_array().into_iter().flatten();
        levels.filter_map(Value::as_array).flatten().any(|planned| planned == image)
    };
    // Jobs expire.
    let is_built = |cascade: &str| {
        let mut attempts = cluster.invariants.attempts.iter();
        attempts.any(|attempt| {
            attempt.family == uid(family) && attempt.image == image && attempt.cascade == cascade
        })
    };
    let of_image = cascades.filter(|(name, cascade)| {
        is_built(name.name.as_str()) || runs(cascade) && is_planned(cascade)
    });
    let (own, cascade) = of_image.max_by_key(|(cascade, _)| cascade.name.as_str())?;
    if !runs(cascade) {
        return None;
    }
    let own = own.name.as_str();
    let mut last: BTreeMap<&str, &crate::job_controller::Work> = BTreeMap::new();
    let mut builds: Vec<_> = cluster
        .work
        .values()
        .filter(|work| !work.is_check() && owner(&work.job) == uid(family))
        .collect();
    builds.sort_by_key(|work| work.number);
    for work in builds.into_iter().filter(|work| work.label(labels::CASCADE) == own) {
        last.insert(work.label(labels::IMAGE), work);
    }
    let required = spec.images.iter().filter(|image| image.required).find_map(|image| {
        last.get(image.name.as_str()).filter(|work| {
            let done =
                work.phase == Phase::Succeeded || work.has_pushed() && work.phase == Phase::Failed;
            let held = || builds::held(cluster, spec, key, &image.name, started_at).is_some();
            !done && (work.phase == Phase::Live || !held())
        })
    });
    required.map(|work| format!("{} is {:?}", work.key.name, work.phase))
}

/// Describes a leaf of `to` that is older than that of `from`, if no leaf of `to` is newer.
///
/// A value that recurs counts with the time when each digest was built or set. A cascade may end
/// with a change that was reverted meanwhile, or that another family has not adopted, and this is
/// no older than what the tag pointed to before.
fn backwards(cluster: &mut Cluster, name: &str, from: &str, to: &str) -> Option<String> {
    record_truth(cluster);
    let leaves = |digest: &str| cluster.invariants.leaves.get(&format!("{name}@{digest}"));
    let (from, to) = (leaves(from)?, leaves(to)?);
    let mut older = None;
    for (leaf, before) in from {
        let differs = |after: &&LeafValues| after.keys().all(|value| !before.contains_key(value));
        let Some(after) = to.get(leaf).filter(differs) else { continue };
        let last = |values: &LeafValues| {
            values.keys().map(|value| cluster.invariants.history.last_true(leaf, value)).max()
        };
        if last(after) > last(before) {
            return None;
        }
        if last(after) < last(before) && after.values().max() < before.values().max() {
            let named = |values: &LeafValues| {
                values.keys().map(|value| short(value)).collect::<Vec<_>>().join(" or ")
            };
            older = Some(format!("{leaf} goes from {} to {}", named(before), named(after)));
        }
    }
    older
}
