//! The families of the tests, with what a cluster has recorded of them.

use std::path::Path;

use serde_json::{Value, json};

/// Reads the objects of a file of this repository.
fn read(path: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = std::fs::read_to_string(path).expect("a file");
    serde_yaml::from_str(&text).expect("YAML")
}

/// A family in a cascade: images in most states, one of them with a failed build.
pub fn recorded() -> Vec<Value> {
    read("tests/plugin/recorded.yaml")["items"].as_array().expect("objects").clone()
}

/// The example `flask` while a cascade builds it.
pub fn flask() -> Vec<Value> {
    let mut family: Value = read("examples/flask/family.yaml");
    family["metadata"]["namespace"] = json!("web");
    let states = [
        ("base", "Current"),
        ("tooling", "Current"),
        ("python", "Building"),
        ("flask", "Waiting"),
        ("flask-helloworld", "Waiting"),
    ];
    let mut objects = vec![family, cascade("flask", &states)];
    objects.extend(states.map(|(image, state)| record("flask", image, state)));
    objects
}

/// A family of 600 images on five levels while a cascade builds it.
pub fn layered() -> Vec<Value> {
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
    let base = |index: usize| match index {
        0 => None,
        1..6 => Some(0),
        6..30 => Some(1 + index % 5),
        30..60 => Some(6 + index % 24),
        _ => Some(6 + index % 54),
    };
    let state = |index: usize| match (index, base(index)) {
        (44, _) => "Failed",
        (_, Some(44)) => "Blocked",
        (0..30, _) => "Current",
        (30..60, _) => ["Current", "Current", "Building"][index % 3],
        (_, Some(base)) if base >= 30 && base % 3 == 2 => "Waiting",
        _ => ["Current", "Queued", "Current", "Building", "Current"][index % 5],
    };
    let images = (0..600).map(|index| {
        let base =
            base(index).map_or(json!({"upstream": "debian"}), |base| json!({"image": name(base)}));
        let mut from = vec![base];
        if index % 7 == 6 {
            from.push(json!({"upstream": "golang", "use": "BuildStage"}));
        }
        json!({"name": name(index), "from": from})
    });
    let family = json!({
        "apiVersion": "groundswell.dev/v1alpha1",
        "kind": "ImageFamily",
        "metadata": {"name": "layered", "namespace": "web"},
        "spec": {
            "repository": "registry.example.com/layered",
            "upstreams": [
                {"name": "debian", "image": "docker.io/library/debian",
                    "follow": {"tag": "trixie-slim"}},
                {"name": "golang", "image": "docker.io/library/golang", "follow": {"tag": "1.26"}},
            ],
            "sourceDefaults": {"git": {
                "url": "https://git.example.com/images", "revision": "main",
            }},
            "images": images.collect::<Vec<Value>>(),
        },
    });
    let names: Vec<String> = (0..600).map(name).collect();
    let states: Vec<(&str, &str)> =
        names.iter().enumerate().map(|(index, name)| (name.as_str(), state(index))).collect();
    let mut objects = vec![family, cascade("layered", &states)];
    objects.extend(states.iter().map(|(image, state)| record("layered", image, state)));
    objects
}

/// What is recorded of an image.
fn record(family: &str, image: &str, state: &str) -> Value {
    let digest = |build: u64| format!("sha256:{:012x}{:052x}", 0x9a3f_51c0_7e00_u64 + build, 0);
    json!({
        "apiVersion": "groundswell.dev/v1alpha1",
        "kind": "ManagedImage",
        "metadata": {"name": format!("{family}.{image}"), "namespace": "web"},
        "spec": {"family": family, "image": image},
        "status": {
            "state": state,
            "reason": state,
            "message": match state {
                "Current" => "build 4 is made from the current inputs",
                "Building" => "attempt 1 of build 5 runs",
                _ => "a parent is not current",
            },
            "build": 4,
            "digest": digest(4),
            "size": 48_000_000,
            "causes": [{"type": "Upstream", "name": "debian",
                "from": format!("sha256:{:04x}{:060x}", 0x88d1_u64, 0),
                "to": format!("sha256:{:04x}{:060x}", 0x1f4e_u64, 0)}],
            "history": [
                {"build": 4, "fingerprint": "f4", "digest": digest(4), "duration": "48s",
                    "message": "upstream debian moved"},
                {"build": 3, "fingerprint": "f3", "digest": digest(3), "duration": "52s",
                    "message": "the source changed"},
            ],
        },
    })
}

/// A cascade that runs.
fn cascade(family: &str, states: &[(&str, &str)]) -> Value {
    let count = |wanted: &str| states.iter().filter(|(_, state)| *state == wanted).count();
    let names: Vec<&str> = states.iter().map(|(name, _)| *name).collect();
    json!({
        "apiVersion": "groundswell.dev/v1alpha1",
        "kind": "Cascade",
        "metadata": {"name": format!("{family}-7"), "namespace": "web"},
        "spec": {
            "family": family,
            "causes": [{"type": "Upstream", "name": "debian",
                "from": format!("sha256:{:04x}{:060x}", 0x1f4e_u64, 0),
                "to": format!("sha256:{:04x}{:060x}", 0x9c02_u64, 0)}],
            "levels": [names],
        },
        "status": {"phase": "Running", "counts": {
            "total": states.len(), "current": count("Current"), "building": count("Building"),
            "waiting": count("Waiting"), "queued": count("Queued"),
            "failed": count("Failed"), "blocked": count("Blocked"),
        }},
    })
}
