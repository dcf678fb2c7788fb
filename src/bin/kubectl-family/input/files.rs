//! Reads the files that a user names. Every read is bounded: what is large, binary or endless is a
//! problem, and neither exhausts the memory nor hangs.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    rc::Rc,
};

use anyhow::bail;

use crate::input::InputProblem;

/// Maximum number of bytes that are read of a file.
pub const MAX_FILE_BYTES: u64 = 32 * 1024 * 1024;
/// Maximum number of files that are read.
const MAX_FILES: usize = 10_000;
/// Maximum number of bytes that are read in all.
const MAX_TOTAL_BYTES: usize = 512 * 1024 * 1024;
/// Maximum number of folders below each other.
const MAX_DEPTH: usize = 32;
/// The endings of files that are read in a folder.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];
/// What a file contains that has objects of ours.
pub const GROUP_MARK: &str = "groundswell.dev/";

/// Whether the folders below a folder are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Only the files of the folder itself.
    Single,
    /// The folders below it, too.
    Recursive,
}

/// A file, or the standard input.
#[derive(Clone, Debug)]
pub struct InputFile {
    /// Its path as the user knows it; `stdin` for the standard input.
    pub name: Rc<str>,
    /// Its text.
    pub text: Rc<str>,
    /// Whether the user has named it. Otherwise a folder contains it, and it may be something else.
    pub named: bool,
}

/// The files that were read.
#[derive(Clone, Debug, Default)]
pub struct FilesRead {
    /// The files, each folder in the order of names.
    pub files: Vec<InputFile>,
    /// The files that could not be read, and why.
    pub problems: Vec<InputProblem>,
}

/// Reads files, the YAML and JSON files of folders, and the standard input (`-`).
///
/// # Errors
///
/// Returns an error if there are too many files, or too much in them.
pub fn read_all(names: &[PathBuf], depth: Depth) -> anyhow::Result<FilesRead> {
    let mut reader = FolderReader { depth, ..FolderReader::default() };
    for name in names {
        if name.as_os_str() == "-" {
            reader.add("stdin", read_text(&mut io::stdin().lock()), FileNaming::Named)?;
        } else if name.is_dir() {
            reader.add_folder(name, 0)?;
        } else {
            reader.add_file(name, FileNaming::Named)?;
        }
    }
    Ok(reader.read)
}

/// Whether the user has named a file, or a folder contains it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileNaming {
    Named,
    InFolder,
}

struct FolderReader {
    depth: Depth,
    /// The folders that were entered. Links may lead to one of them again.
    entered: HashSet<PathBuf>,
    bytes: usize,
    read: FilesRead,
}

impl Default for FolderReader {
    fn default() -> Self {
        let read = FilesRead::default();
        Self { depth: Depth::Single, entered: HashSet::new(), bytes: 0, read }
    }
}

impl FolderReader {
    fn add_folder(&mut self, folder: &Path, level: usize) -> anyhow::Result<()> {
        let entries = fs::canonicalize(folder).and_then(|real| Ok((real, list(folder)?)));
        let (real, entries) = match entries {
            Ok(entries) => entries,
            Err(error) => {
                self.add_problem(&folder.display().to_string(), &error);
                return Ok(());
            }
        };
        if !self.entered.insert(real) {
            return Ok(());
        }
        for path in entries {
            if path.is_dir() {
                if self.depth == Depth::Recursive && level < MAX_DEPTH && !is_hidden(&path) {
                    self.add_folder(&path, level + 1)?;
                }
            } else if has_ending(&path) && path.is_file() {
                self.add_file(&path, FileNaming::InFolder)?;
            }
        }
        Ok(())
    }

    fn add_file(&mut self, path: &Path, naming: FileNaming) -> anyhow::Result<()> {
        let text = File::open(path).and_then(|mut file| read_text(&mut file));
        self.add(&path.display().to_string(), text, naming)
    }

    fn add(
        &mut self,
        name: &str,
        text: io::Result<String>,
        naming: FileNaming,
    ) -> anyhow::Result<()> {
        match text {
            Ok(text) => {
                self.bytes += text.len();
                let file = InputFile {
                    name: name.into(),
                    text: text.into(),
                    named: naming == FileNaming::Named,
                };
                self.read.files.push(file);
            }
            // What is no text is none of ours, unless the user says so.
            Err(error)
                if naming == FileNaming::InFolder && error.kind() == io::ErrorKind::InvalidData => {
            }
            Err(error) => self.add_problem(name, &error),
        }
        if self.read.files.len() > MAX_FILES || self.bytes > MAX_TOTAL_BYTES {
            bail!(
                "more than {MAX_FILES} files, or {} MiB of them, are named; name fewer",
                MAX_TOTAL_BYTES / 1024 / 1024
            );
        }
        Ok(())
    }

    fn add_problem(&mut self, name: &str, error: &io::Error) {
        let message = match error.kind() {
            io::ErrorKind::NotFound => "no such file or folder; correct the name".into(),
            io::ErrorKind::PermissionDenied => {
                "reading it is not permitted; change its permissions".into()
            }
            _ => error.to_string(),
        };
        self.read.problems.push(InputProblem { place: name.into(), message });
    }
}

/// Returns the entries of a folder, sorted.
fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.take(MAX_FILES);
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
    paths.sort();
    Ok(paths)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

fn has_ending(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

/// Reads a text of at most [`MAX_FILE_BYTES`].
fn read_text(source: &mut impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    let read = source.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if read as u64 > MAX_FILE_BYTES {
        let mib = MAX_FILE_BYTES / 1024 / 1024;
        return Err(io::Error::other(format!("it has more than {mib} MiB; split it")));
    }
    let invalid = |_| io::Error::new(io::ErrorKind::InvalidData, "it is no text in UTF-8");
    let text = String::from_utf8(bytes).map_err(invalid)?;
    if text.contains('\0') {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is binary, and no YAML"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(read: &FilesRead) -> Vec<String> {
        let names = read.files.iter().map(|file| Path::new(&*file.name).file_name());
        names.map(|name| name.expect("a name").to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_folder_is_read_with_or_without_the_folders_below() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["b.yaml", "a.yml", "c.json", "Dockerfile", ".git/x.yaml", "sub/d.yaml"] {
            fs::create_dir_all(at(name).parent().expect("a folder")).expect("a folder");
            fs::write(at(name), "kind: Other").expect("a file");
        }
        // A circle, and a file that is reached twice through it.
        std::os::unix::fs::symlink(folder.path(), at("sub/loop")).expect("a link");
        fs::write(at("binary.yaml"), b"\xff\xfe\0").expect("a file");
        let read = |depth| read_all(&[folder.path().to_owned()], depth).expect("read");
        assert_eq!(names(&read(Depth::Single)), ["a.yml", "b.yaml", "c.json"]);
        assert_eq!(names(&read(Depth::Recursive)), ["a.yml", "b.yaml", "c.json", "d.yaml"]);
        assert_eq!(read(Depth::Recursive).problems, []);
    }

    #[test]
    fn what_a_user_names_and_cannot_be_read_is_a_problem() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::write(at("binary"), b"a\0b").expect("a file");
        let large = File::create(at("large")).expect("a file");
        large.set_len(MAX_FILE_BYTES + 1).expect("a size");
        std::os::unix::fs::symlink(at("circle"), at("circle")).expect("a link");
        let names = ["binary", "large", "circle", "missing"].map(at);
        let found = read_all(&names, Depth::Single).expect("read").problems;
        let messages: Vec<&str> = found.iter().map(|problem| problem.message.as_str()).collect();
        for (message, expected) in
            messages.iter().zip(["binary", "more than 32 MiB", "symbolic links", "no such file"])
        {
            assert!(message.contains(expected), "{message}");
        }
        assert_eq!(messages.len(), 4);
    }
}
