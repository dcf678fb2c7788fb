//! What `prepare` reads of the parents in their registries: when they were created, and what they
//! run in a build.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::{
    builds::prepare::{
        error::{PrepareError, PrepareReason},
        spec::PrepareSpec,
    },
    registry::{
        Client, Config, ImageConfig, Keychain, ManifestKind, Platform, Reference, RegistryError,
    },
};

/// What is known of a parent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ParentImage {
    /// When the image was created.
    pub created: Option<Timestamp>,
    /// When the newest of its layers was created.
    pub newest_layer: Option<Timestamp>,
    /// The instructions of `ONBUILD`.
    pub triggers: Vec<String>,
}

/// Reads the parents, in the order of `spec.parents`.
///
/// Nothing is known of a parent that the registry denies or does not have, and of an answer that is
/// not an image: the builder says what is wrong with it.
///
/// # Errors
/// Returns an error if a registry is unreachable. The dates then depend on more than the inputs,
/// and a trigger may name an image that nothing declares.
pub(super) async fn read(
    spec: &PrepareSpec,
    registries: Config,
    keychain: &Keychain,
    platform: &Platform,
) -> Result<Vec<ParentImage>, PrepareError> {
    let unavailable = |error: &RegistryError| {
        PrepareError::new(PrepareReason::RegistryUnavailable, error.to_string())
    };
    if spec.parents.is_empty() {
        return Ok(Vec::new());
    }
    let client = Client::new(registries).map_err(|error| unavailable(&error))?;
    let mut known: BTreeMap<&str, ParentImage> = BTreeMap::new();
    let mut parents = Vec::with_capacity(spec.parents.len());
    for parent in &spec.parents {
        let pinned = parent.pinned.as_str();
        let read = match known.get(pinned) {
            Some(parent) => parent.clone(),
            None => match read_parent(&client, keychain, pinned, platform).await {
                Ok(parent) => parent,
                Err(error) if error.is_transient() => return Err(unavailable(&error)),
                Err(error) => {
                    tracing::warn!(parent = pinned, %error, "nothing is known of the parent");
                    ParentImage::default()
                }
            },
        };
        known.insert(pinned, read.clone());
        parents.push(read);
    }
    Ok(parents)
}

async fn read_parent(
    client: &Client,
    keychain: &Keychain,
    pinned: &str,
    platform: &Platform,
) -> Result<ParentImage, RegistryError> {
    let Ok(reference) = pinned.parse::<Reference>() else { return Ok(ParentImage::default()) };
    let mut manifest = client.manifest(&reference, keychain).await?;
    let mut image = reference;
    if let ManifestKind::Index(index) = &manifest.kind {
        let Some(entry) = index.image_for(platform) else { return Ok(ParentImage::default()) };
        image = image.with_digest(&entry.descriptor.digest);
        manifest = client.manifest(&image, keychain).await?;
    }
    let Some(of_platform) = manifest.image() else { return Ok(ParentImage::default()) };
    let ImageConfig { created, newest_layer, triggers, .. } =
        client.config(&image, of_platform, keychain).await?;
    Ok(ParentImage { created, newest_layer, triggers })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::registry::{
        Digest, OCI_INDEX, OCI_MANIFEST,
        fault_registry::{FaultRegistry, not_found, reply},
    };

    fn spec(parents: &[String]) -> PrepareSpec {
        let parents: Vec<Value> = parents
            .iter()
            .map(|pinned| json!({"name": "p", "pinned": pinned, "reference": "p", "use": "Base"}))
            .collect();
        serde_json::from_value(json!({
            "userNamespace": "Required", "image": "registry.example.com/web:gs-1",
            "source": {"type": "inline", "dockerfile": "FROM p"}, "parents": parents,
            "args": {}, "target": null, "platform": "linux/amd64", "credentials": [],
            "registries": {},
        }))
        .expect("a spec")
    }

    /// The content of a registry: bodies by the last part of their path.
    #[derive(Default)]
    struct Content(BTreeMap<String, (&'static str, String)>);

    impl Content {
        fn add(&mut self, media_type: &'static str, body: &Value) -> Digest {
            let body = body.to_string();
            let digest = Digest::of(body.as_bytes());
            self.0.insert(digest.to_string(), (media_type, body));
            digest
        }

        fn image(&mut self, created: &Value) -> Digest {
            let config = json!({"created": created, "config": {"OnBuild": ["RUN a"]},
                "rootfs": {"diff_ids": []}, "history": [{"created": created}]});
            let digest = self.add("application/json", &config);
            let config = json!({"mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest, "size": 1});
            let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config,
                "layers": []});
            self.add(OCI_MANIFEST, &manifest)
        }

        fn index(&mut self, entries: &[(&str, &Digest)]) -> Digest {
            let entries: Vec<Value> = entries
                .iter()
                .map(|(architecture, digest)| {
                    json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": 1,
                        "platform": {"os": "linux", "architecture": architecture}})
                })
                .collect();
            let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
            self.add(OCI_INDEX, &index)
        }
    }

    #[tokio::test]
    async fn what_is_known_of_the_parents_is_that_of_the_platform() {
        let mut content = Content::default();
        let amd = content.image(&json!("2026-01-01T00:00:00Z"));
        let arm = content.image(&json!("2026-02-01T00:00:00Z"));
        let nested_first = content.index(&[("amd64", &arm)]);
        let mut index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []});
        // The builder uses neither of the first two.
        for (media_type, platform, digest) in [
            (OCI_INDEX, json!({"os": "linux", "architecture": "amd64"}), &nested_first),
            (OCI_MANIFEST, json!({"os": "linux", "architecture": "amd64", "variant": "v3"}), &arm),
            (OCI_MANIFEST, json!({"os": "linux", "architecture": "amd64"}), &amd),
        ] {
            let entry =
                json!({"mediaType": media_type, "digest": digest, "size": 1, "platform": platform});
            index["manifests"].as_array_mut().expect("entries").push(entry);
        }
        let index = content.add(OCI_INDEX, &index);
        let hostile = content.image(&json!(["292277026596-12-04T15:30:08Z"]));
        let other = content.index(&[("riscv64", &arm)]);
        let nested = content.index(&[("amd64", &index)]);
        let content = Arc::new(content.0);
        let registry = FaultRegistry::start(move |request| {
            let name = request.target.rsplit('/').next().unwrap_or_default();
            content.get(name).map_or_else(
                || not_found("MANIFEST_UNKNOWN"),
                |(media_type, body)| reply(200, &[("content-type", media_type)], body.clone()),
            )
        })
        .await;
        let host = registry.address.to_string();
        let config = Config { plain_http: vec![host.clone()], ..Config::default() };
        let gone = Digest::of(b"gone");
        let parents: Vec<String> = [&index, &amd, &hostile, &other, &nested, &gone, &index]
            .map(|digest| format!("{host}/team/base@{digest}"))
            .into();
        let spec = spec(&parents);
        let Ok(platform) = "linux/amd64".parse::<Platform>();
        let parents = read(&spec, config, &Keychain::default(), &platform).await.expect("parents");
        let time = "2026-01-01T00:00:00Z".parse().ok();
        let known =
            ParentImage { created: time, newest_layer: time, triggers: vec!["RUN a".into()] };
        let is_known: Vec<bool> = parents.iter().map(|parent| *parent == known).collect();
        assert_eq!(is_known, [true, true, false, false, false, false, true]);
        let unknown = parents.iter().filter(|parent| **parent == ParentImage::default()).count();
        assert_eq!(unknown, 3, "{parents:?}");
    }

    #[tokio::test]
    async fn an_unreachable_registry_is_no_missing_image() {
        let registry = FaultRegistry::start(|_| reply(503, &[], "")).await;
        let host = registry.address.to_string();
        let timeout = crate::api::Duration::from_secs(1);
        let config = Config { plain_http: vec![host.clone()], timeout, ..Config::default() };
        let spec = spec(&[format!("{host}/base@{}", Digest::of(b""))]);
        let Ok(platform) = "linux/amd64".parse::<Platform>();
        let error =
            read(&spec, config, &Keychain::default(), &platform).await.expect_err("no answer");
        assert_eq!(error.reason, PrepareReason::RegistryUnavailable);
    }
}
