use serde_json::{Value, json};

use super::*;

fn digest() -> String {
    format!("sha256:{}", "a".repeat(64))
}

fn object(name: &str, fields: &Value) -> FamilyRequest {
    let mut spec = json!({"family": "flask"});
    spec.as_object_mut().expect("object").extend(fields.as_object().expect("object").clone());
    let metadata = json!({"name": name, "creationTimestamp": "2026-05-01T12:00:00Z"});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).expect("an object")
}

fn action(fields: &Value) -> Result<RequestedAction, RequestError> {
    Request::of(&object("r1", fields)).map(|request| request.action)
}

#[test]
fn each_action_is_read_with_the_fields_that_it_takes() {
    let until: Timestamp = "2026-05-01T12:00:00Z".parse().expect("a time");
    let image = || HoldTarget::Image("app".into());
    let upstream = || HoldTarget::Upstream("alpine".into());
    for (fields, expected) in [
        (json!({"action": "Trigger"}), RequestedAction::Trigger(RequestScope::Family)),
        (
            json!({"action": "Retry", "image": "app"}),
            RequestedAction::Retry(RequestScope::Image("app".into())),
        ),
        (
            json!({"action": "Cancel", "image": "app", "subtree": true}),
            RequestedAction::Cancel(RequestScope::Subtree("app".into())),
        ),
        (
            json!({"action": "Force", "subtree": false}),
            RequestedAction::Force(RequestScope::Family),
        ),
        (
            json!({"action": "Hold", "image": "app", "until": "2026-05-01T14:00:00+02:00"}),
            RequestedAction::Hold { target: image(), digest: None, until: Some(until) },
        ),
        (
            json!({"action": "Hold", "upstream": "alpine", "digest": digest()}),
            RequestedAction::Hold { target: upstream(), digest: Some(digest()), until: None },
        ),
        (json!({"action": "Unhold", "image": "app"}), RequestedAction::Unhold(image())),
        (json!({"action": "Unhold", "upstream": "alpine"}), RequestedAction::Unhold(upstream())),
        (
            json!({"action": "Approve", "upstream": "alpine", "digest": digest()}),
            RequestedAction::Approve { upstream: "alpine".into(), digest: digest() },
        ),
        (
            json!({"action": "Rollback", "image": "app", "digest": digest(), "subtree": true,
                   "rollout": true, "reason": "it leaks"}),
            RequestedAction::Rollback {
                scope: RequestScope::Subtree("app".into()),
                digest: digest(),
                rollout: true,
            },
        ),
    ] {
        assert_eq!(action(&fields), Ok(expected.clone()), "{fields}");
        let spec = expected.clone().into_spec("flask");
        assert_eq!(RequestedAction::of(&spec), Ok(expected), "what is written is what was meant");
    }
}

#[test]
fn a_field_that_the_action_does_not_take_is_rejected() {
    let values = json!({
        "image": "app", "subtree": true, "upstream": "alpine", "digest": digest(),
        "until": "2026-05-01T12:00:00Z", "reason": "why", "by": "ann"
    });
    let taken = [
        ("Trigger", json!({"image": "app"}), vec!["image", "subtree"]),
        ("Retry", json!({"image": "app"}), vec!["image", "subtree"]),
        ("Cancel", json!({"image": "app"}), vec!["image", "subtree"]),
        ("Force", json!({"image": "app"}), vec!["image", "subtree"]),
        ("Hold", json!({"image": "app"}), vec!["image", "until"]),
        ("Hold", json!({"upstream": "alpine"}), vec!["upstream", "digest", "until"]),
        ("Unhold", json!({"image": "app"}), vec!["image"]),
        ("Unhold", json!({"upstream": "alpine"}), vec!["upstream"]),
        ("Approve", json!({"upstream": "alpine", "digest": digest()}), vec!["upstream", "digest"]),
    ];
    for (action_name, least, takes) in taken {
        for (field, value) in values.as_object().expect("object") {
            let mut fields = least.clone();
            fields["action"] = json!(action_name);
            fields[field] = value.clone();
            let read = action(&fields);
            let is_taken = takes.contains(&field.as_str()) || ["reason", "by"].contains(&&**field);
            assert_eq!(read.is_ok(), is_taken, "{fields}: {read:?}");
            if let Err(error) = read {
                let expected = format!("{action_name} does not take ");
                assert!(error.to_string().starts_with(&expected), "{fields}: {error}");
            }
        }
    }
}

#[test]
fn messages_say_what_is_missing() {
    let message = |fields: Value| action(&fields).expect_err("rejected").to_string();
    let approve = message(json!({"action": "Approve", "upstream": "alpine"}));
    assert!(approve.starts_with("Approve needs `digest`"), "{approve}");
    let approve = message(json!({"action": "Approve", "digest": digest()}));
    assert!(approve.starts_with("Approve needs `upstream`"), "{approve}");
    assert_eq!(message(json!({"action": "Hold"})), "Hold needs either `image` or `upstream`");
    let retry = message(json!({"action": "Retry", "subtree": true}));
    assert!(retry.starts_with("Retry needs `image` with `subtree`"), "{retry}");
}

#[test]
fn of_two_nonces_the_later_one_is_greater() {
    let request = |name: &str, second: i64| Request {
        name: name.into(),
        created: Timestamp::from_second(second).expect("a time"),
        by: None,
        reason: None,
        action: RequestedAction::Force(RequestScope::Family),
    };
    let (first, second) = (request("z", 1_000), request("a", 2_000));
    assert!(first.is_earlier_than(&second.nonce()) && !second.is_earlier_than(&first.nonce()));
    assert!(!first.is_earlier_than(&first.nonce()));
    assert!(request("a", 1_000).is_earlier_than(&request("b", 1_000).nonce()));
    assert!(!first.is_earlier_than("zzz-an-id-of-an-earlier-version"));
    assert_eq!(name_of_nonce(&first.nonce()), "z");
    assert_eq!(name_of_nonce("an-id"), "an-id");
}
