//! Writes the build context from any kind of source.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use crate::builds::{
    config_map::{self, ContextFile},
    git::{self, FetchLimits, FetchedCommit, SourceSecret, WantedCommit, selection::Selection},
    pod_paths,
    prepare::{
        PodPaths, disk_error,
        error::{PrepareError, PrepareReason},
    },
    request::{GitSecret, ResolvedSource},
};

/// Maximum size of a mounted `ConfigMap` or Secret in bytes. The API server allows 1 MiB.
const MAX_MOUNTED: u64 = 2 << 20;
/// Maximum size of a Dockerfile in bytes.
const MAX_DOCKERFILE: u64 = 1 << 20;

/// Writes the build context, and returns the commit that it comes from. Other sources have none.
pub(super) fn write(
    source: &ResolvedSource,
    paths: &PodPaths,
    limits: &FetchLimits,
) -> Result<FetchedCommit, PrepareError> {
    match source {
        ResolvedSource::Inline { dockerfile } => {
            let dockerfile = ContextFile {
                path: pod_paths::DOCKERFILE,
                executable: false,
                content: dockerfile.as_bytes(),
            };
            write_files(&paths.context(), &[dockerfile])?;
            Ok(FetchedCommit::default())
        }
        ResolvedSource::ConfigMap { name, items, hash } => {
            let missing = |problem: String| {
                PrepareError::new(
                    PrepareReason::SourceNotFound,
                    format!("ConfigMap `{name}` cannot be used as the source: {problem}"),
                )
            };
            let content = read_mounted(&paths.config_map)
                .map_err(|error| disk_error(&paths.config_map, &error))?;
            if content.is_empty() {
                return Err(missing("it does not exist, or it is empty".into()));
            }
            let files = config_map::config_map_files(&content, items)
                .map_err(|error| missing(error.to_string()))?;
            if config_map::files_hash(&files) != *hash {
                let message = format!(
                    "ConfigMap `{name}`, the source, changed while the build was starting; the \
                     next build uses the new content"
                );
                return Err(PrepareError::new(PrepareReason::SourceUnavailable, message));
            }
            write_files(&paths.context(), &files)?;
            Ok(FetchedCommit::default())
        }
        ResolvedSource::Git {
            url,
            commit,
            path,
            dockerfile,
            include,
            exclude,
            submodules,
            lfs,
            secret,
        } => {
            let selection = Selection::new(include, exclude, dockerfile).map_err(|error| {
                PrepareError::new(PrepareReason::SourceUnusable, error.to_string())
            })?;
            let secret = secret.as_ref().map(|secret| source_secret(secret, paths)).transpose()?;
            let wanted = WantedCommit {
                url,
                commit,
                folder: path.as_deref(),
                selection: &selection,
                submodules: *submodules,
                lfs: *lfs,
                secret: secret.as_ref(),
            };
            let scratch = paths.workspace.join(".repository");
            Ok(git::fetch(&wanted, &scratch, &paths.context(), limits)?)
        }
    }
}

fn source_secret(secret: &GitSecret, paths: &PodPaths) -> Result<SourceSecret, PrepareError> {
    let data =
        read_mounted(&paths.git_secret).map_err(|error| disk_error(&paths.git_secret, &error))?;
    if data.is_empty() {
        let message = format!(
            "Secret `{}`, which `source.git.secretRef` names, does not exist or is empty",
            secret.name
        );
        return Err(PrepareError::new(PrepareReason::InvalidSecret, message));
    }
    Ok(SourceSecret::new(&secret.name, &secret.hosts, data))
}

/// Reads the keys of a mounted `ConfigMap` or Secret. Names that begin with two dots belong to the
/// kubelet.
fn read_mounted(folder: &Path) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    let mut left = MAX_MOUNTED;
    let mut content = BTreeMap::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(content),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with("..") {
            continue;
        }
        let mut bytes = Vec::new();
        fs::File::open(entry.path())?.take(left + 1).read_to_end(&mut bytes)?;
        left = left.checked_sub(bytes.len() as u64).ok_or_else(|| {
            std::io::Error::other(format!("it contains more than {MAX_MOUNTED} bytes"))
        })?;
        content.insert(name, bytes);
    }
    Ok(content)
}

fn write_files(context: &Path, files: &[ContextFile<'_>]) -> Result<(), PrepareError> {
    fs::create_dir(context).map_err(|error| disk_error(context, &error))?;
    for file in files {
        let path = context.join(file.path);
        let write = || {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            let mode = if file.executable { 0o755 } else { 0o644 };
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&path)?
                .write_all(file.content)
        };
        write().map_err(|error| disk_error(&path, &error))?;
    }
    Ok(())
}

/// Reads the Dockerfile of a build context. It follows no link out of the context, because
/// `prepare` mounts Secrets and quotes what it reads.
pub(super) fn read_dockerfile(context: &Path, path: &str) -> Result<String, PrepareError> {
    let missing = |problem: &str| {
        PrepareError::new(
            PrepareReason::SourceNotFound,
            format!("the Dockerfile `{path}` of the build context {problem}"),
        )
    };
    let context = context.canonicalize().map_err(|error| disk_error(context, &error))?;
    let file = context.join(path).canonicalize().map_err(|_| missing("does not exist"))?;
    if !file.starts_with(&context) {
        return Err(missing("is a link to a file outside of the build context"));
    }
    if !file.is_file() {
        return Err(missing("is not a file"));
    }
    let mut bytes = Vec::new();
    fs::File::open(&file)
        .and_then(|file| file.take(MAX_DOCKERFILE + 1).read_to_end(&mut bytes))
        .map_err(|error| disk_error(&file, &error))?;
    if bytes.len() as u64 > MAX_DOCKERFILE {
        return Err(PrepareError::new(
            PrepareReason::DockerfileMismatch,
            format!("the Dockerfile `{path}` is larger than 1 MiB"),
        ));
    }
    String::from_utf8(bytes).map_err(|_| {
        PrepareError::new(
            PrepareReason::DockerfileMismatch,
            format!("the Dockerfile `{path}` is not UTF-8 text"),
        )
    })
}
