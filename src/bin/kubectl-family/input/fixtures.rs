//! Families for the tests of the commands.

use std::fmt::Write as _;

use crate::input::{Estate, files};

/// Returns the estate of a text, which must be valid.
pub fn estate(text: &str) -> Estate {
    let file = files::InputFile { name: "f.yaml".into(), text: text.into(), named: true };
    let read = files::FilesRead { files: vec![file], problems: Vec::new() };
    let estate = Estate::of_files(&read, "default");
    assert_eq!(estate.problems, []);
    estate
}

/// Returns the estate of a text that is to be applied to another estate.
pub fn edit(text: &str, before: &Estate) -> Estate {
    let file = files::InputFile { name: "edit.yaml".into(), text: text.into(), named: true };
    let read = files::FilesRead { files: vec![file], problems: Vec::new() };
    let edited = before.with_edit(&read, "default");
    assert_eq!(edited.problems, []);
    edited
}

/// Returns the manifest of a family with this number of images on five levels: runtimes on two
/// upstreams, frameworks, and services with build stages.
pub fn layered_family(images: usize) -> String {
    let mut text = "apiVersion: groundswell.dev/v1alpha1
kind: ImageFamily
metadata: {name: layered}
spec:
  repository: registry.example.com/layered
  upstreams:
  - {name: debian, image: docker.io/library/debian, follow: {tag: trixie-slim}}
  - {name: golang, image: docker.io/library/golang, follow: {tag: '1.26'}}
  sourceDefaults: {git: {url: https://git.example.com/images, revision: main}}
  images:
"
    .to_owned();
    let kinds = ["base", "runtime", "framework", "tool", "svc"];
    let name = |index: usize| {
        let kind = match index {
            0 => 0,
            1..6 => 1,
            6..30 => 2,
            30..60 => 3,
            _ => 4,
        };
        format!("{}-{index:03}", kinds[kind])
    };
    for index in 0..images {
        let parent = match index {
            0 => "{upstream: debian}".to_owned(),
            1..6 => format!("{{image: {}}}", name(0)),
            6..30 => format!("{{image: {}}}", name(1 + index % 5)),
            30..60 => format!("{{image: {}}}", name(6 + index % 24)),
            _ => format!("{{image: {}}}", name(6 + index % 54)),
        };
        let stage = if index % 7 == 6 { ", {upstream: golang, use: BuildStage}" } else { "" };
        // Writing to a String never fails.
        _ = writeln!(text, "  - {{name: {}, from: [{parent}{stage}]}}", name(index));
    }
    text
}
