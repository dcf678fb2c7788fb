//! The registries of a family: its credentials, the right to pull and to push, and its upstreams.
//! No tag is written.

use std::{collections::BTreeSet, sync::Arc};

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client as KubeClient};

use crate::{
    api::{ImageFamilySpec, RegistryCredential, condition::Problem},
    engine::blueprint::repository,
    preflight::{
        call::{CallError, call},
        report::Finding,
    },
    registry::{Client, Keychain, Platform, Reference, RegistryError, SecretForm, SecretPayload},
    upstream::{ImageKey, TagNeeds, UpstreamDigest, resolve_tag},
};

/// Maximum number of repositories that are checked.
const MAX_REPOSITORIES: usize = 16;
/// Number of calls to registries that run at once.
const MAX_CONCURRENT_CALLS: usize = 4;
/// A tag that the check asks for. It need not exist.
const PROBED_TAG: &str = "groundswell-check";

const CREDENTIALS: &str = "credentials";

/// The keychain of a family, or why there is none.
pub struct FamilyKeychain {
    /// The credentials, if any of them could be read.
    pub keychain: Option<Arc<Keychain>>,
    /// What was found.
    pub finding: Finding,
}

/// Reads the credentials of a family.
pub async fn check_credentials(
    client: &KubeClient,
    namespace: &str,
    credentials: &[RegistryCredential],
) -> FamilyKeychain {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut secrets = Vec::with_capacity(credentials.len());
    for credential in credentials {
        secrets.push((credential.clone(), call(api.get(&credential.name)).await));
    }
    judge_credentials(secrets, namespace)
}

fn judge_credentials(
    secrets: Vec<(RegistryCredential, Result<Secret, CallError>)>,
    namespace: &str,
) -> FamilyKeychain {
    let none = |finding| FamilyKeychain { keychain: None, finding };
    let (mut payloads, mut problems) = (Vec::with_capacity(secrets.len()), Vec::new());
    for (credential, secret) in secrets {
        let name = &credential.name;
        let mut data = match secret {
            Ok(secret) => secret.data.unwrap_or_default(),
            Err(CallError::NotFound(_)) => {
                problems.push(format!(
                    "there is no Secret {namespace}/{name}; create it with `kubectl create secret \
                     docker-registry`, or correct spec.credentials"
                ));
                continue;
            }
            Err(error) => {
                let message = format!("{error}; the registries are not checked");
                return none(Finding::not_checked(CREDENTIALS, message));
            }
        };
        match SecretForm::find(|form| data.remove(form.key())) {
            Some((form, value)) => payloads.push((credential, form, value.0)),
            None => problems.push(format!(
                "the Secret {namespace}/{name} has neither of the keys {} and {}; it must have the \
                 type kubernetes.io/dockerconfigjson",
                SecretForm::DockerConfigJson.key(),
                SecretForm::DockerCfg.key()
            )),
        }
    }
    if payloads.is_empty() && !problems.is_empty() {
        return none(Finding::problem(CREDENTIALS, problems.swap_remove(0)));
    }
    let read = payloads
        .iter()
        .map(|(credential, form, value)| (credential, SecretPayload { form: *form, value }));
    let keychain = match Keychain::from_credentials(read) {
        Ok(keychain) => Arc::new(keychain),
        Err(error) => return none(Finding::problem(CREDENTIALS, error.to_string())),
    };
    problems.extend(keychain.ignored().iter().map(ToString::to_string));
    let names: Vec<&str> =
        payloads.iter().map(|(credential, ..)| credential.name.as_str()).collect();
    let message = if names.is_empty() {
        "the family names none; registries are used without".to_owned()
    } else {
        format!("{} can be used", names.join(", "))
    };
    let finding = match problems.first() {
        None => Finding::ok(CREDENTIALS, message),
        Some(first) => {
            let more = match problems.len() - 1 {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            Finding::problem(CREDENTIALS, format!("{message}; ignored: {first}{more}"))
        }
    };
    FamilyKeychain { keychain: Some(keychain), finding }
}

/// Checks that the repositories of a family can be pulled from and pushed to, and that its
/// upstreams can be read. These must offer the platform that is built, if it is known.
pub async fn check_registries(
    client: &Client,
    spec: &ImageFamilySpec,
    keychain: &Arc<Keychain>,
    built_for: Option<&Platform>,
) -> Vec<Finding> {
    let repositories: BTreeSet<String> =
        spec.images.iter().map(|image| repository(spec, image)).collect();
    let checks = repositories.iter().take(MAX_REPOSITORIES).map(|repository| async move {
        let reference: Reference = match format!("{repository}:{PROBED_TAG}").parse() {
            Ok(reference) => reference,
            Err(error) => return Finding::problem(repository_title(repository), error.to_string()),
        };
        let pull = client.own_head(&reference, keychain).await.map(|_| ());
        let push = client.verify_push(&reference, keychain).await;
        judge_repository(repository, &pull, &push)
    });
    let mut findings: Vec<Finding> =
        stream::iter(checks).buffered(MAX_CONCURRENT_CALLS).collect().await;
    if let Some(more) = repositories.len().checked_sub(MAX_REPOSITORIES).filter(|more| *more > 0) {
        let message = format!("{more} more repositories of the family");
        findings.push(Finding::not_checked("repositories", message));
    }
    let upstreams = spec.upstreams.iter().map(|upstream| async move {
        let built = built_for.map(ToString::to_string);
        let built = built.filter(|built| !upstream.platforms.contains(built));
        let required = upstream.platforms.iter().cloned().chain(built).collect();
        let needs = TagNeeds::Images { required };
        let key = ImageKey::new(client, &upstream.reference(), &needs, keychain);
        let resolved = resolve_tag(client, &key, None).await;
        judge_upstream(&upstream.name, &upstream.reference(), &resolved)
    });
    let mut upstreams = stream::iter(upstreams).buffered(MAX_CONCURRENT_CALLS);
    while let Some(finding) = upstreams.next().await {
        findings.push(finding);
    }
    findings
}

fn repository_title(repository: &str) -> String {
    format!("repository {repository}")
}

fn judge_repository(
    repository: &str,
    pull: &Result<(), RegistryError>,
    push: &Result<(), RegistryError>,
) -> Finding {
    let title = repository_title(repository);
    match (pull, push) {
        (Ok(()), Ok(())) => Finding::ok(title, "can be pulled from and pushed to"),
        (Ok(()), Err(error)) => Finding::problem(
            title,
            format!("can be pulled from, but not pushed to: {}", with_advice(error)),
        ),
        (Err(error), Ok(())) => Finding::problem(
            title,
            format!("can be pushed to, but not pulled from: {}", with_advice(error)),
        ),
        // Both errors have the same cause, and the second one is about the wider right.
        (Err(_), Err(error)) => Finding::problem(
            title,
            format!("can be neither pulled from nor pushed to: {}", with_advice(error)),
        ),
    }
}

/// Returns the error with what else to do.
fn with_advice(error: &RegistryError) -> String {
    match error {
        RegistryError::NotFound { .. } => {
            format!("{error}; some registries need the repository to be created first")
        }
        _ => error.to_string(),
    }
}

fn judge_upstream(
    name: &str,
    reference: &str,
    resolved: &Result<UpstreamDigest, Problem>,
) -> Finding {
    let title = format!("upstream {name}");
    match resolved {
        Ok(found) if found.missing_platforms.is_empty() => {
            Finding::ok(title, format!("{reference} is {}", found.tagged))
        }
        Ok(found) => Finding::problem(
            title,
            format!(
                "{reference} does not offer {}; follow another tag, or correct `platforms` or the \
                 strategy's parameter `platform`",
                found.missing_platforms.join(", ")
            ),
        ),
        Err(problem) => Finding::problem(title, problem.message.clone()),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use serde_json::json;

    use super::*;
    use crate::{
        preflight::report::Verdict,
        registry::{
            Config, OCI_INDEX,
            fault_registry::{FaultRegistry, not_found, reply},
        },
    };

    const DOCKER_CONFIG: &str = SecretForm::DockerConfigJson.key();

    fn secret(data: &serde_json::Value) -> Secret {
        serde_json::from_value(json!({"data": data})).expect("a Secret")
    }

    #[test]
    fn credentials_are_named_and_never_quoted() {
        let judged = |secret| {
            let push = RegistryCredential::unrestricted("push");
            judge_credentials(vec![(push, secret)], "team")
        };
        // {"auths":{"r.example":{"username":"me","password":"hunter2"}}}
        let readable =
            "eyJhdXRocyI6eyJyLmV4YW1wbGUiOnsidXNlcm5hbWUiOiJtZSIsInBhc3N3b3JkIjoiaHVudGVyMiJ9fX0=";
        let readable = judged(Ok(secret(&json!({DOCKER_CONFIG: readable}))));
        assert_eq!(readable.finding, Finding::ok(CREDENTIALS, "push can be used"));
        assert!(readable.keychain.is_some());
        for (secret, verdict, expected) in [
            (
                Err(CallError::NotFound(String::new())),
                Verdict::Problem,
                "there is no Secret team/push",
            ),
            (Err(CallError::Forbidden("no".into())), Verdict::NotChecked, "no; the registries"),
            (Ok(secret(&json!({}))), Verdict::Problem, "has neither of the keys"),
            // hunter2
            (Ok(secret(&json!({DOCKER_CONFIG: "aHVudGVyMg=="}))), Verdict::Problem, "Secret push"),
        ] {
            let FamilyKeychain { keychain, finding } = judged(secret);
            assert!(keychain.is_none());
            assert_eq!(finding.verdict, verdict);
            assert!(finding.message.contains(expected), "{}", finding.message);
            assert!(!finding.message.contains("hunter2"), "{}", finding.message);
        }
        let none = judge_credentials(Vec::new(), "team");
        assert!(none.finding.message.contains("names none"), "{}", none.finding.message);
    }

    #[test]
    fn a_secret_that_is_missing_next_to_others_is_a_problem_and_they_are_used() {
        let named = RegistryCredential::unrestricted;
        // {"r.example":{"auth":"dTpw"}}
        let old = secret(&json!({".dockercfg": "eyJyLmV4YW1wbGUiOnsiYXV0aCI6ImRUcHcifX0="}));
        let missing = Err(CallError::NotFound(String::new()));
        let judged =
            judge_credentials(vec![(named("gone"), missing), (named("old"), Ok(old))], "t");
        assert!(judged.keychain.is_some());
        assert_eq!(judged.finding.verdict, Verdict::Problem);
        let expected = "old can be used; ignored: there is no Secret t/gone; create it";
        assert!(judged.finding.message.starts_with(expected), "{}", judged.finding.message);
    }

    fn spec(registry: &FaultRegistry) -> ImageFamilySpec {
        let images: Vec<_> =
            ["one", "two"].map(|name| json!({"name": name, "from": [], "source": {}})).into();
        let address = registry.address;
        serde_json::from_value(json!({
            "repository": format!("{address}/team"),
            "images": images,
            "upstreams": [{"name": "alpine", "image": format!("{address}/library/alpine"),
                "follow": {"tag": "3"}, "platforms": ["linux/arm64"]}],
        }))
        .expect("a spec")
    }

    async fn found(registry: &FaultRegistry) -> Vec<Finding> {
        let config = Config { plain_http: vec![registry.address.to_string()], ..Config::default() };
        let client = Client::new(config).expect("a client");
        check_registries(&client, &spec(registry), &Arc::default(), None).await
    }

    #[tokio::test]
    async fn a_registry_that_accepts_everything_is_ok() {
        let manifest = r#"{"schemaVersion":2,"manifests":[]}"#;
        let registry = FaultRegistry::start(move |request| match request.method.as_str() {
            "POST" => reply(202, &[("location", "/v2/team/one/blobs/uploads/1")], Body::empty()),
            "DELETE" => reply(204, &[], Body::empty()),
            _ if request.target.contains("library") => {
                reply(200, &[("content-type", OCI_INDEX)], manifest)
            }
            _ => not_found("MANIFEST_UNKNOWN"),
        })
        .await;
        let found = found(&registry).await;
        assert_eq!(found.len(), 3);
        for (finding, image) in found.iter().zip(["one", "two"]) {
            assert_eq!(finding.verdict, Verdict::Ok, "{finding:?}");
            assert!(finding.subject.ends_with(&format!("/team/{image}")), "{finding:?}");
        }
        assert_eq!(found[2].verdict, Verdict::Problem);
        assert!(found[2].message.contains("does not offer linux/arm64"), "{:?}", found[2]);
        let written = registry.requests().iter().any(|request| request.method == "PUT");
        assert!(!written, "a tag was written");
    }

    #[tokio::test]
    async fn the_right_that_is_missing_is_named() {
        let registry = FaultRegistry::start(|request| match request.method.as_str() {
            "POST" if request.target.contains("/one/") => reply(403, &[], Body::empty()),
            "POST" => not_found("NAME_UNKNOWN"),
            _ if request.target.contains("/two/") => reply(403, &[], Body::empty()),
            _ => not_found("MANIFEST_UNKNOWN"),
        })
        .await;
        let found = found(&registry).await;
        let text = |index: usize| found[index].message.as_str();
        assert!(text(0).starts_with("can be pulled from, but not pushed to"), "{found:?}");
        assert!(text(0).contains("denied access") && text(0).contains("credentials"), "{found:?}");
        assert!(text(1).starts_with("can be neither pulled from nor pushed to"), "{found:?}");
        assert!(text(1).contains("create the repository"), "{found:?}");
        assert!(found.iter().all(|finding| finding.verdict == Verdict::Problem), "{found:?}");
    }

    #[tokio::test]
    async fn the_number_of_repositories_is_limited() {
        let registry = FaultRegistry::start(|_| not_found("MANIFEST_UNKNOWN")).await;
        let mut spec = spec(&registry);
        let image = spec.images[0].clone();
        spec.images = (0..MAX_REPOSITORIES + 3)
            .map(|number| crate::api::Image { name: format!("i{number:02}"), ..image.clone() })
            .collect();
        spec.upstreams.clear();
        let config = Config { plain_http: vec![registry.address.to_string()], ..Config::default() };
        let client = Client::new(config).expect("a client");
        let found = check_registries(&client, &spec, &Arc::default(), None).await;
        assert_eq!(found.len(), MAX_REPOSITORIES + 1);
        assert!(found[MAX_REPOSITORIES].message.starts_with("3 more"), "{found:?}");
    }
}
