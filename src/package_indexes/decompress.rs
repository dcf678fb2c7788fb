//! Decompression of indexes with a bound on what comes out.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

/// Maximum size of a decompressed index in bytes. Debian's main has 50 MiB.
pub(super) const MAX_INDEX_BYTES: u64 = 4 << 30;
/// Maximum memory of a decoder of xz in KiB: indexes are compressed with at most 64 MiB.
const MAX_XZ_KIB: u32 = 160 << 10;
/// Largest window that a zstd frame may ask for, as a power of two: 128 MiB.
const MAX_ZSTD_WINDOW: u32 = 27;

/// Begins to decompress a file by its first bytes: gzip, xz, zstd, or no compression.
///
/// # Errors
/// Returns an error of the reader, or of a format that is not read. What is returned fails with an
/// error before it exceeds its bound.
pub(super) fn decompressed<'r>(file: impl Read + 'r) -> io::Result<Box<dyn BufRead + 'r>> {
    decompressed_up_to(MAX_INDEX_BYTES, file)
}

fn decompressed_up_to<'r>(max: u64, file: impl Read + 'r) -> io::Result<Box<dyn BufRead + 'r>> {
    let mut input = BufReader::new(file);
    let head = input.fill_buf()?;
    let output: Box<dyn Read + 'r> = if head.starts_with(&[0x1f, 0x8b]) {
        Box::new(MultiGzDecoder::new(input))
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut decoder = zstd::Decoder::with_buffer(input)?;
        decoder.window_log_max(MAX_ZSTD_WINDOW)?;
        Box::new(decoder)
    } else if head.starts_with(b"\xfd7zXZ\0") {
        Box::new(XzReader::new_mem_limit(input, true, MAX_XZ_KIB))
    } else if head.starts_with(b"BZh") {
        return Err(io::Error::other("is compressed with bzip2, which is not read"));
    } else {
        Box::new(input)
    };
    Ok(Box::new(BufReader::with_capacity(64 << 10, Bounded { output, max, left: max })))
}

/// A source that fails when it has sent more than its bound.
struct Bounded<R> {
    output: R,
    max: u64,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.output.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            let max = self.max >> 20;
            io::Error::other(format!("is larger than {max} MiB when decompressed"))
        })?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_out_is_bounded() {
        let zeros = zstd::encode_all(&*vec![0; 3 << 20], 1).expect("compressed");
        let read = |max| {
            let mut bytes = Vec::new();
            let read = decompressed_up_to(max, &*zeros).expect("zstd").read_to_end(&mut bytes);
            read.map_err(|error| error.to_string())
        };
        assert_eq!(read(3 << 20), Ok(3 << 20));
        let error = read(2 << 20).expect_err("it is larger");
        assert_eq!(error, "is larger than 2 MiB when decompressed");
    }
}
