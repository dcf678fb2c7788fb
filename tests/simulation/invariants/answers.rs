//! Requests of users are answered in time, and take effect.

use std::time::Duration;

use groundswell::{
    api::{
        RequestState, labels,
        request::{ActionName, name_of_nonce},
    },
    controller::object_cache::Key,
};
use jiff::SignedDuration;
use serde_json::Value;

use super::{SETTLED_AFTER, Violations, builds, calm, quiet_time, requests};
use crate::{
    cluster::Cluster,
    job_controller::Phase,
    objects::{Kind, key_of, owner, uid},
    script::{NAMESPACE, UserRequest},
};

/// How long a request may have no answer if nothing prevents its effect.
const MAX_ANSWER_TIME: Duration = Duration::from_secs(20);
/// How long after a request was carried out its effect is checked. The next reconcile follows at
/// once.
const EFFECT_AFTER: Duration = Duration::from_secs(5);

/// A request of a user.
#[derive(Clone, Debug)]
pub struct AskedRequest {
    /// The name of its object.
    name: String,
    request: UserRequest,
    /// The digest that is approved.
    digest: Option<String>,
    at: Duration,
    /// When it ended or became active, and whether it was carried out.
    answer: Option<(Duration, bool)>,
    /// Whether nothing more is to be checked.
    done: bool,
}

/// Records a request of a user.
pub fn ask(cluster: &mut Cluster, name: &str, request: &UserRequest, digest: Option<String>) {
    let at = cluster.elapsed();
    cluster.invariants.asked.push(AskedRequest {
        name: name.into(),
        request: request.clone(),
        digest,
        at,
        answer: None,
        done: false,
    });
}

/// Records the state of a request whose status was written.
pub fn written(cluster: &mut Cluster, request: &Value) {
    let now = cluster.elapsed();
    let name = key_of(request).name;
    let is_carried_out = match requests::state(request) {
        None | Some(RequestState::Waiting) => return,
        Some(RequestState::Done | RequestState::Active) => true,
        Some(RequestState::Refused | RequestState::Superseded) => false,
    };
    let mut asked = cluster.invariants.asked.iter_mut();
    if let Some(asked) = asked.find(|asked| asked.name == name && asked.answer.is_none()) {
        asked.answer = Some((now, is_carried_out));
    }
}

/// Checks the requests that have no answer, and the effects of those that have one.
pub fn inspect(cluster: &mut Cluster) -> Violations {
    let now = cluster.elapsed();
    let mut found = Vec::new();
    let mut checked = Vec::new();
    for asked in cluster.invariants.asked.iter().filter(|asked| !asked.done) {
        match asked.answer {
            None if now > asked.at + MAX_ANSWER_TIME => {
                if calm::is_calm_since(cluster, asked.at)
                    && calm::is_unchanged_since(cluster, now.saturating_sub(MAX_ANSWER_TIME))
                    && let Some(why) = without_answer(cluster, asked)
                {
                    let message = format!("{:?} of {:?}: {why}", asked.request, asked.at);
                    found.push(("requests are answered in time", message));
                }
            }
            Some((at, is_carried_out)) if now > at + EFFECT_AFTER => {
                // A later request of the family is a change, too.
                let is_undisturbed = calm::is_calm_since(cluster, asked.at)
                    && calm::is_unchanged_since(cluster, asked.at + Duration::from_millis(1))
                    && now < at + EFFECT_AFTER + SETTLED_AFTER;
                if is_carried_out && is_undisturbed {
                    let why = without_effect(cluster, asked, at);
                    found.extend(why.map(|(invariant, why)| {
                        (invariant, format!("{:?}: {why}", asked.request))
                    }));
                }
                checked.push(asked.name.clone());
            }
            _ => {}
        }
    }
    for asked in &mut cluster.invariants.asked {
        asked.done |= checked.contains(&asked.name);
    }
    found
}

/// Describes why a request should have an answer by now: it was not read, or it waits although
/// nothing prevents its effect.
fn without_answer(cluster: &Cluster, asked: &AskedRequest) -> Option<&'static str> {
    let request = cluster.objects.get(Kind::Request, &Key::new(NAMESPACE, &asked.name))?;
    // Without a family there is nothing to reconcile.
    cluster.objects.get(Kind::Family, &Key::new(NAMESPACE, &asked.request.family))?;
    if requests::state(request) != Some(RequestState::Waiting) {
        return Some("it was not read");
    }
    if request["status"]["message"].as_str().is_none_or(str::is_empty) {
        return Some("it does not say what it waits for");
    }
    (!may_wait(cluster, asked)).then_some("it waits")
}

/// Returns whether a request may wait: for its family, or because builds do not start now, or a
/// cascade runs, or an image waits for something.
fn may_wait(cluster: &Cluster, asked: &AskedRequest) -> bool {
    let key = Key::new(NAMESPACE, &asked.request.family);
    let Some(family) = cluster.objects.get(Kind::Family, &key) else { return true };
    let starts_something =
        matches!(asked.request.action, ActionName::Trigger | ActionName::Retry | ActionName::Force);
    if !starts_something {
        return false;
    }
    let Some(spec) = cluster.current_spec(family) else { return true };
    // A window that has just opened is not noticed yet.
    let now = cluster.time.truth();
    let before = SignedDuration::try_from(MAX_ANSWER_TIME).expect("short");
    let was = now.saturating_sub(before).expect("a time");
    let windows = &spec.policy.windows;
    let is_closed = !windows.is_empty()
        && [was, now].iter().any(|at| !windows.iter().any(|window| builds::is_open(window, *at)));
    let records = cluster.objects.all(Kind::Image);
    let mut records = records.filter(|(_, record)| owner(record) == uid(family));
    spec.suspend
        || is_closed
        || quiet_time::runs_cascade(&family["status"])
        || records.any(|(_, record)| {
            record["status"].is_null()
                || record["status"]["state"] == "Waiting"
                || record["status"]["state"] == "Checking"
        })
}

/// Describes what a request that was carried out did not bring about.
fn without_effect(
    cluster: &Cluster,
    asked: &AskedRequest,
    carried_out_at: Duration,
) -> Option<(&'static str, String)> {
    let key = Key::new(NAMESPACE, &asked.request.family);
    let family = cluster.objects.get(Kind::Family, &key)?;
    let upstream = asked.request.upstream.as_deref().and_then(|name| {
        let rows = family["status"]["upstreams"].as_array().into_iter().flatten();
        rows.into_iter().find(|row| row["name"] == name)
    });
    let records = images(cluster, asked, family);
    let has_ended = asked
        .request
        .lasts
        .is_some_and(|lasts| cluster.elapsed() + SETTLED_AFTER > asked.at + lasts);
    match asked.request.action {
        ActionName::Approve => {
            let digest = asked.digest.as_deref()?;
            let row = upstream?;
            // An approval follows its candidate to an equal digest.
            let is_named =
                !row["approval"].is_null() || row["adopted"].to_string().contains(digest);
            // The tag may have moved on since.
            let is_offered = row["candidate"].to_string().contains(digest)
                || row["waiting"].to_string().contains(digest);
            (is_offered && !is_named)
                .then(|| ("approvals are recorded", format!("{digest} is not approved")))
        }
        ActionName::Hold if has_ended => None,
        ActionName::Hold => match upstream {
            Some(row) => {
                row["hold"].is_null().then(|| ("requested holds are recorded", "no hold".into()))
            }
            None => {
                let (name, _) =
                    records.iter().find(|(_, record)| record["status"]["hold"].is_null())?;
                Some(("requested holds are recorded", format!("{name} is not held")))
            }
        },
        ActionName::Unhold => match upstream {
            Some(row) => {
                (!row["hold"].is_null()).then(|| ("unhold ends holds", "still held".into()))
            }
            None => {
                let (name, _) =
                    records.iter().find(|(_, record)| !record["status"]["hold"].is_null())?;
                Some(("unhold ends holds", format!("{name} is still held")))
            }
        },
        ActionName::Force => {
            let request = cluster.objects.get(Kind::Request, &Key::new(NAMESPACE, &asked.name))?;
            let created = request["metadata"]["creationTimestamp"].as_str()?;
            let wanted = format!("{created}/{}", asked.name);
            // Several users may ask in the same moment.
            let is_recorded =
                |nonce: &str| nonce >= wanted.as_str() && !name_of_nonce(nonce).is_empty();
            let (name, _) = records.iter().find(|(_, record)| {
                let nonce = record["status"]["nonce"].as_str().unwrap_or_default();
                record["status"].is_object() && !is_recorded(nonce)
            })?;
            Some(("forced rebuilds are recorded", format!("{name} has another nonce")))
        }
        ActionName::Retry => {
            let (name, _) = records.iter().find(|(_, record)| {
                let failure = &record["status"]["failure"];
                let at: Option<jiff::Timestamp> =
                    failure["at"].as_str().and_then(|at| at.parse().ok());
                record["status"]["state"] == "Failed"
                    && !failure.is_null()
                    && at.is_some_and(|at| cluster.time.since_start(at) < asked.at)
            })?;
            Some(("retry clears failures", format!("{name} has failed before")))
        }
        ActionName::Cancel => {
            let runs = cluster.work.values().find(|work| {
                !work.is_check()
                    && work.phase == Phase::Live
                    && !work.is_deleted()
                    && owner(&work.job) == uid(family)
                    && records.iter().any(|(name, _)| *name == work.label(labels::IMAGE))
                    && cluster.invariants.attempts.iter().any(|attempt| {
                        attempt.job == uid(&work.job) && attempt.started_at < carried_out_at
                    })
            })?;
            Some(("cancel stops builds", format!("{} runs", runs.key.name)))
        }
        ActionName::Rollback => {
            let (name, _) =
                records.iter().find(|(_, record)| record["status"]["rollback"].is_null())?;
            Some(("requested rollbacks are recorded", format!("{name} is not rolled back")))
        }
        ActionName::Trigger => None,
    }
}

/// Returns the images of a request's scope, with their records.
fn images<'c>(
    cluster: &'c Cluster,
    asked: &AskedRequest,
    family: &Value,
) -> Vec<(String, &'c Value)> {
    if asked.request.upstream.is_some() {
        return Vec::new();
    }
    let wanted = asked.request.image.as_deref();
    let Some(spec) = cluster.current_spec(family) else { return Vec::new() };
    // Of a subtree, the image itself is enough.
    let images = spec.images.iter().filter(|image| wanted.is_none_or(|name| image.name == name));
    images
        .filter_map(|image| {
            let name = format!("{}.{}", asked.request.family, image.name);
            let record = cluster.objects.get(Kind::Image, &Key::new(NAMESPACE, &name))?;
            Some((image.name.clone(), &**record))
        })
        .collect()
}
