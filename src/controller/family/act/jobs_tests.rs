//! Jobs that the API server refuses, or makes without saying so, against a model of one that may
//! have them already.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use http::{Method, Request, Response};
use k8s_openapi::api::batch::v1::Job;
use kube::{Api, Client, ResourceExt, client::Body};
use serde_json::{Value, json};

use crate::{
    api::condition::reason,
    controller::{
        context::ReconcileCache,
        family::act::jobs::{accepted, create, look_for_unanswered},
        object_cache::{Key, ObjectCache},
    },
};

fn job() -> Job {
    serde_json::from_value(json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "base-0-0", "namespace": "team", "uid": "u", "resourceVersion": "1"},
    }))
    .expect("a Job")
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message, "code": code})
}

/// A client of an API server that breaks off while it makes a Job; it was made, or not.
fn breaks_off(makes: bool) -> Client {
    let there = Arc::new(AtomicBool::new(false));
    let service = tower::service_fn(move |request: Request<Body>| {
        let there = Arc::clone(&there);
        async move {
            let (code, answer) = match request.method() {
                &Method::POST => {
                    there.store(makes, Ordering::Relaxed);
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

/// The Jobs of an API server whose quota is used up; the Job is there, or not.
fn full(there: bool) -> Api<Job> {
    let service = tower::service_fn(move |request: Request<Body>| async move {
        let (code, answer) = match (request.method(), there) {
            (&Method::POST, _) => {
                (403, status(403, "Forbidden", "base-0-0 is forbidden: exceeded quota: jobs"))
            }
            (_, true) => (200, serde_json::to_value(job()).expect("JSON")),
            (_, false) => (404, status(404, "NotFound", "there is no base-0-0")),
        };
        let answer = Body::from(serde_json::to_vec(&answer).expect("JSON"));
        Ok::<_, Infallible>(Response::builder().status(code).body(answer).expect("a response"))
    });
    Api::namespaced(Client::new(service, "team"), "team")
}

#[tokio::test]
async fn a_job_that_was_made_before_is_taken_though_another_would_be_refused() {
    let jobs = ObjectCache::new(|_| None);
    let mut cache = ReconcileCache::default();
    let taken =
        create(&jobs, &full(true), &[job()], &mut cache).await.expect("an answer").remove(0);
    assert_eq!(taken.expect("the Job that is there").name_any(), "base-0-0");
    assert!(jobs.get(&Key::new("team", "base-0-0")).is_some(), "the next pass does not see it");

    let kind = || "standard".to_owned();
    accepted(&full(true), &job(), kind(), &mut cache)
        .await
        .expect("an answer")
        .expect("no refusal");
    assert!(cache.accepted_jobs.is_empty(), "what was refused is asked again");
}

#[tokio::test]
async fn a_job_that_is_refused_and_not_there_has_failed() {
    let jobs = ObjectCache::new(|_| None);
    let mut cache = ReconcileCache::default();
    let refused =
        create(&jobs, &full(false), &[job()], &mut cache).await.expect("an answer").remove(0);
    assert_eq!(refused.expect_err("a refusal").reason, reason::QUOTA_EXCEEDED);
    assert!(cache.unanswered.is_empty(), "the answer was heard");
    let asked =
        accepted(&full(false), &job(), "standard".into(), &mut cache).await.expect("an answer");
    assert_eq!(asked.expect_err("a refusal").reason, reason::QUOTA_EXCEEDED);
}

#[tokio::test]
async fn a_job_whose_creation_got_no_answer_is_looked_for_in_the_next_pass() {
    for makes in [true, false] {
        let (jobs, client, mut cache) =
            (ObjectCache::new(|_| None), breaks_off(makes), ReconcileCache::default());
        let api = Api::namespaced(client.clone(), "team");
        create(&jobs, &api, &[job()], &mut cache).await.expect_err("no answer");
        look_for_unanswered(&jobs, &client, "team", &mut cache).await.expect("an answer");
        assert_eq!(jobs.get(&Key::new("team", "base-0-0")).is_some(), makes);
        assert!(cache.unanswered.is_empty(), "it is known now");
    }
}

/// An API server that makes every Job but this one, of which it says nothing.
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
async fn of_many_jobs_those_without_an_answer_are_told_apart() {
    let wanted: Vec<Job> = (0..20)
        .map(|number| {
            let mut wanted = job();
            wanted.metadata.name = Some(format!("base-{number:02}-0"));
            wanted.metadata.resource_version = None;
            wanted
        })
        .collect();
    let (jobs, mut cache) = (ObjectCache::new(|_| None), ReconcileCache::default());
    create(&jobs, &silent_about("base-02-0"), &wanted, &mut cache).await.expect_err("no answer");
    assert_eq!(cache.unanswered.iter().collect::<Vec<_>>(), ["base-02-0"]);
    let made = |job: &&Job| jobs.get(&Key::of(*job)).is_some();
    let made: Vec<String> = wanted.iter().filter(made).map(ResourceExt::name_any).collect();
    assert!(
        made.len() < 10 && made.iter().any(|name| name == "base-03-0"),
        "those beside it, and no more: {made:?}"
    );
    let made = create(&jobs, &silent_about(""), &wanted, &mut cache).await.expect("answers");
    let made = made.into_iter().map(|made| made.expect("a Job").name_any());
    assert!(made.eq(wanted.iter().map(ResourceExt::name_any)), "in their order");
}
