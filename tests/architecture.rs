//! Arrows run one way, and the pure parts stay pure: what CONTRIBUTING.md says of the house,
//! checked.

#![allow(clippy::expect_used, reason = "a test says what is wrong by failing")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Each module with the modules that it may use, beside itself. A module that is not listed fails
/// the test.
const HOUSE: [(&str, &[&str]); 18] = [
    ("api", &[]),
    ("backoff", &[]),
    ("build_info", &[]),
    ("clock", &[]),
    ("telemetry", &[]),
    ("identity", &[]),
    ("lineage", &["api"]),
    ("engine", &["api", "backoff", "identity", "lineage"]),
    ("registry", &["api", "clock"]),
    ("upstream", &["api", "clock", "registry"]),
    ("builds", &["api", "identity", "registry"]),
    ("rollout", &["api"]),
    ("server", &["api", "build_info"]),
    ("lease", &["api"]),
    ("lease_tests", &["api", "lease"]),
    ("cli", &["api", "build_info"]),
    (
        "controller",
        &[
            "api", "backoff", "builds", "clock", "engine", "identity", "lineage", "registry",
            "rollout", "server", "upstream",
        ],
    ),
    (
        "operator",
        &[
            "api",
            "build_info",
            "builds",
            "clock",
            "controller",
            "engine",
            "lease",
            "registry",
            "rollout",
            "server",
            "telemetry",
            "upstream",
        ],
    ),
];

/// Modules that are told the time by a `Clock`, so that a simulation can tell them another.
const TOLD_THE_TIME: [&str; 3] = ["controller", "registry", "upstream"];
/// Modules that see no client, no runtime and no clock.
const PURE: [&str; 5] = ["api", "backoff", "engine", "identity", "lineage"];
/// What they must not name.
const IMPURE: [&str; 8] = [
    "kube::Client",
    "kube::Api",
    "tokio::",
    "reqwest::",
    "Timestamp::now",
    "SystemTime",
    "Instant",
    "std::fs",
];

fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The text without comments, so that a link in the documentation is not an arrow.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a source file");
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

/// The names that follow `crate::`, alone or in braces.
fn uses(code: &str) -> BTreeSet<String> {
    let name = |text: &str| {
        text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>()
    };
    let mut used = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            used.insert(name(rest));
            continue;
        };
        let (mut depth, mut start) = (0, 0);
        for (index, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = index + 1,
                c if depth == 0
                    && c.is_ascii_alphabetic()
                    && list[start..index].trim().is_empty() =>
                {
                    used.insert(name(&list[index..]));
                }
                _ => {}
            }
        }
    }
    used.remove("");
    used
}

#[test]
fn arrows_run_one_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let place = file.strip_prefix(&root).expect("below src");
        let module = place
            .components()
            .next()
            .expect("a name")
            .as_os_str()
            .to_string_lossy()
            .replace(".rs", "");
        if ["lib", "main", "bin"].contains(&module.as_str()) {
            continue;
        }
        let Some((_, allowed)) = HOUSE.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!(
                "{}: the module `{module}` has no place in the house",
                place.display()
            ));
            continue;
        };
        let code = code(&file);
        let used =
            uses(&code).into_iter().filter(|used| HOUSE.iter().any(|(name, _)| name == used));
        wrong.extend(
            used.filter(|used| *used != module && !allowed.contains(&used.as_str()))
                .map(|used| format!("{}: `{module}` must not use `{used}`", place.display())),
        );
        if TOLD_THE_TIME.contains(&module.as_str()) && code.contains("Timestamp::now") {
            wrong.push(format!(
                "{}: asks the machine for the time, and not the `Clock` that it is given",
                place.display()
            ));
        }
        if PURE.contains(&module.as_str()) {
            let impure = IMPURE.iter().filter(|impure| code.contains(*impure));
            wrong.extend(
                impure.map(|impure| format!("{}: pure code names {impure}", place.display())),
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn uses_are_found() {
    let code = "use crate::api::Image;\nuse \
                crate::{\n    builds::{self, x},\n    engine::y,\n};\ncrate::lineage::z()";
    assert_eq!(uses(code).into_iter().collect::<Vec<_>>(), ["api", "builds", "engine", "lineage"]);
}
