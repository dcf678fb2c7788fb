//! Packets: how Git's protocol divides a stream.

/// A packet of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Packet {
    /// Bytes, at most 65516.
    Data(Vec<u8>),
    /// The end of a message.
    Flush,
    /// The end of a section.
    Delimiter,
    /// The end of a response.
    ResponseEnd,
}

/// A stream that is none of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BrokenPacket;

/// Splits a stream into packets, as its bytes arrive.
#[derive(Default)]
pub(super) struct PacketBuffer {
    bytes: Vec<u8>,
    start: usize,
}

impl PacketBuffer {
    pub fn push(&mut self, bytes: &[u8]) {
        // What is parsed already is dropped.
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the next packet, or `None` if it has not arrived.
    pub fn next(&mut self) -> Result<Option<Packet>, BrokenPacket> {
        let rest = self.bytes.get(self.start..).unwrap_or_default();
        let Some((head, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let is_number = head.iter().all(u8::is_ascii_hexdigit);
        let head = std::str::from_utf8(head).ok().filter(|_| is_number).ok_or(BrokenPacket)?;
        let length = usize::from_str_radix(head, 16).map_err(|_| BrokenPacket)?;
        let (packet, length) = match length {
            0 => (Packet::Flush, 4),
            1 => (Packet::Delimiter, 4),
            2 => (Packet::ResponseEnd, 4),
            3 => return Err(BrokenPacket),
            length => match rest.get(..length - 4) {
                None => return Ok(None),
                Some(data) => (Packet::Data(data.to_vec()), length),
            },
        };
        self.start += length;
        Ok(Some(packet))
    }
}

/// Adds a packet with a line to a request.
pub(super) fn add_line(request: &mut Vec<u8>, line: &str) {
    request.extend_from_slice(format!("{:04x}{line}\n", line.len() + 5).as_bytes());
}

/// Ends a section of a request.
pub(super) fn add_delimiter(request: &mut Vec<u8>) {
    request.extend_from_slice(b"0001");
}

/// Ends a request.
pub(super) fn add_flush(request: &mut Vec<u8>) {
    request.extend_from_slice(b"0000");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_arrive_in_any_pieces() {
        let mut request = Vec::new();
        add_line(&mut request, "command=fetch");
        add_delimiter(&mut request);
        add_line(&mut request, "done");
        add_flush(&mut request);
        let mut buffer = PacketBuffer::default();
        let mut packets = Vec::new();
        for byte in request {
            buffer.push(&[byte]);
            packets.extend(buffer.next().expect("packets"));
        }
        let data = |text: &str| Packet::Data(text.into());
        assert_eq!(
            packets,
            [data("command=fetch\n"), Packet::Delimiter, data("done\n"), Packet::Flush]
        );
        for broken in [b"0003", b"+123", b"<htm"] {
            let mut buffer = PacketBuffer::default();
            buffer.push(broken);
            assert_eq!(buffer.next(), Err(BrokenPacket), "{broken:?}");
        }
    }
}
