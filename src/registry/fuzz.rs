//! Formats of registries and of their credentials; see [`crate::fuzz`].

use std::str;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;

use crate::registry::{
    Digest, ImageConfig, Keychain, Manifest, ManifestKind, Platform, Reference,
    challenge::Challenge,
    error_body::{describe_response, has_error_form, is_name_unknown},
    rate_limits::{RemainingPulls, outage_pause, stated_limit},
    reference::DOCKER_HUB,
};

/// What a request of the fuzzed response contained and no message may repeat.
const PLANTED_SECRET: &str = "correct-horse-battery";
/// Upper bound on a message about a response or a Secret, in characters.
const MAX_MESSAGE: usize = 1000;

/// A reference to an image.
pub fn reference(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let Ok(reference) = text.parse::<Reference>() else { return };
    assert_eq!(reference.to_string().parse().ok(), Some(reference.clone()), "as written");
    // BuildKit's short form of a path at Docker Hub that begins like a host is that of this host.
    if reference.registry() != DOCKER_HUB || !reference.path().contains('.') {
        assert_eq!(reference.familiar().parse().ok(), Some(reference.clone()), "in its short form");
    }
    if let Ok(tagged) = reference.with_tag("latest") {
        assert_eq!(tagged.repository(), reference.repository());
    }
}

/// A Docker configuration, as a Secret contains it.
pub fn docker_config(input: &[u8]) {
    let problems = match Keychain::from_secrets([("secret", input)]) {
        Ok(keychain) => keychain.ignored().iter().map(ToString::to_string).collect(),
        Err(error) => vec![error.to_string()],
    };
    for problem in problems {
        check_message(&problem);
    }
}

/// A response: the status, headers up to an empty line, and the body.
pub fn response(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.parse().ok());
    let status = status.unwrap_or(StatusCode::TOO_MANY_REQUESTS);
    let mut headers = HeaderMap::new();
    for (name, value) in lines.take(100).filter_map(|line| line.split_once(':')) {
        let name = HeaderName::try_from(name.trim());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value.trim())) {
            headers.append(name, value);
        }
    }
    _ = Challenge::from_headers(&headers);
    _ = RemainingPulls::of(&headers);
    _ = (has_error_form(body.as_bytes()), is_name_unknown(body.as_bytes()));
    _ = stated_limit(status, &headers, body, Timestamp::UNIX_EPOCH);
    _ = outage_pause(&headers, Timestamp::UNIX_EPOCH);
    let described = describe_response(status, body.as_bytes(), &[PLANTED_SECRET]);
    check_message(&described);
    assert!(!described.contains(PLANTED_SECRET), "{described} has the secret");
}

/// A manifest: its `Content-Type` in the first line, and the body.
pub fn manifest(input: &[u8]) {
    let (line, body) = first_line(input);
    let content_type = str::from_utf8(line).ok().filter(|line| !line.is_empty());
    let Ok(manifest) = Manifest::parse(content_type, Bytes::copy_from_slice(body)) else { return };
    assert_eq!(manifest.digest, Digest::of(body));
    _ = (manifest.artifact_type(), manifest.annotations());
    if let (ManifestKind::Index(index), Some(platform)) =
        (&manifest.kind, Platform::from_user("linux/arm64/v8"))
    {
        let listed = index.images().count();
        assert!(index.platforms().len() <= listed && index.platform_entries().len() <= listed);
        _ = (index.image_for(&platform), index.nested_for(&platform));
    }
}

/// A configuration of an image.
pub fn image_config(input: &[u8]) {
    let Ok(config) = ImageConfig::parse(input) else { return };
    assert_eq!(ImageConfig::parse(input).ok(), Some(config));
}

fn first_line(input: &[u8]) -> (&[u8], &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (line, rest) = input.split_at(end);
    (line, rest.get(1..).unwrap_or_default())
}

fn check_message(message: &str) {
    assert!(message.chars().count() <= MAX_MESSAGE, "a long message: {message}");
    assert!(!message.contains(char::is_control), "{message:?} acts on a terminal");
}
