//! Jobs that the API server rejects, or creates without an answer, against a model of an API server
//! that may have them already.

use std::{
    convert::Infallible,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use http::{Method, Request, Response};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::{Api, Client, ResourceExt, client::Body};
use serde_json::{Value, json};

use crate::{
    api::{
        BuildFailure,
        condition::{Problem, Reason},
        labels,
    },
    build_records::keys::{
        RecordKeys,
        tests::{key, keys},
    },
    builds::outcome::JobRejection,
    controller::{
        family::act::jobs::{
            Acceptance, JobCreation, JobStarts, check_acceptance, create_jobs, find_unanswered,
        },
        job_seals,
        object_cache::{Key, ObjectCache},
        reconcile_cache::ReconcileCache,
    },
};

static KEYS: LazyLock<RecordKeys> = LazyLock::new(|| keys(&[("2026", &key())]));

fn job() -> Job {
    let mut job = unsealed_job();
    job_seals::stamp(&mut job, &KEYS);
    job
}

fn unsealed_job() -> Job {
    serde_json::from_value(json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "base-0-0", "namespace": "team", "uid": "u", "resourceVersion": "1",
            "labels": {labels::MANAGED_BY: labels::MANAGED_BY_VALUE}},
        "spec": {"template": {"spec": {"containers": [{"name": "build", "image": "builder"}]}}},
    }))
    .expect("a Job")
}

/// Jobs with the name, the metadata and the seal of ours, and without the label that the watch
/// selects by, or with another image.
fn replacements() -> [Job; 2] {
    let (mut unlabelled, mut changed) = (job(), job());
    unlabelled.labels_mut().clear();
    let pod = changed.spec.as_mut().and_then(|spec| spec.template.spec.as_mut()).expect("a pod");
    pod.containers[0].image = Some("evil".into());
    [unlabelled, changed]
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": code,
    })
}

/// Whether a model of an API server has a Job, or creates it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JobState {
    Exists,
    /// Somebody else has created one of this name.
    Foreign,
    Missing,
}

/// A client of an API server that breaks the connection while it creates a Job; `then` says whether
/// it has created it.
fn breaks_connection(then: JobState) -> Client {
    let there = Arc::new(AtomicBool::new(false));
    let service = tower::service_fn(move |request: Request<Body>| {
        let there = Arc::clone(&there);
        async move {
            let (code, answer) = match request.method() {
                &Method::POST => {
                    there.store(then == JobState::Exists, Ordering::Relaxed);
                    return Err("the connection broke");
                }
                _ if there.load(Ordering::Relaxed) => {
                    (200, serde_json::to_value(job()).expect("JSON"))
                }
                _ => (404, status(404, "NotFound", "there is no base-0-0")),
            };
            let answer = Body::from(serde_json::to_vec(&answer).expect("JSON"));
            Ok(Response::builder().status(code).body(answer).expect("a response"))
        }
    });
    Client::new(service, "team")
}

/// The Jobs of an API server whose quota is used up.
fn out_of_quota(job_state: JobState) -> Api<Job> {
    rejects(job_state, || status(403, "Forbidden", "base-0-0 is forbidden: exceeded quota: jobs"))
}

/// The Jobs of an API server that rejects every new one.
fn rejects(job_state: JobState, rejection: fn() -> Value) -> Api<Job> {
    let service = tower::service_fn(move |request: Request<Body>| async move {
        let (code, answer) = match (request.method(), job_state) {
            (&Method::POST, _) => {
                let rejection = rejection();
                (u16::try_from(rejection["code"].as_u64().unwrap_or(0)).expect("a code"), rejection)
            }
            (_, JobState::Exists) => (200, serde_json::to_value(job()).expect("JSON")),
            (_, JobState::Foreign) => (200, serde_json::to_value(unsealed_job()).expect("JSON")),
            (_, JobState::Missing) => (404, status(404, "NotFound", "there is no base-0-0")),
        };
        let answer = Body::from(serde_json::to_vec(&answer).expect("JSON"));
        Ok::<_, Infallible>(Response::builder().status(code).body(answer).expect("a response"))
    });
    Api::namespaced(Client::new(service, "team"), "team")
}

fn existing(creation: JobCreation) -> Job {
    match creation {
        JobCreation::Exists(job) => *job,
        JobCreation::Rejected(failure) => panic!("{failure:?}"),
    }
}

/// The reason and the message of a creation that is not admitted now.
fn problem(creation: JobCreation) -> Problem {
    match creation {
        JobCreation::Rejected(JobRejection::NotNow(problem)) => problem,
        other => panic!("{other:?}"),
    }
}

/// An API server that answers a creation with `code` and `answer`, and has the Job `stored`. It
/// counts the deletions.
fn answers(code: u16, answer: Value, stored: Job) -> (Client, Arc<AtomicUsize>) {
    let deletions = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&deletions);
    let service = tower::service_fn(move |request: Request<Body>| {
        let stored = serde_json::to_value(&stored).expect("JSON");
        let (code, answer) = match *request.method() {
            Method::POST => (code, answer.clone()),
            Method::DELETE => {
                counted.fetch_add(1, Ordering::Relaxed);
                (200, stored)
            }
            _ => (200, stored),
        };
        let answer = Body::from(serde_json::to_vec(&answer).expect("JSON"));
        let response = Response::builder().status(code).body(answer).expect("a response");
        std::future::ready(Ok::<_, Infallible>(response))
    });
    (Client::new(service, "team"), deletions)
}

#[tokio::test]
async fn a_job_that_somebody_has_replaced_with_our_seal_is_not_used() {
    for replaced in replacements() {
        let (jobs, mut cache) = (ObjectCache::new(|_| None), ReconcileCache::default());
        let taken = status(409, "AlreadyExists", "base-0-0 already exists");
        let (client, _) = answers(409, taken, replaced);
        let api = Api::namespaced(client.clone(), "team");
        let created = create_jobs(&jobs, &api, &[job()], &mut cache).await.expect("an answer");
        let problem = problem(created.into_iter().next().expect("one"));
        assert!(problem.message.contains("was not created by this installation"), "{problem:?}");
        cache.unanswered.insert("base-0-0".into());
        find_unanswered(&jobs, &client, "team", &KEYS, &mut cache).await.expect("an answer");
        assert!(jobs.get(&Key::new("team", "base-0-0")).is_none(), "it counts for nothing");
    }
}

#[tokio::test]
async fn a_job_that_a_webhook_changes_is_deleted_and_explained() {
    for changed in replacements() {
        let (jobs, mut cache) = (ObjectCache::new(|_| None), ReconcileCache::default());
        let answer = serde_json::to_value(&changed).expect("JSON");
        let (client, deletions) = answers(201, answer, changed);
        let api = Api::namespaced(client, "team");
        let kind = "standard".to_owned();
        let dry = check_acceptance(&api, &job(), kind, &mut cache).await.expect("an answer");
        let Acceptance::Rejected(JobRejection::NotNow(found)) = dry else { panic!("{dry:?}") };
        assert_eq!(found.reason, Reason::JobRefused);
        assert_eq!(deletions.load(Ordering::Relaxed), 0, "nothing was created");
        let created = create_jobs(&jobs, &api, &[job()], &mut cache).await.expect("an answer");
        let problem = problem(created.into_iter().next().expect("one"));
        assert!(problem.message.contains("a webhook of the cluster"), "{problem:?}");
        assert!(problem.message.contains("app.kubernetes.io/managed-by: groundswell"));
        assert_eq!(deletions.load(Ordering::Relaxed), 1, "its pod must not run");
        assert!(jobs.get(&Key::new("team", "base-0-0")).is_none());
    }
}

#[tokio::test]
async fn a_job_that_exists_is_adopted_though_another_would_be_rejected() {
    let jobs = ObjectCache::new(|_| None);
    let mut cache = ReconcileCache::default();
    let api = out_of_quota(JobState::Exists);
    let adopted =
        create_jobs(&jobs, &api, &[job()], &mut cache).await.expect("an answer").remove(0);
    assert_eq!(existing(adopted).name_any(), "base-0-0");
    assert!(jobs.get(&Key::new("team", "base-0-0")).is_some(), "the next reconcile misses it");

    let kind = "standard".to_owned();
    let acceptance = check_acceptance(&api, &job(), kind, &mut cache).await.expect("an answer");
    assert_eq!(acceptance, Acceptance::Unknown);
    assert!(cache.accepted_jobs.is_empty(), "what was rejected is asked again");
}

#[tokio::test]
async fn a_job_that_somebody_else_has_created_in_the_place_of_ours_is_not_used() {
    let (jobs, mut cache) = (ObjectCache::new(|_| None), ReconcileCache::default());
    let taken = || status(409, "AlreadyExists", "base-0-0 already exists");
    let api = rejects(JobState::Foreign, taken);
    let created = create_jobs(&jobs, &api, &[job()], &mut cache).await.expect("an answer");
    let [JobCreation::Rejected(JobRejection::NotNow(problem))] = &created[..] else {
        panic!("{created:?}")
    };
    assert_eq!(problem.reason, Reason::JobRefused);
    assert!(problem.message.contains("kubectl delete job -n team base-0-0"), "{problem:?}");
    assert!(jobs.get(&Key::new("team", "base-0-0")).is_none(), "it counts for nothing");
}

#[tokio::test]
async fn a_rejected_job_that_does_not_exist_waits() {
    let jobs = ObjectCache::new(|_| None);
    let mut cache = ReconcileCache::default();
    let api = out_of_quota(JobState::Missing);
    let rejected =
        create_jobs(&jobs, &api, &[job()], &mut cache).await.expect("an answer").remove(0);
    let JobCreation::Rejected(JobRejection::NotNow(problem)) = rejected else {
        panic!("{rejected:?}")
    };
    assert_eq!(problem.reason, Reason::QuotaExceeded);
    assert!(problem.message.starts_with("base-0-0 is forbidden: exceeded quota: jobs; "));
    assert!(cache.unanswered.is_empty(), "the call was answered");
    let kind = "standard".to_owned();
    let acceptance = check_acceptance(&api, &job(), kind, &mut cache).await.expect("an answer");
    let Acceptance::Rejected(JobRejection::NotNow(problem)) = acceptance else {
        panic!("{acceptance:?}")
    };
    assert_eq!(problem.reason, Reason::QuotaExceeded);
    assert!(cache.accepted_jobs.is_empty(), "it is asked again");
}

#[tokio::test]
async fn a_webhook_that_takes_no_part_in_dry_runs_keeps_no_job_out() {
    let api = rejects(JobState::Missing, || {
        status(400, "BadRequest", "admission webhook \"w\" does not support dry run")
    });
    let mut cache = ReconcileCache::default();
    let acceptance =
        check_acceptance(&api, &job(), "standard".into(), &mut cache).await.expect("an answer");
    assert_eq!(acceptance, Acceptance::Unknown);
}

#[test]
fn a_job_that_waits_is_tried_again_more_slowly_than_one_that_failed() {
    let now = Timestamp::UNIX_EPOCH;
    let waits =
        || JobRejection::NotNow(Problem { reason: Reason::QuotaExceeded, message: String::new() });
    let failed = || JobRejection::Failed(BuildFailure::default());
    for (rejections, expected, at) in [
        (vec![], JobStarts::AllStarted, None),
        (vec![waits()], JobStarts::SomeDeferred, Some(now + SignedDuration::from_secs(1))),
        (vec![waits(), failed()], JobStarts::SomeRejected, Some(now)),
    ] {
        assert_eq!(JobStarts::of(&rejections), expected);
        assert_eq!(expected.decide_again_at(now), at);
    }
}

#[tokio::test]
async fn a_job_whose_creation_got_no_answer_is_read_in_the_next_reconcile() {
    for state in [JobState::Exists, JobState::Missing] {
        let (jobs, client, mut cache) =
            (ObjectCache::new(|_| None), breaks_connection(state), ReconcileCache::default());
        let api = Api::namespaced(client.clone(), "team");
        create_jobs(&jobs, &api, &[job()], &mut cache).await.expect_err("no answer");
        find_unanswered(&jobs, &client, "team", &KEYS, &mut cache).await.expect("an answer");
        let found = jobs.get(&Key::new("team", "base-0-0")).is_some();
        assert_eq!(found, state == JobState::Exists);
        assert!(cache.unanswered.is_empty(), "it is known now");
    }
}

/// An API server that creates every Job but this one, whose creation gets no answer.
fn silent_about(name: &'static str) -> Api<Job> {
    let service = tower::service_fn(move |request: Request<Body>| async move {
        let wanted = request.into_body().collect_bytes().await.expect("a body");
        let mut wanted: Value = serde_json::from_slice(&wanted).expect("a Job");
        if wanted["metadata"]["name"] == name {
            return Err("the connection broke");
        }
        wanted["metadata"]["resourceVersion"] = json!("1");
        let answer = Body::from(serde_json::to_vec(&wanted).expect("JSON"));
        Ok(Response::builder().status(201).body(answer).expect("a response"))
    });
    Api::namespaced(Client::new(service, "team"), "team")
}

#[tokio::test]
async fn of_many_jobs_only_those_without_an_answer_are_unanswered() {
    let wanted: Vec<Job> = (0..20)
        .map(|number| {
            let mut wanted = job();
            wanted.metadata.name = Some(format!("base-{number:02}-0"));
            wanted.metadata.resource_version = None;
            wanted
        })
        .collect();
    let (jobs, mut cache) = (ObjectCache::new(|_| None), ReconcileCache::default());
    create_jobs(&jobs, &silent_about("base-02-0"), &wanted, &mut cache)
        .await
        .expect_err("no answer");
    assert_eq!(cache.unanswered.iter().collect::<Vec<_>>(), ["base-02-0"]);
    let made = |job: &&Job| jobs.get(&Key::of(*job)).is_some();
    let made: Vec<String> = wanted.iter().filter(made).map(ResourceExt::name_any).collect();
    assert!(
        made.len() < 10 && made.iter().any(|name| name == "base-03-0"),
        "the others of its chunk, and no more: {made:?}"
    );
    let made = create_jobs(&jobs, &silent_about(""), &wanted, &mut cache).await.expect("answers");
    let made = made.into_iter().map(|made| existing(made).name_any());
    assert!(made.eq(wanted.iter().map(ResourceExt::name_any)), "in their order");
}
