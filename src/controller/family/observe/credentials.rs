//! The registry credentials of a family, from the Secrets that it names. They are read when they
//! change, and never logged. Needs a client.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
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
    registry::Keychain,
};

/// The key of a `kubernetes.io/dockerconfigjson` Secret.
const DOCKER_CONFIG: &str = ".dockerconfigjson";

/// The content of a Secret.
struct Payload<'a> {
    credential: &'a RegistryCredential,
    docker_config: Vec<u8>,
}

impl Observer<'_> {
    /// Returns the family's registry credentials. They are read only if a Secret has changed.
    ///
    /// # Errors
    ///
    /// Returns [`ObserveError::Rejected`] if a Secret does not exist or cannot be used.
    pub async fn load_keychain(&mut self) -> Result<Arc<Keychain>, ObserveError> {
        let secrets = self.secret_versions()?;
        if let Some(known) = self.cache.keychain.as_ref().filter(|known| known.secrets == secrets) {
            return Ok(Arc::clone(&known.keychain));
        }
        let namespace = &self.key.namespace;
        let api: Api<Secret> = Api::namespaced(self.context.client.clone(), namespace);
        let mut payloads = Vec::with_capacity(secrets.len());
        for secret in &secrets {
            payloads.push(self.read_payload(&api, &secret.credential).await?);
        }
        let payloads =
            payloads.iter().map(|payload| (payload.credential, payload.docker_config.as_slice()));
        let keychain = Keychain::from_credentials(payloads).map(Arc::new).map_err(|error| {
            let message = format!("spec.credentials: in namespace {namespace}: {error}");
            Problem { reason: Reason::InvalidSecret, message }
        })?;
        // A registry that refused the old credential may accept the new one.
        self.cache.lookups.clear();
        self.cache.check_images.clear();
        self.cache.deferred_jobs.clear();
        self.cache.forget_failed_tags();
        for ignored in keychain.ignored() {
            warn!(namespace, family = self.key.name, "spec.credentials: {ignored}; it is ignored");
        }
        self.cache.keychain = Some(CachedKeychain { secrets, keychain: Arc::clone(&keychain) });
        Ok(keychain)
    }

    /// Returns the versions of the Secrets that the spec names, from the store.
    fn secret_versions(&self) -> Result<Vec<SecretVersion>, Problem> {
        let namespace = &self.key.namespace;
        let version = |secret: &RegistryCredential| {
            let known = self.context.stores.secrets.get(&Key::new(namespace, &secret.name));
            let known = known.ok_or_else(|| secret_not_found(namespace, &secret.name))?;
            let resource_version = known.resource_version().unwrap_or_default();
            Ok(SecretVersion { credential: secret.clone(), resource_version })
        };
        self.family.spec.credentials.iter().map(version).collect()
    }

    async fn read_payload<'s>(
        &self,
        api: &Api<Secret>,
        credential: &'s RegistryCredential,
    ) -> Result<Payload<'s>, ObserveError> {
        let name = credential.name.as_str();
        let namespace = &self.key.namespace;
        let secret = match call(|| format!("read Secret {namespace}/{name}"), api.get(name)).await {
            Ok(secret) => secret,
            Err(error) if error.is_not_found() => {
                return Err(secret_not_found(namespace, name).into());
            }
            Err(error) => return Err(error.into()),
        };
        let Some(payload) = secret.data.and_then(|mut data| data.remove(DOCKER_CONFIG)) else {
            let message = format!(
                "spec.credentials[{name}]: the Secret {namespace}/{name} has no key \
                 {DOCKER_CONFIG}; it must be of type kubernetes.io/dockerconfigjson"
            );
            return Err(Problem { reason: Reason::InvalidSecret, message }.into());
        };
        Ok(Payload { credential, docker_config: payload.0 })
    }
}

fn secret_not_found(namespace: &str, name: &str) -> Problem {
    let message = format!(
        "spec.credentials[{name}]: there is no Secret {namespace}/{name}; create it as \
         kubernetes.io/dockerconfigjson, or remove the entry"
    );
    Problem { reason: Reason::SecretNotFound, message }
}
