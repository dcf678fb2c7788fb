//! The client against a registry that misbehaves in every known way.

mod addresses;
mod authorization;
mod endpoints;
mod failures;
mod reads;
mod tags;
mod uploads;

use std::{net::SocketAddr, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures::{StreamExt, stream};

use crate::{
    api::condition::Reason,
    registry::{
        fault_registry::{FaultRegistry, FaultReply, RecordedRequest, reply},
        *,
    },
};

const MANIFEST: &str = concat!(
    r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","#,
    r#""digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","#,
    r#""size":2},"layers":[]}"#
);
const TAG: &str = "/v2/team/app/manifests/1";

fn config(plain: &[SocketAddr]) -> Config {
    Config {
        plain_http: plain.iter().map(ToString::to_string).collect(),
        read_timeout: crate::api::Duration::from_secs(1),
        timeout: crate::api::Duration::from_secs(10),
        ..Config::default()
    }
}

fn client(registry: &FaultRegistry) -> Client {
    Client::new(config(&[registry.address])).expect("client")
}

fn image(address: impl std::fmt::Display) -> Reference {
    format!("{address}/team/app:1").parse().expect("reference")
}

fn keychain(address: impl std::fmt::Display, user: &str) -> Keychain {
    let secret =
        format!(r#"{{"auths":{{"{address}":{{"username":"{user}","password":"hunter2"}}}}}}"#);
    Keychain::from_secrets([("regcred", secret.as_bytes())]).expect("keychain")
}

fn none() -> Keychain {
    Keychain::default()
}

/// Responds with the manifest and all the headers that it should have.
fn complete_reply(request: &RecordedRequest) -> FaultReply {
    let digest = Digest::of(MANIFEST.as_bytes());
    let headers = [("content-type", OCI_MANIFEST), ("docker-content-digest", digest.as_str())];
    match request.method.as_str() {
        "HEAD" => reply(
            200,
            &[headers[0], headers[1], ("content-length", &MANIFEST.len().to_string())],
            Body::empty(),
        ),
        "PUT" => reply(201, &headers[1..], Body::empty()),
        _ => reply(200, &headers, MANIFEST),
    }
}

/// Responds as a registry whose tokens come from `realm`, or from itself if there is none. The
/// token for a credential is `token-<basic credential>`.
fn with_tokens(realm: Option<SocketAddr>) -> impl Fn(&RecordedRequest) -> FaultReply {
    move |request| {
        if request.target.starts_with("/token") {
            let who = request.authorization.as_deref().unwrap_or("anonymous").replace(' ', "-");
            return reply(200, &[], format!(r#"{{"token":"token-{who}","expires_in":300}}"#));
        }
        match (&request.authorization, realm) {
            (Some(token), _) if token.starts_with("Bearer token-") => complete_reply(request),
            (_, Some(realm)) => reply(401, &[("www-authenticate", &bearer(realm))], Body::empty()),
            (_, None) => reply(401, &[("www-authenticate", "Basic realm=\"r\"")], Body::empty()),
        }
    }
}

fn bearer(realm: SocketAddr) -> String {
    format!(r#"Bearer realm="http://{realm}/token",service="r",scope="repository:team/app:pull""#)
}
