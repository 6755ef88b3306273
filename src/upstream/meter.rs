//! What an HTTP/2 peer asks for and what it gives for it: its frames are counted by their heads as they pass
//! (RFC 9113, 4.1). Most kinds cost a point, resets and settings more; content and answers earn some, and so does
//! time. Who owes more than the limit has flooded, and is told to go. h2 bounds what piles up in memory; this is for
//! frames that only cost work. A peer that sends much at a time is also made to wait until others had their turn.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::metrics::{Side, WorkerCells};

/// What a peer may owe: about as much work as a TLS handshake.
const POINTS_MAX: i64 = 10_000;
/// What time earns, in points a second.
const POINTS_PER_SECOND: i64 = 1000;
/// What a frame with content or a head that we send earns: each may be answered by `WINDOW_UPDATE`, for the stream and
/// for the connection, and by a PING.
const EARNED: i64 = 10;
/// What changes every stream, or makes work of a request that nobody wants any more. An endpoint's reset is an answer.
const DEAR: i64 = 10;
const USUAL: i64 = 1;

/// A peer waits for its turn when it has sent so many bytes of header blocks, which take up to a hundred times their
/// size when they are decoded, so many frames with little content, of which h2 lets some 2,000 pile up unread, or so
/// many without any: each is work, and of those that are no flood there are few at a time.
const HEAD_BYTES_PER_TURN: u32 = 32 * 1024;
const SMALL_FRAMES_PER_TURN: u32 = 512;
const SMALL_BYTES: u32 = 256;
const EMPTY_FRAMES_PER_TURN: u32 = 32;
/// What is read at once of a peer whose last read brought so many of those, in bytes: some hundred of them.
const FLOOD_READ_BYTES: usize = 1024;

const PREFACE_BYTES: u32 = 24;
const HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A frame's head.
#[derive(Debug, Clone, Copy)]
struct Head {
    length: u32,
    kind: u8,
    stream: u32,
}

/// Finds the heads of frames in bytes that come in any pieces.
#[derive(Debug)]
struct Frames {
    head: [u8; HEAD_BYTES],
    /// How much of a head is here.
    begun: usize,
    /// Bytes until the next head begins.
    skip: u32,
}

/// Both directions of one connection.
#[derive(Debug)]
pub struct Meter {
    side: Side,
    received: Frames,
    sent: Frames,
    /// What the peer has left.
    points: i64,
    /// Up to when time has been paid for.
    paid: Instant,
    head_bytes: u32,
    small_frames: u32,
    empty_frames: u32,
    /// More of them than for one turn came in one read.
    floods: bool,
    /// The last stream of the peer's.
    stream: u32,
    cells: Arc<WorkerCells>,
}

impl Frames {
    fn behind(preface: bool) -> Self {
        Self { head: [0; HEAD_BYTES], begun: 0, skip: if preface { PREFACE_BYTES } else { 0 } }
    }

    /// The next head in these bytes, which are shortened by what was looked at.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Head> {
        let skipped = bytes.len().min(self.skip as usize);
        *bytes = &bytes[skipped..];
        self.skip -= u32::try_from(skipped).expect("no more than there was to skip");
        let taken = bytes.len().min(HEAD_BYTES - self.begun);
        self.head[self.begun..self.begun + taken].copy_from_slice(&bytes[..taken]);
        *bytes = &bytes[taken..];
        self.begun += taken;
        if self.begun < HEAD_BYTES {
            return None;
        }
        let [a, b, c, kind, _, stream @ ..] = self.head;
        let length = u32::from_be_bytes([0, a, b, c]);
        (self.begun, self.skip) = (0, length);
        Some(Head { length, kind, stream: u32::from_be_bytes(stream) & 0x7fff_ffff })
    }

    fn is_between(&self) -> bool {
        self.begun == 0 && self.skip == 0
    }
}

impl Meter {
    pub fn new(side: Side, cells: &Arc<WorkerCells>) -> Self {
        let client = side == Side::Client;
        Self {
            side,
            received: Frames::behind(client),
            sent: Frames::behind(!client),
            points: POINTS_MAX,
            paid: Instant::now(),
            head_bytes: 0,
            small_frames: 0,
            empty_frames: 0,
            floods: false,
            stream: 0,
            cells: cells.clone(),
        }
    }

    /// What came from the peer; an error if it has flooded.
    pub fn received(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let before = self.empty_frames;
        while let Some(head) = self.received.next(&mut bytes) {
            match head.kind {
                HEADERS | CONTINUATION => self.head_bytes += head.length,
                DATA if head.length >= SMALL_BYTES => {}
                DATA => self.small_frames += 1,
                _ => self.empty_frames += 1,
            }
            if head.kind == HEADERS {
                self.stream = self.stream.max(head.stream);
            }
            self.points -= self.cost(head);
        }
        self.floods = self.empty_frames - before >= EMPTY_FRAMES_PER_TURN;
        if self.points < 0 && !self.is_paid_by_time() {
            self.cells.floods[self.side as usize].add(1);
            return Err(io::Error::other("the peer sends more frames than it has use for"));
        }
        Ok(())
    }

    fn cost(&self, head: Head) -> i64 {
        match head.kind {
            // It is paid for by windows, and empty frames are counted by h2.
            DATA if head.length > 0 => 0,
            RST_STREAM if self.side == Side::Client => DEAR,
            SETTINGS => DEAR,
            _ => USUAL,
        }
    }

    /// What went to the peer.
    pub fn sent(&mut self, mut bytes: &[u8]) {
        while let Some(head) = self.sent.next(&mut bytes) {
            if matches!(head.kind, DATA | HEADERS) {
                self.points = (self.points + EARNED).min(POINTS_MAX);
            }
        }
    }

    /// Time is looked at only by who has nothing else left.
    fn is_paid_by_time(&mut self) -> bool {
        let now = Instant::now();
        let milliseconds = i64::try_from((now - self.paid).as_millis()).unwrap_or(i64::MAX);
        self.paid = now;
        self.points = self.points.saturating_add(milliseconds.saturating_mul(POINTS_PER_SECOND / 1000)).min(POINTS_MAX);
        self.points >= 0
    }

    /// Whether others come first now, once for each time.
    pub fn is_others_turn(&mut self) -> bool {
        let much = self.head_bytes >= HEAD_BYTES_PER_TURN
            || self.small_frames >= SMALL_FRAMES_PER_TURN
            || self.empty_frames >= EMPTY_FRAMES_PER_TURN;
        if much {
            (self.head_bytes, self.small_frames, self.empty_frames) = (0, 0, 0);
        }
        much
    }

    /// How much may be read at once.
    pub fn read_bytes_max(&self) -> usize {
        if self.floods { FLOOD_READ_BYTES } else { usize::MAX }
    }

    /// The frame that tells a peer why its connection ends, unless another one is half sent.
    pub fn go_away(&self) -> Option<[u8; 17]> {
        let mut frame = [0; 17];
        frame[..4].copy_from_slice(&[0, 0, 8, GOAWAY]);
        // An endpoint has begun no streams.
        let last = if self.side == Side::Client { self.stream } else { 0 };
        frame[9..13].copy_from_slice(&last.to_be_bytes());
        frame[13..].copy_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
        self.sent.is_between().then_some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, stream: u32, length: usize) -> Vec<u8> {
        let [_, a, b, c] = u32::try_from(length).unwrap().to_be_bytes();
        [&[a, b, c, kind, 0][..], &stream.to_be_bytes(), &vec![0xff; length]].concat()
    }

    fn meter(side: Side) -> Meter {
        let mut meter = Meter::new(side, &Arc::default());
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        match side {
            Side::Client => meter.received(preface).unwrap(),
            Side::Endpoint => meter.sent(preface),
        }
        meter
    }

    /// How many such frames are taken at once; `None` if there is no end.
    fn taken(meter: &mut Meter, frame: &[u8]) -> Option<usize> {
        (0..100_000).find(|_| meter.received(frame).is_err())
    }

    #[test]
    fn heads_are_found_in_pieces_of_any_size() {
        let bytes = [frame(DATA, 1, 300), frame(HEADERS, 3, 0), frame(PING, 0, 8), frame(0xfa, 5, 70_000)].concat();
        for step in [1, 2, 3, 8, 9, 10, 1000, bytes.len()] {
            let mut frames = Frames::behind(false);
            let mut heads = Vec::new();
            for mut piece in bytes.chunks(step) {
                while let Some(head) = frames.next(&mut piece) {
                    heads.push((head.kind, head.length, head.stream));
                }
                assert!(piece.is_empty());
            }
            assert_eq!(heads, [(DATA, 300, 1), (HEADERS, 0, 3), (PING, 8, 0), (0xfa, 70_000, 5)], "in steps of {step}");
            assert!(frames.is_between());
        }
    }

    #[test]
    fn floods_end_and_content_has_no_end() {
        let limit = usize::try_from(POINTS_MAX).unwrap();
        for (kind, length, side, cost) in [
            (PING, 8, Side::Client, 1),
            (WINDOW_UPDATE, 4, Side::Client, 1),
            (0xfa, 100, Side::Client, 1),
            (DATA, 0, Side::Client, 1),
            (SETTINGS, 0, Side::Client, 10),
            (RST_STREAM, 4, Side::Client, 10),
            (RST_STREAM, 4, Side::Endpoint, 1),
            (HEADERS, 10, Side::Endpoint, 1),
        ] {
            let taken = taken(&mut meter(side), &frame(kind, 1, length)).unwrap();
            // Time has paid for some.
            assert!((limit / cost..=limit / cost * 3 / 2).contains(&taken), "{taken} of {kind}");
        }
        assert_eq!(taken(&mut meter(Side::Client), &frame(DATA, 1, 5)), None);
    }

    #[test]
    fn two_window_updates_and_a_ping_for_each_frame_have_no_end() {
        let mut meter = meter(Side::Client);
        let answers = [frame(WINDOW_UPDATE, 0, 4), frame(WINDOW_UPDATE, 1, 4), frame(PING, 0, 8)].concat();
        for _ in 0..100_000 {
            meter.sent(&frame(DATA, 1, 10));
            meter.received(&answers).unwrap();
        }
        // Requests that are answered, and then reset.
        for stream in 0..100_000 {
            meter.received(&[frame(HEADERS, stream, 10), frame(RST_STREAM, stream, 4)].concat()).unwrap();
            meter.sent(&[frame(HEADERS, stream, 10), frame(DATA, stream, 10)].concat());
        }
    }

    #[test]
    fn much_at_a_time_waits_for_its_turn() {
        let mut meter = meter(Side::Client);
        meter.received(&frame(HEADERS, 1, 16_384)).unwrap();
        assert!(!meter.is_others_turn());
        meter.received(&frame(CONTINUATION, 1, 16_384)).unwrap();
        assert_eq!((meter.is_others_turn(), meter.is_others_turn()), (true, false));
        (0..SMALL_FRAMES_PER_TURN).for_each(|_| meter.received(&frame(DATA, 1, 5)).unwrap());
        assert!(meter.is_others_turn());
        (0..EMPTY_FRAMES_PER_TURN).for_each(|_| meter.received(&frame(PING, 0, 8)).unwrap());
        assert!(meter.is_others_turn());
        assert_eq!(meter.read_bytes_max(), usize::MAX, "one by one");
        meter.received(&frame(PING, 0, 8).repeat(EMPTY_FRAMES_PER_TURN as usize)).unwrap();
        assert_eq!((meter.is_others_turn(), meter.read_bytes_max()), (true, FLOOD_READ_BYTES));
        meter.received(&frame(DATA, 1, 1000)).unwrap();
        assert_eq!(meter.read_bytes_max(), usize::MAX);
        (0..SMALL_FRAMES_PER_TURN).for_each(|_| meter.received(&frame(DATA, 1, 16_384)).unwrap());
        assert!(!meter.is_others_turn());
    }

    #[test]
    fn the_last_word_names_the_last_stream_and_stands_between_frames() {
        let mut meter = meter(Side::Client);
        meter.received(&[frame(HEADERS, 7, 3), frame(PING, 0, 8)].concat()).unwrap();
        let last = meter.go_away().unwrap();
        assert_eq!(last[..9], [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0]);
        assert_eq!(last[9..], [0, 0, 0, 7, 0, 0, 0, 11]);
        meter.sent(&frame(DATA, 7, 100)[..50]);
        assert!(meter.go_away().is_none());
    }
}
