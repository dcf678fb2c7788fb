//! A namespace with an upstream and repositories of its own, so that tests can run concurrently.

use std::{collections::BTreeMap, fs};

use groundswell::api::{
    Cascade, CascadePhase, ImageFamily, ImageResult, ManagedImage, RolloutState, condition::Reason,
    labels,
};
use k8s_openapi::api::{apps::v1::Deployment, events::v1::Event};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    installation::Session,
    support::{
        Cluster,
        family::label,
        images::Images,
        objects::{Place, USER, show},
        wait::wait_for,
    },
};

/// The registry's name inside the cluster.
pub const REGISTRY: &str = "registry.groundswell.test:5000";
/// The family of a scene.
pub const FAMILY: &str = "app";
/// How long a cascade may take, in seconds. A build takes a few seconds, and the machine may be
/// busy.
pub const CASCADE: u64 = 180;

/// A namespace with an upstream and repositories of its own.
pub struct Scene {
    pub place: Place,
    pub cluster: &'static Cluster,
    images: Images,
}

impl Scene {
    pub async fn new(session: &Session, name: &str) -> Self {
        let place = Place::new(&session.client, name).await;
        let scene = Self {
            place,
            cluster: session.cluster,
            images: Images::new(&session.cluster.registry),
        };
        let platform =
            format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" });
        let alpine = format!("{}/library/alpine:3.24", session.cluster.registry);
        scene.crane(&[
            "copy",
            "--platform",
            &platform,
            &alpine,
            &scene.here("upstream/alpine:3.24"),
        ]);
        scene
    }

    /// Moves the upstream's tag to a new image: the same files with another label. Returns its
    /// digest.
    pub fn move_upstream(&self, version: &str) -> String {
        let upstream = self.here("upstream/alpine:3.24");
        let output = self.crane(&[
            "mutate",
            &upstream,
            "--label",
            &format!("version={version}"),
            "--tag",
            &upstream,
        ]);
        output.trim().rsplit_once('@').expect("a digest").1.to_owned()
    }

    /// Moves a tag of one of the family's images to the upstream's image, as another client would.
    pub fn take_tag(&self, tagged: &str) {
        self.crane(&["copy", &self.here("upstream/alpine:3.24"), &self.here(tagged)]);
    }

    /// Pushes an image that is another one with a layer on top.
    pub fn append(&self, base: &str, image: &str) {
        let folder = tempfile::tempdir().expect("a folder");
        let layer = folder.path().join("layer.tar");
        fs::write(folder.path().join("image"), image).expect("a file");
        let [layer, folder] =
            [layer.as_path(), folder.path()].map(|path| path.display().to_string());
        let tar = ["--create", "--file", &layer, "--directory", &folder, "image"];
        self.cluster.run("tar", &tar).expect("tar");
        let (base, image) = (self.here(base), self.here(image));
        self.crane(&["append", "--base", &base, "--new_layer", &layer, "--new_tag", &image]);
    }

    /// Returns the digest of a tag in one of the family's repositories, or an empty string if there
    /// is no such tag.
    pub async fn tag(&self, image: &str, tag: &str) -> String {
        self.images.digest(&format!("{}/{image}", self.place.namespace), tag).await
    }

    /// Returns the digest of the tag `latest` of each of these images.
    pub async fn latest<'a>(
        &self,
        images: impl IntoIterator<Item = &'a String>,
    ) -> BTreeMap<String, String> {
        let mut digests = BTreeMap::new();
        for image in images {
            digests.insert(image.clone(), self.tag(image, "latest").await);
        }
        digests
    }

    /// Returns how many builds of an image have been pushed.
    pub fn pushed(&self, image: &str) -> usize {
        let tags = self.crane(&["ls", &self.here(image)]);
        let is_build = |tag: &&str| tag.starts_with("gs-") && !tag.ends_with("-record");
        tags.lines().filter(is_build).count()
    }

    /// Returns a family with these images and the upstream of the scene.
    pub fn spec(&self, images: Value) -> Value {
        let repository = format!("{REGISTRY}/{}", self.place.namespace);
        let upstream = format!("{repository}/upstream/alpine");
        json!({
            "repository": repository,
            "upstreams": [{ "name": "alpine", "image": upstream, "follow": { "tag": "3.24" },
                "interval": "5s" }],
            "images": images,
            "policy": { "settle": "0s" },
        })
    }

    /// Applies the family and waits until it is Ready.
    pub async fn build(&self, spec: &Value) -> BTreeMap<String, String> {
        self.place.apply_family(FAMILY, spec).await.expect("a family");
        self.place.wait_family(FAMILY, "Ready", CASCADE).await;
        self.place.digests(FAMILY).await
    }

    /// Returns a reference of this scene as it is named outside of the cluster.
    pub fn here(&self, rest: &str) -> String {
        format!("{}/{}/{rest}", self.cluster.registry, self.place.namespace)
    }

    fn crane(&self, arguments: &[&str]) -> String {
        self.cluster.run("crane", arguments).expect("crane")
    }
}

/// Returns an image that is built on the upstream if `parent` is `alpine`, or else on another
/// image.
pub fn image(name: &str, parent: &str) -> Value {
    let (edge, reference) = match parent {
        "alpine" => (json!({ "upstream": "alpine", "as": "alpine:3.24" }), "alpine:3.24"),
        other => (json!({ "image": other, "as": other }), other),
    };
    let dockerfile =
        format!("FROM {reference}\nRUN echo {name} >> /lineage\nCMD [\"sleep\", \"86400\"]\n");
    json!({ "name": name, "from": [edge], "source": { "inline": dockerfile }, "tags": ["latest",
        "r{{ build }}"] })
}

/// Returns a family of four images: `base` -> `left`, `right` -> `join`.
pub fn diamond() -> Value {
    let mut join = image("join", "left");
    join["from"]
        .as_array_mut()
        .expect("edges")
        .push(json!({ "image": "right", "as": "right", "use": "BuildStage" }));
    join["source"]["inline"] = json!("FROM left\nCOPY --from=right /lineage /right\n");
    json!([image("base", "alpine"), image("left", "base"), image("right", "base"), join])
}

impl Place {
    /// Returns the record of an image.
    pub async fn image(&self, family: &str, image: &str) -> ManagedImage {
        let name = format!("{family}.{image}");
        self.api::<ManagedImage>()
            .get(&name)
            .await
            .unwrap_or_else(|error| panic!("ManagedImage {name}: {error}"))
    }

    /// Waits until the record of an image meets a condition.
    pub async fn wait_image(
        &self,
        family: &str,
        image: &str,
        what: &str,
        condition: impl Fn(&ManagedImage) -> bool,
    ) {
        let name = format!("{family}.{image}");
        let api: Api<ManagedImage> = self.api();
        wait_for(format!("ManagedImage {name}: {what}"), CASCADE, async || {
            let image = api.get(&name).await.map_err(|error| error.to_string())?;
            if condition(&image) { Ok(()) } else { Err(show(&image)) }
        })
        .await;
    }

    /// Waits until every workload of an image runs its digest. Returns the digest.
    pub async fn wait_rolled_out(&self, family: &str, image: &str) -> String {
        self.wait_image(family, image, "its rollouts complete", |image| {
            let Some(status) = &image.status else { return false };
            let complete = |(state, digest): (RolloutState, &String)| {
                state == RolloutState::Complete && Some(digest) == status.digest.as_ref()
            };
            !status.rollouts.is_empty()
                && status.rollouts.iter().all(|record| complete((record.state, &record.digest)))
        })
        .await;
        self.digests(family).await.remove(image).unwrap_or_default()
    }

    /// Waits until the cascade of a cause has ended, and returns it. `to` is the cause's new value.
    pub async fn wait_cascade(&self, to: &str) -> Cascade {
        wait_for(format!("the Cascade caused by {to} to end"), 60, async || {
            let cascades: Vec<Cascade> = self.list().await;
            let found = cascades
                .iter()
                .find(|cascade| cascade.spec.causes.iter().any(|cause| cause.to == to));
            let ended = found.filter(|cascade| {
                cascade.status.as_ref().is_some_and(|status| status.phase != CascadePhase::Running)
            });
            ended.cloned().ok_or_else(|| cascades.iter().map(show).collect::<Vec<_>>().join("\n"))
        })
        .await
    }

    /// Waits until the last cascade has ended, and returns it.
    pub async fn last_cascade(&self) -> Cascade {
        wait_for("the last Cascade to end", 60, async || {
            let mut cascades: Vec<Cascade> = self.list().await;
            cascades.sort_by_key(ResourceExt::name_any);
            let last = cascades.pop().ok_or("there is none")?;
            let running =
                last.status.as_ref().is_none_or(|status| status.phase == CascadePhase::Running);
            if running { Err(show(&last)) } else { Ok(last) }
        })
        .await
    }

    /// Waits for an Event about an object of this namespace whose note contains `part`.
    pub async fn wait_event(&self, reason: Reason, part: &str) {
        wait_for(format!("an Event {reason} that contains {part:?}"), 60, async || {
            let events: Vec<Event> = self.list().await;
            let found = events.iter().any(|event| {
                event.reason.as_deref() == Some(reason.as_str())
                    && event.note.as_deref().unwrap_or_default().contains(part)
            });
            found
                .then_some(())
                .ok_or_else(|| events.iter().map(show).collect::<Vec<_>>().join("\n"))
        })
        .await;
    }

    /// Returns the image of a Deployment's first container.
    pub async fn deployed(&self, name: &str) -> String {
        let deployment = self.api::<Deployment>().get(name).await.expect("the Deployment");
        let pod = deployment.spec.and_then(|spec| spec.template.spec).expect("a pod");
        pod.containers.into_iter().next().and_then(|container| container.image).unwrap_or_default()
    }

    /// Returns what a Service of this namespace serves at a path.
    pub async fn page(&self, service: &str, path: &str) -> Result<String, String> {
        let url =
            format!("/api/v1/namespaces/{}/services/{service}:http/proxy/{path}", self.namespace);
        let request = http::Request::get(url).body(Vec::new()).expect("a request");
        self.client.request_text(request).await.map_err(|error| error.to_string())
    }

    /// Waits until what a Service serves at a path meets a condition.
    pub async fn wait_page(&self, service: &str, path: &str, condition: impl Fn(&str) -> bool) {
        wait_for(format!("{service}/{path} to answer"), 60, async || {
            let page = self.page(service, path).await?;
            if condition(&page) { Ok(()) } else { Err(page) }
        })
        .await;
    }

    /// Applies an object of any kind as a user.
    pub async fn apply<K>(&self, object: Value)
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>
            + Clone
            + serde::de::DeserializeOwned
            + std::fmt::Debug,
        K::DynamicType: Default,
    {
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        let api: Api<K> = self.api();
        api.patch(&name, &PatchParams::apply(USER).force(), &Patch::Apply(object))
            .await
            .expect("applied");
    }

    /// Returns how many builds each image of a family has had, by their Jobs, in one cascade or in
    /// all.
    pub async fn builds(&self, family: &str, cascade: Option<&Cascade>) -> BTreeMap<String, usize> {
        let mut built = BTreeMap::new();
        for job in self.jobs(family).await {
            let of_cascade =
                cascade.is_none_or(|cascade| label(&job, labels::CASCADE) == cascade.name_any());
            if of_cascade && label(&job, labels::COMPONENT) == labels::COMPONENT_BUILD {
                *built.entry(label(&job, labels::IMAGE)).or_default() += 1;
            }
        }
        built
    }

    /// Deletes every record of a family, clears its status, and waits until all records are
    /// recreated.
    pub async fn lose_records(&self, family: &str) {
        let before = self.record_uids().await;
        let images = self.api::<ManagedImage>();
        images
            .delete_collection(&DeleteParams::default(), &ListParams::default())
            .await
            .expect("deleted");
        let cleared = Patch::Merge(json!({ "status": null }));
        let families = self.api::<ImageFamily>();
        families.patch_status(family, &PatchParams::default(), &cleared).await.expect("cleared");
        wait_for("the records to be recreated", 60, async || {
            let now = self.record_uids().await;
            let another =
                |(name, old): (&String, &String)| now.get(name).is_some_and(|new| new != old);
            let recreated = now.len() == before.len() && before.iter().all(another);
            recreated.then_some(()).ok_or(format!("{now:?}"))
        })
        .await;
        self.wait_family(family, "Ready", 60).await;
    }

    /// Returns the uids of the records with a build, by name.
    async fn record_uids(&self) -> BTreeMap<String, String> {
        let images: Vec<ManagedImage> = self.list().await;
        let built = images
            .iter()
            .filter(|image| image.status.as_ref().is_some_and(|status| status.digest.is_some()));
        built.map(|image| (image.name_any(), image.uid().unwrap_or_default())).collect()
    }

    /// Returns the sorted uids of a family's Jobs.
    pub async fn job_uids(&self, family: &str) -> Vec<String> {
        let mut uids: Vec<String> =
            self.jobs(family).await.iter().filter_map(ResourceExt::uid).collect();
        uids.sort();
        uids
    }
}

/// Asserts that a cascade is complete and has built each of these images once, parents before
/// children.
pub fn assert_complete(cascade: &Cascade, levels: &[&[&str]]) {
    let status = cascade.status.clone().unwrap_or_default();
    assert_eq!(status.phase, CascadePhase::Complete, "{}", show(cascade));
    let planned: Vec<Vec<&str>> = cascade
        .spec
        .levels
        .iter()
        .map(|level| level.iter().map(String::as_str).collect())
        .collect();
    assert_eq!(planned, levels, "{}", show(cascade));
    let row = |name: &str| -> &ImageResult {
        let found = status.images.iter().find(|image| image.name == name);
        found.unwrap_or_else(|| panic!("{name} is not in the Cascade\n{}", show(cascade)))
    };
    assert_eq!(status.images.len(), levels.concat().len(), "{}", show(cascade));
    for (level, names) in levels.iter().enumerate() {
        for name in *names {
            assert_eq!(row(name).builds, 1, "builds of {name}\n{}", show(cascade));
            for parent in levels.get(level.wrapping_sub(1)).copied().unwrap_or_default() {
                // The start is the start of the Job, in whole seconds.
                let (end, start) = (row(parent).finished_at, row(name).started_at);
                let second = |time: Option<jiff::Timestamp>| time.expect("a time").as_second();
                assert!(second(end) <= second(start), "{parent}, {name}\n{}", show(cascade));
            }
        }
    }
}
