//! `kubectl family graph`.

use crate::runs::{Files, run};

#[test]
fn the_examples_as_trees() {
    for example in ["alpine-web", "diamond", "flask", "greeting", "groundswell", "versions"] {
        let text = run(&format!("graph -f examples/{example}/family.yaml")).fine();
        insta::assert_snapshot!(format!("tree_{example}"), text);
    }
}

#[test]
fn one_image_with_what_it_is_built_on() {
    let text = run("graph flask --direction ancestors -f examples/flask/family.yaml").fine();
    insta::assert_snapshot!(text);
}

#[test]
fn diagrams_for_other_programs() {
    for format in ["dot", "mermaid", "svg"] {
        let text = run(&format!("graph -f examples/diamond/family.yaml -o {format}")).fine();
        insta::assert_snapshot!(format!("diamond_{format}"), text);
    }
}

#[test]
fn json_matches_its_schema() {
    let document = run("graph -R -f examples -o json").document("graph");
    let nodes = document["nodes"].as_array().expect("nodes");
    assert!(nodes.len() > 20, "{}", nodes.len());
    let flask = nodes.iter().find(|node| node["image"] == "flask").expect("flask");
    assert_eq!((&flask["kind"], &flask["level"]), (&"Image".into(), &4.into()), "{flask}");
}

#[test]
fn families_that_build_on_each_other_are_one_graph() {
    let family = |name: &str, parent: &str| {
        format!(
            "apiVersion: groundswell.dev/v1alpha1\nkind: ImageFamily\nmetadata: {{name: {name}}}\n\
             spec:\n  repository: registry.example.com/{name}\n  \
             upstreams: [{{name: alpine, image: docker.io/library/alpine}}]\n  \
             exports: [{{image: a}}]\n  images:\n  - name: a\n    from: [{parent}]\n    \
             source: {{inline: FROM x}}\n"
        )
    };
    let import = |family: &str| format!("{{family: {{name: {family}}}, image: a, arg: BASE}}");
    let files = Files::new(&[
        ("base.yaml", &family("base", "{upstream: alpine}")),
        ("app.yaml", &family("app", &import("base"))),
        ("stray.yaml", &family("stray", &import("elsewhere"))),
    ]);
    insta::assert_snapshot!(run(&format!("graph -f {}", files.folder())).fine());

    std::fs::write(files.path("base.yaml"), family("base", &import("app"))).expect("a file");
    let failed = run(&format!("graph -f {}", files.folder()));
    assert_eq!(failed.code, Some(2));
    assert!(failed.stderr.contains("in a circle: app/a, base/a"), "{}", failed.stderr);
}

#[test]
fn depth_is_counted_from_the_image_that_is_named() {
    let example = "-f examples/diamond/family.yaml";
    let shown = |line: &str| run(&format!("graph {line} {example}")).fine();
    assert_eq!(
        shown("join --direction ancestors --depth 1"),
        "left\n└─ join  also from right (build stage)\nright\n"
    );
    assert_eq!(shown("join --depth 0"), "join\n");
    let below = shown("base --direction descendants --depth 1");
    assert_eq!(below, "base\n├─ left\n└─ right\n");
}

#[test]
fn a_flag_that_cannot_be_used_is_an_error() {
    for (line, expected) in [
        ("--focus nope -o svg", "--focus folds the tree"),
        ("--lines 5 -o dot", "--lines folds the tree"),
        ("--focus join --depth 1", "join is below level 1; set a larger --depth"),
    ] {
        let failed = run(&format!("graph {line} -f examples/diamond/family.yaml"));
        assert_eq!((failed.code, failed.stdout.as_str()), (Some(2), ""), "{line}: {failed:#?}");
        assert!(failed.stderr.contains(expected), "{line}: {}", failed.stderr);
    }
}
