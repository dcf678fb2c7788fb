//! `kubectl family import`.

use std::{fs, io::Read as _, process::Stdio};

use crate::runs::{Files, plugin, run};

/// The flags that say where the sources and the images are.
const FLAGS: &str =
    "--git-url https://git.example.com/images.git --repository registry.example.com/platform";

/// A tree in which one Dockerfile cannot be resolved.
fn tree() -> Files {
    Files::new(&[
        ("images/base/Dockerfile", "FROM debian:trixie-slim\n"),
        ("images/python/3.12/Dockerfile", "FROM registry.example.com/platform/base\n"),
        ("images/python/3.13/Dockerfile", "FROM registry.example.com/platform/base\n"),
        ("images/app/Dockerfile", "ARG BASE\nFROM golang:1.22 AS build\nFROM ${BASE}\n"),
        ("images/app/build.args", "BASE=python-3-12\n"),
        ("images/bad/Dockerfile", "ARG X\nFROM ${X}\n"),
    ])
}

#[test]
fn the_manifests_are_printed_and_what_is_missing_is_named() {
    let files = tree();
    let found = run(&format!("import {}/images {FLAGS}", files.folder()));
    assert_eq!(found.code, Some(1), "{found:?}");
    insta::assert_snapshot!(found.stdout);
    assert!(found.stderr.contains("not imported: bad/Dockerfile"), "{}", found.stderr);
    assert!(found.stderr.contains("line 2: FROM ${X} is empty"), "{}", found.stderr);
    assert!(found.stderr.ends_with("4 images with 4 edges in 1 family; 1 not imported\n"));
}

#[test]
fn other_commands_read_what_was_written() {
    let files = tree();
    fs::remove_dir_all(files.path("images/bad")).expect("removed");
    let folder = files.folder();
    let first = run(&format!("import {folder}/images {FLAGS} --write {folder}/families"));
    assert_eq!(first.code, Some(0), "{first:?}");
    let written = fs::read_to_string(files.path("families/images.yaml")).expect("a manifest");
    let again = run(&format!("import {folder}/images {FLAGS} --write {folder}/families"));
    assert_eq!(again.code, Some(0), "{again:?}");
    let unchanged = fs::read_to_string(files.path("families/images.yaml")).expect("a manifest");
    assert_eq!(unchanged, written);
    let graph = run(&format!("graph -f {folder}/families -o json"));
    assert!(graph.stdout.contains("python-3-13"), "{graph:?}");
}

#[test]
fn wrong_input_has_its_own_exit_code_and_writes_nothing() {
    let files = tree();
    let folder = files.folder();
    for (line, problem) in [
        (format!("import {folder}/none {FLAGS}"), "No such file"),
        (format!("import {folder}/images/base/Dockerfile {FLAGS}"), "is no directory"),
        (format!("import {folder}/images --repository registry.example.com/x"), "--git-url"),
        (format!("import {folder}/images {FLAGS} --prune"), "--write"),
        ("import".to_owned(), "<DIR>"),
    ] {
        let found = run(&line);
        assert_eq!(found.code, Some(2), "{line}: {found:?}");
        assert!(found.stderr.contains(problem), "{line}: {}", found.stderr);
        assert_eq!(found.stdout, "", "{line}");
    }
}

#[test]
fn a_closed_pipe_ends_the_command_quietly() {
    let files = tree();
    let mut child = plugin()
        .arg("import")
        .arg(files.path("images"))
        .args(FLAGS.split(' '))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the plugin runs");
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().expect("errors").read_to_string(&mut stderr).expect("text");
    let code = child.wait().expect("an end").code();
    assert!(code == Some(0) || code == Some(1), "{code:?}");
    assert!(!stderr.contains("Broken pipe") && !stderr.contains("panicked"), "{stderr}");
}
