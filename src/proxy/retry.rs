//! One more try for a request that an endpoint took and never answered. hyper consumes a request when it sends it,
//! so its head is written down before: a copy of some hundred bytes into a buffer that the worker uses again, where
//! a clone of the fields would count references up and down for each of them. Only requests without a body are
//! kept, and those whose body was read whole; any other is passed on as it comes, and nobody has it twice.

use std::cell::RefCell;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Request, Uri};

use super::send::SendError;
use crate::upstream::RequestBody;

/// Buffers that wait to be used again, and the largest of them: 1 MiB a worker at the most.
const BUFFERS_MAX: usize = 256;
const BUFFER_BYTES_MAX: usize = 4096;
/// A new buffer; most heads fit.
const BUFFER_BYTES: usize = 1024;
/// Before each name and value: how long they are.
const LENGTHS: usize = 8;

/// A worker's buffers.
#[derive(Debug, Default)]
pub struct Buffers(RefCell<Vec<Vec<u8>>>);

/// A request's head, written down.
#[derive(Debug)]
pub struct Kept {
    method: Method,
    /// The target, and the name and value of each field. The buffer is longer than what is written in it: asking
    /// for room costs more than the copy.
    buffer: Vec<u8>,
    end: usize,
    /// Empty, or one that was read whole.
    body: RequestBody,
}

impl Buffers {
    /// Writes the head of a request down, as an HTTP/1.1 endpoint gets it; `None` if it has a body that streams.
    pub fn keep(&self, request: &Request<RequestBody>) -> Option<Kept> {
        let body = request.body().again()?;
        let target = request.uri().path_and_query()?;
        let buffer = self.0.borrow_mut().pop().unwrap_or_else(|| vec![0; BUFFER_BYTES]);
        let mut kept = Kept { method: request.method().clone(), buffer, end: 0, body };
        kept.write(target.as_str().as_bytes(), b"");
        for (name, value) in request.headers() {
            kept.write(name.as_str().as_bytes(), value.as_bytes());
        }
        Some(kept)
    }

    /// Takes back what is not needed any more.
    pub fn put_back(&self, kept: Kept) {
        let mut buffers = self.0.borrow_mut();
        if buffers.len() < BUFFERS_MAX && kept.buffer.len() <= BUFFER_BYTES_MAX {
            buffers.push(kept.buffer);
        }
    }
}

impl Kept {
    fn write(&mut self, name: &[u8], value: &[u8]) {
        let end = self.end + LENGTHS + name.len() + value.len();
        if self.buffer.len() < end {
            // What is too large to be used again takes little more than it needs.
            let size = if end > BUFFER_BYTES_MAX { end + end / 8 } else { end.next_power_of_two() };
            self.buffer.reserve_exact(size - self.buffer.len());
            self.buffer.resize(size, 0);
        }
        let (lengths, rest) = self.buffer[self.end..end].split_at_mut(LENGTHS);
        lengths.copy_from_slice(&((name.len() as u64) << 32 | value.len() as u64).to_le_bytes());
        let (to_name, to_value) = rest.split_at_mut(name.len());
        to_name.copy_from_slice(name);
        to_value.copy_from_slice(value);
        self.end = end;
    }

    /// Whether the request may be sent once more: always if the endpoint says that it did nothing with it, and if
    /// the connection broke before the answer's head, then by the method (RFC 9110, 9.2.2). A time limit is none of
    /// these: whoever is slow with one request need not get a second.
    pub fn may_follow(&self, error: &SendError) -> bool {
        match error {
            SendError::Refused => true,
            SendError::Broken => self.is_idempotent(),
            SendError::Unsent | SendError::Reset(_) | SendError::Invalid | SendError::TimedOut => false,
        }
    }

    /// Whether the method does no more the second time (RFC 9110, 9.2.2).
    pub fn is_idempotent(&self) -> bool {
        is_idempotent(&self.method)
    }

    /// The request as it was before it was sent.
    pub fn restore(self) -> Option<Request<RequestBody>> {
        let mut request = Request::new(self.body);
        *request.method_mut() = self.method;
        let mut rest = &self.buffer[..self.end];
        let (target, _) = read(&mut rest)?;
        *request.uri_mut() = Uri::from(PathAndQuery::try_from(target).ok()?);
        while !rest.is_empty() {
            let (name, value) = read(&mut rest)?;
            let (name, value) = (HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
            request.headers_mut().append(name, value);
        }
        Some(request)
    }
}

fn read<'a>(bytes: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (lengths, rest) = bytes.split_first_chunk::<LENGTHS>()?;
    let lengths = u64::from_le_bytes(*lengths);
    let length = |length: u64| usize::try_from(length).ok();
    let (name, rest) = rest.split_at_checked(length(lengths >> 32)?)?;
    let (value, rest) = rest.split_at_checked(length(lengths & u64::from(u32::MAX))?)?;
    *bytes = rest;
    Some((name, value))
}

fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_comes_back_as_it_was() {
        let buffers = Buffers::default();
        let request = Request::builder()
            .method("PURGE")
            .uri("/a%20b?c=d&e")
            .header("host", "a.test")
            .header("x-two", "one")
            .header("x-two", "")
            .header("cookie", HeaderValue::from_bytes(b"\xff\t=").unwrap())
            .body(RequestBody::Empty)
            .unwrap();
        for _ in 0..2 {
            let kept = buffers.keep(&request).unwrap();
            assert!(!is_idempotent(&kept.method));
            let copy = Kept {
                method: kept.method.clone(),
                buffer: kept.buffer.clone(),
                end: kept.end,
                body: RequestBody::Empty,
            };
            let again = copy.restore().unwrap();
            assert_eq!((again.method(), again.uri()), (request.method(), request.uri()));
            assert_eq!(again.headers(), request.headers());
            buffers.put_back(kept);
            assert_eq!(buffers.0.borrow().len(), 1, "a buffer is used again");
        }
    }

    #[test]
    fn buffers_grow_with_the_head_and_are_bounded_in_number_and_size() {
        let buffers = Buffers::default();
        let value = "v".repeat(BUFFER_BYTES_MAX);
        let large = Request::builder().uri("/").header("x-a", &value).body(RequestBody::Empty).unwrap();
        let kept = buffers.keep(&large).unwrap();
        buffers.put_back(kept);
        assert!(buffers.0.borrow().is_empty());
        assert_eq!(buffers.keep(&large).unwrap().restore().unwrap().headers()["x-a"], value);
        for _ in 0..=BUFFERS_MAX {
            buffers.put_back(Kept { method: Method::GET, buffer: Vec::new(), end: 0, body: RequestBody::Empty });
        }
        assert_eq!(buffers.0.borrow().len(), BUFFERS_MAX);
    }
}
