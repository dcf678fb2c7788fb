//! A layered family in a namespace of its own, with its upstream, its builders and the log of its
//! builds.

use std::collections::{BTreeMap, HashMap};

use groundswell::api::{Cascade, CascadePhase, ManagedImage};
use kube::Client;
use serde_json::{Value, json};

use super::{
    build_log::BuildLog,
    layered::Layered,
    support::{
        Cluster, family,
        images::Images,
        objects::{self, Place},
        played,
        wait::wait_for,
    },
    writer::Writer,
};

/// The family's name.
pub const FAMILY: &str = "layered";
/// The strategy whose pods run on the simulated node.
const STRATEGY: &str = "simulated";
/// How long a cascade may make no progress. A reconcile of a debug build takes a while on two busy
/// cores.
pub const MAX_STALL_SECONDS: u64 = 120;

/// A layered family and its environment.
pub struct Scene {
    /// Its namespace.
    pub place: Place,
    /// Its images.
    pub layered: Layered,
    /// The log of its builds.
    pub build_log: BuildLog,
    images: Images,
    registry: String,
    _writer: Writer,
}

/// Installs the CRDs and the strategy in a cluster.
pub async fn prepare(client: &Client) {
    objects::define(client).await;
    played::strategy(client, STRATEGY, Some("simulated")).await;
}

impl Scene {
    /// Returns a family of `images` images, which is not applied yet.
    pub async fn new(cluster: &Cluster, client: &Client, name: &str, images: usize) -> Self {
        let place = Place::new(client, name).await;
        let layered = Layered::new(images);
        let images = Images::new(&cluster.registry);
        let scene = Self {
            build_log: BuildLog::open(&place),
            _writer: Writer::start(&place, &images, &layered),
            registry: cluster.registry.clone(),
            images,
            layered,
            place,
        };
        scene.move_upstream("1").await;
        scene
    }

    /// Pushes another version of the upstream over its tag.
    pub async fn move_upstream(&self, version: &str) {
        self.images.push(&self.upstream(), "3.20", None, version, &BTreeMap::new()).await;
    }

    /// Applies the family.
    pub async fn apply(&self) {
        self.place.apply_family(FAMILY, &self.spec()).await.expect("a family");
    }

    fn spec(&self) -> Value {
        let repository = format!("{}/{}", self.registry, self.place.namespace);
        let mut spec =
            family::spec(&repository, &format!("docker.io/{}", self.upstream()), STRATEGY);
        spec["images"] = json!(self.layered.spec());
        spec["policy"]["parallelism"] = json!(100);
        spec
    }

    fn upstream(&self) -> String {
        format!("library/{}", self.place.namespace)
    }

    /// Waits until `jobs` Jobs have been created since the beginning. Fails if no Job is created
    /// and no pod succeeds for [`MAX_STALL_SECONDS`].
    pub async fn wait_jobs(&self, jobs: usize) {
        self.wait_progress(&format!("{jobs} Jobs"), |(made, _)| made >= jobs).await;
    }

    /// Waits until the cascade of this number has ended and the family is `Ready`.
    pub async fn wait_cascade(&self, cascade: usize) {
        let builds = cascade * self.layered.images.len();
        self.wait_progress(&format!("cascade {cascade}"), |(_, succeeded)| succeeded >= builds)
            .await;
        wait_for("the family to be Ready", MAX_STALL_SECONDS, async || {
            let conditions = self.place.family(FAMILY).await.status.unwrap_or_default().conditions;
            let ready =
                family::condition(&conditions, "Ready").filter(|ready| ready.status == "True");
            ready.map(|_| ()).ok_or_else(|| format!("{conditions:#?}"))
        })
        .await;
        wait_for("the cascade's record to be closed", MAX_STALL_SECONDS, async || {
            let cascades = self.place.list::<Cascade>().await;
            let ended = |cascade: &&Cascade| {
                cascade.status.as_ref().is_some_and(|status| status.finished_at.is_some())
            };
            let ended = cascades.iter().filter(ended).count();
            if ended >= cascade {
                Ok(())
            } else {
                Err(format!("{ended} of {} cascades have ended", cascades.len()))
            }
        })
        .await;
    }

    async fn wait_progress(&self, what: &str, reached: impl Fn((usize, usize)) -> bool) {
        loop {
            let before = self.build_log.count();
            if reached(before) {
                return;
            }
            wait_for(format!("{what}, or progress towards it"), MAX_STALL_SECONDS, async || {
                let now = self.build_log.count();
                if now == before {
                    Err(format!("{} Jobs, {} pods have succeeded", now.0, now.1))
                } else {
                    Ok(())
                }
            })
            .await;
        }
    }

    /// Returns the digest of every image, by name.
    pub async fn digests(&self) -> BTreeMap<String, String> {
        self.place.digests(FAMILY).await
    }

    /// Asserts that each cascade has one complete Cascade, and that each image is built once in
    /// each and recorded. Asserts that the tags point to what was built: the floating tag to the
    /// last build, each `r<n>` to its own build. `digests` has the digests of each cascade.
    pub async fn assert_complete(&self, digests: &[BTreeMap<String, String>]) {
        let (expected, count) = (digests.len(), self.layered.images.len());
        self.build_log.assert_once(count, expected);

        let cascades = self.place.list::<Cascade>().await;
        assert_eq!(cascades.len(), expected, "cascades: {cascades:#?}");
        for cascade in &cascades {
            let status = cascade.status.as_ref().expect("a status");
            assert_eq!(status.phase, CascadePhase::Complete, "{}", status.message);
            assert_eq!(usize::try_from(status.counts.current), Ok(count), "{}", status.message);
            let odd: Vec<_> = status.images.iter().filter(|image| image.builds != 1).collect();
            assert!(
                odd.is_empty(),
                "built another number of times than once in {}: {odd:#?}",
                status.message
            );
        }

        let records = self.place.list::<ManagedImage>().await;
        let records: HashMap<&str, &ManagedImage> =
            records.iter().map(|record| (record.spec.image.as_str(), record)).collect();
        for image in &self.layered.images {
            let status = records[image.name.as_str()].status.as_ref().expect("a status");
            assert_eq!(
                status.build.map(usize::try_from),
                Some(Ok(expected)),
                "the number of the last build of {}",
                image.name
            );
            for (cascade, digests) in digests.iter().enumerate() {
                assert_eq!(
                    self.tag(&image.name, &format!("r{}", cascade + 1)).await,
                    digests[&image.name],
                    "{}",
                    image.name
                );
            }
            assert_eq!(
                self.tag(&image.name, &format!("r{}", expected + 1)).await,
                "",
                "a build too many of {}",
                image.name
            );
            assert_eq!(
                self.tag(&image.name, "latest").await,
                digests[expected - 1][&image.name],
                "{}:latest",
                image.name
            );
        }
    }

    async fn tag(&self, image: &str, tag: &str) -> String {
        self.images.digest(&format!("{}/{image}", self.place.namespace), tag).await
    }
}
