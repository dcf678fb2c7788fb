//! Reads the files that a user names. Every read is bounded: what is large, binary or endless is a
//! problem, and neither exhausts the memory nor hangs.

use std::{
    collections::HashSet,
    fs::{self, File, ReadDir},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::bail;

use crate::input::InputProblem;

/// Maximum number of bytes that are read of a file.
pub const MAX_FILE_BYTES: u64 = 32 * 1024 * 1024;
/// Maximum number of files that are read.
const MAX_FILES: usize = 10_000;
/// Maximum number of bytes that are read in all.
const MAX_TOTAL_BYTES: usize = 512 * 1024 * 1024;
/// Maximum number of entries of folders that are listed, whatever they are.
const MAX_ENTRIES: usize = 1_000_000;
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
    pub name: Arc<str>,
    /// Its text.
    pub text: Arc<str>,
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
/// Returns an error if there are too many files, too much in them, or folders too deep below each
/// other: nothing is left out silently.
pub fn read_all(names: &[PathBuf], depth: Depth) -> anyhow::Result<FilesRead> {
    let mut reader = FolderReader::new(depth);
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
    /// How many entries of folders were listed.
    entries: usize,
    bytes: usize,
    read: FilesRead,
}

/// What is read of a folder, each in the order of names.
#[derive(Debug, Default)]
struct FolderEntries {
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
}

impl FolderReader {
    fn new(depth: Depth) -> Self {
        let read = FilesRead::default();
        Self { depth, entered: HashSet::new(), entries: 0, bytes: 0, read }
    }

    fn add_folder(&mut self, folder: &Path, level: usize) -> anyhow::Result<()> {
        let opened = fs::canonicalize(folder).and_then(|real| Ok((real, fs::read_dir(folder)?)));
        let (real, entries) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.add_problem(&folder.display().to_string(), &error);
                return Ok(());
            }
        };
        if !self.entered.insert(real) {
            return Ok(());
        }
        let entries = self.list(folder, entries)?;
        for file in entries.files {
            self.add_file(&file, FileNaming::InFolder)?;
        }
        for below in entries.folders {
            if level >= MAX_DEPTH {
                bail!(
                    "{}: more than {MAX_DEPTH} folders are below each other; name this one, too",
                    below.display()
                );
            }
            self.add_folder(&below, level + 1)?;
        }
        Ok(())
    }

    /// Returns what is read of a folder: files with an ending of ours, and the folders below.
    fn list(&mut self, folder: &Path, entries: ReadDir) -> anyhow::Result<FolderEntries> {
        let mut listed = FolderEntries::default();
        for entry in entries {
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                bail!("the folders have more than {MAX_ENTRIES} entries; name fewer");
            }
            let path = match entry {
                Ok(entry) => entry.path(),
                Err(error) => {
                    self.add_problem(&folder.display().to_string(), &error);
                    break;
                }
            };
            if path.is_dir() {
                if self.depth == Depth::Recursive && !is_hidden(&path) {
                    listed.folders.push(path);
                }
            } else if has_ending(&path) {
                listed.files.push(path);
            }
        }
        if listed.files.len() > MAX_FILES {
            bail!("{} has more than {MAX_FILES} YAML and JSON files; name fewer", folder.display());
        }
        listed.files.sort();
        listed.folders.sort();
        Ok(listed)
    }

    fn add_file(&mut self, path: &Path, naming: FileNaming) -> anyhow::Result<()> {
        self.add(&path.display().to_string(), read_file(path), naming)
    }

    fn add(
        &mut self,
        name: &str,
        text: io::Result<FileText>,
        naming: FileNaming,
    ) -> anyhow::Result<()> {
        match text {
            Ok(FileText::Text(text)) => {
                self.bytes += text.len();
                let file = InputFile {
                    name: name.into(),
                    text: text.into(),
                    named: naming == FileNaming::Named,
                };
                self.read.files.push(file);
            }
            // What is no text is none of ours, unless the user or its content says so.
            Ok(FileText::Other(OtherContent::Unknown)) if naming == FileNaming::InFolder => {}
            Ok(FileText::Other(_)) => {
                let message = "it is binary, or no text in UTF-8; save it as UTF-8".into();
                self.read.problems.push(InputProblem { place: name.into(), message });
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

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

fn has_ending(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

/// The content of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum FileText {
    Text(String),
    /// It is binary, or a text in another encoding.
    Other(OtherContent),
}

/// Whether content that is no text in UTF-8 may have objects of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OtherContent {
    /// It mentions our API, in an encoding that we do not read.
    MentionsApi,
    Unknown,
}

/// Reads a regular file. Others, such as pipes and devices, may never end.
fn read_file(path: &Path) -> io::Result<FileText> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other(
            "it is no regular file; name a file or a folder, or - for the standard input",
        ));
    }
    read_text(&mut File::open(path)?)
}

/// Reads a text of at most [`MAX_FILE_BYTES`].
fn read_text(source: &mut impl Read) -> io::Result<FileText> {
    let mut bytes = Vec::new();
    let read = source.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if read as u64 > MAX_FILE_BYTES {
        let mib = MAX_FILE_BYTES / 1024 / 1024;
        return Err(io::Error::other(format!("it has more than {mib} MiB; split it")));
    }
    Ok(match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => FileText::Text(text),
        Ok(text) => FileText::Other(other_content(text.as_bytes())),
        Err(error) => FileText::Other(other_content(error.as_bytes())),
    })
}

/// Looks for our API in every encoding that has its letters, with or without zeros between them:
/// those of Windows and ISO 8859, UTF-16 and UTF-32.
fn other_content(bytes: &[u8]) -> OtherContent {
    let letters: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != 0).collect();
    let mark = GROUP_MARK.as_bytes();
    if letters.windows(mark.len()).any(|window| window == mark) {
        OtherContent::MentionsApi
    } else {
        OtherContent::Unknown
    }
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
    fn files_of_other_kinds_take_no_place_of_those_that_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        for index in 0..MAX_FILES + 5_000 {
            File::create(folder.path().join(format!("{index}.txt"))).expect("a file");
        }
        for index in 0..200 {
            File::create(folder.path().join(format!("{index}.yaml"))).expect("a file");
        }
        let read = read_all(&[folder.path().to_owned()], Depth::Single).expect("read");
        assert_eq!(read.files.len(), 200);
    }

    #[test]
    fn more_than_what_is_read_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().to_owned();
        let deep = (0..=MAX_DEPTH).fold(path.clone(), |path, level| path.join(level.to_string()));
        fs::create_dir_all(deep).expect("folders");
        let error = read_all(std::slice::from_ref(&path), Depth::Recursive)
            .expect_err("too deep")
            .to_string();
        assert!(error.contains("more than 32 folders are below each other"), "{error}");
        read_all(std::slice::from_ref(&path), Depth::Single).expect("its files alone");
        for index in 0..=MAX_FILES {
            File::create(path.join(format!("{index}.yaml"))).expect("a file");
        }
        let error = read_all(&[path], Depth::Single).expect_err("too many").to_string();
        assert!(error.contains("more than 10000 YAML and JSON files"), "{error}");
    }

    #[test]
    fn a_family_in_another_encoding_is_a_problem_also_in_a_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = "apiVersion: groundswell.dev/v1alpha1 # \u{e4}\n";
        let latin: Vec<u8> = text.chars().map(|one| u8::try_from(one).expect("latin")).collect();
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        for (name, bytes) in [("a.yaml", latin), ("b.yaml", wide), ("c.yaml", vec![0xff, 0xfe])] {
            fs::write(folder.path().join(name), bytes).expect("a file");
        }
        let read = read_all(&[folder.path().to_owned()], Depth::Single).expect("read");
        let places: Vec<&str> = read.problems.iter().map(|one| one.place.as_str()).collect();
        assert_eq!(places.len(), 2, "{places:?}");
        assert!(places[0].ends_with("a.yaml") && places[1].ends_with("b.yaml"), "{places:?}");
        assert!(read.problems[0].message.contains("save it as UTF-8"), "{:?}", read.problems);
    }

    #[test]
    fn what_a_user_names_and_cannot_be_read_is_a_problem() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::write(at("binary"), b"a\0b").expect("a file");
        let large = File::create(at("large")).expect("a file");
        large.set_len(MAX_FILE_BYTES + 1).expect("a size");
        std::os::unix::fs::symlink(at("circle"), at("circle")).expect("a link");
        // It stands for every file that is no regular one: pipes, devices and sockets.
        let _socket = std::os::unix::net::UnixListener::bind(at("pipe")).expect("a socket");
        let names = ["binary", "large", "circle", "missing", "pipe"].map(at);
        let found = read_all(&names, Depth::Single).expect("read").problems;
        let messages: Vec<&str> = found.iter().map(|problem| problem.message.as_str()).collect();
        let expected =
            ["binary", "more than 32 MiB", "symbolic links", "no such file", "no regular file"];
        for (message, expected) in messages.iter().zip(expected) {
            assert!(message.contains(expected), "{message}");
        }
        assert_eq!(messages.len(), 5);
    }
}
