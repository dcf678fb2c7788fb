//! The two dates of an image. They follow from the inputs of the build alone, so that the same
//! inputs give the same image.
//!
//! - The date of the configuration is also the date of each file that the build writes. It is
//!   therefore that of the base, with which the files change anyway. With the date of any other
//!   input, each commit and each move of a parent that is only copied from would change the files
//!   of every image, and no rebuild would ever be unchanged (`policy.cutoff`).
//! - The annotation `org.opencontainers.image.created` changes no file. It is the newest date of
//!   all inputs.

use std::{collections::BTreeMap, fs};

use jiff::Timestamp;

use crate::{
    api::EdgeUse,
    builds::{
        dockerfile::DeclaredEdge,
        pod_paths,
        prepare::{
            PodPaths, disk_error,
            error::{PrepareError, PrepareReason},
            spec::PrepareSpec,
        },
    },
    registry::{
        Client, Config, ImageConfig, Keychain, ManifestKind, Platform, Reference, RegistryError,
    },
};

/// The build argument with the date of the configuration. A family may set it.
const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";
/// Start of 2013, in seconds since 1970: no container image is older. Builders that date nothing
/// write 1970 or 1980.
const EARLIEST: i64 = 1_356_998_400;

/// When a parent was created, as far as it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ParentDates {
    /// When the image was created.
    pub created: Option<Timestamp>,
    /// When the newest of its layers was created.
    pub newest_layer: Option<Timestamp>,
}

/// The dates of the image that is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ImageDates {
    /// The date of the configuration and of the files.
    config: Timestamp,
    /// The date of the annotation.
    annotation: Timestamp,
}

impl ImageDates {
    /// Returns the dates that follow from the parents, parallel to `spec.parents`, and from the
    /// time of the source's commit.
    ///
    /// A time before 2013 or after `now` says nothing about the input, and is ignored. It is not
    /// replaced by `now`, which differs from build to build.
    pub fn of(
        spec: &PrepareSpec,
        parents: &[ParentDates],
        commit: Option<Timestamp>,
        now: Timestamp,
    ) -> Self {
        let plausible = |time: &Timestamp| time.as_second() >= EARLIEST && *time <= now;
        let base_date = |(edge, dates): (&DeclaredEdge, &ParentDates)| {
            let is_base = edge.usage == EdgeUse::Base;
            // A new date alone changes no layer of the base, and shall change none of the image.
            let dates = [dates.newest_layer, dates.created].into_iter().flatten();
            dates.filter(plausible).find(|_| is_base)
        };
        let config = requested(&spec.args).unwrap_or_else(|| {
            let bases = spec.parents.iter().zip(parents).filter_map(base_date);
            bases.max().unwrap_or(Timestamp::UNIX_EPOCH)
        });
        let inputs = parents.iter().filter_map(|dates| dates.created).chain(commit);
        let annotation = inputs.filter(plausible).chain([config]).max().unwrap_or(config);
        Self { config, annotation }
    }

    /// Returns the dates as variables of a shell. They contain nothing that a shell interprets.
    fn to_shell(self) -> String {
        let Self { config, annotation } = self;
        format!("{SOURCE_DATE_EPOCH}={}\nCREATED={annotation:.0}\n", config.as_second())
    }

    /// Writes the dates for the builder.
    pub fn write(self, paths: &PodPaths) -> Result<(), PrepareError> {
        let path = paths.root.join(pod_paths::DATES.trim_start_matches('/'));
        fs::write(&path, self.to_shell()).map_err(|error| disk_error(&path, &error))
    }
}

/// Returns the date that the family sets with a build argument.
fn requested(args: &BTreeMap<String, String>) -> Option<Timestamp> {
    let seconds = args.get(SOURCE_DATE_EPOCH)?.parse().ok()?;
    Timestamp::from_second(seconds).ok()
}

/// Returns the dates of the parents, in the order of `spec.parents`.
///
/// A parent that the registry denies or does not have, and an answer that is not an image, has no
/// date: the builder says what is wrong with it.
///
/// # Errors
/// Returns an error if a registry is unreachable. The dates then depend on more than the inputs.
pub(super) async fn read(
    spec: &PrepareSpec,
    registries: Config,
    keychain: &Keychain,
    platform: &Platform,
) -> Result<Vec<ParentDates>, PrepareError> {
    let unavailable = |error: &RegistryError| {
        PrepareError::new(PrepareReason::RegistryUnavailable, error.to_string())
    };
    if spec.parents.is_empty() {
        return Ok(Vec::new());
    }
    let client = Client::new(registries).map_err(|error| unavailable(&error))?;
    let mut known: BTreeMap<&str, ParentDates> = BTreeMap::new();
    let mut dates = Vec::with_capacity(spec.parents.len());
    for parent in &spec.parents {
        let pinned = parent.pinned.as_str();
        let of_parent = match known.get(pinned) {
            Some(of_parent) => *of_parent,
            None => match read_parent(&client, keychain, pinned, platform).await {
                Ok(of_parent) => of_parent,
                Err(error) if error.is_transient() => return Err(unavailable(&error)),
                Err(error) => {
                    tracing::warn!(parent = pinned, %error, "the parent has no date");
                    ParentDates::default()
                }
            },
        };
        known.insert(pinned, of_parent);
        dates.push(of_parent);
    }
    Ok(dates)
}

async fn read_parent(
    client: &Client,
    keychain: &Keychain,
    pinned: &str,
    platform: &Platform,
) -> Result<ParentDates, RegistryError> {
    let Ok(reference) = pinned.parse::<Reference>() else { return Ok(ParentDates::default()) };
    let mut manifest = client.manifest(&reference, keychain).await?;
    let mut image = reference;
    if let ManifestKind::Index(index) = &manifest.kind {
        let Some(entry) = index.image_for(platform) else { return Ok(ParentDates::default()) };
        image = image.with_digest(&entry.descriptor.digest);
        manifest = client.manifest(&image, keychain).await?;
    }
    let Some(of_platform) = manifest.image() else { return Ok(ParentDates::default()) };
    let ImageConfig { created, newest_layer, .. } =
        client.config(&image, of_platform, keychain).await?;
    Ok(ParentDates { created, newest_layer })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::registry::{
        Digest, OCI_INDEX, OCI_MANIFEST,
        fault_registry::{FaultRegistry, reply},
    };

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn spec(parents: &[(&str, &str)], args: &Value) -> PrepareSpec {
        let parents: Vec<Value> = parents
            .iter()
            .map(|(pinned, usage)| {
                json!({"name": "p", "pinned": pinned, "reference": "p", "use": usage})
            })
            .collect();
        serde_json::from_value(json!({
            "userNamespace": "Required", "image": "registry.example.com/web:gs-1",
            "source": {"type": "inline", "dockerfile": "FROM p"}, "parents": parents,
            "args": args, "target": null, "platform": "linux/amd64", "credentials": [],
            "registries": {},
        }))
        .expect("a spec")
    }

    fn parent(created: &str, newest_layer: &str) -> ParentDates {
        let time = |text: &str| (!text.is_empty()).then(|| at(text));
        ParentDates { created: time(created), newest_layer: time(newest_layer) }
    }

    #[test]
    fn files_get_the_date_of_the_base_and_the_annotation_the_newest_of_all_inputs() {
        let base_and_copy = [("a", "Base"), ("b", "BuildStage")];
        let now = at("2026-06-01T00:00:00Z");
        let commit = Some(at("2026-05-01T00:00:00Z"));
        for (parents, commit, config, annotation) in [
            (
                [parent("2026-01-02T00:00:00.5Z", ""), parent("2026-02-01T00:00:00Z", "")],
                None,
                "2026-01-02T00:00:00Z",
                "2026-02-01T00:00:00Z",
            ),
            // Only the base has a new date, and no new layer.
            (
                [parent("2026-04-01T00:00:00Z", "2026-01-02T00:00:00Z"), parent("", "")],
                None,
                "2026-01-02T00:00:00Z",
                "2026-04-01T00:00:00Z",
            ),
            (
                [parent("2026-01-02T00:00:00Z", ""), parent("2026-02-01T00:00:00Z", "")],
                commit,
                "2026-01-02T00:00:00Z",
                "2026-05-01T00:00:00Z",
            ),
            // Placeholders, a time in the future, and nothing at all.
            (
                [parent("1970-01-01T00:00:01Z", "1980-01-01T00:00:00Z"), parent("", "")],
                commit,
                "1970-01-01T00:00:00Z",
                "2026-05-01T00:00:00Z",
            ),
            (
                [
                    parent("2026-06-01T00:00:01Z", "2026-01-02T00:00:00Z"),
                    parent("9999-01-01T00:00:00Z", ""),
                ],
                Some(Timestamp::MAX),
                "2026-01-02T00:00:00Z",
                "2026-01-02T00:00:00Z",
            ),
            (
                [parent("", ""), parent("", "")],
                None,
                "1970-01-01T00:00:00Z",
                "1970-01-01T00:00:00Z",
            ),
        ] {
            let dates = ImageDates::of(&spec(&base_and_copy, &json!({})), &parents, commit, now);
            let shell =
                format!("SOURCE_DATE_EPOCH={}\nCREATED={annotation}\n", at(config).as_second());
            assert_eq!(dates.to_shell(), shell, "{parents:?}");
        }
    }

    #[test]
    fn a_family_may_set_the_date() {
        let parents = [parent("2026-01-02T00:00:00Z", "")];
        for (value, config) in [
            ("1767225600", "2026-01-01T00:00:00Z"),
            ("x", "2026-01-02T00:00:00Z"),
            ("99999999999999999999", "2026-01-02T00:00:00Z"),
            ("9223372036854775807", "2026-01-02T00:00:00Z"),
        ] {
            let spec = spec(&[("a", "Base")], &json!({"SOURCE_DATE_EPOCH": value}));
            let now = at("2026-06-01T00:00:00Z");
            let dates = ImageDates::of(&spec, &parents, None, now);
            assert_eq!(dates.config, at(config), "{value}");
        }
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
            let config = json!({"created": created, "rootfs": {"diff_ids": []}, "history": [
                {"created": created}]});
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
    async fn the_dates_of_the_parents_are_those_of_the_platform() {
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
                || reply(404, &[], ""),
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
        let parents: Vec<(&str, &str)> =
            parents.iter().map(|pinned| (pinned.as_str(), "Base")).collect();
        let spec = spec(&parents, &json!({}));
        let Ok(platform) = "linux/amd64".parse::<Platform>();
        let dates = read(&spec, config, &Keychain::default(), &platform).await.expect("dates");
        let known = parent("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z");
        let unknown = ParentDates::default();
        assert_eq!(dates, [known, known, unknown, unknown, unknown, unknown, known]);
    }

    #[tokio::test]
    async fn an_unreachable_registry_is_no_missing_date() {
        let registry = FaultRegistry::start(|_| reply(503, &[], "")).await;
        let host = registry.address.to_string();
        let timeout = crate::api::Duration::from_secs(1);
        let config = Config { plain_http: vec![host.clone()], timeout, ..Config::default() };
        let spec = spec(&[(&format!("{host}/base@{}", Digest::of(b"")), "Base")], &json!({}));
        let Ok(platform) = "linux/amd64".parse::<Platform>();
        let error =
            read(&spec, config, &Keychain::default(), &platform).await.expect_err("no answer");
        assert_eq!(error.reason, PrepareReason::RegistryUnavailable);
    }
}
