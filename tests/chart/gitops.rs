//! The manifests for Flux and Argo CD: they match the definitions of these projects, set values
//! that the chart has and fields that the example has, and are what the documentation shows.

use std::{fs, path::Path};

use groundswell::api::labels::ROLLOUT_FIELD_OWNER;
use serde_json::{Value, json};

use crate::{
    helm::{documents, render, root},
    schemas::validate,
};

/// The manifests in `examples/gitops`.
const FILES: [&str; 4] =
    ["flux/groundswell.yaml", "flux/family.yaml", "argocd/groundswell.yaml", "argocd/family.yaml"];

fn text(file: &str) -> String {
    let path = root().join("examples/gitops").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the document of a kind in one of the manifests.
fn document(file: &str, kind: &str) -> Value {
    let found = documents(&text(file)).into_iter().find(|document| document["kind"] == kind);
    found.unwrap_or_else(|| panic!("{file} has no {kind}"))
}

/// Returns the documents of `examples/greeting` with JSON patches that add and replace.
fn patched(patches: &Value) -> Vec<Value> {
    let folder = root().join("examples/greeting");
    let read = |name: &str| fs::read_to_string(folder.join(name)).expect(name);
    let mut found: Vec<Value> = ["namespace.yaml", "family.yaml", "workload.yaml"]
        .iter()
        .flat_map(|name| documents(&read(name)))
        .collect();
    for patch in patches.as_array().expect("patches") {
        let target = &patch["target"];
        let object = found
            .iter_mut()
            .find(|object| {
                object["kind"] == target["kind"] && object["metadata"]["name"] == target["name"]
            })
            .unwrap_or_else(|| panic!("there is no {target}"));
        let operations = documents(patch["patch"].as_str().expect("a patch")).remove(0);
        for operation in operations.as_array().expect("operations") {
            apply(object, operation);
        }
    }
    found
}

fn apply(object: &mut Value, operation: &Value) {
    let path = operation["path"].as_str().expect("a path");
    let exists = object.pointer(path).is_some();
    assert_eq!(exists, operation["op"] == "replace", "{operation}");
    let (parent, field) = path.rsplit_once('/').expect("a field");
    let parent = object.pointer_mut(parent).unwrap_or_else(|| panic!("{path} has no parent"));
    parent[field] = operation["value"].clone();
}

fn as_yaml(objects: &[Value]) -> String {
    let objects: Vec<String> = objects.iter().map(ToString::to_string).collect();
    format!("---\n{}\n", objects.join("\n---\n"))
}

#[test]
fn the_manifests_match_the_definitions_of_flux_and_argo_cd() {
    for file in FILES {
        validate(&text(file)).unwrap_or_else(|problems| panic!("{file}: {problems}"));
    }
    for (file, field, wrong) in [
        (FILES[0], "targetNamespace", "targetNamespaces"),
        (FILES[1], "retryInterval", "retry"),
        (FILES[2], "valuesObject", "valueObject"),
        (FILES[3], "managedFieldsManagers", "managedFieldManagers"),
    ] {
        let problems = validate(&text(file).replace(field, wrong)).expect_err(wrong);
        assert!(problems.contains(wrong), "{problems}");
    }
}

#[test]
fn the_values_are_those_of_the_chart() {
    let flux = document("flux/groundswell.yaml", "HelmRelease");
    let argo = document("argocd/groundswell.yaml", "Application");
    let values = [&flux["spec"]["values"], &argo["spec"]["source"]["helm"]["valuesObject"]];
    for values in values {
        let rendered = render(&values.to_string(), &[]).expect("the chart's schema refuses others");
        let image = values["image"]["repository"].as_str().expect("a repository");
        assert!(rendered.contains(&format!("image: \"{image}:v")), "{rendered}");
    }
    let chart = fs::read_to_string(root().join("charts/groundswell/Chart.yaml")).expect("a chart");
    let version = documents(&chart).remove(0)["version"].as_str().expect("a version").to_owned();
    let source = document("flux/groundswell.yaml", "GitRepository");
    let named = [
        &source["spec"]["ref"]["tag"],
        &argo["spec"]["source"]["targetRevision"],
        &values[0]["image"]["tag"],
        &values[1]["image"]["tag"],
    ];
    assert_eq!(named, [&json!(format!("v{version}")); 4]);
    let folders = [&flux["spec"]["chart"]["spec"]["chart"], &argo["spec"]["source"]["path"]];
    assert_eq!(folders, [&json!("charts/groundswell"); 2]);
}

#[test]
fn the_patches_fit_the_example() {
    let flux = document("flux/family.yaml", "Kustomization");
    let argo = document("argocd/family.yaml", "Application");
    let source = &argo["spec"]["source"];
    for (path, patches) in [
        (&flux["spec"]["path"], &flux["spec"]["patches"]),
        (&source["path"], &source["kustomize"]["patches"]),
    ] {
        let path = Path::new(path.as_str().expect("a path"));
        assert_eq!(root().join(path).canonicalize().ok(), Some(root().join("examples/greeting")));
        let objects = patched(patches);
        validate(&as_yaml(&objects)).unwrap_or_else(|problems| panic!("{problems}"));
        let family = objects.iter().find(|object| object["kind"] == "ImageFamily");
        let spec = &family.expect("a family")["spec"];
        assert_eq!(spec["repository"], "registry.example.com/greeting");
    }
    // Flux applies the manifest again, which would replace the digest.
    let mode = &patched(&flux["spec"]["patches"])[1]["spec"]["images"][1]["rollout"][0]["mode"];
    assert_eq!(mode, "Restart");
    let ignored = &argo["spec"]["ignoreDifferences"][0]["managedFieldsManagers"];
    assert_eq!(ignored, &json!([ROLLOUT_FIELD_OWNER]));
    let renamed = &flux["spec"]["images"][0];
    let image = |name: &str| renamed[name].as_str().expect("a name").to_owned();
    let short = format!("{}={}", image("name"), image("newName"));
    assert_eq!(source["kustomize"]["images"], json!([short]));
    let workload = fs::read_to_string(root().join("examples/greeting/workload.yaml"));
    assert!(workload.expect("a workload").contains(&format!("{}:latest", image("name"))));
}

#[test]
fn the_documentation_shows_the_manifests() {
    let page = fs::read_to_string(root().join("docs/gitops.md")).expect("the page");
    for file in FILES {
        let shown = page.contains(&format!("```yaml\n{}```\n", text(file)));
        assert!(shown, "docs/gitops.md does not show examples/gitops/{file}");
    }
}
