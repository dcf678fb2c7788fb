//! What Git servers send; see [`crate::fuzz`].

use std::str;

use sha1_checked::{Digest as _, Sha1};
use url::Url;

use crate::builds::git::{
    config_file,
    docker_ignore::DockerIgnore,
    lfs,
    object::{parse_commit, parse_tree},
    pack::{PackLimits, PackedObjects, read_pack},
    packet::PacketBuffer,
};

/// The bounds of a fuzzed pack, small enough that a violation shows.
const LIMITS: PackLimits = PackLimits { objects: 64, object: 4096, total: 16 * 1024 };

/// A pack without its checksum, which no mutation would hit. It comes in packets as well.
pub fn pack(input: &[u8]) {
    let mut pack = input.to_vec();
    pack.extend_from_slice(&Sha1::digest(input));
    let mut objects = PackedObjects::new();
    _ = read_pack(&pack, &LIMITS, &mut objects);
    assert!(objects.len() <= LIMITS.objects, "{} objects", objects.len());
    let size: usize = objects.values().map(|object| object.content.len()).sum();
    assert!(size <= LIMITS.total, "{size} bytes");
    assert!(objects.values().all(|object| object.content.len() <= LIMITS.object));

    let mut packets = PacketBuffer::default();
    for part in input.chunks(7) {
        packets.push(part);
        while let Ok(Some(_)) = packets.next() {}
    }
}

/// Files of a repository that are read before a build: trees, commits, `.gitmodules`, `.lfsconfig`,
/// pointers of Git LFS, and `.dockerignore`.
pub fn files(input: &[u8]) {
    _ = (parse_tree(input), parse_commit(input));
    _ = lfs::pointer::classify(input);
    let Ok(text) = str::from_utf8(input) else { return };
    _ = config_file::parse(text);
    if let Ok(repository) = Url::parse("https://git.example.com/team/app.git")
        && let Ok(endpoint) = lfs::endpoint(&repository, text)
    {
        assert_eq!(endpoint.host_str(), repository.host_str(), "the server is another one");
        assert_eq!(endpoint.scheme(), "https");
    }
    if let Ok(Some(ignore)) = DockerIgnore::parse(text) {
        _ = ["Dockerfile", "src/main.rs", "a/b/../c"].map(|path| ignore.ignores(path));
    }
}
