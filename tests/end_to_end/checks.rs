//! Checks: a new digest must pass them before its tags move and its children are built.

use groundswell::api::{CheckState, ImageState, ManagedImageStatus, condition::Reason};
use serde_json::{Value, json};

use super::{
    installation::Session,
    scene::{CASCADE, FAMILY, Scene, image},
};

/// The command of the check in the new image.
const VERSION: &str = r#"grep -x "[0-9.]*" /version ||
  { echo "/version says $(cat /version), which is no version"; exit 1; }"#;
/// The command of the check in another image: it reads the new image from the registry.
const MANIFEST: &str = r#"
host=${GROUNDSWELL_IMAGE%%/*} repository=${GROUNDSWELL_IMAGE#*/}
accept='application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json'
timeout 30 wget -q -O /tmp/manifest --header "Accept: $accept" \
  "http://$host/v2/${repository%@*}/manifests/$GROUNDSWELL_DIGEST"
found=sha256:$(sha256sum /tmp/manifest | cut -d ' ' -f 1)
echo "inspected $found" > /dev/termination-log
[ "$repository" = "${repository%@*}@$found" ]
"#;

#[tokio::test]
async fn a_failed_check_moves_no_tags_and_builds_no_children() {
    let session = Session::shared().await;
    let scene = Scene::new(&session, "checks").await;
    let place = &scene.place;
    let first = scene.build(&spec(&scene, "1.0")).await;
    let status = record(&scene).await;
    assert_eq!(
        check_states(&status),
        [("version", CheckState::Passed), ("manifest", CheckState::Passed)]
    );
    let inspected = format!("inspected {}", first["app"]);
    assert_eq!(status.checks.get(1).map(|check| check.message.as_str()), Some(inspected.as_str()));

    place.apply_family(FAMILY, &spec(&scene, "none")).await.expect("a family");
    let (reason_of_family, message) = place.wait_family(FAMILY, "Stalled", CASCADE).await;
    assert_eq!(reason_of_family, Reason::ImagesFailed, "{message}");
    // One failed check fails the image, but the other check still runs to completion.
    let ended = |status: &ManagedImageStatus| {
        status.checks.iter().all(|check| check.state != CheckState::Running)
    };
    place
        .wait_image(FAMILY, "app", "its checks to finish", |image| {
            image.status.as_ref().is_some_and(ended)
        })
        .await;
    let status = record(&scene).await;
    assert_eq!(
        (status.state, status.reason.as_str()),
        (ImageState::Failed, Reason::CheckFailed.as_str())
    );
    let output = "/version says none, which is no version";
    assert!(status.message.contains(output), "{}", status.message);
    assert_eq!(
        check_states(&status),
        [("version", CheckState::Failed), ("manifest", CheckState::Passed)]
    );
    let failed = status.checks.first().expect("a check");
    assert!(failed.message.contains(output), "{failed:?}");
    assert_ne!(failed.digest, first["app"], "the new digest is what was checked");
    assert_eq!(
        status.digest.as_ref(),
        first.get("app"),
        "the last verified build stays the current one"
    );
    let child = place.image(FAMILY, "child").await.status.unwrap_or_default();
    assert_eq!(
        (child.state, child.reason.as_str()),
        (ImageState::Blocked, Reason::AncestorFailed.as_str())
    );
    assert_eq!(scene.latest(first.keys()).await, first);
    assert_eq!(scene.tag("app", "r2").await, "", "not even a tag that names the build");
    assert_eq!(place.builds(FAMILY, None).await, [("app".into(), 2), ("child".into(), 1)].into());

    let corrected = scene.build(&spec(&scene, "2.0")).await;
    assert!(
        corrected.iter().all(|(image, digest)| first.get(image) != Some(digest)),
        "{corrected:?}"
    );
    assert_eq!(scene.latest(corrected.keys()).await, corrected);
    assert_eq!(
        check_states(&record(&scene).await),
        [("version", CheckState::Passed), ("manifest", CheckState::Passed)]
    );
    assert_eq!(place.builds(FAMILY, None).await, [("app".into(), 3), ("child".into(), 2)].into());
}

/// Returns an image with a file that contains its version and with two checks, and a child of it.
fn spec(scene: &Scene, version: &str) -> Value {
    let mut app = image("app", "alpine");
    app["source"]["inline"] = json!(format!("FROM alpine:3.24\nRUN echo {version} > /version\n"));
    app["checks"] = json!([
        { "name": "version", "command": ["sh", "-c", VERSION] },
        { "name": "manifest", "image": "docker.io/library/alpine:3.24", "command": ["sh", "-ec",
            MANIFEST] },
    ]);
    let mut spec = scene.spec(json!([app, image("child", "app")]));
    spec["policy"]["retries"] = json!({ "build": 0 });
    spec
}

async fn record(scene: &Scene) -> ManagedImageStatus {
    scene.place.image(FAMILY, "app").await.status.unwrap_or_default()
}

fn check_states(status: &ManagedImageStatus) -> Vec<(&str, CheckState)> {
    status.checks.iter().map(|check| (check.name.as_str(), check.state)).collect()
}
