//! A second reading of HTTP/1.1 requests (RFC 9112), as plain as can be and with nothing of hyper's or httparse's in it:
//! whatever is not in the grammar ends the reading. `Rules` has the few places where the RFC lets a recipient be more
//! patient and hyper is; what goes upstream is read without any of them.

/// Where the reader may be patient.
#[derive(Clone, Copy)]
pub struct Rules {
    /// LF alone ends a line of a head (RFC 9112, 2.2), and empty lines before a head are skipped.
    pub bare_lf: bool,
    /// Equal Content-Lengths are one (RFC 9110, 8.6), and chunked goes before them (RFC 9112, 6.3).
    pub lengths: bool,
    /// Bytes beyond ASCII, a fragment and the like in a target are the target's affair.
    pub any_target: bool,
    /// A chunk's extension is skipped whatever it is, as long as it is one line: none goes upstream.
    pub any_extension: bool,
    /// Trailers go on to the first empty line that ends with CR LF, be LF alone in them as it may: hyper's reading, and
    /// against the grammar. docs/security.md has it as a finding.
    pub any_trailer: bool,
}

impl Rules {
    pub const PATIENT: Self =
        Self { bare_lf: true, lengths: true, any_target: true, any_extension: true, any_trailer: true };
    pub const STRICT: Self =
        Self { bare_lf: false, lengths: false, any_target: false, any_extension: false, any_trailer: false };
}

#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    pub method: Vec<u8>,
    pub target: Vec<u8>,
    pub minor: u8,
    /// Names in lower case.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// As much as could be read.
    pub body: Vec<u8>,
    pub complete: bool,
    /// Where the message ends.
    pub end: usize,
}

impl Message {
    pub fn all(&self, name: &str) -> Vec<&[u8]> {
        let same = |(field, _): &&(Vec<u8>, Vec<u8>)| field == name.as_bytes();
        self.fields.iter().filter(same).map(|(_, value)| &value[..]).collect()
    }
}

/// All messages, until one is not complete or the bytes are none.
pub fn read(bytes: &[u8], rules: Rules) -> Vec<Message> {
    let mut reader = Reader { bytes, at: 0, rules };
    let mut messages = Vec::new();
    while let Some(message) = reader.message() {
        let complete = message.complete;
        messages.push(message);
        if !complete {
            break;
        }
    }
    messages
}

enum Framing {
    Length(usize),
    Chunked,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    rules: Rules,
}

impl<'a> Reader<'a> {
    /// `None`: there is no head, or it is not in the grammar.
    fn message(&mut self) -> Option<Message> {
        while self.rules.bare_lf && matches!(self.bytes.get(self.at), Some(b'\n' | b'\r')) {
            self.line().filter(|line| line.is_empty())?;
        }
        let (method, target, minor) = self.start_line()?;
        let fields = self.fields()?;
        let framing = framing(&fields, minor, self.rules)?;
        let mut body = Vec::new();
        let complete = match framing {
            Framing::Length(length) => {
                let there = &self.bytes[self.at..];
                body.extend_from_slice(&there[..there.len().min(length)]);
                self.at += body.len();
                body.len() == length
            }
            Framing::Chunked => self.chunks(&mut body).is_some(),
        };
        Some(Message { method, target, minor, fields, body, complete, end: self.at })
    }

    /// A line of a head, without its end.
    fn line(&mut self) -> Option<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        self.at += end + 1;
        match rest[..end].strip_suffix(b"\r") {
            Some(line) => Some(line),
            None => self.rules.bare_lf.then_some(&rest[..end]),
        }
    }

    fn start_line(&mut self) -> Option<(Vec<u8>, Vec<u8>, u8)> {
        let line = self.line()?;
        let mut words = line.split(|byte| *byte == b' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        let minor = match version {
            b"HTTP/1.1" => 1,
            b"HTTP/1.0" => 0,
            _ => return None,
        };
        let target_byte = |byte: &u8| match *byte {
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | b'#' => self.rules.any_target,
            0x21..=0x7e => true,
            0x80.. => self.rules.any_target,
            _ => false,
        };
        let good = words.next().is_none()
            && !method.is_empty()
            && method.iter().all(is_token)
            && !target.is_empty()
            && target.iter().all(target_byte);
        good.then(|| (method.to_vec(), target.to_vec(), minor))
    }

    /// Fields up to and with the empty line.
    fn fields(&mut self) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Some(fields);
            }
            let colon = line.iter().position(|byte| *byte == b':')?;
            let (name, value) = (&line[..colon], trimmed(&line[colon + 1..]));
            let value_byte = |byte: &u8| matches!(*byte, b'\t' | b' '..=b'~' | 0x80..);
            if name.is_empty() || !name.iter().all(is_token) || !value.iter().all(value_byte) {
                return None;
            }
            fields.push((name.to_ascii_lowercase(), value.to_vec()));
        }
    }

    fn trailers(&mut self) -> Option<()> {
        if !self.rules.any_trailer {
            return self.fields().map(drop);
        }
        loop {
            let rest = &self.bytes[self.at..];
            let end = rest.iter().position(|byte| *byte == b'\r')?;
            if rest.get(end + 1) != Some(&b'\n') {
                return None;
            }
            self.at += end + 2;
            if end == 0 {
                return Some(());
            }
        }
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> Option<()> {
        // In chunks no line ends with LF alone.
        let rules = self.rules;
        self.rules.bare_lf = false;
        let read = self.chunks_of(body);
        self.rules = rules;
        read
    }

    fn chunks_of(&mut self, body: &mut Vec<u8>) -> Option<()> {
        loop {
            let line = self.line()?;
            let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            if digits == 0 {
                return None;
            }
            let extension = trimmed(&line[digits..]);
            let plain = |byte: &u8| matches!(*byte, b'\t' | b' '..=b'~' | 0x80..);
            if !(extension.is_empty() || extension[0] == b';')
                || !(self.rules.any_extension || extension.iter().all(plain))
            {
                return None;
            }
            let size = std::str::from_utf8(&line[..digits]).ok()?;
            let size = usize::from_str_radix(size, 16).ok()?;
            if size == 0 {
                return self.trailers();
            }
            let there = &self.bytes[self.at..];
            let chunk = &there[..there.len().min(size)];
            body.extend_from_slice(chunk);
            self.at += chunk.len();
            if chunk.len() < size || !self.bytes[self.at..].starts_with(b"\r\n") {
                return None;
            }
            self.at += 2;
        }
    }
}

/// RFC 9112, 6.3. `None`: it could be read in two ways.
fn framing(fields: &[(Vec<u8>, Vec<u8>)], minor: u8, rules: Rules) -> Option<Framing> {
    let all = |name: &'static [u8]| fields.iter().filter(move |field| field.0 == name).map(|field| &field.1[..]);
    let mut codings = all(b"transfer-encoding");
    let mut lengths = all(b"content-length");
    if let Some(coding) = codings.next() {
        let alone = codings.next().is_none() && (rules.lengths || lengths.next().is_none());
        return (minor == 1 && alone && coding.eq_ignore_ascii_case(b"chunked")).then_some(Framing::Chunked);
    }
    let Some(first) = lengths.next() else { return Some(Framing::Length(0)) };
    let number = !first.is_empty() && first.iter().all(u8::is_ascii_digit);
    let alone = if rules.lengths { lengths.all(|other| other == first) } else { lengths.next().is_none() };
    let length = std::str::from_utf8(first).ok().and_then(|text| text.parse().ok());
    length.filter(|_| number && alone).map(Framing::Length)
}

/// Without the spaces and tabs around it, which are no part of a value (RFC 9110, 5.5).
fn trimmed(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}
