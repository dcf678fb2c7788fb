//! Tests of the reader of Bake files.

use std::fmt::Write as _;

use super::*;

fn read(text: &str) -> (Vec<BuildDefinition>, Vec<String>) {
    let file = TreeFile { path: "images/docker-bake.hcl".into(), text: text.into() };
    let mut findings = Vec::new();
    let definitions = read_bake(&file, &mut findings, &mut BTreeSet::new());
    (definitions, findings.iter().map(ToString::to_string).collect())
}

#[test]
fn variables_inheritance_and_contexts_are_resolved() {
    let (definitions, findings) = read(
        r#"
variable "REGISTRY" { default = "registry.example.com/team" }
variable "PREFIX" { default = "${REGISTRY}/x" }
group "default" { targets = ["app"] }
target "_common" {
  args = { MIRROR = "m", LEVEL = 1 }
}
target "base" {
  context = "./base"
  inherits = ["_common"]
  tags = ["${REGISTRY}/base:1.2", "${PREFIX}/base:latest"]
}
target "app" {
  inherits = ["_common"]
  context = "../app"
  dockerfile = "docker/Dockerfile"
  target = "final"
  args = { MIRROR = "other", UNSET = null }
  contexts = { base = "target:base", alpine = "docker-image://alpine:3.20", src = "../src" }
}
"#,
    );
    assert_eq!(findings, Vec::<String>::new());
    let [app, base] = definitions.as_slice() else { panic!("{definitions:?}") };
    assert_eq!(app.context, "app");
    assert_eq!(app.dockerfile, DockerfileOrigin::File("docker/Dockerfile".into()));
    assert_eq!(app.target.as_deref(), Some("final"));
    assert_eq!(app.args, [("LEVEL", "1"), ("MIRROR", "other")].map(owned).into());
    assert_eq!(
        app.contexts.values().cloned().collect::<Vec<_>>(),
        [
            BuildContext::Image("alpine:3.20".into()),
            BuildContext::Target("base".into()),
            BuildContext::Files("../src".into())
        ]
    );
    assert_eq!(base.context, "images/base");
    let tags: Vec<_> = base.references.iter().map(Reference::familiar).collect();
    assert_eq!(tags, ["registry.example.com/team/base:1.2", "registry.example.com/team/x/base"]);
}

fn owned((key, value): (&str, &str)) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

#[test]
fn a_target_with_an_underscore_is_built_if_something_names_it() {
    let (definitions, findings) = read(
        r#"
group "default" { targets = ["my_app", "_in_group"] }
target "_common" { args = { LEVEL = 1 } }
target "_base" { context = "base" }
target "_in_group" { context = "group" }
target "my_app" {
  inherits = ["_common"]
  contexts = { base = "target:_base" }
}
"#,
    );
    assert_eq!(findings, Vec::<String>::new());
    let labels: Vec<_> = definitions.iter().filter_map(|one| one.label.as_deref()).collect();
    assert_eq!(labels, ["_base", "_in_group", "my_app"]);
}

#[test]
fn a_matrix_is_expanded() {
    let (definitions, findings) = read(
        r#"
target "python" {
  name = "python-${replace}-${variant}"
  matrix = { replace = ["3-12", "3-13"], variant = ["slim", "full"] }
  context = "python"
  args = { VERSION = replace }
}
"#,
    );
    assert_eq!(findings, Vec::<String>::new());
    let labels: Vec<_> = definitions.iter().filter_map(|one| one.label.as_deref()).collect();
    assert_eq!(
        labels,
        ["python-3-12-full", "python-3-12-slim", "python-3-13-full", "python-3-13-slim"]
    );
}

#[test]
fn what_is_not_static_is_a_finding_and_is_not_guessed() {
    for (text, problem) in [
        ("target \"a\" { tags = [upper(\"x\")] }", "`tags` is not static"),
        ("target \"a\" { args = { X = UNKNOWN } }", "`args` is not static"),
        ("target \"a\" { context = \"https://git.example.com/x.git\" }", "no folder of the tree"),
        ("target \"a\" { context = \"../../x\" }", "outside of the tree"),
        ("target \"a\" { inherits = [\"b\"] }", "no target `b`"),
        ("target \"a\" { inherits = [\"a\"] }", "name each other"),
        ("target \"a\" { tags = [\"UPPER\"] }", "is not an image reference"),
        ("target \"a\" { matrix = { x = UNKNOWN } }", "`matrix` is not static"),
        ("target {", "it is no HCL"),
    ] {
        let (definitions, findings) = read(text);
        assert_eq!(definitions, [], "{text}");
        assert!(findings.len() == 1 && findings[0].contains(problem), "{text}: {findings:?}");
    }
}

#[test]
fn blocks_of_one_target_are_merged_entry_by_entry() {
    let (definitions, findings) = read(
        "\u{feff}target \"a\" {\n args = { BASE = \"b\" }\n}\n\
         target \"a\" {\n args = { V = \"1\" }\n tags = [\"\"]\n}\n",
    );
    assert_eq!(findings, Vec::<String>::new());
    assert_eq!(definitions[0].args, [("BASE", "b"), ("V", "1")].map(owned).into());
    assert_eq!(definitions[0].references, []);
}

#[test]
fn a_small_file_makes_no_huge_values() {
    let mut text = String::from("variable \"a0\" { default = \"xxxxxxxxxxxxxxxx\" }\n");
    for at in 1..40 {
        let half = format!("${{a{}}}", at - 1);
        _ = writeln!(text, "variable \"a{at}\" {{ default = \"{half}{half}\" }}");
    }
    let (definitions, findings) = read(&(text + "target \"x\" { args = { V = a39 } }"));
    assert_eq!(definitions, []);
    assert!(findings[0].contains("`args` is not static"), "{findings:?}");
    let list = "1,".repeat(2000);
    let text = format!(
        "variable \"l\" {{ default = [{list}] }}\ntarget \"x\" {{ args = {{ V = [for a in l : [for \
         b in l : [for c in l : c]]] }} }}"
    );
    let (_, findings) = read(&text);
    assert!(findings[0].contains("it has a `for`"), "{findings:?}");
    // Each target inherits twice from the one before.
    let mut text = String::from("target \"t0\" { args = { V = \"1\" } }\n");
    for at in 1..60 {
        let parent = format!("\"t{}\"", at - 1);
        _ = writeln!(text, "target \"t{at}\" {{ inherits = [{parent}, {parent}] }}");
    }
    let (definitions, findings) = read(&text);
    assert_eq!((definitions.len(), findings.len()), (60, 0), "{findings:?}");
}

#[test]
fn deep_nesting_is_rejected_before_it_is_parsed() {
    for text in [
        format!("a = {}", "(".repeat(100_000)),
        format!("a = {}x", "!".repeat(100_000)),
        format!("a = {}x", "x ? y : ".repeat(100_000)),
    ] {
        let (_, findings) = read(&text);
        assert!(findings[0].contains("nested more than 64 deep"), "{findings:?}");
    }
}
