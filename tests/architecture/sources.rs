//! The sources as syntax trees, and the paths that each module names.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use regex::Regex;
use syn::{Attribute, ItemMod, ItemUse, Macro, UseTree, visit::Visit};

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder` in the repository, sorted, as paths from its root. A folder may be a
/// single file.
pub fn files_below(folder: &str) -> Vec<PathBuf> {
    fn collect(path: &Path, found: &mut Vec<PathBuf>) {
        if path.is_dir() {
            for entry in fs::read_dir(path).expect("a folder") {
                collect(&entry.expect("an entry").path(), found);
            }
        } else {
            found.push(path.strip_prefix(root()).expect("below the root").to_owned());
        }
    }
    let mut found = Vec::new();
    collect(&root().join(folder), &mut found);
    found.sort();
    found
}

/// The files of the repository that this project has written: not what `.gitignore` names, the
/// lists of dependencies that a tool writes, licences, and the library of the plugin's page.
pub fn own_files() -> Vec<PathBuf> {
    let ignored = read(Path::new(".gitignore")).expect("a text");
    let ignored: BTreeSet<&str> =
        ignored.lines().map(|line| line.trim_matches('/')).chain([".git"]).collect();
    let entries = fs::read_dir(root()).expect("the root");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    let mut files: Vec<PathBuf> = names
        .iter()
        .filter(|name| !ignored.contains(name.as_str()))
        .flat_map(|name| files_below(name))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default();
            let foreign = ["Cargo.lock", "go.mod", "go.sum", "LICENSE", "d3-zoom.js"];
            !foreign.iter().any(|foreign| name == *foreign)
        })
        .collect();
    files.sort();
    files
}

/// All Rust files below `folder`.
pub fn rust_files_below(folder: &str) -> impl Iterator<Item = PathBuf> {
    let files = files_below(folder).into_iter();
    files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
}

/// Reads a file of the repository; `None` if it is not text.
pub fn read(path: &Path) -> Option<String> {
    String::from_utf8(fs::read(root().join(path)).expect("a readable file")).ok()
}

/// A parsed file.
pub struct SourceFile {
    /// Its path from the root of the repository.
    pub path: PathBuf,
    /// Its syntax tree.
    pub syntax: syn::File,
}

impl SourceFile {
    fn parse(path: PathBuf) -> Self {
        let text = read(&path).expect("source code is text");
        let syntax = syn::parse_file(&text)
            .unwrap_or_else(|error| panic!("{} does not parse: {error}", path.display()));
        Self { path, syntax }
    }

    /// The path of its module in the crate: `["engine", "tags"]` for both `src/engine/tags.rs` and
    /// `src/engine/tags/mod.rs`; empty for `src/lib.rs`.
    pub fn module(&self) -> Vec<String> {
        module_of(&self.path)
    }
}

fn module_of(path: &Path) -> Vec<String> {
    let below = path.strip_prefix("src").expect("a file below src").with_extension("");
    let mut module: Vec<String> =
        below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| last == "mod") || module == ["lib"] {
        module.pop();
    }
    module
}

/// Every file of `src`, parsed once for all tests.
pub fn sources() -> &'static [SourceFile] {
    thread_local! {
        static SOURCES: &'static [SourceFile] =
            Vec::leak(rust_files_below("src").map(SourceFile::parse).collect());
    }
    SOURCES.with(|sources| *sources)
}

/// The paths that a file names, with `crate`, `self` and `super` resolved: those of the crate begin
/// with `crate`, those of other crates with the crate's name.
///
/// A path through a re-export is listed as it is written and as it is resolved, so that a
/// re-export does not hide what a module uses.
pub fn paths_in(file: &SourceFile, reexports: &Reexports) -> BTreeSet<String> {
    let written = written_paths(&file.syntax, &file.module());
    let resolved: BTreeSet<String> =
        written.iter().map(|path| reexports.resolve(path).join("::")).collect();
    written.into_iter().map(|path| path.join("::")).chain(resolved).collect()
}

/// What the modules of the crate re-export: the path of a name, and what it is another name for.
#[derive(Debug, Default)]
pub struct Reexports(BTreeMap<Vec<String>, Vec<String>>);

impl Reexports {
    /// Collects the `use` items at the top of each module.
    pub fn of(files: &[SourceFile]) -> Self {
        let mut names = BTreeMap::new();
        for file in files {
            names.extend(reexported(&file.syntax, &file.module()));
        }
        Self(names)
    }

    /// The path with each re-exported name replaced by what it stands for.
    fn resolve(&self, path: &[String]) -> Vec<String> {
        let mut path = path.to_vec();
        // A chain of re-exports is short; the bound only ends a circle.
        for _ in 0..8 {
            let known = (1..=path.len())
                .rev()
                .find_map(|length| Some((length, self.0.get(&path[..length])?)));
            let Some((length, target)) = known else { break };
            path = target.iter().chain(&path[length..]).cloned().collect();
        }
        path
    }
}

fn reexported(syntax: &syn::File, module: &[String]) -> BTreeMap<Vec<String>, Vec<String>> {
    let mut names = BTreeMap::new();
    for item in &syntax.items {
        let syn::Item::Use(item) = item else { continue };
        for leaf in leaves(&item.tree) {
            let target = absolute(&leaf.path, module, &declared(&syntax.items));
            let name = [&["crate".to_owned()], module, &[leaf.name]].concat();
            if target.first().is_some_and(|first| first == "crate") && target != name {
                names.insert(name, target);
            }
        }
    }
    names
}

struct Leaf {
    path: Vec<String>,
    /// The name that it has in the module that imports it.
    name: String,
}

/// Every path of a tree of imports.
fn leaves(tree: &UseTree) -> Vec<Leaf> {
    fn walk(tree: &UseTree, before: &[String], found: &mut Vec<Leaf>) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => walk(&path.tree, &with(&path.ident), found),
            UseTree::Group(group) => group.items.iter().for_each(|tree| walk(tree, before, found)),
            UseTree::Name(name) if name.ident == "self" => {
                let name = before.last().cloned().unwrap_or_default();
                found.push(Leaf { path: before.to_vec(), name });
            }
            UseTree::Name(name) => {
                found.push(Leaf { path: with(&name.ident), name: name.ident.to_string() });
            }
            UseTree::Rename(renamed) => {
                found.push(Leaf { path: with(&renamed.ident), name: renamed.rename.to_string() });
            }
            UseTree::Glob(_) => found.push(Leaf { path: before.to_vec(), name: "*".to_owned() }),
        }
    }
    let mut found = Vec::new();
    walk(tree, &[], &mut found);
    found
}

/// A path as it is written in `module`, from the root of the crate. `children` are the modules that
/// `module` declares.
fn absolute(path: &[String], module: &[String], children: &BTreeSet<String>) -> Vec<String> {
    let mut base = module.to_vec();
    let mut rest = path;
    let mut is_relative = false;
    while let Some((first, more)) = rest.split_first() {
        match first.as_str() {
            "crate" => base.clear(),
            "super" => _ = base.pop(),
            "self" => {}
            name if !is_relative && !children.contains(name) => return path.to_vec(),
            _ => break,
        }
        is_relative = true;
        rest = more;
    }
    [&["crate".to_owned()], &base[..], rest].concat()
}

fn written_paths(syntax: &syn::File, module: &[String]) -> BTreeSet<Vec<String>> {
    struct Collector {
        module: Vec<String>,
        children: BTreeSet<String>,
        found: BTreeSet<Vec<String>>,
    }

    impl Collector {
        fn add(&mut self, path: &[String]) {
            self.found.insert(absolute(path, &self.module, &self.children));
        }

        /// Macros and attributes are not parsed: finds what looks like a path of the crate.
        fn add_tokens(&mut self, tokens: &str) {
            static PATH: LazyLock<Regex> = LazyLock::new(|| {
                Regex::new(r"\b(?:[A-Za-z_]\w*)(?:\s*::\s*\w+)+").expect("a regular expression")
            });
            for path in PATH.find_iter(tokens) {
                let path: Vec<String> =
                    path.as_str().split("::").map(|part| part.trim().to_owned()).collect();
                self.add(&path);
            }
        }
    }

    impl<'ast> Visit<'ast> for Collector {
        fn visit_item_mod(&mut self, item: &'ast ItemMod) {
            let Some((_, items)) = &item.content else { return };
            let children = std::mem::replace(&mut self.children, declared(items));
            self.module.push(item.ident.to_string());
            syn::visit::visit_item_mod(self, item);
            self.module.pop();
            self.children = children;
        }

        fn visit_item_use(&mut self, item: &'ast ItemUse) {
            for leaf in leaves(&item.tree) {
                self.add(&leaf.path);
            }
        }

        fn visit_path(&mut self, path: &'ast syn::Path) {
            let names: Vec<String> =
                path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.add(&names);
            syn::visit::visit_path(self, path);
        }

        fn visit_attribute(&mut self, attribute: &'ast Attribute) {
            // A link in the documentation is not a use.
            if attribute.path().is_ident("doc") {
                return;
            }
            if let syn::Meta::List(list) = &attribute.meta {
                self.add_tokens(&list.tokens.to_string());
            }
        }

        fn visit_macro(&mut self, called: &'ast Macro) {
            self.add_tokens(&called.tokens.to_string());
            syn::visit::visit_macro(self, called);
        }
    }

    let mut collector = Collector {
        module: module.to_vec(),
        children: declared(&syntax.items),
        found: BTreeSet::new(),
    };
    collector.visit_file(syntax);
    collector.found
}

fn declared(items: &[syn::Item]) -> BTreeSet<String> {
    let modules = items.iter().filter_map(|item| match item {
        syn::Item::Mod(module) => Some(module.ident.to_string()),
        _ => None,
    });
    modules.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(module: &[&str], code: &str) -> Vec<String> {
        let module: Vec<String> = module.iter().map(|part| (*part).to_owned()).collect();
        let syntax = syn::parse_file(code).expect("code");
        written_paths(&syntax, &module).into_iter().map(|path| path.join("::")).collect()
    }

    #[test]
    fn imports_are_resolved() {
        let code = "use crate::{api::Image, engine::{self, tags as t}}; use super::x::*;
                    use self::y::Z; use kube::{Api, Client};";
        let expected = [
            "crate::api::Image",
            "crate::engine",
            "crate::engine::tags",
            "crate::engine::image::y::Z",
            "crate::engine::x",
            "kube::Api",
            "kube::Client",
        ];
        let found = paths(&["engine", "image"], code);
        assert_eq!(found.iter().map(String::as_str).collect::<BTreeSet<_>>(), expected.into());
    }

    #[test]
    fn paths_in_code_macros_attributes_and_inner_modules_are_found() {
        for (code, expected) in [
            ("fn f(_: super::Kind) {}", "crate::engine::Kind"),
            ("fn f() { crate::lineage::walk(); }", "crate::lineage::walk"),
            ("fn f() { assert!(crate::lineage::ok()); }", "crate::lineage::ok"),
            ("fn f() { let _ = vec![super::x::Y]; }", "crate::engine::x::Y"),
            ("mod child; fn f() { child::g(); }", "crate::engine::image::child::g"),
            ("mod tests { use super::super::x; }", "crate::engine::x"),
            ("#[serde(default = \"crate::api::none\")] struct S;", "crate::api::none"),
            ("fn f() { let _ = jiff::Timestamp::now(); }", "jiff::Timestamp::now"),
        ] {
            let found = paths(&["engine", "image"], code);
            assert!(found.iter().any(|path| path == expected), "{code}: {found:?}");
        }
        let found = paths(&["engine"], "/// [`x`](crate::rollout::x)\nfn f() {}");
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn reexports_are_followed() {
        let engine = syn::parse_file("pub use image::Pause as Wait; mod image;").expect("code");
        let module = ["engine".to_owned()];
        let names = |path: &str| -> Vec<String> { path.split("::").map(str::to_owned).collect() };
        let mut reexports = Reexports(reexported(&engine, &module));
        // `use image::Pause` names a child module of the file.
        assert_eq!(
            reexports.resolve(&names("crate::engine::Wait::MAX")).join("::"),
            "crate::engine::image::Pause::MAX"
        );
        reexports.0.insert(names("crate::a"), names("crate::b"));
        reexports.0.insert(names("crate::b"), names("crate::a"));
        assert_eq!(reexports.resolve(&names("crate::a")).len(), 2, "a circle ends");
    }
}
