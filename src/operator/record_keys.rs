//! The keys that sign the records of builds: a Secret in the namespace of the controller, which the
//! first replica makes.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client, api::PostParams};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    build_records::keys::{KeyError, RecordKeys},
    server::Readiness,
};

/// Interval at which the Secret is read until it can be used.
const READ_INTERVAL: Duration = Duration::from_secs(5);
/// Timeout of one call about it.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    /// A call to the API server failed.
    #[error(
        "could not {verb} Secret {secret}: {source}; the controller may get and create it in its \
         own namespace if the chart's role is complete"
    )]
    Api {
        /// What was tried.
        verb: &'static str,
        /// The Secret, with its namespace.
        secret: String,
        /// The error.
        source: Box<kube::Error>,
    },
    /// The API server did not answer.
    #[error("no answer from the API server about Secret {0}")]
    NoAnswer(String),
    /// The Secret cannot be used.
    #[error("Secret {secret}: {source}")]
    Invalid {
        /// The Secret, with its namespace.
        secret: String,
        /// What is wrong.
        source: KeyError,
    },
}

/// Reads the keys, and makes the first one if there is no Secret. Waits until there are keys;
/// readiness says what is wrong.
pub(super) async fn wait_for_keys(
    client: &Client,
    namespace: &str,
    name: &str,
    readiness: &Readiness,
) -> RecordKeys {
    let (report, problem) = watch::channel(vec!["not read yet".to_owned()]);
    readiness.require("record keys", move || problem.borrow().clone());
    loop {
        match load(client, namespace, name).await {
            Ok(keys) => {
                info!(
                    secret = format!("{namespace}/{name}"),
                    signer = keys.signer().id(),
                    "the keys of build records are read"
                );
                report.send_replace(Vec::new());
                return keys;
            }
            Err(error) => {
                let text = error.to_string();
                if !report.borrow().contains(&text) {
                    warn!(%error, "waiting for the keys of build records");
                }
                report.send_replace(vec![text]);
            }
        }
        tokio::time::sleep(READ_INTERVAL).await;
    }
}

async fn load(client: &Client, namespace: &str, name: &str) -> Result<RecordKeys, LoadError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let full_name = format!("{namespace}/{name}");
    if let Some(secret) = call("get", &full_name, api.get_opt(name)).await? {
        return read(&full_name, &secret);
    }
    let new = new_secret(name)
        .map_err(|source| LoadError::Invalid { secret: full_name.clone(), source })?;
    match call("create", &full_name, api.create(&PostParams::default(), &new)).await {
        Ok(made) => {
            info!(secret = full_name, "made a key for build records");
            read(&full_name, &made)
        }
        // Another replica was faster.
        Err(LoadError::Api { source, .. }) if is_taken(&source) => {
            read(&full_name, &call("get", &full_name, api.get(name)).await?)
        }
        Err(error) => Err(error),
    }
}

fn is_taken(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_already_exists())
}

/// Reads the keys of a Secret, and logs which of its entries are none.
fn read(name: &str, secret: &Secret) -> Result<RecordKeys, LoadError> {
    let entries = secret.data.iter().flatten();
    let entries = entries.map(|(entry, content)| (entry.as_str(), content.0.as_slice()));
    let read = RecordKeys::read(entries)
        .map_err(|source| LoadError::Invalid { secret: name.into(), source })?;
    for error in &read.unusable {
        warn!(secret = name, %error, "an entry of the Secret is not used");
    }
    Ok(read.keys)
}

/// Returns a Secret with a new key, whose name is the date, so that later keys have higher names.
fn new_secret(name: &str) -> Result<Secret, KeyError> {
    let entry = format!("{}.pem", Timestamp::now().strftime("%Y-%m-%d"));
    let pem = k8s_openapi::ByteString(RecordKeys::generate_pem()?.into_bytes());
    let label = ("app.kubernetes.io/name".to_owned(), "groundswell".to_owned());
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(name.into()),
            labels: Some(BTreeMap::from([label])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(entry, pem)])),
        ..Secret::default()
    })
}

async fn call<T>(
    verb: &'static str,
    secret: &str,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, LoadError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => {
            Err(LoadError::Api { verb, secret: secret.into(), source: Box::new(source) })
        }
        Err(_) => Err(LoadError::NoAnswer(secret.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{Arc, Mutex},
    };

    use http::{Method, Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// The Secret of an API server, if there is one, and how many were created.
    #[derive(Default)]
    struct SecretServer {
        secret: Option<Value>,
        created: usize,
        /// Another replica creates its Secret right before the next one is created.
        rival: Option<Value>,
    }

    fn api_server(served: &Arc<Mutex<SecretServer>>) -> Client {
        let served = Arc::clone(served);
        let service = tower::service_fn(move |request: Request<Body>| {
            let served = Arc::clone(&served);
            async move {
                let is_create = request.method() == Method::POST;
                let body = request.into_body().collect_bytes().await.expect("a body");
                let mut served = served.lock().expect("a lock");
                if is_create && let Some(rival) = served.rival.take() {
                    served.secret = Some(rival);
                }
                let failure = |code: u16, reason: &str| {
                    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
                        "status": "Failure", "reason": reason, "code": code, "message": reason});
                    (code, status)
                };
                let (code, answer) = match (is_create, served.secret.clone()) {
                    (true, Some(_)) => failure(409, "AlreadyExists"),
                    (true, None) => {
                        let made: Value = serde_json::from_slice(&body).expect("a Secret");
                        served.created += 1;
                        served.secret = Some(made.clone());
                        (201, made)
                    }
                    (false, Some(secret)) => (200, secret),
                    (false, None) => failure(404, "NotFound"),
                };
                let body = Body::from(answer.to_string().into_bytes());
                Ok::<_, Infallible>(
                    Response::builder().status(code).body(body).expect("a response"),
                )
            }
        });
        Client::new(service, "system")
    }

    async fn loaded(served: &Arc<Mutex<SecretServer>>) -> Result<RecordKeys, LoadError> {
        load(&api_server(served), "system", "keys").await
    }

    #[tokio::test]
    async fn the_first_replica_makes_a_key_and_every_other_reads_it() {
        let served = Arc::default();
        let first = loaded(&served).await.expect("keys");
        let second = loaded(&served).await.expect("keys");
        assert_eq!(first.signer().id(), second.signer().id());
        assert_eq!(served.lock().expect("a lock").created, 1);
    }

    #[tokio::test]
    async fn two_replicas_that_start_at_once_have_the_same_key() {
        let rival = serde_json::to_value(new_secret("keys").expect("a Secret")).expect("JSON");
        let served =
            Arc::new(Mutex::new(SecretServer { rival: Some(rival), ..SecretServer::default() }));
        let slower = loaded(&served).await.expect("keys");
        let faster = loaded(&served).await.expect("keys");
        assert_eq!(slower.signer().id(), faster.signer().id());
        assert_eq!(served.lock().expect("a lock").created, 0);
    }

    #[tokio::test]
    async fn a_secret_without_a_key_is_reported_by_name_and_not_replaced() {
        let data = json!({"note": "aHVudGVyMg=="});
        let secret = json!({"metadata": {"name": "keys"}, "data": data});
        let served =
            Arc::new(Mutex::new(SecretServer { secret: Some(secret), ..SecretServer::default() }));
        let error = loaded(&served).await.expect_err("no key").to_string();
        assert!(error.starts_with("Secret system/keys: the entry `note`"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
        assert_eq!(served.lock().expect("a lock").created, 0);
    }
}
