//! Headers of RPM: the record of one installed package, the same in every database of RPM.
//!
//! A header is two big-endian numbers (entries of the index, bytes of the store), the index, and
//! the store. An entry of the index is a tag, a type, an offset in the store, and a count.

use crate::contents::package::{Ecosystem, MAX_FIELD, Package};

const TAG_NAME: u32 = 1000;
const TAG_VERSION: u32 = 1001;
const TAG_RELEASE: u32 = 1002;
const TAG_EPOCH: u32 = 1003;
const TAG_ARCH: u32 = 1022;
const TAG_SOURCE: u32 = 1044;
const TYPE_INT32: u32 = 4;
const TYPE_STRING: u32 = 6;
/// Size of an entry of the index in bytes.
const ENTRY_BYTES: usize = 16;
/// Maximum number of entries of an index, as RPM itself limits it.
const MAX_ENTRIES: usize = 0xffff;
/// The name under which RPM records the public keys that it trusts.
const PUBLIC_KEY: &str = "gpg-pubkey";

/// Reads a header. Returns `None` if it records a public key, which is no package.
pub(super) fn package(header: &[u8]) -> Result<Option<Package>, String> {
    let malformed = || "has a malformed header".to_owned();
    let parsed = Header::parse(header).ok_or_else(malformed)?;
    let text = |tag| parsed.text(tag);
    let name = text(TAG_NAME).ok_or_else(malformed)?;
    if name == PUBLIC_KEY {
        return Ok(None);
    }
    let version = text(TAG_VERSION).ok_or_else(malformed)?;
    let release = text(TAG_RELEASE).ok_or_else(malformed)?;
    let epoch = parsed.number(TAG_EPOCH).filter(|epoch| *epoch > 0);
    let epoch = epoch.map_or_else(String::new, |epoch| format!("{epoch}:"));
    let architecture = text(TAG_ARCH).unwrap_or_default();
    let version = format!("{epoch}{version}-{release}");
    // `openssl-3.0.7-27.el9.src.rpm`
    let source = text(TAG_SOURCE).unwrap_or_default();
    let source = source.rsplitn(3, '-').nth(2).unwrap_or_default().to_owned();
    let package = Package { name, architecture, version, ecosystem: Ecosystem::Rpm, source };
    package.checked().map(Some)
}

struct Header<'h> {
    index: &'h [u8],
    store: &'h [u8],
}

impl<'h> Header<'h> {
    fn parse(header: &'h [u8]) -> Option<Self> {
        let entries = usize::try_from(big_endian(header, 0)?).ok()?;
        let store = usize::try_from(big_endian(header, 4)?).ok()?;
        if entries > MAX_ENTRIES {
            return None;
        }
        let end = 8 + entries * ENTRY_BYTES;
        Some(Self { index: header.get(8..end)?, store: header.get(end..end.checked_add(store)?)? })
    }

    /// Returns the place of a tag's value in the store.
    fn value(&self, tag: u32, kind: u32) -> Option<&'h [u8]> {
        let entry = self.index.chunks_exact(ENTRY_BYTES).find(|entry| {
            big_endian(entry, 0) == Some(tag) && big_endian(entry, 4) == Some(kind)
        })?;
        self.store.get(usize::try_from(big_endian(entry, 8)?).ok()?..)
    }

    fn text(&self, tag: u32) -> Option<String> {
        let value = self.value(tag, TYPE_STRING)?;
        // One byte more than is accepted, so that a longer text is reported as that.
        let value = value.get(..MAX_FIELD + 2).unwrap_or(value);
        let text = value.split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    fn number(&self, tag: u32) -> Option<u32> {
        big_endian(self.value(tag, TYPE_INT32)?, 0)
    }
}

fn big_endian(bytes: &[u8], offset: usize) -> Option<u32> {
    let word = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_be_bytes(word.try_into().ok()?))
}
