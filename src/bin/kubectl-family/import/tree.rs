//! The files of a source tree that say which images are built: Dockerfiles, Bake files, Compose
//! files and files of build arguments. Every read is bounded, and links are not followed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use ignore::{
    WalkBuilder,
    overrides::{Override, OverrideBuilder},
};

use crate::import::finding::ImportFinding;

/// Maximum depth of folders below a directory that is imported.
const MAX_DEPTH: usize = 32;
/// Maximum number of files and folders that are visited.
const MAX_VISITED: usize = 1_000_000;
/// Maximum number of files that are read.
const MAX_FILES: usize = 20_000;
/// Maximum size of a file in bytes, as of a Dockerfile in a build.
const MAX_BYTES: u64 = 1 << 20;

/// The names of Bake files, those that are listed only among them.
const BAKE_FILES: [&str; 4] = [
    "docker-bake.hcl",
    "docker-bake.override.hcl",
    "docker-bake.json",
    "docker-bake.override.json",
];

/// A file of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeFile {
    /// Its path below the root, with `/` between folders.
    pub path: String,
    /// Its text.
    pub text: String,
}

impl TreeFile {
    /// Returns the path of its folder below the root; empty for the root.
    pub fn folder(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(folder, _)| folder)
    }
}

/// What a tree contains. Each list is sorted by path.
#[derive(Debug, Default)]
pub struct SourceTree {
    /// The Dockerfiles, by path.
    pub dockerfiles: BTreeMap<String, TreeFile>,
    /// The files of build arguments, by path.
    pub build_args: BTreeMap<String, TreeFile>,
    /// The files of `docker buildx bake`.
    pub bake: Vec<TreeFile>,
    /// The Compose files.
    pub compose: Vec<TreeFile>,
    /// The files `.env`, by folder: Compose reads its variables there.
    pub environments: BTreeMap<String, TreeFile>,
    /// The paths of all files that were found, with those that could not be read.
    found: BTreeSet<String>,
    /// The folders of other repositories that were found.
    other_repositories: BTreeSet<String>,
}

/// Why files of a clone or a submodule are not read: a source of this repository lacks them.
const OTHER_REPOSITORY: &str =
    "it is another Git repository, and a source has files of one only; import it on its own";

/// What a file is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileRole {
    Dockerfile,
    BuildArgs,
    Bake,
    Compose,
    Environment,
}

impl FileRole {
    /// Whether a file says by itself that something is built.
    const fn is_build(self) -> bool {
        matches!(self, Self::Dockerfile | Self::Bake | Self::Compose)
    }
}

/// Reads the files below the directories. Paths are relative to `root`, and so are the globs of
/// `skip`. What cannot be read is added to the findings.
///
/// # Errors
/// Returns an error if a glob cannot be read, or if there are too many files.
pub fn read_tree(
    root: &Path,
    directories: &[PathBuf],
    skip: &[String],
    findings: &mut Vec<ImportFinding>,
) -> anyhow::Result<SourceTree> {
    let skipped = skipped(root, skip)?;
    let is_checkout = root.join(".git").exists();
    let mut tree = SourceTree::default();
    let mut visited = 0_usize;
    for directory in directories {
        let walk = WalkBuilder::new(directory)
            .hidden(false)
            .filter_entry(|entry| entry.file_name() != ".git")
            .overrides(skipped.clone())
            .follow_links(false)
            // Only what is written in the repository itself says what belongs to it.
            .ignore(false)
            .git_global(false)
            .git_exclude(false)
            .require_git(is_checkout)
            .parents(is_checkout)
            .max_depth(Some(MAX_DEPTH))
            .sort_by_file_path(Path::cmp)
            .build();
        for entry in walk {
            visited += 1;
            if visited > MAX_VISITED {
                bail!("{} has more than {MAX_VISITED} files; name its parts", directory.display());
            }
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    findings.push(ImportFinding::new(directory.display(), error.to_string()));
                    continue;
                }
            };
            tree.read(root, entry.path(), findings)?;
        }
    }
    for path in tracked(root) {
        let is_named = directories.iter().any(|directory| path.starts_with(directory));
        if is_named && !skipped.matched(&path, false).is_ignore() {
            tree.read(root, &path, findings)?;
        }
    }
    Ok(tree)
}

/// Returns the files that a checkout tracks. One that a `.gitignore` names is a part of the
/// repository all the same.
fn tracked(root: &Path) -> Vec<PathBuf> {
    let index = git2::Repository::open(root).and_then(|repository| repository.index());
    let Ok(index) = index else { return Vec::new() };
    let path = |entry: git2::IndexEntry| String::from_utf8(entry.path).ok();
    index.iter().take(MAX_VISITED).filter_map(path).map(|path| root.join(path)).collect()
}

/// Returns what leaves the globs out.
fn skipped(root: &Path, skip: &[String]) -> anyhow::Result<Override> {
    let mut overrides = OverrideBuilder::new(root);
    for glob in skip {
        overrides.add(&format!("!{glob}")).with_context(|| format!("skip: {glob}"))?;
    }
    overrides.build().context("skip")
}

impl SourceTree {
    /// Reads a file, if its name says that it is about builds and it is not read yet.
    fn read(
        &mut self,
        root: &Path,
        file: &Path,
        findings: &mut Vec<ImportFinding>,
    ) -> anyhow::Result<()> {
        let Some(role) = file.file_name().and_then(|name| name.to_str()).and_then(role) else {
            return Ok(());
        };
        if let Some(other) = other_repository(root, file) {
            let place = relative(root, other);
            if role.is_build() && self.other_repositories.insert(place.clone()) {
                findings.push(ImportFinding::new(place, OTHER_REPOSITORY));
            }
            return Ok(());
        }
        let path = relative(root, file);
        let Ok(kind) = file.symlink_metadata() else { return Ok(()) };
        if (!kind.is_file() && !kind.is_symlink()) || !self.found.insert(path.clone()) {
            return Ok(());
        }
        if kind.is_symlink() {
            // A source in Git takes no links either.
            let why = "it is a symbolic link, which is not followed; name its target";
            findings.push(ImportFinding::new(&path, why));
            return Ok(());
        }
        if self.found.len() > MAX_FILES {
            bail!("more than {MAX_FILES} files describe builds; import parts of the tree");
        }
        match read_text(file) {
            Ok(text) => self.add(role, TreeFile { path, text }),
            Err(error) => findings.push(ImportFinding::new(&path, format!("{error:#}"))),
        }
        Ok(())
    }

    fn add(&mut self, role: FileRole, file: TreeFile) {
        match role {
            FileRole::Dockerfile => _ = self.dockerfiles.insert(file.path.clone(), file),
            FileRole::BuildArgs => _ = self.build_args.insert(file.path.clone(), file),
            FileRole::Bake => self.bake.push(file),
            FileRole::Compose => self.compose.push(file),
            FileRole::Environment => {
                _ = self.environments.insert(file.folder().to_owned(), file);
            }
        }
    }
}

/// Returns what a file of this name is, if it says something about builds.
fn role(name: &str) -> Option<FileRole> {
    let lower = name.to_ascii_lowercase();
    let stem = lower.strip_suffix(".yaml").or_else(|| lower.strip_suffix(".yml"));
    let is_compose = stem.is_some_and(|stem| {
        ["compose", "docker-compose"]
            .iter()
            .any(|known| stem == *known || stem.starts_with(&format!("{known}.")))
    });
    if is_compose {
        return Some(FileRole::Compose);
    }
    if lower == ".env" {
        return Some(FileRole::Environment);
    }
    if lower == "build.args" || lower.ends_with("dockerfile.args") {
        return Some(FileRole::BuildArgs);
    }
    if BAKE_FILES.contains(&lower.as_str()) || lower.ends_with(".docker-bake.json") {
        return Some(FileRole::Bake);
    }
    let is_dockerfile = ["dockerfile", "containerfile"].iter().any(|known| {
        lower == *known
            || lower.strip_prefix(known).is_some_and(is_suffix)
            || lower.strip_suffix(known).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
    });
    is_dockerfile.then_some(FileRole::Dockerfile)
}

/// Whether `Dockerfile` and this are the name of a Dockerfile, and not that of a file next to it.
fn is_suffix(rest: &str) -> bool {
    const OTHERS: [&str; 16] = [
        "dockerignore",
        "md",
        "txt",
        "sh",
        "go",
        "j2",
        "tmpl",
        "template",
        "in",
        "erb",
        "swp",
        "bak",
        "old",
        "orig",
        "rej",
        "save",
    ];
    let Some(suffix) = rest.strip_prefix('.') else { return false };
    let last = suffix.rsplit('.').next().unwrap_or(suffix);
    !suffix.is_empty() && !OTHERS.contains(&last)
}

/// Reads a text file of at most 1 MiB, the limit of a Dockerfile.
///
/// # Errors
/// Returns an error that says what the file is instead.
pub fn read_text(path: &Path) -> anyhow::Result<String> {
    read_text_of(path, MAX_BYTES)
}

/// Reads a text file of at most this many bytes.
///
/// # Errors
/// Returns an error that says what the file is instead.
pub fn read_text_of(path: &Path, max_bytes: u64) -> anyhow::Result<String> {
    let file = File::open(path).context("it cannot be read")?;
    if !file.metadata().context("it cannot be read")?.is_file() {
        bail!("it is no regular file");
    }
    let mut bytes = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut bytes).context("it cannot be read")?;
    if bytes.len() as u64 > max_bytes {
        bail!("it is larger than {} MiB", max_bytes >> 20);
    }
    if bytes.contains(&0) {
        bail!("it is a binary file, and no text");
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        anyhow::anyhow!("it is no UTF-8 text (byte {valid})")
    })
}

/// Reads a file of the tree, which is not behind a symbolic link.
///
/// # Errors
/// Returns an error that says what the file is instead.
pub fn read_below(root: &Path, path: &str) -> anyhow::Result<String> {
    let is_link = |part: &Path| part.symlink_metadata().is_ok_and(|found| found.is_symlink());
    let on_disk = root.join(path);
    if let Some(other) = other_repository(root, &on_disk) {
        bail!("{} is another Git repository", relative(root, other));
    }
    if on_disk.ancestors().take_while(|part| *part != root).any(is_link) {
        bail!("it is behind a symbolic link");
    }
    read_text(&on_disk)
}

/// Returns the folder of the Git repository that a file below the root belongs to, if it is not
/// that of the root.
fn other_repository<'a>(root: &Path, file: &'a Path) -> Option<&'a Path> {
    let folders = file.ancestors().skip(1).take_while(|folder| *folder != root);
    let mut repositories = folders.filter(|folder| folder.join(".git").exists());
    repositories.next()
}

/// Returns a path below the root, with `/` between folders; empty for the root itself.
pub fn relative(root: &Path, path: &Path) -> String {
    let below = path.strip_prefix(root).unwrap_or(path);
    below.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/")
}

/// Resolves `..` and `.` in a path below the root that a file of `folder` names. Returns `None` if
/// it leads out of the root.
pub fn join(folder: &str, path: &str) -> Option<String> {
    if path.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop()?,
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Returns the paths that a Dockerfile of a context may mean, if a file of `folder` names them
/// relative to its own folder or to one above it.
pub fn named_from_above(folder: &str, context: &str, dockerfile: &str) -> Vec<String> {
    let mut folder = Some(folder);
    let mut paths = Vec::new();
    while let Some(here) = folder {
        paths.extend(join(here, context).and_then(|context| join(&context, dockerfile)));
        let above = here.rsplit_once('/').map_or("", |(above, _)| above);
        folder = (!here.is_empty()).then_some(above);
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_names() {
        for (name, expected) in [
            ("Dockerfile", Some(FileRole::Dockerfile)),
            ("Containerfile", Some(FileRole::Dockerfile)),
            ("Dockerfile.debug", Some(FileRole::Dockerfile)),
            ("debug.Dockerfile", Some(FileRole::Dockerfile)),
            ("Dockerfile.dockerignore", None),
            ("Dockerfile.j2", None),
            ("Dockerfile.bak", None),
            ("dockerfile.go", None),
            ("Dockerfile.args", Some(FileRole::BuildArgs)),
            ("build.args", Some(FileRole::BuildArgs)),
            (".Dockerfile", None),
            ("docker-bake.hcl", Some(FileRole::Bake)),
            ("docker-bake.override.hcl", Some(FileRole::Bake)),
            ("docker-bake.json", Some(FileRole::Bake)),
            ("4.4.docker-bake.json", Some(FileRole::Bake)),
            ("compose.yaml", Some(FileRole::Compose)),
            ("docker-compose.prod.yml", Some(FileRole::Compose)),
            ("composer.yaml", None),
            ("mydockerfile", None),
        ] {
            assert_eq!(role(name), expected, "{name}");
        }
    }

    #[test]
    fn paths_do_not_leave_the_root() {
        for (folder, path, expected) in [
            ("a/b", ".", Some("a/b")),
            ("a/b", "../c/./d/", Some("a/c/d")),
            ("a", "..", Some("")),
            ("a", "../..", None),
            ("a", "/etc", None),
        ] {
            assert_eq!(join(folder, path).as_deref(), expected, "{folder} {path}");
        }
    }

    #[test]
    fn what_is_no_text_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("Dockerfile");
        for (content, problem) in [
            (vec![b'F', 0, b'R'], "binary"),
            (vec![b'F', 0xff], "no UTF-8 text (byte 1)"),
            (vec![b'#'; (1 << 20) + 1], "larger than 1 MiB"),
        ] {
            std::fs::write(&path, content).expect("written");
            let error = read_text(&path).expect_err(problem).to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn files_of_another_repository_are_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        for name in ["a/Dockerfile", "clone/b/Dockerfile", "clone/c/Dockerfile", "library/.env"] {
            std::fs::create_dir_all(root.join(name).parent().expect("a folder")).expect("a folder");
            std::fs::write(root.join(name), "FROM scratch\n").expect("written");
        }
        git2::Repository::init(root.join("clone")).expect("a repository");
        // As in a submodule.
        std::fs::write(root.join("library/.git"), "gitdir: ../none\n").expect("written");
        let mut findings = Vec::new();
        let tree = read_tree(root, &[root.to_owned()], &[], &mut findings).expect("a tree");
        assert_eq!(tree.dockerfiles.keys().collect::<Vec<_>>(), ["a/Dockerfile"]);
        assert_eq!(findings, [ImportFinding::new("clone", OTHER_REPOSITORY)]);
        let error = read_below(root, "clone/b/Dockerfile").expect_err("another repository");
        assert_eq!(error.to_string(), "clone is another Git repository");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_named_and_a_cycle_of_them_ends() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        std::fs::create_dir(root.join("a")).expect("a folder");
        std::fs::write(root.join("a/Dockerfile"), "FROM scratch\n").expect("written");
        std::os::unix::fs::symlink(root, root.join("a/loop")).expect("a link");
        std::os::unix::fs::symlink("Dockerfile", root.join("a/Dockerfile.b")).expect("a link");
        let mut findings = Vec::new();
        let tree = read_tree(root, &[root.to_owned()], &[], &mut findings).expect("a tree");
        assert_eq!(tree.dockerfiles.keys().collect::<Vec<_>>(), ["a/Dockerfile"]);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].to_string().contains("a/Dockerfile.b: it is a symbolic link"));
    }
}
