//! Families whose images have `edges: Dockerfile`, from their Dockerfiles to the expanded spec.

use serde_json::{Value, json};

use super::*;
use crate::{api::EdgeUse, registry::Platform};

/// A family whose images have these Dockerfiles, `edges: Dockerfile` and the tag `1.0`.
fn family(images: &[(&str, &str)]) -> ImageFamilySpec {
    let image = |(name, text): &(&str, &str)| {
        json!({"name": name, "edges": "Dockerfile", "tags": ["1.0", "r{{ build }}"],
            "source": {"inline": text}})
    };
    let images: Vec<Value> = images.iter().map(image).collect();
    let spec = json!({"repository": "registry.example.com/team", "images": images});
    serde_json::from_value(spec).expect("a spec")
}

fn read(spec: &ImageFamilySpec, index: usize) -> dockerfile::ReadDockerfile {
    let image = &spec.images[index];
    let text = image.source.inline.as_deref().expect("a Dockerfile");
    dockerfile::read(spec, image, text, &Platform::default())
}

/// Expands a spec whose Dockerfiles can all be read.
fn expanded(spec: &ImageFamilySpec) -> EdgeExpansion {
    let known: Vec<KnownParents> = (0..spec.images.len())
        .map(|index| KnownParents { read: read(spec, index).parents.ok(), recorded: None })
        .collect();
    expand_edges(spec, &known)
}

/// The edges of an image, as `parent`, `as` and `use`.
fn edges(expansion: &EdgeExpansion, image: usize) -> Vec<String> {
    let written = |edge: &Edge| {
        let reference = edge.reference.as_deref().unwrap_or("-");
        format!("{} {reference} {:?}", edge.parent(), edge.usage)
    };
    expansion.spec.images[image].from.iter().map(written).collect()
}

fn upstreams(expansion: &EdgeExpansion) -> Vec<String> {
    let upstreams = expansion.spec.upstreams.iter();
    upstreams.map(|upstream| format!("{} {}", upstream.name, upstream.reference())).collect()
}

fn problem(expansion: &EdgeExpansion, image: usize) -> &str {
    expansion.images[image].problem.as_ref().map_or("", |problem| &*problem.message)
}

#[test]
fn what_a_dockerfile_names_becomes_edges_and_upstreams() {
    let spec = family(&[
        ("base", "FROM alpine:3.20"),
        (
            "app",
            "FROM golang:1.25 AS tools\nFROM unused:1\nFROM base\nCOPY --from=tools a b\n\
             COPY --from=registry.example.com/team/lib:1.0 a b",
        ),
        ("lib", "FROM registry.example.com/team/base:latest\nCOPY --from=alpine:3.20 a b"),
        ("root", "FROM scratch"),
    ]);
    let expansion = expanded(&spec);
    assert_eq!(
        upstreams(&expansion),
        ["alpine-3-20 docker.io/library/alpine:3.20", "golang-1-25 docker.io/library/golang:1.25"]
    );
    assert_eq!(edges(&expansion, 0), ["alpine-3-20 - Base"]);
    assert_eq!(
        edges(&expansion, 1),
        [
            "golang-1-25 - BuildStage",
            "base base Base",
            "lib registry.example.com/team/lib:1.0 BuildStage"
        ]
    );
    assert_eq!(edges(&expansion, 2), ["base - Base", "alpine-3-20 - BuildStage"]);
    assert!(edges(&expansion, 3).is_empty());
    let found = |reference: &str, usage, upstream: Option<&str>, image: Option<&str>| FoundEdge {
        reference: reference.into(),
        usage,
        upstream: upstream.map(str::to_owned),
        image: image.map(str::to_owned),
    };
    assert_eq!(
        expansion.images[2].edges,
        Some(vec![
            found("registry.example.com/team/base:latest", EdgeUse::Base, None, Some("base")),
            found("alpine:3.20", EdgeUse::BuildStage, Some("alpine-3-20"), None),
        ])
    );
    assert_eq!(expansion.images[3].edges, Some(Vec::new()));
    let blueprint = crate::engine::validate::validate(&expansion.spec).expect("a valid spec");
    assert!(blueprint.images.iter().all(|image| image.problem.is_none()));
}

#[test]
fn entries_of_from_and_of_upstreams_win() {
    let mut spec = family(&[(
        "app",
        "ARG BASE=alpine:3.20\nFROM debian:12 AS tools\nFROM ${BASE}\nCOPY --from=tools a b\n\
         COPY --from=busybox:1 a b",
    )]);
    spec.upstreams = serde_json::from_value(json!([
        {"name": "base", "image": "docker.io/library/alpine", "follow": {"tag": "3.20"}},
        {"name": "box", "image": "docker.io/library/busybox", "follow": {"tag": "1"}},
    ]))
    .expect("upstreams");
    spec.images[0].from =
        serde_json::from_value(json!([{"upstream": "base", "arg": "BASE"}])).expect("edges");
    spec.upstream_defaults = serde_json::from_value(json!({"approval": "Manual"})).expect("some");
    let expansion = expanded(&spec);
    assert_eq!(edges(&expansion, 0), ["base - Base", "debian-12 - BuildStage", "box - BuildStage"]);
    let approvals: Vec<bool> = expansion
        .spec
        .upstreams
        .iter()
        .map(|upstream| upstream.approval == crate::api::Approval::Manual)
        .collect();
    assert_eq!(approvals, [false, false, true], "the defaults are for what is found");
    assert_eq!(expanded(&spec), expansion);
}

#[test]
fn a_digest_counts_as_its_tag_or_as_the_tag_of_its_repository() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let spec = family(&[
        ("both", &format!("FROM alpine:3.20@{digest}\nCOPY --from=alpine:3.20 a b")),
        ("alone", &format!("FROM ghcr.io/ubi@{digest}")),
        ("joined", &format!("FROM debian:12 AS a\nFROM debian@{digest}\nCOPY --from=a a b")),
        ("own", &format!("FROM registry.example.com/team/both@{digest}")),
        (
            "unclear",
            &format!(
                "FROM debian:12 AS a\nFROM debian:11 AS b\nFROM debian@{digest}\n\
                      COPY --from=a a b\nCOPY --from=b a b"
            ),
        ),
    ]);
    let expansion = expanded(&spec);
    assert_eq!(edges(&expansion, 0), ["alpine-3-20 - Base"]);
    assert_eq!(edges(&expansion, 1), ["ghcr-io-ubi - Base"]);
    assert!(upstreams(&expansion).contains(&"ghcr-io-ubi ghcr.io/ubi:latest".to_owned()));
    assert_eq!(edges(&expansion, 2), ["debian-12 - Base"]);
    assert_eq!(edges(&expansion, 3), ["both - Base"]);
    assert!(problem(&expansion, 4).contains("write the tag before the digest"));
    let problems = (0..4).filter(|index| !problem(&expansion, *index).is_empty()).count();
    assert_eq!(problems, 0);
}

#[test]
fn recorded_edges_replace_what_cannot_be_read() {
    let spec = family(&[("base", "FROM alpine:3.20"), ("app", "FROM base")]);
    let read = expanded(&spec);
    let known: Vec<KnownParents> = read
        .images
        .iter()
        .map(|image| {
            let mut record = ManagedImage::default();
            let status =
                crate::api::ManagedImageStatus { edges: image.edges.clone(), ..Default::default() };
            record.status = Some(status);
            KnownParents::recorded(Some(&record))
        })
        .collect();
    assert_eq!(expand_edges(&spec, &known), read);
    let nothing = expand_edges(&spec, &vec![KnownParents::default(); 2]);
    assert_eq!(nothing.spec.upstreams, []);
    assert_eq!(nothing.images[0].edges, None, "nothing known is recorded as nothing");
}

#[test]
fn bad_dockerfiles_concern_their_images_alone() {
    let many: Vec<String> = (0..33).map(|n| format!("COPY --from=tool:{n} a b\n")).collect();
    let spec = family(&[
        ("one", "FROM two"),
        ("two", "FROM registry.example.com/team/one:1.0"),
        ("three", "FROM alpine:3.20"),
        ("self", "FROM registry.example.com/team/self:1.0"),
        ("many", &format!("FROM alpine:3.20\n{}", many.concat())),
        ("three-again", "FROM three"),
    ]);
    let expansion = expanded(&spec);
    for (index, part) in [
        (0, "the Dockerfile closes a cycle: "),
        (1, "the Dockerfile closes a cycle: "),
        (3, "which is the image itself"),
        (4, "name 34 images"),
    ] {
        assert!(problem(&expansion, index).contains(part), "{:?}", expansion.images[index]);
    }
    assert_eq!(upstreams(&expansion), ["alpine-3-20 docker.io/library/alpine:3.20"]);
    assert_eq!(edges(&expansion, 5), ["three three Base"]);
    assert!(crate::engine::validate::validate(&expansion.spec).is_ok());
    for (text, part) in [
        ("FORM alpine", "the file has no FROM"),
        ("FROM ${X}", "is empty"),
        ("FROM alpine AS a\nRUN --mount=from=$A,target=/t x", "substitutes no arguments"),
        ("FROM alpine AS a\nFROM busybox AS alpine\nCOPY --from=a a b", "rename the stage"),
    ] {
        let problem = super::tests::read(&family(&[("app", text)]), 0).parents.expect_err(text);
        assert_eq!(problem.reason, Reason::DockerfileMismatch);
        assert!(problem.message.starts_with("spec.images[app]: "), "{}", problem.message);
        assert!(problem.message.contains(part), "{}", problem.message);
    }
}

#[test]
fn a_family_has_at_most_64_upstreams() {
    let texts: Vec<String> = (0..70).map(|n| format!("FROM alpine:{n}")).collect();
    let names: Vec<String> = (0..70).map(|n| format!("image-{n}")).collect();
    let images: Vec<(&str, &str)> =
        names.iter().zip(&texts).map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let expansion = expanded(&family(&images));
    assert_eq!(expansion.spec.upstreams.len(), MAX_UPSTREAMS);
    let rejected = (0..70).filter(|index| problem(&expansion, *index).contains("more upstreams"));
    assert_eq!(rejected.collect::<Vec<_>>(), (64..70).collect::<Vec<_>>());
}

#[test]
fn an_argument_that_nothing_declares_is_a_problem() {
    let mut spec = family(&[("app", "ARG VERSION=1\nFROM alpine:${VERSION}\nARG MODE")]);
    let args = |names: &[&str]| names.iter().map(|name| ((*name).into(), "1".into())).collect();
    spec.images[0].args = args(&["VERSION", "MODE", "HTTP_PROXY", "BUILDKIT_INLINE_CACHE"]);
    assert_eq!(read(&spec, 0).unused_args, None);
    spec.images[0].args = args(&["VERSOIN", "MODE"]);
    for source in [EdgeSource::Dockerfile, EdgeSource::Declared] {
        spec.images[0].edges = source;
        let problem = read(&spec, 0).unused_args.expect("a problem");
        assert!(problem.message.starts_with("spec.images[app].args: "), "{}", problem.message);
        assert!(problem.message.contains("declares `VERSOIN`, so"), "{}", problem.message);
    }
}
