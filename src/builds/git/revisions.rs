//! The revisions of folders: what of a commit an image is built from, as one hash, and the commits
//! that have changed it.
//!
//! If every file of a folder counts, its revision is the id of its tree, as
//! `git rev-parse COMMIT:PATH` prints it. Otherwise it is a hash of the path, mode and id of each
//! file that counts, and of the id of the Dockerfile, which always counts. A submodule counts with
//! the id of its commit.

use std::{collections::HashMap, sync::Arc};

use sha2::{Digest as _, Sha256};

use crate::{
    builds::git::{
        GitError,
        counted_files::{CountedFiles, ignore_files},
        docker_ignore::DockerIgnore,
        folder::{FolderError, GitFolder},
        object::{ObjectId, ObjectKind, ObjectReader, Objects, TreeEntry},
    },
    identity::{FolderCommit, FolderRevision},
};

/// Maximum size of a Dockerfile or a `.dockerignore` in bytes.
pub(super) const MAX_FILE: usize = 1 << 20;
/// Maximum size of all Dockerfiles of a commit in bytes.
const MAX_DOCKERFILES: usize = 8 << 20;
/// Maximum number of commits whose changes are named.
pub(super) const MAX_HISTORY: usize = 50;
/// Maximum number of entries of one folder that are visited because files of it are left out.
const MAX_VISITED: usize = 200_000;
/// Maximum number of entries that are visited in all folders together.
const MAX_VISITED_IN_ALL: usize = 4_000_000;
/// Maximum depth of nested folders.
const MAX_DEPTH: usize = 64;
/// Length of a revision in hexadecimal digits.
const REVISION_LENGTH: usize = 40;

/// The revision of one folder, or why it has none.
pub type FolderResult = Result<FolderRevision, FolderError>;

/// Returns the revisions of folders at a commit, in their order.
pub(super) fn folder_revisions(
    objects: &mut impl Objects,
    url: &str,
    commit: &str,
    folders: &[GitFolder],
) -> Result<Vec<FolderResult>, GitError> {
    let mut reading = Reading {
        reader: ObjectReader::new(objects, url),
        url,
        commit,
        left: MAX_VISITED,
        left_in_all: MAX_VISITED_IN_ALL,
    };
    let history = reading.history()?;
    let mut located = Vec::with_capacity(folders.len());
    for folder in folders {
        located.push(of_folder(reading.locate(&history, folder))?);
    }
    let files: Vec<ObjectId> = located.iter().flatten().flat_map(Located::files).collect();
    reading.reader.objects.fetch_files(&files)?;
    let mut text = MAX_DOCKERFILES;
    let mut revisions = Vec::with_capacity(folders.len());
    for (folder, located) in folders.iter().zip(located) {
        revisions.push(match located {
            Ok(located) => of_folder(reading.revision(&history, folder, &located, &mut text))?,
            Err(error) => Err(error),
        });
    }
    Ok(revisions)
}

/// What was read of one folder, or why it cannot be used.
type OfFolder<T> = Result<T, FolderError>;

/// Why a folder was not read.
enum ReadError {
    /// It concerns this folder alone.
    Folder(FolderError),
    /// It concerns the whole repository.
    Repository(GitError),
}

impl From<GitError> for ReadError {
    fn from(error: GitError) -> Self {
        Self::Repository(error)
    }
}

impl From<FolderError> for ReadError {
    fn from(error: FolderError) -> Self {
        Self::Folder(error)
    }
}

/// Returns what was read of one folder. The error concerns the whole repository.
fn of_folder<T>(read: Result<T, ReadError>) -> Result<OfFolder<T>, GitError> {
    match read {
        Ok(value) => Ok(Ok(value)),
        Err(ReadError::Folder(error)) => Ok(Err(error)),
        Err(ReadError::Repository(error)) => Err(error),
    }
}

/// The commits along the first parents, the newest first.
struct RecentHistory {
    commits: Vec<HistoryCommit>,
    /// Whether the last of them is the first commit of the repository.
    is_complete: bool,
}

struct HistoryCommit {
    id: ObjectId,
    tree: ObjectId,
}

/// A folder and its files at the newest commit.
struct Located {
    tree: ObjectId,
    dockerfile: TreeEntry,
    ignore_file: Option<ObjectId>,
}

impl Located {
    /// Returns the files whose content is needed.
    fn files(&self) -> impl Iterator<Item = ObjectId> + use<> {
        let dockerfile = self.dockerfile.is_file().then_some(self.dockerfile.id);
        dockerfile.into_iter().chain(self.ignore_file)
    }
}

/// Hashes of the files that count, by tree and path of the folder; `None` if no file of it counts.
type TreeHashes = HashMap<(ObjectId, String), Option<[u8; 32]>>;

struct Reading<'a, O> {
    reader: ObjectReader<'a, O>,
    url: &'a str,
    commit: &'a str,
    /// How many entries of the current folder may still be visited.
    left: usize,
    /// How many entries of all folders may still be visited.
    left_in_all: usize,
}

impl<O: Objects> Reading<'_, O> {
    fn history(&self) -> Result<RecentHistory, GitError> {
        let missing = || GitError::NotFound {
            url: self.url.to_owned(),
            what: format!("the commit {}", self.commit),
        };
        let mut next = Some(ObjectId::parse(self.commit).ok_or_else(missing)?);
        let mut commits: Vec<HistoryCommit> = Vec::new();
        while let Some(id) = next {
            let known = if commits.len() < MAX_HISTORY { self.reader.commit(id)? } else { None };
            let Some(commit) = known else {
                if commits.is_empty() {
                    return Err(missing());
                }
                return Ok(RecentHistory { commits, is_complete: false });
            };
            commits.push(HistoryCommit { id, tree: commit.tree });
            next = commit.parent;
        }
        Ok(RecentHistory { commits, is_complete: true })
    }

    /// Returns the id of the folder's tree in a commit, or `None` if the commit has no such folder.
    fn tree_of(
        &mut self,
        commit: &HistoryCommit,
        folder: &GitFolder,
    ) -> Result<Option<ObjectId>, GitError> {
        if folder.path.is_empty() {
            return Ok(Some(commit.tree));
        }
        let entry = self.reader.entry(commit.tree, &folder.path)?;
        Ok(entry.filter(TreeEntry::is_folder).map(|entry| entry.id))
    }

    fn ignore_file(
        &mut self,
        tree: ObjectId,
        folder: &GitFolder,
    ) -> Result<Option<ObjectId>, GitError> {
        for path in ignore_files(&folder.dockerfile) {
            if let Some(entry) = self.reader.entry(tree, &path)?.filter(TreeEntry::is_file) {
                return Ok(Some(entry.id));
            }
        }
        Ok(None)
    }

    fn locate(
        &mut self,
        history: &RecentHistory,
        folder: &GitFolder,
    ) -> Result<Located, ReadError> {
        let (commit, url) = (self.commit.to_owned(), self.url.to_owned());
        let tree = match history.commits.first() {
            Some(newest) => self.tree_of(newest, folder)?,
            None => None,
        };
        let Some(tree) = tree else {
            return Err(FolderError::NoFolder { path: folder.path.clone(), commit, url }.into());
        };
        let dockerfile = self.reader.entry(tree, &folder.dockerfile)?;
        let is_usable = |entry: &TreeEntry| entry.is_file() || entry.is_link();
        let Some(dockerfile) = dockerfile.filter(is_usable) else {
            let path = [folder.path.as_str(), folder.dockerfile.as_str()];
            let path = path.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
            return Err(FolderError::NoDockerfile { path: path.join("/"), commit, url }.into());
        };
        let ignore_file = self.ignore_file(tree, folder)?;
        Ok(Located { tree, dockerfile, ignore_file })
    }

    /// Returns the revision of a folder. `text` is how many bytes of Dockerfiles may still be
    /// returned.
    fn revision(
        &mut self,
        history: &RecentHistory,
        folder: &GitFolder,
        located: &Located,
        text: &mut usize,
    ) -> Result<FolderRevision, ReadError> {
        let selection = self.selection(folder, located)?;
        self.left = MAX_VISITED.min(self.left_in_all);
        self.left_in_all -= self.left;
        let mut changes = FolderChanges { folder, located, selection, hashes: TreeHashes::new() };
        let result = self.selected_revision(history, &mut changes, text);
        self.left_in_all += self.left;
        result
    }

    fn selected_revision(
        &mut self,
        history: &RecentHistory,
        changes: &mut FolderChanges<'_>,
        text: &mut usize,
    ) -> Result<FolderRevision, ReadError> {
        let FolderChanges { folder, located, .. } = *changes;
        let revision = self.selected(located.tree, changes)?;
        if let Some(pattern) = changes.selection.unmatched() {
            return Err(FolderError::NoMatch {
                pattern: pattern.to_owned(),
                path: folder.path.clone(),
                commit: self.commit.to_owned(),
            }
            .into());
        }
        let dockerfile = self.text(located.dockerfile.id)?.filter(|_| located.dockerfile.is_file());
        let length = dockerfile.as_ref().map_or(0, |dockerfile| dockerfile.len());
        *text = text.checked_sub(length).ok_or_else(|| {
            let limit = format!("the Dockerfiles have more than {} MiB", MAX_DOCKERFILES >> 20);
            self.too_large(folder, limit)
        })?;
        let touched_by = self.touched_by(history, &revision, changes)?;
        Ok(FolderRevision { revision, commit: self.commit.to_owned(), touched_by, dockerfile })
    }

    fn too_large(&self, folder: &GitFolder, limit: impl Into<String>) -> FolderError {
        FolderError::TooLarge {
            path: folder.path.clone(),
            commit: self.commit.to_owned(),
            limit: limit.into(),
        }
    }

    /// Returns the content of a file; `None` if it is too large or no text.
    fn text(&self, id: ObjectId) -> Result<Option<Arc<str>>, GitError> {
        let bytes = self.reader.objects.read(id, ObjectKind::Blob)?;
        let bytes = bytes.filter(|bytes| bytes.len() <= MAX_FILE);
        Ok(bytes.and_then(|bytes| std::str::from_utf8(&bytes).ok().map(Into::into)))
    }

    fn selection(&self, folder: &GitFolder, located: &Located) -> Result<CountedFiles, ReadError> {
        let Some(id) = located.ignore_file else { return Ok(CountedFiles::of(folder, None)?) };
        let text = self.text(id)?.ok_or_else(|| {
            self.too_large(folder, "its `.dockerignore` is no text of at most 1 MiB")
        })?;
        let docker = DockerIgnore::parse(&text).map_err(|invalid| FolderError::InvalidPattern {
            field: format!(
                "path: the `.dockerignore` of `{}` in commit {}",
                folder.path, self.commit
            ),
            pattern: invalid.line,
            problem: invalid.problem,
        })?;
        Ok(CountedFiles::of(folder, docker)?)
    }

    /// Returns the revision of a tree of a folder.
    fn selected(
        &mut self,
        tree: ObjectId,
        changes: &mut FolderChanges<'_>,
    ) -> Result<String, ReadError> {
        if changes.selection.is_everything() {
            return Ok(tree.to_string());
        }
        let dockerfile = self.reader.entry(tree, &changes.folder.dockerfile)?;
        let files = self.hash_files(tree, "", changes)?;
        let hash = Sha256::new()
            .chain_update(b"git folder\0")
            .chain_update(files.unwrap_or_default())
            .chain_update(dockerfile.map_or([0; 20], |entry| entry.id.0));
        let mut revision = hex::encode(hash.finalize());
        revision.truncate(REVISION_LENGTH);
        Ok(revision)
    }

    /// Returns the hash of the files of a folder that count, or `None` if none does. `path` is its
    /// path, with a slash at its end unless it is empty.
    fn hash_files(
        &mut self,
        tree: ObjectId,
        path: &str,
        changes: &mut FolderChanges<'_>,
    ) -> Result<Option<[u8; 32]>, ReadError> {
        if let Some(known) = changes.hashes.get(&(tree, path.to_owned())) {
            return Ok(*known);
        }
        let entries = self.reader.read_tree(tree)?.unwrap_or_default();
        self.left = self.left.checked_sub(entries.len()).ok_or_else(|| {
            let limit = format!("more than {MAX_VISITED} entries have to be visited");
            self.too_large(changes.folder, limit)
        })?;
        if path.split('/').count() > MAX_DEPTH {
            let limit = format!("its folders are nested deeper than {MAX_DEPTH} levels");
            return Err(self.too_large(changes.folder, limit).into());
        }
        let mut hash = Sha256::new();
        let mut is_empty = true;
        for entry in &entries {
            // A name that is no text is matched as well as it can be, and counts byte by byte.
            let inside = format!("{path}{}", String::from_utf8_lossy(&entry.name));
            let content = if entry.is_folder() {
                match self.hash_files(entry.id, &format!("{inside}/"), changes)? {
                    None => continue,
                    Some(hash) => hash.to_vec(),
                }
            } else if changes.selection.counts(&inside) {
                entry.id.0.to_vec()
            } else {
                continue;
            };
            is_empty = false;
            hash.update(entry.mode.to_be_bytes());
            hash.update((entry.name.len() as u64).to_be_bytes());
            hash.update(&entry.name);
            hash.update(content);
        }
        let hash = (!is_empty).then(|| hash.finalize().into());
        changes.hashes.insert((tree, path.to_owned()), hash);
        Ok(hash)
    }

    /// Returns the commits of the history that have changed a folder, the newest first. A commit
    /// has changed it if its first parent has another revision of it, or no such folder.
    fn touched_by(
        &mut self,
        history: &RecentHistory,
        revision: &str,
        changes: &mut FolderChanges<'_>,
    ) -> Result<Vec<FolderCommit>, GitError> {
        let mut touched = Vec::new();
        let mut revision = revision.to_owned();
        let mut tree = changes.located.tree;
        for (index, commit) in history.commits.iter().enumerate() {
            let before = match history.commits.get(index + 1) {
                Some(parent) => self.tree_of(parent, changes.folder)?,
                // Nothing is known of what is older.
                None if !history.is_complete => break,
                None => None,
            };
            let is_same = before == Some(tree);
            let revision_before = match before {
                Some(_) if is_same => Some(revision.clone()),
                Some(before) => self.revision_before(before, changes)?,
                None => None,
            };
            if revision_before.as_ref() != Some(&revision) {
                let id = commit.id.to_string();
                touched.push(FolderCommit { id, before: revision_before.clone() });
            }
            match (revision_before, before) {
                (Some(revision_before), Some(before)) => {
                    (revision, tree) = (revision_before, before);
                }
                _ => break,
            }
        }
        Ok(touched)
    }

    /// Returns the revision of an older tree of a folder, or `None` if it is not known: the content
    /// of an older `.dockerignore` is not fetched.
    fn revision_before(
        &mut self,
        tree: ObjectId,
        changes: &mut FolderChanges<'_>,
    ) -> Result<Option<String>, GitError> {
        if self.ignore_file(tree, changes.folder)? != changes.located.ignore_file {
            return Ok(None);
        }
        Ok(of_folder(self.selected(tree, changes))?.ok())
    }
}

/// A folder whose changes are read.
struct FolderChanges<'a> {
    folder: &'a GitFolder,
    located: &'a Located,
    selection: CountedFiles,
    hashes: TreeHashes,
}
