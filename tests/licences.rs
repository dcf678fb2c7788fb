//! Every dependency comes from the package registry, under a licence that is compatible with ours.

use std::process::Command;

use serde_json::Value;

/// SPDX names of the licences whose code may be distributed as part of an Apache-2.0 program.
const ALLOWED: [&str; 15] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "OpenSSL",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// `dev/fuzz` builds a workspace of its own, whose lock file no other build reads.
#[test]
fn the_lock_file_of_the_fuzzers_has_every_dependency() {
    let root = env!("CARGO_MANIFEST_DIR");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version=1", "--no-deps"])
        .current_dir(root)
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let dependencies = metadata["packages"][0]["dependencies"].as_array().expect("dependencies");
    let used = dependencies.iter().filter(|of| of["kind"].is_null());
    let used: Vec<&str> = used.filter_map(|of| of["name"].as_str()).collect();
    assert!(used.len() > 30, "{used:?}");
    let lock = std::fs::read_to_string(format!("{root}/fuzz/Cargo.lock")).expect("a file");
    let own = lock.split("[[package]]").find(|of| of.contains("name = \"groundswell\"\n"));
    let own = own.expect("the package");
    let is_locked =
        |name: &&&str| own.contains(&format!("\"{name}\"")) || own.contains(&format!("\"{name} "));
    let missing: Vec<_> = used.iter().filter(|name| !is_locked(name)).collect();
    assert!(missing.is_empty(), "run `cargo update --workspace` in fuzz: {missing:?}");
}

#[test]
fn licences_and_sources_are_allowed() {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--locked",
            "--format-version=1",
            "--filter-platform=x86_64-unknown-linux-gnu",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 100, "only {} packages: the list is incomplete", packages.len());
    let mut wrong = Vec::new();
    for package in packages.iter().filter(|package| package["name"] != env!("CARGO_PKG_NAME")) {
        let name = format!(
            "{} {}",
            package["name"].as_str().unwrap_or("?"),
            package["version"].as_str().unwrap_or("?")
        );
        let licence = package["license"].as_str().unwrap_or_default();
        if !allowed(licence) {
            wrong.push(format!("{name}: licence `{licence}`"));
        }
        // Neither a Git repository nor a folder of this machine is allowed.
        if !package["source"].as_str().is_some_and(|source| source.starts_with("registry+")) {
            wrong.push(format!("{name}: source {}", package["source"]));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Whether allowed licences satisfy an SPDX expression: all operands of `AND`, one operand of each
/// `OR`.
fn allowed(expression: &str) -> bool {
    let plain = expression.replace(['(', ')'], " ").replace('/', " OR ");
    let met = |licence: &str| ALLOWED.contains(&licence.trim());
    // Every expression in use is an `AND` of alternatives. Any other form fails here and has to be
    // read by a human.
    plain.split(" AND ").all(|part| part.split(" OR ").any(met))
}

#[test]
fn expressions_are_read() {
    for (expression, expected) in [
        ("MIT", true),
        ("MIT OR Apache-2.0", true),
        ("MIT/Apache-2.0", true),
        ("GPL-3.0 OR MIT", true),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("GPL-3.0", false),
        ("MIT AND GPL-3.0", false),
        ("", false),
    ] {
        assert_eq!(allowed(expression), expected, "{expression}");
    }
}
