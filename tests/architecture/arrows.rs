//! Arrows between modules run one way, and the pure parts stay pure.

use std::collections::BTreeSet;

use crate::sources::{Reexports, paths_in, sources};

/// Each module with the modules that it may use in addition to itself. A module that is not listed
/// fails the test.
const MODULES: [(&str, &[&str]); 27] = [
    ("api", &[]),
    ("backoff", &[]),
    ("build_info", &[]),
    ("clock", &[]),
    ("fence", &[]),
    ("connections", &[]),
    ("telemetry", &[]),
    ("terminal", &[]),
    ("identity", &["api"]),
    ("build_records", &["api", "identity"]),
    ("object_watch", &["api", "telemetry"]),
    ("lineage", &["api"]),
    ("engine", &["api", "backoff", "identity", "lineage"]),
    ("registry", &["api", "clock"]),
    ("upstream", &["api", "clock", "registry"]),
    ("builds", &["api", "identity", "registry"]),
    ("found_edges", &["api", "builds", "engine", "lineage", "registry"]),
    ("contents", &["registry"]),
    ("package_indexes", &["contents", "registry"]),
    ("rollout", &["api", "object_watch"]),
    ("server", &["api", "build_info"]),
    ("hints", &["registry"]),
    ("lease", &["api", "fence"]),
    ("lease_tests", &["api", "fence", "lease"]),
    // It tries what the controller does for a build, without the controller.
    ("preflight", &["api", "build_info", "builds", "engine", "registry", "terminal", "upstream"]),
    (
        "controller",
        &[
            "api",
            "backoff",
            "build_records",
            "builds",
            "clock",
            "engine",
            "found_edges",
            "identity",
            "lineage",
            "object_watch",
            "registry",
            "rollout",
            "server",
            "upstream",
        ],
    ),
    (
        "operator",
        &[
            "api",
            "build_info",
            "build_records",
            "builds",
            "clock",
            "connections",
            "controller",
            "engine",
            "fence",
            "hints",
            "lease",
            "object_watch",
            "registry",
            "rollout",
            "server",
            "telemetry",
            "upstream",
        ],
    ),
];

/// The files that belong to no module: they put the modules together.
const ROOTS: [&str; 3] = ["lib", "main", "fuzz"];

/// What the plugin uses of the library: what the controller decides with, and nothing that acts.
const PLUGIN: [&str; 13] = [
    "api",
    "build_info",
    "builds",
    "connections",
    "contents",
    "found_edges",
    "engine",
    "identity",
    "lineage",
    "package_indexes",
    "preflight",
    "registry",
    "terminal",
];

/// The rules inside of one module.
struct Inner {
    /// The module, as a path in the crate.
    module: &'static str,
    /// Each part with the other parts that it may use. A part is a file or a folder of the module;
    /// what is not listed here is listed in `rest`.
    parts: &'static [(&'static str, &'static [&'static str])],
    /// The parts that all other files of the module may use.
    rest: &'static [&'static str],
    /// Files that put the parts together, and tests: they may use everything.
    free: &'static [&'static str],
    /// Single arrows that break the rules: the file, what it uses, and why.
    exceptions: &'static [(&'static str, &'static str, &'static str)],
}

const INNER: [Inner; 2] = [
    Inner {
        module: "engine",
        parts: &[("image", &[]), ("cascade", &["image"])],
        rest: &[],
        free: &["decide", "tests"],
        exceptions: &[
            ("blueprint", "cascade::windows::Windows", "the windows of a spec are parsed once"),
            ("validate", "cascade::windows::Windows", "a spec's windows are checked by parsing"),
            (
                "requests::outcome",
                "image::failure",
                "a request to cancel is done if builds are cancelled",
            ),
        ],
    },
    Inner {
        module: "controller::family",
        parts: &[
            ("observe", &[]),
            ("registry", &["observe"]),
            ("record", &["observe"]),
            ("act", &["observe", "record"]),
        ],
        rest: &["observe", "registry", "record", "act"],
        free: &[],
        exceptions: &[],
    },
];

/// Modules that get the time from a `Clock`, so that a simulation can set it.
const WITH_A_CLOCK: [&str; 3] = ["controller", "registry", "upstream"];
/// Modules that use no client, no runtime and no clock.
const PURE: [&str; 5] = ["api", "backoff", "engine", "identity", "lineage"];
/// What pure modules must not name: a part of a path, from the start of a name.
const IMPURE: [&str; 12] = [
    "kube::Client",
    "kube::client",
    "kube::Api",
    "kube::api::Api",
    "kube::runtime",
    "tokio::",
    "reqwest::",
    "Timestamp::now",
    "Zoned::now",
    "SystemTime",
    "Instant",
    "std::fs",
];

/// Whether the names of `path` contain those of `part`, which may end inside of a name.
fn names(path: &str, part: &str) -> bool {
    path.starts_with(part) || path.contains(&format!("::{part}"))
}

/// The top-level modules that these paths lead to.
fn modules_used(paths: &BTreeSet<String>) -> BTreeSet<&str> {
    let used = paths.iter().filter_map(|path| path.strip_prefix("crate::")?.split("::").next());
    used.filter(|used| MODULES.iter().any(|(name, _)| name == used)).collect()
}

/// What is wrong with a file of the plugin that names these paths.
fn plugin_violations(paths: &BTreeSet<String>) -> Vec<String> {
    let used = paths.iter().filter_map(|path| path.strip_prefix("groundswell::")).map(first_name);
    used.filter(|used| MODULES.iter().any(|(name, _)| name == used) && !PLUGIN.contains(used))
        .map(|used| format!("the plugin must not use `{used}`"))
        .collect()
}

/// What is wrong with a module that names these paths.
fn violations(module: &[String], paths: &BTreeSet<String>) -> Vec<String> {
    if module.first().is_some_and(|name| name == "bin") {
        return plugin_violations(paths);
    }
    let Some(name) = module.first().filter(|name| !ROOTS.contains(&name.as_str())) else {
        return Vec::new();
    };
    let Some((_, allowed)) = MODULES.iter().find(|(listed, _)| listed == name) else {
        return vec![format!("the module `{name}` is not listed in MODULES")];
    };
    let mut wrong: Vec<String> = modules_used(paths)
        .into_iter()
        .filter(|used| used != name && !allowed.contains(used))
        .map(|used| format!("`{name}` must not use `{used}`"))
        .collect();
    for path in paths {
        if WITH_A_CLOCK.contains(&name.as_str()) && names(path, "Timestamp::now") {
            wrong.push(format!("uses {path} in place of the `Clock` that it is given"));
        }
        if PURE.contains(&name.as_str()) && IMPURE.iter().any(|impure| names(path, impure)) {
            wrong.push(format!("pure code must not use {path}"));
        }
    }
    wrong.extend(INNER.iter().flat_map(|inner| inner.violations(module, paths)));
    wrong
}

impl Inner {
    fn violations(&self, module: &[String], paths: &BTreeSet<String>) -> Vec<String> {
        let module = module.join("::");
        let Some(file) = module.strip_prefix(self.module).and_then(|rest| rest.strip_prefix("::"))
        else {
            return Vec::new();
        };
        let part = first_name(file);
        if self.free.contains(&part) {
            return Vec::new();
        }
        let allowed =
            self.parts.iter().find(|(name, _)| *name == part).map_or(self.rest, |(_, uses)| uses);
        let prefix = format!("crate::{}::", self.module);
        let mut wrong = Vec::new();
        for used in paths.iter().filter_map(|path| path.strip_prefix(&prefix)) {
            let other = first_name(used);
            let is_part =
                self.parts.iter().any(|(name, _)| *name == other) || self.free.contains(&other);
            let is_exception =
                self.exceptions.iter().any(|(from, to, _)| *from == file && used.starts_with(to));
            if is_part && other != part && !allowed.contains(&other) && !is_exception {
                wrong.push(format!("`{}::{part}` must not use `{used}`", self.module));
            }
        }
        wrong
    }
}

fn first_name(path: &str) -> &str {
    path.split("::").next().unwrap_or_default()
}

#[test]
fn modules_use_only_what_they_may() {
    let files = sources();
    let reexports = Reexports::of(files);
    let mut wrong = Vec::new();
    for file in files {
        let found = violations(&file.module(), &paths_in(file, &reexports)).into_iter();
        wrong.extend(found.map(|problem| format!("{}: {problem}", file.path.display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_listed_module_and_exception_exists() {
    let files = sources();
    let reexports = Reexports::of(files);
    let modules: BTreeSet<String> = files.iter().map(|file| file.module().join("::")).collect();
    for (name, uses) in MODULES {
        assert!(modules.contains(name), "there is no module `{name}`");
        for used in uses {
            assert!(MODULES.iter().any(|(listed, _)| listed == used), "{name}: {used}");
        }
    }
    for inner in INNER {
        for part in inner.parts.iter().map(|(name, _)| name).chain(inner.free) {
            let path = format!("{}::{part}", inner.module);
            assert!(modules.contains(&path), "there is no module `{path}`");
        }
        for (from, to, _) in inner.exceptions {
            let path = format!("{}::{from}", inner.module);
            let file = files.iter().find(|file| file.module().join("::") == path);
            let paths = file.map(|file| paths_in(file, &reexports)).unwrap_or_default();
            let target = format!("crate::{}::{to}", inner.module);
            assert!(
                paths.iter().any(|path| path.starts_with(&target)),
                "`{from}` does not use `{to}`: remove the exception"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(module: &str, path: &str) -> Vec<String> {
        let module: Vec<String> = module.split("::").map(str::to_owned).collect();
        violations(&module, &BTreeSet::from([path.to_owned()]))
    }

    #[test]
    fn forbidden_arrows_are_found() {
        for (module, path) in [
            ("lineage::graph", "crate::engine::tags"),
            ("server", "crate::controller::run"),
            ("engine::tags", "kube::Client"),
            ("engine::tags", "jiff::Timestamp::now"),
            ("engine::tags", "std::time::Instant"),
            ("api::image", "tokio::sync::Mutex"),
            ("controller::run", "jiff::Timestamp::now"),
            ("unknown", "std::fmt"),
            ("engine::image::checks", "crate::engine::cascade::gates"),
            ("engine::image::checks", "crate::engine::decide"),
            ("engine::cascade", "crate::engine::decide::decide"),
            ("engine::tags", "crate::engine::image"),
            ("engine::blueprint", "crate::engine::cascade::gates"),
            ("controller::family::observe::jobs", "crate::controller::family::act::jobs"),
            ("controller::family::observe", "crate::controller::family::record::events"),
            ("controller::family::registry::lookup", "crate::controller::family::act"),
            ("controller::family::record", "crate::controller::family::act::promote"),
            ("bin::kubectl-family::status", "groundswell::controller::run"),
        ] {
            assert_eq!(found(module, path).len(), 1, "{module} uses {path}");
        }
    }

    #[test]
    fn allowed_arrows_are_not() {
        for (module, path) in [
            ("engine::image::checks", "crate::engine::tags::Tag"),
            ("engine::cascade::gates", "crate::engine::image::evaluation"),
            ("engine::blueprint", "crate::engine::cascade::windows::Windows"),
            ("engine::decide", "crate::engine::cascade"),
            ("engine::tests::model", "crate::engine::decide"),
            ("engine::upstreams", "jiff::Timestamp"),
            ("controller::family", "crate::controller::family::act::jobs"),
            ("controller::family::act::promote", "crate::controller::family::record::events"),
            ("controller::run", "kube::Client"),
            ("main", "crate::operator"),
            ("bin::kubectl-family::status", "groundswell::engine::decide"),
        ] {
            assert_eq!(found(module, path), Vec::<String>::new(), "{module} uses {path}");
        }
    }
}
