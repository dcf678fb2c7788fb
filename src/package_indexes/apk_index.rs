//! `APKINDEX.tar.gz` of Alpine and Wolfi: a member of gzip with the signature, and one with the
//! index.

use std::io::{self, BufReader, Read};

use flate2::bufread::GzDecoder;
use tar::Archive;

use crate::{
    contents::Ecosystem,
    package_indexes::{
        PackageTable, TableBuilder, decompress::MAX_INDEX_BYTES, lines::paragraphs,
        table::TablePackage,
    },
};

/// Maximum size of the decompressed signature in bytes.
const MAX_SIGNATURE_BYTES: u64 = 64 << 10;
/// Maximum number of entries before the index.
const MAX_ENTRIES: usize = 16;
/// What the names of signatures begin with.
const SIGNATURE: &str = ".SIGN.";

/// The signature of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApkSignature {
    /// How it is made: `RSA` with SHA-1, or `RSA256`.
    pub(super) algorithm: String,
    /// The name of the key's file in `etc/apk/keys`.
    pub(super) key: String,
    pub(super) bytes: Vec<u8>,
}

/// An index, and what its signature is for.
#[derive(Debug)]
pub(super) struct ApkIndex<'f> {
    pub(super) signature: Option<ApkSignature>,
    /// The bytes that are signed, as they are in the file.
    pub(super) signed: &'f [u8],
}

impl<'f> ApkIndex<'f> {
    /// Separates the signature from what it signs.
    ///
    /// # Errors
    /// Returns an error if the first member is damaged: a predicate whose subject is the index.
    pub(super) fn split(file: &'f [u8]) -> io::Result<Self> {
        let mut rest = file;
        let mut first = Vec::new();
        let mut decoder = GzDecoder::new(&mut rest);
        decoder.by_ref().take(MAX_SIGNATURE_BYTES).read_to_end(&mut first)?;
        // Without a signature the first member is the index itself.
        match signature(&first) {
            Some(signature) => {
                let ended = decoder.read(&mut [0])? == 0;
                if !ended {
                    return Err(io::Error::other("has a signature that is too large"));
                }
                Ok(Self { signature: Some(signature), signed: rest })
            }
            None => Ok(Self { signature: None, signed: file }),
        }
    }

    /// Reads the packages.
    ///
    /// # Errors
    /// Returns an error if the index is damaged, ends early or exceeds a bound.
    pub(super) fn packages(&self) -> io::Result<PackageTable> {
        let output = flate2::bufread::MultiGzDecoder::new(self.signed).take(MAX_INDEX_BYTES);
        let mut archive = Archive::new(output);
        for entry in archive.entries()?.raw(true).take(MAX_ENTRIES) {
            let entry = entry?;
            if *entry.path_bytes() != *b"APKINDEX" {
                continue;
            }
            let size = entry.size();
            let mut counted = CountedRead { inner: entry, count: 0 };
            let table = table(&mut counted)?;
            if counted.count != size {
                return Err(io::Error::other("ends early"));
            }
            return Ok(table);
        }
        Err(io::Error::other("has no file APKINDEX"))
    }
}

fn table(index: impl Read) -> io::Result<PackageTable> {
    let mut table = TableBuilder::new(Ecosystem::Apk);
    paragraphs(BufReader::new(index), ':', ["P", "V", "A"], |[name, version, architecture]| {
        table.add(TablePackage { name, version, architecture })
    })?;
    Ok(table.finish())
}

/// Counts what has been read.
struct CountedRead<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for CountedRead<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count += read as u64;
        Ok(read)
    }
}

/// Returns the signature if it is the first entry of a tar.
fn signature(tar: &[u8]) -> Option<ApkSignature> {
    let mut archive = Archive::new(tar);
    let mut entry = archive.entries().ok()?.raw(true).next()?.ok()?;
    let name = String::from_utf8(entry.path_bytes().into_owned()).ok()?;
    let (algorithm, key) = name.strip_prefix(SIGNATURE)?.split_once('.')?;
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).ok()?;
    Some(ApkSignature { algorithm: algorithm.to_owned(), key: key.to_owned(), bytes })
}
