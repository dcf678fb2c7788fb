//! Writing a tree to disk by hand: no filters, no submodules, no entry that could write or point
//! outside of the context.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _, fs::symlink},
    path::{Component, Path, PathBuf},
    time::Instant,
};

use git2::{ObjectType, Repository, Tree};

use crate::builds::git::{FetchLimits, GitError};

/// How deep folders may be nested.
const MAX_DEPTH: usize = 64;

/// Writes a tree to `destination`, which must not exist. Submodules are left out, as `git clone`
/// leaves them out.
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
    writer.tree(tree, destination, Path::new(""))?;
    // Last, so that nothing is ever written through a link.
    for (target, link) in std::mem::take(&mut writer.links) {
        symlink(target, &link).map_err(|error| disk(&link, &error))?;
    }
    Ok(())
}

struct TreeWriter<'a> {
    repository: &'a Repository,
    url: &'a str,
    limits: &'a FetchLimits,
    deadline: Instant,
    entries: usize,
    bytes: u64,
    links: Vec<(PathBuf, PathBuf)>,
}

impl TreeWriter<'_> {
    fn tree(&mut self, tree: &Tree<'_>, folder: &Path, inside: &Path) -> Result<(), GitError> {
        if inside.components().count() > MAX_DEPTH {
            return Err(self.too_large(format!("folders nested deeper than {MAX_DEPTH}")));
        }
        if Instant::now() > self.deadline {
            let problem = format!("it took longer than {} s", self.limits.time.as_secs());
            return Err(GitError::Unavailable { url: self.url.to_owned(), problem });
        }
        fs::create_dir(folder).map_err(|error| disk(folder, &error))?;
        for entry in tree {
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(self.too_large(format!("more than {} files", self.limits.entries)));
            }
            let name = Path::new(std::ffi::OsStr::from_bytes(entry.name_bytes()));
            let inside = inside.join(name);
            if !is_plain(entry.name_bytes()) {
                return Err(self.unsafe_entry(&inside, "has a name that no file can have"));
            }
            let path = folder.join(name);
            match (entry.kind(), entry.filemode()) {
                (Some(ObjectType::Tree), _) => {
                    let tree = self
                        .repository
                        .find_tree(entry.id())
                        .map_err(|error| self.broken(&error))?;
                    self.tree(&tree, &path, &inside)?;
                }
                (Some(ObjectType::Blob), 0o120_000) => {
                    let target = PathBuf::from(std::ffi::OsStr::from_bytes(
                        &self.blob(entry.id(), &inside)?,
                    ));
                    if leaves(&inside, &target) {
                        let problem = format!(
                            "is a symbolic link to {}, outside of the build context; make it \
                             relative, or create it with RUN",
                            target.display()
                        );
                        return Err(self.unsafe_entry(&inside, &problem));
                    }
                    self.links.push((target, path));
                }
                (Some(ObjectType::Blob), mode) => {
                    let content = self.blob(entry.id(), &inside)?;
                    let mode = if mode & 0o111 == 0 { 0o644 } else { 0o755 };
                    OpenOptions::new()
                        .write(true)
                        .create_new(true)
                        .mode(mode)
                        .open(&path)
                        .and_then(|mut file| file.write_all(&content))
                        .map_err(|error| disk(&path, &error))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn blob(&mut self, id: git2::Oid, inside: &Path) -> Result<Vec<u8>, GitError> {
        let (size, _) = self
            .repository
            .odb()
            .and_then(|odb| odb.read_header(id))
            .map_err(|error| self.broken(&error))?;
        let size = size as u64;
        if size > self.limits.file {
            let limit =
                format!("{} has more than {} MiB", inside.display(), self.limits.file >> 20);
            return Err(self.too_large(limit));
        }
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.written {
            return Err(
                self.too_large(format!("more than {} MiB of files", self.limits.written >> 20))
            );
        }
        let blob = self.repository.find_blob(id).map_err(|error| self.broken(&error))?;
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

    fn broken(&self, error: &git2::Error) -> GitError {
        GitError::Unavailable {
            url: self.url.to_owned(),
            problem: format!("a broken object: {}", error.message()),
        }
    }
}

fn disk(path: &Path, error: &std::io::Error) -> GitError {
    GitError::Disk { path: path.display().to_string(), problem: error.to_string() }
}

fn is_plain(name: &[u8]) -> bool {
    !name.is_empty()
        && name != b"."
        && name != b".."
        && !name.eq_ignore_ascii_case(b".git")
        && !name.iter().any(|byte| *byte == b'/' || *byte == 0)
}

/// Whether a link at `link` (a path in the context) points outside of the context.
fn leaves(link: &Path, target: &Path) -> bool {
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
    fn a_link_stays_in_the_context() {
        for (link, target, out) in [
            ("a", "b", false),
            ("a/b", "../c", false),
            ("a/b/c", "../../d/e", false),
            ("a", "../c", true),
            ("a/b", "../../c", true),
            ("a/b", "x/../../../c", true),
            ("a", "/etc/passwd", true),
        ] {
            assert_eq!(leaves(Path::new(link), Path::new(target)), out, "{link} -> {target}");
        }
    }

    #[test]
    fn names_that_no_file_has_are_refused() {
        for name in [&b""[..], b".", b"..", b".git", b".GIT", b"a/b", b"a\0b"] {
            assert!(!is_plain(name), "{name:?}");
        }
        assert!(is_plain(b".gitignore") && is_plain("ü".as_bytes()));
    }
}
