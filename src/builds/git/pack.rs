//! Reads packs: the form in which a server sends objects.
//!
//! A pack comes from a server that nothing is known about. Therefore everything is bounded before
//! it is allocated, an object's id is the hash of its content and nothing else, and an object that
//! refers to one that the pack does not have is an error.

use std::{
    collections::HashMap,
    io::{self, Read as _},
    rc::Rc,
};

use flate2::bufread::ZlibDecoder;
use sha1_checked::{Digest as _, Sha1};

use crate::builds::git::object::{ObjectId, ObjectKind};

/// The upper bounds of one pack.
#[derive(Clone, Copy, Debug)]
pub(super) struct PackLimits {
    /// Maximum number of objects.
    pub objects: usize,
    /// Maximum size of one object in bytes.
    pub object: usize,
    /// Maximum size of all objects and differences together in bytes.
    pub total: usize,
}

/// Why a pack cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PackError {
    /// The pack exceeds a limit.
    #[error("{0}")]
    TooLarge(String),
    /// The pack is not one.
    #[error("the server sends a broken pack: {0}")]
    Broken(&'static str),
}

use PackError::{Broken, TooLarge};

/// An object of a pack.
#[derive(Clone, Debug)]
pub(super) struct PackedObject {
    pub kind: ObjectKind,
    pub content: Rc<[u8]>,
}

/// Objects by their ids.
pub(super) type PackedObjects = HashMap<ObjectId, PackedObject>;

/// Adds the objects of a pack.
pub(super) fn read_pack(
    pack: &[u8],
    limits: &PackLimits,
    objects: &mut PackedObjects,
) -> Result<(), PackError> {
    let body_length = pack.len().checked_sub(20).ok_or(Broken("it is too short"))?;
    let (body, checksum) = pack.split_at(body_length);
    if hash(&[body])?.0 != *checksum {
        return Err(Broken("its checksum is wrong"));
    }
    let mut parser = PackParser { body, position: 12, left: limits.total, limits };
    let count = parser.count()?;
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push(parser.entry()?);
    }
    if parser.position != body.len() {
        return Err(Broken("it has more than its objects"));
    }
    let left = parser.left;
    resolve_differences(entries, left, limits, objects)
}

/// An entry of a pack.
struct PackEntry {
    /// Where the entry begins.
    offset: usize,
    content: EntryContent,
}

enum EntryContent {
    Whole(ObjectKind, Vec<u8>),
    /// The difference to the entry at an offset.
    FromOffset(usize, Vec<u8>),
    /// The difference to an object.
    FromId(ObjectId, Vec<u8>),
    /// An annotated tag, which nothing here needs.
    Tag,
}

struct PackParser<'a> {
    body: &'a [u8],
    position: usize,
    /// How many bytes may still be decompressed.
    left: usize,
    limits: &'a PackLimits,
}

impl PackParser<'_> {
    /// Returns the number of entries.
    fn count(&self) -> Result<usize, PackError> {
        let head = self.body.first_chunk::<12>().ok_or(Broken("it is too short"))?;
        let [b'P', b'A', b'C', b'K', 0, 0, 0, 2 | 3, a, b, c, d] = *head else {
            return Err(Broken("it does not begin as a pack"));
        };
        let count = u32::from_be_bytes([a, b, c, d]) as usize;
        if count > self.limits.objects {
            let limit = self.limits.objects;
            return Err(TooLarge(format!("it has more than {limit} folders and commits")));
        }
        Ok(count)
    }

    fn byte(&mut self) -> Result<u8, PackError> {
        let byte = self.body.get(self.position).ok_or(Broken("it ends early"))?;
        self.position += 1;
        Ok(*byte)
    }

    fn entry(&mut self) -> Result<PackEntry, PackError> {
        let offset = self.position;
        let first = self.byte()?;
        let mut size = usize::from(first & 0x0f);
        let (mut byte, mut shift) = (first, 4);
        while byte & 0x80 != 0 {
            byte = self.byte()?;
            if shift > 32 {
                return Err(Broken("an object has no size"));
            }
            size |= usize::from(byte & 0x7f) << shift;
            shift += 7;
        }
        let content = match (first >> 4) & 7 {
            1 => EntryContent::Whole(ObjectKind::Commit, self.inflate(size)?),
            2 => EntryContent::Whole(ObjectKind::Tree, self.inflate(size)?),
            3 => EntryContent::Whole(ObjectKind::Blob, self.inflate(size)?),
            4 => {
                self.inflate(size)?;
                EntryContent::Tag
            }
            6 => {
                let back = self.back_offset()?;
                let base = offset.checked_sub(back).ok_or(Broken("an object has no base"))?;
                EntryContent::FromOffset(base, self.inflate(size)?)
            }
            7 => {
                let rest = self.body.get(self.position..).unwrap_or_default();
                let id = rest.first_chunk::<20>().ok_or(Broken("it ends early"))?;
                self.position += 20;
                EntryContent::FromId(ObjectId(*id), self.inflate(size)?)
            }
            _ => return Err(Broken("an object has no kind")),
        };
        Ok(PackEntry { offset, content })
    }

    /// Reads how far before an entry its base begins.
    fn back_offset(&mut self) -> Result<usize, PackError> {
        let mut byte = self.byte()?;
        let mut offset = usize::from(byte & 0x7f);
        while byte & 0x80 != 0 {
            byte = self.byte()?;
            if offset > self.body.len() {
                return Err(Broken("an object has no base"));
            }
            offset = ((offset + 1) << 7) | usize::from(byte & 0x7f);
        }
        Ok(offset)
    }

    /// Decompresses what begins here. `size` is what the server says about its size.
    fn inflate(&mut self, size: usize) -> Result<Vec<u8>, PackError> {
        reserve(size, &mut self.left, self.limits)?;
        let rest = self.body.get(self.position..).unwrap_or_default();
        let mut decoder = ZlibDecoder::new(rest);
        let mut content = Vec::new();
        let read = decoder.by_ref().take(size as u64 + 1).read_to_end(&mut content);
        // Reads the end of the stream, so that the position after it is known.
        let end = read.and_then(|_| io::copy(&mut decoder.by_ref().take(1), &mut io::sink()));
        if end.is_err() || content.len() != size {
            return Err(Broken("an object is damaged"));
        }
        self.position += rest.len() - decoder.into_inner().len();
        Ok(content)
    }
}

/// Takes the size of an object from what is left of the limits.
fn reserve(size: usize, left: &mut usize, limits: &PackLimits) -> Result<(), PackError> {
    if size > limits.object {
        let limit = limits.object >> 20;
        return Err(TooLarge(format!("it has a folder or file of more than {limit} MiB")));
    }
    *left = left.checked_sub(size).ok_or_else(|| {
        TooLarge(format!("its folders have more than {} MiB", limits.total >> 20))
    })?;
    Ok(())
}

/// Returns the hash of these bytes, one after another.
fn hash(parts: &[&[u8]]) -> Result<ObjectId, PackError> {
    let mut hasher = Sha1::new();
    for part in parts {
        hasher.update(part);
    }
    let result = hasher.try_finalize();
    if result.has_collision() {
        return Err(Broken("an object is made to have the same id as another"));
    }
    Ok(ObjectId((*result.hash()).into()))
}

/// Adds the objects of the entries. An entry that is a difference is resolved after its base; those
/// that refer to each other in a circle, or to nothing, are never resolved.
fn resolve_differences(
    entries: Vec<PackEntry>,
    mut left: usize,
    limits: &PackLimits,
    objects: &mut PackedObjects,
) -> Result<(), PackError> {
    let mut at_offset: HashMap<usize, Vec<(usize, Vec<u8>)>> = HashMap::new();
    let mut of_id: HashMap<ObjectId, Vec<(usize, Vec<u8>)>> = HashMap::new();
    let mut resolved: Vec<(usize, PackedObject)> = Vec::new();
    let mut waiting = 0_usize;
    for PackEntry { offset, content } in entries {
        match content {
            EntryContent::Whole(kind, content) => {
                resolved.push((offset, PackedObject { kind, content: content.into() }));
            }
            EntryContent::FromOffset(base, delta) => {
                waiting += 1;
                at_offset.entry(base).or_default().push((offset, delta));
            }
            EntryContent::FromId(base, delta) => {
                waiting += 1;
                of_id.entry(base).or_default().push((offset, delta));
            }
            EntryContent::Tag => {}
        }
    }
    while let Some((offset, object)) = resolved.pop() {
        let id = id_of(&object)?;
        let children = at_offset.remove(&offset).into_iter().chain(of_id.remove(&id)).flatten();
        for (offset, delta) in children {
            waiting -= 1;
            let content = apply(&object.content, &delta, &mut left, limits)?.into();
            resolved.push((offset, PackedObject { kind: object.kind, content }));
        }
        objects.insert(id, object);
    }
    if waiting > 0 {
        return Err(Broken("it lacks the base of an object"));
    }
    Ok(())
}

fn id_of(object: &PackedObject) -> Result<ObjectId, PackError> {
    let kind = match object.kind {
        ObjectKind::Commit => "commit",
        ObjectKind::Tree => "tree",
        ObjectKind::Blob => "blob",
    };
    hash(&[format!("{kind} {}\0", object.content.len()).as_bytes(), &object.content])
}

/// Returns the object that a difference makes of its base.
fn apply(
    base: &[u8],
    mut delta: &[u8],
    left: &mut usize,
    limits: &PackLimits,
) -> Result<Vec<u8>, PackError> {
    const DAMAGED: PackError = Broken("a difference is damaged");
    if size(&mut delta).ok_or(DAMAGED)? != base.len() {
        return Err(DAMAGED);
    }
    let length = size(&mut delta).ok_or(DAMAGED)?;
    reserve(length, left, limits)?;
    let mut content = Vec::with_capacity(length);
    while let Some((&command, rest)) = delta.split_first() {
        delta = rest;
        let part = if command & 0x80 != 0 {
            let mut number = |bits: u8| {
                let mut value = 0_usize;
                for bit in 0..bits.count_ones() {
                    let is_given = command & (1 << (bits.trailing_zeros() + bit)) != 0;
                    if is_given {
                        let (&byte, rest) = delta.split_first()?;
                        delta = rest;
                        value |= usize::from(byte) << (8 * bit);
                    }
                }
                Some(value)
            };
            let start = number(0x0f).ok_or(DAMAGED)?;
            let count = match number(0x70).ok_or(DAMAGED)? {
                0 => 0x1_0000,
                count => count,
            };
            base.get(start..start.saturating_add(count)).ok_or(DAMAGED)?
        } else if command > 0 {
            let (part, rest) = delta.split_at_checked(usize::from(command)).ok_or(DAMAGED)?;
            delta = rest;
            part
        } else {
            return Err(DAMAGED);
        };
        if content.len() + part.len() > length {
            return Err(DAMAGED);
        }
        content.extend_from_slice(part);
    }
    if content.len() == length { Ok(content) } else { Err(DAMAGED) }
}

/// Reads a size at the beginning of a difference.
fn size(delta: &mut &[u8]) -> Option<usize> {
    let mut size = 0_usize;
    for shift in (0..35).step_by(7) {
        let (&byte, rest) = delta.split_first()?;
        *delta = rest;
        size |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(size);
        }
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::ZlibEncoder};

    use super::*;

    const LIMITS: PackLimits = PackLimits { objects: 100, object: 1 << 20, total: 4 << 20 };

    fn head(kind: u8, mut size: usize) -> Vec<u8> {
        let mut head = vec![kind << 4 | u8::try_from(size & 0x0f).expect("small")];
        size >>= 4;
        while size > 0 {
            *head.last_mut().expect("a byte") |= 0x80;
            head.push(u8::try_from(size & 0x7f).expect("small"));
            size >>= 7;
        }
        head
    }

    /// Returns an entry of a pack. `base` is what stands between its head and its content.
    pub fn packed(kind: u8, base: &[u8], content: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).expect("memory");
        [head(kind, content.len()), base.to_vec(), encoder.finish().expect("memory")].concat()
    }

    pub fn pack(entries: &[Vec<u8>]) -> Vec<u8> {
        let count = u32::try_from(entries.len()).expect("few").to_be_bytes();
        let body = [b"PACK\0\0\0\x02".as_slice(), &count, &entries.concat()].concat();
        let checksum = hash(&[&body]).expect("a hash").0;
        [body, checksum.to_vec()].concat()
    }

    fn read(pack: &[u8]) -> Result<PackedObjects, PackError> {
        let mut objects = PackedObjects::new();
        read_pack(pack, &LIMITS, &mut objects).map(|()| objects)
    }

    fn blob(content: &[u8]) -> ObjectId {
        id_of(&PackedObject { kind: ObjectKind::Blob, content: content.into() }).expect("an id")
    }

    /// `hello` and a difference that makes `hello, you` of it.
    fn delta() -> Vec<u8> {
        [&[5, 10, 0x90, 5, 5][..], b", you"].concat()
    }

    #[test]
    fn differences_are_resolved_in_any_order() {
        let base = packed(3, b"", b"hello");
        let back = u8::try_from(base.len()).expect("short");
        let by_offset = packed(6, &[back], &delta());
        let by_id = packed(7, &blob(b"hello").0, &delta());
        for entries in [vec![base.clone(), by_offset], vec![by_id, base]] {
            let objects = read(&pack(&entries)).expect("a pack");
            assert_eq!(objects.len(), 2);
            assert_eq!(*objects[&blob(b"hello, you")].content, *b"hello, you");
        }
        // As `git hash-object` prints it.
        assert_eq!(blob(b"").to_string(), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
    }

    #[test]
    fn a_hostile_pack_is_an_error_and_allocates_nothing() {
        let hello = packed(3, b"", b"hello");
        let claims = |size| [head(3, size), hello[1..].to_vec()].concat();
        let cyclic =
            [packed(7, &blob(b"hello, you").0, &delta()), packed(7, &blob(b"another").0, &delta())];
        let zeros = vec![0; 1 << 20];
        let many = vec![packed(3, b"", &zeros); 5];
        let grows = |to: &[u8]| [&[5][..], to, &[0x90, 5]].concat();
        for (entries, text) in [
            (vec![claims(4)], "damaged"),
            (vec![claims(6)], "damaged"),
            (vec![claims(1 << 30)], "more than 1 MiB"),
            (vec![packed(3, b"", &vec![0; 2 << 20])], "more than 1 MiB"),
            (many, "more than 4 MiB"),
            (vec![packed(5, b"", b"x")], "no kind"),
            (vec![hello.clone(), packed(6, &[0x7f], &delta())], "no base"),
            (vec![packed(6, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], &delta())], "no base"),
            (vec![packed(7, &[1; 20], &delta())], "lacks the base"),
            (cyclic.to_vec(), "lacks the base"),
            (vec![hello.clone(), packed(7, &blob(b"hello").0, &grows(&[4]))], "damaged"),
            (
                vec![
                    hello.clone(),
                    packed(7, &blob(b"hello").0, &grows(&[0xff, 0xff, 0xff, 0x7f])),
                ],
                "more than 1 MiB",
            ),
            (vec![[head(3, 5), b"no zlib".to_vec()].concat()], "damaged"),
            (vec![vec![0x95; 12]], "no size"),
        ] {
            let error = read(&pack(&entries)).expect_err(text).to_string();
            assert!(error.contains(text), "{text}: {error}");
        }
        let whole = pack(&[hello]);
        for end in 0..whole.len() {
            assert!(read(&whole[..end]).is_err(), "{end}");
        }
        let mut wrong = whole.clone();
        *wrong.last_mut().expect("a byte") ^= 1;
        assert_eq!(read(&wrong).expect_err("checksum"), Broken("its checksum is wrong"));
        let mut count = whole;
        count[8] = 0xff;
        let body = count.len() - 20;
        let checksum = hash(&[&count[..body]]).expect("a hash").0;
        count[body..].copy_from_slice(&checksum);
        assert!(read(&count).expect_err("count").to_string().contains("more than 100"));
    }
}
