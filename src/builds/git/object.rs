//! Git's objects, as bytes of a server that nothing is known about: ids, trees and commits.

use std::{collections::HashMap, fmt, rc::Rc};

use crate::builds::git::GitError;

/// Mode of a folder in a tree.
const FOLDER: u32 = 0o040_000;
/// Mode of a symbolic link in a tree.
const LINK: u32 = 0o120_000;
/// Mode of a submodule in a tree. The entry's id is a commit of another repository.
const SUBMODULE: u32 = 0o160_000;
/// The bits of a mode that say what an entry is.
const KIND: u32 = 0o170_000;

/// The id of an object: a SHA-1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ObjectId(pub [u8; 20]);

impl ObjectId {
    /// Parses 40 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 20];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The kind of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ObjectKind {
    Commit,
    Tree,
    Blob,
}

/// Where objects are read from.
pub(super) trait Objects {
    /// Returns the content of an object, or `None` if it is not known, is of another kind, or is
    /// larger than the limit for its kind.
    fn read(&self, id: ObjectId, kind: ObjectKind) -> Result<Option<Rc<[u8]>>, GitError>;

    /// Makes these files known, as far as they exist.
    fn fetch_files(&mut self, ids: &[ObjectId]) -> Result<(), GitError>;
}

/// An entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TreeEntry {
    pub mode: u32,
    pub name: Box<[u8]>,
    pub id: ObjectId,
}

impl TreeEntry {
    pub fn is_folder(&self) -> bool {
        self.mode & KIND == FOLDER
    }

    pub fn is_link(&self) -> bool {
        self.mode & KIND == LINK
    }

    pub fn is_submodule(&self) -> bool {
        self.mode & KIND == SUBMODULE
    }

    /// Whether it is a file that is no link.
    pub fn is_file(&self) -> bool {
        !self.is_folder() && !self.is_link() && !self.is_submodule()
    }
}

/// A commit, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ParsedCommit {
    pub tree: ObjectId,
    /// The first parent.
    pub parent: Option<ObjectId>,
}

/// Parses a tree; `None` if it is malformed.
pub(super) fn parse_tree(mut bytes: &[u8]) -> Option<Vec<TreeEntry>> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.iter().position(|byte| *byte == 0)?;
        let (head, rest) = bytes.split_at(end);
        let space = head.iter().position(|byte| *byte == b' ')?;
        let (mode, name) = head.split_at(space);
        let mode = std::str::from_utf8(mode).ok()?;
        let mode = u32::from_str_radix(mode, 8).ok()?;
        let (id, rest) = rest.get(1..)?.split_first_chunk::<20>()?;
        entries.push(TreeEntry { mode, name: name.get(1..)?.into(), id: ObjectId(*id) });
        bytes = rest;
    }
    Some(entries)
}

/// Parses the head of a commit; `None` if it is malformed.
pub(super) fn parse_commit(bytes: &[u8]) -> Option<ParsedCommit> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut id_after = |name: &[u8]| {
        let line = lines.next()?;
        let id = std::str::from_utf8(line.strip_prefix(name)?).ok()?;
        ObjectId::parse(id)
    };
    let tree = id_after(b"tree ")?;
    Some(ParsedCommit { tree, parent: id_after(b"parent ") })
}

/// Reads objects and keeps what was parsed, because commits share most of their trees.
pub(super) struct ObjectReader<'a, O> {
    pub objects: &'a mut O,
    url: &'a str,
    trees: HashMap<ObjectId, Option<Rc<[TreeEntry]>>>,
}

impl<'a, O: Objects> ObjectReader<'a, O> {
    pub fn new(objects: &'a mut O, url: &'a str) -> Self {
        Self { objects, url, trees: HashMap::new() }
    }

    /// Returns the entries of a tree, or `None` if the tree is not known.
    pub fn tree(&mut self, id: ObjectId) -> Result<Option<Rc<[TreeEntry]>>, GitError> {
        if let Some(tree) = self.trees.get(&id) {
            return Ok(tree.clone());
        }
        let tree: Option<Rc<[TreeEntry]>> = self.read_tree(id)?.map(Into::into);
        self.trees.insert(id, tree.clone());
        Ok(tree)
    }

    /// Returns the entries of a tree, and does not keep them.
    pub fn read_tree(&self, id: ObjectId) -> Result<Option<Vec<TreeEntry>>, GitError> {
        let Some(bytes) = self.objects.read(id, ObjectKind::Tree)? else { return Ok(None) };
        parse_tree(&bytes).ok_or_else(|| self.broken(id)).map(Some)
    }

    /// Returns a commit, or `None` if it is not known.
    pub fn commit(&self, id: ObjectId) -> Result<Option<ParsedCommit>, GitError> {
        let Some(bytes) = self.objects.read(id, ObjectKind::Commit)? else { return Ok(None) };
        parse_commit(&bytes).ok_or_else(|| self.broken(id)).map(Some)
    }

    fn broken(&self, id: ObjectId) -> GitError {
        GitError::Unavailable {
            url: self.url.to_owned(),
            problem: format!("the repository has a broken object: {id}"),
        }
    }

    /// Returns the entry at a path below a tree, or `None` if there is none.
    pub fn entry(&mut self, root: ObjectId, path: &str) -> Result<Option<TreeEntry>, GitError> {
        let mut found: Option<TreeEntry> = None;
        for name in path.split('/') {
            let folder = match &found {
                None => root,
                Some(entry) if entry.is_folder() => entry.id,
                Some(_) => return Ok(None),
            };
            let Some(tree) = self.tree(folder)? else { return Ok(None) };
            found = tree.iter().find(|entry| *entry.name == *name.as_bytes()).cloned();
            if found.is_none() {
                return Ok(None);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_objects_are_no_objects() {
        let id = [7; 20];
        let tree = [b"40000 a\0".as_slice(), &id, b"100644 b\0", &id].concat();
        let entries = parse_tree(&tree).expect("a tree");
        assert!(entries[0].is_folder() && entries[1].is_file());
        for end in 1..tree.len() {
            // Only the end of the first entry is the end of a tree, too.
            assert_eq!(parse_tree(&tree[..end]).is_some(), end == 28, "{end}");
        }
        assert_eq!(parse_tree(b"x a\0aaaaaaaaaaaaaaaaaaaa"), None);
        let hex = "07".repeat(20);
        let commit = format!("tree {hex}\nparent {hex}\nparent {hex}\nauthor a\n\nparent x");
        let commit = parse_commit(commit.as_bytes()).expect("a commit");
        assert_eq!((commit.tree, commit.parent), (ObjectId(id), Some(ObjectId(id))));
        let root = format!("tree {hex}\nauthor a\n\nparent {hex}\n");
        assert_eq!(parse_commit(root.as_bytes()).expect("a commit").parent, None);
        for broken in ["", "tree", "tree 07\n", &format!("parent {hex}\n")] {
            assert_eq!(parse_commit(broken.as_bytes()), None, "{broken}");
        }
    }
}
