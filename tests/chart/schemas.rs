//! Schemas for kubeconform, made without a download: from Kubernetes' own description of its API,
//! which is part of the module that the development cluster's API server is compiled from, from our
//! definitions, and from those of Flux and Argo CD, which are parts of these projects' modules.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::LazyLock,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::helm::{documents, root, tool};

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    write_kubernetes(folder.path());
    for entry in fs::read_dir(root().join("crds")).expect("crds/") {
        write_definition(folder.path(), &entry.expect("an entry").path());
    }
    for module in &GITOPS_MODULES {
        let module_folder = download(module);
        for file in module.files {
            write_definition(folder.path(), &module_folder.join(file));
        }
    }
    folder
});

/// A Go module that has definitions of kinds.
struct DefinitionModule {
    /// The module and its version.
    name: &'static str,
    /// The hash of its content, as in `go.sum`.
    sum: &'static str,
    /// The files with the definitions.
    files: &'static [&'static str],
}

/// The definitions of Flux 2.7 and Argo CD 3.2.
const GITOPS_MODULES: [DefinitionModule; 4] = [
    DefinitionModule {
        name: "github.com/fluxcd/source-controller@v1.7.0",
        sum: "h1:/fBgS4CSmT5Jj/fjQDF92y+pC3gst1GJjgNSzY8Ff9I=",
        files: &["config/crd/bases/source.toolkit.fluxcd.io_gitrepositories.yaml"],
    },
    DefinitionModule {
        name: "github.com/fluxcd/helm-controller@v1.4.0",
        sum: "h1:rkm8rmB6Na7eNc4pJOnvtXEaJ19iKluRtayHKjBxcUM=",
        files: &["config/crd/bases/helm.toolkit.fluxcd.io_helmreleases.yaml"],
    },
    DefinitionModule {
        name: "github.com/fluxcd/kustomize-controller@v1.7.3",
        sum: "h1:SzNnGn/4ObAPEHHleM5U7y/AKxKXph3Vj6ZhteeXw8M=",
        files: &["config/crd/bases/kustomize.toolkit.fluxcd.io_kustomizations.yaml"],
    },
    DefinitionModule {
        name: "github.com/argoproj/argo-cd/v3@v3.2.0",
        sum: "h1:m2eGAV+nXQGgzZbH5SyJD5laaPW27mzWXBrgisUHY/0=",
        files: &["manifests/crds/application-crd.yaml"],
    },
];

/// Checks every document against its schema, unknown fields included.
///
/// # Errors
/// Returns the output of kubeconform with the problems.
pub fn validate(text: &str) -> Result<(), String> {
    let location =
        format!("{}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json", FOLDER.path().display());
    let mut child = tool("kubeconform")
        // Kinds of the Prometheus operator: there is no schema for them here.
        .args(["-strict", "-summary", "-skip", "ServiceMonitor,PodMonitor,PrometheusRule"])
        .args(["-schema-location", &location])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubeconform");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("write");
    let output = child.wait_with_output().expect("kubeconform");
    let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(()) } else { Err(printed) }
}

fn write_kubernetes(folder: &Path) {
    let module = tool("go")
        .args(["mod", "download", "-json", "k8s.io/kubernetes"])
        .current_dir(root().join("dev/tools/k8s"))
        .env("GOWORK", "off")
        .output()
        .expect("go");
    assert!(module.status.success(), "{}", String::from_utf8_lossy(&module.stderr));
    let module: Value = serde_json::from_slice(&module.stdout).expect("JSON");
    let swagger =
        Path::new(module["Dir"].as_str().expect("a folder")).join("api/openapi-spec/swagger.json");
    let text = fs::read_to_string(&swagger)
        .unwrap_or_else(|error| panic!("{}: {error}", swagger.display()));
    let mut swagger: Value = serde_json::from_str(&text).expect("JSON");
    let definitions = swagger["definitions"].as_object_mut().expect("definitions");
    for (name, definition) in definitions.iter_mut() {
        if name.ends_with("IntOrString") {
            *definition = json!({"type": ["string", "integer"]});
        } else if name.ends_with("resource.Quantity") {
            *definition = json!({"type": ["string", "number"]});
        } else if let Some(object) =
            definition.as_object_mut().filter(|object| object.contains_key("properties"))
        {
            object.insert("additionalProperties".into(), false.into());
        }
    }
    for (name, definition) in definitions.iter() {
        for kind in definition["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
            let part = |name: &str| kind[name].as_str().unwrap_or_default();
            write_schema(
                folder,
                part("group"),
                part("version"),
                part("kind"),
                &json!({
                    "$ref": format!("_definitions.json#/definitions/{name}")
                }),
            );
        }
    }
    fs::write(folder.join("_definitions.json"), json!({"definitions": definitions}).to_string())
        .expect("write");
}

/// Downloads a module unless Go has it already, and returns its folder.
fn download(module: &DefinitionModule) -> PathBuf {
    let elsewhere = tempfile::tempdir().expect("a folder without a module of its own");
    let output = tool("go")
        .args(["mod", "download", "-json", module.name])
        .current_dir(elsewhere.path())
        .env("GOWORK", "off")
        .output()
        .expect("go");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(found["Sum"], module.sum, "{}", module.name);
    found["Dir"].as_str().expect("a folder").into()
}

/// Writes the schemas of a definition's versions.
fn write_definition(folder: &Path, definition: &Path) {
    let text = fs::read_to_string(definition)
        .unwrap_or_else(|error| panic!("{}: {error}", definition.display()));
    let definition = documents(&text).remove(0);
    let spec = &definition["spec"];
    for version in spec["versions"].as_array().expect("versions") {
        let mut schema = version["schema"]["openAPIV3Schema"].clone();
        close(&mut schema);
        // The API server checks these two.
        for name in ["apiVersion", "kind"] {
            schema["properties"][name] = json!({"type": "string"});
        }
        schema["properties"]["metadata"] = json!({"type": "object"});
        let part = |value: &Value| value.as_str().expect("text").to_owned();
        write_schema(
            folder,
            &part(&spec["group"]),
            &part(&version["name"]),
            &part(&spec["names"]["kind"]),
            &schema,
        );
    }
}

/// Makes unknown fields an error, as `kubectl --validate=strict` does, except where the schema
/// preserves them.
fn close(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    if object.contains_key("properties")
        && !object.contains_key("x-kubernetes-preserve-unknown-fields")
    {
        object.insert("additionalProperties".into(), false.into());
    }
    for property in object
        .get_mut("properties")
        .and_then(Value::as_object_mut)
        .into_iter()
        .flat_map(|all| all.values_mut())
    {
        close(property);
    }
    if let Some(items) = object.get_mut("items") {
        close(items);
    }
}

/// Writes a schema to the file in which kubeconform searches it: named after the kind, the first
/// part of the group and the version.
fn write_schema(folder: &Path, group: &str, version: &str, kind: &str, schema: &Value) {
    let group =
        group.split('.').next().filter(|group| !group.is_empty()).map(|group| format!("-{group}"));
    let name = format!("{kind}{}-{version}.json", group.unwrap_or_default()).to_lowercase();
    fs::write(folder.join(name), schema.to_string()).expect("write");
}
