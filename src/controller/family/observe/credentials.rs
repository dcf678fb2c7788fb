//! The registry credentials of a family, from the Secrets that it names. They are read when they
//! change, and never logged.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};

use crate::{
    api::{ImageFamily, condition::reason},
    controller::{
        context::{Context, ReconcileCache},
        error::{ReconcileError, call},
        object_cache::Key,
    },
    engine::Problem,
    registry::Keychain,
};

/// The key of a `kubernetes.io/dockerconfigjson` Secret.
const DOCKER_CONFIG: &str = ".dockerconfigjson";

/// The credentials of a family, or what is wrong with one of its Secrets.
pub async fn load(
    context: &Context,
    family: &ImageFamily,
    cache: &mut ReconcileCache,
) -> Result<Result<Arc<Keychain>, Problem>, ReconcileError> {
    let namespace = family.namespace().unwrap_or_default();
    let mut versions = Vec::with_capacity(family.spec.credentials.len());
    for secret in &family.spec.credentials {
        match context.stores.secrets.get(&Key::new(&namespace, &secret.name)) {
            Some(known) => {
                versions.push((secret.name.clone(), known.resource_version().unwrap_or_default()));
            }
            None => return Ok(Err(missing(&namespace, &secret.name))),
        }
    }
    if let Some((_, keychain)) = cache.keychain.as_ref().filter(|(of, _)| *of == versions) {
        return Ok(Ok(Arc::clone(keychain)));
    }

    let api: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    let mut payloads = Vec::with_capacity(versions.len());
    for (name, _) in &versions {
        let secret = match call(|| format!("read Secret {namespace}/{name}"), api.get(name)).await {
            Ok(secret) => secret,
            Err(error) if error.is_not_found() => return Ok(Err(missing(&namespace, name))),
            Err(error) => return Err(error),
        };
        if let Some(payload) = secret.data.and_then(|mut data| data.remove(DOCKER_CONFIG)) {
            payloads.push((name.clone(), payload.0));
        } else {
            let message = format!(
                "spec.credentials[{name}]: the Secret {namespace}/{name} has no key \
                 {DOCKER_CONFIG}; it must be of type kubernetes.io/dockerconfigjson"
            );
            return Ok(Err(Problem { reason: reason::INVALID_SECRET, message }));
        }
    }
    let keychain = match Keychain::from_secrets(
        payloads.iter().map(|(name, payload)| (name.as_str(), payload.as_slice())),
    ) {
        Ok(keychain) => Arc::new(keychain),
        Err(error) => {
            let message = format!("spec.credentials: in namespace {namespace}: {error}");
            return Ok(Err(Problem { reason: reason::INVALID_SECRET, message }));
        }
    };
    // With a new credential, what the registry refused before may be answered now.
    cache.lookups.clear();
    cache.keychain = Some((versions, Arc::clone(&keychain)));
    Ok(Ok(keychain))
}

fn missing(namespace: &str, name: &str) -> Problem {
    let message = format!(
        "spec.credentials[{name}]: there is no Secret {namespace}/{name}; create it as \
         kubernetes.io/dockerconfigjson, or take the entry out"
    );
    Problem { reason: reason::SECRET_NOT_FOUND, message }
}
