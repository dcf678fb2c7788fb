//! Several requests at once, and requests that wait or last.

use jiff::SignedDuration;

use crate::{
    api::{
        ImageFamilyStatus,
        RequestState::{Active, Done, Superseded, Waiting},
        condition::Reason,
    },
    engine::tests::{CURRENT, model::FamilyModel, requests::chain},
};

/// A family in which a cascade runs and a candidate waits for its end.
fn busy() -> FamilyModel {
    let mut model = chain();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    model.upstream_digests[0] = "sha256:up-2".into();
    model.reconcile();
    model
}

#[test]
fn a_waiting_request_says_what_it_waits_for_and_blocks_no_other() {
    let mut model = busy();
    model.ask(r#"{"id":"1","action":"Trigger"}"#);
    model.reconcile();
    assert_eq!(model.request_state("1"), Some(Waiting));
    let message = &model.answers["1"].message;
    assert!(
        message.starts_with("starts when the cascade family-")
            && message.contains("which waits for base (Building)")
            && message.ends_with("to end it now: kubectl family cancel family"),
        "{message}"
    );
    model.now += SignedDuration::from_secs(1);
    model.ask(r#"{"id":"2","action":"Hold","image":"other"}"#);
    model.ask(r#"{"id":"3","action":"Cancel","image":"base"}"#);
    model.reconcile();
    assert_eq!(model.request_state("2"), Some(Active));
    assert_eq!(model.request_state("3"), Some(Done));
    assert_eq!(model.stopped(), 1);
    assert_eq!(model.request_state("1"), Some(Waiting), "the other images still start");

    let mut model = chain();
    model.spec.suspend = true;
    model.upstream_digests[0] = "sha256:up-1".into();
    model.ask(r#"{"id":"1","action":"Trigger"}"#);
    model.reconcile();
    assert_eq!(model.answers["1"].message, "waits until spec.suspend is cleared");
}

#[test]
fn a_later_request_takes_precedence() {
    let mut model = busy();
    model.ask(r#"{"id":"1","action":"Trigger","image":"app"}"#);
    model.reconcile();
    model.now += SignedDuration::from_secs(1);
    model.ask(r#"{"id":"2","action":"Cancel"}"#);
    model.reconcile();
    assert_eq!(model.request_state("1"), Some(Superseded));
    assert!(model.answer("1").contains("the request 2 cancels"), "{}", model.answer("1"));
    assert_eq!(model.request_state("2"), Some(Done));

    let mut model = busy();
    model.ask(r#"{"id":"1","action":"Cancel","image":"base"}"#);
    model.ask(r#"{"id":"2","action":"Force","image":"base"}"#);
    model.reconcile();
    assert_eq!((model.request_state("1"), model.stopped()), (Some(Superseded), 0));
    model.settle();
    assert_eq!((model.request_state("2"), model.states()), (Some(Done), vec![CURRENT; 3]));

    let mut model = chain();
    for (name, fields) in [("1", r#""reason":"a""#), ("2", r#""reason":"b""#)] {
        model.ask(&format!(r#"{{"id":"{name}","action":"Hold","image":"base",{fields}}}"#));
        model.reconcile();
        model.now += SignedDuration::from_secs(1);
    }
    assert_eq!(
        (model.request_state("1"), model.request_state("2")),
        (Some(Superseded), Some(Active))
    );
    assert_eq!(model.record("base").hold.as_ref().expect("a hold").request, "2");
    model.ask(r#"{"id":"3","action":"Unhold","image":"base"}"#);
    model.reconcile();
    assert_eq!((model.request_state("2"), model.request_state("3")), (Some(Done), Some(Done)));
    assert_eq!(model.record("base").hold, None);
}

#[test]
fn two_rebuilds_at_once_are_one_and_the_earlier_never_undoes_the_later() {
    let mut model = chain();
    model.ask(r#"{"id":"1","action":"Force"}"#);
    model.ask(r#"{"id":"2","action":"Force","image":"other"}"#);
    model.settle();
    assert_eq!((model.request_state("1"), model.request_state("2")), (Some(Done), Some(Done)));
    assert_eq!(model.builds(), [2, 2, 2]);
    assert!(model.record("other").nonce.as_ref().is_some_and(|nonce| nonce.ends_with("/2")));

    // The earlier one is created again as it was, as if its answer had been lost.
    let mut model = chain();
    model.ask(r#"{"id":"1","action":"Force","image":"other"}"#);
    let earlier = model.requests.clone();
    model.settle();
    model.ask(r#"{"id":"2","action":"Force","image":"other"}"#);
    model.settle();
    assert_eq!(model.builds(), [1, 1, 3]);
    model.requests.extend(earlier);
    model.settle();
    assert_eq!((model.builds(), model.requests.len()), (vec![1, 1, 3], 0));
}

#[test]
fn holds_and_approvals_survive_the_loss_of_every_status() {
    let mut model = chain();
    model.ask(r#"{"id":"1","action":"Hold","image":"base"}"#);
    model.ask(r#"{"id":"2","action":"Hold","upstream":"up"}"#);
    model.settle();
    assert_eq!(model.answers["2"].digest.as_deref(), Some("sha256:up-0"));
    (model.status, model.records) = (ImageFamilyStatus::default(), vec![None; 3]);
    model.asked.clear();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    let upstream = &model.status.upstreams[0];
    assert_eq!(upstream.adopted.as_ref().expect("a digest").digest, "sha256:up-0");
    assert_eq!(upstream.known_reason(), Some(Reason::Held));
    assert_eq!(model.record("base").hold.as_ref().expect("a hold").request, "1");
    // Deleting the objects ends the holds.
    model.requests.clear();
    model.settle();
    assert_eq!((model.states(), model.record("base").hold.is_none()), (vec![CURRENT; 3], true));
    assert_eq!(model.status.upstreams[0].adopted.as_ref().expect("a digest").digest, "sha256:up-1");
}

#[test]
fn a_hold_without_a_digest_keeps_no_digest_of_another_image() {
    let mut model = chain();
    model.ask(r#"{"id":"1","action":"Hold","upstream":"up"}"#);
    model.settle();
    assert_eq!(model.answers["1"].digest.as_deref(), Some("sha256:up-0"));
    let builds = model.builds();
    model.spec.upstreams[0].image = "docker.io/library/other".into();
    model.upstream_digests[0] = "sha256:other-0".into();
    model.settle();
    let upstream = &model.status.upstreams[0];
    assert_eq!(upstream.hold.as_ref().expect("a hold").digest, None, "that of another image");
    assert_eq!((&upstream.adopted, upstream.known_reason()), (&None, Some(Reason::Held)));
    let message = upstream.message.as_deref().unwrap_or_default();
    assert!(message.ends_with("set hold.digest, or end the hold"), "{message}");
    assert_eq!((model.request_state("1"), model.builds()), (Some(Active), builds));
    // Once the hold has ended, the new image is built from.
    model.requests.clear();
    model.settle();
    let adopted = model.status.upstreams[0].adopted.as_ref().expect("a digest");
    assert_eq!((adopted.digest.as_str(), model.states()), ("sha256:other-0", vec![CURRENT; 3]));
}

#[test]
fn an_approval_lasts_until_its_digest_is_adopted_or_gone() {
    let mut model = chain();
    model.spec.upstreams[0].approval = crate::api::Approval::Manual;
    let digest = |letter: &str| format!("sha256:{}", letter.repeat(64));
    model.upstream_digests[0] = digest("b");
    model.settle();
    model.ask(&format!(
        r#"{{"id":"1","action":"Approve","upstream":"up","digest":"{}"}}"#,
        digest("b")
    ));
    model.reconcile();
    assert_eq!(model.request_state("1"), Some(Active));
    // With the status lost, the object still says so.
    model.status.upstreams[0].approval = None;
    model.settle();
    assert_eq!((model.request_state("1"), model.builds()), (Some(Done), vec![2; 3]));

    model.upstream_digests[0] = digest("c");
    model.spec.suspend = true;
    model.reconcile();
    model.ask(&format!(
        r#"{{"id":"2","action":"Approve","upstream":"up","digest":"{}"}}"#,
        digest("c")
    ));
    model.reconcile();
    model.upstream_digests[0] = digest("d");
    model.settle();
    assert_eq!(model.request_state("2"), Some(Superseded));
    assert!(model.answer("2").contains(&digest("d")), "{}", model.answer("2"));
    model.spec.suspend = false;
    model.settle();
    assert_eq!(model.builds(), [2; 3], "another digest needs another approval");
}

#[test]
fn a_hold_ends_at_its_time() {
    let mut model = chain();
    let until = model.now + SignedDuration::from_secs(60);
    model.ask(&format!(r#"{{"id":"1","action":"Hold","upstream":"up","until":"{until}"}}"#));
    let decision = model.reconcile();
    assert_eq!((model.request_state("1"), decision.wake_at), (Some(Active), Some(until)));
    model.now = until;
    model.reconcile();
    assert_eq!(model.request_state("1"), Some(Done));
    assert!(model.answer("1").starts_with("the hold ended at "), "{}", model.answer("1"));
}

#[test]
fn a_cancel_replaces_the_queued_requests_whose_images_it_contains() {
    let mut model = chain();
    model.spec.suspend = true;
    for number in 0..32 {
        model.ask(&format!(r#"{{"id":"r{number:02}","action":"Trigger"}}"#));
    }
    model.ask(r#"{"id":"s1","action":"Trigger"}"#);
    model.ask(r#"{"id":"s2","action":"Force","image":"other"}"#);
    model.ask(r#"{"id":"t","action":"Cancel","image":"other"}"#);
    model.reconcile();
    assert_eq!(model.request_state("s1"), Some(Waiting));
    assert_eq!(model.request_state("s2"), Some(Superseded));
    assert_eq!(model.request_state("t"), Some(Done));
}

#[test]
fn many_requests_wait_for_one_another_and_none_of_them_blocks_a_cancel() {
    let mut model = chain();
    model.spec.suspend = true;
    model.upstream_digests[0] = "sha256:up-1".into();
    for number in 0..40 {
        model.ask(&format!(r#"{{"id":"r{number:02}","action":"Trigger"}}"#));
    }
    model.ask(r#"{"id":"s","action":"Hold","image":"other"}"#);
    model.reconcile();
    assert_eq!(model.answers["r31"].message, "waits until spec.suspend is cleared");
    let queued = &model.answers["r32"].message;
    assert_eq!(queued, "waits for 32 earlier requests of the family that start builds");
    assert_eq!(model.request_state("s"), Some(Active));
    model.ask(r#"{"id":"t","action":"Cancel"}"#);
    model.reconcile();
    assert_eq!(model.request_state("r39"), Some(Superseded));
    assert_eq!(model.request_state("t"), Some(Done), "it replaces what waits");
    model.spec.suspend = false;
    model.settle();
    assert!(model.requests.iter().all(|known| known.state == Some(Active)), "{:?}", model.requests);
}
