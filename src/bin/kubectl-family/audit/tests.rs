use clap::Parser;
use groundswell::registry::{Client, Config, Keychain, Platform};
use serde_json::json;

use super::{
    report::{AuditedImage, BehindReason},
    *,
};
use crate::{
    input::fixtures::estate,
    registry_images::{
        RegistryAccess,
        test_registry::{TestImages, TestRegistry, layer},
    },
};

fn now() -> Timestamp {
    "2026-05-31T12:00:00Z".parse().expect("a time")
}

/// A family whose base was rebuilt twice since `app` was, after two moves of its upstream.
const MOVED: &str = "
apiVersion: groundswell.dev/v1alpha1
kind: ImageFamily
metadata: {name: shop, namespace: web, labels: {team: payments}}
spec:
  repository: registry.example.com/shop
  upstreams: [{name: debian, image: docker.io/library/debian, follow: {tag: trixie}}]
  images:
  - {name: base, from: [{upstream: debian}], source: {inline: FROM x}}
  - {name: app, from: [{image: base}], source: {inline: FROM x}}
  - {name: old, from: [{image: base}], source: {inline: FROM x}}
status:
  upstreams:
  - name: debian
    reference: docker.io/library/debian:trixie
    adopted: {digest: 'sha256:d3', firstObserved: '2026-05-21T12:00:00Z'}
    candidate: {digest: 'sha256:d4'}
    outdatedSince: '2026-05-30T12:00:00Z'
---
apiVersion: groundswell.dev/v1alpha1
kind: ManagedImage
metadata: {name: shop.base, namespace: web}
spec: {family: shop, image: base}
status:
  state: Current
  digest: sha256:b3
  build: 3
  inputs: {parents: [{name: debian, digest: 'sha256:d3'}], source: s, spec: s, strategy: s}
  history:
  - {build: 3, fingerprint: f3, digest: 'sha256:b3', message: m, finishedAt: '2026-05-21T12:00:00Z',
     causes: [{type: Upstream, name: debian, from: 'sha256:d2', to: 'sha256:d3'}]}
  - {fingerprint: f, message: failed,
     causes: [{type: Upstream, name: debian, from: 'sha256:dx', to: 'sha256:d3'}]}
  - {build: 2, fingerprint: f2, digest: 'sha256:b2', message: m,
     causes: [{type: Upstream, name: debian, from: 'sha256:d1', to: 'sha256:d2'}]}
  - {build: 1, fingerprint: f1, digest: 'sha256:b1', message: new}
---
apiVersion: groundswell.dev/v1alpha1
kind: ManagedImage
metadata: {name: shop.app, namespace: web}
spec: {family: shop, image: app}
status:
  state: Failed
  digest: sha256:a1
  build: 1
  inputs: {parents: [{name: base, digest: 'sha256:b1'}], source: s, spec: s, strategy: s}
  history:
  - {build: 1, fingerprint: f1, digest: 'sha256:a1', message: m, finishedAt: '2026-04-01T12:00:00Z'}
---
apiVersion: groundswell.dev/v1alpha1
kind: ManagedImage
metadata: {name: shop.old, namespace: web}
spec: {family: shop, image: old}
status:
  state: Failed
  digest: sha256:o1
  build: 1
  inputs: {parents: [{name: base, digest: 'sha256:b0'}], source: s, spec: s, strategy: s}
";

/// The only upstream of an image.
#[derive(Debug, PartialEq)]
struct OnlyUpstream<'a> {
    digest: Option<&'a str>,
    behind: Option<BehindReason>,
    days: Option<i64>,
}

impl<'a> OnlyUpstream<'a> {
    fn new(digest: Option<&'a str>, behind: Option<BehindReason>, days: Option<i64>) -> Self {
        Self { digest, behind, days }
    }
}

fn upstream(image: &AuditedImage) -> OnlyUpstream<'_> {
    let [upstream] = image.upstreams.as_slice() else { panic!("{image:#?}") };
    let days = upstream.behind_seconds.map(|seconds| seconds / 86_400);
    OnlyUpstream::new(upstream.digest.as_deref(), upstream.behind, days)
}

#[test]
fn an_image_depends_on_what_the_build_of_its_parent_depends_on() {
    let report = recorded::audit(&estate(MOVED), "team", now());
    let [app, base, old] = report.images.as_slice() else { panic!("{report:#?}") };
    assert_eq!(
        upstream(app),
        OnlyUpstream::new(Some("sha256:d1"), Some(BehindReason::NotRebuilt), Some(10))
    );
    assert_eq!(
        upstream(base),
        OnlyUpstream::new(Some("sha256:d3"), Some(BehindReason::NotAdopted), Some(1))
    );
    assert_eq!(
        upstream(old),
        OnlyUpstream::new(None, Some(BehindReason::Unknown), None),
        "its base has no record"
    );
    assert_eq!(app.owner.as_deref(), Some("payments"));
    let of_app = app.base.as_ref().expect("a base");
    assert_eq!(of_app.newest.as_deref(), Some("sha256:b3"));
    assert_eq!((of_app.is_outdated, &*of_app.name), (Some(true), "base"));
    assert_eq!(base.base.as_ref().and_then(|base| base.is_outdated), Some(false));
}

#[test]
fn an_image_that_is_rolled_back_is_as_far_behind_as_the_build_that_its_tags_point_to() {
    let rolled_back = MOVED.replace(
        "  digest: sha256:o1\n  build: 1\n",
        "  digest: sha256:o2\n  build: 2\n  rollback: {digest: 'sha256:o1', build: 1}\n  \
         history:\n  - {build: 1, fingerprint: f, digest: 'sha256:o1', message: m,\n     \
         parents: [{name: base, digest: 'sha256:b1'}]}\n",
    );
    let report = recorded::audit(&estate(&rolled_back), "team", now());
    let old = report.images.iter().find(|image| image.name.ends_with("/old")).expect("old");
    assert_eq!((old.build, old.digest.as_deref()), (Some(1), Some("sha256:o1")));
    let base = old.base.as_ref().expect("a base");
    assert_eq!((base.digest.as_deref(), base.is_outdated), (Some("sha256:b1"), Some(true)));
    assert_eq!(upstream(old).digest, Some("sha256:d1"));
}

#[test]
fn older_images_are_those_of_unknown_age_too() {
    let names = |age: &str| {
        let mut report = recorded::audit(&estate(MOVED), "team", now());
        report.keep_older(age.parse::<MinimumAge>().expect("an age").0.as_secs());
        let names = report.images.into_iter().map(|image| image.name);
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names("9d"), "web/shop/app web/shop/base web/shop/old");
    assert_eq!(names("240h"), "web/shop/app web/shop/old", "base is exactly as old");
    assert_eq!(names("61d"), "web/shop/old");
    for wrong in ["", "d", "-1d", "1.5d", "soon"] {
        assert!(wrong.parse::<MinimumAge>().is_err(), "{wrong}");
    }
}

#[test]
fn tables_name_the_upstream_that_is_behind_longest() {
    let report = recorded::audit(&estate(MOVED), "none", now());
    let table = report.rendered(TabularFormat::Wide).expect("a table");
    insta::assert_snapshot!(anstream::adapter::strip_str(&table).to_string());
    insta::assert_snapshot!("csv", report.rendered(TabularFormat::Csv).expect("a table"));
}

#[derive(Parser, Debug)]
struct AuditLine {
    #[command(flatten)]
    arguments: AuditArguments,
}

fn access(registry: &TestRegistry) -> RegistryAccess {
    // Only the first call of a process can succeed.
    _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = Config { plain_http: vec![registry.host.clone()], ..Config::default() };
    let platform = Platform::from_user("linux/amd64").expect("a platform");
    let client = Client::new(config).expect("a client");
    RegistryAccess { client, keychain: Keychain::default(), platform }
}

#[tokio::test]
async fn a_registry_alone_says_on_which_upstream_digest_images_are_built() {
    let built = |number: u8, base: &str, digest: &str| {
        json!({
            "dev.groundswell.fingerprint": "f", "dev.groundswell.build": number.to_string(),
            "org.opencontainers.image.base.name": base,
            "org.opencontainers.image.base.digest": digest,
        })
    };
    let (bottom, patched) = (layer(&[("a", "old")]), layer(&[("a", "new")]));
    let mut vendor = TestImages::default();
    let first = vendor.add("library/debian:old", std::slice::from_ref(&bottom), json!({}));
    let second = vendor.add("library/debian:trixie", std::slice::from_ref(&patched), json!({}));
    let vendor = vendor.start().await;
    let debian = format!("{}/library/debian:trixie", vendor.host);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let own_base = format!("{}/team/base", listener.local_addr().expect("an address"));
    let mut ours = TestImages::default();
    let owner = json!({"Labels": {"team": "payments", "dev.groundswell.build": "9"}});
    let one = layer(&[("b", "1")]);
    let base = [bottom.clone(), one.clone()];
    let base_1 =
        ours.annotated("team/base:gs-1", &base, owner.clone(), built(1, &debian, first.as_str()));
    let base_2 = [patched.clone(), one.clone()];
    ours.annotated("team/base:1", &base_2, owner.clone(), built(2, &debian, second.as_str()));
    let app = [bottom, one, layer(&[("c", "1")])];
    ours.annotated("team/app:1", &app, owner, built(7, &own_base, base_1.as_str()));
    let foreign = [layer(&[("z", "1")]), layer(&[("z", "2")])];
    ours.add("team/foreign:1", &foreign, json!({"Labels": {"dev.groundswell.build": "9"}}));
    let registry = ours.start_on(listener);
    let mut access = access(&registry);
    let plain_http = vec![registry.host.clone(), vendor.host.clone()];
    access.client = Client::new(Config { plain_http, ..Config::default() }).expect("a client");
    let line = AuditLine::try_parse_from(["audit"]).expect("a line").arguments;
    let name = format!("{}/team", registry.host);
    let report = registry::audit(&access, &name, &line, now()).await.expect("a report");
    assert_eq!(report.problems, Vec::<String>::new());
    let [app, base, foreign] = report.images.as_slice() else { panic!("{report:#?}") };
    assert_eq!((app.build, app.owner.as_deref()), (Some(7), Some("payments")));
    assert_eq!(
        upstream(app),
        OnlyUpstream::new(Some(first.as_str()), Some(BehindReason::NotRebuilt), None)
    );
    assert_eq!(upstream(base), OnlyUpstream::new(Some(second.as_str()), None, None));
    let of_base = base.base.as_ref().expect("a base");
    assert_eq!((&of_base.name, of_base.is_outdated), (&debian, Some(false)));
    assert_eq!(app.base.as_ref().and_then(|base| base.digest.as_deref()), Some(base_1.as_str()));
    assert_eq!((foreign.build, foreign.upstreams.len()), (None, 0), "a label is no annotation");
}
