use serde_json::{Value, json};

use super::*;
use crate::input::fixtures::{edit, estate};

const PLATFORM: &str = "apiVersion: groundswell.dev/v1alpha1
kind: ImageFamily
metadata: {name: platform}
spec:
  repository: registry.example.com/platform
  upstreams:
  - {name: debian, image: docker.io/library/debian, follow: {tag: trixie-slim}}
  exports: [{image: base}]
  images:
  - {name: base, from: [{upstream: debian}], source: {inline: FROM debian}}
";
const WEB: &str = "apiVersion: groundswell.dev/v1alpha1
kind: ImageFamily
metadata: {name: web}
spec:
  repository: registry.example.com/web
  images:
  - {name: app, from: [{image: base, family: {name: platform}}], source: {inline: FROM base}}
";

fn now() -> Timestamp {
    "2026-05-01T12:00:00Z".parse().expect("a time")
}

/// Returns the document of a plan, after an edit and after moves of these upstreams.
fn plan(before: &str, edited: Option<&str>, moved: &[&str]) -> Value {
    let estate = estate(before);
    let edited = edited.map(|text| edit(text, &estate));
    let planner =
        Planner { estate: &estate, edited: edited.as_ref(), scope: EstateScope::Part, now: now() };
    let reference = |name: &&str| planner.reference(&name.parse().expect("a name"));
    let references = moved.iter().map(|name| reference(name).expect("an upstream"));
    let digests = references.map(|reference| {
        let digest = moved_digest(&reference);
        (reference, digest)
    });
    serde_json::to_value(planner.document(&digests.collect())).expect("a document")
}

fn both() -> String {
    format!("{PLATFORM}---\n{WEB}")
}

/// Returns a part of the plan of a family.
fn part<'d>(document: &'d Value, family: &str, field: &str) -> &'d Value {
    let families = document["families"].as_array().expect("families");
    let found = families.iter().find(|known| known["name"] == family);
    &found.expect("the family")[field]
}

fn built(document: &Value, family: &str) -> Vec<String> {
    let builds = part(document, family, "builds").as_array().expect("builds");
    builds.iter().map(|image| image["image"].as_str().expect("a name").to_owned()).collect()
}

fn record(family: &str, image: &str, status: &str) -> String {
    format!(
        "---\napiVersion: groundswell.dev/v1alpha1\nkind: ManagedImage\n\
         metadata: {{name: {family}.{image}}}\n\
         spec: {{family: {family}, image: {image}, \
         repository: registry.example.com/{family}/{image}, level: 1}}\n\
         status: {status}\n"
    )
}

/// The first build of `base` runs, and nothing records yet of which source.
#[test]
fn a_first_build_that_runs_is_not_planned_again() {
    let running = "{state: Building, running: {job: base-1-0, build: 1, attempt: 0, \
                   fingerprint: f1}}";
    let adopted = "status:\n  upstreams: [{name: debian, adopted: {digest: 'sha256:d1'}}]\n";
    let before = format!("{PLATFORM}{adopted}{}", record("platform", "base", running));
    let document = plan(&before, None, &[]);
    assert_eq!(built(&document, "platform"), Vec::<String>::new(), "{document:#}");
    let others = &part(&document, "platform", "others");
    assert_eq!((&others[0]["image"], &others[0]["state"]), (&json!("base"), &json!("Building")));
    // The build that a move causes comes after it.
    assert_eq!(built(&plan(&before, None, &["debian"]), "platform"), ["base"]);
    let edited = PLATFORM.replace("inline: FROM debian", "inline: FROM debian:trixie-slim");
    assert_eq!(built(&plan(&before, Some(&edited), &[]), "platform"), ["base"]);
}

#[test]
fn a_family_waits_for_the_images_that_it_is_built_on() {
    let document = plan(&both(), None, &["debian"]);
    assert_eq!(built(&document, "platform"), ["base"]);
    let app = &part(&document, "web", "builds")[0];
    let base = &part(&document, "platform", "builds")[0];
    assert_eq!(app["startsInSeconds"], base["startsInSeconds"], "{document:#}");
    assert_ne!(app["startsInSeconds"], 0);
    assert_eq!(app["waitsFor"][0], "default/platform.base");
    let first = plan(&both(), None, &[]);
    assert_eq!(built(&first, "web"), ["app"]);
    assert_eq!(part(&first, "web", "builds")[0]["waitsFor"][0], "default/platform.base");
}

#[test]
fn what_a_suspended_family_does_not_build_is_waited_for() {
    let suspended = PLATFORM.replace("spec:\n", "spec:\n  suspend: true\n");
    let document = plan(&format!("{suspended}---\n{WEB}"), None, &[]);
    assert_eq!(built(&document, "platform"), [""; 0]);
    assert_eq!(built(&document, "web"), [""; 0]);
    let others = part(&document, "web", "others");
    assert_eq!(others[0]["state"], "Waiting", "{document:#}");
    assert!(others[0]["why"].as_str().expect("text").contains("platform.base"), "{others:#}");
    assert_eq!(part(&document, "platform", "waitsFor"), "spec.suspend is set");
}

#[test]
fn an_export_that_an_edit_removes_blocks_its_users() {
    let edited = PLATFORM.replace("  exports: [{image: base}]\n", "");
    let document = plan(&both(), Some(&edited), &[]);
    let others = part(&document, "web", "others");
    let why = others[0]["why"].as_str().expect("text");
    assert!(why.contains("does not export it"), "{document:#}");
    assert_eq!(part(&document, "platform", "familyChanges")[0], "exports[base]");
}

#[test]
fn imports_are_checked_as_the_controller_does() {
    let scope = EstateScope::Namespace("default".into());
    for (from, to, expected) in [
        ("{name: platform}", "{name: nowhere}", "which does not exist"),
        ("image: base,", "image: other,", "does not have"),
        ("{name: platform}", "{name: web}", "its own family"),
    ] {
        let estate = estate(&format!("{PLATFORM}---\n{}", WEB.replace(from, to)));
        let planner = Planner { estate: &estate, edited: None, scope: scope.clone(), now: now() };
        let document = planner.document(&BTreeMap::new());
        let document = serde_json::to_value(document).expect("a document");
        assert_eq!(built(&document, "web"), [""; 0], "{to}");
        let why = part(&document, "web", "others")[0]["why"].as_str().expect("text");
        assert!(why.contains(expected), "{to}: {why}");
    }
    let alone = plan(WEB, None, &[]);
    assert_eq!(built(&alone, "web"), ["app"]);
    assert_eq!(part(&alone, "web", "assumedImports")[0], "default/platform.base");
}

/// A family whose own image has the name of the image that it is built on.
#[test]
fn the_record_of_an_import_is_its_digest() {
    let digest = |byte: &str| format!("sha256:{}", byte.repeat(32));
    let web = WEB.to_owned()
        + "  - {name: base, from: [{image: app}], source: {inline: FROM app}}\n"
        + "  - {name: last, from: [{image: base}], source: {inline: FROM base}}\n";
    let estate = estate(&web);
    let family = &estate.families[0];
    let status = |parent: &str, byte: &str, image: &str| {
        let index = family.family.spec.images.iter().position(|one| one.name == image);
        let spec = &family.blueprint.images[index.expect("an image")];
        let source = spec.inline.as_deref().expect("an inline source");
        format!(
            "{{state: Current, digest: '{}', fingerprint: {image}, build: 1, inputs: {{parents: \
             [{{name: {parent}, digest: '{}'}}], source: '{source}', spec: '{}', strategy: s}}}}",
            digest(image.get(..2).map_or("00", |start| match start {
                "ap" => "aa",
                "ba" => "bb",
                _ => "cc",
            })),
            digest(byte),
            spec.spec_hash
        )
    };
    let records = record("web", "last", &status("base", "bb", "last"))
        + &record("web", "base", &status("app", "aa", "base"))
        + &record("web", "app", &status("platform.base", "dd", "app"));
    let alone = plan(&format!("{web}{records}"), None, &[]);
    assert_eq!(built(&alone, "web"), [""; 0], "{alone:#}");
    // The family of the image knows a newer digest.
    let base = record(
        "platform",
        "base",
        &format!("{{state: Current, digest: '{}', fingerprint: f, build: 2}}", digest("ee")),
    );
    let suspended = PLATFORM.replace("spec:\n", "spec:\n  suspend: true\n");
    let newer = plan(&format!("{web}{records}---\n{suspended}{base}"), None, &[]);
    assert_eq!(built(&newer, "web"), ["app", "base", "last"], "{newer:#}");
}

#[test]
fn an_edit_keeps_requests_and_what_is_recorded() {
    let hold = "---\napiVersion: groundswell.dev/v1alpha1\nkind: FamilyRequest\n\
                metadata: {name: hold, creationTimestamp: '2026-04-01T12:00:00Z'}\n\
                spec: {family: platform, action: Hold, image: base, reason: freeze}\n\
                status: {state: Active}\n";
    let edited = PLATFORM.replace("inline: FROM debian", "inline: FROM debian AS x");
    let free = plan(PLATFORM, Some(&edited), &[]);
    assert_eq!(built(&free, "platform"), ["base"]);
    let held = plan(&format!("{PLATFORM}{hold}"), Some(&edited), &[]);
    assert_eq!(built(&held, "platform"), [""; 0], "{held:#}");
    assert_eq!(part(&held, "platform", "others")[0]["state"], "Held");
}

#[test]
fn an_edit_keeps_the_edges_that_dockerfiles_say() {
    let text = PLATFORM.to_owned()
        + "  - {name: tool, edges: Dockerfile, source: {git: {url: https://git.example.com/a, \
           revision: main}}}\n";
    let edges = record(
        "platform",
        "tool",
        "{edges: [{image: base, reference: registry.example.com/platform/base, use: Base}]}",
    );
    let first = estate(&format!("{text}{edges}"));
    let edited = edit(&text.replace("trixie-slim", "trixie"), &first);
    let parents = |estate: &Estate| estate.families[0].family.spec.images[1].from.len();
    assert_eq!((parents(&first), parents(&edited)), (1, 1));
}

#[test]
fn changes_of_the_family_are_listed() {
    let edited = PLATFORM
        .replace("spec:\n", "spec:\n  suspend: true\n  policy: {parallelism: 9}\n")
        .replace("follow: {tag: trixie-slim}", "follow: {tag: trixie-slim}, approval: Manual");
    let document = plan(PLATFORM, Some(&edited), &[]);
    let changes = part(&document, "platform", "familyChanges");
    let expected = ["policy.parallelism", "suspend", "upstreams[debian].approval"];
    assert_eq!(*changes, serde_json::json!(expected));
    assert_eq!(built(&document, "platform"), [""; 0]);
}

#[test]
fn upstreams_are_found_by_their_names_alone() {
    let text = PLATFORM.replace("base", "debian");
    assert_eq!(built(&plan(&text, None, &["debian"]), "platform"), ["debian"]);
    let edited = PLATFORM
        .replace("name: debian", "name: trixie")
        .replace("upstream: debian", "upstream: trixie");
    assert_eq!(built(&plan(PLATFORM, Some(&edited), &["trixie"]), "platform"), ["base"]);
}

#[test]
fn the_gate_that_is_closed_is_named_with_what_to_do() {
    for (field, expected) in [
        ("approval: Manual", "debian: its new digest needs kubectl family approve platform debian"),
        ("hold: {reason: freeze}", "debian: held: freeze"),
    ] {
        let follow = format!("follow: {{tag: trixie-slim}}, {field}");
        let text = PLATFORM.replace("follow: {tag: trixie-slim}", &follow);
        let document = plan(&text, None, &["debian"]);
        assert_eq!(built(&document, "platform"), [""; 0]);
        assert_eq!(part(&document, "platform", "waitsFor"), expected);
    }
    let minimum = "follow: {tag: trixie-slim}, minimumAge: 72h";
    let windows =
        "spec:\n  policy: {windows: [{schedule: '0 22 * * *', duration: 1h, timeZone: UTC}]}\n";
    let text = PLATFORM.replace("follow: {tag: trixie-slim}", minimum).replace("spec:\n", windows);
    let document = plan(&text, None, &["debian"]);
    let waits = part(&document, "platform", "waitsFor").as_str().expect("text");
    assert_eq!(waits, "debian: its new digest waits until it is 72h old; a window", "{document:#}");
    let long = text.replace("minimumAge: 72h", "minimumAge: 2160h");
    let document = plan(&long, None, &["debian"]);
    assert_eq!(part(&document, "platform", "plannedUntil"), "2026-07-02");
}
