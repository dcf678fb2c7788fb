//! Decompression of layers with bounds on what comes out.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

/// Maximum ratio of what comes out beyond the free bytes to what went in. Deflate reaches 1032.
const MAX_RATIO: u64 = 1032;
/// Largest window that a zstd frame may ask for, as a power of two: 128 MiB.
const MAX_ZSTD_WINDOW: u32 = 27;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// The last three bytes of the magic number of a skippable zstd frame; the first is 0x50 to 0x5f.
const ZSTD_SKIPPABLE: &[u8] = &[0x2a, 0x4d, 0x18];
const BZIP2: &[u8] = b"BZh";
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z'];

/// What may come out of a layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct OutputBounds {
    /// Maximum number of bytes.
    pub(super) max_bytes: u64,
    /// Number of bytes whose ratio to what went in does not count.
    pub(super) free_bytes: u64,
}

/// A source that counts what has been read of it.
struct Counted<R> {
    inner: R,
    count: std::rc::Rc<std::cell::Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.set(self.count.get() + read as u64);
        Ok(read)
    }
}

/// The uncompressed bytes of a layer. An error ends it before it exceeds its bounds.
pub(super) struct Decompressed<'r> {
    inner: Box<dyn Read + 'r>,
    came_in: std::rc::Rc<std::cell::Cell<u64>>,
    came_out: u64,
    bounds: OutputBounds,
}

impl<'r> Decompressed<'r> {
    /// Begins to decompress a layer by what its first bytes are, whatever its media type says:
    /// gzip, zstd, or no compression.
    pub(super) fn new(layer: impl Read + 'r, bounds: OutputBounds) -> io::Result<Self> {
        let came_in = std::rc::Rc::default();
        let mut counted = Counted { inner: layer, count: std::rc::Rc::clone(&came_in) };
        let mut head = [0; 8];
        let length = fill(&mut counted, &mut head)?;
        let head: Vec<u8> = head.into_iter().take(length).collect();
        let compression = Compression::of(&head)?;
        let input = BufReader::new(Cursor::new(head).chain(counted));
        Ok(Self { inner: compression.open(input)?, came_in, came_out: 0, bounds })
    }

    /// Returns how many bytes have come out so far.
    pub(super) const fn came_out(&self) -> u64 {
        self.came_out
    }
}

impl Read for Decompressed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.came_out += read as u64;
        let OutputBounds { max_bytes, free_bytes } = self.bounds;
        if self.came_out > max_bytes {
            let max = max_bytes >> 20;
            return Err(io::Error::other(format!("is larger than {max} MiB when decompressed")));
        }
        if self.came_out.saturating_sub(free_bytes) / MAX_RATIO > self.came_in.get() {
            let problem = format!("decompresses to more than {MAX_RATIO} times its size");
            return Err(io::Error::other(problem));
        }
        Ok(read)
    }
}

enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    fn of(head: &[u8]) -> io::Result<Self> {
        let skippable = head.get(1..4) == Some(ZSTD_SKIPPABLE)
            && head.first().is_some_and(|first| (0x50..=0x5f).contains(first));
        if head.starts_with(BZIP2) || head.starts_with(XZ) {
            let problem = "is compressed with bzip2 or xz, which is not supported";
            return Err(io::Error::other(problem));
        }
        Ok(if head.starts_with(GZIP) {
            Self::Gzip
        } else if head.starts_with(ZSTD) || skippable {
            Self::Zstd
        } else {
            Self::None
        })
    }

    fn open<'r>(self, input: impl BufRead + 'r) -> io::Result<Box<dyn Read + 'r>> {
        Ok(match self {
            Self::None => Box::new(input),
            Self::Gzip => Box::new(MultiGzDecoder::new(input)),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(input)?;
                decoder.window_log_max(MAX_ZSTD_WINDOW)?;
                Box::new(decoder)
            }
        })
    }
}

/// Reads until the buffer is full or the source ends. Returns the number of bytes.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match source.read(rest)? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_out_is_bounded() {
        let zeros = zstd::encode_all(&*vec![0; 80 << 20], 1).expect("compressed");
        let problem = |max_bytes, free_bytes| {
            let bounds = OutputBounds { max_bytes, free_bytes };
            let mut read = Decompressed::new(&*zeros, bounds).expect("a layer");
            io::copy(&mut read, &mut io::sink()).map_err(|error| error.to_string())
        };
        assert_eq!(problem(1 << 30, 1 << 30), Ok(80 << 20));
        assert!(problem(1 << 30, 1 << 20).expect_err("a bomb").contains("times its size"));
        assert!(problem(1 << 20, 1 << 20).expect_err("a large layer").contains("1 MiB"));
    }
}
