//! A family that is deleted in the middle of a cascade: all its objects are removed, other families
//! continue, and a family of the same name can be created again.

use std::{collections::BTreeMap, fmt::Debug};

use groundswell::api::{Cascade, ImageFamily, ManagedImage, ManagedImageStatus, condition::Reason};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        batch::v1::Job,
        core::v1::{ConfigMap, Pod, Secret},
    },
};
use kube::{Resource, ResourceExt, api::DeleteParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    client, cluster,
    restart::Scene,
    support::{
        family::label,
        operator::{Operator, Settings},
        wait::wait_for,
    },
};

impl Scene {
    /// The same images on the same upstream, for a family that pushes to another repository.
    fn spec_elsewhere(&self) -> Value {
        let mut spec = self.spec();
        spec["repository"] =
            json!(format!("{}/{}/elsewhere", cluster().registry, self.place.namespace));
        spec
    }

    /// Applies a family and waits until it is ready. Returns its uid and its digests.
    async fn create(&self, family: &str, spec: &Value) -> (String, BTreeMap<String, String>) {
        let applied = self.place.apply_family(family, spec).await.expect("a family");
        self.place.wait_family(family, "Ready", 90).await;
        (applied.uid().expect("a uid"), self.place.digests(family).await)
    }

    /// The statuses of a family's images, by image name.
    async fn records(&self, family: &str) -> BTreeMap<String, ManagedImageStatus> {
        let images = self
            .place
            .list::<ManagedImage>()
            .await
            .into_iter()
            .filter(|image| image.spec.family == family);
        images.map(|image| (image.spec.image, image.status.unwrap_or_default())).collect()
    }

    /// Waits until a family is in the middle of the cascade with this build number: `base` and
    /// `left` have tags with it in the registry, and `right` is building.
    async fn wait_mid_cascade(&self, family: &str, build: i64) {
        wait_for(format!("{family} to be in the middle of cascade {build}"), 60, async || {
            let records = self.records(family).await;
            let tagged = |image: &&str| {
                let tags =
                    records.get(*image).map(|record| record.tags.as_slice()).unwrap_or_default();
                tags.iter().any(|tag| tag.tag == format!("r{build}"))
            };
            let running = records.get("right").and_then(|record| record.running.as_ref());
            let is_mid_cascade = ["base", "left"].iter().all(tagged)
                && running.is_some_and(|right| right.build == build);
            if is_mid_cascade { Ok(()) } else { Err(format!("{records:#?}")) }
        })
        .await;
    }

    /// Moves the upstream and waits until `app` is in the middle of its second cascade, in which it
    /// stays. Returns the digest of `base:r2`.
    async fn halt_in_second_cascade(&self) -> String {
        self.builder.hold("right");
        self.move_upstream("2").await;
        self.wait_mid_cascade("app", 2).await;
        self.tag("base", "r2").await
    }

    /// Deletes a family as a user does: what it owns is deleted after it.
    async fn delete(&self, family: &str) {
        self.place
            .api::<ImageFamily>()
            .delete(family, &DeleteParams::background())
            .await
            .expect("deleted");
    }

    /// The objects of a kind that none of these owners owns.
    async fn strays<K>(&self, owners: &[String]) -> Vec<String>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        let objects = self.place.list::<K>().await;
        let owned =
            |object: &&K| object.owner_references().iter().any(|owner| owners.contains(&owner.uid));
        let strays = objects.iter().filter(|object| !owned(object));
        strays.map(|object| format!("{} {}", K::kind(&()), object.name_any())).collect()
    }

    /// Waits until every object of the namespace belongs to the family with this uid. The garbage
    /// collector notices new kinds only every half minute.
    async fn wait_all_of(&self, uid: &str) {
        wait_for("nothing to be left of a deleted family", 120, async || {
            let family = [uid.to_owned()];
            let jobs: Vec<String> =
                self.place.list::<Job>().await.iter().filter_map(ResourceExt::uid).collect();
            let found = [
                self.strays::<ManagedImage>(&family).await,
                self.strays::<Cascade>(&family).await,
                self.strays::<Job>(&family).await,
                self.strays::<Pod>(&jobs).await,
                self.strays::<Secret>(&family).await,
                self.strays::<ConfigMap>(&family).await,
            ]
            .concat();
            // Every namespace has the first one, and the controller's own the second one.
            let others = ["ConfigMap kube-root-ca.crt", "Secret groundswell-record-keys"];
            let found: Vec<String> =
                found.into_iter().filter(|name| !others.contains(&name.as_str())).collect();
            if found.is_empty() { Ok(()) } else { Err(found.join("\n")) }
        })
        .await;
    }

    /// Fails unless the tags that name these builds point to these digests.
    async fn assert_numbered(&self, digests: &BTreeMap<String, String>, builds: [(&str, i64); 4]) {
        for (image, build) in builds {
            assert_eq!(
                self.tag(image, &format!("r{build}")).await,
                digests[image],
                "{image}:r{build}"
            );
        }
    }
}

/// The same number for each image.
fn all(build: i64) -> [(&'static str, i64); 4] {
    ["base", "left", "right", "join"].map(|image| (image, build))
}

#[tokio::test]
async fn a_family_that_is_deleted_mid_cascade_is_removed_and_can_be_recreated() {
    let client = client().await;
    let scene = Scene::new(&client, "deleted").await;
    let place = &scene.place;
    let operator = Operator::ready(&Settings::new(cluster(), &place.namespace, &[])).await;
    let (_, first) = scene.create("app", &scene.spec()).await;
    let (other, others_first) = scene.create("other", &scene.spec_elsewhere()).await;

    let second_base = scene.halt_in_second_cascade().await;
    scene.wait_mid_cascade("other", 2).await;
    scene.delete("app").await;
    scene.wait_all_of(&other).await;

    scene.builder.release("right");
    place.wait_rebuilt("other", &others_first, 90).await;
    scene.assert_builds("other", 2).await;
    scene.wait_all_of(&other).await;
    for image in ["right", "join"] {
        assert_eq!(scene.tag(image, "latest").await, first[image], "{image}");
        assert_eq!(
            scene.tag(image, "r2").await,
            "",
            "nothing of a deleted family is built: {image}"
        );
    }
    let (_, metrics) = operator.get("metrics").await.expect("metrics");
    assert!(
        metrics.contains("groundswell_images{state=\"Current\"} 4\n"),
        "only the images of the other family are counted:\n{metrics}"
    );

    let (_, second) = scene.create("app", &scene.spec()).await;
    assert_eq!(second["base"], second_base, "the build in the registry is found");
    let mut built: Vec<String> =
        place.jobs("app").await.iter().map(|job| label(job, "groundswell.dev/image")).collect();
    built.sort();
    assert_eq!(built, ["join", "right"]);
    scene.move_upstream("3").await;
    let third = place.wait_rebuilt("app", &second, 90).await;
    for (build, digests) in (1..).zip([&first, &second, &third]) {
        scene.assert_numbered(digests, all(build)).await;
    }
    for (image, record) in scene.records("app").await {
        assert_eq!(
            (record.reason.as_str(), record.build),
            (Reason::Current.as_str(), Some(3)),
            "{image}"
        );
    }
}

#[tokio::test]
async fn a_family_that_is_recreated_before_the_old_one_is_gone_is_built_completely() {
    let client = client().await;
    let scene = Scene::new(&client, "again").await;
    let place = &scene.place;
    let _operator = Operator::ready(&Settings::new(cluster(), &place.namespace, &[])).await;
    let (_, first) = scene.create("app", &scene.spec()).await;
    let second_base = scene.halt_in_second_cascade().await;

    scene.delete("app").await;
    let uid =
        place.apply_family("app", &scene.spec()).await.expect("a family").uid().expect("a uid");
    scene.wait_all_of(&uid).await;
    scene.builder.release("right");
    let (still, second) = scene.create("app", &scene.spec()).await;
    assert_eq!(still, uid);
    assert_eq!(second["base"], second_base, "the build in the registry is found");
    scene.assert_numbered(&first, all(1)).await;
    for (image, record) in scene.records("app").await {
        assert_eq!(record.reason, Reason::Current, "{image}");
        let build = record.build.expect("a number");
        assert!(build > 1, "{image}: {build}");
        assert_eq!(scene.tag(&image, &format!("r{build}")).await, second[&image], "{image}");
    }
    for (built, jobs) in place.jobs_per_fingerprint("app").await {
        assert_eq!(jobs, 1, "Jobs of {built:?}");
    }
}

/// With `promotion: Cascade` the floating tags stay behind while a cascade runs: they name build 1
/// although `r2` exists.
#[tokio::test]
async fn a_recreated_family_continues_the_numbers_of_tags_that_no_floating_tag_shows() {
    let client = client().await;
    let scene = Scene::new(&client, "numbers").await;
    let place = &scene.place;
    let _operator = Operator::ready(&Settings::new(cluster(), &place.namespace, &[])).await;
    let mut spec = scene.spec();
    spec["policy"]["promotion"] = json!("Cascade");
    spec["images"][0]["tags"] = json!(["latest", "{{ fingerprint }}", "r{{ build }}"]);
    let (_, first) = scene.create("app", &spec).await;
    let second_base = scene.halt_in_second_cascade().await;
    assert_eq!(scene.tag("base", "latest").await, first["base"], "the cascade has not completed");

    scene.delete("app").await;
    scene.wait_all_of("nobody").await;
    scene.builder.release("right");
    scene.move_upstream("3").await;
    let (_, third) = scene.create("app", &spec).await;
    assert_eq!(scene.tag("base", "r2").await, second_base, "a tag that names its build stays");
    scene.assert_numbered(&first, all(1)).await;
    scene.assert_numbered(&third, [("base", 3), ("left", 3), ("right", 2), ("join", 2)]).await;
    for (image, record) in scene.records("app").await {
        assert_eq!(record.reason, Reason::Current, "{image}: {}", record.message);
    }
}
