use serde_json::json;

use super::*;

fn digest(letter: &str) -> String {
    format!("sha256:{}", letter.repeat(64))
}

fn request(fields: &serde_json::Value) -> Request {
    Request::parse(&fields.to_string()).expect("a request")
}

#[test]
fn a_request_is_described() {
    let text = |fields| requested(&request(&fields));
    assert_eq!(
        text(json!({"id": "r1", "action": "Trigger"})),
        "requested: Trigger the whole family; id r1"
    );
    assert_eq!(
        text(json!({"id": "r1", "action": "Cancel", "image": "app"})),
        "requested: Cancel app; id r1"
    );
    assert_eq!(
        text(json!({"id": "r1", "action": "Force", "image": "app", "subtree": true})),
        "requested: Force app and all images built on it; id r1"
    );
    assert_eq!(
        text(json!({"id": "r1", "action": "Hold", "image": "app", "until": "2026-05-01T12:00:00Z",
                   "reason": "freeze"})),
        "requested: Hold app until 2026-05-01T12:00:00Z (freeze); id r1"
    );
    assert_eq!(
        text(json!({"id": "r1", "action": "Hold", "upstream": "debian", "digest": digest("a")})),
        format!("requested: Hold upstream debian at {}; id r1", digest("a"))
    );
    assert_eq!(
        text(json!({"id": "r1", "action": "Unhold", "upstream": "debian"})),
        "requested: Unhold upstream debian; id r1"
    );
    assert_eq!(
        text(json!({"id": "r1", "action": "Approve", "upstream": "debian", "digest": digest("b")})),
        format!("requested: Approve {} of debian; id r1", digest("b"))
    );
}

#[test]
fn an_earlier_request_is_described_with_its_user() {
    let earlier = request(&json!({"id": "r1", "action": "Retry", "image": "app", "by": "ann"}));
    assert_eq!(pending(&earlier), "an earlier request by ann is not handled yet: Retry app; id r1");
}

#[test]
fn an_outcome_is_described_with_its_message() {
    let of = |outcome| {
        handled(&HandledRequest { outcome, message: "why".into(), ..HandledRequest::default() })
    };
    assert_eq!(of(RequestOutcome::Done), "done: why");
    assert_eq!(of(RequestOutcome::Refused), "refused: why");
}

#[test]
fn a_candidate_is_shown_with_the_digest_in_use() {
    let now = "2026-05-01T12:00:00Z".parse().expect("a time");
    let family: ImageFamily = serde_json::from_value(json!({
        "metadata": {"name": "flask"},
        "spec": {"repository": "r.example.com/team", "upstreams": [], "images": []},
        "status": {"upstreams": [{
            "name": "debian", "reference": "docker.io/library/debian:12",
            "adopted": {"digest": digest("a"), "firstObserved": "2026-04-20T12:00:00Z"},
            "candidate": {"digest": digest("b"), "firstObserved": "2026-05-01T11:00:00Z"}
        }]}
    }))
    .expect("a family");
    assert_eq!(
        candidate(&family, "debian", now),
        format!(
            "debian (docker.io/library/debian:12)\n  candidate {}, first observed 60m ago\n  \
             builds use {}, first observed 11d ago",
            digest("b"),
            digest("a")
        )
    );
}
