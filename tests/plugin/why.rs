//! `kubectl family why`.

use crate::runs::{Files, run};

const RECORDED: &str = "-f tests/plugin/recorded.yaml";

#[test]
fn the_last_build_a_running_one_and_one_that_waits() {
    for image in ["base", "python", "app"] {
        insta::assert_snapshot!(image, run(&format!("why {image} {RECORDED}")).fine());
    }
}

#[test]
fn what_has_failed_or_is_blocked_is_a_finding() {
    for image in ["tool", "report"] {
        let found = run(&format!("why {image} {RECORDED}"));
        assert_eq!(found.code, Some(1), "{found:#?}");
        insta::assert_snapshot!(image, found.stdout);
    }
}

#[test]
fn what_keeps_a_current_image_at_older_digests_is_said() {
    let text = "apiVersion: groundswell.dev/v1alpha1
kind: ImageFamily
metadata: {name: shop}
spec:
  repository: registry.example.com/shop
  upstreams: [{name: debian, image: docker.io/library/debian, approval: Manual}]
  images:
  - {name: base, from: [{upstream: debian}], source: {inline: FROM debian}}
  - {name: app, from: [{image: base}], source: {inline: FROM base}}
status:
  upstreams:
  - name: debian
    reference: docker.io/library/debian:latest
    adopted: {digest: 'sha256:d1'}
    candidate: {digest: 'sha256:d2'}
    reason: AwaitingApproval
    message: d2 awaits approval
---
apiVersion: groundswell.dev/v1alpha1
kind: ManagedImage
metadata: {name: shop.base}
spec: {family: shop, image: base}
status:
  state: Current
  digest: sha256:b1
  inputs: {source: s, spec: s, strategy: s, parents: [{name: debian, digest: 'sha256:d1'}]}
---
apiVersion: groundswell.dev/v1alpha1
kind: ManagedImage
metadata: {name: shop.app}
spec: {family: shop, image: app}
status:
  state: Current
  digest: sha256:a1
  hold: {until: '2026-05-01T12:00:00Z', reason: the fair, request: r}
  inputs: {source: s, spec: s, strategy: s, parents: [{name: base, digest: 'sha256:b1'}]}
";
    let files = Files::new(&[("shop.yaml", text)]);
    let said = run(&format!("why app -f {}", files.path("shop.yaml").display())).fine();
    let expected = "What keeps it at older digests:\n  \
                    app is held until 2026-05-01T12:00:00Z: the fair.\n  \
                    Upstream debian: d2 awaits approval.\n";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn json_matches_its_schema() {
    let document = run(&format!("why app -o json {RECORDED}")).document("why");
    assert_eq!((&document["state"], &document["image"]), (&"Waiting".into(), &"app".into()));
}

#[test]
fn what_nothing_is_recorded_of_is_an_error() {
    let failed = run("why flask -f examples/flask/family.yaml");
    assert_eq!((failed.code, failed.stdout.as_str()), (Some(2), ""), "{failed:#?}");
    assert!(failed.stderr.contains("nothing is recorded of flask"), "{}", failed.stderr);
}

#[test]
fn an_image_of_another_family_is_followed() {
    let family = |name: &str, from: &str| {
        format!(
            "apiVersion: groundswell.dev/v1alpha1\nkind: ImageFamily\nmetadata: {{name: {name}}}\n\
             spec:\n  repository: registry.example.com/{name}\n  \
             upstreams: [{{name: alpine, image: docker.io/library/alpine}}]\n  \
             exports: [{{image: i}}]\n  images:\n  - name: i\n    from: [{from}]\n    \
             source: {{inline: FROM x}}\n"
        )
    };
    let record = |family: &str, state: &str, parent: &str| {
        format!(
            "apiVersion: groundswell.dev/v1alpha1\nkind: ManagedImage\n\
             metadata: {{name: {family}.i}}\nspec: {{family: {family}, image: i}}\nstatus:\n  \
             state: {state}\n  reason: R\n  message: what {family} does\n  \
             digest: sha256:{family}\n  inputs:\n    source: s\n    spec: s\n    strategy: s\n    \
             parents: [{{name: {parent}, digest: 'sha256:of-{parent}'}}]\n"
        )
    };
    let import = "{family: {name: base}, image: i, arg: BASE}";
    let files = Files::new(&[
        ("a.yaml", &family("base", "{upstream: alpine}")),
        ("b.yaml", &family("app", import)),
        ("c.yaml", &record("base", "Building", "alpine")),
        ("d.yaml", &record("app", "Waiting", "base")),
    ]);
    let document = run(&format!("why app/i -o json -f {}", files.folder())).document("why");
    let built_on = document["builtOn"].as_array().expect("a list");
    assert_eq!(built_on.len(), 2, "{document:#}");
    assert_eq!(built_on[0]["newest"], "sha256:base", "{document:#}");
    assert_eq!(built_on[1]["name"], "alpine");
    let waits = document["waitsFor"].as_array().expect("a list");
    assert_eq!(waits.len(), 1, "not for itself: {document:#}");
    assert_eq!(waits[0]["image"], "default/base/i");
    assert_eq!((&document["reason"], &document["message"]), (&"R".into(), &"what app does".into()));
}
