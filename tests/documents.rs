//! The documents and the examples are correct: every link and every path in code style has a
//! target, `make` has every target that they name, manifests consist of fields that exist, every
//! condition reason and metric has a row in a table, every value of the chart is in its schema, and
//! the examples' `ConfigMap`s hold the files of their folders.
//!
//! Needs no cluster; the end-to-end tests build and run the examples.

#![allow(clippy::expect_used, clippy::panic, reason = "a test reports what is wrong by failing")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use groundswell::{
    api::{
        CascadePhase, FailureClass, FamilyRequest, Image, ImageFamily, RequestedAction,
        condition::{READY, RECONCILING, Reason, ReasonClass, STALLED},
    },
    engine::{expansion::expand, validate::validate},
    server::{
        Metrics,
        metrics::{BuildResult, CheckResult, PollResult},
    },
};
use serde_json::Value;

#[path = "support/lost_fields.rs"]
mod lost_fields;
#[path = "support/documents.rs"]
mod text;

use lost_fields::lost_fields;
use text::{blocks, documents, files, read, root};

/// Returns the text outside of fenced code.
fn prose(text: &str) -> String {
    let mut outside = true;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            outside = !outside;
        } else if outside {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    prose
}

/// Returns a heading's anchor, as code hosts generate it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    kept.chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
            _ => None,
        })
        .collect()
}

#[test]
fn every_link_has_a_target() {
    let link = regex::Regex::new(r"\]\(([^)\s]+)\)").expect("regex");
    let code = regex::Regex::new("`[^`]*`").expect("regex");
    let mut broken = Vec::new();
    for document in documents() {
        let text = prose(&read(&document));
        let text = code.replace_all(&text, "``");
        for target in link.captures_iter(&text).map(|found| found[1].to_owned()) {
            if target.contains("://") {
                continue;
            }
            let (path, fragment) = target.split_once('#').unwrap_or((&target, ""));
            let file = if path.is_empty() {
                document.clone()
            } else {
                document.with_file_name("").join(path)
            };
            let has_target = file.exists()
                && (fragment.is_empty()
                    || prose(&read(&file))
                        .lines()
                        .any(|line| line.starts_with('#') && anchor(line) == fragment));
            if !has_target {
                broken.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links without a target:\n{}", broken.join("\n"));
}

/// Returns the names in the first cells of a document's tables, each with the heading above it.
fn table_names(text: &str) -> Vec<(&str, &str)> {
    let mut heading = "";
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with('#') {
            heading = line.trim_start_matches('#').trim();
        } else if let Some(row) = line.strip_prefix("| ") {
            let cell = row.split(" |").next().unwrap_or_default();
            found.extend(cell.split('`').skip(1).step_by(2).map(|name| (heading, name)));
        }
    }
    found
}

#[test]
fn every_reason_has_a_row_in_the_section_of_its_class() {
    let guide = read(&root().join("docs/troubleshooting.md"));
    let rows = table_names(&guide);
    for reason in Reason::ALL {
        let sections: Vec<_> = rows
            .iter()
            .filter(|(_, name)| *name == reason.as_str())
            .map(|(section, _)| *section)
            .collect();
        assert!(!sections.is_empty(), "docs/troubleshooting.md has no row for {reason}");
        let passes = reason.class() != ReasonClass::NeedsUser;
        assert!(
            !sections.contains(&"No action needed") || passes,
            "{reason} needs a user and stands under 'No action needed'"
        );
    }
    for condition in [READY, RECONCILING, STALLED] {
        assert!(guide.contains(&format!("`{condition}`")), "{condition} is not explained");
    }
}

#[test]
fn paths_in_code_style_exist() {
    let path = regex::Regex::new(
        "`((?:src|tests|docs|dev|charts|crds|deploy|examples|benches)/[A-Za-z0-9_./-]+)`",
    )
    .expect("regex");
    let mut missing = BTreeSet::new();
    let mut checked = 0;
    for document in documents() {
        let text = prose(&read(&document));
        for found in path.captures_iter(&text).map(|found| found[1].to_owned()) {
            checked += 1;
            // `NAME` stands for any name, for example that of a shipped strategy.
            if !root().join(found.replace("NAME", "buildkit")).exists() {
                missing.insert(format!("{}: {found}", document.display()));
            }
        }
    }
    assert!(checked > 50, "only {checked} paths");
    assert!(missing.is_empty(), "paths that do not exist: {missing:#?}");
}

/// What `OpenMetrics` appends to the name of a counter and of an info metric.
const OPEN_METRICS: [&str; 2] = ["_total", "_info"];

#[test]
fn every_metric_and_its_results_are_explained() {
    let metrics = Metrics::new();
    for class in [
        FailureClass::Build,
        FailureClass::Infrastructure,
        FailureClass::Input,
        FailureClass::Cancelled,
    ] {
        metrics.build_finished(class.into(), None);
        metrics.check_finished(class.into());
    }
    metrics.build_finished(BuildResult::Succeeded, None);
    metrics.check_finished(CheckResult::Passed);
    for result in [
        PollResult::Unchanged,
        PollResult::Moved,
        PollResult::NotFound,
        PollResult::Denied,
        PollResult::Unavailable,
    ] {
        metrics.upstream_polled(result);
    }
    for phase in [CascadePhase::Complete, CascadePhase::Incomplete, CascadePhase::Superseded] {
        metrics.cascade_finished(phase, Duration::ZERO);
    }
    let text = metrics.encode().expect("metrics");
    let guide = read(&root().join("docs/operations.md"));
    let name = regex::Regex::new(r"(?m)^# TYPE (\w+) ").expect("regex");
    let value = regex::Regex::new(r#"(?:result|phase)="(\w+)""#).expect("regex");
    let names = name.captures_iter(&text).map(|found| found[1].to_owned());
    let values = value.captures_iter(&text).map(|found| format!("`{}`", &found[1]));
    let rows: BTreeSet<&str> = table_names(&guide).into_iter().map(|(_, name)| name).collect();
    let missing: BTreeSet<String> = names
        .filter(|name| {
            !rows.iter().any(|row| {
                let row = row.split('{').next().unwrap_or_default();
                row == name || row.strip_prefix(name).is_some_and(|end| OPEN_METRICS.contains(&end))
            })
        })
        .chain(values.filter(|value| !guide.contains(value.as_str())))
        .collect();
    assert!(missing.is_empty(), "docs/operations.md does not explain {missing:?}");
}

/// Variables of strategies whose names begin like a value of the chart.
const STRATEGY_VARIABLES: [&str; 2] = ["image.name", "image.reference"];

/// Whether the schema of the chart's values has this value. Below an object that may have any
/// fields, it has every value.
fn has_value(schema: &Value, path: &str) -> bool {
    let mut at = schema;
    for name in path.split('.') {
        if let Some(reference) = at["$ref"].as_str() {
            at = schema.pointer(reference.trim_start_matches('#')).expect("a definition");
        }
        match at["properties"].get(name) {
            Some(value) => at = value,
            None => return at.get("properties").is_none() || at["additionalProperties"] != false,
        }
    }
    true
}

#[test]
fn every_value_of_the_chart_is_in_its_schema_and_so_is_what_documents_name() {
    let chart = root().join("charts/groundswell");
    let values: Value = serde_yaml::from_str(&read(&chart.join("values.yaml"))).expect("YAML");
    let schema: Value =
        serde_json::from_str(&read(&chart.join("values.schema.json"))).expect("JSON");
    let values = values.as_object().expect("values");
    for name in values.keys() {
        assert!(schema["properties"].get(name).is_some(), "{name} is not in values.schema.json");
    }
    let name =
        regex::Regex::new(r"`([a-z][A-Za-z]*)((?:\.[A-Za-z]+)+)(?:=[^`]*)?`").expect("regex");
    let mut checked = 0;
    for document in documents() {
        let text = read(&document);
        for found in name.captures_iter(&text).filter(|found| values.contains_key(&found[1])) {
            let path = format!("{}{}", &found[1], &found[2]);
            checked += 1;
            assert!(
                has_value(&schema, &path) || STRATEGY_VARIABLES.contains(&path.as_str()),
                "{}: the chart has no value {path}",
                document.display()
            );
        }
    }
    assert!(checked > 20, "only {checked} values");
}

#[test]
fn make_targets_in_documents_exist() {
    let makefile = read(&root().join("Makefile"));
    let targets: BTreeSet<&str> =
        makefile.lines().filter_map(|line| Some(line.split_once(": ## ")?.0)).collect();
    let used = regex::Regex::new(r"(?m)(?:`|^(?:\$ )?)make ([a-z][a-z-]*)").expect("regex");
    let mut checked = 0;
    for document in documents() {
        for found in used.captures_iter(&read(&document)) {
            checked += 1;
            let target = &found[1];
            assert!(targets.contains(target), "{}: make {target}", document.display());
        }
    }
    assert!(checked > 20, "only {checked} targets");
}

#[test]
fn every_image_of_the_manifests_is_listed_for_mirroring() {
    let listed = read(&root().join("docs/air-gap.md"));
    let image = regex::Regex::new(r#"(?m)^ *(?:- )?image: +"?([^\s"{]+)"?$"#).expect("regex");
    let manifests = ["deploy", "charts/groundswell/files/strategies"];
    let text: String =
        manifests.iter().flat_map(|folder| files(&root().join(folder))).map(|p| read(&p)).collect();
    let images: BTreeSet<&str> =
        image.captures_iter(&text).filter_map(|found| found.get(1)).map(|m| m.as_str()).collect();
    assert!(images.len() >= 2, "only {images:?}");
    let missing: Vec<_> =
        images.iter().filter(|image| !listed.contains(&format!("| `{image}` |"))).collect();
    assert!(missing.is_empty(), "docs/air-gap.md does not list {missing:?}");
}

#[test]
fn tests_that_documents_name_exist() {
    let name = regex::Regex::new("`([a-z]+(?:_[a-z]+){2,})`").expect("regex");
    let sources: String = ["src", "tests"]
        .iter()
        .flat_map(|folder| files(&root().join(folder)))
        .filter(|path| path.extension().is_some_and(|ending| ending == "rs"))
        .map(|path| read(&path))
        .collect();
    for document in ["docs/behaviour.md", "docs/security.md"] {
        let text = read(&root().join(document));
        let named: BTreeSet<String> =
            name.captures_iter(&text).map(|found| found[1].to_owned()).collect();
        assert!(!named.is_empty(), "{document} names no test");
        let missing: Vec<_> =
            named.iter().filter(|name| !sources.contains(&format!("fn {name}("))).collect();
        assert!(missing.is_empty(), "{document} names tests that do not exist: {missing:?}");
    }
}

fn family(origin: &str, yaml: &str) -> ImageFamily {
    let written: Value =
        serde_yaml::from_str(yaml).unwrap_or_else(|error| panic!("{origin}: {error}"));
    let family: ImageFamily =
        serde_json::from_value(written.clone()).unwrap_or_else(|error| panic!("{origin}: {error}"));
    let kept = serde_json::to_value(&family).expect("a family serializes");
    // Empty and default values may be left out when they are written.
    let lost: Vec<_> = lost_fields("", &written, &kept)
        .into_iter()
        .filter(|path| path != ".metadata.creationTimestamp" && !path.ends_with(".suspend"))
        .collect();
    assert!(lost.is_empty(), "{origin}: there are no fields {lost:?}");
    family
}

#[test]
fn manifests_in_documents_consist_of_fields_that_exist() {
    let mut found = 0;
    for document in documents() {
        let blocks = blocks(&read(&document), "yaml");
        for block in blocks.iter().filter(|block| block.starts_with("apiVersion: groundswell.dev"))
        {
            if block.contains("kind: ImageFamily") {
                family(&document.display().to_string(), block);
                found += 1;
            }
        }
    }
    assert!(found > 0, "no document shows a family");
}

#[test]
fn requests_in_documents_are_valid() {
    let mut found = 0;
    for document in documents() {
        let blocks = blocks(&read(&document), "yaml");
        for block in blocks.iter().filter(|block| block.contains("kind: FamilyRequest")) {
            let written: Value = serde_yaml::from_str(block).expect("YAML");
            let request: FamilyRequest =
                serde_json::from_value(written.clone()).expect("a request");
            let kept = serde_json::to_value(&request).expect("a request serializes");
            assert_eq!(lost_fields("", &written, &kept), Vec::<String>::new(), "{block}");
            let action = RequestedAction::of(&request.spec);
            assert!(action.is_ok(), "{}: {action:?}", document.display());
            found += 1;
        }
    }
    assert!(found > 0, "no document shows a request");
}

/// A `ConfigMap` that an example's kustomization generates.
struct GeneratedConfigMap {
    name: String,
    /// The file of each key.
    files: BTreeMap<String, PathBuf>,
}

/// The `ConfigMap`s that an example's kustomization generates; none if its Dockerfiles are inline.
fn config_maps(example: &Path) -> Vec<GeneratedConfigMap> {
    let text = read(&example.join("kustomization.yaml"));
    let kustomization: Value = serde_yaml::from_str(&text).expect("a kustomization is YAML");
    let generators = kustomization["configMapGenerator"].as_array().cloned().unwrap_or_default();
    generators
        .iter()
        .map(|generator| {
            let entries = generator["files"].as_array().expect("files").iter().map(|entry| {
                let entry = entry.as_str().expect("a file");
                let (key, file) = entry
                    .split_once('=')
                    .unwrap_or_else(|| (entry.rsplit('/').next().unwrap_or(entry), entry));
                (key.to_owned(), example.join(file))
            });
            let name = generator["name"].as_str().expect("name").to_owned();
            GeneratedConfigMap { name, files: entries.collect() }
        })
        .collect()
}

/// Fails unless a generated `ConfigMap` has the files that an image's source names. A source in Git
/// or inline has none.
fn check_config_map(example: &str, image: &Image, maps: &[GeneratedConfigMap]) {
    let Some(source) = &image.source.config_map else { return };
    let map = maps.iter().find(|map| map.name == source.name).unwrap_or_else(|| {
        panic!("{example}: no ConfigMap {} is generated for {}", source.name, image.name)
    });
    if source.items.is_empty() {
        assert!(map.files.contains_key("Dockerfile"), "{example}: {} has no Dockerfile", map.name);
        return;
    }
    let keys: BTreeSet<&String> = source.items.iter().map(|item| &item.key).collect();
    assert_eq!(keys, map.files.keys().collect(), "{example}: keys of {}", map.name);
    for item in &source.items {
        let (path, file) = (&item.path, &map.files[&item.key]);
        assert!(
            file.ends_with(path),
            "{example}: {} becomes {path}, but its file is {}",
            item.key,
            file.display()
        );
        let mode = fs::metadata(file).expect("file").permissions().mode();
        assert_eq!(
            mode & 0o111 != 0,
            item.executable,
            "{example}: `executable` of {path} differs from the file's mode"
        );
    }
}

#[test]
fn examples_are_complete() {
    for name in ["flask", "alpine-web", "diamond", "greeting", "groundswell", "versions"] {
        let example = root().join("examples").join(name);
        let family = family(name, &read(&example.join("family.yaml")));
        let maps = config_maps(&example);

        let listed: BTreeSet<PathBuf> =
            maps.iter().flat_map(|map| map.files.values().cloned()).collect();
        let present: BTreeSet<PathBuf> = fs::read_dir(&example)
            .expect("the example's folder")
            .map(|entry| entry.expect("entry").path())
            .filter(|path| path.is_dir())
            .flat_map(|folder| files(&folder))
            .collect();
        assert_eq!(
            listed, present,
            "{name}: kustomization.yaml must list the files of the images' folders"
        );

        let spec = expand(family.spec);
        assert_eq!(spec.left_out, [], "{name}");
        validate(&spec).unwrap_or_else(|problem| panic!("{name}: {}", problem.message));
        for image in &spec.images {
            check_config_map(name, image, &maps);
        }
    }
}

/// The example of a matrix gives the images that its comment lists.
#[test]
fn the_matrix_of_the_documentation_expands_as_it_says() {
    let blocks = blocks(&read(&root().join("docs/families.md")), "yaml");
    let block = blocks.iter().find(|block| block.contains("  matrix:")).expect("a matrix");
    let spec = serde_json::json!({
        "repository": "registry.example.com/platform",
        "upstreams": [{"name": "debian", "image": "docker.io/library/debian",
            "follow": {"tag": "trixie-slim"}}],
        "sourceDefaults": {"git": {"url": "https://git.example.com/a", "revision": "main"}},
        "images": serde_yaml::from_str::<Value>(block).expect("YAML"),
    });
    let spec = expand(serde_json::from_value(spec).expect("a spec"));
    assert_eq!(spec.left_out, []);
    let names: Vec<&str> = spec.images.iter().map(|image| image.name.as_str()).collect();
    let (listed, others) = names.split_at(3);
    assert!(block.contains(&format!("# {}", listed.join(", "))), "{names:?}");
    assert_eq!(others, ["django-3-12"]);
    validate(&spec).unwrap_or_else(|problem| panic!("{}", problem.message));
}

/// A reader who has tried `examples/greeting` finds the same images in the README.
#[test]
fn the_first_family_of_the_readme_is_the_example() {
    let readme = blocks(&read(&root().join("README.md")), "yaml").concat();
    let mut readme = family("README.md", &readme).spec;
    let example = family("greeting", &read(&root().join("examples/greeting/family.yaml"))).spec;
    // What the example adapts to the registry of a local cluster, and what makes it fast.
    readme.credentials.clear();
    readme.repository.clone_from(&example.repository);
    readme.upstreams[0].interval = example.upstreams[0].interval;
    readme.policy = example.policy.clone();
    assert_eq!(readme, example);
}

/// The Dockerfile compiles with the toolchain that the repository pins.
#[test]
fn the_dockerfile_has_the_pinned_toolchain() {
    let pinned = read(&root().join("rust-toolchain.toml"));
    let version = regex::Regex::new(r#"channel = "([0-9.]+)""#).expect("regex");
    let version = &version.captures(&pinned).expect("a channel")[1];
    let dockerfile = read(&root().join("Dockerfile"));
    for line in
        [format!("docker.io/library/rust:{version}-"), format!("ENV RUSTUP_TOOLCHAIN={version}\n")]
    {
        assert!(dockerfile.contains(&line), "the Dockerfile does not name {line}");
    }
    let example = root().join("examples/groundswell");
    for (file, line) in [
        ("family.yaml", format!("follow: {{tag: {version}-bookworm}}\n")),
        ("builder/Dockerfile", format!("FROM docker.io/library/rust:{version}-bookworm\n")),
    ] {
        let text = read(&example.join(file));
        assert!(text.contains(&line), "examples/groundswell/{file} does not name {line}");
    }
}
