//! Where one WebSocket frame ends and the next begins (RFC 6455, 5.2), read off the bytes as they go by. A frame of
//! our own can only stand between two, also in the middle of a message (5.4). Nothing is kept but the place.

/// Longest head of a frame: two bytes, eight of length and four of mask.
const HEAD_BYTES_MAX: usize = 14;
const OPCODE_CLOSE: u8 = 8;

/// How far one direction of a WebSocket is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Frames {
    head: [u8; HEAD_BYTES_MAX],
    /// Bytes of the head that were seen.
    seen: u8,
    /// Bytes of the frame's payload that are still to come.
    left: u64,
    closed: bool,
}

impl Frames {
    /// Whether a frame may be put in here.
    pub fn is_between(&self) -> bool {
        self.seen == 0 && self.left == 0
    }

    /// The sender has said that nothing follows.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes note of these bytes.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.step(bytes)..];
        }
    }

    /// How many of these bytes belong to the frame that was begun.
    pub fn rest(mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && !self.is_between() {
            at += self.step(&bytes[at..]);
        }
        at
    }

    /// Goes on by a byte of a head, or as far as the payload goes; returns by how many.
    fn step(&mut self, bytes: &[u8]) -> usize {
        if self.left > 0 {
            let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            self.left -= count as u64;
            return count;
        }
        self.head[usize::from(self.seen)] = bytes[0];
        self.seen += 1;
        if let Some(length) = self.payload_bytes() {
            self.closed |= self.head[0] & 0x0f == OPCODE_CLOSE;
            (self.seen, self.left) = (0, length);
        }
        1
    }

    /// What the head says of the payload's length, once it is whole.
    fn payload_bytes(&self) -> Option<u64> {
        let second = self.head[1];
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        if usize::from(self.seen) < 2 + extended + mask {
            return None;
        }
        let length = self.head[2..2 + extended].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        Some(if extended == 0 { u64::from(second & 0x7f) } else { length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of zeros, with its length in the shortest form.
    fn frame(opcode: u8, length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut bytes = vec![0x80 | opcode];
        match length {
            0..126 => bytes.push(mask | u8::try_from(length).unwrap()),
            126..65_536 => {
                bytes.push(mask | 0x7e);
                bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(mask | 0x7f);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(vec![0; length + if masked { 4 } else { 0 }]);
        bytes
    }

    #[test]
    fn borders_are_found_however_the_bytes_are_cut() {
        let lengths = [0, 1, 125, 126, 127, 65_535, 65_536, 70_000, 2];
        let frames: Vec<Vec<u8>> =
            lengths.iter().enumerate().map(|(i, length)| frame(2, *length, i % 2 == 1)).collect();
        let ends: Vec<usize> = frames
            .iter()
            .scan(0, |end, frame| {
                *end += frame.len();
                Some(*end)
            })
            .collect();
        let bytes = frames.concat();
        for size in [1, 3, 1000, 8192, bytes.len()] {
            let (mut at, mut state) = (0, Frames::default());
            for piece in bytes.chunks(size) {
                let next = ends.iter().find(|end| **end > at).copied();
                let expected = if state.is_between() { 0 } else { next.unwrap() - at };
                assert_eq!(state.rest(piece), expected.min(piece.len()), "at {at} by {size}");
                state.pass(piece);
                at += piece.len();
                assert_eq!(state.is_between(), ends.contains(&at), "at {at} by {size}");
            }
            assert!(!state.is_closed());
        }
    }

    #[test]
    fn a_close_frame_is_known_by_its_opcode_alone() {
        let mut state = Frames::default();
        state.pass(&frame(1, 8, false));
        assert!(!state.is_closed());
        state.pass(&frame(8, 2, false));
        assert!(state.is_closed() && state.is_between());
    }

    #[test]
    fn a_length_that_nobody_could_send_is_no_trouble() {
        let mut state = Frames::default();
        state.pass(&[0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]);
        assert!(!state.is_between());
        assert_eq!(state.rest(&[0; 100]), 100);
    }
}
