//! The tags of repositories that we push to: they are read at the registry itself, never through a
//! mirror, and set there.
//!
//! Some registries deny access to what does not exist yet, even with a valid credential. So a
//! denied read is no denial before it is proved: whoever may begin an upload may push, and then the
//! tag does not exist.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderValue, Method, StatusCode, header};
use indexmap::IndexMap;
use tokio::time::Instant;
use url::Url;

use crate::{
    api::CredentialUse,
    registry::{
        Client, Digest, Keychain, Manifest, ManifestHead, Reference, RegistryError,
        call::RegistryCall,
        client::read_manifest,
        credentials::CredentialIdentity,
        error::{AccessDenial, ErrorContext},
        http::DIGEST_HEADER,
        operation::Operation,
    },
};

/// How long the right to push is relied on.
const PUSH_RIGHT_LIFETIME: Duration = Duration::from_mins(1);
/// Maximum number of rights that are remembered.
const MAX_PUSH_RIGHTS: usize = 4096;
/// The pauses before a tag that was set is read again, if the registry does not show it yet.
const VISIBILITY_PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];

/// A repository and the credentials for it.
type PushRight = (String, CredentialIdentity);

/// The repositories to which the credentials may push, and until when that is relied on.
#[derive(Default)]
pub(super) struct PushRights(Mutex<IndexMap<PushRight, Instant>>);

impl PushRights {
    fn contains(&self, right: &PushRight) -> bool {
        let rights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rights.get(right).is_some_and(|until| Instant::now() < *until)
    }

    fn insert(&self, right: PushRight) {
        let mut rights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if rights.len() >= MAX_PUSH_RIGHTS && !rights.contains_key(&right) {
            rights.shift_remove_index(0);
        }
        rights.insert(right, Instant::now() + PUSH_RIGHT_LIFETIME);
    }
}

impl Client {
    /// Returns what a tag of ours points to, or `None` if there is no such tag.
    pub async fn own_head(
        &self,
        tag: &Reference,
        keychain: &Keychain,
    ) -> Result<Option<ManifestHead>, RegistryError> {
        let call = RegistryCall::new(self, tag, keychain);
        match call.head_at_registry(self, None).await {
            Err(error) if is_denial(&error) => self.prove_absent(tag, keychain, error).await,
            result => result,
        }
    }

    /// Returns what a tag points to in a repository that we have pushed to, or `None` if there is
    /// no such tag. That the repository exists is known, so a denied read is a denial and never
    /// proves that the tag does not exist.
    pub async fn head_of_pushed(
        &self,
        tag: &Reference,
        keychain: &Keychain,
    ) -> Result<Option<ManifestHead>, RegistryError> {
        RegistryCall::new(self, tag, keychain).head_at_registry(self, None).await
    }

    /// Returns the digest that a tag points to in a repository that we have pushed to, or `None` if
    /// there is no such tag, as is expected. It costs one request: after a `HEAD` that finds
    /// nothing, a `GET` would have the last word anyway.
    pub async fn digest_of_unused(
        &self,
        tag: &Reference,
        keychain: &Keychain,
    ) -> Result<Option<Digest>, RegistryError> {
        let call = RegistryCall::new(self, tag, keychain);
        match self.read_at_registry(&call, tag, &Operation::manifest(Method::GET, tag)).await {
            Ok(manifest) => Ok(Some(manifest.digest)),
            Err(RegistryError::NotFound { .. }) => Ok(None),
            // Something else is there, which need not be readable.
            Err(RegistryError::InvalidResponse { .. } | RegistryError::TooLarge { .. }) => {
                let head = self.head_of_pushed(tag, keychain).await?;
                Ok(head.map(|head| head.digest))
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the manifest that a tag of ours points to, or `None` if there is no such tag. If
    /// there is not even a repository, it must be one that a push creates.
    pub async fn own_manifest(
        &self,
        tag: &Reference,
        keychain: &Keychain,
    ) -> Result<Option<Manifest>, RegistryError> {
        let call = RegistryCall::new(self, tag, keychain);
        match self.read_at_registry(&call, tag, &Operation::manifest(Method::GET, tag)).await {
            Ok(manifest) => {
                self.remember(&call, &manifest);
                Ok(Some(manifest))
            }
            Err(RegistryError::NotFound { is_name_unknown: true, .. }) => {
                self.verify_push_recently(tag, keychain).await.map(|()| None)
            }
            Err(RegistryError::NotFound { .. }) => Ok(None),
            Err(error) if is_denial(&error) => self.prove_absent(tag, keychain, error).await,
            Err(error) => Err(error),
        }
    }

    /// Reads a manifest at the registry itself.
    async fn read_at_registry(
        &self,
        call: &RegistryCall<'_>,
        tag: &Reference,
        operation: &Operation,
    ) -> Result<Manifest, RegistryError> {
        let origin = self.0.config.origin(tag.registry());
        let read = |context: ErrorContext<'_>, response| read_manifest(context, tag, response);
        call.ask_registry(&origin, operation, &read).await
    }

    /// Returns that a tag does not exist if its repository can be pushed to, or else why access was
    /// denied.
    async fn prove_absent<T>(
        &self,
        tag: &Reference,
        keychain: &Keychain,
        denial: RegistryError,
    ) -> Result<Option<T>, RegistryError> {
        let identity = |usage| keychain.identity([tag.registry()], tag.path(), usage);
        if identity(CredentialUse::Pull) != identity(CredentialUse::Push) {
            // The right of one credential says nothing about why the other one was denied.
            let call = RegistryCall::new(self, tag, keychain);
            match self.read_at_registry(&call, tag, &Operation::pushed_manifest(tag)).await {
                Ok(_) => return Err(denial),
                Err(RegistryError::NotFound { .. }) => return Ok(None),
                Err(error) if is_denial(&error) => {}
                Err(error) => return Err(error),
            }
        }
        match self.verify_push_recently(tag, keychain).await {
            Ok(()) => Ok(None),
            Err(error) if error.is_transient() => Err(error),
            Err(error @ RegistryError::NoRepository { .. }) => Err(error),
            Err(_) => Err(denial),
        }
    }

    /// Verifies the right to push, unless that was done a moment ago.
    async fn verify_push_recently(
        &self,
        tag: &Reference,
        keychain: &Keychain,
    ) -> Result<(), RegistryError> {
        let registry = [tag.registry()];
        let identity = keychain.identity(registry, tag.path(), CredentialUse::Push);
        let right = (tag.repository(), identity);
        if self.0.push_rights.contains(&right) {
            return Ok(());
        }
        self.verify_push(tag, keychain).await?;
        self.0.push_rights.insert(right);
        Ok(())
    }

    /// Sets a tag to a manifest whose blobs the repository already has. No layer is copied, and the
    /// call is idempotent. `tag` is the repository with the tag.
    pub async fn set_tag(
        &self,
        tag: &Reference,
        manifest: &Manifest,
        keychain: &Keychain,
    ) -> Result<(), RegistryError> {
        let call = RegistryCall::new(self, tag, keychain);
        let context = ErrorContext { image: &call.name, host: tag.registry() };
        let media_type = HeaderValue::from_str(&manifest.media_type)
            .map_err(|_| context.invalid_response("has a manifest with an invalid media type"))?;
        let operation = Operation::set_tag(tag, manifest, media_type);
        let reported: Option<Digest> = call
            .execute(&operation, |_, response| {
                Ok(response.header(DIGEST_HEADER).and_then(|text| text.parse().ok()))
            })
            .await?;
        let tagged = match reported {
            Some(digest) => Some(digest),
            None => self.visible_tag(&call, &manifest.digest).await?,
        };
        match tagged {
            Some(digest) if digest == manifest.digest => Ok(()),
            Some(digest) => Err(context.invalid_response(format!(
                "accepted the manifest {}, but the tag points to {digest}",
                manifest.digest
            ))),
            None => Err(context.invalid_response("accepted the manifest but does not have it")),
        }
    }

    /// Reads a tag that was set. Some registries show it a moment later.
    async fn visible_tag(
        &self,
        call: &RegistryCall<'_>,
        expected: &Digest,
    ) -> Result<Option<Digest>, RegistryError> {
        let mut pauses = VISIBILITY_PAUSES.into_iter();
        loop {
            let tagged = call.head_at_registry(self, None).await?.map(|head| head.digest);
            if tagged.as_ref() == Some(expected) {
                return Ok(tagged);
            }
            match pauses.next() {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Ok(tagged),
            }
        }
    }

    /// Verifies that the credential may push to the image's repository: begins an upload and
    /// cancels it. Nothing is written, and the image's tag is not used.
    pub async fn verify_push(
        &self,
        image: &Reference,
        keychain: &Keychain,
    ) -> Result<(), RegistryError> {
        let call = RegistryCall::new(self, image, keychain);
        let begin = Operation::upload(Method::POST, "blobs/uploads/".into());
        let location =
            call.execute(&begin, |context, response| match response.header(header::LOCATION) {
                Some(location) if response.status == StatusCode::ACCEPTED => {
                    Ok(location.to_owned())
                }
                _ => {
                    let quoted = response.quoted(&[]);
                    let problem = format!("began no upload, but responded with {quoted}");
                    Err(context.invalid_response(problem))
                }
            });
        let location = location.await?;
        // Registries drop uploads that are never completed, so a failure to cancel one is harmless.
        if let Some(path) = self.upload_path(image, &location) {
            let cancel = Operation::upload(Method::DELETE, path);
            _ = call.execute(&cancel, |_, _| Ok(())).await;
        }
        Ok(())
    }

    /// Returns the part of an upload's location after the repository's path, or `None` if the
    /// location is not in this repository of this registry.
    fn upload_path(&self, image: &Reference, location: &str) -> Option<String> {
        let origin = self.0.config.origin(image.registry());
        let url = Url::parse(&origin.base).ok()?.join(location).ok()?;
        let path = url.as_str().strip_prefix(&origin.url(&format!("{}/", image.path())))?;
        Some(path.to_owned())
    }
}

/// Whether a registry denied access with the credential that it got, or for want of one.
fn is_denial(error: &RegistryError) -> bool {
    matches!(
        error,
        RegistryError::Denied {
            denial: AccessDenial::NotAuthenticated | AccessDenial::NotAllowed,
            ..
        }
    )
}
