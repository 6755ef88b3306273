//! A second reading of HTTP/1.1 requests (RFC 9112), as plain as can be and with nothing of hyper's or httparse's in it.
//! Strict, it is a backend as picky as any: what it can't read is what a proxy must never send. Patient, it forgives what
//! hyper does, so that it has to read whatever hyper reads. `fuzz/` includes this file.

pub type Fields = Vec<(String, Vec<u8>)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// HTTP/1.1 in origin form, by the letter.
    Strict,
    /// Where the RFC lets a recipient be more patient, and hyper is; the last two are against the grammar and go no
    /// further (docs/security.md has them as findings):
    /// - LF alone ends a line of a head (RFC 9112, 2.2), and empty lines before a head are skipped
    /// - HTTP/1.0, and any number of Hosts, which others look at
    /// - what a target is made of is the target's affair
    /// - equal Content-Lengths are one (RFC 9110, 8.6), and chunked goes before them (RFC 9112, 6.3)
    /// - a chunk's extension is skipped whatever it is, as long as it is one line
    /// - trailers go on to the first empty line that ends with CR LF, be LF alone in them as it may
    Patient,
}

/// A request, as far as it was read.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    pub target: String,
    /// Names in lower case.
    pub fields: Fields,
    pub body: Vec<u8>,
    /// Of strict reading.
    pub trailers: Fields,
}

/// Why there is no whole request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The bytes end before it does.
    More,
    /// It is not in the grammar.
    Wrong(String),
}

type Read<T> = Result<T, Stop>;

impl Request {
    pub fn all(&self, name: &str) -> Vec<&[u8]> {
        self.fields.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_slice()).collect()
    }
}

/// The request at the beginning, if its head is there, and its length or why its body isn't whole.
pub fn begun(bytes: &[u8], rules: Rules) -> Read<(Request, Read<usize>)> {
    Reader { bytes, at: 0, rules }.request()
}

/// The whole request at the beginning and its length.
pub fn whole(bytes: &[u8], rules: Rules) -> Read<(Request, usize)> {
    let (request, length) = begun(bytes, rules)?;
    Ok((request, length?))
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
    fn request(&mut self) -> Read<(Request, Read<usize>)> {
        let patient = self.rules == Rules::Patient;
        let mut start = self.line(patient)?;
        while patient && start.is_empty() {
            start = self.line(patient)?;
        }
        let (method, target, minor) = start_line(start, self.rules)?;
        let fields = self.fields()?;
        let mut request = Request { method, target, fields, ..Request::default() };
        let read = match framing(&request, minor, self.rules)? {
            Framing::Length(length) => self.take(length, &mut request.body),
            Framing::Chunked => self.chunks(&mut request),
        };
        let length = read.map(|()| self.at);
        Ok((request, length))
    }

    /// A line without its end. A CR within it is in no part of the grammar.
    fn line(&mut self, lf_ends: bool) -> Read<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            let lone = rest.iter().position(|byte| *byte == b'\r').is_some_and(|cr| cr + 1 < rest.len());
            return Err(if lone { Stop::Wrong("CR without LF".to_owned()) } else { Stop::More });
        };
        self.at += end + 1;
        match rest[..end].strip_suffix(b"\r") {
            Some(line) => Ok(line),
            None if lf_ends => Ok(&rest[..end]),
            None => Err(Stop::Wrong("LF without CR".to_owned())),
        }
    }

    /// Fields up to and with the empty line.
    fn fields(&mut self) -> Read<Fields> {
        let mut fields = Fields::new();
        loop {
            match self.line(self.rules == Rules::Patient)? {
                b"" => return Ok(fields),
                line => fields.push(field(line)?),
            }
        }
    }

    /// Adds so many bytes to a body, or as many as there are.
    fn take(&mut self, length: usize, body: &mut Vec<u8>) -> Read<()> {
        let there = &self.bytes[self.at..];
        let taken = &there[..there.len().min(length)];
        body.extend_from_slice(taken);
        self.at += taken.len();
        if taken.len() < length { Err(Stop::More) } else { Ok(()) }
    }

    fn chunks(&mut self, request: &mut Request) -> Read<()> {
        loop {
            // Here LF alone ends no line.
            let size = chunk_size(self.line(false)?, self.rules)?;
            if size == 0 {
                request.trailers = self.trailers()?;
                return Ok(());
            }
            self.take(size, &mut request.body)?;
            match &self.bytes[self.at..] {
                [b'\r', b'\n', ..] => self.at += 2,
                [] | [b'\r'] => return Err(Stop::More),
                [..] => return Err(Stop::Wrong("no CRLF behind a chunk".to_owned())),
            }
        }
    }

    fn trailers(&mut self) -> Read<Fields> {
        if self.rules == Rules::Strict {
            return self.fields();
        }
        loop {
            let rest = &self.bytes[self.at..];
            let end = rest.iter().position(|byte| *byte == b'\r').ok_or(Stop::More)?;
            match rest.get(end + 1) {
                Some(b'\n') => self.at += end + 2,
                Some(_) => return Err(Stop::Wrong("CR without LF".to_owned())),
                None => return Err(Stop::More),
            }
            if end == 0 {
                return Ok(Fields::new());
            }
        }
    }
}

/// Method, target and minor version.
fn start_line(line: &[u8], rules: Rules) -> Read<(String, String, u8)> {
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, target, version] = words[..] else { return wrong("not three words", line) };
    let minor = match version {
        b"HTTP/1.1" => 1,
        b"HTTP/1.0" if rules == Rules::Patient => 0,
        _ => return wrong("no version", line),
    };
    let good = match rules {
        Rules::Strict => is_target(target),
        Rules::Patient => !target.is_empty() && !target.iter().any(u8::is_ascii_control),
    };
    if !is_token(method) || !good {
        return wrong("no method or no target", line);
    }
    Ok((lossy(method), lossy(target), minor))
}

/// Origin form (RFC 9112, 3.2.1). A query has what a browser may leave unescaped in one, all of ASCII but control bytes,
/// space, `"`, `#`, `<` and `>` (the URL standard's query percent-encode set), so that signatures over it hold.
fn is_target(target: &[u8]) -> bool {
    let mut parts = target.splitn(2, |byte| *byte == b'?');
    let (path, query) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let is_escape = |rest: &[u8]| rest.len() >= 2 && rest[..2].iter().all(u8::is_ascii_hexdigit);
    let of_path = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:@[]".contains(byte);
    let of_query = |byte: &u8| matches!(byte, b'!' | b'$'..=b';' | b'=' | b'?'..=b'~');
    path.starts_with(b"/")
        && path.split(|byte| *byte == b'%').skip(1).all(is_escape)
        && path.iter().all(of_path)
        && query.iter().all(of_query)
}

fn field(line: &[u8]) -> Read<(String, Vec<u8>)> {
    let Some(colon) = line.iter().position(|byte| *byte == b':') else { return wrong("no colon", line) };
    let (name, value) = (&line[..colon], trimmed(&line[colon + 1..]));
    if !is_token(name) {
        return wrong("no name", line);
    }
    if value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return wrong("a control byte", line);
    }
    Ok((lossy(name).to_ascii_lowercase(), value.to_vec()))
}

/// RFC 9112, 6.3, unless it could be read in two ways.
fn framing(request: &Request, minor: u8, rules: Rules) -> Read<Framing> {
    let (hosts, codings, lengths) =
        (request.all("host"), request.all("transfer-encoding"), request.all("content-length"));
    let patient = rules == Rules::Patient;
    if !patient && hosts.len() != 1 {
        return Err(Stop::Wrong(format!("{} Host fields", hosts.len())));
    }
    let chunked = |coding: &[u8]| coding == b"chunked" || patient && coding.eq_ignore_ascii_case(b"chunked");
    match (&codings[..], &lengths[..]) {
        ([], []) => Ok(Framing::Length(0)),
        ([], [length, others @ ..]) if patient || others.is_empty() => {
            let length = number(length, rules)?;
            let same = others.iter().all(|other| number(other, rules) == Ok(length));
            if same { Ok(Framing::Length(length)) } else { Err(Stop::Wrong(format!("lengths {lengths:?}"))) }
        }
        ([coding], others) if minor == 1 && chunked(coding) && (patient || others.is_empty()) => Ok(Framing::Chunked),
        other => Err(Stop::Wrong(format!("framing to be read in two ways: {other:?}"))),
    }
}

fn number(value: &[u8], rules: Rules) -> Read<usize> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let plain = rules == Rules::Patient || value == b"0" || !value.starts_with(b"0");
    match lossy(value).parse() {
        Ok(number) if digits && plain => Ok(number),
        Ok(_) | Err(_) => wrong("a length", value),
    }
}

/// The size at the beginning of a chunk.
fn chunk_size(line: &[u8], rules: Rules) -> Read<usize> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, rest) = line.split_at(digits);
    let good = match rules {
        Rules::Strict => digits < 16 && rest.is_empty(),
        Rules::Patient => matches!(trimmed(rest), [] | [b';', ..]),
    };
    match usize::from_str_radix(&lossy(size), 16) {
        Ok(size) if good => Ok(size),
        Ok(_) | Err(_) => wrong("a chunk's size", line),
    }
}

fn is_token(bytes: &[u8]) -> bool {
    let of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(of_token)
}

/// Without the spaces and tabs around it, which are no part of a value (RFC 9110, 5.5).
fn trimmed(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn wrong<T>(what: &str, bytes: &[u8]) -> Read<T> {
    Err(Stop::Wrong(format!("{what} in {:?}", lossy(bytes))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "POST /a?b HTTP/1.1\r\nhost: a\r\n";
    const CHUNKED: &str = "transfer-encoding: chunked\r\n\r\n";

    #[test]
    fn nothing_is_forgiven() {
        let read = |text: &str| whole(text.as_bytes(), Rules::Strict).map(|(request, length)| (request.body, length));
        let chunked = format!("{HEAD}{CHUNKED}");
        let good = format!("{chunked}5\r\nhello\r\n0\r\nx: y\r\n\r\n");
        assert_eq!(read(&good), Ok((b"hello".to_vec(), good.len())));
        for end in 0..good.len() {
            assert_eq!(read(&good[..end]), Err(Stop::More), "{end}");
        }
        let lengths = format!("{HEAD}content-length: 5\r\n");
        for bad in [
            "GET / HTTP/1.0\r\nhost: a\r\n\r\n".to_owned(),
            "GET  / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
            "GET http://a/ HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
            "GET /%z0 HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
            "GET /{} HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
            "GET /?\" HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
            "GET /?< HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
            "GET /?# HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
            "GET /?\u{e9} HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\nhost: a\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\rhost".to_owned(),
            "GET / HTTP/1.1\r\n\r\n".to_owned(),
            "\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
            format!("{HEAD}host: a\r\n\r\n"),
            format!("{HEAD}x : y\r\n\r\n"),
            format!("{HEAD} x: y\r\n\r\n"),
            format!("{HEAD}x: \0\r\n\r\n"),
            format!("{HEAD}x: y\rz\r\n\r\n"),
            format!("{HEAD}content-length: +5\r\n\r\n"),
            format!("{HEAD}content-length: 05\r\n\r\n"),
            format!("{lengths}content-length: 5\r\n\r\nhello"),
            format!("{lengths}{CHUNKED}0\r\n\r\n"),
            format!("{HEAD}transfer-encoding: gzip, chunked\r\n\r\n"),
            format!("{HEAD}transfer-encoding: Chunked\r\n\r\n0\r\n\r\n"),
            format!("{chunked}5 \r\nhello\r\n"),
            format!("{chunked}5;a\r\nhello\r\n"),
            format!("{chunked}5\r\nhelloXX"),
            format!("{chunked}0\r\nx: y\n\r\n"),
        ] {
            assert!(matches!(read(&bad), Err(Stop::Wrong(_))), "{bad:?}: {:?}", read(&bad));
        }
    }

    #[test]
    fn a_query_has_what_browsers_leave_in_one() {
        let target = "/a?!$%&'()*+,-./09:;=?@AZ[\\]^_`az{|}~%zz";
        let (request, _) =
            whole(format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes(), Rules::Strict).expect("a request");
        assert_eq!(request.target, target);
    }

    #[test]
    fn the_patient_forgive_what_hyper_does() {
        let lengths = format!("{HEAD}content-length: 5\r\n");
        for good in [
            "\r\n\nGET http://a/{\u{e9}} HTTP/1.0\nx: y\n\n".to_owned(),
            format!("{lengths}content-length: 05\r\n\r\nhello"),
            format!("{lengths}{CHUNKED}0\r\n\r\n"),
            format!("{HEAD}Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n"),
            format!("{HEAD}{CHUNKED}5 ; \0\r\nhello\r\n0\r\nx: y\n\nz\r\n\r\n"),
        ] {
            let length = whole(good.as_bytes(), Rules::Patient).map(|(_, length)| length);
            assert_eq!(length, Ok(good.len()), "{good:?}");
        }
        for bad in [
            format!("{HEAD}content-length: 5\r\ncontent-length: 6\r\n\r\nhello!"),
            format!("{HEAD}{CHUNKED}5\nhello\r\n0\r\n\r\n"),
            format!("{HEAD}{CHUNKED}5 5\r\nhello\r\n0\r\n\r\n"),
            "GET / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        ] {
            assert!(matches!(whole(bad.as_bytes(), Rules::Patient), Err(Stop::Wrong(_))), "{bad:?}");
        }
    }
}
