//! Families in tests: short ways to write them, and to wait for their results.

use std::collections::BTreeMap;

use groundswell::api::{ImageFamily, ManagedImage};
use k8s_openapi::{api::batch::v1::Job, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::{
    objects::{Place, show},
    wait::wait_for,
};

/// The spec of a family with one upstream `alpine`, followed every 5 s at `<upstream>:3.20`,
/// without images.
pub fn spec(repository: &str, upstream: &str, strategy: &str) -> Value {
    json!({
        "repository": repository,
        "strategy": { "name": strategy },
        "upstreams": [{
            "name": "alpine", "image": upstream, "follow": { "tag": "3.20" }, "interval": "5s",
        }],
        "images": [],
        "policy": { "settle": "0s" },
    })
}

/// An image that is built on `parent`: the upstream `alpine`, or another image.
pub fn image(name: &str, parent: &str) -> Value {
    let (from, dockerfile) = if parent == "alpine" {
        (
            json!({ "upstream": "alpine", "as": "alpine:3.20" }),
            "FROM docker.io/library/alpine:3.20\n".to_owned(),
        )
    } else {
        (
            json!({ "image": parent, "arg": "BASE_IMAGE" }),
            "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n".to_owned(),
        )
    };
    json!({
        "name": name, "from": [from], "tags": ["latest", "r{{ build }}"],
        "source": { "inline": format!("{dockerfile}RUN echo {name}\n") },
    })
}

/// The condition of a type.
pub fn condition<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

impl Place {
    /// The family.
    pub async fn family(&self, name: &str) -> ImageFamily {
        self.api::<ImageFamily>()
            .get(name)
            .await
            .unwrap_or_else(|error| panic!("ImageFamily {name}: {error}"))
    }

    /// Waits until a condition of the family is true for its current generation. Returns the reason
    /// and the message.
    pub async fn wait_family(&self, name: &str, type_: &str, seconds: u64) -> (String, String) {
        let api: Api<ImageFamily> = self.api();
        wait_for(format!("ImageFamily {name} to be {type_}"), seconds, async || {
            let family = api.get(name).await.map_err(|error| error.to_string())?;
            let conditions = family.status.as_ref().map_or(&[][..], |status| &status.conditions);
            let found = condition(conditions, type_).filter(|condition| {
                condition.status == "True"
                    && condition.observed_generation == family.metadata.generation
            });
            match found {
                Some(condition) => Ok((condition.reason.clone(), condition.message.clone())),
                None => Err(self.describe(&family).await),
            }
        })
        .await
    }

    /// Waits until the family is Ready and every image has another digest than in `before`. Returns
    /// the digests.
    pub async fn wait_rebuilt(
        &self,
        name: &str,
        before: &BTreeMap<String, String>,
        seconds: u64,
    ) -> BTreeMap<String, String> {
        wait_for(format!("every image of {name} to be rebuilt"), seconds, async || {
            let family = self.family(name).await;
            let digests = self.digests(name).await;
            let moved = digests.len() == family.spec.images.len()
                && digests
                    .iter()
                    .all(|(image, digest)| !digest.is_empty() && before.get(image) != Some(digest));
            let conditions = family.status.as_ref().map_or(&[][..], |status| &status.conditions);
            let ready = condition(conditions, "Ready").is_some_and(|ready| ready.status == "True");
            if moved && ready { Ok(digests) } else { Err(self.describe(&family).await) }
        })
        .await
    }

    /// The digest of every image of a family, by name; empty for one that has none.
    pub async fn digests(&self, family: &str) -> BTreeMap<String, String> {
        let images = self
            .list::<ManagedImage>()
            .await
            .into_iter()
            .filter(|image| image.spec.family == family);
        images
            .map(|image| {
                (
                    image.spec.image,
                    image.status.and_then(|status| status.digest).unwrap_or_default(),
                )
            })
            .collect()
    }

    /// How many Jobs there are for each image and fingerprint of a family.
    pub async fn jobs_per_fingerprint(&self, family: &str) -> BTreeMap<(String, String), usize> {
        let mut counted = BTreeMap::new();
        for job in self.jobs(family).await {
            *counted
                .entry((
                    label(&job, "groundswell.dev/image"),
                    label(&job, "groundswell.dev/fingerprint"),
                ))
                .or_default() += 1;
        }
        counted
    }

    async fn describe(&self, family: &ImageFamily) -> String {
        let images = self.list::<ManagedImage>().await;
        let rows =
            images.iter().filter(|image| image.spec.family == family.name_any()).map(|image| {
                let status = image.status.clone().unwrap_or_default();
                format!(
                    "{}: {} {}: {}\n",
                    image.name_any(),
                    status.state.as_str(),
                    status.reason,
                    status.message
                )
            });
        format!("{}\n{}", show(family), rows.collect::<String>())
    }
}

/// A label of a Job; empty if it has none of that name.
pub fn label(job: &Job, name: &str) -> String {
    job.labels().get(name).cloned().unwrap_or_default()
}
