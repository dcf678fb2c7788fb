//! Writes a tree to disk without Git's own checkout: no filters, no submodules, and no entry that
//! could write or point outside of the build context.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _, fs::symlink},
    path::{Component, Path, PathBuf},
    time::Instant,
};

use git2::{ObjectType, Repository, Tree};

use crate::builds::git::{FetchLimits, GitError};

/// Maximum depth of nested folders.
const MAX_DEPTH: usize = 64;

/// Writes a tree to `destination`, which must not exist. Submodules are left out, as by
/// `git clone`.
pub(super) fn write(
    repository: &Repository,
    tree: &Tree<'_>,
    url: &str,
    destination: &Path,
    limits: &FetchLimits,
    deadline: Instant,
) -> Result<(), GitError> {
    let mut writer =
        TreeWriter { repository, url, limits, deadline, entries: 0, bytes: 0, links: Vec::new() };
    writer.write_tree(tree, destination, Path::new(""))?;
    // Links are created last, so that nothing is ever written through one.
    for SymbolicLink { target, path } in std::mem::take(&mut writer.links) {
        symlink(target, &path).map_err(|error| disk_error(&path, &error))?;
    }
    Ok(())
}

struct SymbolicLink {
    target: PathBuf,
    path: PathBuf,
}

struct TreeWriter<'a> {
    repository: &'a Repository,
    url: &'a str,
    limits: &'a FetchLimits,
    deadline: Instant,
    entries: usize,
    bytes: u64,
    links: Vec<SymbolicLink>,
}

impl TreeWriter<'_> {
    fn write_tree(
        &mut self,
        tree: &Tree<'_>,
        folder: &Path,
        inside: &Path,
    ) -> Result<(), GitError> {
        if inside.components().count() > MAX_DEPTH {
            return Err(
                self.too_large(format!("its folders are nested deeper than {MAX_DEPTH} levels"))
            );
        }
        if Instant::now() > self.deadline {
            let problem =
                format!("the fetch exceeded its time limit of {} s", self.limits.time.as_secs());
            return Err(GitError::Unavailable { url: self.url.to_owned(), problem });
        }
        fs::create_dir(folder).map_err(|error| disk_error(folder, &error))?;
        for entry in tree {
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(
                    self.too_large(format!("it has more than {} files", self.limits.entries))
                );
            }
            let name = Path::new(std::ffi::OsStr::from_bytes(entry.name_bytes()));
            let inside = inside.join(name);
            if !is_safe_name(entry.name_bytes()) {
                return Err(
                    self.unsafe_entry(&inside, "has a name that is not allowed in a build context")
                );
            }
            let path = folder.join(name);
            match (entry.kind(), entry.filemode()) {
                (Some(ObjectType::Tree), _) => {
                    let tree = self
                        .repository
                        .find_tree(entry.id())
                        .map_err(|error| self.broken_object(&error))?;
                    self.write_tree(&tree, &path, &inside)?;
                }
                (Some(ObjectType::Blob), 0o120_000) => {
                    let target = PathBuf::from(std::ffi::OsStr::from_bytes(
                        &self.read_blob(entry.id(), &inside)?,
                    ));
                    if points_outside(&inside, &target) {
                        let problem = format!(
                            "is a symbolic link to {}, outside of the build context; make it \
                             relative or create it with RUN",
                            target.display()
                        );
                        return Err(self.unsafe_entry(&inside, &problem));
                    }
                    self.links.push(SymbolicLink { target, path });
                }
                (Some(ObjectType::Blob), mode) => {
                    let content = self.read_blob(entry.id(), &inside)?;
                    let mode = if mode & 0o111 == 0 { 0o644 } else { 0o755 };
                    OpenOptions::new()
                        .write(true)
                        .create_new(true)
                        .mode(mode)
                        .open(&path)
                        .and_then(|mut file| file.write_all(&content))
                        .map_err(|error| disk_error(&path, &error))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read_blob(&mut self, id: git2::Oid, inside: &Path) -> Result<Vec<u8>, GitError> {
        let (size, _) = self
            .repository
            .odb()
            .and_then(|odb| odb.read_header(id))
            .map_err(|error| self.broken_object(&error))?;
        let size = size as u64;
        if size > self.limits.file {
            let limit =
                format!("{} is larger than {} MiB", inside.display(), self.limits.file >> 20);
            return Err(self.too_large(limit));
        }
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.written {
            return Err(self.too_large(format!(
                "it has more than {} MiB of files",
                self.limits.written >> 20
            )));
        }
        let blob = self.repository.find_blob(id).map_err(|error| self.broken_object(&error))?;
        Ok(blob.content().to_vec())
    }

    fn too_large(&self, limit: String) -> GitError {
        GitError::TooLarge { url: self.url.to_owned(), limit }
    }

    fn unsafe_entry(&self, path: &Path, problem: &str) -> GitError {
        GitError::Unsafe {
            url: self.url.to_owned(),
            path: path.display().to_string(),
            problem: problem.to_owned(),
        }
    }

    fn broken_object(&self, error: &git2::Error) -> GitError {
        GitError::Unavailable {
            url: self.url.to_owned(),
            problem: format!("the repository has a broken object: {}", error.message()),
        }
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

/// Whether a link at the path `link` of the build context points outside of the context.
fn points_outside(link: &Path, target: &Path) -> bool {
    let mut depth = link.components().count().saturating_sub(1);
    for component in target.components() {
        match component {
            Component::Prefix(_) | Component::RootDir => return true,
            Component::CurDir => {}
            Component::ParentDir if depth == 0 => return true,
            Component::ParentDir => depth -= 1,
            Component::Normal(_) => depth += 1,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_must_stay_in_the_context() {
        for (link, target, out) in [
            ("a", "b", false),
            ("a/b", "../c", false),
            ("a/b/c", "../../d/e", false),
            ("a", "../c", true),
            ("a/b", "../../c", true),
            ("a/b", "x/../../../c", true),
            ("a", "/etc/passwd", true),
        ] {
            assert_eq!(
                points_outside(Path::new(link), Path::new(target)),
                out,
                "{link} -> {target}"
            );
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
