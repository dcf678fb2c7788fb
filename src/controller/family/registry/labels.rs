//! Labels of built images that templates of tags name: they are read from the configuration of the
//! image, by its digest. No client of the API server is needed.

use jiff::Timestamp;
use tracing::warn;

use crate::{
    api::{
        LabelRecord,
        managed_image::{MAX_LABEL_VALUE, MAX_TAG_LABELS},
    },
    controller::family::{
        reconcile::Reconcile,
        registry::{DecisionValidity, pushed_image::Repository},
    },
    engine::{Effect, LabelAnswer, Problem},
    identity::ImageDigest,
    lineage::ImageIndex,
    registry::PlatformImage,
};

/// Labels that the decision asks for.
struct WantedLabels<'a> {
    image: ImageIndex,
    digest: &'a ImageDigest,
    names: &'a [String],
}

/// The answer about labels of one image.
struct AnsweredLabels {
    image: String,
    answer: LabelAnswer,
}

impl Reconcile<'_> {
    /// Reads the labels that the decision asks for.
    pub async fn read_labels(&mut self) -> DecisionValidity {
        let reconcile = &*self;
        let retry_at = reconcile.lookup_retry_at(self.cache.failed_lookups.saturating_add(1));
        let wanted = reconcile.decision.effects.iter().filter_map(|effect| match effect {
            Effect::ReadLabels { image, digest, names } => {
                Some(WantedLabels { image: *image, digest, names })
            }
            _ => None,
        });
        let reads: Vec<_> =
            wanted.map(|wanted| reconcile.answer_labels(wanted, retry_at)).collect();
        let answers: Vec<AnsweredLabels> = reconcile.registry_time.run(reads).await;
        if answers.is_empty() {
            return DecisionValidity::Current;
        }
        if answers.iter().any(|read| matches!(read.answer, LabelAnswer::Unread { .. })) {
            self.cache.failed_lookups = self.cache.failed_lookups.saturating_add(1);
        }
        let answers = answers.into_iter();
        self.cache.labels.extend(answers.map(|AnsweredLabels { image, answer }| (image, answer)));
        DecisionValidity::Outdated
    }

    async fn answer_labels(&self, wanted: WantedLabels<'_>, retry_at: Timestamp) -> AnsweredLabels {
        let (image, digest) = (self.image_name(wanted.image).to_owned(), wanted.digest.clone());
        let answer = match self.labels_of(&wanted).await {
            Ok(labels) => LabelAnswer::Read { digest, labels },
            Err(problem) => {
                warn!(image, message = %problem.message, "could not read labels of an image");
                LabelAnswer::Unread { digest, problem, ask_at: retry_at }
            }
        };
        AnsweredLabels { image, answer }
    }

    async fn labels_of(&self, wanted: &WantedLabels<'_>) -> Result<Vec<LabelRecord>, Problem> {
        let name = self.snapshot.repository(wanted.image);
        let repository = Repository::new(&self.context.registry, &self.snapshot.keychain, &name)?;
        let manifest = repository.manifest(&wanted.digest.as_str().parse()?).await?;
        let images = repository.images(&manifest).await?;
        let names = wanted.names.iter().take(MAX_TAG_LABELS);
        Ok(names.map(|name| label_record(name, &images)).collect())
    }
}

/// Returns what is recorded of a label of these images, one per platform.
fn label_record(name: &str, images: &[PlatformImage]) -> LabelRecord {
    let mut values = images.iter().map(|image| image.config.labels.get(name));
    let first = values.next().flatten();
    let record = LabelRecord { name: name.to_owned(), ..LabelRecord::default() };
    let problem = if values.any(|value| value != first) {
        "has different values on the platforms of the image".to_owned()
    } else {
        match first {
            Some(value) if value.len() > MAX_LABEL_VALUE => {
                format!("is longer than {MAX_LABEL_VALUE} bytes")
            }
            Some(value) if value.chars().any(char::is_control) => {
                "has a line break or another control character".to_owned()
            }
            value => return LabelRecord { value: value.cloned(), ..record },
        }
    };
    LabelRecord { problem: Some(problem), ..record }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::registry::{Descriptor, Digest, ImageConfig, ImageManifest, Platform};

    fn image(value: Option<&str>) -> PlatformImage {
        let platform = Platform::from_user("linux/amd64").expect("a platform");
        let config = Descriptor { digest: Digest::of(b""), media_type: String::new(), size: 0 };
        let labels = value.map(|value| ("version".to_owned(), value.to_owned()));
        PlatformImage {
            platform: platform.clone(),
            variant_is_named: false,
            manifest: ImageManifest {
                config,
                layers: Vec::new(),
                annotations: BTreeMap::new(),
                artifact_type: None,
            },
            config: ImageConfig {
                created: None,
                newest_layer: None,
                triggers: Vec::new(),
                labels: labels.into_iter().collect(),
                history: Vec::new(),
                platform,
                variant_is_named: false,
                diff_ids: Vec::new(),
                size: 0,
                content: Digest::of(b""),
            },
        }
    }

    /// Returns the record of a label that the images have with these values.
    fn record(values: &[Option<&str>]) -> LabelRecord {
        let images: Vec<PlatformImage> = values.iter().map(|value| image(*value)).collect();
        label_record("version", &images)
    }

    #[test]
    fn a_label_has_one_value_that_fits_into_a_status() {
        assert_eq!(record(&[Some("1.2"), Some("1.2")]).value.as_deref(), Some("1.2"));
        for absent in [&[][..], &[None, None]] {
            let absent = record(absent);
            assert_eq!((absent.value, absent.problem), (None, None));
        }
        let long = "x".repeat(MAX_LABEL_VALUE + 1);
        for (values, problem) in [
            (&[Some("1.2"), Some("1.3")][..], "different values"),
            (&[Some("1.2"), None], "different values"),
            (&[Some(long.as_str())], "longer than 256"),
            (&[Some("1\n2")], "line break"),
        ] {
            let record = record(values);
            assert_eq!(record.value, None, "{values:?}");
            assert!(record.problem.is_some_and(|found| found.contains(problem)), "{values:?}");
        }
    }
}
