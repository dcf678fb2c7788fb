use crate::{api::EdgeUse, builds::dockerfile::*};

fn platform() -> Platform {
    "linux/amd64".parse().expect("a platform")
}
const PINNED: &str = concat!(
    "registry.example.com/team/base@sha256:",
    "0123456789012345678901234567890123456789012345678901234567890123"
);

fn try_parse(
    text: &str,
    args: &BTreeMap<String, String>,
    target: Option<&str>,
) -> Result<Dockerfile, SyntaxError> {
    Dockerfile::parse(text, &BuildOptions { args, platform: &platform(), target })
}

fn parse(text: &str) -> Dockerfile {
    try_parse(text, &BTreeMap::new(), None).expect(text)
}

/// Compares the edges of a Dockerfile whose parents have no triggers.
fn verify(
    text: &str,
    edges: &[DeclaredEdge],
    target: Option<&str>,
) -> Result<Vec<ReplacedDigest>, EdgeError> {
    verify_edges(&try_parse(text, &BTreeMap::new(), target).expect(text), edges, Some(&[]))
}

fn edge(reference: &str, usage: EdgeUse) -> DeclaredEdge {
    DeclaredEdge {
        name: "parent".into(),
        reference: Some(reference.into()),
        usage,
        ..DeclaredEdge::default()
    }
}

fn by_arg(arg: &str, usage: EdgeUse) -> DeclaredEdge {
    DeclaredEdge {
        name: "base".into(),
        arg: Some(arg.into()),
        pinned: PINNED.into(),
        usage,
        ..DeclaredEdge::default()
    }
}

/// Returns the images that a Dockerfile needs, sorted by name. `*` marks the base.
fn needs(text: &str) -> Vec<String> {
    sorted_needs(&parse(text))
}

fn sorted_needs(dockerfile: &Dockerfile) -> Vec<String> {
    let mut names: Vec<_> = needed_images(dockerfile)
        .into_iter()
        .map(|NeededImage { image, usage }| match usage {
            EdgeUse::Base => format!("*{}", image.name),
            EdgeUse::BuildStage => image.name,
        })
        .collect();
    names.sort();
    names
}

fn needed_images(dockerfile: &Dockerfile) -> Vec<NeededImage> {
    dockerfile.needed_images(&|_| &[]).expect("no trigger is invalid").expect("the target exists")
}

#[test]
fn finds_every_image_and_no_stage() {
    for (text, expected) in [
        ("FROM alpine:3.20", vec!["*alpine:3.20"]),
        ("from alpine:3.20 as x", vec!["*alpine:3.20"]),
        ("FROM --platform=$BUILDPLATFORM alpine AS b\nFROM b", vec!["*alpine"]),
        (
            "FROM golang:1 AS build\nRUN go build\nFROM scratch\nCOPY --from=build /a /a",
            vec!["golang:1"],
        ),
        (
            "FROM golang:1 AS build\nFROM alpine\nCOPY --chown=1:1 --from=0 /a /a",
            vec!["*alpine", "golang:1"],
        ),
        ("FROM alpine\nCOPY --from=ghcr.io/a/b:1 /a /a", vec!["*alpine", "ghcr.io/a/b:1"]),
        ("FROM alpine AS Base\nFROM BASE AS next\nFROM next", vec!["*alpine"]),
        (
            "FROM alpine\nRUN --mount=type=bind,from=busybox:1,target=/b \
             --mount=type=cache,target=/c x",
            vec!["*alpine", "busybox:1"],
        ),
        (
            "FROM alpine\nRUN --mount=\"type=bind,from=busybox,target=/b\" x",
            vec!["*alpine", "busybox"],
        ),
        ("ARG TAG=3.20\nFROM alpine:${TAG}", vec!["*alpine:3.20"]),
        ("ARG TAG\nFROM alpine:${TAG:-3.19}", vec!["*alpine:3.19"]),
        ("ARG A=1 B=2\nARG C=$A.$B\nFROM x:$C", vec!["*x:1.2"]),
        ("ARG IMAGE=\"debian:12\"\nFROM $IMAGE", vec!["*debian:12"]),
        ("ARG V=v1.2.3\nFROM x:${V#v}", vec!["*x:1.2.3"]),
        ("ARG V=1.2.3\nFROM x:${V%.*}-${V%%.*}", vec!["*x:1.2-1"]),
        ("FROM x-${TARGETARCH}:1", vec!["*x-amd64:1"]),
        ("FROM alpine\nARG TAG=1\nRUN echo FROM debian", vec!["*alpine"]),
        ("FROM alpine\nRUN <<EOF\nFROM debian\nCOPY --from=x y\nEOF\nRUN x", vec!["*alpine"]),
        (
            "FROM alpine\nCOPY <<-\"a\" <<b /x/\nFROM one\n\t\ta\nFROM two\nb\nCOPY --from=c d e",
            vec!["*alpine", "c"],
        ),
        ("FROM alpine\nRUN cat << EOF\nFROM debian\nEOF", vec!["*alpine"]),
        ("FROM alpine\nRUN cat <<<word\nCOPY --from=b c d", vec!["*alpine", "b"]),
        ("FROM alpine\nRUN [\"a\", \"<<EOF\"]\nCOPY --from=b c d", vec!["*alpine", "b"]),
        ("FROM alpine\nRUN a && \\\n# FROM debian\n\n  b\nCOPY --from=c d e", vec!["*alpine", "c"]),
        (
            concat!(
                "# escape=`\nFROM mcr.example.com/nano:1\nRUN a `\n  b\n",
                "RUN dir c:\\\nCOPY --from=x y z"
            ),
            vec!["*mcr.example.com/nano:1", "x"],
        ),
        (
            "# syntax=docker/dockerfile:1\n# escape=`\nFROM a\nRUN c:\\\nCOPY --from=x y z",
            vec!["*a", "x"],
        ),
        ("\u{feff}# comment\r\nFROM alpine\r\nRUN a \\\r\n b\r\n", vec!["*alpine"]),
        ("FROM alpine\nONBUILD COPY --from=x a b\nONBUILD RUN <<E\nFROM q\nE", vec!["*alpine"]),
        ("FROM a AS unused\nFROM b", vec!["*b"]),
        (
            "FROM a AS one\nFROM one AS two\nCOPY --from=c d e\nFROM a\nCOPY --from=two x y",
            vec!["*a", "a", "c"],
        ),
    ] {
        assert_eq!(needs(text), expected, "{text}");
    }
}

#[test]
fn given_arguments_override_defaults() {
    let args = BTreeMap::from([
        ("TAG".to_owned(), "edge".to_owned()),
        ("LATER".to_owned(), "x".to_owned()),
    ]);
    let dockerfile =
        try_parse("ARG TAG=3.20\nFROM alpine:$TAG$LATER", &args, None).expect("parses");
    assert_eq!(sorted_needs(&dockerfile), ["*alpine:edge"], "an undeclared argument is empty");
}

#[test]
fn a_line_that_cannot_be_interpreted_is_rejected_with_its_number() {
    for (text, expected) in [
        ("", "line 1: the file has no FROM"),
        ("RUN x", "the file has no FROM"),
        ("FROM", "line 1: FROM requires `image`"),
        ("FROM a b", "FROM requires `image`"),
        ("\nFROM ${NOTHING}", "line 2: FROM ${NOTHING} is empty"),
        ("FROM a\nCOPY --from=$X a b", "line 2: `from=$X`"),
        ("FROM a\nCOPY --from=3 a b", "line 2: there is no stage number 3"),
        ("FROM a\nRUN <<EOF\nx", "line 2: the here-document `EOF` has no end"),
        ("ARG A\nFROM ${A?unset}", "line 2: the argument `A` has no value: unset"),
        ("FROM ${A", "line 1: "),
        ("FROM ${A^^}", "the substitution of `A` is not supported"),
        ("FROM a\nCOPY --from=b --from=c x y", "line 2: the flag `--from` is repeated"),
        ("FROM a\nRUN --mount=from=$X,target=/x y", "line 2: `from=$X`"),
        ("FROM a\nRUN --mount=\\\"from=b y", "line 2: the quotes of `--mount=\"from=b`"),
        ("# escape=x\nFROM a", "line 1: the escape must be"),
        ("COPY --from=a b c", "line 1: the instruction comes before the first FROM"),
    ] {
        let error = try_parse(text, &BTreeMap::new(), None).expect_err(text).to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let large = format!("FROM a\n{}", "#".repeat(1 << 20));
    assert!(try_parse(&large, &BTreeMap::new(), None).is_err());
    assert!(try_parse(&"FROM a\n".repeat(300), &BTreeMap::new(), None).is_err());
}

#[test]
fn edges_and_names_agree() {
    use EdgeUse::{Base, BuildStage};
    for (text, edges, target) in [
        ("FROM alpine:3.20", vec![edge("docker.io/library/alpine:3.20", Base)], None),
        ("FROM docker.io/alpine", vec![edge("alpine:latest", Base)], None),
        (
            "FROM golang AS b\nFROM scratch\nCOPY --from=b a a",
            vec![edge("golang", BuildStage)],
            None,
        ),
        ("FROM a AS x\nFROM b AS y", vec![edge("a", Base)], Some("x")),
        ("FROM a AS x\nFROM b AS y", vec![edge("a", Base), edge("b", BuildStage)], Some("X")),
        ("FROM a AS one\nFROM a\nCOPY --from=one x y", vec![edge("a", Base)], None),
    ] {
        assert_eq!(verify(text, &edges, target), Ok(vec![]), "{text}");
    }
}

#[test]
fn a_disagreement_names_both_sides() {
    use EdgeUse::{Base, BuildStage};
    let both = "The Dockerfile names `alpine:3.20` (Base), `golang:1` (BuildStage); `from` \
                declares `parent` as `alpine:3.20` (Base). Correct one of them";
    let text = "FROM golang:1 AS b\nFROM alpine:3.20\nCOPY --from=b a a";
    let error =
        verify(text, &[edge("alpine:3.20", Base)], None).expect_err("undeclared").to_string();
    assert!(error.contains("line 1 names `golang:1`, which `from` does not declare"), "{error}");
    assert!(error.ends_with(both), "{error}");

    for (text, edges, target, expected) in [
        (
            "FROM a",
            vec![edge("a", Base), edge("b", BuildStage)],
            None,
            "`parent` as `b` is declared, but the Dockerfile does not name it",
        ),
        (
            "FROM a",
            vec![edge("a", BuildStage)],
            None,
            "the target stage is built on it; declare `use: Base`",
        ),
        (
            "FROM a AS b\nFROM scratch\nCOPY --from=b x y",
            vec![edge("a", Base)],
            None,
            "declare `use: BuildStage`",
        ),
        (
            "FROM a",
            vec![edge("a", Base), edge("docker.io/library/a:latest", Base)],
            None,
            "is declared twice",
        ),
        (
            "FROM a AS b",
            vec![edge("a", Base)],
            Some("c"),
            "`target` is `c`, but the Dockerfile has no such stage; its named stages are `b`",
        ),
        (
            "FROM alpine AS alpine\nFROM alpine",
            vec![edge("alpine", Base)],
            None,
            "line 1 names a stage `alpine`",
        ),
        ("FROM x AS alpine\nFROM y", vec![edge("alpine:latest", Base)], None, "rename the stage"),
        ("ARG T=2\nFROM a:$T", vec![edge("a:1", Base)], None, "line 2 names `a:$T` (`a:2`)"),
    ] {
        let error = verify(text, &edges, target).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn an_edge_by_argument_is_taken_from_that_argument() {
    use EdgeUse::Base;
    let given = BTreeMap::from([("BASE".to_owned(), PINNED.to_owned())]);
    let verify_given = |text: &str| {
        let dockerfile = try_parse(text, &given, None).expect(text);
        verify_edges(&dockerfile, &[by_arg("BASE", Base)], Some(&[]))
    };
    for text in ["ARG BASE\nFROM ${BASE}", "ARG BASE=alpine\nFROM $BASE AS x\nFROM x"] {
        assert_eq!(verify_given(text), Ok(vec![]), "{text}");
    }
    for text in [
        format!("FROM {PINNED}"),
        "ARG BASE\nFROM alpine".into(),
        "ARG BASE\nFROM x/${BASE}".into(),
    ] {
        let error = verify_given(&text).expect_err(&text).to_string();
        assert!(error.contains("`base` by ARG `BASE`"), "{error}");
    }
}

proptest::proptest! {
    #[test]
    fn never_panics(text in concat!(
        "((FROM|ARG|COPY|RUN|ONBUILD) |--from=|--mount=|<<|EOF|\\$|\\{|\\}|:-|%|#|\"|'|\\\\|`|=|,|",
        "\n|é|a|b| ){0,60}"
    )) {
        let args = BTreeMap::from([("a".into(), "b".into())]);
        let _ = try_parse(&text, &args, None)
            .map(|dockerfile| verify_edges(&dockerfile, &[edge("a", EdgeUse::Base)], Some(&[])));
    }

    #[test]
    fn never_panics_on_anything(text in ".{0,200}") {
        let _ = try_parse(&format!("FROM a\n{text}"), &BTreeMap::new(), None);
    }
}

#[test]
fn an_image_for_another_platform_is_rejected() {
    for allowed in [
        "FROM --platform=$BUILDPLATFORM a",
        "FROM --platform=linux/amd64 a",
        "FROM --platform=linux/x86_64 a",
        "FROM --platform=$UNKNOWN a",
        "FROM --platform=linux/arm64 scratch",
        "FROM a AS b\nFROM --platform=linux/arm64 b",
    ] {
        parse(allowed);
    }
    for text in ["FROM --platform=linux/arm64 a", "ARG P=linux/arm64\nFROM --platform=$P a"] {
        let error = try_parse(text, &BTreeMap::new(), None).expect_err(text);
        let said = "the build is for linux/amd64, and FROM asks for linux/arm64";
        assert!(error.to_string().contains(said), "{error}");
    }
}
