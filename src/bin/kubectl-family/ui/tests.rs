//! What the page gets.

use serde_json::Value;

use crate::{
    input::fixtures::{estate, layered_family},
    ui::snapshot::PageSnapshot,
};

fn state(snapshot: &PageSnapshot) -> Value {
    serde_json::from_slice(&snapshot.json()).expect("JSON")
}

#[test]
fn the_drawing_has_the_order_of_the_document() {
    for images in [3, 600] {
        let snapshot = PageSnapshot::first(estate(&layered_family(images)));
        let state = state(&snapshot);
        let count = |list: &Value| list.as_array().map_or(0, Vec::len);
        let (graph, scene) = (&state["graph"], &state["scene"]);
        assert!(count(&graph["nodes"]) > images, "and upstreams");
        assert_eq!(count(&graph["nodes"]), count(&scene["nodes"]));
        assert_eq!(count(&graph["edges"]), count(&scene["edges"]));
        let nodes = graph["nodes"].as_array().expect("nodes").iter();
        for (node, drawn) in nodes.zip(scene["nodes"].as_array().expect("nodes")) {
            let label = drawn["label"].as_str().expect("a label").trim_end_matches('…');
            assert!(node["name"].as_str().expect("a name").starts_with(label), "{node} {drawn}");
        }
    }
}

#[test]
fn a_cluster_that_does_not_answer_leaves_what_was_known() {
    let first = PageSnapshot::first(estate(&layered_family(3)));
    let outdated = first.outdated("the cluster does not answer".into());
    assert_eq!(state(&outdated)["problem"], "the cluster does not answer");
    assert_eq!(state(&outdated)["graph"], state(&first)["graph"]);
    let next = outdated.next(estate(&layered_family(4)));
    assert_eq!((&state(&next)["version"], &state(&next)["problem"]), (&3.into(), &Value::Null));
    assert!(next.image("tool-003").is_none() && next.image("runtime-003").is_some());
}
