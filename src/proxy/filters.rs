//! A route's filters at work: on the request when it is decided, and on whatever answer it gets in the end. Routes
//! without filters never come here.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, HeaderValue};

use super::body::Exchange;
use super::handle::{Facts, Refusal};
use super::headers::{client_address, is_https};
use crate::filter::{Asked, Filter, Login, Request, Verdict};
use crate::upstream::Counts;

/// What filters make of a request that passes.
#[derive(Default)]
pub(super) struct Passed {
    /// `Host` for the endpoint instead of the client's.
    pub upstream_host: Option<HeaderValue>,
    /// Who has to be somebody first.
    pub login: Option<Box<Login>>,
}

/// What the answer's filters need, whoever answers.
pub struct Applied {
    filters: Arc<[Filter]>,
    asked: Asked,
}

/// Runs the filters over a request: its host's name, its host as the client wrote it, and its path in normal form if
/// that isn't the target's.
pub(super) fn apply(
    (filters, counts): (&Arc<[Filter]>, Option<&Arc<Counts>>),
    facts: &Facts,
    head: &mut Parts,
    (host, authority, path): (&str, &HeaderValue, Option<&str>),
    applied: &mut Option<Box<Applied>>,
    exchange: &mut Exchange,
) -> Result<Passed, Refusal> {
    // Before anything can end the request: its answer has the route's fields too.
    *applied = Some(Box::new(Applied { filters: filters.clone(), asked: Asked::of(facts.secure, &head.headers) }));
    let target = head.uri.path_and_query().cloned();
    let path = path.unwrap_or_else(|| target.as_ref().map_or("/", |target| target.path()));
    let mut request = Request {
        https: is_https(&head.headers, facts.peer, facts.secure),
        client: client_address(&head.headers, facts.peer, facts.trusted_proxies),
        head,
        host,
        authority,
        path,
        upstream_host: None,
    };
    let mut login = None;
    for filter in filters.iter() {
        match filter.request(&mut request) {
            Verdict::Pass => {}
            Verdict::Answer(answer) => return Err(Refusal::Answer(answer)),
            Verdict::Count(limits) => {
                let counts = counts.expect("a route with limits has counts");
                let admitted = counts.admit(limits, request.client);
                exchange.permit = admitted.map_err(|excess| Refusal::Answer(Box::new(limits.answer(excess))))?;
            }
            Verdict::Check(found) => login = Some(found),
        }
    }
    Ok(Passed { upstream_host: request.upstream_host, login })
}

impl Applied {
    pub fn response(&self, headers: &mut HeaderMap) {
        for filter in self.filters.iter() {
            filter.response(&self.asked, headers);
        }
    }
}
