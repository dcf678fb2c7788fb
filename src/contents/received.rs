//! Bytes that are read on another thread while they are received.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

/// Number of parts that wait to be read.
const WAITING_PARTS: usize = 1;

/// The parts of a file as they are received. Reading blocks: it must not run on a thread of the
/// runtime.
pub(crate) struct ReceivedParts {
    receiver: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl ReceivedParts {
    /// Returns where to send the parts. The file ends when that is dropped.
    pub(crate) fn channel() -> (mpsc::Sender<Bytes>, Self) {
        let (sender, receiver) = mpsc::channel(WAITING_PARTS);
        (sender, Self { receiver, current: Bytes::new() })
    }
}

impl Read for ReceivedParts {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(part) => self.current = part,
                None => return Ok(0),
            }
        }
        (&mut self.current).reader().read(buffer)
    }
}
