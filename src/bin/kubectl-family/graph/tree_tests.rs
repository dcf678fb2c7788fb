use super::*;
use crate::input::fixtures::{estate, layered_family};

fn rendered(text: &str, focus: &[&str], limits: TreeLimits) -> String {
    let estate = estate(text);
    let graph = EstateGraph::of(&estate).expect("a graph");
    let focus: Vec<NodeId> = focus
        .iter()
        .map(|name| graph.image(&estate.families[0].name, name).expect("an image"))
        .collect();
    anstream::adapter::strip_str(&render(&graph, &focus, limits)).to_string()
}

const UNLIMITED: TreeLimits = TreeLimits { lines: None, width: None };

#[test]
fn every_image_has_one_line_under_its_base() {
    let text = "apiVersion: groundswell.dev/v1alpha1
kind: ImageFamily
metadata: {name: f}
spec:
  repository: registry.example.com/f
  upstreams:
  - {name: alpine, image: docker.io/library/alpine}
  - {name: go, image: docker.io/library/golang, follow: {tag: '1.26'}}
  sourceDefaults: {git: {url: https://git.example.com/images, revision: main}}
  images:
  - {name: base, from: [{upstream: alpine}]}
  - {name: left, from: [{image: base}]}
  - {name: right, from: [{image: base}, {upstream: go, use: BuildStage}]}
  - name: join
    from: [{image: left}, {image: right, use: BuildStage}]
    rollout: [{deployment: {name: web}}]
";
    insta::assert_snapshot!(rendered(text, &[], UNLIMITED));
}

#[test]
fn six_hundred_images_fit_into_a_terminal() {
    let limits = TreeLimits { lines: Some(23), width: Some(80) };
    let text = rendered(&layered_family(600), &[], limits);
    assert!(text.lines().count() <= 23, "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn what_is_in_focus_is_shown_however_little_space_there_is() {
    let limits = TreeLimits { lines: Some(10), width: Some(80) };
    let text = rendered(&layered_family(600), &["svc-599"], limits);
    assert!(text.contains("svc-599"), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn no_size_panics_or_exceeds_its_lines() {
    let family = layered_family(60);
    for lines in [1, 2, 3, 5, 10, 40] {
        for width in [0, 1, 5, 20, 200] {
            let text =
                rendered(&family, &[], TreeLimits { lines: Some(lines), width: Some(width) });
            assert!((1..=lines).contains(&text.lines().count()), "{lines}x{width}:\n{text}");
        }
    }
    assert_eq!(rendered(&family, &[], UNLIMITED).lines().count(), 62, "with two upstreams");
}

#[test]
fn a_very_long_chain_is_cut_and_counted() {
    let mut text = layered_family(1);
    for image in 1..600 {
        let parent = if image == 1 { "base-000".into() } else { format!("link-{}", image - 1) };
        text = format!("{text}  - {{name: link-{image}, from: [{{image: {parent}}}]}}\n");
    }
    let tree = rendered(&text, &[], UNLIMITED);
    assert_eq!(tree.lines().count(), MAX_LEVELS);
    let last = tree.lines().last().expect("a line").trim();
    assert_eq!(last, "└─ link-254  … 345 images below");
}
