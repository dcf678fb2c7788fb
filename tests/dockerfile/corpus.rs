//! Small Dockerfiles, each for one rule that a user met or that `BuildKit`'s sources have.

use std::collections::BTreeMap;

use crate::frontend::Build;

/// The digest of images that the files name with a digest.
const DIGEST: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

/// Files of the default platform, without arguments, target and triggers.
const PLAIN: [&str; 48] = [
    "FROM alpine",
    "from alpine:3.20 as x\nFROM x",
    "FROM golang:1 AS build\nRUN go build\nFROM scratch\nCOPY --from=build /a /a",
    "FROM golang:1\nFROM alpine\nCOPY --chown=1:1 --from=0 /a /a",
    "FROM alpine\nCOPY --from=example.com/a/b:1 /a /a",
    "FROM alpine AS base\nFROM base AS next\nCOPY --from=BASE a b\nFROM next",
    // Mounts.
    "FROM alpine\nRUN --mount=type=bind,from=one:1,target=/t,from=two:1 x",
    "FROM alpine\nRUN --mount=from=one:1,from=,target=/t x",
    "FROM alpine\nRUN --mount=\"type=bind,from=one\",target=/t x",
    "FROM alpine\nRUN --mount=type=cache,target=/c --mount=target=/t,FROM=one x",
    "FROM one AS scratch\nFROM alpine\nRUN --mount=type=cache,target=/c x",
    "FROM alpine\nRUN --mount=from=a$,target=/t x",
    "FROM alpine\nCOPY --from= /a /b\nCOPY --from=\"\" /c /d",
    // Arguments and substitutions.
    "ARG A=1 B=2\nARG C=$A.$B\nFROM x:$C",
    "ARG V=3.20 # don't move it\nFROM alpine:${V}",
    "ARG V=3 \"W\nFROM alpine:$V",
    "ARG V=3-20\nFROM x:${V/-/.}",
    "ARG V=3-20-1\nFROM x:${V//-/.}-${V/-*/}",
    "ARG V=3.20*\nFROM x:${V%\\*}",
    "ARG V=a/b\nFROM x:${V#a\\/}",
    "ARG V=1.2.3\nFROM x:${V%.*}-${V%%.*}-${V#*.}-${V##*.}",
    "ARG V=1\nFROM x:${V:+a}${W:-b}${W+c}${V?d}",
    "ARG V=1\nFROM x:$V$$${W}",
    "ARG V=1\nFROM x:${W:-${U:-${V}}}",
    "ARG V=\"a b\"\nFROM x:${V/ /-}",
    "ARG IMAGE=\"debian:12\"\nFROM '$IMAGE'x\nFROM $IMAGE",
    "FROM x-${TARGETARCH}${TARGETVARIANT-v8}:1$BUILDOSVERSION",
    "FROM x:${TARGETPLATFORM#*/}-${BUILDOS}-$TARGETSTAGE",
    // Names of stages and images.
    "FROM alpine AS a\nFROM index.docker.io/library/alpine:latest AS b\n\
     COPY --from=library/alpine /x /x\nFROM docker.io/library/alpine\nCOPY --from=a /x /x\n\
     COPY --from=b /x /y",
    "FROM local/base/java AS java\nFROM local/vector\nCOPY --from=java /x /",
    "FROM a AS x\nFROM b AS x\nFROM c\nCOPY --from=x a b",
    "FROM --platform=$BUILDPLATFORM a AS x\nFROM x",
    // Here-documents.
    "FROM alpine\nRUN cat <<\\EOF > /x\nFROM x\nEOF\nCOPY --from=b c d",
    "FROM alpine\nRUN cat <<\"END OF FILE\"\nFROM here on it is text\nEND OF FILE\nRUN x",
    "FROM alpine\nCOPY <<-\"a\" <<b /x/\nFROM one\n\t\ta\nFROM two\nb\nCOPY --from=c d e",
    "FROM alpine\nRUN cat << EOF\nFROM debian\nEOF",
    "FROM alpine\nRUN cat <<<word\nCOPY --from=b c d",
    "FROM alpine\nRUN [\"a\", \"<<EOF\"]\nCOPY --from=b c d",
    "FROM alpine\nRUN echo don't <<EOF\nCOPY --from=b c d",
    "FROM alpine\nRUN echo ${A^^} <<EOF\nCOPY --from=b c d",
    "FROM alpine\nRUN cat <<\"a${b:-c}\"\nCOPY --from=b c d",
    // Lines.
    "FROM alpine\nRUN a && \\\n# FROM debian\n\n  b\nCOPY --from=c d e",
    "# escape=`\nFROM alpine\nRUN a `\n  b\nRUN dir c:\\\nCOPY --from=x y z",
    "ARG UNUSED=x \\\n# why\n\n    V=3\nFROM \\\n  alpine:${V} AS b\nCOPY \\\n  --from=\"\
     busy\\\nbox\" \\\n  /a /b\nRUN --mount=type=cache,target=/c \\\n    \
     --mount=from=o\\\nne,target=/t \\\n x",
    "\u{feff}# escape=`\r\nARG V=3\r\nFROM alpine:${V}\r\nRUN dir c:\\\r\nRUN <<EOF\r\nFROM x\r\n\
     EOF\r\nRUN a `\r\n  # COPY --from=x\r\n\r\n  b\r\nCOPY --from=busybox a b\r\n",
    // Triggers of earlier stages.
    "FROM alpine AS common\nONBUILD COPY --from=one:1 /a /b\nFROM common\nRUN x",
    "FROM alpine AS common\nONBUILD RUN --mount=from=one:1,target=/t x\nFROM common AS two\n\
     FROM two",
    "FROM alpine AS common\nONBUILD RUN cat <<E\nFROM x\nE\nONBUILD COPY --from=a b c\nFROM common",
];

pub fn builds() -> BTreeMap<String, Build> {
    let plain = PLAIN.iter().map(|text| Build::of(*text));
    let all = plain.chain(with_digests()).chain(with_arguments()).chain(with_triggers());
    all.enumerate().map(|(number, build)| (format!("corpus {number}"), build)).collect()
}

fn with_digests() -> impl Iterator<Item = Build> {
    [
        format!("FROM alpine:3@{DIGEST}\nRUN x"),
        format!("FROM alpine:latest@{DIGEST}"),
        format!("FROM example.com/ubi@{DIGEST} AS a\nFROM a\nCOPY --from=one:1@{DIGEST} a b"),
        format!("ARG D={DIGEST}\nFROM alpine:3@$D"),
    ]
    .into_iter()
    .map(Build::of)
}

fn with_arguments() -> impl Iterator<Item = Build> {
    let roots = "FROM one AS root-amd64\nFROM two AS root-arm64\nFROM root-$TARGETARCH";
    let debug = "ARG DBG\nARG KIND=prod\nFROM one AS app-linux-prod\n\
                 FROM two AS app-linux-prod-debug\nFROM app-$TARGETOS-${KIND}${DBG:+-debug}";
    let targets = "FROM one AS dev-base\nFROM two AS prod-base\nFROM ${TARGETSTAGE}-base AS prod\n\
                   FROM ${TARGETSTAGE}-base AS dev";
    let named = "ARG ROOT=own\nFROM one AS own\nFROM $ROOT\nARG ROOT=two";
    let prefix = "ARG PREFIX\nARG TAG\nFROM ${PREFIX}team/base:${TAG}";
    [
        (roots, vec![("TARGETARCH", "arm64")], ""),
        (roots, vec![], ""),
        (debug, vec![("DBG", "1")], ""),
        (debug, vec![("DBG", "")], ""),
        (targets, vec![], "prod"),
        (targets, vec![], ""),
        (targets, vec![("TARGETSTAGE", "dev")], "PROD"),
        (named, vec![("ROOT", "three:3")], ""),
        (prefix, vec![("PREFIX", ""), ("TAG", "latest")], ""),
        (prefix, vec![("PREFIX", "example.com/"), ("TAG", "1")], ""),
    ]
    .into_iter()
    .map(|(text, args, target)| Build {
        args: args.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        target: target.into(),
        ..Build::of(text)
    })
}

/// Files whose base has triggers.
fn with_triggers() -> impl Iterator<Item = Build> {
    let stages = "FROM one AS tools\nRUN x\nFROM start";
    [
        (stages, vec!["COPY --from=tools /a /b", "ENTRYPOINT [\"/a\"]"]),
        (stages, vec!["RUN x", "COPY --from=0 /a /b"]),
        (stages, vec!["RUN --mount=from=TOOLS,target=/t cat <<EOF\nFROM x\nEOF"]),
        (stages, vec!["ARG A=b", "WORKDIR /a"]),
        ("FROM start", vec!["COPY --from=one:1 /a /b"]),
        ("FROM start AS a\nFROM a AS b\nFROM b", vec!["COPY --from=one:1 /a /b"]),
        ("FROM alpine\nCOPY --from=start /a /b", vec!["COPY --from=one:1 /a /b"]),
        ("FROM one:1 AS late\nCOPY --from=two:1 a b\nFROM start", vec!["COPY --from=late a b"]),
        ("FROM start", vec!["COPY --from=start a b"]),
    ]
    .into_iter()
    .map(|(text, triggers)| Build {
        triggers: [(
            "docker.io/library/start:latest".to_owned(),
            triggers.into_iter().map(str::to_owned).collect(),
        )]
        .into(),
        ..Build::of(text)
    })
}
