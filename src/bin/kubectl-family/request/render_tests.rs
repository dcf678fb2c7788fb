use serde_json::{Value, json};

use super::*;

fn digest(letter: &str) -> String {
    format!("sha256:{}", letter.repeat(64))
}

fn request(fields: &Value, status: &Value) -> FamilyRequest {
    let mut spec = json!({"family": "flask"});
    spec.as_object_mut().expect("object").extend(fields.as_object().expect("object").clone());
    serde_json::from_value(json!({"metadata": {"name": "r1"}, "spec": spec, "status": status}))
        .expect("a request")
}

#[test]
fn a_request_is_described() {
    for (fields, expected) in [
        (json!({"action": "Trigger"}), "Trigger the whole family".to_owned()),
        (json!({"action": "Cancel", "image": "app"}), "Cancel app".into()),
        (
            json!({"action": "Force", "image": "app", "subtree": true}),
            "Force app and all images built on it".into(),
        ),
        (
            json!({"action": "Hold", "image": "app", "until": "2026-05-01T12:00:00Z",
                   "reason": "freeze"}),
            "Hold app until 2026-05-01T12:00:00Z (freeze)".into(),
        ),
        (
            json!({"action": "Hold", "upstream": "debian", "digest": digest("a")}),
            format!("Hold upstream debian at {}", digest("a")),
        ),
        (json!({"action": "Unhold", "upstream": "debian"}), "Unhold upstream debian".into()),
        (
            json!({"action": "Approve", "upstream": "debian", "digest": digest("b")}),
            format!("Approve upstream debian at {}", digest("b")),
        ),
        (
            json!({"action": "Rollback", "image": "app", "digest": digest("c"), "subtree": true,
                   "rollout": true, "reason": "it leaks"}),
            format!(
                "Rollback app and all images built on it to {}, with its workloads (it leaks)",
                digest("c")
            ),
        ),
    ] {
        let text = requested(&request(&fields, &Value::Null));
        assert_eq!(text, format!("requested: {expected}; famreq/r1"));
    }
}

#[test]
fn an_answer_is_described_with_its_message() {
    for (status, expected) in [
        (Value::Null, "not read by a controller yet"),
        (json!({"state": "Done", "message": "why"}), "done: why"),
        (json!({"state": "Active", "message": "why"}), "done: why"),
        (
            json!({"state": "Done", "message": "why", "images": 1}),
            "done: why; it applies to 1 image",
        ),
        (
            json!({"state": "Done", "message": "a", "images": 12}),
            "done: a; it applies to 12 images",
        ),
        (json!({"state": "Refused", "message": "why"}), "refused: why"),
        (json!({"state": "Superseded", "message": "why"}), "replaced: why"),
        (
            json!({"state": "Waiting", "message": "w\u{1b}[31mhy\nnot"}),
            "waiting: w\\u{1b}[31mhy not",
        ),
    ] {
        assert_eq!(answer(&request(&json!({"action": "Trigger"}), &status)), expected);
    }
}

#[test]
fn silence_is_explained_by_the_lease() {
    let now: Timestamp = "2026-05-01T12:00:00Z".parse().expect("a time");
    let lease = |renewed: &str| -> Lease {
        serde_json::from_value(json!({"metadata": {}, "spec": {"renewTime": renewed}}))
            .expect("a Lease")
    };
    let text = silence("gs", Some(&lease("2026-05-01T11:50:00.000000Z")), now);
    assert!(text.starts_with("the controller in namespace gs is not running"), "{text}");
    let text = silence("gs", Some(&lease("2026-05-01T11:59:55.000000Z")), now);
    assert!(text.starts_with("the controller in namespace gs is running"), "{text}");
    assert!(!silence("gs", None, now).contains("running"), "it is not known");
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
