//! An image in the middle of a family fails, in the example `flask` and the cascade of a patched
//! base.

use groundswell::api::{FailureClass, ImageState, ManagedImage, condition::Reason};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    cascades::{Example, Patched},
    scene::CASCADE,
    support::wait::wait_for,
};

/// What the broken Dockerfile prints before it fails.
const ERROR_OUTPUT: &str = "there is no such version of Python";

/// The example `flask` with a broken image `python`.
pub struct Broken<'a> {
    flask: &'a Example,
    dockerfile: String,
    before: Vec<ManagedImage>,
}

impl<'a> Broken<'a> {
    /// Breaks `python` and adds a sibling of it. The family is suspended, so that these changes and
    /// the move of the upstream become one cascade.
    pub async fn python(flask: &'a Example) -> Self {
        let before = flask.place.list().await;
        Self::change(flask, json!({ "suspend": true })).await;
        let dockerfile =
            flask.place.api::<ConfigMap>().get("flask-python").await.expect("the ConfigMap").data;
        let dockerfile =
            dockerfile.and_then(|mut files| files.remove("Dockerfile")).expect("a Dockerfile");
        let broken = Self { flask, dockerfile, before };
        broken
            .write(&format!(
                "ARG BASE_IMAGE\nFROM ${{BASE_IMAGE}}\nARG PYTHON_VERSION\n\
                 RUN echo {ERROR_OUTPUT} && exit 7\n"
            ))
            .await;
        broken
    }

    /// Changes the family in addition to its manifest, and adds the sibling.
    async fn change(flask: &Example, mut spec: Value) {
        spec["policy"] = json!({ "retries": { "build": 0 } });
        spec["images"] = json!([{
            "name": "console", "from": [{ "image": "tooling", "arg": "BASE_IMAGE" }],
            "source": { "inline": "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nENV PAGER=less\n" },
                "tags": ["latest"],
        }]);
        flask.place.apply_family(flask.name, &spec).await.expect("the family");
    }

    async fn write(&self, dockerfile: &str) {
        let api = self.flask.place.api::<ConfigMap>();
        let files = Patch::Merge(json!({ "data": { "Dockerfile": dockerfile } }));
        api.patch("flask-python", &PatchParams::default(), &files).await.expect("written");
    }

    /// Resumes the family after the patch of its upstream has been observed.
    pub async fn resume(&self, patched: &Patched) {
        wait_for("the patch to be observed", 60, async || {
            let upstreams =
                self.flask.place.family(self.flask.name).await.status.unwrap_or_default().upstreams;
            let observed =
                |candidate: &groundswell::api::CandidateDigest| candidate.digest == patched.digest;
            let observed =
                upstreams.iter().any(|upstream| upstream.candidate.as_ref().is_some_and(observed));
            observed.then_some(()).ok_or_else(|| format!("{upstreams:?}"))
        })
        .await;
        Self::change(self.flask, json!({})).await;
    }

    /// Asserts that the cascade ends with `python` failed and its descendants blocked, and that
    /// everything else is built and served as before.
    pub async fn assert_contained(&self, patched: &Patched) {
        let (place, name) = (&self.flask.place, self.flask.name);
        let (reason, message) = place.wait_family(name, "Stalled", 2 * CASCADE).await;
        assert_eq!(reason, Reason::ImagesFailed, "{message}");
        assert!(message.starts_with("python: "), "{message}");
        let cascade = place.wait_cascade(&patched.digest).await;
        let message = cascade.status.clone().unwrap_or_default().message;
        assert!(message.starts_with("3 of 6 images current"), "{message}");
        assert!(message.ends_with("failed: python; blocked: flask, flask-helloworld"), "{message}");
        let built = ["base", "console", "python", "tooling"].map(|image| (image.to_owned(), 1));
        assert_eq!(place.builds(name, Some(&cascade)).await, built.into());

        let attention = place.family(name).await.status.unwrap_or_default().attention;
        assert_eq!(
            attention.iter().map(|image| image.image.as_str()).collect::<Vec<_>>(),
            ["python"]
        );
        for image in ["base", "tooling", "console"] {
            let state = place.image(name, image).await.status.unwrap_or_default().state;
            assert_eq!(state, ImageState::Current, "{image}");
        }
        for image in ["flask", "flask-helloworld"] {
            let status = place.image(name, image).await.status.unwrap_or_default();
            assert_eq!(
                (status.state, status.reason.as_str()),
                (ImageState::Blocked, Reason::AncestorFailed.as_str()),
                "{image}"
            );
            assert!(status.message.contains("python"), "{image}: {}", status.message);
            assert!(status.failure.is_none(), "{image} has not failed itself");
        }
        self.assert_message().await;
        self.assert_last_verified().await;
    }

    /// Asserts that the message of the failure contains the end of the log and the command that
    /// shows the full log.
    async fn assert_message(&self) {
        let status =
            self.flask.place.image(self.flask.name, "python").await.status.unwrap_or_default();
        assert_eq!(
            (status.state, status.reason.as_str()),
            (ImageState::Failed, Reason::BuildFailed.as_str())
        );
        assert!(status.message.contains("exit code: 7"), "{}", status.message);
        let failure = status.failure.expect("a failure");
        assert_eq!((failure.build, failure.infrastructure), (1, 0), "{failure:?}");
        assert_eq!(
            (failure.last.class, failure.last.reason.as_str()),
            (FailureClass::Build, Reason::BuildFailed.as_str())
        );
        assert!(failure.last.message.contains(ERROR_OUTPUT), "{}", failure.last.message);
        let command =
            failure.last.message.split('`').find(|part| part.starts_with("kubectl logs "));
        let command =
            command.unwrap_or_else(|| panic!("no command shows the log: {}", failure.last.message));
        let arguments: Vec<&str> = command.split(' ').skip(1).collect();
        let log = self.flask.session.cluster.run("kubectl", &arguments).expect("a log");
        assert!(log.contains("[1/2] FROM") && log.contains(ERROR_OUTPUT), "{log}");
    }

    /// Asserts that the failed image and its descendants stay at their last verified digest: in
    /// their record, their tags, and what is served.
    async fn assert_last_verified(&self) {
        let place = &self.flask.place;
        for old in self
            .before
            .iter()
            .filter(|image| ["python", "flask", "flask-helloworld"].contains(&&*image.spec.image))
        {
            let (name, old) = (&old.spec.image, old.status.clone().unwrap_or_default());
            let status = place.image(self.flask.name, name).await.status.unwrap_or_default();
            assert_eq!(
                (status.digest.as_ref(), status.build),
                (old.digest.as_ref(), old.build),
                "{name}"
            );
            assert_eq!(status.tags, old.tags, "{name}");
        }
        self.flask.assert_tags(&self.before).await;
        let application = self
            .before
            .iter()
            .find(|image| image.spec.image == "flask-helloworld")
            .expect("the application");
        let digest = application
            .status
            .as_ref()
            .and_then(|status| status.digest.clone())
            .unwrap_or_default();
        assert_eq!(
            place.deployed("flask-helloworld").await,
            format!("{}@{digest}", application.spec.repository)
        );
        place.page("flask-helloworld", "versions").await.expect("the application still answers");
    }

    /// Restores the Dockerfile. Asserts that this builds each missing image once, and nothing else.
    pub async fn repair(&self) {
        let (place, name) = (&self.flask.place, self.flask.name);
        self.write(&self.dockerfile).await;
        place.wait_family(name, "Ready", 2 * CASCADE).await;
        let cascade = place.last_cascade().await;
        let built = ["python", "flask", "flask-helloworld"].map(|image| (image.to_owned(), 1));
        assert_eq!(
            place.builds(name, Some(&cascade)).await,
            built.into(),
            "Jobs of {}",
            cascade.name_any()
        );
        self.flask.assert_tags(&self.before).await;
    }
}
