//! The steps of a script: what users and outages change in the cluster.

use std::time::Duration;

use groundswell::{
    api::{Duration as ApiDuration, Image, ImageFamilySpec, request::ActionName},
    controller::object_cache::Key,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    edits::{edit_family, edit_image, edit_source, edit_upstream, provide_source, rewire},
    invariants::{self, answers, calm},
    objects::Kind,
    scene::{create_family, family_key, repository, spec},
    script::{FOLLOWED, Family, NAMESPACE, SCANNER, StepAction, UserRequest, hold},
    topology,
    upstreams::{move_scanner, move_upstream},
};

/// How long the controller may be busy with a disturbance.
const RECOVERY_TIME: Duration = Duration::from_mins(10);

/// Performs the action of a step.
pub fn perform(cluster: &mut Cluster, action: &StepAction) {
    cluster.note(format_args!("step {action:?}"));
    match disturbance(action) {
        Some(lasts) => calm::disturb(cluster, lasts),
        None if matches!(action, StepAction::Move(..)) => {}
        None => calm::change(cluster),
    }
    match action {
        StepAction::Move(upstream, how) => {
            move_upstream(cluster, *upstream, *how);
            if cluster.registry.tag(SCANNER, FOLLOWED).is_some() {
                move_scanner(cluster);
            }
        }
        StepAction::Request(asked) => request(cluster, asked),
        StepAction::RollBack { family, image, subtree, digests } => {
            let asked = UserRequest {
                family: family.clone(),
                image: Some(image.clone()),
                subtree: *subtree,
                upstream: None,
                action: ActionName::Rollback,
                lasts: None,
                users: 1,
                deletes: false,
            };
            if let Some(digest) = earlier_digest(cluster, family, image, *digests) {
                create_requests(cluster, &asked, Some(digest));
            }
        }
        StepAction::DeleteRecord(family, image) => {
            cluster.invariants.history.record_loss(family);
            cluster.remove(Kind::Image, &Key::new(NAMESPACE, &format!("{family}.{image}")));
        }
        StepAction::ClearStatus(family) => {
            cluster.invariants.history.record_loss(family);
            _ = cluster.update(Kind::Family, &family_key(family), |family| {
                family.as_object_mut().expect("a family").remove("status");
            });
        }
        StepAction::DeleteFamily(family) => delete_family(cluster, family),
        StepAction::RecreateFamily(family) => {
            if let Some(family) = cluster.invariants.history.restore_family(family) {
                create_family(cluster, &family);
            }
        }
        StepAction::StealTag(family, image) => steal_tag(cluster, family, image),
        StepAction::Crash(crash) => {
            if cluster.process != 0 {
                cluster.crash = Some(*crash);
            }
        }
        StepAction::Kill(down) => {
            if cluster.process != 0 {
                cluster.kill(*down);
            }
        }
        StepAction::Outage(host, status, lasts) => {
            let until = cluster.elapsed() + *lasts;
            cluster.faults.outages.insert((*host).into(), (*status, until));
        }
        StepAction::Clock(seconds) => cluster.time.skew(SignedDuration::from_secs(*seconds)),
        StepAction::StallWatch(kind, lasts) => {
            let until = cluster.elapsed() + *lasts;
            cluster.faults.stalled.insert(*kind, until);
        }
        StepAction::BreakWatch(kind) => cluster.broken_watches.push(*kind),
        edit => edit_spec(cluster, edit),
    }
    invariants::record_truth(cluster);
}

/// Returns for how long an action disturbs the controller; `None` if it is a change that a user may
/// make at any time.
fn disturbance(action: &StepAction) -> Option<Duration> {
    match action {
        StepAction::Outage(_, _, lasts) | StepAction::StallWatch(_, lasts) => {
            Some(*lasts + RECOVERY_TIME)
        }
        StepAction::DeleteRecord(..)
        | StepAction::ClearStatus(_)
        | StepAction::DeleteFamily(_)
        | StepAction::RecreateFamily(_)
        | StepAction::Crash(_)
        | StepAction::Kill(_)
        | StepAction::Clock(_)
        | StepAction::BreakWatch(_) => Some(RECOVERY_TIME),
        _ => None,
    }
}

/// Performs an action that edits the spec of a family, or a source.
fn edit_spec(cluster: &mut Cluster, action: &StepAction) {
    match action {
        StepAction::Source { family, image, edit } => edit_source(cluster, family, image, *edit),
        StepAction::Argument(family, image) => {
            let number = cluster.invariants.history.next_number();
            edit_image(cluster, family, image, |image| {
                // An argument that a Dockerfile need not declare.
                image["args"] = json!({"HTTP_PROXY": number.to_string()});
            });
        }
        StepAction::AddImage(family, image) => add_image(cluster, family, image),
        StepAction::RemoveImage(family, image) => remove_image(cluster, family, image),
        StepAction::Rewire { family, image, parent } => rewire(cluster, family, image, parent),
        StepAction::Policy(family, policy) => {
            let policy = serde_json::to_value(policy).expect("a policy");
            edit_family(cluster, family, |spec| spec["policy"] = policy);
        }
        StepAction::Refresh(family, every) => {
            let every = ApiDuration::from_secs(*every);
            edit_family(cluster, family, |spec| spec["policy"]["refresh"] = json!({"every": every}))
        }
        StepAction::Suspend(family, suspend) => {
            edit_family(cluster, family, |spec| spec["suspend"] = json!(suspend))
        }
        StepAction::Hold { family, upstream, at_current_digest, lasts } => {
            let Some(known) = spec(cluster, family) else { return };
            let Some(known) = known.upstreams.iter().find(|known| known.name == *upstream) else {
                return;
            };
            let digest =
                cluster.registry.followed(&known.image, FOLLOWED).filter(|_| *at_current_digest);
            let until = lasts.map(|lasts| time_after(cluster, &lasts));
            let hold = serde_json::to_value(hold(digest, until)).expect("a hold");
            edit_upstream(cluster, family, upstream, |upstream| upstream["hold"] = hold);
        }
        StepAction::Unhold(family, upstream) => {
            edit_upstream(cluster, family, upstream, |upstream| {
                upstream.as_object_mut().expect("an upstream").remove("hold");
            })
        }
        StepAction::HoldImage { family, image, lasts } => {
            let until = lasts.as_ref().map(|lasts| time_after(cluster, lasts));
            edit_image(cluster, family, image, |image| {
                image["hold"] = json!({"until": until, "reason": "so"})
            });
        }
        StepAction::UnholdImage(family, image) => edit_image(cluster, family, image, |image| {
            image.as_object_mut().expect("an image").remove("hold");
        }),
        StepAction::Check(family, image) => edit_image(cluster, family, image, |image| {
            let checked = image["checks"].as_array().is_some_and(|checks| !checks.is_empty());
            let checks =
                if checked { Vec::new() } else { vec![topology::check(topology::SMOKE, true)] };
            image["checks"] = serde_json::to_value(checks).expect("checks");
        }),
        StepAction::Export(family, image) => {
            edit_family(cluster, family, |spec| toggle_export(spec, image))
        }
        other => unreachable!("{other:?} does not edit a spec"),
    }
}

fn add_image(cluster: &mut Cluster, family: &str, image: &Image) {
    let Some(known) = spec(cluster, family) else { return };
    let parent = image.from[0].image.as_deref();
    let parent_exists =
        parent.is_none_or(|parent| known.images.iter().any(|known| known.name == parent));
    if parent_exists && known.images.iter().all(|known| known.name != image.name) {
        provide_source(cluster, &image.source);
        let image = serde_json::to_value(image).expect("an image");
        edit_family(cluster, family, |spec| {
            spec["images"].as_array_mut().expect("images").push(image)
        });
    }
}

/// Removes an image that no other image is built on, unless it is the last one.
fn remove_image(cluster: &mut Cluster, family: &str, image: &str) {
    let Some(known) = spec(cluster, family) else { return };
    let used = known
        .images
        .iter()
        .flat_map(|image| &image.from)
        .any(|edge| edge.image.as_deref() == Some(image));
    if !used && known.images.len() > 1 {
        edit_family(cluster, family, |spec| {
            spec["images"].as_array_mut().expect("images").retain(|known| known["name"] != image);
            let exports = spec.get_mut("exports").and_then(Value::as_array_mut).into_iter();
            exports.for_each(|exports| exports.retain(|export| export["image"] != image));
        });
    }
}

/// Removes the export of an image, or adds one if the image exists.
fn toggle_export(spec: &mut Value, image: &str) {
    let mut exports = spec["exports"].as_array().cloned().unwrap_or_default();
    let before = exports.len();
    exports.retain(|export| export["image"] != image);
    if exports.len() == before {
        let exists =
            spec["images"].as_array().into_iter().flatten().any(|known| known["name"] == image);
        exports.extend(exists.then(|| json!({"image": image})));
    }
    spec["exports"] = json!(exports);
}

fn delete_family(cluster: &mut Cluster, family: &str) {
    if let Some(known) = spec(cluster, family) {
        cluster
            .invariants
            .history
            .bury_family(Family { name: family.into(), spec: ImageFamilySpec::clone(&known) });
        cluster.remove(Kind::Family, &family_key(family));
    }
}

/// Returns the time after a duration.
fn time_after(cluster: &Cluster, duration: &Duration) -> Timestamp {
    let duration = SignedDuration::try_from(*duration).expect("short");
    cluster.time.truth().saturating_add(duration).expect("soon")
}

/// Creates the requests of users, or deletes the last one.
fn request(cluster: &mut Cluster, asked: &UserRequest) {
    if asked.deletes {
        if let Some(last) = cluster.invariants.history.last_request() {
            let key = Key::new(NAMESPACE, last);
            cluster.remove(Kind::Request, &key);
        }
        return;
    }
    let current_digest = |cluster: &mut Cluster, upstream: &str| {
        let known = spec(cluster, &asked.family)?;
        let known = known.upstreams.iter().find(|known| known.name == upstream)?;
        cluster.registry.followed(&known.image, FOLLOWED)
    };
    let digest = asked.upstream.as_deref().and_then(|upstream| current_digest(cluster, upstream));
    let digest = digest.filter(|_| asked.action == ActionName::Approve);
    // The API server would reject it.
    if asked.action == ActionName::Approve && digest.is_none() {
        return;
    }
    if asked.action == ActionName::Cancel {
        cluster.invariants.history.record_cancel();
    }
    if let (Some(digest), Some(upstream)) = (digest.clone(), &asked.upstream) {
        cluster.invariants.approve(&asked.family, upstream, digest);
    }
    create_requests(cluster, asked, digest);
}

/// Returns the digest of a recorded build of an image, counted back from its newest one.
fn earlier_digest(cluster: &Cluster, family: &str, image: &str, digests: usize) -> Option<String> {
    let key = Key::new(NAMESPACE, &format!("{family}.{image}"));
    let status = &cluster.objects.get(Kind::Image, &key)?["status"];
    let mut known: Vec<&str> = vec![status["digest"].as_str()?];
    for build in status["history"].as_array()? {
        let digest = build["digest"].as_str().unwrap_or_default();
        if !digest.is_empty() && !known.contains(&digest) {
            known.push(digest);
        }
    }
    known.get(digests).map(|digest| (*digest).to_owned())
}

/// Creates the objects of requests.
fn create_requests(cluster: &mut Cluster, asked: &UserRequest, digest: Option<String>) {
    let until = asked.lasts.map(|lasts| time_after(cluster, &lasts));
    let mut fields = json!({"family": asked.family, "action": asked.action, "by": "a-user"});
    for (name, field) in [
        ("image", json!(asked.image)),
        ("upstream", json!(asked.upstream)),
        ("digest", json!(digest)),
        ("until", json!(until)),
        ("reason", json!((asked.action == ActionName::Rollback).then_some("it leaks"))),
        ("subtree", if asked.subtree { json!(true) } else { Value::Null }),
    ] {
        if !field.is_null() {
            fields[name] = field;
        }
    }
    for _ in 0..asked.users {
        let name = cluster.invariants.history.request_name();
        let request = json!({
            "apiVersion": "groundswell.dev/v1alpha1",
            "kind": "FamilyRequest",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": fields,
        });
        cluster.create(Kind::Request, request).expect("a new name");
        answers::ask(cluster, &name, asked, digest.clone());
    }
}

/// Moves an image's floating tag to another digest of the repository, as another client would.
fn steal_tag(cluster: &mut Cluster, family: &str, image: &str) {
    let Some(known) = spec(cluster, family) else { return };
    let Some(found) = known.images.iter().find(|known| known.name == image) else { return };
    let name = repository(&known, found);
    let repository = cluster.registry.repository(&name);
    let first = repository.origins.keys().next().cloned();
    if let (Some(first), true) = (first, repository.tags.contains_key("latest")) {
        repository.tags.insert("latest".into(), first);
    }
}
