//! What tags point to. `HEAD` is a hint, because registries, proxies and mirrors implement it
//! badly: the response to a `GET` decides, and what the registry itself says outweighs a mirror.

use http::{Method, header};

use crate::registry::{
    Client, Digest, Keychain, ManifestHead, Reference, RegistryError,
    call::RegistryCall,
    client::read_manifest,
    config::{Endpoint, Purpose},
    error::{AccessDenial, ErrorContext, RegistryOutage},
    http::{DIGEST_HEADER, HttpResponse},
    manifest,
    operation::Operation,
    tag_memory::{HeadHint, TagKey},
};

/// What a `HEAD` says.
enum HeadAnswer {
    Digest(ManifestHead),
    /// Nothing that decides.
    Undecided(HeadHint),
}

impl Client {
    /// Returns what the image's tag or digest currently refers to, or `None` if the registry does
    /// not have it.
    ///
    /// Sends a `HEAD`, which registries do not count against pull limits. Sends a `GET` only if the
    /// `HEAD` does not name the digest, or says that there is none.
    pub async fn head(
        &self,
        image: &Reference,
        keychain: &Keychain,
    ) -> Result<Option<ManifestHead>, RegistryError> {
        let call = RegistryCall::new(self, image, keychain);
        let endpoints = self.0.config.endpoints(image.registry(), Purpose::Pull);
        match call.head_at_mirrors(self, &endpoints).await {
            MirrorAnswer::Found(head) => Ok(Some(head)),
            failed @ (MirrorAnswer::Failed(..) | MirrorAnswer::NoMirror) => {
                failed.explain(call.head_at_registry(self, None).await)
            }
        }
    }

    /// Returns what the image's tag currently refers to, or `None` if the registry does not have
    /// it, for a caller that asks repeatedly. `last` is what it got last.
    ///
    /// While the registry's `HEAD` does not decide and shows no change, a `GET` is sent at most
    /// every hour. If a mirror names another digest than the registry itself did, or than `last`,
    /// the registry decides; if it cannot be reached and has never said anything, the mirror does.
    pub async fn poll(
        &self,
        image: &Reference,
        keychain: &Keychain,
        last: Option<&Digest>,
    ) -> Result<Option<ManifestHead>, RegistryError> {
        let call = RegistryCall::new(self, image, keychain);
        let key = TagKey { image: call.name.clone(), identity: self.identity(image, keychain) };
        let endpoints = self.0.config.endpoints(image.registry(), Purpose::Pull);
        match call.head_at_mirrors(self, &endpoints).await {
            MirrorAnswer::NoMirror => call.head_at_registry(self, Some(&key)).await,
            failed @ MirrorAnswer::Failed(..) => {
                failed.explain(call.word_of_registry(self, &key).await)
            }
            MirrorAnswer::Found(head) => {
                let word = self.0.tags.word(&key);
                let known = word.as_ref().map(|word| &word.digest).or(last);
                if known.is_none_or(|known| *known == head.digest) {
                    return Ok(Some(head));
                }
                if word.is_some() {
                    return call.word_of_registry(self, &key).await;
                }
                match call.brief_word_of_registry(self, &key).await {
                    Ok(Some(word)) => Ok(Some(word)),
                    Ok(None) => call.word_of_registry(self, &key).await,
                    Err(error) if error.is_unanswered() => Ok(Some(head)),
                    Err(error) => Err(error),
                }
            }
        }
    }
}

/// What the mirrors of a registry say.
enum MirrorAnswer {
    Found(ManifestHead),
    /// The last one, given by its host, has failed.
    Failed(String, RegistryError),
    NoMirror,
}

impl MirrorAnswer {
    /// Adds the failure of a mirror to the error of a registry that did not respond.
    fn explain<T>(self, result: Result<T, RegistryError>) -> Result<T, RegistryError> {
        result.map_err(|error| match self {
            Self::Failed(mirror, failure) => error.after_mirror(&mirror, &failure),
            Self::Found(_) | Self::NoMirror => error,
        })
    }
}

impl RegistryCall<'_> {
    /// Asks the mirrors, one after the other, until one names a digest.
    async fn head_at_mirrors(&self, client: &Client, endpoints: &[Endpoint]) -> MirrorAnswer {
        let mut answer = MirrorAnswer::NoMirror;
        for mirror in endpoints.iter().filter(|endpoint| endpoint.mirrored.is_some()) {
            match self.head_at_mirror(client, mirror).await {
                Ok(head) => return MirrorAnswer::Found(head),
                Err(error) => answer = MirrorAnswer::Failed(mirror.registry.clone(), error),
            }
        }
        answer
    }

    async fn head_at_mirror(
        &self,
        client: &Client,
        mirror: &Endpoint,
    ) -> Result<ManifestHead, RegistryError> {
        let operation = Operation::manifest(Method::HEAD, self.image);
        let read = |context: ErrorContext<'_>, response: HttpResponse| {
            let is_manifest = media_type(&response)
                .is_some_and(|media_type| manifest::is_manifest_type(&media_type));
            match self.read_head(context, response)? {
                HeadAnswer::Undecided(_) if !is_manifest => {
                    Err(context.invalid_response("responded with something that is no manifest"))
                }
                answer => Ok(answer),
            }
        };
        match self.ask_mirror(mirror, &operation, &read).await? {
            HeadAnswer::Digest(head) => Ok(head),
            HeadAnswer::Undecided(_) => {
                let operation = Operation::manifest(Method::GET, self.image);
                let read = |context: ErrorContext<'_>, response| {
                    read_manifest(context, self.image, response)
                };
                let manifest = self.ask_mirror(mirror, &operation, &read).await?;
                client.remember(self, &manifest);
                Ok(manifest.head())
            }
        }
    }

    /// Asks the registry itself, and remembers what it says as its word.
    async fn word_of_registry(
        &self,
        client: &Client,
        key: &TagKey,
    ) -> Result<Option<ManifestHead>, RegistryError> {
        let head = self.head_at_registry(client, Some(key)).await?;
        if let Some(head) = &head {
            client.0.tags.note_word(key.clone(), head.clone());
        }
        Ok(head)
    }

    /// Asks the registry itself once, and for a short time. Returns `None` if its response does not
    /// decide.
    async fn brief_word_of_registry(
        &self,
        client: &Client,
        key: &TagKey,
    ) -> Result<Option<ManifestHead>, RegistryError> {
        let operation = Operation::manifest(Method::HEAD, self.image);
        let origin = client.0.config.origin(self.image.registry());
        let read = |context: ErrorContext<'_>, response| self.read_head(context, response);
        match self.ask_mirror(&origin, &operation, &read).await {
            Ok(HeadAnswer::Digest(head)) => {
                client.0.tags.note_word(key.clone(), head.clone());
                Ok(Some(head))
            }
            Ok(HeadAnswer::Undecided(_)) => Ok(None),
            Err(error) if hint_of(&error).is_some() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks the registry itself. With a key, an earlier `GET` is relied on while `HEAD` shows no
    /// change.
    pub(super) async fn head_at_registry(
        &self,
        client: &Client,
        key: Option<&TagKey>,
    ) -> Result<Option<ManifestHead>, RegistryError> {
        let origin = client.0.config.origin(self.image.registry());
        let operation = Operation::manifest(Method::HEAD, self.image);
        let read = |context: ErrorContext<'_>, response| self.read_head(context, response);
        let hint = match self.ask_registry(&origin, &operation, &read).await {
            Ok(HeadAnswer::Digest(head)) => return Ok(Some(head)),
            Ok(HeadAnswer::Undecided(hint)) => hint,
            Err(error) => match hint_of(&error) {
                Some(hint) => hint,
                None => return Err(error),
            },
        };
        if let Some(known) = key.and_then(|key| client.0.tags.read_before(key, &hint)) {
            return Ok(Some(known));
        }
        let operation = Operation::manifest(Method::GET, self.image);
        let read =
            |context: ErrorContext<'_>, response| read_manifest(context, self.image, response);
        match self.ask_registry(&origin, &operation, &read).await {
            Ok(manifest) => {
                client.remember(self, &manifest);
                let head = manifest.head();
                if let Some(key) = key {
                    client.0.tags.note_read(key.clone(), hint, head.clone());
                }
                Ok(Some(head))
            }
            Err(RegistryError::NotFound { .. }) => {
                if let Some(key) = key {
                    client.0.tags.forget(key);
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the response to a `HEAD`.
    fn read_head(
        &self,
        context: ErrorContext<'_>,
        response: HttpResponse,
    ) -> Result<HeadAnswer, RegistryError> {
        let digest = response.header(DIGEST_HEADER).and_then(|text| text.parse::<Digest>().ok());
        let Some(digest) = digest else {
            return Ok(HeadAnswer::Undecided(HeadHint::of(&response)));
        };
        if self.image.digest().is_some_and(|expected| expected != digest) {
            let problem = format!("responded with {digest} instead of the requested digest");
            return Err(context.invalid_response(problem));
        }
        let media_type =
            media_type(&response).filter(|media_type| manifest::is_manifest_type(media_type));
        Ok(HeadAnswer::Digest(ManifestHead { digest, media_type }))
    }
}

fn media_type(response: &HttpResponse) -> Option<String> {
    response.header(header::CONTENT_TYPE).map(manifest::normalized)
}

/// Returns what an error of a `HEAD` says if a `GET` may say something else.
fn hint_of(error: &RegistryError) -> Option<HeadHint> {
    let status = match error {
        RegistryError::NotFound { .. }
        | RegistryError::Unavailable { outage: RegistryOutage::OtherServer, .. } => 404,
        RegistryError::Denied {
            denial: AccessDenial::NotAllowed | AccessDenial::Elsewhere,
            ..
        } => 403,
        RegistryError::Denied { denial: AccessDenial::WithoutChallenge, .. } => 401,
        RegistryError::Rejected { .. } => 400,
        RegistryError::Unavailable {
            outage: RegistryOutage::Status(status @ (500 | 501)), ..
        } => *status,
        _ => return None,
    };
    Some(HeadHint { status, ..HeadHint::default() })
}
