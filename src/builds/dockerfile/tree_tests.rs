//! Dockerfiles as users keep them in their repositories, and what the check says of each.
//! `BuildKit` agrees with each row: `tests/dockerfile` has the same files.

use std::collections::BTreeMap;

use crate::{
    api::EdgeUse::{self, Base, BuildStage},
    builds::dockerfile::{BuildOptions, DeclaredEdge, Dockerfile, undeclared_args, verify_edges},
    registry::Platform,
};

const WRITTEN: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const PINNED: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";

/// A build of a Dockerfile, and its edges.
#[derive(Clone, Default)]
struct Build {
    text: String,
    args: BTreeMap<String, String>,
    target: Option<&'static str>,
    edges: Vec<DeclaredEdge>,
    triggers: Vec<Vec<String>>,
}

impl Build {
    /// A build whose edges name the parents by these references.
    fn new(text: &str, edges: &[(&str, EdgeUse)]) -> Self {
        let edges = edges.iter().map(|(reference, usage)| DeclaredEdge {
            name: (*reference).to_owned(),
            pinned: format!("registry.example.com/pinned@{PINNED}"),
            reference: Some((*reference).to_owned()),
            arg: None,
            usage: *usage,
        });
        Self { text: text.into(), edges: edges.collect(), ..Self::default() }
    }

    fn args(mut self, args: &[(&str, &str)]) -> Self {
        self.args.extend(args.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        self
    }

    fn target(self, target: &'static str) -> Self {
        Self { target: Some(target), ..self }
    }

    /// The first parent has these triggers.
    fn triggers(self, triggers: &[&str]) -> Self {
        let triggers = triggers.iter().map(|trigger| (*trigger).to_owned()).collect();
        Self { triggers: vec![triggers], ..self }
    }

    /// Returns the names of the contexts that replace digests, or the problem.
    fn verify(&self) -> Result<Vec<String>, String> {
        let options =
            BuildOptions { args: &self.args, platform: &Platform::default(), target: self.target };
        let dockerfile =
            Dockerfile::parse(&self.text, &options).map_err(|error| error.to_string())?;
        let replaced = verify_edges(&dockerfile, &self.edges, Some(&self.triggers))
            .map_err(|error| error.to_string())?;
        Ok(replaced.into_iter().map(|replaced| replaced.context).collect())
    }

    fn is_accepted(&self) {
        assert_eq!(self.verify(), Ok(vec![]), "{}", self.text);
    }

    fn is_rejected(&self, expected: &str) {
        let error = self.verify().expect_err(&self.text);
        assert!(error.contains(expected), "{}\n{error}", self.text);
    }
}

#[test]
fn a_trigger_of_the_parent_makes_a_stage_of_the_child_needed() {
    let text = "FROM golang:1 AS tools\nRUN make\nFROM registry.example.com/start";
    let base = ("registry.example.com/start", Base);
    let triggers = ["COPY --from=tools /out /app", "ENTRYPOINT [\"/app\"]"];
    Build::new(text, &[base]).triggers(&triggers).is_rejected("line 1 names `golang:1`");
    Build::new(text, &[base, ("golang:1", BuildStage)]).triggers(&triggers).is_accepted();
    Build::new(text, &[base]).is_accepted();
    let numbered = ["RUN true", "COPY --from=0 /out /app"];
    Build::new(text, &[base]).triggers(&numbered).is_rejected("line 1 names `golang:1`");
}

#[test]
fn a_trigger_of_an_earlier_stage_names_an_image() {
    for trigger in ["COPY --from=tool:1 /a /b", "RUN --mount=from=tool:1,target=/t x"] {
        let text = format!("FROM alpine AS common\nONBUILD {trigger}\nFROM common\nRUN true");
        Build::new(&text, &[("alpine", Base)]).is_rejected("names `tool:1`");
        Build::new(&text, &[("alpine", Base), ("tool:1", BuildStage)]).is_accepted();
    }
    let itself = "FROM alpine AS common\nONBUILD COPY --from=tool:1 /a /b";
    Build::new(itself, &[("alpine", Base)]).is_accepted();
    let next = "FROM alpine AS a\nONBUILD COPY --from=tool:1 /a /b\nFROM a AS b\nFROM b";
    Build::new(next, &[("alpine", Base), ("tool:1", BuildStage)]).is_accepted();
}

#[test]
fn a_trigger_of_the_parent_names_an_image() {
    let text = "FROM alpine:3\nRUN true";
    let triggers = ["COPY --from=tool:1 /a /b"];
    Build::new(text, &[("alpine:3", Base)])
        .triggers(&triggers)
        .is_rejected("an ONBUILD trigger of `alpine:3` names `tool:1`");
    Build::new(text, &[("alpine:3", Base), ("tool:1", BuildStage)])
        .triggers(&triggers)
        .is_accepted();
    for (trigger, expected) in [
        ("COPY --from=$X /a /b", "the ONBUILD trigger `COPY --from=$X /a /b`: `from=$X`"),
        ("RUN a\nRUN b", "it is not one instruction"),
        ("COPY --from=7 /a /b", "there is no stage number 7"),
    ] {
        Build::new(text, &[("alpine:3", Base)]).triggers(&[trigger]).is_rejected(expected);
    }
}

#[test]
fn before_the_triggers_are_known_only_undeclared_images_are_wrong() {
    let build = Build::new("FROM alpine", &[("alpine", Base), ("tool:1", BuildStage)]);
    build.is_rejected("`tool:1` as `tool:1` is declared, but the Dockerfile does not name it");
    let options = BuildOptions { args: &build.args, platform: &Platform::default(), target: None };
    let early = |text: &str| {
        let dockerfile = Dockerfile::parse(text, &options).expect(text);
        verify_edges(&dockerfile, &build.edges, None).map_err(|error| error.to_string())
    };
    assert_eq!(early("FROM alpine"), Ok(vec![]));
    let error = early("FROM debian").expect_err("undeclared");
    assert!(error.contains("line 1 names `debian`") && error.contains("not name it"), "{error}");
}

#[test]
fn an_image_that_a_trigger_makes_needed_too_late_is_rejected() {
    let text = "FROM golang:1 AS tools\nCOPY --from=tool:1 /a /b\nFROM alpine";
    let edges = [("alpine", Base), ("golang:1", BuildStage), ("tool:1", BuildStage)];
    let build = Build::new(text, &edges);
    build.is_accepted();
    build
        .triggers(&["COPY --from=tools /out /app"])
        .is_rejected("line 2: the stage is needed only by an ONBUILD trigger");
}

#[test]
fn triggers_that_copy_from_their_own_image_end() {
    Build::new("FROM alpine", &[("alpine", Base)])
        .triggers(&["COPY --from=alpine /a /b"])
        .is_rejected("name each other");
}

#[test]
fn the_last_from_of_a_mount_counts() {
    let text = "FROM alpine\nRUN --mount=type=bind,from=one:1,target=/t,FROM=two:1 true";
    Build::new(text, &[("alpine", Base), ("one:1", BuildStage)]).is_rejected("names `two:1`");
    Build::new(text, &[("alpine", Base), ("two:1", BuildStage)]).is_accepted();
    let none = "FROM alpine\nRUN --mount=from=one:1,from=,target=/t true\nCOPY --from= /a /b";
    Build::new(none, &[("alpine", Base)]).is_accepted();
    let named = "FROM one AS scratch\nFROM alpine\nRUN --mount=type=cache,target=/c true";
    Build::new(named, &[("alpine", Base)]).is_rejected("names `one`");
}

#[test]
fn platform_arguments_take_a_given_value_without_arg() {
    let text = "FROM example.com/tool-${TARGETARCH}:1";
    let arm = |text: &str, edges: &[(&str, EdgeUse)]| {
        Build::new(text, edges).args(&[("TARGETARCH", "arm64")])
    };
    arm(text, &[("example.com/tool-arm64:1", Base)]).is_accepted();
    arm(text, &[("example.com/tool-amd64:1", Base)]).is_rejected("tool-arm64");
    let stages = "FROM alpine AS root-amd64\nFROM debian AS root-arm64\nFROM root-$TARGETARCH";
    arm(stages, &[("debian", Base)]).is_accepted();
    arm(stages, &[("alpine", Base), ("debian", BuildStage)]).is_rejected("declare `use: Base`");
}

#[test]
fn platform_arguments_have_the_values_of_buildkit() {
    for (reference, target, expected) in [
        ("x:${TARGETVARIANT--v8}1", None, "x:1"),
        ("x:${BUILDOSVERSION-a}1", None, "x:1"),
        ("x:$BUILDOS-${TARGETPLATFORM#*/}", None, "x:linux-amd64"),
        ("x:$TARGETSTAGE", Some("prod"), "x:prod"),
        ("x:$TARGETSTAGE", None, "x:last"),
    ] {
        let text = format!("FROM {reference} AS prod\nFROM prod AS last");
        let build = Build::new(&text, &[(expected, Base)]);
        target.map_or(build.clone(), |target| build.target(target)).is_accepted();
    }
    Build::new("FROM x:$TARGETSTAGE", &[("x:default", Base)]).is_accepted();
    let text = "FROM one AS dev-base\nFROM two AS prod-base\nFROM ${TARGETSTAGE}-base AS prod";
    Build::new(text, &[("two", Base)]).target("prod").is_accepted();
}

#[test]
fn the_text_of_here_documents_is_not_read() {
    for delimiter in ["\\EOF", "E\\OF", "\"EOF\"", "'EOF' >/x", "EOF >/x"] {
        let text = format!("FROM alpine\nRUN cat <<{delimiter}\nFROM x\nEOF\nCOPY --from=b c d");
        Build::new(&text, &[("alpine", Base), ("b", BuildStage)]).is_accepted();
    }
    let blanks = "FROM alpine\nRUN cat <<\"THE END\"\nFROM x y\nTHE END\nRUN true";
    Build::new(blanks, &[("alpine", Base)]).is_accepted();
    let open = "FROM alpine\nRUN echo don't <<EOF\nCOPY --from=b c d\nEOF";
    Build::new(open, &[("alpine", Base)]).is_rejected("names `b`");
}

#[test]
fn an_open_quote_ends_no_list_of_arguments() {
    for arg in ["ARG V=3 # don't move it", "ARG V=3 \"W", "ARG W='a b' V=3"] {
        Build::new(&format!("{arg}\nFROM alpine:$V"), &[("alpine:3", Base)]).is_accepted();
    }
    Build::new("ARG V='3\nFROM alpine:$V", &[("alpine:3", Base)]).is_rejected("not closed");
}

#[test]
fn every_substitution_of_buildkit_is_known() {
    for (value, substitution, expected) in [
        ("3-20-1", "${V/-/.}", "3.20-1"),
        ("3-20-1", "${V//-/.}", "3.20.1"),
        ("3.20*", "${V%\\*}", "3.20"),
        ("a/b", "${V#a\\/}", "b"),
        ("1.2.3", "${V%.*}-${V%%.*}", "1.2-1"),
        ("1.2.3", "${V#*.}-${V##*.}", "2.3-3"),
        ("1", "${V:+a}${W:-b}${W+c}${V?d}", "ab1"),
        ("1", "$V$W${V}$$", "11"),
        ("1", "${V:-${W:-x}}${W:-${V}y}", "11y"),
    ] {
        let text = format!("ARG V=\"{value}\"\nFROM x:{substitution}");
        Build::new(&text, &[(&format!("x:{expected}"), Base)]).is_accepted();
    }
}

#[test]
fn a_digest_in_the_dockerfile_does_not_count() {
    let tagged = format!("alpine:3@{WRITTEN}");
    let text = format!("FROM {tagged}\nCOPY --from=docker.io/{tagged} a b");
    let replaced = vec![tagged.clone(); 2];
    assert_eq!(Build::new(&text, &[("alpine:3", Base)]).verify(), Ok(replaced));
    let other = format!("alpine:3@{PINNED}");
    let bumped = Build::new(&format!("FROM {tagged}"), &[(&other, Base)]);
    assert_eq!(bumped.verify(), Ok(vec![tagged.clone()]));
    Build::new(&format!("FROM {tagged}"), &[(&tagged, Base)]).is_accepted();
    Build::new(&text, &[("alpine:4", Base)]).is_rejected("line 1 names `alpine:3@sha256:1");
    Build::new(&text, &[("debian:3", Base)]).is_rejected("line 1 names `alpine:3@sha256:1");
    Build::new("FROM alpine:3", &[(&other, Base)]).is_rejected("line 1 names `alpine:3`");
}

#[test]
fn a_digest_without_a_tag_is_matched_by_its_repository() {
    let untagged = format!("example.com/ubi@{WRITTEN}");
    let text = format!("FROM {untagged} AS a\nFROM a");
    let build = Build::new(&text, &[("example.com/ubi:latest", Base)]);
    assert_eq!(build.verify(), Ok(vec![untagged.clone()]));
    let two = [("example.com/ubi:8", Base), ("example.com/ubi:9", Base)];
    Build::new(&text, &two)
        .is_rejected("it may be `example.com/ubi:8` as `example.com/ubi:8` or `example.com/ubi:9`");
    Build::new(&text, &[("example.com/ubi:8", BuildStage), (&untagged, Base)])
        .is_rejected("`example.com/ubi:8` is declared, but");
}

#[test]
fn stages_and_images_of_the_same_name_are_different() {
    let text = "FROM node AS node\nFROM alpine\nCOPY --from=node /v /v";
    Build::new(text, &[("alpine", Base), ("node", BuildStage)]).is_rejected("rename the stage");
    let by_arg = format!(
        "ARG ROOT=own\nFROM ubuntu@{WRITTEN} AS own\nFROM tool@{WRITTEN} AS t\nFROM $ROOT\n\
         COPY --from=t a b"
    );
    let pinned = format!("registry.example.com/pinned@{PINNED}");
    let mut build = Build::new(&by_arg, &[("tool", BuildStage)]).args(&[("ROOT", &pinned)]);
    let root = DeclaredEdge { arg: Some("ROOT".into()), pinned, ..DeclaredEdge::default() };
    build.edges.push(root);
    assert_eq!(build.verify(), Ok(vec![format!("tool@{WRITTEN}")]));
}

#[test]
fn arguments_choose_stages_and_registries() {
    let text = "ARG DBG\nARG KIND=prod\nFROM alpine AS app-linux-prod\n\
                FROM busybox AS app-linux-prod-debug\nFROM app-$TARGETOS-${KIND}${DBG:+-debug}";
    Build::new(text, &[("busybox", Base), ("alpine", BuildStage)])
        .args(&[("DBG", "1")])
        .is_accepted();
    let prefix = "ARG PREFIX\nARG TAG\nFROM ${PREFIX}team/base:${TAG}";
    Build::new(prefix, &[("team/base:latest", Base)])
        .args(&[("PREFIX", ""), ("TAG", "latest")])
        .is_accepted();
}

#[test]
fn lines_are_joined_as_buildkit_joins_them() {
    let windows = "\u{feff}# escape=`\r\nARG V=3\r\nFROM alpine:${V}\r\nRUN dir c:\\\r\n\
                   RUN <<EOF\r\nFROM nothing\r\nEOF\r\nRUN a `\r\n  # COPY --from=x\r\n\r\n  b\r\n\
                   COPY --from=busybox a b\r\n";
    let continued = "ARG UNUSED=x \\\n# why\n\n    V=3\nFROM \\\n  alpine:${V} AS b\nCOPY \\\n  \
                     --chown=1:1 --from=\"busy\\\nbox\" \\\n  /a /b\nRUN --mount=type=cache,\
                     target=/c \\\n    --mount=from=b\\\nusybox,target=/t \\\n    true\n";
    for text in [windows, continued] {
        Build::new(text, &[("alpine:3", Base), ("busybox", BuildStage)]).is_accepted();
    }
}

#[test]
fn one_image_may_have_many_spellings() {
    let text = "FROM alpine AS a\nFROM index.docker.io/library/alpine:latest AS b\n\
                COPY --from=library/alpine /x /x\nFROM docker.io/library/alpine\n\
                COPY --from=a /x /x\nCOPY --from=b /x /y";
    Build::new(text, &[("docker.io/alpine", Base)]).is_accepted();
    let local = "FROM local/base/java AS java\nFROM local/vector\nCOPY --from=java /x /";
    Build::new(local, &[("local/vector", Base), ("local/base/java", BuildStage)]).is_accepted();
    Build::new("FROM scratch\nADD rootfs.tar /", &[]).is_accepted();
}

#[test]
fn arguments_that_no_stage_declares_are_found() {
    let text = "ARG A=1\nFROM x:$A\nARG B C=2\nONBUILD ARG D\nRUN <<E\nARG E\nE";
    let args = BTreeMap::new();
    let options = BuildOptions { args: &args, platform: &Platform::default(), target: None };
    let dockerfile = Dockerfile::parse(text, &options).expect("parses");
    let given = [
        "A",
        "B",
        "C",
        "D",
        "E",
        "a",
        "TARGETARCH",
        "TARGETARC",
        "HTTP_PROXY",
        "no_proxy",
        "SOURCE_DATE_EPOCH",
        "BUILDKIT_INLINE_CACHE",
    ]
    .map(str::to_owned);
    assert_eq!(undeclared_args(&dockerfile, &given), ["E", "a", "TARGETARC"]);
}
