//! Writes trees to disk without Git's own checkout: no filters, and no entry that could write or
//! point outside of the build context. Only what the selection keeps is written. Submodules and
//! files of Git LFS are found here, and rejected unless the source asks for them.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _, fs::symlink},
    path::{Component, Path, PathBuf},
    time::Instant,
};

use git2::{ObjectType, Oid, Repository, Tree, TreeEntry};

use crate::builds::git::{
    FetchLimits, GitError, WantedCommit,
    lfs::{
        LfsFile,
        pointer::{self, LfsContent, Pointer},
    },
    selection::TreeEntryKind,
};

/// Maximum depth of nested folders.
const MAX_DEPTH: usize = 64;
/// How many entries of trees are read for each one that may be written.
const READ_PER_WRITTEN: usize = 20;

/// Writes the build context, from the trees of one or more repositories. The limits count for all
/// of them together.
pub(super) struct ContextWriter<'a> {
    wanted: &'a WantedCommit<'a>,
    destination: &'a Path,
    limits: &'a FetchLimits,
    deadline: Instant,
    read: usize,
    entries: usize,
    bytes: u64,
    lfs_files: usize,
    has_included: bool,
    links: Vec<SymbolicLink>,
    found: FoundInTree,
}

/// What a tree names and does not contain.
#[derive(Default)]
pub(super) struct FoundInTree {
    /// The submodules whose files belong to the build context.
    pub submodules: Vec<FoundSubmodule>,
    /// The files of Git LFS.
    pub lfs: Vec<LfsFile>,
}

/// A submodule in a tree.
pub(super) struct FoundSubmodule {
    /// Its path in the build context.
    pub inside: PathBuf,
    /// Its path in the repository.
    pub path: PathBuf,
    /// Its commit.
    pub commit: Oid,
}

/// Where a tree belongs.
#[derive(Clone, Copy)]
pub(super) struct TreePlace<'a> {
    /// The repository of the tree.
    pub repository: &'a Repository,
    /// Its URL, for messages.
    pub url: &'a str,
    /// The path of the tree in the repository.
    pub folder: &'a Path,
    /// The path at which the tree is written in the build context.
    pub inside: &'a Path,
}

struct SymbolicLink {
    target: PathBuf,
    /// Its path in the build context.
    inside: PathBuf,
    /// The URL of its repository, for messages.
    url: String,
}

impl<'a> ContextWriter<'a> {
    /// Creates the folder `destination`, which must not exist.
    pub fn create(
        wanted: &'a WantedCommit<'a>,
        destination: &'a Path,
        limits: &'a FetchLimits,
        deadline: Instant,
    ) -> Result<Self, GitError> {
        fs::create_dir(destination).map_err(|error| disk_error(destination, &error))?;
        Ok(Self {
            wanted,
            destination,
            limits,
            deadline,
            read: 0,
            entries: 0,
            bytes: 0,
            lfs_files: 0,
            has_included: false,
            links: Vec::new(),
            found: FoundInTree::default(),
        })
    }

    /// Writes the tree of one repository.
    pub fn write(
        &mut self,
        place: TreePlace<'_>,
        tree: &Tree<'_>,
    ) -> Result<FoundInTree, GitError> {
        self.write_tree(place, tree, Path::new(""))?;
        Ok(std::mem::take(&mut self.found))
    }

    /// Completes the build context after the last tree.
    pub fn finish(self) -> Result<(), GitError> {
        if self.wanted.selection.requires_a_match() && !self.has_included {
            return Err(GitError::NotFound {
                url: self.wanted.url.to_owned(),
                what: format!(
                    "a file of the folder `{}` that `source.git.include` matches",
                    self.wanted.folder.unwrap_or(".")
                ),
            });
        }
        // Links are created last, so that nothing is ever written through one, and where each leads
        // is known only when all are.
        let places: BTreeSet<&Path> = self.links.iter().map(|link| link.inside.as_path()).collect();
        if let Some(link) = self.links.iter().find(|link| link.leaves_context(&places)) {
            return Err(link.unusable());
        }
        for SymbolicLink { target, inside, .. } in &self.links {
            let path = self.destination.join(inside);
            symlink(target, &path).map_err(|error| disk_error(&path, &error))?;
        }
        Ok(())
    }

    /// Writes a folder of the tree; `below` is its path in the tree.
    fn write_tree(
        &mut self,
        place: TreePlace<'_>,
        tree: &Tree<'_>,
        below: &Path,
    ) -> Result<(), GitError> {
        let inside = place.inside.join(below);
        if inside.components().count() > MAX_DEPTH {
            return Err(
                place.too_large(format!("its folders are nested deeper than {MAX_DEPTH} levels"))
            );
        }
        if Instant::now() > self.deadline {
            return Err(place.unavailable(self.limits.exceeded_time()));
        }
        if self.wanted.selection.is_everything() {
            self.create_folder(&inside)?;
        }
        for entry in tree {
            self.read += 1;
            if self.read > self.limits.entries.saturating_mul(READ_PER_WRITTEN) {
                return Err(place.too_large("its folders have too many entries".into()));
            }
            let name = Path::new(std::ffi::OsStr::from_bytes(entry.name_bytes()));
            let below = below.join(name);
            let inside = place.inside.join(&below);
            if self.wanted.selection.keeps(&inside, kind(&entry)) {
                self.write_entry(place, &entry, &below)?;
            }
        }
        Ok(())
    }

    fn write_entry(
        &mut self,
        place: TreePlace<'_>,
        entry: &TreeEntry<'_>,
        below: &Path,
    ) -> Result<(), GitError> {
        let inside = place.inside.join(below);
        self.entries += 1;
        if self.entries > self.limits.entries {
            let limit = format!("it has more than {} files", self.limits.entries);
            return Err(place.too_large(limit));
        }
        if !is_safe_name(entry.name_bytes()) {
            let problem = "has a name that is not allowed in a build context";
            return Err(place.unusable(&inside, problem));
        }
        if kind(entry) == TreeEntryKind::File {
            self.has_included |= self.wanted.selection.is_included(&inside);
            if let Some(folder) = inside.parent() {
                self.create_folder(folder)?;
            }
        }
        match (entry.kind(), entry.filemode()) {
            (Some(ObjectType::Tree), _) => {
                let tree = place
                    .repository
                    .find_tree(entry.id())
                    .map_err(|error| place.broken_object(&error))?;
                self.write_tree(place, &tree, below)
            }
            (Some(ObjectType::Blob), 0o120_000) => self.add_link(place, entry.id(), &inside),
            (Some(ObjectType::Blob), mode) => self.write_file(place, entry, mode, &inside),
            (Some(ObjectType::Commit), _) => self.add_submodule(place, entry.id(), below),
            _ => Err(place.unusable(&inside, "is neither a file nor a folder")),
        }
    }

    fn create_folder(&self, inside: &Path) -> Result<(), GitError> {
        let folder = self.destination.join(inside);
        fs::create_dir_all(&folder).map_err(|error| disk_error(&folder, &error))
    }

    fn add_link(&mut self, place: TreePlace<'_>, id: Oid, inside: &Path) -> Result<(), GitError> {
        let content = self.read_blob(place, id, inside)?;
        let target = PathBuf::from(std::ffi::OsStr::from_bytes(&content));
        let (inside, url) = (inside.to_owned(), place.url.to_owned());
        self.links.push(SymbolicLink { target, inside, url });
        Ok(())
    }

    fn write_file(
        &mut self,
        place: TreePlace<'_>,
        entry: &TreeEntry<'_>,
        mode: i32,
        inside: &Path,
    ) -> Result<(), GitError> {
        let content = self.read_blob(place, entry.id(), inside)?;
        let mode = if mode & 0o111 == 0 { 0o644 } else { 0o755 };
        let path = self.destination.join(inside);
        match pointer::classify(&content) {
            LfsContent::File => OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&path)
                .and_then(|mut file| file.write_all(&content))
                .map_err(|error| disk_error(&path, &error)),
            LfsContent::Pointer(pointer) if self.wanted.lfs => {
                self.account_lfs(place, &pointer)?;
                let inside = inside.to_owned();
                self.found.lfs.push(LfsFile { pointer, inside, path, mode });
                Ok(())
            }
            LfsContent::Pointer(_) => Err(place.unusable(
                inside,
                "is the pointer to a file of Git LFS, and not the file; set `source.git.lfs: \
                 true` to fetch it, or leave it out with `source.git.exclude`",
            )),
            LfsContent::Malformed(problem) => Err(place.unusable(
                inside,
                &format!(
                    "begins as the pointer to a file of Git LFS, but {problem}; correct it, or \
                     leave it out with `source.git.exclude`"
                ),
            )),
        }
    }

    fn account_lfs(&mut self, place: TreePlace<'_>, pointer: &Pointer) -> Result<(), GitError> {
        self.lfs_files += 1;
        if self.lfs_files > self.limits.lfs_files {
            let limit = format!("it has more than {} files of Git LFS", self.limits.lfs_files);
            return Err(place.too_large(limit));
        }
        self.account(place, pointer.size)
    }

    fn add_submodule(
        &mut self,
        place: TreePlace<'_>,
        commit: Oid,
        below: &Path,
    ) -> Result<(), GitError> {
        let inside = place.inside.join(below);
        if !self.wanted.submodules {
            return Err(place.unusable(
                &inside,
                "is a submodule; set `source.git.submodules: true` to fetch it, or leave it out \
                 with `source.git.exclude`",
            ));
        }
        let path = place.folder.join(below);
        self.found.submodules.push(FoundSubmodule { inside, path, commit });
        Ok(())
    }

    fn read_blob(
        &mut self,
        place: TreePlace<'_>,
        id: Oid,
        inside: &Path,
    ) -> Result<Vec<u8>, GitError> {
        let size = place.blob_size(id)?;
        if size > self.limits.file {
            let limit =
                format!("{} is larger than {} MiB", inside.display(), self.limits.file >> 20);
            return Err(place.too_large(limit));
        }
        self.account(place, size)?;
        let blob = place.repository.find_blob(id).map_err(|error| place.broken_object(&error))?;
        Ok(blob.content().to_vec())
    }

    fn account(&mut self, place: TreePlace<'_>, size: u64) -> Result<(), GitError> {
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.written {
            let limit = format!("it has more than {} MiB of files", self.limits.written >> 20);
            return Err(place.too_large(limit));
        }
        Ok(())
    }
}

impl TreePlace<'_> {
    fn blob_size(&self, id: Oid) -> Result<u64, GitError> {
        let header = self.repository.odb().and_then(|odb| odb.read_header(id));
        header.map(|(size, _)| size as u64).map_err(|error| self.broken_object(&error))
    }

    /// Reads a small text file at the root of a tree; `None` if it does not exist.
    pub fn read_root_file(
        &self,
        root: &Tree<'_>,
        name: &str,
        limit: u64,
    ) -> Result<Option<String>, GitError> {
        let Some(entry) = root.get_name(name) else { return Ok(None) };
        let path = Path::new(name);
        if entry.kind() != Some(ObjectType::Blob) || entry.filemode() == 0o120_000 {
            return Err(self.unusable(path, "must be a file"));
        }
        if self.blob_size(entry.id())? > limit {
            return Err(self.unusable(path, &format!("is larger than {} KiB", limit >> 10)));
        }
        let blob =
            self.repository.find_blob(entry.id()).map_err(|error| self.broken_object(&error))?;
        let text = String::from_utf8(blob.content().to_vec());
        text.map(Some).map_err(|_| self.unusable(path, "is not UTF-8 text"))
    }

    fn too_large(&self, limit: String) -> GitError {
        GitError::TooLarge { url: self.url.to_owned(), limit }
    }

    fn unavailable(&self, problem: String) -> GitError {
        GitError::Unavailable { url: self.url.to_owned(), problem }
    }

    pub fn unusable(&self, path: &Path, problem: &str) -> GitError {
        GitError::Unsafe {
            url: self.url.to_owned(),
            path: path.display().to_string(),
            problem: problem.to_owned(),
        }
    }

    fn broken_object(&self, error: &git2::Error) -> GitError {
        self.unavailable(format!("the repository has a broken object: {}", error.message()))
    }
}

fn kind(entry: &TreeEntry<'_>) -> TreeEntryKind {
    match entry.kind() {
        Some(ObjectType::Tree | ObjectType::Commit) => TreeEntryKind::Folder,
        _ => TreeEntryKind::File,
    }
}

fn disk_error(path: &Path, error: &std::io::Error) -> GitError {
    GitError::Disk { path: path.display().to_string(), problem: error.to_string() }
}

/// Whether an entry of a tree has a name that is safe as the name of a file.
fn is_safe_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name != b"."
        && name != b".."
        && !name.eq_ignore_ascii_case(b".git")
        && !name.iter().any(|byte| *byte == b'/' || *byte == 0)
}

impl SymbolicLink {
    /// Whether the link may lead outside of the build context. `links` are the paths of all links.
    ///
    /// `..` after another link leads to the parent of what that one points to, which is nowhere
    /// near: such a chain is refused, wherever it ends.
    fn leaves_context(&self, links: &BTreeSet<&Path>) -> bool {
        let mut at = self.inside.parent().unwrap_or(Path::new("")).to_owned();
        let mut is_behind_link = false;
        for component in self.target.components() {
            match component {
                Component::Prefix(_) | Component::RootDir => return true,
                Component::ParentDir if is_behind_link || !at.pop() => return true,
                Component::CurDir | Component::ParentDir => {}
                Component::Normal(name) => {
                    at.push(name);
                    is_behind_link |= links.contains(at.as_path());
                }
            }
        }
        false
    }

    fn unusable(&self) -> GitError {
        GitError::Unsafe {
            url: self.url.clone(),
            path: self.inside.display().to_string(),
            problem: format!(
                "is a symbolic link to {}, outside of the build context or through another link; \
                 make it relative, without `..` after a link, or create it with RUN",
                self.target.display()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the last of these links, each with its target, leaves the context.
    fn leaves(links: &[(&str, &str)]) -> bool {
        let places = links.iter().map(|(inside, _)| Path::new(inside)).collect();
        let (inside, target) = links.last().expect("a link");
        let link =
            SymbolicLink { target: target.into(), inside: inside.into(), url: String::new() };
        link.leaves_context(&places)
    }

    #[test]
    fn a_link_must_stay_in_the_context() {
        for (link, target, out) in [
            ("a", "b", false),
            ("a/b", "../c", false),
            ("a/b/c", "../../d/e", false),
            ("a/b/c", "../x/../../d", false),
            ("a", "../c", true),
            ("a/b", "../../c", true),
            ("a/b", "x/../../../c", true),
            ("a", "/etc/passwd", true),
        ] {
            assert_eq!(leaves(&[(link, target)]), out, "{link} -> {target}");
        }
    }

    #[test]
    fn no_chain_of_links_leaves_the_context() {
        for (links, out) in [
            // The second goes up from what the first points to.
            (
                [
                    ("deep/dir/up", "../.."),
                    ("stolen", "deep/dir/up/../../docker-config/config.json"),
                ],
                true,
            ),
            ([("a/up", ".."), ("b", "a/up/x/../../y")], true),
            ([("a/up", ".."), ("a/b/c", "../up/../..")], true),
            ([("a/up", ".."), ("b", "a/up/x")], false),
            ([("a/up", ".."), ("b", "a/x/../y")], false),
            ([("lib", "lib64"), ("lib64/a", "../lib/b")], false),
        ] {
            assert_eq!(leaves(&links), out, "{links:?}");
        }
    }

    #[test]
    fn unsafe_names_are_rejected() {
        for name in [&b""[..], b".", b"..", b".git", b".GIT", b"a/b", b"a\0b"] {
            assert!(!is_safe_name(name), "{name:?}");
        }
        assert!(is_safe_name(b".gitignore") && is_safe_name("ü".as_bytes()));
    }
}
