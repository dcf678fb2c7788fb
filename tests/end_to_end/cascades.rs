//! "The base image has been updated", tested with the examples: the complete path from the push of
//! a base image to what a workload serves.

use std::{collections::BTreeSet, sync::Arc};

use groundswell::api::{ManagedImage, labels};
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use serde_json::Value;

use super::{
    failures::Broken,
    installation::Session,
    scene::{CASCADE, REGISTRY, assert_complete},
    support::{images::Images, objects::Place},
};

/// An applied example whose first cascade has ended.
pub struct Example {
    pub session: Arc<Session>,
    pub place: Place,
    pub name: &'static str,
}

/// A patch of an upstream: its version, the digest of its tag, and the images that the plugin has
/// planned to build for it.
pub struct Patched {
    pub version: String,
    pub digest: String,
    planned: BTreeSet<String>,
}

impl Example {
    async fn apply(session: &Arc<Session>, name: &'static str) -> Self {
        let session = Arc::clone(session);
        session
            .cluster
            .run("kubectl", &["apply", "-k", &format!("examples/{name}")])
            .expect("applied");
        let place = Place { client: session.client.clone(), namespace: name.into() };
        place.wait_family(name, "Ready", 2 * CASCADE).await;
        Self { session, place, name }
    }

    /// Moves an upstream and waits until every image that depends on it is rebuilt.
    async fn patch(&self, upstream: &str) -> Patched {
        let before = self.place.digests(self.name).await;
        let planned = self.plan(upstream);
        let output = self
            .session
            .cluster
            .run("dev/images/patch", &["--cluster", &self.session.cluster.name, upstream]);
        let output = output.expect("patched");
        let (version, digest) = output.trim().rsplit_once(' ').expect("a version and a digest");
        self.place.wait_rebuilt(self.name, &before, CASCADE).await;
        Patched { version: version.into(), digest: digest.into(), planned }
    }

    /// Returns the images that `kubectl family plan` builds after a move of an upstream.
    fn plan(&self, upstream: &str) -> BTreeSet<String> {
        let arguments =
            ["plan", "--move", upstream, "-o", "json", "--namespace", &self.place.namespace];
        let plugin = env!("CARGO_BIN_EXE_kubectl-family");
        let plan = self.session.cluster.run(plugin, &arguments).expect("a plan");
        let plan: Value = serde_json::from_str(&plan).expect("JSON");
        let builds = plan["families"][0]["builds"].as_array().expect("a list").iter();
        builds.map(|build| build["image"].as_str().expect("an image").to_owned()).collect()
    }

    /// Asserts that the cascade of the patch is complete, by its record and by its Jobs, and that
    /// it is what the plugin has planned.
    async fn assert_cascade(&self, patched: &Patched, levels: &[&[&str]]) {
        let cascade = self.place.wait_cascade(&patched.digest).await;
        assert_complete(&cascade, levels);
        let built = self.place.builds(self.name, Some(&cascade)).await;
        assert_eq!(
            built,
            levels.concat().iter().map(|name| ((*name).to_owned(), 1)).collect(),
            "Jobs of each image"
        );
        assert_eq!(patched.planned, built.into_keys().collect(), "the plan");
    }

    /// Asserts that every tag points to the digest in its record, and that the immutable tags of
    /// earlier builds have not moved.
    pub async fn assert_tags(&self, before: &[ManagedImage]) {
        let registry = Images::new(&self.session.cluster.registry);
        let after: Vec<ManagedImage> = self.place.list().await;
        for (image, old) in
            after.iter().flat_map(|i| [(i, false)]).chain(before.iter().map(|i| (i, true)))
        {
            let status = image.status.clone().unwrap_or_default();
            assert!(!status.tags.is_empty(), "{} has no tags", image.name_any());
            let repository = image.spec.repository.trim_start_matches(&format!("{REGISTRY}/"));
            for tag in status.tags.iter().filter(|tag| tag.immutable || !old) {
                assert_eq!(
                    Some(&tag.digest),
                    status.digest.as_ref(),
                    "{}:{}",
                    image.name_any(),
                    tag.tag
                );
                let digest = registry.digest(repository, &tag.tag).await;
                assert_eq!(
                    digest, tag.digest,
                    "{repository}:{} of build {:?}",
                    tag.tag, status.build
                );
            }
        }
    }
}

#[tokio::test]
async fn alpine_updates() {
    let example = Example::apply(&Arc::new(Session::shared().await), "alpine-web").await;
    let place = &example.place;
    for site in ["docs-site", "status-site"] {
        place.wait_rolled_out("alpine-web", site).await;
        place.wait_page(site, "release.txt", |page| page.starts_with("3.24.")).await;
    }
    let before: Vec<ManagedImage> = place.list().await;

    let patched = example.patch("alpine").await;
    example.assert_cascade(&patched, &[&["base"], &["httpd"], &["docs-site", "status-site"]]).await;
    example.assert_tags(&before).await;

    let digest = place.wait_rolled_out("alpine-web", "docs-site").await;
    assert_eq!(
        place.deployed("docs-site").await,
        format!("{REGISTRY}/alpine-web/docs-site@{digest}")
    );
    let digest = place.wait_rolled_out("alpine-web", "status-site").await;
    assert_eq!(
        place.deployed("status-site").await,
        format!("{REGISTRY}/alpine-web/status-site:latest")
    );
    let restarted = place.api::<Deployment>().get("status-site").await.expect("the Deployment");
    let annotations =
        restarted.spec.and_then(|spec| spec.template.metadata?.annotations).unwrap_or_default();
    assert_eq!(annotations.get(labels::ROLLED_OUT), Some(&digest));
    for site in ["docs-site", "status-site"] {
        place.wait_page(site, "release.txt", |page| page.trim() == patched.version).await;
    }
}

#[tokio::test]
async fn debian_updates_and_python_fails() {
    let session = Arc::new(Session::shared().await);
    let (example, flask) =
        tokio::join!(Example::apply(&session, "diamond"), Example::apply(&session, "flask"));
    let place = &example.place;
    place.wait_rolled_out("diamond", "join").await;
    place.wait_page("join", "", |page| page.contains("left: debian 13")).await;
    flask.place.wait_rolled_out("flask", "flask-helloworld").await;
    let before: Vec<ManagedImage> = place.list().await;

    // One upstream moves, and two families depend on it. In one of them, an image fails.
    let broken = Broken::python(&flask).await;
    let patched = example.patch("debian").await;
    broken.resume(&patched).await;
    example.assert_cascade(&patched, &[&["base"], &["left", "right"], &["join"]]).await;
    example.assert_tags(&before).await;
    let digest = place.wait_rolled_out("diamond", "join").await;
    assert_eq!(place.deployed("join").await, format!("{REGISTRY}/diamond/join@{digest}"));
    let patch = format!("patch {}", patched.version);
    place.wait_page("join", "", |page| page.matches(&patch).count() == 2).await;

    broken.assert_contained(&patched).await;
    broken.repair().await;
    flask.place.wait_rolled_out("flask", "flask-helloworld").await;
    flask.place.wait_page("flask-helloworld", "versions", |page| page.contains(&patch)).await;
}
