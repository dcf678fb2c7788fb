//! Nothing is built twice: not by a controller that is killed at any write, and not by one that
//! finds none of its records.

use std::{collections::BTreeMap, time::Duration};

use groundswell::api::{ImageFamily, ManagedImage};
use kube::{
    Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    builder::{Builder, STRATEGY},
    client, cluster,
    gate::Gate,
    support::{
        Cluster, family,
        images::Images,
        objects::Place,
        operator::{Operator, Settings},
        wait::wait_for,
    },
};

/// A family in a namespace of its own, with its upstream, its builder and a diamond of images:
/// `base` -> `left`, `right` -> `join`.
pub struct Scene {
    pub place: Place,
    pub images: Images,
    pub builder: Builder,
    registry: String,
}

impl Scene {
    pub async fn new(client: &Client, name: &str) -> Self {
        Self::on(cluster(), client, name).await
    }

    /// A scene on a cluster that is not the one of all tests.
    pub async fn on(cluster: &Cluster, client: &Client, name: &str) -> Self {
        let place = Place::new(client, name).await;
        let images = Images::new(&cluster.registry);
        let builder = Builder::start(&place, &images);
        let scene = Self { place, images, builder, registry: cluster.registry.clone() };
        scene.move_upstream("1").await;
        scene
    }

    /// Pushes another version of the upstream over its tag.
    pub async fn move_upstream(&self, version: &str) -> String {
        self.images.push(&self.upstream(), "3.20", None, version, &BTreeMap::new()).await
    }

    fn upstream(&self) -> String {
        format!("library/{}", self.place.namespace)
    }

    pub fn spec(&self) -> Value {
        let repository = format!("{}/{}", self.registry, self.place.namespace);
        let mut spec =
            family::spec(&repository, &format!("docker.io/{}", self.upstream()), STRATEGY);
        let mut join = family::image("join", "left");
        join["from"]
            .as_array_mut()
            .expect("edges")
            .push(json!({ "image": "right", "as": "right", "use": "BuildStage" }));
        spec["images"] = json!([
            family::image("base", "alpine"),
            family::image("left", "base"),
            family::image("right", "base"),
            join,
        ]);
        spec
    }

    /// The digest under a tag of an image of the family.
    pub async fn tag(&self, image: &str, tag: &str) -> String {
        self.images.digest(&format!("{}/{image}", self.place.namespace), tag).await
    }

    /// Fails unless each fingerprint has one Job, and each image `builds` of them.
    pub async fn assert_builds(&self, family: &str, builds: usize) {
        let counted = self.place.jobs_per_fingerprint(family).await;
        let mut per_image: BTreeMap<&str, usize> = BTreeMap::new();
        for ((image, fingerprint), jobs) in &counted {
            assert_eq!(*jobs, 1, "Jobs of {image} at {fingerprint}; all of them: {counted:?}");
            *per_image.entry(image).or_default() += 1;
        }
        let wanted = ["base", "join", "left", "right"].map(|image| (image, builds)).into();
        assert_eq!(per_image, wanted, "builds of each image");
    }
}

#[tokio::test]
async fn a_lost_record_causes_no_rebuild() {
    let client = client().await;
    let scene = Scene::new(&client, "lost").await;
    let settings = Settings::new(cluster(), &scene.place.namespace, &[]);
    let mut operator = Operator::ready(&settings).await;
    scene.place.apply_family("app", &scene.spec()).await.expect("a family");
    scene.place.wait_family("app", "Ready", 60).await;
    scene.assert_builds("app", 1).await;
    let digests = scene.place.digests("app").await;
    assert_eq!(scene.tag("join", "latest").await, digests["join"]);

    // While the controller runs, and with a new one that has nothing in memory.
    for restarted in [false, true] {
        if restarted {
            operator.kill();
        }
        let uids = uids(&scene.place).await;
        let all = ListParams::default();
        scene
            .place
            .api::<ManagedImage>()
            .delete_collection(&DeleteParams::default(), &all)
            .await
            .expect("deleted");
        let cleared = json!({ "status": null });
        let families = scene.place.api::<ImageFamily>();
        families
            .patch_status("app", &PatchParams::default(), &Patch::Merge(cleared))
            .await
            .expect("cleared");
        if restarted {
            operator = Operator::ready(&settings).await;
        }
        wait_for("the records to be recreated", 60, async || {
            let now = self::uids(&scene.place).await;
            let recreated = now.len() == uids.len()
                && now.iter().all(|(name, uid)| uids.get(name).is_some_and(|old| old != uid));
            recreated.then_some(()).ok_or(format!("{now:?}"))
        })
        .await;
        scene.place.wait_family("app", "Ready", 60).await;
        assert_eq!(scene.place.digests("app").await, digests);
        scene.assert_builds("app", 1).await;
    }

    // The Jobs are gone as well, as after their time to live: only the registry remembers.
    operator.kill();
    for job in scene.place.jobs("app").await {
        let jobs = scene.place.api::<k8s_openapi::api::batch::v1::Job>();
        jobs.delete(&job.name_any(), &DeleteParams::background()).await.expect("deleted");
    }
    scene
        .place
        .api::<ManagedImage>()
        .delete_collection(&DeleteParams::default(), &ListParams::default())
        .await
        .expect("deleted");
    let cleared = json!({ "status": null });
    scene
        .place
        .api::<ImageFamily>()
        .patch_status("app", &PatchParams::default(), &Patch::Merge(cleared))
        .await
        .expect("cleared");
    let _operator = Operator::ready(&settings).await;
    scene.place.wait_family("app", "Ready", 60).await;
    assert_eq!(scene.place.digests("app").await, digests);
    let jobs: Vec<String> =
        scene.place.jobs("app").await.iter().map(ResourceExt::name_any).collect();
    assert!(jobs.is_empty(), "{jobs:?}");

    // The next cascade continues the build numbers that only the registry remembers.
    scene.move_upstream("2").await;
    let rebuilt = scene.place.wait_rebuilt("app", &digests, 90).await;
    assert_eq!(scene.tag("join", "r2").await, rebuilt["join"]);
    assert_eq!(scene.tag("join", "r1").await, digests["join"], "a tag that names its build stays");
}

async fn uids(place: &Place) -> BTreeMap<String, String> {
    place
        .list::<ManagedImage>()
        .await
        .iter()
        .map(|image| (image.name_any(), image.uid().unwrap_or_default()))
        .collect()
}

/// The connection is cut and the controller killed at the first write of a cascade, at the second,
/// and so on. Every other time the write still reaches the API server and only its answer is lost.
#[tokio::test]
async fn killed_at_any_write_it_builds_nothing_twice() {
    let client = client().await;
    let scene = Scene::new(&client, "killed").await;
    let gate = Gate::open(&client).await;
    let settings = Settings {
        kubeconfig: gate.kubeconfig.clone(),
        ..Settings::new(cluster(), &scene.place.namespace, &[])
    };
    let mut operator = Operator::ready(&settings).await;
    scene.place.apply_family("app", &scene.spec()).await.expect("a family");
    scene.place.wait_family("app", "Ready", 60).await;
    let mut digests = scene.place.digests("app").await;
    let mut cascades = 1;
    let mut deaths = 0;

    for cut in 0..4 {
        let mut cuts = gate.cuts();
        scene.move_upstream(&format!("cascade {cut}")).await;
        cascades += 1;
        // Each life gets one write further than the one before.
        for life in 0..8 {
            gate.cut_after(cut + life, (cut + life) % 2 == 0);
            let reached = tokio::select! {
                reached = tokio::time::timeout(Duration::from_mins(1), cuts.changed()) => {
                    reached.expect("the cut").expect("the gate");
                    true
                }
                () = rebuilt(&scene, &digests) => false,
            };
            if !reached {
                break;
            }
            operator.kill();
            deaths += 1;
            gate.mend();
            operator = Operator::ready(&settings).await;
        }
        gate.mend();
        digests = scene.place.wait_rebuilt("app", &digests, 90).await;
        scene.assert_builds("app", cascades).await;
        assert_eq!(scene.tag("join", &format!("r{cascades}")).await, digests["join"]);
        assert_eq!(scene.tag("join", "latest").await, digests["join"]);
    }
    assert!(deaths > 8, "the controller was killed {deaths} times only");
}

async fn rebuilt(scene: &Scene, before: &BTreeMap<String, String>) {
    scene.place.wait_rebuilt("app", before, 120).await;
}
