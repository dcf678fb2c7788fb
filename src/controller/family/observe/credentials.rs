//! The registry credentials of a family, from the Secrets that it names. They are read when they
//! change, and never logged. As for the kubelet, a Secret that cannot be used does not affect the
//! others. Needs a client.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use sha2::{Digest as _, Sha256};
use tracing::warn;

use crate::{
    api::{RegistryCredential, condition::Reason},
    controller::{
        error::call,
        family::observe::{ObserveError, Observer},
        object_cache::Key,
        reconcile_cache::{CachedKeychain, SecretVersion},
    },
    engine::Problem,
    registry::{Keychain, SecretError, SecretForm, SecretPayload},
};

/// The content of a Secret.
struct Payload<'a> {
    credential: &'a RegistryCredential,
    form: SecretForm,
    value: Vec<u8>,
}

/// A Secret that was read.
enum ReadSecret<'a> {
    Usable(Payload<'a>),
    Unusable(Problem),
}

impl Observer<'_> {
    /// Returns the family's registry credentials. They are read only if a Secret has changed.
    ///
    /// # Errors
    ///
    /// Returns [`ObserveError::Rejected`] if Secrets are named and none of them can be used.
    pub async fn load_keychain(&mut self) -> Result<Arc<Keychain>, ObserveError> {
        let secrets = self.secret_versions();
        if let Some(known) = self.cache.keychain.as_ref().filter(|known| known.secrets == secrets) {
            return Ok(Arc::clone(&known.keychain));
        }
        let namespace = &self.key.namespace;
        let api: Api<Secret> = Api::namespaced(self.context.client.clone(), namespace);
        let (mut payloads, mut problems) = (Vec::with_capacity(secrets.len()), Vec::new());
        for secret in &secrets {
            match self.read_secret(&api, secret).await? {
                ReadSecret::Usable(payload) => payloads.push(payload),
                ReadSecret::Unusable(problem) => problems.push(problem),
            }
        }
        let keychain = keychain(namespace, &payloads, &mut problems)?;
        // A registry that refused the old credential may accept the new one.
        self.cache.lookups.clear();
        self.cache.check_images.clear();
        self.cache.deferred_jobs.clear();
        self.cache.forget_failed_tags();
        for Problem { message, .. } in &problems {
            warn!(namespace, family = self.key.name, "{message}; it is not used");
        }
        let keychain = Arc::new(keychain);
        self.cache.keychain =
            Some(CachedKeychain { secrets, keychain: Arc::clone(&keychain), problems });
        Ok(keychain)
    }

    /// Returns one version for all Secrets of the loaded credentials: a hash of their resource
    /// versions, which says nothing about their content.
    pub(super) fn credentials_version(&self) -> Arc<str> {
        let secrets = self.cache.keychain.as_ref().map_or(&[][..], |known| &known.secrets);
        let mut hash = Sha256::new();
        for SecretVersion { credential, resource_version } in secrets {
            for part in [&credential.name, resource_version.as_deref().unwrap_or_default()] {
                hash.update(part.as_bytes());
                hash.update([0]);
            }
        }
        hex::encode(hash.finalize().get(..8).unwrap_or_default()).into()
    }

    /// Returns the versions of the Secrets that the spec names, from the store.
    fn secret_versions(&self) -> Vec<SecretVersion> {
        let version = |secret: &RegistryCredential| {
            let known =
                self.context.stores.secrets.get(&Key::new(&self.key.namespace, &secret.name));
            let resource_version = known.map(|known| known.resource_version().unwrap_or_default());
            SecretVersion { credential: secret.clone(), resource_version }
        };
        self.family.spec.credentials.iter().map(version).collect()
    }

    async fn read_secret<'s>(
        &self,
        api: &Api<Secret>,
        version: &'s SecretVersion,
    ) -> Result<ReadSecret<'s>, ObserveError> {
        let credential = &version.credential;
        let (namespace, name) = (self.key.namespace.as_str(), credential.name.as_str());
        if version.resource_version.is_none() {
            return Ok(ReadSecret::Unusable(secret_not_found(namespace, name)));
        }
        match call(|| format!("read Secret {namespace}/{name}"), api.get(name)).await {
            Ok(secret) => Ok(read(namespace, credential, secret)),
            Err(error) if error.is_not_found() => {
                Ok(ReadSecret::Unusable(secret_not_found(namespace, name)))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Takes the credentials out of a Secret.
fn read<'s>(namespace: &str, credential: &'s RegistryCredential, secret: Secret) -> ReadSecret<'s> {
    let mut data = secret.data.unwrap_or_default();
    if let Some((form, value)) = SecretForm::find(|form| data.remove(form.key())) {
        return ReadSecret::Usable(Payload { credential, form, value: value.0 });
    }
    let (name, [key, old_key]) = (&credential.name, SecretForm::ALL.map(SecretForm::key));
    let message = format!(
        "spec.credentials[{name}]: the Secret {namespace}/{name} has neither of the keys {key} and \
         {old_key}; it must be of type kubernetes.io/dockerconfigjson"
    );
    ReadSecret::Unusable(Problem { reason: Reason::InvalidSecret, message })
}

/// Returns the credentials of these Secrets, and adds what cannot be used of them to `problems`.
/// Without a Secret that can be used, the first problem is the error.
fn keychain(
    namespace: &str,
    payloads: &[Payload<'_>],
    problems: &mut Vec<Problem>,
) -> Result<Keychain, Problem> {
    if payloads.is_empty() && !problems.is_empty() {
        return Err(problems.swap_remove(0));
    }
    let invalid = |error: &SecretError| {
        let message = format!("spec.credentials: in namespace {namespace}: {error}");
        Problem { reason: Reason::InvalidSecret, message }
    };
    let payloads = payloads.iter().map(|Payload { credential, form, value }| {
        (*credential, SecretPayload { form: *form, value })
    });
    let keychain = Keychain::from_credentials(payloads).map_err(|error| invalid(&error))?;
    problems.extend(keychain.ignored().iter().map(invalid));
    Ok(keychain)
}

fn secret_not_found(namespace: &str, name: &str) -> Problem {
    let message = format!(
        "spec.credentials[{name}]: there is no Secret {namespace}/{name}; create it as \
         kubernetes.io/dockerconfigjson, or remove the entry"
    );
    Problem { reason: Reason::SecretNotFound, message }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use secrecy::ExposeSecret as _;
    use serde_json::json;

    use super::*;
    use crate::api::CredentialUse;

    /// Reads Secrets with these keys and values; a missing one is `None`. Returns how many hosts
    /// there are credentials for, if any can be used, and the problems.
    fn load(secrets: &[(&str, Option<(&str, &str)>)]) -> (Option<usize>, Vec<String>) {
        let credentials: Vec<RegistryCredential> =
            secrets.iter().map(|(name, _)| RegistryCredential::unrestricted(name)).collect();
        let (mut payloads, mut problems) = (Vec::new(), Vec::new());
        for (credential, (name, content)) in credentials.iter().zip(secrets) {
            let secret = content.map(|(key, value)| -> Secret {
                let data = json!({"data": {key: STANDARD.encode(value)}});
                serde_json::from_value(data).expect("a Secret")
            });
            match secret.map(|secret| read("team", credential, secret)) {
                Some(ReadSecret::Usable(payload)) => payloads.push(payload),
                Some(ReadSecret::Unusable(problem)) => problems.push(problem),
                None => problems.push(secret_not_found("team", name)),
            }
        }
        let shown = |problem: &Problem| format!("{}: {}", problem.reason, problem.message);
        match keychain("team", &payloads, &mut problems) {
            Ok(keychain) => {
                let image = |host: &str| format!("{host}/app").parse().expect("an image");
                let images = ["r.example", "old.example"].map(image);
                let wanted = images.iter().map(|image| (image, CredentialUse::Pull));
                let config = keychain.docker_config(wanted);
                let found = config.expose_secret().matches(".example").count();
                (Some(found), problems.iter().map(shown).collect())
            }
            Err(problem) => (None, vec![shown(&problem)]),
        }
    }

    const NEW: (&str, &str) = (".dockerconfigjson", r#"{"auths":{"r.example":{"auth":"dTpw"}}}"#);
    const OLD: (&str, &str) = (".dockercfg", r#"{"old.example":{"auth":"dTpw"}}"#);

    #[test]
    fn a_secret_that_is_missing_or_invalid_is_named_and_the_others_are_used() {
        assert_eq!(load(&[("new", Some(NEW)), ("old", Some(OLD))]), (Some(2), vec![]));
        let (found, problems) = load(&[
            ("gone", None),
            ("new", Some(NEW)),
            ("other", Some(("password", "hunter2"))),
            ("broken", Some((".dockerconfigjson", "hunter2"))),
        ]);
        assert_eq!((found, problems.len()), (Some(1), 3));
        for (problem, start) in problems.iter().zip([
            "SecretNotFound: spec.credentials[gone]: there is no Secret team/gone; create it",
            "InvalidSecret: spec.credentials[other]: the Secret team/other has neither of the keys",
            "InvalidSecret: spec.credentials: in namespace team: Secret broken: .dockerconfigjson",
        ]) {
            assert!(problem.starts_with(start) && !problem.contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn without_a_secret_that_can_be_used_the_first_problem_is_the_error() {
        for (secrets, start) in [
            (vec![("gone", None)], "SecretNotFound: spec.credentials[gone]"),
            (vec![("gone", None), ("other", Some(("a", "b")))], "SecretNotFound"),
            (vec![("broken", Some((".dockercfg", "[]")))], "InvalidSecret: spec.credentials: in"),
        ] {
            let (found, problems) = load(&secrets);
            assert!(found.is_none() && problems[0].starts_with(start), "{problems:?}");
        }
        assert_eq!(load(&[]), (Some(0), vec![]), "a family may name none");
    }
}
