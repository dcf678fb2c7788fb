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

fn chain(images: usize) -> String {
    let mut text = layered_family(1);
    for image in 1..images {
        let parent = if image == 1 { "base-000".into() } else { format!("link-{}", image - 1) };
        text = format!("{text}  - {{name: link-{image}, from: [{{image: {parent}}}]}}\n");
    }
    text
}

#[test]
fn a_very_long_chain_is_folded_only_if_there_is_a_limit() {
    let tree = rendered(&chain(600), &[], UNLIMITED);
    assert_eq!(tree.lines().count(), 601, "with the upstream");
    assert!(tree.contains("└─ link-599"), "{tree}");
    let tree = rendered(&chain(600), &[], TreeLimits { lines: Some(10), width: Some(80) });
    assert!(tree.lines().count() <= 10 && tree.contains("images below"), "{tree}");
}

#[test]
fn a_deep_indentation_is_cut_to_a_number_of_levels() {
    for width in [20, 80] {
        let limits = TreeLimits { lines: Some(10), width: Some(width) };
        let tree = rendered(&chain(600), &["link-599"], limits);
        assert!(tree.lines().all(|line| line.chars().count() <= width.into()), "{tree}");
        let last = tree.lines().find(|line| line.contains("link-599")).expect("the focus");
        assert!(last.starts_with('[') && last.ends_with("└─ link-599"), "{last}");
    }
    let way = [Branch::Middle, Branch::Last, Branch::Middle, Branch::Last];
    assert_eq!(indentation(&way, 12), "│     │  └─ ");
    assert_eq!(indentation(&way, 11), "[2] │  └─ ");
    assert_eq!(indentation(&way, 0), "[3] └─ ");
}

#[test]
fn a_group_is_never_opened_to_a_group_of_the_same_name() {
    let mut text = layered_family(1);
    for image in 0..40 {
        let part = ["a", "b"][image % 2];
        text = format!("{text}  - {{name: lib0-{part}-{image}, from: [{{image: base-000}}]}}\n");
    }
    for lines in 3..44 {
        let tree = rendered(&text, &[], TreeLimits { lines: Some(lines), width: Some(80) });
        let groups = tree.lines().filter(|line| line.contains("lib0-*"));
        assert!(groups.count() <= 1, "{lines}:\n{tree}");
    }
    let tree = rendered(&text, &[], TreeLimits { lines: Some(6), width: Some(80) });
    assert!(tree.contains("lib0-a-*") && tree.contains("lib0-b-*"), "{tree}");
}
