//! `kubectl family plan` of families at rest, compared with what the controller then does: both use
//! the same decision, the plugin on nothing but the objects of the API.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    objects::Kind,
    runner::{MovedUpstreams, move_upstreams},
    scene::upstream_repository,
    script::{FOLLOWED, Script},
};

/// The kinds that the plugin reads.
const KINDS: [(Kind, &str); 4] = [
    (Kind::Family, "ImageFamily"),
    (Kind::Image, "ManagedImage"),
    (Kind::Cascade, "Cascade"),
    (Kind::Request, "FamilyRequest"),
];

/// Images with the names of their families.
type Images = BTreeSet<(String, String)>;

/// How plans compare with what was built.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Number of seeds whose plan names exactly the images that were built.
    pub equal: usize,
    /// Number of images in these plans.
    pub images: usize,
    /// Seeds with failures, so that less is built than planned.
    pub with_failures: usize,
    /// Seeds whose plan is wrong, and why.
    pub wrong: Vec<(u64, String)>,
}

/// Compares the plans of these seeds.
pub fn compare(seeds: impl Iterator<Item = u64>) -> Comparison {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("plans");
    fs::create_dir_all(&folder).expect("a folder");
    let mut comparison = Comparison::default();
    for seed in seeds {
        let script = Script::draw(seed);
        let moved = match move_upstreams(&script) {
            Ok(moved) => moved,
            Err(violation) => {
                comparison.wrong.push((seed, format!("{violation:?}")));
                continue;
            }
        };
        match plan(&folder.join(format!("{seed}.json")), &script, &moved) {
            Ok(planned) => comparison.add(seed, &planned, &moved),
            Err(message) => comparison.wrong.push((seed, message)),
        }
    }
    comparison
}

impl Comparison {
    fn add(&mut self, seed: u64, planned: &Images, moved: &MovedUpstreams) {
        let unplanned: Vec<_> = moved.built.difference(planned).collect();
        let unbuilt: Vec<_> = planned.difference(&moved.built).collect();
        if !unplanned.is_empty() {
            self.wrong.push((seed, format!("built and not planned: {unplanned:?}")));
        } else if unbuilt.is_empty() {
            self.equal += 1;
            self.images += planned.len();
        } else if moved.has_succeeded {
            self.wrong.push((seed, format!("planned and not built: {unbuilt:?}")));
        } else {
            self.with_failures += 1;
        }
    }
}

/// Returns the images that the plugin says are built if every upstream moves.
fn plan(file: &Path, script: &Script, moved: &MovedUpstreams) -> Result<Images, String> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": moved.objects});
    fs::write(file, list.to_string()).expect("a file");
    let followed = followed_upstreams(script, &moved.objects);
    if followed.is_empty() {
        return Ok(Images::new());
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-family"));
    command.arg("plan").arg("-f").arg(file).args(["-o", "json", "--at", &moved.at.to_string()]);
    for upstream in followed {
        command.args(["--move", &upstream]);
    }
    let output = command.output().expect("the plugin runs");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let families = plan["families"].as_array().into_iter().flatten();
    let images = families.flat_map(|family| {
        let name = text(&family["name"]);
        let builds = family["builds"].as_array().into_iter().flatten();
        builds.map(move |build| (name.clone(), text(&build["image"])))
    });
    fs::remove_file(file).expect("the file");
    Ok(images.collect())
}

/// Returns the references of the upstreams that families follow.
fn followed_upstreams(script: &Script, objects: &[Value]) -> Vec<String> {
    let families = objects.iter().filter(|object| object["kind"] == "ImageFamily");
    let upstreams =
        families.flat_map(|family| family["spec"]["upstreams"].as_array().into_iter().flatten());
    let images: BTreeSet<String> = upstreams.map(|upstream| text(&upstream["image"])).collect();
    let all = (0..script.upstreams).map(upstream_repository);
    all.filter(|name| images.contains(name)).map(|name| format!("{name}:{FOLLOWED}")).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Returns the objects of the API that exist.
pub fn api_objects(cluster: &Cluster) -> Vec<Value> {
    let of_kind = |(kind, name): (Kind, &'static str)| {
        cluster.objects.all(kind).map(move |(_, object)| {
            let mut object = Value::clone(object);
            object["apiVersion"] = json!("groundswell.dev/v1alpha1");
            object["kind"] = json!(name);
            object
        })
    };
    KINDS.into_iter().flat_map(of_kind).collect()
}

/// Whether every image is current or held.
pub fn all_at_rest(cluster: &Cluster) -> bool {
    let mut images = cluster.objects.all(Kind::Image);
    images.all(|(_, image)| matches!(image["status"]["state"].as_str(), Some("Current" | "Held")))
}
