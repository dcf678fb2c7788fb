//! The forms of hints: a list of references, and the notifications of Distribution
//! (<https://distribution.github.io/distribution/about/notifications/>).

use serde::Deserialize;

use crate::registry::Reference;

/// The most tags of one hint.
const MAX_TAGS: usize = 256;

/// A tag that a registry says to have got.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HintedTag(String);

impl HintedTag {
    /// Returns the tag as `registry/repository:tag`, in the form in which references are compared.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A list of references: `{"references": ["registry.example.com/base:1"]}`.
#[derive(Deserialize)]
struct ReferenceList {
    references: Vec<String>,
}

/// The notifications of Distribution. Everything else in them is ignored.
#[derive(Deserialize)]
struct Notifications {
    events: Vec<Notification>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Notification {
    action: String,
    target: PushTarget,
    request: RequestOrigin,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PushTarget {
    repository: String,
    tag: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RequestOrigin {
    host: String,
}

/// Reads a hint. `registry` is the host by which families name the registry, if it is not the one
/// that the notification names.
///
/// # Errors
///
/// Returns what is wrong with the hint, for its sender.
pub(super) fn hinted_tags(body: &[u8], registry: Option<&str>) -> Result<Vec<HintedTag>, String> {
    let references = match serde_json::from_slice::<ReferenceList>(body) {
        Ok(list) => list.references,
        Err(_) => pushed(body, registry)?,
    };
    if references.len() > MAX_TAGS {
        return Err(format!("a hint names at most {MAX_TAGS} tags"));
    }
    references.iter().map(|reference| hinted_tag(reference)).collect()
}

/// Returns what was pushed, of notifications.
fn pushed(body: &[u8], registry: Option<&str>) -> Result<Vec<String>, String> {
    let Notifications { events } = serde_json::from_slice(body).map_err(|_| {
        "send {\"references\": [\"HOST/REPOSITORY:TAG\"]}, or the notifications of Distribution"
            .to_owned()
    })?;
    let pushed = events.into_iter().filter(|event| event.action == "push");
    let reference = |event: Notification| {
        // A push of a layer, or by digest.
        let tag = event.target.tag.filter(|tag| !tag.is_empty())?;
        let host = registry.unwrap_or(&event.request.host);
        Some(format!("{host}/{}:{tag}", event.target.repository))
    };
    Ok(pushed.filter_map(reference).collect())
}

fn hinted_tag(text: &str) -> Result<HintedTag, String> {
    let reference: Reference =
        text.parse().map_err(|_| "a reference must be HOST/REPOSITORY:TAG".to_owned())?;
    if reference.tag().is_none() || reference.digest().is_some() {
        return Err("a reference must have a tag and no digest".into());
    }
    Ok(HintedTag(reference.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tags(body: &serde_json::Value, registry: Option<&str>) -> Result<Vec<String>, String> {
        let tags = hinted_tags(body.to_string().as_bytes(), registry)?;
        Ok(tags.into_iter().map(|tag| tag.0).collect())
    }

    #[test]
    fn references_are_read_as_families_write_them() {
        let body = json!({"references": ["alpine:3.20", "r.example.com:5000/base/os:1"]});
        let expected = ["docker.io/library/alpine:3.20", "r.example.com:5000/base/os:1"];
        assert_eq!(tags(&body, None).expect("tags"), expected);
    }

    #[test]
    fn pushes_of_tags_are_read_from_notifications() {
        let event = |action: &str, tag: serde_json::Value| {
            json!({"id": "1", "action": action, "request": {"host": "registry:5000"},
                "target": {"repository": "base/os", "tag": tag, "digest": "sha256:00"}})
        };
        let body = json!({"events": [
            event("push", json!("1")), event("pull", json!("2")), event("push", json!(null)),
            event("push", json!("")), {"action": "delete"},
        ]});
        assert_eq!(tags(&body, None).expect("tags"), ["registry:5000/base/os:1"]);
        let named = tags(&body, Some("r.example.com")).expect("tags");
        assert_eq!(named, ["r.example.com/base/os:1"]);
    }

    #[test]
    fn what_names_no_tag_is_an_error() {
        for references in [json!(["r/os@sha256:00"]), json!(["Not A Reference"]), json!(["r/os:"])]
        {
            assert!(tags(&json!({"references": references}), None).is_err(), "{references}");
        }
        let many: Vec<String> = (0..=MAX_TAGS).map(|tag| format!("r/os:{tag}")).collect();
        assert!(tags(&json!({"references": many}), None).is_err());
        assert!(tags(&json!({"events": "none"}), None).is_err());
    }
}
