//! Fetches the files of a commit: the repository that a source names, then the submodules that its
//! trees name, each at the commit in the tree. See [`checkout`] for what is
//! written, and [`submodules`] for where the URLs come from.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use git2::{Commit, ObjectType, Oid, Repository, Tree};
use jiff::Timestamp;
use url::Url;

use crate::{
    api::labels::CREDENTIAL_HOSTS,
    builds::git::{
        CREDENTIAL_REQUIRED, FetchLimits, GitCredential, GitError, SourceSecret,
        checkout::{ContextWriter, FoundInTree, FoundSubmodule, TreePlace},
        git_error,
        lfs::{self, LfsFile, LfsServer},
        parse,
        receive::ReceivedCommit,
        route::Route,
        selection::Selection,
        submodules::{self, Gitmodules},
    },
};

/// Maximum depth of submodules in submodules.
const MAX_SUBMODULE_DEPTH: usize = 5;

/// A commit to fetch.
#[derive(Clone, Copy)]
pub struct WantedCommit<'a> {
    /// The URL of the repository.
    pub url: &'a str,
    /// The id of the commit.
    pub commit: &'a str,
    /// The only folder of it that is wanted.
    pub folder: Option<&'a str>,
    /// Which files of the folder are wanted.
    pub selection: &'a Selection,
    /// Whether submodules are fetched. Otherwise the source must not have any.
    pub submodules: bool,
    /// Whether files of Git LFS are fetched. Otherwise the source must not have any.
    pub lfs: bool,
    /// What the servers require.
    pub secret: Option<&'a SourceSecret>,
}

/// A commit whose files were written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchedCommit {
    /// When it was committed, according to whoever committed it.
    pub committed_at: Option<Timestamp>,
}

/// Writes the files of a commit, or of one folder of it, to `destination`, which must not exist.
/// `scratch` holds the repositories meanwhile and must not exist either. It is removed afterwards.
///
/// # Errors
/// Returns a [`GitError`] if a server cannot be read, the commit or the folder does not exist, the
/// source exceeds the limits or has an entry that is unsafe or not wanted, or the disk fails.
pub fn fetch(
    wanted: &WantedCommit<'_>,
    scratch: &Path,
    destination: &Path,
    limits: &FetchLimits,
) -> Result<FetchedCommit, GitError> {
    let deadline = Instant::now() + limits.time;
    let result = WantedRepository::of_source(wanted).and_then(|source| {
        let writer = ContextWriter::create(wanted, destination, limits, deadline)?;
        let run =
            FetchRun { wanted, limits, deadline, scratch, received: 0, repositories: 0, writer };
        run.fetch_all(&source)
    });
    // Leftovers in scratch do no harm, because they are deleted with the pod.
    let _ = fs::remove_dir_all(scratch);
    result
}

/// One repository to fetch.
struct WantedRepository {
    parsed: Url,
    url: String,
    /// The URL, and for a submodule its path, for messages.
    label: String,
    commit: Oid,
    credential: Option<GitCredential>,
    /// Where its tree is written in the build context.
    inside: PathBuf,
    /// How many repositories it is nested in.
    depth: usize,
}

impl WantedRepository {
    fn of_source(wanted: &WantedCommit<'_>) -> Result<Self, GitError> {
        let WantedCommit { url, commit, secret, .. } = *wanted;
        let missing =
            |_| GitError::NotFound { url: url.to_owned(), what: format!("the commit {commit}") };
        Ok(Self {
            parsed: parse(url)?,
            url: url.to_owned(),
            label: url.to_owned(),
            commit: Oid::from_str(commit).map_err(missing)?,
            credential: secret.map(|secret| secret.credential(url)).transpose()?,
            inside: PathBuf::new(),
            depth: 0,
        })
    }

    fn missing(&self, what: String) -> GitError {
        GitError::NotFound { url: self.label.clone(), what }
    }

    fn unavailable(&self, problem: String) -> GitError {
        GitError::Unavailable { url: self.label.clone(), problem }
    }

    fn error(&self, error: &git2::Error) -> GitError {
        git_error(&self.label, self.credential.as_ref(), error)
    }
}

/// A submodule that is to be fetched.
struct PendingSubmodule {
    url: String,
    found: FoundSubmodule,
    depth: usize,
}

/// One fetch, in progress.
struct FetchRun<'a> {
    wanted: &'a WantedCommit<'a>,
    limits: &'a FetchLimits,
    deadline: Instant,
    scratch: &'a Path,
    received: usize,
    repositories: usize,
    writer: ContextWriter<'a>,
}

impl FetchRun<'_> {
    fn fetch_all(mut self, source: &WantedRepository) -> Result<FetchedCommit, GitError> {
        let mut pending = Vec::new();
        let fetched = self.fetch_repository(source, &mut pending)?;
        while let Some(next) = pending.pop() {
            let submodule = self.submodule(next)?;
            self.fetch_repository(&submodule, &mut pending)?;
        }
        self.writer.finish()?;
        Ok(fetched)
    }

    /// Fetches one repository and writes its tree. Adds its submodules to `pending`.
    fn fetch_repository(
        &mut self,
        wanted: &WantedRepository,
        pending: &mut Vec<PendingSubmodule>,
    ) -> Result<FetchedCommit, GitError> {
        self.repositories += 1;
        let path = self.scratch.join(self.repositories.to_string());
        let disk = |problem: &str| GitError::Disk {
            path: path.display().to_string(),
            problem: problem.to_owned(),
        };
        fs::create_dir_all(&path).map_err(|error| disk(&error.to_string()))?;
        let repository = Repository::init_bare(&path).map_err(|error| disk(error.message()))?;
        self.receive(&repository, wanted)
            .map_err(|error| self.explain_credential(error, &wanted.url))?;
        let missing = |_| wanted.missing(format!("the commit {}", wanted.commit));
        let commit = repository.find_commit(wanted.commit).map_err(missing)?;
        self.write(&repository, &commit, wanted, pending)?;
        let committed_at = Timestamp::from_second(commit.time().seconds()).ok();
        drop(commit);
        drop(repository);
        let _ = fs::remove_dir_all(&path);
        Ok(FetchedCommit { committed_at })
    }

    fn write(
        &mut self,
        repository: &Repository,
        commit: &Commit<'_>,
        wanted: &WantedRepository,
        pending: &mut Vec<PendingSubmodule>,
    ) -> Result<(), GitError> {
        let root = commit.tree().map_err(|error| wanted.error(&error))?;
        // Only the source itself has a folder: submodules are written from their roots.
        let folder = self.wanted.folder.filter(|_| wanted.depth == 0).unwrap_or_default();
        let place = TreePlace {
            repository,
            url: &wanted.label,
            folder: Path::new(folder),
            inside: &wanted.inside,
        };
        let found = if folder.is_empty() {
            self.writer.write(place, &root)?
        } else {
            let tree = find_folder(place, &root, wanted)?;
            self.writer.write(place, &tree)?
        };
        let FoundInTree { submodules, lfs } = found;
        self.fetch_lfs(place, &root, wanted, &lfs)?;
        pending.extend(urls(place, &root, wanted, submodules)?);
        Ok(())
    }

    /// Returns a submodule as a repository to fetch.
    fn submodule(&self, pending: PendingSubmodule) -> Result<WantedRepository, GitError> {
        let PendingSubmodule { url, found, depth } = pending;
        // The source itself is the first repository.
        if self.repositories > self.limits.submodules {
            return Err(GitError::TooLarge {
                url: self.wanted.url.to_owned(),
                limit: format!("it has more than {} submodules", self.limits.submodules),
            });
        }
        let credential = match self.wanted.secret {
            Some(secret) => secret.credential_if_listed(&url)?,
            None => None,
        };
        let inside = found.inside.display();
        let submodule = WantedRepository {
            parsed: parse(&url)?,
            label: format!("{url} (submodule `{inside}`)"),
            url,
            commit: found.commit,
            credential,
            inside: found.inside,
            depth,
        };
        if submodule.parsed.scheme() == "ssh" && submodule.credential.is_none() {
            let problem = self.missing_credential(&submodule.url);
            return Err(submodule.unavailable(problem));
        }
        Ok(submodule)
    }

    fn fetch_lfs(
        &self,
        place: TreePlace<'_>,
        root: &Tree<'_>,
        wanted: &WantedRepository,
        files: &[LfsFile],
    ) -> Result<(), GitError> {
        if files.is_empty() {
            return Ok(());
        }
        let name = ".lfsconfig";
        let config = place.read_root_file(root, name, lfs::MAX_LFSCONFIG)?.unwrap_or_default();
        let endpoint = lfs::endpoint(&wanted.parsed, &config)
            .map_err(|problem| place.unusable(Path::new(name), &problem))?;
        let credential = match self.wanted.secret {
            Some(secret) => secret.credential_if_listed(endpoint.as_str())?,
            None => None,
        };
        let address = endpoint.to_string();
        let server = LfsServer { endpoint, url: place.url, credential: credential.as_ref() };
        lfs::download(server, files, self.deadline)
            .map_err(|error| self.explain_credential(error, &address))
    }

    /// Says why a server that requires a credential got none, although the source has a Secret.
    fn explain_credential(&self, error: GitError, address: &str) -> GitError {
        match error {
            GitError::Unavailable { url, problem } if problem.contains(CREDENTIAL_REQUIRED) => {
                let missing = self.missing_credential(address);
                GitError::Unavailable {
                    url,
                    problem: problem.replace(CREDENTIAL_REQUIRED, &missing),
                }
            }
            other => other,
        }
    }

    fn missing_credential(&self, address: &str) -> String {
        match self.wanted.secret {
            None => CREDENTIAL_REQUIRED.into(),
            Some(secret) if !secret.lists(address) => format!(
                "the server requires a credential, and the annotation `{CREDENTIAL_HOSTS}` of the \
                 Secret `{}` does not list it; add the host or the path if the Secret may be sent \
                 there",
                secret.name()
            ),
            Some(secret) => format!(
                "the server requires a credential, and the Secret `{}` has no `username` and \
                 `password`",
                secret.name()
            ),
        }
    }

    /// Receives the commit of a repository.
    fn receive(
        &mut self,
        repository: &Repository,
        wanted: &WantedRepository,
    ) -> Result<(), GitError> {
        let commit = ReceivedCommit {
            repository,
            url: &wanted.parsed,
            route: &Route::direct(&wanted.parsed),
            label: &wanted.label,
            credential: wanted.credential.as_ref(),
            id: wanted.commit,
            reference: &wanted.commit.to_string(),
            received: self.received,
            limits: self.limits,
            deadline: self.deadline,
        };
        self.received = commit.receive()?;
        Ok(())
    }
}

/// Returns the tree of the source's folder.
fn find_folder<'r>(
    place: TreePlace<'r>,
    root: &Tree<'r>,
    wanted: &WantedRepository,
) -> Result<Tree<'r>, GitError> {
    let missing =
        || wanted.missing(format!("the folder `{}` in {}", place.folder.display(), wanted.commit));
    let mut tree = root.clone();
    let mut path = PathBuf::new();
    for name in place.folder {
        path.push(name);
        let entry = name.to_str().and_then(|name| tree.get_name(name)).ok_or_else(missing)?;
        if entry.kind() == Some(ObjectType::Commit) {
            let problem = "is a submodule, and `source.git.path` leads into it; name the \
                           repository of the submodule in `source.git.url`";
            return Err(place.unusable(&path, problem));
        }
        let below = place.repository.find_tree(entry.id()).map_err(|_| missing())?;
        drop(entry);
        tree = below;
    }
    Ok(tree)
}

/// Returns the submodules of a tree with their URLs.
fn urls(
    place: TreePlace<'_>,
    root: &Tree<'_>,
    wanted: &WantedRepository,
    found: Vec<FoundSubmodule>,
) -> Result<Vec<PendingSubmodule>, GitError> {
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let depth = wanted.depth + 1;
    let name = ".gitmodules";
    let text = place.read_root_file(root, name, submodules::MAX_GITMODULES)?.unwrap_or_default();
    let modules = Gitmodules::parse(&text)
        .map_err(|problem| place.unusable(Path::new(name), &format!("is refused: {problem}")))?;
    let with_url = |found: FoundSubmodule| {
        let path = found.path.to_string_lossy();
        if depth > MAX_SUBMODULE_DEPTH {
            let problem =
                format!("is a submodule that is nested deeper than {MAX_SUBMODULE_DEPTH} levels");
            return Err(place.unusable(&found.inside, &problem));
        }
        let url = modules
            .url(&path, &wanted.parsed)
            .map_err(|problem| place.unusable(&found.inside, &problem))?;
        Ok(PendingSubmodule { url, found, depth })
    };
    found.into_iter().map(with_url).collect()
}
