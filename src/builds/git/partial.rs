//! A partial clone in memory: the commits and trees of a repository without its files, and single
//! files. It needs version 2 of Git's protocol and a server that can filter; see
//! [`repository`](crate::builds::git::repository) for others.

use std::rc::Rc;

use tokio::runtime::Runtime;

use crate::builds::git::{
    GitError,
    http::{GitServer, Packets, message_text},
    object::{ObjectId, ObjectKind, Objects},
    pack::{PackError, PackLimits, PackedObjects, read_pack},
    packet::{Packet, add_delimiter, add_flush, add_line},
    revisions::{MAX_FILE, MAX_HISTORY},
};

/// Maximum size of an answer without objects in bytes.
const MAX_ANSWER: usize = 1 << 20;
/// Maximum size of the trees that a server sends in bytes.
const MAX_TREES: usize = 16 << 20;
/// The upper bounds of the commits and trees of a repository.
const TREE_LIMITS: PackLimits = PackLimits { objects: 400_000, object: 16 << 20, total: 48 << 20 };
/// Maximum size of the files that a server sends in one answer, in bytes.
const MAX_FILES: usize = 16 << 20;
/// The upper bounds of the files of one answer.
const FILE_LIMITS: PackLimits = PackLimits { objects: 4000, object: MAX_FILE, total: 16 << 20 };
/// Maximum number of files that one request asks for.
const FILES_PER_REQUEST: usize = 1000;
/// Maximum number of requests for files. More than one is needed only if a file is too large.
const MAX_FILE_REQUESTS: usize = 40;

/// What a server can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServerKind {
    /// It can send trees alone.
    Partial,
    /// It cannot.
    Other,
}

/// Where a branch or tag points to, as a server lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ListedRef {
    name: String,
    id: String,
    /// The commit that an annotated tag points to.
    peeled: Option<String>,
}

/// The connection to a repository, and the objects that were received.
pub(super) struct PartialClone<'a> {
    server: GitServer<'a>,
    url: &'a str,
    runtime: &'a Runtime,
    objects: PackedObjects,
}

impl<'a> PartialClone<'a> {
    /// Connects to a server. Returns `None` if it cannot send trees alone.
    pub fn connect(
        mut server: GitServer<'a>,
        url: &'a str,
        runtime: &'a Runtime,
    ) -> Result<Option<Self>, GitError> {
        let kind = runtime.block_on(async {
            let mut packets = server.get_capabilities(MAX_ANSWER).await?;
            server_kind(&mut packets).await
        })?;
        let clone = Self { server, url, runtime, objects: PackedObjects::new() };
        Ok((kind == ServerKind::Partial).then_some(clone))
    }

    /// Returns the commit that a branch, or else a tag, points to.
    pub fn resolve(&self, revision: &str) -> Result<String, GitError> {
        let [branch, tag] = [format!("refs/heads/{revision}"), format!("refs/tags/{revision}")];
        let mut request = Vec::new();
        add_line(&mut request, "command=ls-refs");
        add_line(&mut request, "object-format=sha1");
        add_delimiter(&mut request);
        add_line(&mut request, "peel");
        for name in [&branch, &tag] {
            add_line(&mut request, &format!("ref-prefix {name}"));
        }
        add_flush(&mut request);
        let listed = self.runtime.block_on(async {
            let mut packets = self.server.post(request, MAX_ANSWER).await?;
            let mut listed = Vec::new();
            while let Some(Packet::Data(line)) = packets.next().await? {
                let line =
                    parse_ref(&line).filter(|listed| [&branch, &tag].contains(&&listed.name));
                listed.extend(line);
            }
            Ok(listed)
        })?;
        let find = |name: &String| listed.iter().find(|listed: &&ListedRef| listed.name == *name);
        let found = find(&branch).or_else(|| find(&tag));
        found.map(|listed| listed.peeled.as_ref().unwrap_or(&listed.id).clone()).ok_or_else(|| {
            GitError::NotFound {
                url: self.url.to_owned(),
                what: format!("a branch or tag `{revision}`"),
            }
        })
    }

    /// Fetches a commit and its recent history, with all trees and without files. If that is too
    /// large, the commit alone is fetched.
    pub fn fetch_trees(&mut self, commit: &str) -> Result<(), GitError> {
        match self.fetch_history(commit, MAX_HISTORY) {
            Err(GitError::TooLarge { .. }) => self.fetch_history(commit, 1),
            result => result,
        }
    }

    fn fetch_history(&mut self, commit: &str, depth: usize) -> Result<(), GitError> {
        let options =
            ["filter blob:none".to_owned(), format!("deepen {depth}"), format!("want {commit}")];
        let pack = self.fetch(&options, MAX_TREES)?;
        let mut objects = PackedObjects::new();
        self.check(read_pack(&pack, &TREE_LIMITS, &mut objects))?;
        self.objects = objects;
        Ok(())
    }

    fn fetch(&self, options: &[String], limit: usize) -> Result<Vec<u8>, GitError> {
        let mut request = Vec::new();
        add_line(&mut request, "command=fetch");
        add_line(&mut request, "object-format=sha1");
        add_delimiter(&mut request);
        add_line(&mut request, "no-progress");
        add_line(&mut request, "ofs-delta");
        for option in options {
            add_line(&mut request, option);
        }
        add_line(&mut request, "done");
        add_flush(&mut request);
        self.runtime.block_on(async {
            let mut packets = self.server.post(request, limit).await?;
            read_packfile(&mut packets, &self.server).await
        })
    }

    fn check(&self, result: Result<(), PackError>) -> Result<(), GitError> {
        result.map_err(|error| match error {
            PackError::TooLarge(limit) => GitError::TooLarge { url: self.url.to_owned(), limit },
            PackError::Broken(_) => self.server.unavailable(error.to_string()),
        })
    }
}

impl Objects for PartialClone<'_> {
    fn read(&self, id: ObjectId, kind: ObjectKind) -> Result<Option<Rc<[u8]>>, GitError> {
        let object = self.objects.get(&id).filter(|object| object.kind == kind);
        Ok(object.map(|object| Rc::clone(&object.content)))
    }

    /// A file that is too large is left out. It is found by asking for fewer and fewer files.
    fn fetch_files(&mut self, ids: &[ObjectId]) -> Result<(), GitError> {
        let mut unknown = ids.to_vec();
        unknown.retain(|id| !self.objects.contains_key(id));
        unknown.sort_unstable();
        unknown.dedup();
        let mut requests: Vec<&[ObjectId]> = unknown.chunks(FILES_PER_REQUEST).collect();
        let mut left = MAX_FILE_REQUESTS;
        while let Some(ids) = requests.pop() {
            left = left.checked_sub(1).ok_or_else(|| GitError::TooLarge {
                url: self.url.to_owned(),
                limit: "it has too many Dockerfiles of more than 1 MiB".into(),
            })?;
            let wants: Vec<String> = ids.iter().map(|id| format!("want {id}")).collect();
            let result = self.fetch(&wants, MAX_FILES).and_then(|pack| {
                let read = read_pack(&pack, &FILE_LIMITS, &mut self.objects);
                self.check(read)
            });
            match result {
                Err(GitError::TooLarge { .. }) if ids.len() > 1 => {
                    let (one, other) = ids.split_at(ids.len() / 2);
                    requests.extend([one, other]);
                }
                Ok(()) | Err(GitError::TooLarge { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Reads what a server can do.
async fn server_kind(packets: &mut Packets<'_>) -> Result<ServerKind, GitError> {
    let (mut is_second, mut can_filter, mut has_sha1) = (false, false, true);
    while let Some(packet) = packets.next().await? {
        let Packet::Data(line) = packet else { continue };
        let line = String::from_utf8_lossy(&line);
        match line.trim_end().split_once('=') {
            None => is_second |= line.trim_end() == "version 2",
            Some(("fetch", options)) => {
                let options: Vec<&str> = options.split(' ').collect();
                can_filter = options.contains(&"filter") && options.contains(&"shallow");
            }
            Some(("object-format", format)) => has_sha1 = format == "sha1",
            Some(_) => {}
        }
    }
    let is_partial = is_second && can_filter && has_sha1;
    Ok(if is_partial { ServerKind::Partial } else { ServerKind::Other })
}

/// Parses a line of the list of branches and tags.
fn parse_ref(line: &[u8]) -> Option<ListedRef> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.trim_end().split(' ');
    let (id, name) = (words.next()?, words.next()?);
    ObjectId::parse(id)?;
    let peeled = words.find_map(|word| word.strip_prefix("peeled:"));
    let peeled = peeled.filter(|id| ObjectId::parse(id).is_some());
    Some(ListedRef { name: name.into(), id: id.into(), peeled: peeled.map(Into::into) })
}

/// Returns the pack of an answer.
async fn read_packfile(
    packets: &mut Packets<'_>,
    server: &GitServer<'_>,
) -> Result<Vec<u8>, GitError> {
    let mut pack = Vec::new();
    let mut is_pack = false;
    while let Some(packet) = packets.next().await? {
        let Packet::Data(data) = packet else {
            if is_pack {
                break;
            }
            continue;
        };
        if !is_pack {
            is_pack = data == b"packfile\n";
            continue;
        }
        match data.split_first() {
            Some((1, part)) => pack.extend_from_slice(part),
            Some((2, _)) => {}
            Some((3, message)) => {
                let problem = format!("the server says: {}", message_text(message));
                return Err(server.unavailable(problem));
            }
            _ => return Err(server.unavailable("the server breaks the protocol")),
        }
    }
    if is_pack { Ok(pack) } else { Err(server.unavailable("the server sends no objects")) }
}
